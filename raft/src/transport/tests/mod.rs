//! Real sockets on the loopback interface.

mod abuse;
mod calls;
mod peers;
mod streams;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quinn::Connection;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::identity::Authority;
use crate::model::{ClusterId, Role};

pub(super) const SOON: Duration = Duration::from_secs(30);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const CLUSTER: ClusterId = ClusterId::new([7; 10]);

pub(super) fn authority() -> Authority {
    Authority::create(CLUSTER, SystemTime::now()).unwrap()
}

pub(super) fn member(authority: &Authority, role: Role) -> Arc<Identity> {
    member_at(authority, role, SystemTime::now())
}

pub(super) fn member_at(authority: &Authority, role: Role, now: SystemTime) -> Arc<Identity> {
    let key = NodeKey::generate().unwrap();
    let cert = authority.sign(&key.csr().unwrap(), role, DAY, now).unwrap();
    Arc::new(Identity::new(key, &cert, authority.cert_der()).unwrap())
}

pub(super) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A transport without handler.
pub(super) fn client(identity: &Arc<Identity>) -> Transport {
    let transport = Transport::bind(loopback(), Limits::default()).unwrap();
    transport.set_identity(identity.clone()).unwrap();
    transport
}

pub(super) fn server(identity: &Arc<Identity>) -> (Transport, Arc<Echo>) {
    server_with(identity, Limits::default())
}

pub(super) fn server_with(identity: &Arc<Identity>, limits: Limits) -> (Transport, Arc<Echo>) {
    let transport = Transport::bind(loopback(), limits).unwrap();
    let echo = Arc::new(Echo::default());
    transport.set_identity(identity.clone()).unwrap();
    transport.serve(echo.clone());
    (transport, echo)
}

/// Answers a call with its body; `wait` is answered once released, `big` with too much. Streams
/// get back what they send, the first frame included, until they finish.
#[derive(Default)]
pub(super) struct Echo {
    pub(super) calls: AtomicU64,
    pub(super) last_caller: std::sync::Mutex<Option<(Caller, SocketAddr)>>,
    pub(super) waiting: Notify,
    pub(super) release: Notify,
    /// Told how each stream ended.
    pub(super) ended: std::sync::Mutex<Option<mpsc::UnboundedSender<Option<StreamError>>>>,
}

impl Echo {
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn echo(stream: &mut FrameStream, first: Bytes) -> Result<(), StreamError> {
        stream.send(first).await?;
        while let Some(body) = stream.recv().await? {
            stream.send(body).await?;
        }
        Ok(())
    }
}

impl Handler for Echo {
    fn call(&self, caller: Caller, from: SocketAddr, body: Bytes) -> BoxFuture<'_, Vec<u8>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.last_caller.lock().unwrap() = Some((caller, from));
        async move {
            if &body[..] == b"wait" {
                self.waiting.notify_one();
                self.release.notified().await;
            }
            if &body[..] == b"big" {
                return vec![0; 65 << 20];
            }
            body.to_vec()
        }
        .boxed()
    }

    fn stream(
        &self,
        _caller: Caller,
        _from: SocketAddr,
        first: Bytes,
        mut stream: FrameStream,
    ) -> BoxFuture<'_, ()> {
        async move {
            let result = Self::echo(&mut stream, first).await;
            if let Some(ended) = &*self.ended.lock().unwrap() {
                let _ = ended.send(result.clone().err());
            }
            if result.is_ok() {
                stream.finish();
            }
        }
        .boxed()
    }
}

/// Counters move when the other side's packets have been worked off: ask until they have.
pub(super) async fn until(transport: &Transport, holds: impl Fn(&TransportCounters) -> bool) {
    let begun = Instant::now();
    while !holds(&transport.counters()) {
        assert!(begun.elapsed() < SOON, "{:?}", transport.counters());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A plain QUIC connection of a member, for sending what [`Transport`] would not send.
pub(super) async fn raw_connection(
    identity: &Arc<Identity>,
    to: SocketAddr,
) -> (Transport, Connection) {
    let transport = client(identity);
    let peer = transport.core.peer(to, None).await.unwrap();
    (transport, peer.connection)
}
