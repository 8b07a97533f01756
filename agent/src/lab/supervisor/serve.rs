//! The control socket: connections to calls.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
};

use super::super::control::{LINE_MAX, Request, Response};

/// Requests that may wait; each is the work of milliseconds.
pub(super) const QUEUE: usize = 64;
/// Connections at a time; a test of the largest lab uses a few per host.
const CONNECTIONS_MAX: usize = 512;

/// Pause after a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// One request and where its answer goes.
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Response>,
}

/// Takes connections for as long as the supervisor takes calls.
pub(super) async fn accept(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = room.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely; others will be closed.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            // A connection that breaks concerns nobody but its caller.
            let _ = serve(stream, calls).await;
            drop(permit);
        });
    }
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        (&mut stream).take(LINE_MAX).read_line(&mut line).await?;
        // The end of the connection, or a line without end.
        if !line.ends_with('\n') {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Err(error) => Response::Refused(format!("not a request: {error}")),
            Ok(request) => {
                let (answer, answered) = oneshot::channel();
                calls.send(Call { request, answer }).await?;
                answered.await?
            }
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).await?;
    }
}
