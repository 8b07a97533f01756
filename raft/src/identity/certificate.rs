//! What a certificate of ours says, read strictly: anything that our CA would not have written is
//! an error.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::AttributeTypeAndValue;

use super::IdentityError;
use super::key::node_id;
use crate::model::{ClusterId, NodeId, Role};

/// What a node certificate binds to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) node: NodeId,
    pub(crate) role: Role,
    pub(crate) cluster: ClusterId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// What a CA certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CaFacts {
    pub(crate) cluster: ClusterId,
    pub(crate) not_after: SystemTime,
}

impl NodeFacts {
    /// Reads a node certificate. Says nothing about who signed it.
    pub(crate) fn read(der: &[u8]) -> Result<Self, IdentityError> {
        let cert = parse(der)?;
        if cert.is_ca() {
            return Err(refused("a CA certificate stands where a node's belongs"));
        }
        require_p256(cert.public_key().raw).map_err(refused)?;
        let subject = cert.subject();
        let node = only(subject.iter_common_name(), "CN")?;
        if node.parse() != Ok(node_id(cert.public_key().raw)) {
            return Err(refused("its CN is not the id of its key"));
        }
        let role = match only(subject.iter_organizational_unit(), "OU")? {
            "manager" => Role::Manager,
            "worker" => Role::Worker,
            _ => return Err(refused("its OU is neither manager nor worker")),
        };
        Ok(Self {
            node: node_id(cert.public_key().raw),
            role,
            cluster: cluster(only(subject.iter_organization(), "O")?)?,
            not_before: system_time(cert.validity().not_before),
            not_after: system_time(cert.validity().not_after),
        })
    }
}

impl CaFacts {
    /// Reads a CA certificate.
    pub(crate) fn read(der: &[u8]) -> Result<Self, IdentityError> {
        let cert = parse(der)?;
        if !cert.is_ca() {
            return Err(refused("not a CA certificate"));
        }
        Ok(Self {
            cluster: cluster(only(cert.subject().iter_organization(), "O")?)?,
            not_after: system_time(cert.validity().not_after),
        })
    }
}

/// Checks that the key of the certificate `ca` made the signature on `cert`; both in DER.
pub(super) fn check_signed_by(cert: &[u8], ca: &[u8]) -> Result<(), IdentityError> {
    let (cert, ca) = (parse(cert)?, parse(ca)?);
    cert.verify_signature(Some(ca.public_key()))
        .map_err(|_| refused("it is not signed by the CA beside it"))
}

/// The public key (SubjectPublicKeyInfo, DER) in a certificate.
pub(super) fn public_key(der: &[u8]) -> Result<Vec<u8>, IdentityError> {
    parse(der).map(|cert| cert.public_key().raw.to_vec())
}

/// Refuses every public key but P-256 ones, with the reason.
pub(super) fn require_p256(spki_der: &[u8]) -> Result<SubjectPublicKeyInfo, &'static str> {
    SubjectPublicKeyInfo::from_der(spki_der)
        .ok()
        .filter(|key| key.algorithm() == &PKCS_ECDSA_P256_SHA256)
        .ok_or("its key is not ECDSA over P-256")
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(refused("bytes follow the certificate")),
        Err(_) => Err(refused("it cannot be parsed (X.509, DER)")),
    }
}

fn only<'a>(
    mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
    name: &str,
) -> Result<&'a str, IdentityError> {
    let value = values.next().and_then(|value| value.as_str().ok());
    match (value, values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(refused(format!("its subject must have exactly one {name}"))),
    }
}

fn cluster(text: &str) -> Result<ClusterId, IdentityError> {
    text.parse()
        .map_err(|_| refused("its O is not a cluster id"))
}

fn system_time(time: ASN1Time) -> SystemTime {
    // Before 1970 means expired or long valid, and the epoch says the same.
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn refused(problem: impl Into<String>) -> IdentityError {
    IdentityError::Certificate(problem.into())
}
