use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::Planner;
use crate::gateway::observed::HubPort;
use crate::gateway::op::{Op, Place};
use crate::gateway::spec::mac;
use crate::observed::{Inner, Link, Peer};
use crate::op::{InnerChange, LinkChange};
use crate::plan::names;

/// What became of a pair's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Its IPv4 routes are not there any more.
    pub(super) bare: bool,
}

impl Planner<'_> {
    /// Brings a pair of veths into shape: its end in the hub, and the interface at its place with its
    /// addresses, of which `v4` is the one that its MAC address is made from.
    pub(super) fn pair(
        &mut self,
        place: &Place,
        v4: Ipv4Addr,
        alias: String,
        addresses: BTreeSet<IpNet>,
    ) -> Pair {
        let kept = self.kept(place);
        let fresh = kept.is_none();
        let port = kept.cloned().unwrap_or_else(|| self.create(place, v4));
        let Peer::Home(inner) = &port.peer else {
            return Pair { bare: false };
        };
        self.port(place, alias, &port);
        self.inner(place, v4, inner);
        let mine = |net: &&IpNet| addresses.contains(*net) || !is_link_local(net);
        let there = inner.addresses.iter().filter(mine).copied().collect();
        let disturbed = self.addresses(place, &addresses, &there);
        Pair {
            bare: fresh || disturbed,
        }
    }

    /// Returns the pair as it is then.
    fn create(&mut self, place: &Place, v4: Ipv4Addr) -> HubPort {
        let (mtu, mac) = (self.spec.mtu, mac(v4));
        self.ops.push(Op::CreatePair {
            place: place.clone(),
            port: place.port(),
            mtu,
            mac,
        });
        HubPort {
            link: Link {
                mtu,
                ..Link::default()
            },
            bridged: true,
            isolated: false,
            peer: Peer::Home(Inner {
                ifname: place.ifname().to_owned(),
                mac,
                mtu,
                // Unknown: a new interface takes it over from its namespace.
                ipv6_off: true,
                ..Inner::default()
            }),
        }
    }

    fn port(&mut self, place: &Place, alias: String, port: &HubPort) {
        let mtu = self.spec.mtu;
        let link = LinkChange {
            mtu: (port.link.mtu != mtu).then_some(mtu),
            quiet: !port.link.quiet,
            bridge: (!port.bridged).then(|| names::BRIDGE.to_owned()),
            raise: !port.link.up,
            alias: (port.link.alias.as_ref() != Some(&alias)).then_some(alias),
            ..LinkChange::default()
        };
        // A link that becomes a port is not isolated.
        let isolate = *place != Place::Host && (!port.isolated || !port.bridged);
        if isolate || link != LinkChange::default() {
            self.ops.push(Op::SetPort {
                place: place.clone(),
                port: place.port(),
                isolate,
                link,
            });
        }
    }

    fn inner(&mut self, place: &Place, v4: Ipv4Addr, inner: &Inner) {
        let (mtu, mac) = (self.spec.mtu, mac(v4));
        let change = InnerChange {
            mac: (inner.mac != mac).then_some(mac),
            mtu: (inner.mtu != mtu).then_some(mtu),
            ipv6: inner.ipv6_off && self.observed.ipv6,
            raise: !inner.up,
            ..InnerChange::default()
        };
        if change != InnerChange::default() {
            let place = place.clone();
            self.ops.push(Op::SetInner { place, change });
        }
    }

    /// Returns whether IPv4 addresses were taken away. The first of an IPv4 network takes the others of
    /// it along, and with the last one go the interface's routes; so what is wanted is added again.
    fn addresses(
        &mut self,
        place: &Place,
        wanted: &BTreeSet<IpNet>,
        there: &BTreeSet<IpNet>,
    ) -> bool {
        let unwanted: Vec<IpNet> = there.difference(wanted).copied().collect();
        let disturbed = unwanted.iter().any(|net| net.addr().is_ipv4());
        self.ops
            .extend(unwanted.into_iter().map(|address| Op::RemoveAddress {
                place: place.clone(),
                address,
            }));
        let missing = wanted
            .iter()
            .filter(|net| !there.contains(*net) || (disturbed && net.addr().is_ipv4()));
        self.ops.extend(missing.map(|address| Op::AddAddress {
            place: place.clone(),
            address: *address,
        }));
        disturbed
    }
}

/// Made by the kernel for itself, unless it is wanted.
fn is_link_local(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
