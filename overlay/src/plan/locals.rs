use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Planner, Target, joined, link_change, names};
use crate::observed::{Inner, Link, Membership, Peer};
use crate::op::{
    FORWARDED_GSO_MAX_SEGS, FORWARDED_GSO_MAX_SIZE, GSO_MAX_SEGS, GSO_MAX_SIZE, InnerChange, Op,
};
use crate::spec::LocalEndpoint;

impl<'a> Planner<'a> {
    /// Brings the endpoints of this node into shape.
    pub(super) fn locals(&mut self) {
        let spec = self.spec;
        for (id, local) in &spec.locals {
            if let Some(Target::Attach { loopback_up }) = self.targets.get(id.as_str()).copied() {
                self.local(id, local, loopback_up);
            }
        }
    }

    fn local(&mut self, id: &'a str, local: &LocalEndpoint, loopback_up: bool) {
        let name = names::port(id);
        let fresh = Inner {
            ifname: local.ifname.clone(),
            mac: local.mac,
            mtu: self.spec.mtu,
            // Unknown: a new interface takes it over from its namespace.
            ipv6_off: true,
            ..Inner::default()
        };
        let (link, member, inner) = match self.ports.get(name.as_str()).copied() {
            Some(port) => {
                let Peer::Home(inner) = &port.peer else {
                    return;
                };
                (port.link.clone(), port.member, inner)
            }
            None => (
                self.create(id, local),
                Membership {
                    bridged: true,
                    learning: true,
                },
                &fresh,
            ),
        };
        let change = link_change(self.spec.mtu, names::alias(id), &link);
        self.set_link(&name, Some(id), joined(change, member));
        if self.station(local.mac) != Some(&name) {
            self.ops.push(Op::SetStation {
                port: name,
                endpoint: Some(id.to_owned()),
                mac: local.mac,
            });
        }
        if !loopback_up {
            let endpoint = id.to_owned();
            self.ops.push(Op::RaiseLoopback { endpoint });
        }
        self.inner(id, local, inner);
    }

    /// Returns the sandbox's end as it is then.
    fn create(&mut self, id: &str, local: &LocalEndpoint) -> Link {
        let mtu = self.spec.mtu;
        self.ops.push(Op::CreateVeth {
            endpoint: id.to_owned(),
            port: names::port(id),
            bridge: names::BRIDGE.to_owned(),
            mtu,
            ifname: local.ifname.clone(),
            mac: local.mac,
        });
        Link {
            mtu,
            ..Link::default()
        }
    }

    /// Addresses that the container gave itself are its own business; one of ours with another
    /// prefix length is not.
    fn inner(&mut self, id: &str, local: &LocalEndpoint, inner: &Inner) {
        let wanted: BTreeSet<IpNet> = local.addresses.iter().copied().collect();
        let (endpoint, ifname) = (id.to_owned(), local.ifname.clone());
        // The MTU first: an interface below 1280 bytes takes no IPv6 address (RFC 8200 section 5).
        let alias = names::alias(id);
        let mtu = self.spec.mtu;
        let (segments, size) = if local.forwards {
            (FORWARDED_GSO_MAX_SEGS, FORWARDED_GSO_MAX_SIZE)
        } else {
            (GSO_MAX_SEGS, GSO_MAX_SIZE)
        };
        let change = InnerChange {
            mac: (inner.mac != local.mac).then_some(local.mac),
            mtu: (inner.mtu != mtu).then_some(mtu),
            gso_max_segs: (inner.gso_max_segs != segments).then_some(segments),
            gso_max_size: (inner.gso_max_size != size).then_some(size),
            // Container runtimes turn IPv6 off where none of their own networks has it.
            ipv6: inner.ipv6_off && wanted.iter().any(|net| net.addr().is_ipv6()),
            raise: !inner.up,
            alias: (inner.alias.as_ref() != Some(&alias)).then_some(alias),
        };
        if change != InnerChange::default() {
            self.ops.push(Op::SetInner {
                endpoint: endpoint.clone(),
                ifname: ifname.clone(),
                change,
            });
        }
        let missing = wanted
            .difference(&inner.addresses)
            .map(|address| Op::AddAddress {
                endpoint: endpoint.clone(),
                ifname: ifname.clone(),
                address: *address,
            });
        let wrong = inner
            .addresses
            .difference(&wanted)
            .filter(|there| wanted.iter().any(|net| net.addr() == there.addr()))
            .map(|address| Op::RemoveAddress {
                endpoint: endpoint.clone(),
                ifname: ifname.clone(),
                address: *address,
            });
        self.ops.extend(missing.chain(wrong));
        self.routes(id, local, inner);
    }

    /// A new way is there before an old one goes.
    fn routes(&mut self, id: &str, local: &LocalEndpoint, inner: &Inner) {
        let (endpoint, ifname) = (|| id.to_owned(), || local.ifname.clone());
        let missing = local.routes.difference(&inner.routes);
        let missing = missing.map(|route| Op::AddRoute {
            endpoint: endpoint(),
            ifname: ifname(),
            route: *route,
        });
        let unwanted = inner.routes.difference(&local.routes);
        let unwanted = unwanted.map(|route| Op::RemoveRoute {
            endpoint: endpoint(),
            ifname: ifname(),
            route: *route,
        });
        self.ops.extend(missing.chain(unwanted));
    }
}
