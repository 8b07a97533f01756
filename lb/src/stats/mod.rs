//! What the backends of one namespace take and answer, counted by the kernel: connections that
//! others began to them, and packets and bytes of these in both directions.
//!
//! The counters are elements of sets in a table of its own. So they outlive the agent, a backend
//! more or less leaves the others' alone, and a packet passes the same few rules however many
//! there are:
//!
//! ```text
//! table inet weft-stats {
//!     set connections      { type ipv4_addr; counter }            # by address of a backend
//!     set received         { type ipv4_addr; counter }
//!     set sent             { type ipv4_addr; counter }
//!     set port-connections { type inet_proto . inet_service; counter }  # by port, on the leg
//!     set port-received    { type inet_proto . inet_service; counter }
//!     set port-sent        { type inet_proto . inet_service; counter }
//!     chain input {
//!         type filter hook input priority filter; policy accept;
//!         iif != lo ct direction original goto taken
//!     }
//!     chain taken {
//!         iifname "wfgw" goto port-taken
//!         ct status & confirmed == 0 ip daddr @connections
//!         ip daddr @received
//!     }
//!     chain port-taken {
//!         ct status & confirmed == 0 meta l4proto . th dport @port-connections
//!         meta l4proto . th dport @port-received
//!     }
//!     chain output {
//!         type filter hook output priority filter; policy accept;
//!         oif != lo ct direction reply goto answered
//!     }
//!     chain answered {
//!         oifname "wfgw" goto port-answered
//!         ip saddr @sent
//!     }
//!     chain port-answered { meta l4proto . th sport @port-sent }
//! }
//! ```
//!
//! The leg is the device by which published ports come, with an address of the host's own making;
//! there the port says which backend is meant, over IPv4 and IPv6.
//!
//! # What counts
//! - A connection counts once, with its first packet, which connection tracking has not confirmed
//!   yet: a segment sent again, or a second datagram before the answer, does not. Of UDP and other
//!   protocols a flow is one connection until it is forgotten for being idle. An echo request
//!   (ICMP) is one as well. Attempts that the backend refuses count, too.
//! - Not what the container begins itself, and not what it says to itself, health checks among
//!   them.
//! - Bytes are those of IP packets with their headers. A packet is what passes the network stack as
//!   one: segments that the device takes together (GSO, GRO) are one with one header.
//! - A connection that was there before the table counts as one when its next packet is the
//!   client's, and not at all when it is the backend's.
//!
//! # What it costs
//! A round trip of one byte over a veth pair took 7.4 microseconds (p50) with the table, 6.9 with
//! connection tracking alone and 6.4 without either, on Linux 6.18; throughput of a stream and
//! connections per second did not differ beyond their noise.
//!
//! The table carries the flags `owner` and `persist`, as [`Balancer`](crate::Balancer)'s does and
//! with the same effect.

mod error;
mod layout;
mod observe;
mod plan;
mod spec;

use weft_netns::Netns;
use weft_netns::nft::{Batch, NftSocket, TableFlags};

pub use error::StatsError;
use layout::Layout;
use observe::Observed;
use plan::Plan;
pub use spec::{BACKENDS_MAX, Counts, StatsSpec, StatsSpecError, Totals};

/// Most characters of a table's name. The kernel would take 255.
const NAME_MAX: usize = 32;

/// Owner of the counters of one network namespace.
///
/// Its calls block, for less than a millisecond as a rule.
#[derive(Debug)]
pub struct Stats {
    socket: NftSocket,
    table: String,
    /// With these the table is made and claimed.
    flags: TableFlags,
}

impl Stats {
    /// Opens the counters of a namespace; changes nothing. `table` is the name of their table, which
    /// starts with `weft`.
    ///
    /// # Errors
    /// When the name is not one of weft's, the namespace cannot be entered, the kernel has no
    /// nf_tables, or the privilege lacks.
    pub fn open(netns: &Netns, table: &str) -> Result<Self, StatsError> {
        check_name(table)?;
        let mut socket = NftSocket::open_in(netns).map_err(StatsError::unavailable)?;
        // Refused without the privilege or the subsystem, before anything is tried.
        socket.generation().map_err(StatsError::unavailable)?;
        Ok(Self {
            socket,
            table: table.to_owned(),
            flags: TableFlags::OWNED_AND_PERSISTENT,
        })
    }

    /// Makes the kernel count what `spec` says: reads the table back, and changes in one transaction
    /// what differs; how many changes that was. What is counted already goes on from where it is,
    /// also when the table is of another shape and made anew.
    ///
    /// # Errors
    /// [`StatsError`]; nothing was changed then.
    pub fn reconcile(&mut self, spec: &StatsSpec) -> Result<usize, StatsError> {
        spec.check()?;
        let layout = Layout {
            table: self.table.clone(),
            spec: spec.clone(),
        };
        match self.apply(&layout) {
            Err(error) if error.is_of_flags() && self.flags != TableFlags::NONE => {
                tracing::warn!(
                    table = self.table,
                    "this kernel has no persistent owned tables (Linux 6.9); other processes can \
                     change the counters of services"
                );
                self.flags = TableFlags::NONE;
                self.apply(&layout)
            }
            other => other,
        }
    }

    /// Reads what was counted; changes nothing. None when there is no table.
    ///
    /// # Errors
    /// [`StatsError`].
    pub fn read(&mut self) -> Result<Option<Totals>, StatsError> {
        let observed = Observed::read(&mut self.socket, &self.table)?;
        Ok(observed.table.is_some().then(|| observed.totals()))
    }

    /// Removes the table. Done when there is none.
    ///
    /// # Errors
    /// [`StatsError`], when another process owns it among others.
    pub fn remove(mut self) -> Result<(), StatsError> {
        let table = self.socket.table(&self.table).map_err(StatsError::unread)?;
        let Some(table) = table else {
            return Ok(());
        };
        observe::check_owner(&table, self.socket.port())?;
        let mut batch = Batch::new();
        batch.delete_table(&self.table);
        let refused = StatsError::refused(&self.table);
        self.socket.commit(batch).map_err(refused)
    }

    /// Observe, plan, change.
    fn apply(&mut self, layout: &Layout) -> Result<usize, StatsError> {
        let observed = Observed::read(&mut self.socket, &self.table)?;
        if let Some(table) = &observed.table {
            observe::check_owner(table, self.socket.port())?;
        }
        let plan = Plan::new(layout, &observed, self.flags);
        let ops = plan.ops();
        if plan != Plan::Nothing {
            let batch = plan.batch(layout, self.flags);
            let refused = StatsError::refused(&self.table);
            self.socket.commit(batch).map_err(refused)?;
            tracing::debug!(table = self.table, ops, "counters of services changed");
        }
        Ok(ops)
    }
}

/// Everything in the packet rules that is weft's carries its name.
fn check_name(table: &str) -> Result<(), StatsError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if table.starts_with("weft") && table.len() <= NAME_MAX && table.chars().all(plain) {
        Ok(())
    } else {
        Err(StatsError::BadName {
            table: table.to_owned(),
            max: NAME_MAX,
        })
    }
}
