use weft_netns::nft::{NftError, TableError};

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

impl From<TableError> for StatsError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Unsupported(source) => Self::Unsupported(source),
            TableError::NotPermitted(source) => Self::NotPermitted(source),
            TableError::Owned { table, owner } => Self::Owned { table, owner },
            TableError::BadName { table, max } => Self::BadName { table, max },
            TableError::Nft { what, source } => Self::Nft { what, source },
        }
    }
}
