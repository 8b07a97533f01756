use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::certificate::{CaFacts, public_key, require_p256};
use super::key::{node_id, pair_from_der};
use super::{CaDigest, IdentityError};
use crate::model::{ClusterId, NodeId, Role};

/// The CA outlives every host of its first day; it is replaced by rotation, not by expiry.
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Clocks of hosts that join may be behind by so much.
const BACKDATED: Duration = Duration::from_secs(3600);
/// A P-256 request with a hostile amount of extensions still is far smaller.
const MAX_CSR_LEN: usize = 4096;
/// Random, positive, at most 20 octets (RFC 5280 section 4.1.2.2).
const SERIAL_LEN: usize = 16;

/// The cluster's certificate authority: its certificate and private key. Only managers hold one.
/// Printing it shows the cluster id only.
pub struct Authority {
    cert: CertificateDer<'static>,
    key: Zeroizing<KeyPair>,
    facts: CaFacts,
}

impl Authority {
    /// Makes the CA of a new cluster, valid from an hour before `now`.
    pub fn create(cluster: ClusterId, now: SystemTime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::crypto)?;
        let mut params = CertificateParams::default();
        params.not_before = backdated(now).into();
        params.not_after = (backdated(now) + BACKDATED + CA_LIFETIME).into();
        params.serial_number = Some(random_serial()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::OrganizationName, cluster.to_string());
        subject.push(DnType::CommonName, "weft CA");
        let cert = params.self_signed(&key).map_err(IdentityError::crypto)?;
        Self::from_parts(cert.der(), &Zeroizing::new(key.serialize_der()))
    }

    /// From what [`Self::cert_der`] and [`Self::key_der`] gave.
    pub fn from_parts(cert_der: &[u8], key_der: &[u8]) -> Result<Self, IdentityError> {
        let facts = CaFacts::read(cert_der)?;
        let key = Zeroizing::new(pair_from_der(key_der)?);
        if public_key(cert_der)? != key.subject_public_key_info() {
            let problem = "the CA's key does not belong to the CA's certificate";
            return Err(IdentityError::Certificate(problem.into()));
        }
        let cert = CertificateDer::from(cert_der.to_vec());
        Ok(Self { cert, key, facts })
    }

    /// The CA certificate.
    pub fn cert_der(&self) -> &[u8] {
        &self.cert
    }

    /// The CA's private key, PKCS #8 DER, wiped when dropped.
    pub fn key_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.serialize_der())
    }

    /// What join tokens carry.
    pub fn digest(&self) -> CaDigest {
        CaDigest::of(&self.cert)
    }

    /// Whose CA it is.
    pub fn cluster(&self) -> ClusterId {
        self.facts.cluster
    }

    /// Checks a request (PKCS #10, DER) and says whose key it is for, without signing anything.
    pub fn requester(csr_der: &[u8]) -> Result<NodeId, IdentityError> {
        requested_key(csr_der).map(|key| node_id(&key.subject_public_key_info()))
    }

    /// Signs a node certificate (DER) for the key in the request, valid from an hour before `now`
    /// (clocks differ) until `lifetime` after it, or until the CA expires. What the request says
    /// beside its key is ignored.
    pub fn sign(
        &self,
        csr_der: &[u8],
        role: Role,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<u8>, IdentityError> {
        let key = requested_key(csr_der)?;
        let node = node_id(&key.subject_public_key_info());
        let issuer =
            Issuer::from_ca_cert_der(&self.cert, &*self.key).map_err(IdentityError::crypto)?;
        let end = now.checked_add(lifetime).unwrap_or(self.facts.not_after);
        let mut params = self.node_params(node, role)?;
        params.not_before = backdated(now).into();
        params.not_after = end.min(self.facts.not_after).into();
        let cert = params.signed_by(&key, &issuer);
        Ok(cert.map_err(IdentityError::crypto)?.der().to_vec())
    }

    fn node_params(&self, node: NodeId, role: Role) -> Result<CertificateParams, IdentityError> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(random_serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        // WebPKI verifiers want a name here; ours go by the subject.
        let name = format!("{node}.node.weft").try_into();
        params.subject_alt_names = vec![SanType::DnsName(name.map_err(IdentityError::crypto)?)];
        params.distinguished_name = DistinguishedName::new();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::OrganizationName, self.cluster().to_string());
        subject.push(DnType::OrganizationalUnitName, role.to_string());
        subject.push(DnType::CommonName, node.to_string());
        Ok(params)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, ..)", self.cluster())
    }
}

/// The public key of a request that its owner signed.
fn requested_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, IdentityError> {
    let refused = |problem: &str| IdentityError::Request(problem.into());
    if csr_der.len() > MAX_CSR_LEN {
        return Err(refused("it is larger than 4096 bytes"));
    }
    let Ok(([], csr)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(refused("it cannot be parsed (PKCS #10, DER)"));
    };
    let spki = csr.certification_request_info.subject_pki.raw;
    let key = require_p256(spki).map_err(refused)?;
    // This checks the signature with the key in the request.
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
        .map_err(|e| IdentityError::Request(e.to_string()))?;
    Ok(key)
}

fn random_serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = [0; SERIAL_LEN];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| IdentityError::Crypto("no random bytes from the system".into()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn backdated(now: SystemTime) -> SystemTime {
    now.checked_sub(BACKDATED)
        .filter(|time| *time >= UNIX_EPOCH)
        .unwrap_or(UNIX_EPOCH)
}
