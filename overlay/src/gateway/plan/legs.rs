use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Planner, routing};
use crate::gateway::layout::{self, LEG, LEG_PRIORITY, LEG_TABLE};
use crate::gateway::observed::{Action, Container, Family, LegPort, Route, Rule, Select};
use crate::gateway::op::{Op, Place};
use crate::gateway::record::Record;
use crate::gateway::spec::{LegAddresses, mac};
use crate::observed::{Inner, Link, Peer};
use crate::op::{InnerChange, LinkChange};

impl Planner<'_> {
    /// Brings the legs into shape.
    pub(super) fn legs(&mut self) {
        for (key, addresses) in self.assigned.legs.clone() {
            self.leg(&key, addresses);
        }
    }

    fn leg(&mut self, key: &str, addresses: LegAddresses) {
        let kept = self.kept(key);
        let fresh = kept.is_none();
        let port = kept
            .cloned()
            .unwrap_or_else(|| self.create(key, addresses.v4));
        let Peer::Home(inner) = &port.peer else {
            return;
        };
        self.port(key, addresses.v4, &port);
        self.inner(key, addresses, inner);
        let mut wanted = BTreeSet::from([self.spec.net4(addresses.v4)]);
        wanted.extend(addresses.v6.map(|v6| self.spec.net6(v6)));
        let there = inner
            .addresses
            .iter()
            .copied()
            .filter(|net| !is_link_local(net))
            .collect();
        let place = Place::Leg(key.to_owned());
        let bare = self.addresses(&place, &wanted, &there) || fresh;
        self.way_back(&place, addresses, bare);
    }

    /// Returns the leg as it is then.
    fn create(&mut self, key: &str, v4: Ipv4Addr) -> LegPort {
        let (mtu, mac) = (self.spec.mtu, mac(v4));
        self.ops.push(Op::CreateLeg {
            leg: key.to_owned(),
            port: layout::port(key),
            mtu,
            mac,
        });
        LegPort {
            link: Link {
                mtu,
                ..Link::default()
            },
            bridged: true,
            isolated: false,
            peer: Peer::Home(Inner {
                ifname: LEG.to_owned(),
                mac,
                mtu,
                // Unknown: a new interface takes it over from its namespace.
                ipv6_off: true,
                ..Inner::default()
            }),
        }
    }

    fn port(&mut self, key: &str, v4: Ipv4Addr, port: &LegPort) {
        let record = Record {
            key: key.to_owned(),
            address: v4,
            netns: self.spec.legs.get(key).cloned(),
        };
        let (mtu, alias) = (self.spec.mtu, record.to_alias());
        let link = LinkChange {
            mtu: (port.link.mtu != mtu).then_some(mtu),
            quiet: !port.link.quiet,
            bridge: (!port.bridged).then(|| layout::BRIDGE.to_owned()),
            raise: !port.link.up,
            alias: (port.link.alias.as_ref() != Some(&alias)).then_some(alias),
            ..LinkChange::default()
        };
        // A link that becomes a port is not isolated.
        let isolate = !port.isolated || !port.bridged;
        if isolate || link != LinkChange::default() {
            self.ops.push(Op::SetPort {
                leg: key.to_owned(),
                port: layout::port(key),
                isolate,
                link,
            });
        }
    }

    fn inner(&mut self, key: &str, addresses: LegAddresses, inner: &Inner) {
        let (mtu, mac) = (self.spec.mtu, mac(addresses.v4));
        let change = InnerChange {
            mac: (inner.mac != mac).then_some(mac),
            mtu: (inner.mtu != mtu).then_some(mtu),
            ipv6: inner.ipv6_off && addresses.v6.is_some(),
            raise: !inner.up,
            ..InnerChange::default()
        };
        if change != InnerChange::default() {
            let leg = key.to_owned();
            self.ops.push(Op::SetInner { leg, change });
        }
    }

    /// What leaves from the leg's address goes back through the host, whatever the container's main
    /// table says. That also makes the kernel take what comes in by the leg for right where it checks
    /// the way back to the sender (`rp_filter`).
    ///
    /// `bare`: the interface has no IPv4 routes any more.
    fn way_back(&mut self, place: &Place, addresses: LegAddresses, bare: bool) {
        let Place::Leg(key) = place else {
            return;
        };
        let Some(Container::Here { rules, routes, .. }) = self.observed.legs.get(key) else {
            return;
        };
        let gone = |route: &&Route| {
            bare && route.device.as_deref() == Some(LEG) && route.destination.addr().is_ipv4()
        };
        let there: BTreeSet<Route> = routes.iter().filter(|r| !gone(r)).cloned().collect();
        let v6 = addresses
            .v6
            .map(|v6| (IpAddr::V6(v6), IpAddr::V6(self.spec.bridge6())));
        let v4 = (IpAddr::V4(addresses.v4), IpAddr::V4(self.spec.bridge4()));
        let (mut wanted_rules, mut wanted_routes) = (BTreeSet::new(), BTreeSet::new());
        for (from, via) in [v4].into_iter().chain(v6) {
            wanted_rules.insert(Rule {
                family: Family::of(from),
                priority: LEG_PRIORITY,
                select: Select::From(from),
                action: Action::Table(LEG_TABLE),
                odd: false,
            });
            wanted_routes.insert(routing::default_route(LEG_TABLE, via, LEG));
        }
        let rules = (&wanted_rules, rules);
        routing::change(&mut self.ops, place, rules, (&wanted_routes, &there));
    }
}

fn is_link_local(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => Ipv6Addr::is_unicast_link_local(&v6),
    }
}
