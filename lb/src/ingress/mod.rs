//! The ingress mesh on one host: what becomes of published ports' connections before and after the
//! choice of a backend, which [`Balancer`](crate::Balancer) makes in the same namespace.
//!
//! # The way of a connection
//!
//! ```text
//! client ---- 8080 ----> node A ---- ingress network ----> node B ---- leg ----> container
//!                 A's balancer chooses B          B's chooses its container
//! ```
//!
//! A sends the packet to B's ingress address and leaves the source as it is, so the container sees
//! the client. B remembers in the flow's mark by which node the connection came: A's frames have
//! A's MAC on the ingress network. A reply from the container gets a packet mark from that, and a
//! policy rule of the host for this mark sends it to A, which alone can give it the address that
//! the client spoke to. So do B's own answers: a reset, an ICMP error. The mark is [`mark`] of the
//! entry's node number, within [`MARK_MASK`]. The table sets it before other programs' usual chains
//! (priority `mangle`), when neither mark says anything yet; what they put into other bits after
//! that stays. Packets that arrive from the mesh have no packet mark.
//!
//! A client may use one port for connections to several nodes, all of which may choose B, where they
//! then look alike. So B knows those from each entry by a zone of connection tracking, of the
//! original direction only. In the other, which has none, the kernel gives the second of two such
//! connections to one container another source port.
//!
//! # The way out
//!
//! What containers send to anywhere else by their legs leaves the host with the host's address (it is
//! masqueraded): nobody beyond it knows the way to a leg. TCP connections through the legs and into the
//! mesh agree on segments that fit the way (`maxseg`).
//!
//! # Sources
//!
//! Where the client's source has no way back it is rewritten, to the host's ingress address on the
//! ingress network and to the gateway's on the gateway:
//! - that of a program of the host itself that speaks to `localhost`;
//! - that of a container which uses a published port of its own node;
//! - that of a host's program which, through another node, reached a container of its own host
//!   ([`peers`](IngressSpec::peers));
//! - every one on ports which want that ([`snat_ports`](IngressSpec::snat_ports)).
//!
//! # What is dropped, and counted
//! - New connections to a published port that is not for everybody
//!   ([`allowed`](IngressSpec::allowed)), from others than these: where they enter, be it from
//!   outside, from a container or from a program of the host; not from the mesh, where the entry has
//!   judged.
//! - New connections from the mesh in frames of no entry node that go on to anywhere.
//! - What else is routed to the gateway or to the mesh and was not sent there by a published port:
//!   so containers do not reach one another through the gateway, nor does anybody get at a
//!   published port past the entry that judges. And what containers send by their legs into a network
//!   of containers that the host is in ([`networks`](IngressSpec::networks)).
//! - What containers send on by their legs with an address that is no leg's.
//! - Packets from the mesh and from containers with addresses of `127.0.0.0/8`, to which
//!   `route_localnet` (below) opens the door.
//!
//! # The table
//!
//! As `nft` lists it, for IPv4, without the chains that count and drop:
//!
//! ```text
//! table inet weft-ingress {
//!     map entries    { type ether_addr : mark }
//!     map zones      { type ether_addr : mark }
//!     set restricted { type inet_proto . inet_service }
//!     set allowed4   { type inet_proto . inet_service . ipv4_addr; flags interval }
//!     set rewritten  { type inet_proto . inet_service }
//!     set peers4     { type ipv4_addr . ipv4_addr }
//!     set networks   { type ifname }
//!     chain zones {
//!         type filter hook prerouting priority raw; policy accept;
//!         iifname "wf-ingress" ct original zone set ether saddr map @zones
//!     }
//!     chain prerouting {
//!         type filter hook prerouting priority mangle - 10; policy accept;
//!         iifname "wf-ingress" goto from-mesh
//!         iifname "weft-gw" goto from-gateway
//!         ct state new goto limits
//!     }
//!     chain from-mesh {
//!         ip saddr 127.0.0.0/8 goto drop-loopback
//!         ip daddr 127.0.0.0/8 goto drop-loopback
//!         ct state new ct mark set ether saddr map @entries
//!     }
//!     chain from-gateway {
//!         ip saddr 127.0.0.0/8 goto drop-loopback
//!         ip daddr 127.0.0.0/8 goto drop-loopback
//!         ct direction reply ct mark & MASK != 0 meta mark set ct mark & MASK
//!         ct state new goto limits
//!     }
//!     chain output {
//!         type route hook output priority mangle - 10; policy accept;
//!         ct direction reply ct mark & MASK != 0 meta mark set ct mark & MASK
//!         ct state new goto limits
//!     }
//!     chain limits {
//!         meta l4proto . th dport @restricted fib daddr type local \
//!             meta l4proto . th dport . ip saddr != @allowed4 goto drop-not-allowed
//!     }
//!     chain fitting {
//!         tcp flags syn tcp option maxseg size set rt mtu
//!     }
//!     chain leaving {
//!         ip saddr != LEGS goto drop-foreign
//!         oifname @networks ct status & dnat == 0 goto drop-not-published
//!     }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         iifname "weft-gw" jump fitting
//!         oifname "weft-gw" jump fitting
//!         oifname "wf-ingress" jump fitting
//!         iifname "weft-gw" jump leaving
//!         oifname != "wf-ingress" oifname != "weft-gw" accept
//!         ct state established,related accept
//!         iifname "wf-ingress" ct mark & MASK == 0 goto drop-no-entry
//!         ct status dnat accept
//!         goto drop-not-published
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         oifname "wf-ingress" goto to-mesh
//!         oifname "weft-gw" goto to-gateway
//!         ip saddr LEGS masquerade
//!     }
//!     chain to-mesh {
//!         ip saddr 127.0.0.0/8 snat ip to MESH
//!         ip saddr LEGS snat ip to MESH
//!         ct status dnat meta l4proto . ct original proto-dst @rewritten snat ip to MESH
//!         ip saddr . ip daddr @peers4 snat ip to MESH
//!     }
//!     chain to-gateway {
//!         ip saddr 127.0.0.0/8 masquerade
//!         ip saddr LEGS masquerade
//!         ct status dnat meta l4proto . ct original proto-dst @rewritten masquerade
//!     }
//! }
//! ```
//!
//! All of it is constant but the elements: a node or a port more is an element more. It carries the
//! flags `owner` and `persist`: other processes cannot change it, a foreign `nft flush ruleset`
//! skips it, and it outlives the agent; while no agent runs it is protected from nobody, and the
//! next one repairs it. Kernels before 6.9 do not know the second flag; there the table has no
//! owner, which [`IngressReport::exclusive`] tells.
//!
//! A mark is replaced as a whole, not bit by bit: kernels before 6.13 cannot combine two values,
//! and the `nft` of Debian 12 aborts when it lists a rule that does.
//!
//! # What the host needs beside the table
//!
//! Found by trying, on Linux 6.18, with `net.ipv4.conf.all.rp_filter=1` everywhere as distributions
//! set it. The table comes first, then these:
//! - `net.ipv4.ip_forward=1` and `net.ipv6.conf.all.forwarding=1`. The second makes the host ignore
//!   router advertisements: interfaces with `accept_ra=1` need 2.
//! - On the mesh device `rp_filter=2`, for clients are routed elsewhere. The effective value is the
//!   larger one of this and `all`, so 0 does not help; with 2 the host needs some route to the
//!   client, or drops its packets.
//! - On the gateway device `rp_filter=2` too: 1 works, unless somebody set
//!   `net.ipv4.conf.all.src_valid_mark=1` as `wg-quick` does, which looks for the way back with the
//!   reply's mark.
//! - On both `route_localnet=1`, for `127.0.0.1`.
//! - IPv6 has no such switch. For `::1` each of the two devices needs a table of its own with
//!   `local ::1/128 dev DEVICE`, and a rule `iif DEVICE to ::1` that leads there: a packet to
//!   `::1` is taken only where the route's device is the one that it came in by.
//! - On both, and on the underlay's device, an IPv6 link-local address: a router asks for its
//!   neighbours with no other source.
//! - A rule `fwmark MARK/0x00fff000` for each entry, to a table with its ingress address as default
//!   gateway. Before rules of others that match marks (Tailscale's are from 5210 on).
//! - `accept_local` and `send_redirects` do not matter: see `peers`; and the kernel sends no
//!   redirect for a flow with a rewritten address.
//! - A container needs a rule `from LEG` to a default route through the gateway. A UDP server that
//!   is bound to no address asks for its way before it has a source, though, and over IPv4 is told
//!   there is none, unless another rule matches its port (`ipproto udp sport PORT`) or everything
//!   that no other rule has a way for. The latter also leads to the host's other addresses.
//! - Where `net.bridge.bridge-nf-call-iptables` is 1, as it is in new namespaces and on hosts with
//!   Docker, a packet from one leg that is rewritten to another leg of the same bridge never leaves
//!   the bridge. Legs that are isolated ports or lack hairpin mode do not get it. Without
//!   isolation the table's own chain keeps legs apart then, for it sees bridged packets. Where the
//!   switch is 0, isolation is what keeps them apart, and does not hinder.

mod error;
mod layout;
mod observe;
mod plan;
mod rules;
mod spec;

use weft_netns::Netns;
use weft_netns::nft::{OwnedTable, TableError};

pub use error::IngressError;
use layout::Layout;
use observe::Observed;
use plan::Plan;
pub use spec::{
    DEVICES_MAX, ENTRIES_MAX, IngressSpec, IngressSpecError, MARK_MASK, MARK_SHIFT, NODE_MAX,
    PEERS_MAX, PORTS_MAX, PREFIXES_MAX, Port, mark,
};

/// Owner of the ingress table of a host's network namespace.
///
/// Its calls block, for some milliseconds as a rule: reading and changing take about 10 microseconds
/// for each element, and more where ports have thousands of prefixes
/// ([`PREFIXES_MAX`]).
#[derive(Debug)]
pub struct Ingress {
    table: OwnedTable,
}

/// What a call did and found. The counters survive the agent, but not the loss of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngressReport {
    /// How many changes were made: elements added and removed, or all objects of a new table.
    pub ops: usize,
    /// Packets dropped so far that came from the mesh to open a connection and were no entry
    /// node's.
    pub no_entry: u64,
    /// Packets dropped so far because their source may not connect to the port.
    pub not_allowed: u64,
    /// Packets dropped so far on their way to the gateway or to the mesh that no published port
    /// sent there.
    pub not_published: u64,
    /// Packets dropped so far that a container sent by its leg with an address that is no leg's.
    pub foreign: u64,
    /// Packets dropped so far with an address of `127.0.0.0/8` from a container or the mesh.
    pub loopback: u64,
    /// Whether the kernel keeps other processes from changing the table (Linux 6.9 and later).
    pub exclusive: bool,
}

impl Ingress {
    /// Opens the table of a namespace; changes nothing. `table` is its name, which starts with
    /// `weft`.
    ///
    /// # Errors
    /// When the name is not one of weft's, the namespace cannot be entered, the kernel has no
    /// nf_tables, or the privilege lacks.
    pub fn open(netns: &Netns, table: &str) -> Result<Self, IngressError> {
        let table = OwnedTable::open_in(netns, table)?;
        Ok(Self { table })
    }

    /// Makes the kernel's table say `spec`: reads it back, and changes in one transaction what
    /// differs. A table that is missing or of another shape, or whose devices or own addresses are
    /// others, is replaced as a whole, and its counters go on. Flows that exist live on.
    ///
    /// # Errors
    /// [`IngressError`]; nothing was changed then. A transaction has room for all that a spec may
    /// have, but in a user namespace, where the socket's buffer may not be enlarged, for about 4,000
    /// elements.
    pub fn reconcile(&mut self, spec: &IngressSpec) -> Result<IngressReport, IngressError> {
        spec.check()?;
        let layout = Layout {
            table: self.table.name().to_owned(),
            spec: spec.clone(),
        };
        Ok(self.table.attempt(|table| apply(table, &layout))?)
    }

    /// Reads the counters; changes nothing. `ops` is zero. None when there is no table.
    ///
    /// # Errors
    /// [`IngressError`].
    pub fn report(&mut self) -> Result<Option<IngressReport>, IngressError> {
        let observed = Observed::read(&mut self.table)?;
        Ok(observed.table.is_some().then(|| observed.report()))
    }

    /// Removes the table. Done when there is none. Flows that exist keep what was rewritten, and
    /// their replies lose the way through the entry node.
    ///
    /// # Errors
    /// [`IngressError`], when another process owns it among others.
    pub fn remove(mut self) -> Result<(), IngressError> {
        Ok(self.table.remove()?)
    }
}

/// Observe, plan, change.
fn apply(table: &mut OwnedTable, layout: &Layout) -> Result<IngressReport, TableError> {
    let observed = Observed::read(table)?;
    table.standing(observed.table.as_ref())?;
    let plan = Plan::new(layout, &observed, table.flags());
    let ops = plan.ops(layout);
    if plan != Plan::Nothing {
        table.commit(plan.batch(layout, table.flags()))?;
        tracing::debug!(table = table.name(), ops, "ingress table changed");
    }
    Ok(IngressReport {
        ops,
        exclusive: table.exclusive(),
        ..observed.report()
    })
}
