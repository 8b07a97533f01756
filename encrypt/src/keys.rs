//! Keys of security associations, from what the two peers' TLS session exports.
//!
//! ```text
//! session secret     = TLS exporter(label = EXPORTER_LABEL, context = "", 32 bytes)
//! extracted          = HKDF-Extract(salt = "weft esp keys 1", session secret)
//! key (32), salt (4) = HKDF-Expand(extracted, info, 36)
//! info               = "weft esp sa" 0x00 sender (10) receiver (10) class (4) epoch (8)
//! ```
//!
//! The exporter is that of RFC 5705 and RFC 8446 section 7.5, HKDF that of RFC 5869 with SHA-256,
//! key and salt are in the order of RFC 4106 section 8.1, and numbers are big endian.
//!
//! Every part of `info` has a fixed length, so no two contexts make the same one. The two
//! directions differ by the order of the node ids, and a key of one session never is one of
//! another. All epochs of a session come from the same secret: for forward secrecy between epochs
//! the caller replaces the session, which [`rotation`](crate::rotation) does without loss.

use std::fmt;

use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Label for the TLS exporter. Labels that begin with `EXPERIMENTAL` need no registration (RFC 5705
/// section 4).
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL weft esp 1";
/// Context for the TLS exporter: present and empty.
pub const EXPORTER_CONTEXT: &[u8] = b"";
/// Bytes to take from the TLS exporter.
pub const EXPORTER_SECRET: usize = 32;
/// Bytes of an AES-256 key.
pub const KEY: usize = 32;
/// Bytes of the salt, the part of the nonce that is not sent (RFC 4106 section 4).
pub const SALT: usize = 4;

const EXTRACT_SALT: &[u8] = b"weft esp keys 1";
const INFO_PREFIX: &[u8] = b"weft esp sa\0";

/// What the TLS session of two peers exports. Erased when dropped, never printed.
pub struct SessionSecret(Zeroizing<[u8; EXPORTER_SECRET]>);

impl SessionSecret {
    /// Takes the secret from a session, through the closure: `(output, label, context)`, the
    /// arguments of RFC 5705 section 4. The bytes are written where they stay.
    ///
    /// # Errors
    /// The closure's.
    pub fn export<E>(
        exporter: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut secret = Zeroizing::new([0; EXPORTER_SECRET]);
        exporter(secret.as_mut_slice(), EXPORTER_LABEL, EXPORTER_CONTEXT)?;
        Ok(Self(secret))
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret")
    }
}

/// A node, as the key derivation names it: the bytes of its node id, which are the first ten of the
/// digest of its public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party(pub [u8; 10]);

/// Networks that share security associations between two nodes.
///
/// Networks of different classes never share a key, so a packet of one cannot be passed off as one
/// of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkClass(pub u32);

/// Number of a key within one direction of a peer pair. The receiving node counts them from 1 and
/// never uses one twice while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// What, beside the session, a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyContext {
    /// Who seals with it.
    pub sender: Party,
    /// Who opens with it.
    pub receiver: Party,
    /// Which networks it is for.
    pub class: NetworkClass,
    /// Which of the keys of this direction and class it is.
    pub epoch: Epoch,
}

impl KeyContext {
    /// The same in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            sender: self.receiver,
            receiver: self.sender,
            ..self
        }
    }
}

/// Key and salt of one security association. Erased when dropped, never printed, not clonable: an
/// outbound association takes it, so that it seals with it alone.
pub struct SaKey(Zeroizing<[u8; KEY + SALT]>);

impl SaKey {
    /// A key from its bytes: 32 of key and 4 of salt, in the order of RFC 4106 section 8.1. The
    /// caller erases its own copy.
    pub fn from_bytes(mut bytes: [u8; KEY + SALT]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// The bytes in the order of RFC 4106 section 8.1, as the kernel's `rfc4106(gcm(aes))` takes
    /// them. To be shown to nobody else.
    pub fn expose(&self) -> &[u8; KEY + SALT] {
        &self.0
    }

    pub(crate) fn key(&self) -> &[u8; KEY] {
        self.0
            .first_chunk()
            .expect("32 bytes are in front of 4 others")
    }

    pub(crate) fn salt(&self) -> &[u8; SALT] {
        self.0.last_chunk().expect("4 bytes are behind 32 others")
    }
}

impl fmt::Debug for SaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaKey")
    }
}

/// The key of one direction, class and epoch. Both peers compute the same one.
///
/// Pure: called twice with the same arguments it returns the same key. Whoever makes an outbound
/// association of it must do so once, since each starts at sequence number 1;
/// [`rotation`](crate::rotation) asks for no key twice.
pub fn derive(secret: &SessionSecret, context: &KeyContext) -> SaKey {
    let mut key = Zeroizing::new([0; KEY + SALT]);
    Salt::new(HKDF_SHA256, EXTRACT_SALT)
        .extract(secret.0.as_slice())
        .expand(
            &[
                INFO_PREFIX,
                &context.sender.0,
                &context.receiver.0,
                &context.class.0.to_be_bytes(),
                &context.epoch.0.to_be_bytes(),
            ],
            KeyMaterial,
        )
        .and_then(|material| material.fill(key.as_mut_slice()))
        .expect("36 bytes are less than 255 blocks of SHA-256, the most that HKDF gives");
    SaKey(key)
}

struct KeyMaterial;

impl KeyType for KeyMaterial {
    fn len(&self) -> usize {
        KEY + SALT
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::test_util::{hex, secret};

    const CONTEXT: KeyContext = KeyContext {
        sender: Party([0xa0; 10]),
        receiver: Party([0xb0; 10]),
        class: NetworkClass(1),
        epoch: Epoch(1),
    };

    /// Computed with Python's `hmac` and `hashlib` alone:
    ///
    /// ```python
    /// import hmac, hashlib
    /// h = lambda k, m: hmac.new(k, m, hashlib.sha256).digest()
    /// prk = h(b"weft esp keys 1", bytes(range(32)))
    /// info = b"weft esp sa\0" + SENDER + RECEIVER
    /// info += CLASS.to_bytes(4, "big") + EPOCH.to_bytes(8, "big")
    /// t1 = h(prk, info + b"\1"); t2 = h(prk, t1 + info + b"\2"); print((t1 + t2)[:36].hex())
    /// ```
    #[test]
    fn keys_agree_with_another_implementation_of_hkdf() {
        let other = KeyContext {
            sender: Party([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            receiver: Party([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
            class: NetworkClass(0x0102_0304),
            epoch: Epoch(0x1112_1314_1516_1718),
        };
        for (context, expected) in [
            (
                CONTEXT,
                "65d08ce6ab2095f1c26d8f6dc90511158020186612d4b1aaeed708f3a5e59da8cff760fa",
            ),
            (
                CONTEXT.reversed(),
                "66bbb99a68a5be1c6144b5854a0e40bcdbf2d8f3ee7929a5ee0116f765c215164028fb27",
            ),
            (
                other,
                "00b0f84687e90a104f1b544598afc712787ad0171b63c95b4e4bca0ea7541c2b70dabae1",
            ),
        ] {
            assert_eq!(
                derive(&secret(0), &context).expose().as_slice(),
                hex(expected)
            );
        }
    }

    #[test]
    fn every_part_of_the_context_and_the_session_make_another_key() {
        let contexts = [
            CONTEXT,
            CONTEXT.reversed(),
            KeyContext {
                sender: Party([0xa1; 10]),
                ..CONTEXT
            },
            KeyContext {
                receiver: Party([0xb1; 10]),
                ..CONTEXT
            },
            KeyContext {
                class: NetworkClass(2),
                ..CONTEXT
            },
            KeyContext {
                epoch: Epoch(2),
                ..CONTEXT
            },
        ];
        let keys: BTreeSet<_> = [secret(0), secret(1)]
            .iter()
            .flat_map(|secret| contexts.map(|context| *derive(secret, &context).expose()))
            .collect();
        assert_eq!(keys.len(), 2 * contexts.len());
        let salts: BTreeSet<_> = keys.iter().map(|key| key[KEY..].to_vec()).collect();
        assert_eq!(salts.len(), keys.len());
    }

    #[test]
    fn the_exporter_is_asked_with_the_label_and_its_error_is_passed_on() {
        let taken = SessionSecret::export(|out, label, context| {
            assert_eq!(
                (out.len(), label, context),
                (32, EXPORTER_LABEL, EXPORTER_CONTEXT)
            );
            Err("closed")
        });
        assert_eq!(taken.err(), Some("closed"));
    }

    #[test]
    fn neither_secrets_nor_keys_are_printed() {
        assert_eq!(format!("{:?}", secret(0)), "SessionSecret");
        assert_eq!(format!("{:?}", derive(&secret(0), &CONTEXT)), "SaKey");
    }
}
