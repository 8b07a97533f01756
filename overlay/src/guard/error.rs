use weft_netns::nft::{Cause, NftError};

use super::layout::MEMBERS_MAX;

/// The member filter could not be put in place or read. Until it is, anybody who reaches the VXLAN
/// port can send frames into networks that are not encrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The kernel cannot do it.
    #[error(
        "the member filter needs nf_tables for inet: use a kernel with CONFIG_NF_TABLES and \
         CONFIG_NF_TABLES_INET, or load the module nf_tables ({0})"
    )]
    Unsupported(#[source] NftError),
    /// The process may not do it.
    #[error("the member filter needs CAP_NET_ADMIN in this network namespace ({0})")]
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
    /// More members than the sets have room for.
    #[error("{count} data-path members refused: the member filter takes at most {MEMBERS_MAX}")]
    TooManyMembers {
        /// How many.
        count: usize,
    },
    /// A request failed for another reason.
    #[error("the member filter could not be {what}: {source}")]
    Nft {
        /// `read` or `changed`.
        what: &'static str,
        /// What failed.
        source: NftError,
    },
}

impl GuardError {
    /// Why the first request of all failed.
    pub(super) fn unavailable(source: NftError) -> Self {
        match source.first_cause() {
            Cause::NotPermitted => Self::NotPermitted(source),
            Cause::Unsupported => Self::Unsupported(source),
            Cause::Owned | Cause::Other => Self::unread(source),
        }
    }

    /// Why reading failed.
    pub(super) fn unread(source: NftError) -> Self {
        Self::Nft {
            what: "read",
            source,
        }
    }

    /// Why a transaction failed.
    pub(super) fn refused(table: &str) -> impl Fn(NftError) -> Self {
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

    /// Whether a kernel that does not know one of the table's flags would answer so.
    pub(super) fn is_of_flags(&self) -> bool {
        match self {
            Self::Unsupported(source) | Self::Nft { source, .. } => source.is_of_flags(),
            _ => false,
        }
    }

    /// The table has an owner, known by its netlink port.
    pub(super) fn owned(table: &str, port: u32) -> Self {
        // A process's first netlink socket has the process id for its port.
        let program = std::fs::read_to_string(format!("/proc/{port}/comm"));
        let program = program.map(|name| format!(", program `{}`", name.trim()));
        let owner = format!("netlink port {port}{}", program.unwrap_or_default());
        Self::Owned {
            table: table.to_owned(),
            owner,
        }
    }
}
