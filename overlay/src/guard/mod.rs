//! The member filter: datagrams to the VXLAN port from addresses that are not members of the data
//! path are dropped before the tunnel sees them.
//!
//! One nftables table of family `inet` holds two sets of member VTEPs and one chain:
//!
//! ```text
//! table inet weft {
//!     set members4 { type ipv4_addr; size 16384 }
//!     set members6 { type ipv6_addr; size 16384 }
//!     chain datapath {
//!         type filter hook input priority raw; policy accept;
//!         meta nfproto ipv4 udp dport 4789 ip saddr != @members4 counter drop
//!         meta nfproto ipv6 udp dport 4789 ip6 saddr != @members6 counter drop
//!     }
//! }
//! ```
//!
//! - **Why the input hook.** It sees exactly what this host's sockets may get: unicast, broadcast
//!   and multicast, after any redirection, and nothing that is only routed or bridged through the
//!   host, so tunnels of guests and neighbours are left alone. A drop there is final, whatever
//!   other chains of the hook accept before or after.
//! - **Fragments.** IPv4 is reassembled before the hook, so the whole datagram is judged. IPv6 is
//!   reassembled after it, unless connection tracking did so: the first fragment carries the ports
//!   and is dropped; the others match no rule, but the datagram is never whole without the first. A
//!   first fragment that hides its UDP header in a later one is discarded by the kernel itself (RFC
//!   8200 section 4.5; Linux 5.11).
//! - **Loopback is no exception.** The node's own VTEP is a member, so that datagrams from it to
//!   itself pass; other local addresses are strangers.
//! - **What it is not:** authentication. Whoever can send from a member's address, on the underlay
//!   or as a process of the node, gets past it; encrypted networks are for that.
//!
//! The table carries the flags `owner` and `persist`: other processes cannot change it, a foreign
//! `nft flush ruleset` skips it, and it outlives the agent; while no agent runs, it is protected
//! from nobody, and the next one repairs it. Kernels before 6.9 do not know the second flag; there
//! the table has no owner, which [`GuardReport::exclusive`] tells.

mod error;
mod layout;
mod observe;
mod plan;

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_netns::nft::{OwnedTable, TableError};

pub use error::GuardError;
use layout::Layout;
pub use layout::MEMBERS_MAX;
use observe::Observed;
use plan::Plan;

/// Owner of the member filter in the network namespace in which it was opened.
///
/// Its calls block for some milliseconds at most: a transaction waits for other transactions in the
/// namespace.
#[derive(Debug)]
pub struct Guard {
    table: OwnedTable,
}

/// What a call did and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardReport {
    /// How many changes were made: members added and removed, or all objects of a full replacement.
    pub ops: usize,
    /// Members in the kernel's sets now.
    pub members: usize,
    /// IPv4 datagrams dropped so far. Survives the agent, but not the loss of the table.
    pub dropped4: u64,
    /// IPv6 datagrams dropped so far.
    pub dropped6: u64,
    /// Whether the kernel keeps other processes from changing the table (Linux 6.9 and later).
    pub exclusive: bool,
}

impl Guard {
    /// Opens the filter in the calling thread's network namespace; changes nothing. `table` is the
    /// name of the table, which starts with `weft`.
    ///
    /// # Errors
    /// When the name is not one of weft's, the kernel has no nf_tables, or the privilege lacks.
    pub fn open(table: &str) -> Result<Self, GuardError> {
        let table = OwnedTable::open(table)?;
        Ok(Self { table })
    }

    /// Makes the kernel's table say that the datagrams to UDP port `port` are for `members` only:
    /// reads it back, and changes in one transaction what differs. A table that is missing, of
    /// another shape or for another port is replaced as a whole, and its counters go on. Without
    /// members everything to the port is dropped.
    ///
    /// # Errors
    /// [`GuardError`]; nothing was changed then.
    pub fn reconcile(
        &mut self,
        port: u16,
        members: &BTreeSet<IpAddr>,
    ) -> Result<GuardReport, GuardError> {
        let layout = Layout::new(self.table.name(), port, members)?;
        Ok(self.table.attempt(|table| apply(table, &layout))?)
    }

    /// Reads members and counters; changes nothing. `ops` is zero. None when there is no table.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn report(&mut self) -> Result<Option<GuardReport>, GuardError> {
        let observed = Observed::read(&mut self.table)?;
        Ok(observed.table.is_some().then(|| observed.report()))
    }

    /// Removes the table, for a node that left its cluster. Done when there is none.
    ///
    /// # Errors
    /// [`GuardError`], when another process owns it among others.
    pub fn remove(mut self) -> Result<(), GuardError> {
        Ok(self.table.remove()?)
    }
}

/// Observe, plan, change.
fn apply(table: &mut OwnedTable, layout: &Layout) -> Result<GuardReport, TableError> {
    let observed = Observed::read(table)?;
    table.standing(observed.table.as_ref())?;
    let plan = Plan::new(layout, &observed, table.flags());
    let ops = plan.ops(layout);
    if plan != Plan::Nothing {
        commit(table, layout, plan)?;
        tracing::debug!(table = table.name(), ops, "member filter changed");
    }
    Ok(GuardReport {
        ops,
        members: layout.members(),
        exclusive: table.exclusive(),
        ..observed.report()
    })
}

/// In one transaction, or, where a send buffer that may not be enlarged is too small for that, in two:
/// first the members that come, then those that go.
fn commit(table: &mut OwnedTable, layout: &Layout, plan: Plan) -> Result<(), TableError> {
    let flags = table.flags();
    match table.commit(plan.batch(layout, flags)) {
        Err(too_large) if too_large.is_of_size() => {
            let (first, second) = plan.split().ok_or(too_large)?;
            table.commit(first.batch(layout, flags))?;
            table.commit(second.batch(layout, flags))
        }
        other => other,
    }
}
