use std::fmt;

use ring::digest::{SHA256, digest};

/// SHA-256 of the cluster CA's certificate (DER): what a join token carries so that a joiner
/// knows the cluster before it says anything to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaDigest(pub [u8; Self::LEN]);

impl CaDigest {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Of a certificate in DER.
    pub fn of(ca_cert: &[u8]) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(digest(&SHA256, ca_cert).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for CaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&super::base32::encode(&self.0))
    }
}

impl fmt::Debug for CaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaDigest({self})")
    }
}
