use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::files;

/// Bytes of a master key and of the keys derived from it.
const KEY_LEN: usize = 32;
/// Bytes of the salt that every record starts with.
const SALT_LEN: usize = 16;
/// Bytes that sealing adds to a record: salt, nonce, tag.
const OVERHEAD: usize = SALT_LEN + NONCE_LEN + 16;
/// Records sealed with one derived key before the next is derived: far below the 2^32 random
/// nonces per key of NIST SP 800-38D section 8.3.
const RECORDS_PER_KEY: u64 = 1 << 30;
/// Salts whose derived keys are kept; one is added per start of the agent.
const KNOWN_KEYS: usize = 64;

/// Seals and opens the records of one node's store with AES-256-GCM.
///
/// A record is `salt | nonce | ciphertext | tag`. The key is HKDF(master key, salt), with a salt
/// of its own for every start of the agent, and the nonce is random, so neither a long life nor a
/// copied machine image leads to a repeated pair of key and nonce. The associated data is the
/// record's place: a record moved to another place does not open.
pub(crate) struct Sealer {
    master: Zeroizing<[u8; KEY_LEN]>,
    random: SystemRandom,
    keys: Mutex<Keys>,
}

struct Keys {
    current: ([u8; SALT_LEN], LessSafeKey),
    left: u64,
    known: BTreeMap<[u8; SALT_LEN], LessSafeKey>,
}

/// A record did not open: another key, another place, or changed bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsealable;

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// Name of the key file in a data directory.
    pub(crate) const FILE: &str = "seal.key";

    /// Writes a fresh key file, mode 0600.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut master = Zeroizing::new([0; KEY_LEN]);
        SystemRandom::new()
            .fill(master.as_mut())
            .map_err(|_| no_randomness())?;
        files::replace(path, master.as_ref())?;
        Self::new(master)
    }

    /// Reads the key file. `None` when there is none.
    pub(crate) fn load(path: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = files::read(path, KEY_LEN as u64)? else {
            return Ok(None);
        };
        let bytes = Zeroizing::new(bytes);
        let master = <[u8; KEY_LEN]>::try_from(bytes.as_slice()).map_err(|_| {
            let reason = format!("it has {} bytes, {KEY_LEN} are expected", bytes.len());
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        Self::new(Zeroizing::new(master)).map(Some)
    }

    fn new(master: Zeroizing<[u8; KEY_LEN]>) -> io::Result<Self> {
        let random = SystemRandom::new();
        let current = fresh_key(&master, &random)?;
        let keys = Keys {
            current,
            left: RECORDS_PER_KEY,
            known: BTreeMap::new(),
        };
        Ok(Self {
            master,
            random,
            keys: Mutex::new(keys),
        })
    }

    /// Encrypts the record that is to be stored at `index` of `table`.
    pub(crate) fn seal(&self, table: &str, index: u64, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| no_randomness())?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.left == 0 {
            keys.current = fresh_key(&self.master, &self.random)?;
            keys.left = RECORDS_PER_KEY;
        }
        keys.left -= 1;
        let (salt, key) = &keys.current;
        let mut record = Vec::with_capacity(plain.len() + OVERHEAD);
        record.extend_from_slice(salt);
        record.extend_from_slice(&nonce);
        record.extend_from_slice(plain);
        let (_, body) = record.split_at_mut(SALT_LEN + NONCE_LEN);
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place(table, index)),
                body,
            )
            .map_err(|_| io::Error::other("a record is too large to be sealed"))?;
        record.extend_from_slice(tag.as_ref());
        Ok(record)
    }

    /// Decrypts the record that was stored at `index` of `table`.
    pub(crate) fn open(
        &self,
        table: &str,
        index: u64,
        record: &[u8],
    ) -> Result<Vec<u8>, Unsealable> {
        let (salt, rest) = record.split_first_chunk::<SALT_LEN>().ok_or(Unsealable)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.current.0 != *salt && !keys.known.contains_key(salt) {
            if keys.known.len() >= KNOWN_KEYS {
                keys.known.pop_first();
            }
            let key = derived(&self.master, salt).map_err(|_| Unsealable)?;
            keys.known.insert(*salt, key);
        }
        let key = match keys.known.get(salt) {
            Some(key) => key,
            None => &keys.current.1,
        };
        let mut body = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key
            .open_in_place(nonce, Aad::from(place(table, index)), &mut body)
            .map_err(|_| Unsealable)?
            .len();
        body.truncate(length);
        Ok(body)
    }
}

fn fresh_key(
    master: &[u8; KEY_LEN],
    random: &SystemRandom,
) -> io::Result<([u8; SALT_LEN], LessSafeKey)> {
    let mut salt = [0; SALT_LEN];
    random.fill(&mut salt).map_err(|_| no_randomness())?;
    let key = derived(master, &salt)?;
    Ok((salt, key))
}

fn derived(master: &[u8; KEY_LEN], salt: &[u8; SALT_LEN]) -> io::Result<LessSafeKey> {
    let unusable = |_| io::Error::other("no key could be derived");
    let prk = Salt::new(HKDF_SHA256, salt).extract(master);
    let okm = prk
        .expand(&[b"weft store 1"], &AES_256_GCM)
        .map_err(unusable)?;
    Ok(LessSafeKey::new(UnboundKey::from(okm)))
}

fn place(table: &str, index: u64) -> Vec<u8> {
    let mut place = Vec::with_capacity(table.len() + 9);
    place.extend_from_slice(table.as_bytes());
    place.push(0);
    place.extend_from_slice(&index.to_be_bytes());
    place
}

fn no_randomness() -> io::Error {
    io::Error::other("the system's random source failed")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sealer() -> (tempfile::TempDir, Sealer) {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::create(&dir.path().join(Sealer::FILE)).unwrap();
        (dir, sealer)
    }

    #[test]
    fn a_record_opens_at_its_own_place_only() {
        let (_dir, sealer) = sealer();
        let record = sealer.seal("log", 7, b"entry").unwrap();
        assert_eq!(sealer.open("log", 7, &record).unwrap(), b"entry");
        assert_eq!(sealer.open("log", 8, &record), Err(Unsealable));
        assert_eq!(sealer.open("meta", 7, &record), Err(Unsealable));
    }

    #[test]
    fn a_changed_or_cut_record_does_not_open() {
        let (_dir, sealer) = sealer();
        let record = sealer.seal("log", 7, b"entry").unwrap();
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            assert_eq!(
                sealer.open("log", 7, &changed),
                Err(Unsealable),
                "byte {at}"
            );
            assert_eq!(
                sealer.open("log", 7, &record[..at]),
                Err(Unsealable),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn a_later_start_opens_what_an_earlier_one_sealed_and_another_key_does_not() {
        let (dir, first) = sealer();
        let record = first.seal("log", 1, b"entry").unwrap();
        let path = dir.path().join(Sealer::FILE);
        let again = Sealer::load(&path).unwrap().unwrap();
        assert_eq!(again.open("log", 1, &record).unwrap(), b"entry");
        assert_ne!(again.seal("log", 1, b"entry").unwrap(), record);
        let (_other_dir, other) = sealer();
        assert_eq!(other.open("log", 1, &record), Err(Unsealable));
    }

    #[test]
    fn the_key_file_is_its_owners_alone_and_a_short_one_is_refused() {
        let (dir, _sealer) = sealer();
        let path = dir.path().join(Sealer::FILE);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, b"short").unwrap();
        assert!(
            Sealer::load(&path)
                .unwrap_err()
                .to_string()
                .contains("5 bytes")
        );
        std::fs::remove_file(&path).unwrap();
        assert!(Sealer::load(&path).unwrap().is_none());
    }
}
