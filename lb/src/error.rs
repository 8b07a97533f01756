use weft_netns::NetnsError;
use weft_netns::nft::{Batch, Cause, NftError};

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

impl BalancerError {
    /// Why the first request of all failed.
    pub(crate) fn unavailable(source: NftError) -> Self {
        match source.first_cause() {
            Cause::NotPermitted => Self::NotPermitted(source),
            Cause::Unsupported => Self::Unsupported(source),
            Cause::Owned | Cause::Other => Self::unread(source),
        }
    }

    /// Why reading failed.
    pub(crate) fn unread(source: NftError) -> Self {
        Self::Nft {
            what: "read",
            source,
        }
    }

    /// Why a transaction failed.
    pub(crate) fn refused(table: &str) -> impl Fn(NftError) -> Self {
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

    /// The table has an owner, known by its netlink port.
    pub(crate) fn owned(table: &str, port: u32) -> Self {
        Self::Owned {
            table: table.to_owned(),
            owner: format!("netlink port {port}"),
        }
    }
}
