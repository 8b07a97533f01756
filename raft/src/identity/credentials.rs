use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use thiserror::Error;

use super::certificate::{CaFacts, NodeFacts, check_signed_by};
use super::{CaDigest, NodeKey, files};
use crate::model::{ClusterId, NodeId, Role};

const KEY_FILE: &str = "node.key";
const CERT_FILE: &str = "node.crt";
const CA_FILE: &str = "ca.crt";

/// What makes a process a member: key, certificate and the CA that both sides trust. Printing it
/// shows who it is and nothing else.
pub struct Identity {
    /// From the key.
    pub node: NodeId,
    /// From the certificate.
    pub role: Role,
    /// From the certificate.
    pub cluster: ClusterId,
    /// Start of the certificate's validity.
    pub not_before: SystemTime,
    /// End of the certificate's validity.
    pub not_after: SystemTime,
    key: NodeKey,
    cert: CertificateDer<'static>,
    ca: CertificateDer<'static>,
}

/// Why a key, certificate or request was refused.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The random source or the library failed.
    #[error("cannot make a key or certificate: {0}")]
    Crypto(String),
    /// Not a key that weft uses.
    #[error("not a private key that weft uses: expected ECDSA over P-256 in PKCS #8 DER")]
    Key,
    /// A certificate that our CA would not have made.
    #[error("certificate refused: {0}")]
    Certificate(String),
    /// A request that our CA does not sign.
    #[error("certificate request refused: {0}")]
    Request(String),
    /// A file that cannot be used.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl IdentityError {
    pub(super) fn crypto(error: impl fmt::Display) -> Self {
        Self::Crypto(error.to_string())
    }
}

impl Identity {
    /// Puts the parts together (certificates in DER) after checking that they belong together.
    /// Whether the certificate is valid at this time is the peers' to check.
    pub fn new(key: NodeKey, cert_der: &[u8], ca_der: &[u8]) -> Result<Self, IdentityError> {
        let refused = |problem: &str| IdentityError::Certificate(problem.into());
        let facts = NodeFacts::read(cert_der)?;
        if facts.node != key.node_id() {
            return Err(refused("it is for another key"));
        }
        if CaFacts::read(ca_der)?.cluster != facts.cluster {
            return Err(refused("it is for another cluster than the CA beside it"));
        }
        check_signed_by(cert_der, ca_der)?;
        Ok(Self {
            node: facts.node,
            role: facts.role,
            cluster: facts.cluster,
            not_before: facts.not_before,
            not_after: facts.not_after,
            key,
            cert: CertificateDer::from(cert_der.to_vec()),
            ca: CertificateDer::from(ca_der.to_vec()),
        })
    }

    /// Reads what [`Self::save`] wrote; `None` where nothing was saved, or where saving was
    /// interrupted before it was complete.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(cert) = files::read(&dir.join(CERT_FILE))? else {
            return Ok(None);
        };
        let key_path = dir.join(KEY_FILE);
        let key = files::read_secret(&key_path)?.ok_or_else(|| missing(&key_path))?;
        let key = NodeKey::from_der(&key).map_err(|e| damaged(&key_path, &e))?;
        let ca_path = dir.join(CA_FILE);
        let ca = files::read(&ca_path)?.ok_or_else(|| missing(&ca_path))?;
        CaFacts::read(&ca).map_err(|e| damaged(&ca_path, &e))?;
        Self::new(key, &cert, &ca)
            .map(Some)
            .map_err(|e| damaged(&dir.join(CERT_FILE), &e))
    }

    /// Writes `node.key`, `ca.crt` and `node.crt` (DER) below `dir`, readable by the owner only,
    /// each replaced atomically and on disk when this returns. The certificate comes last: without
    /// it the others count for nothing.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        files::make_dir(dir)?;
        files::replace(&dir.join(KEY_FILE), &self.key.to_der())?;
        files::replace(&dir.join(CA_FILE), &self.ca)?;
        files::replace(&dir.join(CERT_FILE), &self.cert)
    }

    /// Removes what [`Self::save`] wrote, the certificate first. Nothing there is no error.
    pub fn wipe(dir: &Path) -> Result<(), IdentityError> {
        for name in [CERT_FILE, KEY_FILE, CA_FILE] {
            files::remove(&dir.join(name))?;
        }
        Ok(())
    }

    /// The node's key.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The node's certificate.
    pub fn cert_der(&self) -> &[u8] {
        &self.cert
    }

    /// The cluster CA's certificate.
    pub fn ca_der(&self) -> &[u8] {
        &self.ca
    }

    /// Of the CA's certificate.
    pub fn ca_digest(&self) -> CaDigest {
        CaDigest::of(&self.ca)
    }

    /// Leaf and CA, in the order in which TLS wants them: joiners look for the CA.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.cert.clone(), self.ca.clone()]
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            role,
            cluster,
            ..
        } = self;
        write!(f, "Identity({node}, {role} of {cluster}, ..)")
    }
}

const REPAIR: &str = "restore the directory from a backup, or remove it to join the cluster anew";

fn missing(path: &Path) -> IdentityError {
    files::problem(path, format!("missing beside {CERT_FILE}; {REPAIR}"))
}

fn damaged(path: &Path, error: &IdentityError) -> IdentityError {
    files::problem(path, format!("damaged or not ours: {error}; {REPAIR}"))
}
