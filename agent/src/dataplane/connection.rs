//! One connection that is passed on.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;
use tracing::debug;
use weft_lb::relay::header;

use super::listening::destination;
use super::relay::{Relay, Taken};

/// How long a backend may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Backends that are tried for one connection.
const TRIES: usize = 3;
/// Bytes that are read at a time, and the most of a direction that are held here.
const CHUNK: usize = 32 << 10;
/// A side that is silent for that long is asked whether it is there, so that connections do not
/// outlive clients that vanished without a word: first after, then each, and so often.
const PROBES: (Duration, Duration, u32) = (Duration::from_mins(10), Duration::from_mins(1), 5);

/// Passes a connection on until it ends.
pub(super) async fn serve(
    relay: &Relay,
    listener: SocketAddr,
    client: TcpStream,
    from: SocketAddr,
) {
    let Ok(to) = destination(&client) else {
        return;
    };
    let header = header::v2(from, to);
    let mut refused = BTreeSet::new();
    while let Some(taken) = relay
        .choose(listener, from, &refused)
        .filter(|_| refused.len() < TRIES)
    {
        // Until here nothing was said to anybody, so another can be tried.
        match begin(&taken, &header).await {
            Ok(backend) => return pass(client, backend, &taken).await,
            Err(error) => {
                debug!(%listener, backend = %taken.backend, %error, "backend does not answer");
                refused.insert(taken.backend);
            }
        }
    }
    relay.count_unreachable();
    reset(&client);
}

async fn begin(taken: &Taken, header: &[u8]) -> io::Result<TcpStream> {
    let connect = async {
        let mut backend = timeout(CONNECT, TcpStream::connect(taken.backend)).await??;
        backend.write_all(header).await?;
        Ok(backend)
    };
    tokio::select! {
        connected = connect => connected,
        () = taken.account.is_over() => Err(ErrorKind::NotConnected.into()),
    }
}

/// Copies both ways until both are done; what goes wrong on one side, the other hears as a reset.
async fn pass(mut client: TcpStream, mut backend: TcpStream, taken: &Taken) {
    for stream in [&client, &backend] {
        // They do without where this fails.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive());
    }
    let account = &taken.account;
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_backend, to_backend) = backend.split();
        let both = async {
            tokio::try_join!(
                pump(from_client, to_backend, &account.bytes_in),
                pump(from_backend, to_client, &account.bytes_out),
            )
        };
        tokio::select! {
            ended = both => ended.is_ok(),
            () = account.is_over() => false,
        }
    };
    if !ended {
        reset(&client);
        reset(&backend);
    }
}

/// One direction, until its end is passed on. Who reads slowly is waited for, and so is not sent more
/// than the kernel's buffers hold. A connection that is silent has no buffer here.
async fn pump(from: ReadHalf<'_>, mut to: WriteHalf<'_>, bytes: &AtomicU64) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        from.readable().await?;
        buffer.resize(CHUNK, 0);
        match from.try_read(&mut buffer) {
            Ok(0) => return to.shutdown().await,
            Ok(count) => {
                to.write_all(buffer.get(..count).unwrap_or_default())
                    .await?;
                bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => return Err(error),
        }
    }
}

fn keepalive() -> TcpKeepalive {
    let (first, each, times) = PROBES;
    TcpKeepalive::new()
        .with_time(first)
        .with_interval(each)
        .with_retries(times)
}

/// Makes the end of a connection a reset (`SO_LINGER` of zero, socket(7)), once it is dropped.
pub(super) fn reset(stream: &TcpStream) {
    // Otherwise it ends as it would.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
