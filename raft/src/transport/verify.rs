//! Which certificates are good enough, on top of the WebPKI rules: signed by the one CA, for this
//! cluster, for the node or role that was asked for.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use crate::identity::{CaDigest, CaFacts, NodeFacts};
use crate::model::{ClusterId, NodeId, Role};

/// Why a server was not trusted; TLS itself only carries an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Distrust {
    WrongNode(NodeId),
    WrongCa,
    Certificate(String),
}

/// Where a verifier leaves its reason for whoever dialled.
pub(super) type Verdict = Arc<OnceLock<Distrust>>;

/// Whom a dialler wants to find.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Any member of the cluster, or one.
    Member(ClusterId, Option<NodeId>),
    /// A manager of the cluster whose CA has this digest.
    Pinned(CaDigest),
}

/// Decides about servers, before anything is sent to them.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) wanted: Wanted,
    /// Unused with a pin, which brings its own root.
    pub(super) roots: Arc<RootCertStore>,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) verdict: Verdict,
}

impl ServerVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Distrust> {
        match &self.wanted {
            Wanted::Member(cluster, expect) => {
                self.check_chain(leaf, &self.roots, now)?;
                let facts = read(leaf)?;
                require(facts.cluster == *cluster, "it is for another cluster")?;
                match expect {
                    Some(expected) if *expected != facts.node => {
                        Err(Distrust::WrongNode(facts.node))
                    }
                    _ => Ok(()),
                }
            }
            Wanted::Pinned(pin) => {
                let ca = chain.iter().find(|cert| CaDigest::of(cert) == *pin);
                let ca = ca.ok_or(Distrust::WrongCa)?;
                let ca_facts = CaFacts::read(ca).map_err(distrust)?;
                let mut roots = RootCertStore::empty();
                roots.add(ca.clone().into_owned()).map_err(distrust)?;
                self.check_chain(leaf, &roots, now)?;
                let facts = read(leaf)?;
                require(
                    facts.cluster == ca_facts.cluster,
                    "it is for another cluster",
                )?;
                require(
                    facts.role == Role::Manager,
                    "it is a worker's; ask a manager",
                )
            }
        }
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        ParsedCertificate::try_from(leaf)
            .and_then(|leaf| {
                verify_server_cert_signed_by_trust_anchor(&leaf, roots, &[], now, algorithms)
            })
            .map_err(distrust)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, chain, now).map_err(|reason| {
            // One handshake, one verdict.
            let _ = self.verdict.set(reason);
            refusal()
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refusal())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Decides about clients: members of our cluster, or nobody in particular.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl ClientVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        cluster: ClusterId,
    ) -> Result<Self, Error> {
        let webpki = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        Ok(Self { webpki, cluster })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.webpki.verify_client_cert(leaf, &[], now)?;
        match NodeFacts::read(leaf) {
            Ok(facts) if facts.cluster == self.cluster => Ok(verified),
            _ => Err(refusal()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refusal())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn refusal() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn read(leaf: &CertificateDer<'_>) -> Result<NodeFacts, Distrust> {
    NodeFacts::read(leaf).map_err(distrust)
}

fn require(holds: bool, otherwise: &str) -> Result<(), Distrust> {
    if holds {
        Ok(())
    } else {
        let problem = format!("certificate refused: {otherwise}");
        Err(Distrust::Certificate(problem))
    }
}

fn distrust(error: impl ToString) -> Distrust {
    Distrust::Certificate(error.to_string())
}
