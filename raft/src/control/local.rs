//! What a member keeps on disk besides its identity and log, and the marks of a change of
//! membership that may be cut short.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::OpenError;
use crate::codec;
use crate::identity::{Identity, IdentityError, NodeKey};
use crate::model::NodeId;
use crate::store::{Store, StoreError, files};

/// The file of a [`Local`].
const FILE: &str = "member";
/// Holds the node's key while it becomes a member. As long as it is there the rest of the
/// directory may be half made; nothing was acknowledged on its strength.
const JOINING: &str = "joining";
/// There while what a member had is removed.
const LEAVING: &str = "leaving";
/// No file of these is longer.
const LIMIT: u64 = 1 << 20;

/// What a member needs to find its way back into the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Local {
    /// Where the control port listens.
    pub(super) listen: SocketAddr,
    /// Address that peers dial.
    pub(super) advertise: SocketAddr,
    /// All managers, as last known.
    pub(super) managers: Vec<(NodeId, SocketAddr)>,
}

/// Replaces the file.
pub(super) fn save(dir: &Path, local: &Local) -> io::Result<()> {
    let bytes = codec::encode(local).map_err(io::Error::other)?;
    files::replace(&dir.join(FILE), &bytes)
}

/// Reads the file; a member has one.
pub(super) fn load(dir: &Path) -> Result<Local, OpenError> {
    let path = dir.join(FILE);
    let refused = |what: String| OpenError::File {
        path: path.clone(),
        problem: format!(
            "{what}: restore {0} from a backup, or remove {0} and join the cluster again",
            dir.display()
        ),
    };
    let bytes = files::read(&path, LIMIT)
        .map_err(|error| refused(format!("it cannot be read ({error})")))?
        .ok_or_else(|| refused("it is missing".to_owned()))?;
    codec::decode(&bytes).map_err(|error| refused(format!("it is damaged ({error})")))
}

/// Begins to become a member: the key to use, the same again after an attempt that was cut
/// short, so that the cluster does not take this node for a second one.
pub(super) fn begin_joining(dir: &Path) -> Result<NodeKey, MarkError> {
    let path = dir.join(JOINING);
    let failed = |source| MarkError::Io {
        path: path.clone(),
        source,
    };
    if let Some(bytes) = files::read(&path, LIMIT).map_err(failed)?
        && let Ok(key) = NodeKey::from_der(&bytes)
    {
        return Ok(key);
    }
    let key = NodeKey::generate()?;
    files::replace(&path, &key.to_der()).map_err(failed)?;
    Ok(key)
}

/// The membership is complete: from here on the directory is a member's.
pub(super) fn finish_joining(dir: &Path) -> Result<(), MarkError> {
    let path = dir.join(JOINING);
    files::remove(&path).map_err(|source| MarkError::Io { path, source })
}

/// Removes what a member had, such that a crash in between is made good at the next start.
pub(super) fn remove_all(dir: &Path) -> Result<(), MarkError> {
    let path = dir.join(LEAVING);
    files::replace(&path, b"").map_err(|source| MarkError::Io {
        path: path.clone(),
        source,
    })?;
    remove_half_made(dir)?;
    for name in [JOINING, LEAVING] {
        let path = dir.join(name);
        files::remove(&path).map_err(|source| MarkError::Io { path, source })?;
    }
    Ok(())
}

/// Makes good a change of membership that was cut short.
pub(super) fn recover(dir: &Path) -> Result<(), MarkError> {
    if dir.join(LEAVING).exists() {
        tracing::info!(dir = %dir.display(), "finishing to leave the cluster");
        return remove_all(dir);
    }
    if dir.join(JOINING).exists() {
        tracing::info!(dir = %dir.display(), "joining was cut short; join again");
        return remove_half_made(dir);
    }
    Ok(())
}

/// Removes everything but the marks.
pub(super) fn remove_half_made(dir: &Path) -> Result<(), MarkError> {
    Identity::wipe(dir)?;
    Store::wipe(dir)?;
    let path = dir.join(FILE);
    files::remove(&path).map_err(|source| MarkError::Io { path, source })
}

/// Why a mark could not be set or followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum MarkError {
    #[error("cannot write {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<MarkError> for OpenError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Io { path, source } => Self::File {
                path,
                problem: format!("it cannot be written ({source})"),
            },
            MarkError::Identity(error) => error.into(),
            MarkError::Store(error) => error.into(),
        }
    }
}

impl From<MarkError> for super::InitError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Io { path, source } => Self::Write { path, source },
            MarkError::Identity(error) => error.into(),
            MarkError::Store(error) => error.into(),
        }
    }
}

impl From<MarkError> for super::JoinError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Io { path, source } => Self::Write { path, source },
            MarkError::Identity(error) => error.into(),
            MarkError::Store(error) => error.into(),
        }
    }
}
