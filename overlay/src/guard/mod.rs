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

use weft_netns::nft::{Batch, NftError, NftSocket, TableFlags};

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
    socket: NftSocket,
    table: String,
    /// With these the table is made and claimed.
    flags: TableFlags,
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
        layout::check_name(table)?;
        let mut socket = NftSocket::open().map_err(GuardError::unavailable)?;
        // Refused without the privilege or the subsystem, before anything is tried.
        socket.generation().map_err(GuardError::unavailable)?;
        let flags = TableFlags::OWNED_AND_PERSISTENT;
        Ok(Self {
            socket,
            table: table.to_owned(),
            flags,
        })
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
        let layout = Layout::new(&self.table, port, members)?;
        match self.apply(&layout) {
            Err(error) if error.is_of_flags() && self.flags != TableFlags::NONE => {
                tracing::warn!(
                    table = self.table,
                    "this kernel has no persistent owned tables (Linux 6.9); other processes can \
                     change the member filter"
                );
                self.flags = TableFlags::NONE;
                self.apply(&layout)
            }
            other => other,
        }
    }

    /// Reads members and counters; changes nothing. `ops` is zero. None when there is no table.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn report(&mut self) -> Result<Option<GuardReport>, GuardError> {
        let observed = Observed::read(&mut self.socket, &self.table)?;
        Ok(observed.table.is_some().then(|| observed.report()))
    }

    /// Removes the table, for a node that left its cluster. Done when there is none.
    ///
    /// # Errors
    /// [`GuardError`], when another process owns it among others.
    pub fn remove(mut self) -> Result<(), GuardError> {
        let observed = Observed::read(&mut self.socket, &self.table)?;
        if observed.table.is_none() {
            return Ok(());
        }
        observed.check_owner(self.socket.port())?;
        let mut batch = Batch::new();
        batch.delete_table(&self.table);
        self.socket
            .commit(batch)
            .map_err(GuardError::refused(&self.table))
    }

    /// Observe, plan, change.
    fn apply(&mut self, layout: &Layout) -> Result<GuardReport, GuardError> {
        let observed = Observed::read(&mut self.socket, &self.table)?;
        observed.check_owner(self.socket.port())?;
        let plan = Plan::new(layout, &observed, self.flags);
        let ops = plan.ops(layout);
        if plan != Plan::Nothing {
            self.commit(layout, plan)?;
            tracing::debug!(table = self.table, ops, "member filter changed");
        }
        let exclusive = self.flags != TableFlags::NONE;
        Ok(GuardReport {
            ops,
            members: layout.members(),
            exclusive,
            ..observed.report()
        })
    }

    /// In one transaction, or, where a send buffer that may not be enlarged is too small for that,
    /// in two: first the members that come, then those that go.
    fn commit(&mut self, layout: &Layout, plan: Plan) -> Result<(), GuardError> {
        let refused = GuardError::refused(&self.table);
        match self.socket.commit(plan.batch(layout, self.flags)) {
            Err(too_large @ NftError::TooLarge { .. }) => {
                let (first, second) = plan.split().ok_or_else(|| refused(too_large))?;
                self.socket
                    .commit(first.batch(layout, self.flags))
                    .map_err(&refused)?;
                self.socket
                    .commit(second.batch(layout, self.flags))
                    .map_err(&refused)
            }
            other => other.map_err(refused),
        }
    }
}
