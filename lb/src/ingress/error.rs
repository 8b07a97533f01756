use weft_netns::nft::{NftError, TableError};

use super::spec::IngressSpecError;

/// The ingress table could not be put in place or read. Until it is, published ports answer only
/// where a backend is, and `allowed` is not enforced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngressError {
    /// The kernel cannot do it.
    #[error(
        "the ingress mesh needs nf_tables for inet with ct, nat, masq and fib: use a kernel with \
         CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_NAT, CONFIG_NFT_MASQ and \
         CONFIG_NFT_FIB_INET, or load these modules ({0})"
    )]
    Unsupported(#[source] NftError),
    /// The process may not do it.
    #[error("the ingress mesh needs CAP_NET_ADMIN in the host's network namespace ({0})")]
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
    /// No table can have that content.
    #[error(transparent)]
    Spec(#[from] IngressSpecError),
    /// A request failed for another reason.
    #[error("the ingress table could not be {what}: {source}")]
    Nft {
        /// `read` or `changed`.
        what: &'static str,
        /// What failed.
        source: NftError,
    },
}

impl From<TableError> for IngressError {
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
