//! The page's HTTP server.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::page;

/// Connections at a time; the next ones queue in the kernel.
const MAX_CONNECTIONS: usize = 16;
/// A request line and headers take no longer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection lasts no longer, its one answer included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Whoever asks within this time of another gets the same page: to make one costs the kernel a look
/// at every flow.
const FRESH: Duration = Duration::from_secs(1);
/// Before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes the page.
pub type Source = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// The page's port, bound and not served yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    addr: SocketAddr,
}

/// What connections share.
struct Shared {
    source: Source,
    /// The last page, and when it was made. Held while one is made: the others wait for it.
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Listener {
    /// Binds to that address and no other.
    ///
    /// # Errors
    /// Those of bind(2).
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }
}

/// Serves `GET /metrics` until `stop`.
pub async fn serve(listener: Listener, source: Source, stop: CancellationToken) {
    info!(addr = %listener.addr, "metrics are served");
    let shared = Arc::new(Shared {
        source,
        last: Mutex::new(None),
    });
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with whatever is still open.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            (stream, permit) = accept(&listener.listener, &room) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    connection(stream, shared).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                warn!(%error, "cannot accept on the metrics port");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let connection = pin!(connection);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection for metrics broke off"),
        Err(_) => debug!("a connection for metrics took too long"),
    }
}

async fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return refusal(
            StatusCode::NOT_FOUND,
            "there is /metrics, and nothing else\n",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "metrics can be read, with GET\n",
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    typed(
        Response::new(Full::new(shared.page().await)),
        page::CONTENT_TYPE,
    )
}

impl Shared {
    async fn page(&self) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some((made, page)) = &*last
            && made.elapsed() < FRESH
        {
            return page.clone();
        }
        let page = Bytes::from((self.source)().await);
        *last = Some((Instant::now(), page.clone()));
        page
    }
}

fn refusal(status: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(why));
    *response.status_mut() = status;
    typed(response, "text/plain; charset=utf-8")
}

fn typed(mut response: Response<Full<Bytes>>, kind: &'static str) -> Response<Full<Bytes>> {
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves a page with how often it was made.
    async fn served() -> (SocketAddr, CancellationToken) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let (addr, stop) = (listener.addr, CancellationToken::new());
        let made = Arc::new(AtomicU64::new(0));
        let source: Source = Arc::new(move || {
            let made = made.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { format!("made {made}\n") })
        });
        tokio::spawn(serve(listener, source, stop.clone()));
        (addr, stop)
    }

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_is_at_its_place_and_nothing_else_is() {
        let (addr, _stop) = served().await;
        let page = ask(addr, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        let kind = "content-type: text/plain; version=0.0.4; charset=utf-8\r\n";
        assert!(page.contains(kind), "{page}");
        assert!(page.ends_with("\r\n\r\nmade 0\n"), "{page}");
        let other = ask(addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
        let posted = ask(
            addr,
            "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
        assert!(posted.contains("allow: GET, HEAD\r\n"), "{posted}");
        let junk = ask(addr, "\x16\x03\x01 hello\r\n\r\n").await;
        assert!(
            junk.is_empty() || junk.starts_with("HTTP/1.1 400 "),
            "{junk}"
        );
    }

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_wait() {
        let (addr, _stop) = served().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        let asked =
            tokio::spawn(
                async move { ask(addr, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await },
            );
        // One that goes makes room, as one does that says nothing for too long.
        drop(silent.pop());
        let page = asked.await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    }

    #[tokio::test]
    async fn an_end_closes_the_port() {
        let (addr, stop) = served().await;
        stop.cancel();
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
