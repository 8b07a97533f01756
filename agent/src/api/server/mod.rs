//! Serves a [`Backend`] on an [`ApiSocket`].

mod answer;
mod routes;
mod services;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::socket::ApiSocket;
use super::types::{ApiError, ErrorCode};
use super::{Backend, REQUEST_TIMEOUT};
use answer::Refused;
pub use routes::{document, router};

/// Largest request body: the longest command line of `run` fits.
const MAX_BODY_BYTES: usize = 256 << 10;
/// A request line and headers arrive at once on one machine.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections, idle ones included.
const MAX_CONNECTIONS: usize = 512;
/// Requests that are worked on at once, waits and event streams apart.
const MAX_REQUESTS: usize = 128;
/// Waits, detaches and event streams at once.
const MAX_WAITERS: usize = 256;
/// What is being answered when the agent stops has this long.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Before accepting again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who asks, by the kernel's word (SO_PEERCRED, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id as this agent numbers processes, where it can.
    pub pid: Option<i32>,
}

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    backend: Arc<dyn Backend>,
    requests: Arc<Semaphore>,
    waiters: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Serves until `shutdown` is done, then lets running requests finish for a short while. The
/// socket's file is gone afterwards.
pub async fn serve(
    mut socket: ApiSocket,
    backend: Arc<dyn Backend>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = socket
        .take_listener()
        .ok_or_else(|| io::Error::other("this socket is served already"))?;
    let listener = UnixListener::from_std(listener)?;
    let api = Api::new(backend);
    let router = limited(&api);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    info!(socket = %socket.path().display(), "local API is served");
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => {}
            stream = accept(&listener, &connections) => {
                let (stream, permit) = stream;
                let (router, stop) = (router.clone(), api.stop.clone());
                tasks.spawn(async move {
                    connection(stream, router, stop).await;
                    drop(permit);
                });
            }
        }
    }
    drop((listener, socket));
    api.stop.cancel();
    let _ = timeout(STOP_GRACE, async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    Ok(())
}

impl Api {
    fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            waiters: Arc::new(Semaphore::new(MAX_WAITERS)),
            stop: CancellationToken::new(),
        }
    }
}

fn limited(api: &Api) -> Router {
    router(api.clone())
        .layer(middleware::from_fn_with_state(api.clone(), gate))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// Holds no connection that it cannot serve: beyond the limit they queue in the kernel.
async fn accept(
    listener: &UnixListener,
    connections: &Arc<Semaphore>,
) -> (UnixStream, tokio::sync::OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                warn!(%error, "cannot accept on the local API's socket");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, router: Router, stop: CancellationToken) {
    let caller = match stream.peer_cred() {
        Ok(cred) => Caller {
            uid: cred.uid(),
            gid: cred.gid(),
            pid: cred.pid(),
        },
        Err(error) => {
            warn!(%error, "a local caller without credentials is not served");
            return;
        }
    };
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a local connection broke off");
    }
}

/// Limits what is worked on at once and for how long, and notes who changed what.
async fn gate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = if routes::is_long(&method, &path) {
        next.run(request).await
    } else {
        let Ok(_permit) = api.requests.try_acquire() else {
            return busy().into_response();
        };
        timeout(REQUEST_TIMEOUT, next.run(request))
            .await
            .unwrap_or_else(|_| Refused(overdue(REQUEST_TIMEOUT)).into_response())
    };
    if !method.is_safe() {
        let status = response.status().as_u16();
        info!(%method, path, status, uid = caller.uid, pid = caller.pid, "local request");
    }
    response
}

fn busy() -> Refused {
    Refused(ApiError::new(
        ErrorCode::Exhausted,
        "the agent has as many requests as it takes at once; try again",
    ))
}

fn overdue(limit: Duration) -> ApiError {
    ApiError::new(
        ErrorCode::TimedOut,
        format!(
            "the agent was not done within {} s; it may be done yet",
            limit.as_secs()
        ),
    )
}

#[cfg(test)]
mod tests;
