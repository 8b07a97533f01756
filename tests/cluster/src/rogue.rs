//! A peer of the control port that speaks QUIC and TLS rightly and then says what no agent would.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, ReadToEndError};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use weft_raft::identity::Identity;

/// The identity of a peer that has none.
pub const STRANGER: &str = "-";
/// The protocol of the control port.
const ALPN: &[u8] = b"weft/1";
/// Largest answer that is looked at, bytes.
const MAX_ANSWER: usize = 64 << 10;

/// What is said on a stream: the kind, the length of the body, the body.
fn bytes_of(shape: &str) -> Result<Vec<u8>> {
    let frame = |kind: u8, promised: u32, body: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&promised.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    };
    Ok(match shape {
        "unknown-kind" | "other-protocol" => frame(9, 1, &[0]),
        "oversized" => frame(1, u32::MAX, &[0; 100]),
        "truncated" => frame(1, 100, &[0; 10]),
        "empty" => frame(1, 0, &[]),
        "garbage" => frame(1, 40, &[0xa5; 40]),
        // The version comes first in a message (16 bits, big endian).
        "wrong-version" => frame(1, 4, &[0, 99, 0, 0]),
        "stream" => frame(2, 4, &[0, 1, 0, 0]),
        _ => bail!("no such shape: {shape}"),
    })
}

/// Says `shape` to `HOST:PORT` with the identity in a data directory; prints how that ended.
pub fn main(target: &str, identity: &str, shape: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let told = runtime.block_on(say(target.parse()?, identity, shape))?;
    println!("{told}");
    Ok(())
}

async fn say(target: SocketAddr, identity: &str, shape: &str) -> Result<String> {
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    let config = config(identity, shape == "other-protocol")?;
    let connection = match endpoint.connect_with(config, target, "node.weft")?.await {
        Ok(connection) => connection,
        Err(error) => return Ok(told(&error)),
    };
    let spoken = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        let _ = send.write_all(&bytes_of(shape)?).await;
        let _ = send.finish();
        match recv.read_to_end(MAX_ANSWER).await {
            Ok(answer) => Ok(format!("answer {}", String::from_utf8_lossy(&answer))),
            Err(ReadToEndError::Read(quinn::ReadError::Reset(code))) => Ok(format!("reset {code}")),
            Err(ReadToEndError::Read(quinn::ReadError::ConnectionLost(error))) => Ok(told(&error)),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    };
    let spoken = spoken.await;
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    spoken
}

fn told(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => format!("closed {}", close.error_code),
        other => format!("refused {other}"),
    }
}

fn config(identity: &str, other_protocol: bool) -> Result<quinn::ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut tls = if identity == STRANGER {
        builder.with_no_client_auth()
    } else {
        let own = Identity::load(Path::new(identity))?.context("no identity there")?;
        let chain = [own.cert_der(), own.ca_der()].map(|der| CertificateDer::from(der.to_vec()));
        let key = PrivateKeyDer::Pkcs8(own.key().to_der().to_vec().into());
        builder.with_client_auth_cert(chain.to_vec(), key)?
    };
    tls.alpn_protocols = match other_protocol {
        true => vec![b"h3".to_vec()],
        false => vec![ALPN.to_vec()],
    };
    Ok(quinn::ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(tls)?,
    )))
}

/// Talks to whoever is there: it is the other side's care that is tested.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
