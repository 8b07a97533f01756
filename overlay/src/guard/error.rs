use weft_netns::nft::{NftError, TableError};

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

impl From<TableError> for GuardError {
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
