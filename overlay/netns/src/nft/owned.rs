//! A table that one process keeps: claimed where the kernel has that, read back, and changed in one
//! transaction.
//!
//! It carries the flags `owner` and `persist`: other processes cannot change it, a foreign `nft
//! flush ruleset` skips it, and it outlives its process; while there is none it is protected from
//! nobody, and the next process repairs it. Kernels before 6.9 do not know the second flag; there
//! the table has no owner, which [`OwnedTable::exclusive`] tells.

use super::batch::Batch;
use super::object::{Table, TableFlags};
use super::socket::NftSocket;
use crate::Netns;
use crate::nfnetlink::{Cause, NftError};

/// Most characters of a table's name. The kernel would take 255.
const NAME_MAX: usize = 32;

/// A table, and the socket that owns it. Its calls block for some milliseconds at most: a
/// transaction waits for other transactions in the namespace.
#[derive(Debug)]
pub struct OwnedTable {
    socket: NftSocket,
    name: String,
    /// With these the table is made and claimed.
    flags: TableFlags,
}

/// The table could not be put in place or read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel cannot do it.
    #[error("needs nf_tables for inet, which this kernel lacks ({0})")]
    Unsupported(#[source] NftError),
    /// The process may not do it.
    #[error("needs CAP_NET_ADMIN in the network namespace ({0})")]
    NotPermitted(#[source] NftError),
    /// Another process has the table.
    #[error("nftables table `{table}` belongs to another running process ({owner}); stop it first")]
    Owned {
        /// Name of the table.
        table: String,
        /// What is known of the process.
        owner: String,
    },
    /// Not a name for a table of weft's.
    #[error(
        "nftables table `{table}` refused: its name must start with `weft` and have at most \
         {max} letters, digits, `-` or `_`"
    )]
    BadName {
        /// The name.
        table: String,
        /// Most characters.
        max: usize,
    },
    /// A request failed for another reason.
    #[error("could not be {what}: {source}")]
    Nft {
        /// `read` or `changed`.
        what: &'static str,
        /// What failed.
        source: NftError,
    },
}

/// What is there, compared with a table that this process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No table.
    Absent,
    /// One with other flags, which cannot be changed: it must be made anew.
    Different,
    /// One whose owner is gone, which kept the rest: it must be claimed.
    Orphaned,
    /// One that is kept.
    Kept,
}

impl OwnedTable {
    /// Opens the table in the calling thread's network namespace; changes nothing. `name` starts
    /// with `weft`.
    ///
    /// # Errors
    /// When the name is not one of weft's, the kernel has no nf_tables, or the privilege lacks.
    pub fn open(name: &str) -> Result<Self, TableError> {
        check_name(name)?;
        Self::new(NftSocket::open().map_err(TableError::unavailable)?, name)
    }

    /// As [`open`](Self::open), in another namespace.
    ///
    /// # Errors
    /// The same, and when the namespace cannot be entered.
    pub fn open_in(netns: &Netns, name: &str) -> Result<Self, TableError> {
        check_name(name)?;
        let socket = NftSocket::open_in(netns).map_err(TableError::unavailable)?;
        Self::new(socket, name)
    }

    fn new(mut socket: NftSocket, name: &str) -> Result<Self, TableError> {
        // Refused without the privilege or the subsystem, before anything is tried.
        socket.generation().map_err(TableError::unavailable)?;
        Ok(Self {
            socket,
            name: name.to_owned(),
            flags: TableFlags::OWNED_AND_PERSISTENT,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the kernel keeps other processes from changing it, as far as is known by now.
    pub fn exclusive(&self) -> bool {
        self.flags != TableFlags::NONE
    }

    /// With these it is made and claimed.
    pub fn flags(&self) -> TableFlags {
        self.flags
    }

    /// The table as a transaction adds or claims it.
    pub fn table(&self) -> Table {
        Table {
            name: self.name.clone(),
            flags: self.flags,
            owner: None,
        }
    }

    /// Reads the table's head; none when there is no table.
    ///
    /// # Errors
    /// [`TableError::Owned`], when another socket has it, among others.
    pub fn head(&mut self) -> Result<Option<Table>, TableError> {
        let table = self.socket.table(&self.name);
        let table = table.map_err(TableError::unread)?;
        self.standing(table.as_ref())?;
        Ok(table)
    }

    /// The socket that owns it, for what else is to be read.
    pub fn socket(&mut self) -> &mut NftSocket {
        &mut self.socket
    }

    /// Reads the table, and by `dump` what is in it; none when there is no table.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn read<T>(
        &mut self,
        mut dump: impl FnMut(&mut NftSocket, &str) -> Result<T, NftError>,
    ) -> Result<Option<(Table, T)>, TableError> {
        let name = &self.name;
        let reading = self
            .socket
            .consistent(|socket| {
                let Some(table) = socket.table(name)? else {
                    return Ok(None);
                };
                Ok(Some((table, dump(socket, name)?)))
            })
            .map_err(TableError::unread)?;
        if !reading.stable {
            // Somebody else changes rules all the time. Our own table stands still, and what is
            // misread nevertheless is put right by the next reconciliation.
            tracing::debug!(table = name, "ruleset changed while it was read");
        }
        Ok(reading.value)
    }

    /// What a table that was read is to this one.
    ///
    /// # Errors
    /// [`TableError::Owned`], when another socket has it.
    pub fn standing(&self, table: Option<&Table>) -> Result<Standing, TableError> {
        let Some(table) = table else {
            return Ok(Standing::Absent);
        };
        if let Some(owner) = table.owner
            && owner != self.socket.port()
        {
            return Err(TableError::owned(&self.name, owner));
        }
        Ok(if table.flags == self.flags {
            Standing::Kept
        } else if self.exclusive() && table.flags == TableFlags::PERSISTENT {
            Standing::Orphaned
        } else {
            Standing::Different
        })
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// [`TableError`]; nothing was changed then.
    pub fn commit(&mut self, batch: Batch) -> Result<(), TableError> {
        let refused = TableError::refused(&self.name);
        self.socket.commit(batch).map_err(refused)
    }

    /// Does `work`, which reads the table and changes it. Where it fails as it does on kernels
    /// without persistent owned tables, it is done once more, with a table that has no owner.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn attempt<R>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<R, TableError>,
    ) -> Result<R, TableError> {
        match work(self) {
            Err(error) if error.is_of_flags() && self.exclusive() => {
                self.set_exclusive(false);
                let done = work(self).inspect_err(|_| {
                    // It was not the flags.
                    self.set_exclusive(true);
                })?;
                self.warn();
                Ok(done)
            }
            other => other,
        }
    }

    /// Makes it, from now on, with an owner or without.
    pub fn set_exclusive(&mut self, exclusive: bool) {
        self.flags = match exclusive {
            true => TableFlags::OWNED_AND_PERSISTENT,
            false => TableFlags::NONE,
        };
    }

    /// Tells the administrator that it has no owner.
    pub fn warn(&self) {
        tracing::warn!(
            table = self.name,
            "this kernel has no persistent owned tables (Linux 6.9); other processes can change this \
             one"
        );
    }

    /// Removes the table. Done when there is none.
    ///
    /// # Errors
    /// [`TableError`], when another process owns it among others.
    pub fn remove(&mut self) -> Result<(), TableError> {
        if self.head()?.is_none() {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete_table(&self.name);
        self.commit(batch)
    }
}

impl TableError {
    /// Why the first request of all failed.
    fn unavailable(source: NftError) -> Self {
        match source.first_cause() {
            Cause::NotPermitted => Self::NotPermitted(source),
            Cause::Unsupported => Self::Unsupported(source),
            Cause::Owned | Cause::Other => Self::unread(source),
        }
    }

    /// Why reading failed.
    pub fn unread(source: NftError) -> Self {
        Self::Nft {
            what: "read",
            source,
        }
    }

    /// Why a transaction failed.
    fn refused(table: &str) -> impl Fn(NftError) -> Self {
        move |source| match source.commit_cause() {
            Cause::Owned => Self::Owned {
                table: table.to_owned(),
                owner: "which claimed it a moment ago".to_owned(),
            },
            Cause::Unsupported => Self::Unsupported(source),
            Cause::NotPermitted | Cause::Other => Self::Nft {
                what: "changed",
                source,
            },
        }
    }

    /// Whether a transaction was too large for the socket's send buffer.
    pub fn is_of_size(&self) -> bool {
        let Self::Nft { source, .. } = self else {
            return false;
        };
        matches!(source, NftError::TooLarge { .. })
    }

    /// Whether a kernel that does not know one of the table's flags would answer so.
    fn is_of_flags(&self) -> bool {
        match self {
            Self::Unsupported(source) | Self::Nft { source, .. } => source.is_of_flags(),
            _ => false,
        }
    }

    /// The table has an owner, known by its netlink port.
    fn owned(table: &str, port: u32) -> Self {
        // A process's first netlink socket has the process id for its port.
        let program = std::fs::read_to_string(format!("/proc/{port}/comm"));
        let program = program.map(|name| format!(", program `{}`", name.trim()));
        Self::Owned {
            table: table.to_owned(),
            owner: format!("netlink port {port}{}", program.unwrap_or_default()),
        }
    }
}

/// Everything in the packet rules that is weft's carries its name.
fn check_name(table: &str) -> Result<(), TableError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if table.starts_with("weft") && table.len() <= NAME_MAX && table.chars().all(plain) {
        Ok(())
    } else {
        Err(TableError::BadName {
            table: table.to_owned(),
            max: NAME_MAX,
        })
    }
}
