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
//!   published port past the entry that judges.
//! - Packets from the mesh and from containers with addresses of `127.0.0.0/8`, to which
//!   `route_localnet` (below) opens the door.
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
//! - The legs' MTU must not be larger than the mesh's: their TCP then announces a segment size that
//!   fits, and nothing needs to be clamped.

mod spec;

pub use spec::{
    ENTRIES_MAX, IngressSpec, IngressSpecError, MARK_MASK, MARK_SHIFT, NODE_MAX, PEERS_MAX,
    PORTS_MAX, PREFIXES_MAX, Port, mark,
};
