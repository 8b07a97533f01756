//! Connection tracking over netlink (linux/netfilter/nfnetlink_conntrack.h): flows are read, and
//! forgotten.
//!
//! What becomes of a flow that is forgotten depends on its next packet. It is taken for the first of
//! a flow, also in the middle of a TCP connection as long as the sysctl
//! `net.netfilter.nf_conntrack_tcp_loose` is on, as it is by default.

mod flow;

pub use flow::{End, Flow, Match, Tuple};

use std::net::IpAddr;

use crate::Netns;
use crate::nfnetlink::attr::Attrs;
use crate::nfnetlink::{Link, NftError, Query};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
/// `enum cntl_msg_types`.
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
const GET_STATISTICS: u16 = 5;
/// `AF_INET`.
const FAMILY_IPV4: u8 = 2;

/// A netlink socket to a namespace's connection tracking.
#[derive(Debug)]
pub struct Conntrack {
    link: Link,
}

impl Conntrack {
    /// Opens a socket in another network namespace.
    ///
    /// # Errors
    /// [`NftError::Open`], when the namespace cannot be entered or the kernel has no netfilter
    /// netlink.
    pub fn open_in(netns: &Netns) -> Result<Self, NftError> {
        let link = Link::open_in(netns)?;
        Ok(Self { link })
    }

    /// How many flows the namespace has, without reading them.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn count(&mut self) -> Result<u32, NftError> {
        let what = "count flows";
        let query = Query {
            subsystem: SUBSYSTEM,
            kind: GET_STATISTICS,
            family: 0,
            dump: false,
        };
        let mut count = None;
        let answer = |kind, attrs: Attrs<'_>| {
            if kind == GET_STATISTICS {
                // `CTA_STATS_GLOBAL_ENTRIES`.
                count = attrs.find(1)?.map(|attr| attr.u32()).transpose()?;
            }
            Ok(())
        };
        self.link.query(what, query, |_| {}, answer)?;
        count.ok_or_else(|| NftError::NoAnswer {
            what: what.to_owned(),
        })
    }

    /// Reads all flows. Those that come or go meanwhile may be missing or come twice.
    ///
    /// # Errors
    /// [`NftError`], when the kernel has no connection tracking over netlink or the privilege lacks
    /// among others.
    pub fn flows(&mut self, mut each: impl FnMut(Flow)) -> Result<(), NftError> {
        let query = Query {
            subsystem: SUBSYSTEM,
            kind: GET,
            family: 0,
            dump: true,
        };
        let answer = |kind, attrs: Attrs<'_>| {
            if kind == NEW {
                // None for a flow between other than IP addresses.
                Flow::read(attrs)?.into_iter().for_each(&mut each);
            }
            Ok(())
        };
        self.link.query("read flows", query, |_| {}, answer)
    }

    /// Lets a flow be forgotten in so many seconds unless a packet comes: as if it had been idle
    /// until then. One that is not there any more fails.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn set_left(&mut self, flow: &Flow, seconds: u32) -> Result<(), NftError> {
        let query = Query {
            subsystem: SUBSYSTEM,
            kind: NEW,
            family: flow.family(),
            dump: false,
        };
        let content = |attrs: &mut _| flow.write_left(seconds, attrs);
        self.link
            .query("change a flow", query, content, |_, _| Ok(()))
    }

    /// Forgets the flows that match, in the kernel where it can (IPv4, Linux 6.8 and later), and one
    /// by one where not. What has no address in it matches nothing.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn forget(&mut self, wanted: &Match) -> Result<(), NftError> {
        match wanted.address() {
            None => Ok(()),
            Some(IpAddr::V4(_)) => self.forget_filtered(wanted),
            // Linux takes an IPv6 address of a filter for one that is not meant (6.18 still).
            Some(IpAddr::V6(_)) => self.forget_each(wanted).map(|_| ()),
        }
    }

    fn forget_filtered(&mut self, wanted: &Match) -> Result<(), NftError> {
        let content = |attrs: &mut _| wanted.write(attrs);
        let outcome = self
            .link
            .query("forget flows", delete(FAMILY_IPV4), content, |_, _| Ok(()));
        match outcome {
            // Earlier kernels take this for the name of one flow, which lacks its other half.
            Err(error) if is_unknown(&error) => self.forget_each(wanted).map(|_| ()),
            other => absent_is_done(other),
        }
    }

    /// Forgets the flows that match, one by one; how many.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn forget_each(&mut self, wanted: &Match) -> Result<usize, NftError> {
        let mut found = Vec::new();
        self.flows(|flow| {
            if wanted.matches(&flow) {
                found.push(flow);
            }
        })?;
        for flow in &found {
            let query = delete(flow.family());
            let content = |attrs: &mut _| flow.write_name(attrs);
            let outcome = self
                .link
                .query("forget a flow", query, content, |_, _| Ok(()));
            absent_is_done(outcome)?;
        }
        Ok(found.len())
    }
}

fn delete(family: u8) -> Query {
    Query {
        subsystem: SUBSYSTEM,
        kind: DELETE,
        family,
        dump: false,
    }
}

fn is_unknown(error: &NftError) -> bool {
    matches!(error.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// A flow that is not there is forgotten.
fn absent_is_done(outcome: Result<(), NftError>) -> Result<(), NftError> {
    match outcome {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
