//! Who is who: the cluster's certificate authority, node keys and certificates, join tokens.
//!
//! A node is its key pair: its id is a digest of the public key (P-256), so an identity cannot be
//! claimed without the key and survives changes of address. The cluster CA binds the id to a
//! cluster and a role; nothing else that a certificate request says is taken over.

mod authority;
mod base32;
mod certificate;
mod credentials;
mod digest;
mod files;
mod key;
mod token;

pub use authority::Authority;
pub(crate) use certificate::{CaFacts, NodeFacts};
pub use credentials::{Identity, IdentityError};
pub use digest::CaDigest;
pub use key::NodeKey;
pub use token::{JoinToken, TokenError};

use crate::model::{ClusterId, NodeId, Role};

/// Who is at the other end of a connection, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Holds a certificate of our cluster's CA.
    Member {
        /// Its id, bound to its key.
        node: NodeId,
        /// Granted when the certificate was signed.
        role: Role,
        /// Ours.
        cluster: ClusterId,
    },
    /// Presented no certificate: somebody who wants to join.
    Stranger,
}

#[cfg(test)]
mod tests;
