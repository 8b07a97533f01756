use weft_netns::NetnsError;
use weft_netns::nft::{Batch, NftError, TableError};

use crate::spec::SpecError;

/// The balancing table could not be put in place or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BalancerError {
    /// The kernel cannot do it.
    #[error(
        "service addresses need nf_tables for inet with nat, numgen, hash, fib and reject: use a \
         kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_NUMGEN, CONFIG_NFT_HASH, \
         CONFIG_NFT_FIB_INET, CONFIG_NFT_REJECT_INET and (before Linux 6.2) CONFIG_NFT_OBJREF, or \
         load these modules ({0})"
    )]
    Unsupported(#[source] NftError),
    /// The process may not do it.
    #[error("service addresses need CAP_NET_ADMIN in their network namespace ({0})")]
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
    /// The namespace cannot be entered.
    #[error("service addresses cannot be looked after: {0}")]
    Netns(#[from] NetnsError),
    /// No table can have that content.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A request failed for another reason.
    #[error("service addresses could not be {what}: {source}")]
    Nft {
        /// `read` or `changed`.
        what: &'static str,
        /// What failed.
        source: NftError,
    },
}

impl From<TableError> for BalancerError {
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

impl BalancerError {
    /// Whether a kernel that does not know one of the table's flags would answer so.
    pub(crate) fn is_of_flags(&self) -> bool {
        match self {
            Self::Unsupported(source) | Self::Nft { source, .. } => source.is_of_flags(),
            _ => false,
        }
    }

    /// Whether a kernel that cannot give flows time-outs would answer so.
    pub(crate) fn is_of_idle(&self) -> bool {
        match self {
            Self::Unsupported(source) | Self::Nft { source, .. } => Batch::lacks_timeouts(source),
            _ => false,
        }
    }
}
