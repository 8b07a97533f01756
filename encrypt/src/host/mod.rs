//! What the host needs around a data path of encrypted networks, so that no frame of theirs is ever on
//! the underlay in clear, nor taken from it.
//!
//! # The way out of the user-space path
//! The VXLAN devices of encrypted networks send to a UDP port of their own, the inner port. A rule leads
//! what this host itself sends there to a table of its own, in which there is nothing but the device
//! [`TAP`] that the data-plane process reads, and, for when that is not there, nothing at all:
//!
//! ```text
//! 110: from all iif lo ipproto udp dport 4790 lookup 2003304448 proto 121
//!
//! default dev wf-esp proto 121 scope link metric 1
//! blackhole default proto 121 metric 30568
//! ```
//!
//! - The device goes with the process that opened it, and its routes with it; what counts then is the
//!   blackhole. Only the family of the tunnel ends has a way through the device at all.
//! - The priority is behind that of the local table, and before what VPN clients add (Tailscale 5210,
//!   wg-quick 32764) and before the gateway's (119 and more).
//! - `iif lo` is what the host itself sends. What it routes for others is theirs. It also spares
//!   the kernel from looking for ports in every packet that comes in, as it does once there is a rule about
//!   ports that is not confined so.
//! - What the process writes to the device comes from addresses that are routed elsewhere:
//!   `rp_filter=2` takes that; the larger one of the device's value and of `conf/all` counts, so an
//!   administrator's 0 and 1 are no hindrance. But it takes it only on a device that has an address
//!   (seen on 6.18), so over IPv4 the device gets [`TAP_ADDRESS`], which is loopback's and so known to
//!   nobody, and of scope `host`, so chosen for nothing.
//!
//! # The guard
//! All of that can be undone by a slip of somebody else's. So there is a table of packet rules besides,
//! which is there before all of it, and goes after it:
//!
//! ```text
//! table inet weft-esp {
//!     chain output {
//!         type filter hook output priority raw; policy accept;
//!         udp dport 4790 oifname != "wf-esp" goto drop-out
//!     }
//!     chain leaving {
//!         type filter hook postrouting priority raw; policy accept;
//!         ip saddr LOCAL udp dport 4790 oifname != "wf-esp" goto drop-out
//!     }
//!     chain input {
//!         type filter hook input priority raw; policy accept;
//!         udp dport 4790 iifname != "wf-esp" goto drop-in
//!     }
//! }
//! ```
//!
//! A drop is final, whatever other chains accept before or after. The second chain sees where a packet
//! goes after chains that route it anew. Where the kernel does ESP, the conditions are `rt ipsec missing`
//! and `meta secpath missing`, and a packet whose network the sender does not share with this node
//! ([`HostSpec::allowed`]) is dropped, too. The table is kept as [`OwnedTable`] says.

mod guard;
mod kernel;
mod plan;
mod spec;

use weft_netns::Netns;
use weft_netns::nft::{OwnedTable, TableError};
use weft_netns::rtnl::Rtnl;

use guard::Dropped;
pub use spec::{ALLOWED_MAX, HostSpec, Mode};

/// The device by which the user-space path gets frames from the kernel and gives them to it. The
/// data-plane process makes it; its settings are made here.
pub const TAP: &str = crate::userspace::IFNAME;
/// Its address, where tunnel ends are of IPv4.
pub const TAP_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 119, 102, 1);
/// Packets that it queues for the process. As super-packets they are 3 MB, which a core carries in 3 ms:
/// with 128, half of the round trips beside a bulk flow took 2.7 ms, with 32 they took 1.1. Of small ones a
/// burst must fit, and what comes while the process waits for a core.
pub const TAP_QUEUE: u32 = 48;
/// Name of the guard's table.
pub const TABLE: &str = "weft-esp";
/// Priority of the rule.
pub const RULE_PRIORITY: u32 = 110;
/// Routing table of what goes to the inner port.
pub const ROUTE_TABLE: u32 = 0x7768_0000;
/// `rtm_protocol` and `FRA_PROTOCOL` of our routes and rules. 119 and 120 are the gateway's.
pub const PROTOCOL: u8 = 121;

/// How often the host is looked at again after something failed: the device may have been on its way
/// out, or in.
const ROUNDS: usize = 3;

/// Keeps a host as encrypted networks need it. Remembers nothing: what there is is read from the kernel
/// every time. Its calls block, for some milliseconds at most.
#[derive(Debug)]
pub struct Host {
    netns: Netns,
    rtnl: Rtnl,
    table: OwnedTable,
}

/// What a reconciliation did and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostReport {
    /// How many changes were made; zero when the kernel was as wanted.
    pub ops: usize,
    /// Datagrams to the inner port dropped so far because they came in clear. The counters survive the
    /// agent, but not the loss of the table.
    pub dropped_in: u64,
    /// Datagrams to the inner port dropped so far because they would have left in clear.
    pub dropped_out: u64,
    /// Datagrams dropped so far that were of a network that their sender does not share with this node.
    pub dropped_foreign: u64,
    /// Whether the kernel keeps other processes from changing the guard (Linux 6.9 and later).
    pub exclusive: bool,
    /// Whether [`TAP`] is there, and is the way to the inner port.
    pub tap: bool,
}

/// The host is not as encrypted networks need it: none may be programmed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The namespace or its netlink socket cannot be opened.
    #[error("encrypted networks need the host's network namespace: {0}")]
    Open(String),
    /// The guard is not in place.
    #[error("the guard of encrypted networks {0}")]
    Guard(#[from] TableError),
    /// Nothing can be so.
    #[error("encrypted networks cannot be prepared: {0}")]
    Spec(String),
    /// A step failed.
    #[error("encrypted networks need the host to {doing}: {reason}")]
    Step {
        /// What.
        doing: String,
        /// Why not.
        reason: String,
    },
}

impl Host {
    /// Opens the calling thread's network namespace; changes nothing.
    ///
    /// # Errors
    /// When the kernel has no nf_tables, or the privilege lacks.
    pub fn open() -> Result<Self, HostError> {
        let netns = Netns::current().map_err(|e| HostError::Open(e.to_string()))?;
        let rtnl = Rtnl::open(&netns).map_err(HostError::Open)?;
        rtnl.strict().map_err(|e| HostError::Open(e.to_string()))?;
        let table = OwnedTable::open_in(&netns, TABLE)?;
        Ok(Self { netns, rtnl, table })
    }

    /// Makes the host what `spec` says, whatever it was; without one, removes what is ours. A device
    /// that is not there yet is no error. To be called again when it has come, and every so often.
    ///
    /// What protects comes first and goes last, so that whatever fails, nothing is open.
    ///
    /// # Errors
    /// [`HostError`]. The guard is then the one from before or the one wanted, and everything else
    /// somewhere between.
    pub fn reconcile(&mut self, spec: Option<&HostSpec>) -> Result<HostReport, HostError> {
        let (report, _) = self.first_changes(spec, usize::MAX)?;
        Ok(report)
    }

    /// Performs only the first `limit` changes, as an agent does that is killed then, or whose next one
    /// fails. Returns whether that was all of them. For tests of what is open then, and of what the next
    /// reconciliation makes of it.
    ///
    /// # Errors
    /// As [`reconcile`](Self::reconcile).
    #[doc(hidden)]
    pub fn reconcile_up_to(
        &mut self,
        spec: Option<&HostSpec>,
        limit: usize,
    ) -> Result<bool, HostError> {
        Ok(self.first_changes(spec, limit)?.1)
    }

    fn first_changes(
        &mut self,
        spec: Option<&HostSpec>,
        limit: usize,
    ) -> Result<(HostReport, bool), HostError> {
        spec.map_or(Ok(()), HostSpec::check)?;
        if limit == 0 {
            return Ok((HostReport::default(), false));
        }
        let mut report = HostReport::default();
        let mut left = limit;
        if let Some(spec) = spec {
            let done = self.table.reconcile(&guard::content(spec))?;
            report.count(guard::dropped(&done.before));
            report.ops = done.ops;
            left -= usize::from(done.ops > 0);
        }
        let (done, whole) = self.routes(spec, left, &mut report)?;
        report.ops += done;
        if spec.is_none() && done < left {
            let before = self.table.content()?;
            report.ops += usize::from(before.is_some());
            report.count(guard::dropped(&before.unwrap_or_default()));
            self.table.remove()?;
        }
        report.exclusive = self.table.exclusive();
        Ok((report, whole && (spec.is_some() || done < left)))
    }

    /// Brings links, routes and rules to what is wanted, by at most `left` changes. Returns how many it
    /// made, and whether that was all.
    fn routes(
        &mut self,
        spec: Option<&HostSpec>,
        left: usize,
        report: &mut HostReport,
    ) -> Result<(usize, bool), HostError> {
        let mut done = 0;
        for round in 1.. {
            let observed = kernel::observe(&mut self.rtnl, &self.netns)?;
            let ops = plan::plan(spec, &observed)?;
            report.tap = spec.is_some_and(|spec| plan::uses_tap(spec, &observed));
            let now = ops.get(..left - done).unwrap_or(&ops);
            let (performed, failed) = kernel::apply(&mut self.rtnl, &self.netns, now);
            done += performed;
            match failed {
                None => return Ok((done, now.len() == ops.len())),
                Some(error) if round == ROUNDS => return Err(error),
                Some(error) => tracing::debug!(%error, "looking at the host again"),
            }
        }
        Ok((done, true))
    }
}

impl HostReport {
    fn count(&mut self, dropped: Dropped) {
        self.dropped_in = dropped.incoming;
        self.dropped_out = dropped.outgoing;
        self.dropped_foreign = dropped.foreign;
    }
}
