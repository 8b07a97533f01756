use std::io;

use super::attr::Malformed;
use super::message::Refusal;

/// A request to nf_tables or connection tracking failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// No netfilter netlink socket.
    #[error("cannot open a netlink netfilter socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused one request of a transaction, and with it the whole.
    #[error("the kernel refused to {what}: {source}{}", words(.refusal))]
    Refused {
        /// Which one.
        what: String,
        /// The error number as an error.
        source: io::Error,
        /// What the kernel said.
        refusal: Refusal,
    },
    /// The transaction does not fit into one datagram of the socket.
    #[error(
        "a transaction of {bytes} bytes does not fit into the socket's send buffer; raise the \
         sysctl net.core.wmem_max or give the process CAP_NET_ADMIN in the initial user namespace"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// An attribute does not fit into its 16-bit length.
    #[error("a request is longer than netlink can carry")]
    Overlong,
    /// The socket failed.
    #[error("cannot {what} over netlink: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// The kernel's answer is missing.
    #[error("the kernel did not answer when asked to {what}")]
    NoAnswer {
        /// What was asked.
        what: String,
    },
    /// The kernel's answer cannot be read.
    #[error("the kernel's answer when asked to {what} is malformed")]
    Malformed {
        /// What was asked.
        what: String,
    },
}

/// What a failure says of the kernel and the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel cannot do it.
    Unsupported,
    /// The process may not do it.
    NotPermitted,
    /// The table belongs to another socket.
    Owned,
    /// Something else.
    Other,
}

impl NftError {
    /// Why the first request of a socket failed, of whatever subsystem.
    pub fn first_cause(&self) -> Cause {
        match self.errno() {
            Some(libc::EPERM | libc::EACCES) => Cause::NotPermitted,
            // How nfnetlink answers for a subsystem that it does not have.
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Cause::Unsupported,
            None if matches!(self, Self::Open(_)) => Cause::Unsupported,
            _ => Cause::Other,
        }
    }

    /// Why a transaction failed, where requests had succeeded before.
    pub fn commit_cause(&self) -> Cause {
        match self.errno() {
            // The privilege is there, or nothing could have been read.
            Some(libc::EPERM) => Cause::Owned,
            Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Cause::Unsupported,
            _ => Cause::Other,
        }
    }

    /// Whether a kernel that does not know one of a table's flags would answer a transaction so.
    pub fn is_of_flags(&self) -> bool {
        // Before Linux 5.11 it is EINVAL.
        self.commit_cause() == Cause::Unsupported || self.errno() == Some(libc::EINVAL)
    }

    /// The kernel's error number, where it refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            _ => None,
        }
    }

    pub(crate) fn refused(what: &str, refusal: Refusal) -> Self {
        let source = io::Error::from_raw_os_error(refusal.errno);
        Self::Refused {
            what: what.to_owned(),
            source,
            refusal,
        }
    }

    pub(crate) fn malformed(what: &str) -> impl Fn(Malformed) -> Self {
        move |_| Self::Malformed {
            what: what.to_owned(),
        }
    }

    pub(crate) fn io(what: &str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io {
            what: what.to_owned(),
            source,
        }
    }
}

fn words(refusal: &Refusal) -> String {
    refusal
        .text
        .as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default()
}
