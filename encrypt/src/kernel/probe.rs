//! Whether the kernel can do it, found by doing it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::{EEXIST, ENOENT, ENOSYS, EPERM, EPROTONOSUPPORT, ESRCH};
use weft_netns::Netns;

use super::REQID;
use super::link::{Link, XfrmError};
use super::message::{ALGORITHM, Message, State, kind};
use crate::keys::{KEY, SALT, SaKey};
use crate::path::ESP_PORT;

/// What the kernel lacks, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// XFRM over netlink.
    #[error("the kernel has no XFRM (CONFIG_XFRM_USER, module xfrm_user): {0}")]
    Xfrm(String),
    /// ESP.
    #[error("the kernel has no ESP for {family} ({module}): {source}")]
    Esp {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// What to load or switch on.
        module: &'static str,
        /// What it said.
        source: XfrmError,
    },
    /// The algorithm.
    #[error("the kernel has no {ALGORITHM} (CONFIG_CRYPTO_GCM, CONFIG_CRYPTO_SEQIV): {0}")]
    Algorithm(XfrmError),
    /// The privilege.
    #[error("the kernel's ESP needs CAP_NET_ADMIN in the network namespace: {0}")]
    NotPermitted(XfrmError),
    /// Something else.
    #[error("the kernel refused an association such as encrypted networks have: {0}")]
    Other(XfrmError),
}

/// Adds an association in all as the data path does, in the network namespace of this thread, between
/// addresses of documentation in the family of `local`; and deletes it.
///
/// # Errors
/// [`ProbeError`] says what lacks.
pub fn probe(local: IpAddr) -> Result<(), ProbeError> {
    let (from, to) = match local {
        IpAddr::V4(_) => (
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
        ),
        IpAddr::V6(_) => (
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
        ),
    };
    let netns = Netns::current().map_err(|e| ProbeError::Xfrm(e.to_string()))?;
    let mut link = Link::open(&netns).map_err(|e| ProbeError::Xfrm(e.to_string()))?;
    let state = State {
        from,
        to,
        spi: REQID,
        reqid: REQID,
        esp_port: ESP_PORT,
        inner_port: ESP_PORT,
        limits: (u64::MAX, u64::MAX),
    };
    let key = SaKey::from_bytes([0; KEY + SALT]);
    // One that a probe was killed over is as good.
    let added = link.settle(&Message::add_state(&state, &key), &[EEXIST]);
    added.map_err(|source| lacking(local, source))?;
    let delete = Message::about_state(kind::DELETE_STATE, to, REQID);
    let deleted = link.settle(&delete, &[ESRCH]);
    deleted.map_err(ProbeError::Other)
}

fn lacking(local: IpAddr, source: XfrmError) -> ProbeError {
    let (family, module) = match local {
        IpAddr::V4(_) => ("IPv4", "CONFIG_INET_ESP, module esp4"),
        IpAddr::V6(_) => ("IPv6", "CONFIG_INET6_ESP, module esp6"),
    };
    match source.errno() {
        Some(EPERM) => ProbeError::NotPermitted(source),
        Some(EPROTONOSUPPORT) => ProbeError::Esp {
            family,
            module,
            source,
        },
        Some(ENOSYS | ENOENT) => ProbeError::Algorithm(source),
        _ => ProbeError::Other(source),
    }
}
