use weft_netns::nft::{Cause, NftError};

use super::spec::StatsSpecError;

/// Connections of backends could not be counted, or the counters not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// The kernel cannot do it.
    #[error(
        "statistics of services need nf_tables for inet with ct and counters in sets (Linux 5.7): \
         use a kernel with CONFIG_NF_TABLES_INET and CONFIG_NFT_CT, or load these modules ({0})"
    )]
    Unsupported(#[source] NftError),
    /// The process may not do it.
    #[error("statistics of services need CAP_NET_ADMIN in the container's network namespace ({0})")]
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
    /// No table can count that.
    #[error(transparent)]
    Spec(#[from] StatsSpecError),
    /// A request failed for another reason.
    #[error("statistics of services could not be {what}: {source}")]
    Nft {
        /// `read` or `changed`.
        what: &'static str,
        /// What failed.
        source: NftError,
    },
}

impl StatsError {
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
            Cause::Owned => Self::owned(table, "which claimed it a moment ago".to_owned()),
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

    pub(super) fn owned(table: &str, owner: String) -> Self {
        Self::Owned {
            table: table.to_owned(),
            owner,
        }
    }
}
