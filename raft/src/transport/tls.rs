//! TLS and QUIC settings, made once per identity.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, Error, RootCertStore, ServerConfig};

use super::Limits;
use super::verify::{ClientVerifier, ServerVerifier, Verdict, Wanted};
use crate::identity::{CaDigest, Caller, Identity, NodeFacts, NodeKey};
use crate::model::{ClusterId, NodeId};

/// The protocol and its version; a peer that does not speak it is refused in the handshake.
const ALPN: &[u8] = b"weft/1";
/// The same for connections that are for peering alone.
pub(super) const PEERING_ALPN: &[u8] = b"weft-peering/1";
/// QUIC wants a name; nobody looks at it.
pub(super) const SERVER_NAME: &str = "node.weft";
/// Round trip assumed before one was measured. The QUIC default (333 ms) would make the first
/// retransmission on a LAN wait a second.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Every path of QUIC carries this much (RFC 9000 section 14); more is found by probing.
const INITIAL_MTU: u16 = 1200;
/// One stream may be so far ahead of its reader: a 1 Gbit/s link with 30 ms round trip.
const STREAM_WINDOW: u32 = 4 << 20;
/// All streams of a member's connection may be so far ahead of their readers.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The same for a stranger, and until it is known who calls.
const STRANGER_WINDOW: u32 = 256 << 10;
/// The same for a connection for peering, where messages are small and few.
const PEERING_WINDOW: u32 = 64 << 10;
/// Bytes sent and not yet acknowledged that a connection holds.
const SEND_WINDOW: u64 = 16 << 20;
/// Handshakes that wait to be looked at, which is before they count as under way.
const INCOMING_QUEUE: usize = 256;
/// First packets of one handshake held before it is looked at: a certificate chain and change.
const INCOMING_BUFFER: u64 = 16 << 10;

/// What a connection that we dial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Calls and streams.
    Calls,
    /// Peering.
    Peering,
}

/// What an identity means for TLS.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) identity: Arc<Identity>,
    cluster: ClusterId,
    roots: Arc<RootCertStore>,
    own: Arc<SingleCertAndKey>,
}

impl Credentials {
    pub(super) fn new(identity: Arc<Identity>) -> Result<Self, Error> {
        let key = any_ecdsa_type(&identity.key().to_tls())?;
        let own = CertifiedKey::new(identity.chain(), key);
        let mut roots = RootCertStore::empty();
        roots.add(identity.ca().clone())?;
        Ok(Self {
            cluster: identity.cluster,
            roots: Arc::new(roots),
            own: Arc::new(SingleCertAndKey::from(own)),
            identity,
        })
    }

    /// For dialling a member of the cluster.
    pub(super) fn client(
        &self,
        expect: Option<NodeId>,
        protocol: Protocol,
        limits: &Limits,
    ) -> Result<(quinn::ClientConfig, Verdict), Error> {
        let wanted = Wanted::Member(self.cluster, expect);
        let (builder, verdict) = client_builder(wanted, self.roots.clone())?;
        let config = builder.with_client_cert_resolver(self.own.clone());
        Ok((finish_client(config, protocol, limits)?, verdict))
    }

    /// For being dialled.
    pub(super) fn server(&self, limits: &Limits) -> Result<quinn::ServerConfig, Error> {
        let provider = provider();
        let verifier = ClientVerifier::new(self.roots.clone(), &provider, self.cluster)?;
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.own.clone());
        tls.alpn_protocols = vec![ALPN.to_vec(), PEERING_ALPN.to_vec()];
        // A resumed session would not look at certificates again.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        let tls = QuicServerConfig::try_from(tls).map_err(general)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let mut transport = transport(limits);
        transport
            .max_concurrent_bidi_streams(limits.max_stranger_streams.into())
            .receive_window(STRANGER_WINDOW.into());
        config
            .transport_config(Arc::new(transport))
            .migration(false)
            .max_incoming(INCOMING_QUEUE)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER * INCOMING_QUEUE as u64);
        Ok(config)
    }
}

/// For dialling a manager of a cluster that we do not belong to.
pub(super) fn pinned_client(
    pin: &CaDigest,
    protocol: Protocol,
    limits: &Limits,
) -> Result<(quinn::ClientConfig, Verdict), Error> {
    let roots = Arc::new(RootCertStore::empty());
    let (builder, verdict) = client_builder(Wanted::Pinned(*pin), roots)?;
    let config = builder.with_no_client_auth();
    Ok((finish_client(config, protocol, limits)?, verdict))
}

/// What a stranger may not do is allowed once a member is known to be one.
pub(super) fn trust_member(connection: &Connection, limits: &Limits) {
    connection.set_max_concurrent_bi_streams(limits.max_streams.into());
    connection.set_receive_window(CONNECTION_WINDOW.into());
}

/// Who is at the other end; `None` if its certificate, which passed TLS, cannot be read.
pub(super) fn caller(connection: &Connection) -> Option<Caller> {
    let Some(chain) = connection.peer_identity() else {
        return Some(Caller::Stranger);
    };
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let facts = NodeFacts::read(chain.first()?).ok()?;
    Some(Caller::Member {
        node: facts.node,
        role: facts.role,
        cluster: facts.cluster,
    })
}

/// With a node's key, connections of its previous run can be reset (RFC 9000 section 10.3): the
/// reset key and the mark in connection ids come from the key instead of chance.
pub(super) fn endpoint_config(key: Option<&NodeKey>) -> EndpointConfig {
    let mut config = match key {
        None => EndpointConfig::default(),
        Some(key) => {
            let root = hmac::Key::new(hmac::HMAC_SHA256, &key.to_der());
            let reset = hmac::sign(&root, b"weft quic stateless reset");
            let mark = hmac::sign(&root, b"weft quic connection id");
            let reset = hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref());
            let mark = mark.as_ref().first_chunk().copied().unwrap_or_default();
            let mark = u64::from_be_bytes(mark);
            let mut config = EndpointConfig::new(Arc::new(reset));
            config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(mark)));
            config
        }
    };
    config.grease_quic_bit(false);
    config
}

fn client_builder(
    wanted: Wanted,
    roots: Arc<RootCertStore>,
) -> Result<(ConfigBuilder<ClientConfig, WantsClientCert>, Verdict), Error> {
    let (provider, verdict) = (provider(), Verdict::default());
    let verifier = ServerVerifier {
        wanted,
        roots,
        provider: provider.clone(),
        verdict: verdict.clone(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok((builder, verdict))
}

fn finish_client(
    mut tls: ClientConfig,
    protocol: Protocol,
    limits: &Limits,
) -> Result<quinn::ClientConfig, Error> {
    let (alpn, window) = match protocol {
        Protocol::Calls => (ALPN, CONNECTION_WINDOW),
        Protocol::Peering => (PEERING_ALPN, PEERING_WINDOW),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.resumption = Resumption::disabled();
    tls.enable_sni = false;
    let tls = QuicClientConfig::try_from(tls).map_err(general)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let mut transport = transport(limits);
    // The side that dialled opens the streams, and says that it is there; the answers to that
    // show it that the other side is.
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .receive_window(window.into())
        .keep_alive_interval(Some(limits.keep_alive));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn transport(limits: &Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(limits.idle_timeout).ok();
    config
        .max_idle_timeout(idle)
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(INITIAL_MTU)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(STREAM_WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None);
    config
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}

fn general(error: impl ToString) -> Error {
    Error::General(error.to_string())
}

/// Certificates that do not fit together, which the public way of making them refuses.
#[cfg(test)]
impl Credentials {
    pub(super) fn showing(self, other: &Self) -> Self {
        Self {
            own: other.own.clone(),
            ..self
        }
    }

    pub(super) fn set_cluster(&mut self, cluster: ClusterId) {
        self.cluster = cluster;
    }

    pub(super) fn with_ca(self, ca: &[u8]) -> Self {
        let key = any_ecdsa_type(&self.identity.key().to_tls()).unwrap();
        let leaf = CertificateDer::from(self.identity.cert_der().to_vec());
        let chain = vec![leaf, CertificateDer::from(ca.to_vec())];
        let own = CertifiedKey::new(chain, key);
        let own = Arc::new(SingleCertAndKey::from(own));
        Self { own, ..self }
    }
}
