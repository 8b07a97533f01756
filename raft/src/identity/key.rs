use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use ring::digest::{SHA256, digest};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::IdentityError;
use crate::model::{Id, NodeId};

/// A node's key pair (ECDSA over P-256). Printing it shows the node id only.
pub struct NodeKey {
    pair: Zeroizing<KeyPair>,
    node: NodeId,
}

impl NodeKey {
    /// A new random key.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::crypto)?;
        Ok(Self::of(pair))
    }

    /// Reads PKCS #8 DER.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        pair_from_der(der).map(Self::of)
    }

    fn of(pair: KeyPair) -> Self {
        let node = node_id(&pair.subject_public_key_info());
        let pair = Zeroizing::new(pair);
        Self { pair, node }
    }

    /// PKCS #8 DER, wiped when dropped.
    pub fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.pair.serialize_der())
    }

    /// First 80 bits of the SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// A certificate signing request (PKCS #10, DER) for this key.
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.node.to_string());
        let request = params
            .serialize_request(&*self.pair)
            .map_err(IdentityError::crypto)?;
        Ok(request.der().to_vec())
    }

    /// For TLS; wiped when dropped.
    pub(crate) fn to_tls(&self) -> Zeroizing<PrivateKeyDer<'static>> {
        let der = PrivatePkcs8KeyDer::from(self.pair.serialize_der());
        Zeroizing::new(PrivateKeyDer::Pkcs8(der))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({}, ..)", self.node)
    }
}

pub(super) fn pair_from_der(der: &[u8]) -> Result<KeyPair, IdentityError> {
    let mut der = PrivatePkcs8KeyDer::from(der.to_vec());
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
    der.zeroize();
    pair.map_err(|_| IdentityError::Key)
}

/// The node that a public key (SubjectPublicKeyInfo, DER) makes.
pub(super) fn node_id(spki_der: &[u8]) -> NodeId {
    let hash = digest(&SHA256, spki_der);
    let mut bytes = [0; Id::LEN];
    bytes.copy_from_slice(&hash.as_ref()[..Id::LEN]);
    NodeId::new(bytes)
}
