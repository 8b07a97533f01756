use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_overlay::NetnsRef;

use super::{connection, late};

/// Longest head of an answer in bytes; the smallest limit that the library takes.
const MAX_HEAD: usize = 8 << 10;

/// Asks for `path`; only the head of the answer is read.
pub(super) async fn get(
    netns: &NetnsRef,
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<(), String> {
    let start = Instant::now();
    let stream = connection::open(netns, address, limit).await?;
    let left = limit.saturating_sub(start.elapsed());
    match timeout(left, ask(stream, address, path)).await {
        Ok(status) => judge(status?),
        Err(_) => Err(late(format!("{address} does not answer"), limit)),
    }
}

async fn ask(stream: TcpStream, address: SocketAddr, path: &str) -> Result<StatusCode, String> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("`{path}` cannot be asked for: {error}"))?;
    let failed = |error: hyper::Error| format!("{address} does not answer as HTTP does: {error}");
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let mut connection = pin!(connection);
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // It may have ended with the answer.
        ended = &mut connection => match ended {
            Ok(()) => response.await,
            Err(error) => Err(error),
        },
    };
    Ok(response.map_err(failed)?.status())
}

fn judge(status: StatusCode) -> Result<(), String> {
    match status.as_u16() {
        200..=399 => Ok(()),
        _ => Err(format!("answered with status {status}")),
    }
}
