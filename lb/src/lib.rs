//! Services on one node: the choice among the backends of a service address or port, as packet
//! rules in the kernel.
//!
//! # What is here
//!
//! Service addresses (VIPs), with all their ports and protocols or with single ones, and ports of
//! all local addresses of **one** network namespace, over IPv4 and IPv6, by one nftables table that
//! this crate owns whole. The first packet of a flow chooses a backend, connection tracking keeps
//! the rest with it, and the source address is left alone. Schedulers: round robin, also weighted;
//! random by weight; source hash; Maglev. Weight 0 drains. Clients may keep their backends for a
//! time, and flows say how long they may be idle.
//!
//! - [`spec`]: what the table should do, in kernel words.
//! - [`Balancer`]: makes it so. [`reconcile`](Balancer::reconcile) reads the kernel back and
//!   repairs what differs, and adopts what an earlier process left; [`change`](Balancer::change)
//!   does some services in time that depends on these alone.
//! - [`ingress`]: what a published port takes beside that on a host, in a table of its own: backends
//!   on other nodes see the client and answer through the node that it spoke to.
//! - [`flows`]: forgets the flows of backends that are gone, and counts those of each.
//! - [`stats`]: what the backends of a namespace take and answer, in counters of the kernel.
//! - [`relay`]: what a process does that passes connections on with a header in front (PROXY protocol),
//!   for ports whose backends want that; the decisions, not the sockets.
//! - [`dns`]: what names of networks and services mean, and what becomes of a query; packets in, packets
//!   out, without sockets.
//! - [`least_conn`]: weights by which backends with fewer flows get more of the new ones.
//!
//! # What is not here
//!
//! What other crates see to: health.
//!
//! # The table
//!
//! ```text
//! table inet weft-lb {
//!     map services4 { type ipv4_addr . inet_proto . inet_service : classid }
//!     map classes   { type classid : verdict }        # class -> goto its chain
//!     map backends4 { type ipv4_addr . inet_proto . inet_service . mark
//!                        : ipv4_addr . inet_service }
//!     chain output  { type nat hook output priority dstnat; jump services }
//!     chain services {
//!         meta priority set ip daddr . meta l4proto . th dport map @services4 \
//!             meta priority vmap @classes
//!     }
//!     chain random-vip4-3 { meta priority set numgen random mod 3 goto to-vip4 }
//!     chain to-vip4 {
//!         dnat ip to ip daddr . meta l4proto . th dport . meta priority map @backends4
//!     }
//! }
//! ```
//!
//! The same for IPv6; again for service addresses with all ports, which are in the maps as port 0
//! of protocol 0, and whose flows keep their port (`dnat ip to ip daddr . 0 . 0 . ..`); again for
//! the ports of all local addresses, which are in the maps as those of the unspecified address; and
//! in the prerouting hook. What is more specific comes first.
//!
//! In the namespace of a backend its own flows may come to itself: the packets go through the
//! loopback device, and both ends see the addresses that they would see elsewhere.
//!
//! Rewriting an address needs no ports: echo requests (ICMP) and protocols that the kernel does not
//! know have backends as well. Fragments are put together before they come here, for connection
//! tracking needs that.
//!
//! A rule's modulus is a constant. So services with the same number of slots, picked in the same
//! way, form a *class* with one chain, and there are as many chains as classes, however many
//! services. A count, however, is of a rule, so that each service that takes turns has a class of
//! its own (`rr-vip4-3-0`, `rr-vip4-3-1`, ..): its turns are exact whatever others do. Some chains
//! that nobody uses are kept for the next that needs such a one. In a namespace with more than some
//! 250 of them the others choose among the same slots by chance, for the kernel goes through all
//! chains whenever one is added.
//!
//! A first packet costs three lookups in hash tables. Between the lookups a transaction may come,
//! so that changes go in stages: first the slots that come, then the class, then the slots that go;
//! at every moment every slot that a packet can ask for is there. A backend of a service with equal
//! weights that comes or goes is two or three changes of elements.
//!
//! The packet's priority carries the class and then the number of the slot from one lookup to the
//! next in its first packet, and is then set to zero: a priority that a program gave its socket
//! holds from the second packet on.
//!
//! # Affinity
//!
//! ```text
//!     map picks4    { type ipv4_addr . inet_proto . inet_service . mark : mark }
//!     map clients4  { type ipv4_addr . ipv4_addr . inet_proto . inet_service : mark
//!                     size 65536; flags dynamic,timeout }
//!     chain random-vip4-3-3600s {
//!         jump keep-vip4-3600s
//!         meta priority set numgen random mod 3 goto learn-vip4-3600s
//!     }
//!     chain keep-vip4-3600s {
//!         meta priority set ip saddr . ip daddr . .. map @clients4 goto kept-vip4-3600s
//!     }
//!     chain kept-vip4-3600s {
//!         update @clients4 { ip saddr . ip daddr . .. timeout 1h : meta priority } \
//!             dnat ip to ip daddr . .. . meta priority map @backends4
//!         delete @clients4 { ip saddr . ip daddr . .. : meta priority }
//!     }
//!     chain learn-vip4-3600s {
//!         meta priority set ip daddr . .. . meta priority map @picks4
//!         add @clients4 { ip saddr . ip daddr . .. timeout 1h : meta priority } \
//!             meta priority set ip saddr . ip daddr . .. map @clients4
//!         goto to-vip4
//!     }
//! ```
//!
//! Packets fill the map of clients themselves. It does not hold backends but their numbers, and a
//! number leads to a backend by another map, from which a backend that goes is taken: its clients
//! find nobody there, are forgotten and get another, with their very next flow and without anybody
//! looking for them. A number is made from address and port, so that a client finds a backend again
//! that was away for less than the time. Of several first flows of a client at a time the first to
//! enter the map decides for all.
//!
//! # Idle flows
//!
//! ```text
//!     ct timeout tcp-300s { protocol tcp; policy = { established : 300 } }
//!     map idle4 { type ipv4_addr . inet_proto . inet_service : ct timeout }
//!     chain to-vip4 {
//!         ct timeout set ip daddr . meta l4proto . th dport map @idle4
//!         dnat ip to ..
//!     }
//! ```
//!
//! A flow keeps its backend for as long as it is tracked. Its first packet gives it the time-out of its
//! service, which is an object for all services that have the same; a flow that exists keeps the
//! one that it began with, and goes by the sysctls when no service has that any more. A connection
//! of a service that says none has the kernel's five days also where
//! `nf_conntrack_tcp_timeout_established` was lowered, for unlike one without services it would not be found
//! again. Kernels without `CONFIG_NF_CONNTRACK_TIMEOUT` do none of this, which
//! [`Report::lacking`] tells.
//!
//! # Weights
//!
//! Weights become slots, at most [`SLOTS_MAX`] of a service: the fewest with which every backend's
//! part is within 5 % ([`SHARE_TOLERANCE`]) of what its weight says, as long as every one has 2 %
//! of the weights.
//!
//! # Others in the namespace
//!
//! The table carries the flags `owner` and `persist`: other processes cannot change it, a foreign
//! `nft flush ruleset` skips it, and it outlives the agent; while no agent runs it is protected
//! from nobody, and the next one repairs it. Kernels before 6.9 do not know the second flag; there
//! the table has no owner, which [`Report::exclusive`] tells. Other tables are never touched.

mod chains;
mod class;
mod classes;
pub mod dns;
mod error;
mod exprs;
pub mod flows;
mod hash;
mod idle;
pub mod ingress;
mod kernel;
mod layout;
pub mod least_conn;
mod maglev;
mod observed;
mod plan;
pub mod relay;
mod slots;
pub mod spec;
pub mod stats;
#[cfg(test)]
mod testing;
mod transaction;

pub use error::BalancerError;
pub use kernel::{Balancer, Report};
pub use slots::{SHARE_TOLERANCE, SLOTS_MAX};
