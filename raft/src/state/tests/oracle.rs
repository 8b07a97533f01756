//! Who must be assigned which address, by means that are slow and obvious.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::*;
use crate::model::{NetworkId, NodeId, ServiceId, ServiceNetwork};

/// Which address comes next, by lists of everything.
#[derive(Default)]
struct Addresses {
    unused: Vec<Ipv4Addr>,
    freed: Vec<Ipv4Addr>,
}

/// Follows the changes and says which address each row without wishes must have got.
#[derive(Default)]
pub(super) struct Oracle {
    ingress: Option<NetworkId>,
    networks: BTreeMap<NetworkId, Addresses>,
}

impl Oracle {
    pub(super) fn check(&mut self, before: &View, command: &Command, changes: &[Change]) {
        if let Command::CreateEndpoint(spec) = command
            && let Some(wanted) = spec.ipv4.filter(|_| !changes.is_empty())
        {
            // Before that of a service that is made with it.
            let addresses = self.networks.get_mut(&spec.network).unwrap();
            addresses.take(wanted);
        }
        for change in changes {
            match change {
                // One that is there goes on with its addresses.
                Change::Network(network) if before.networks.contains_key(&network.id) => {}
                Change::Network(network) => {
                    let hosts = network.subnets.iter().flat_map(|subnet| {
                        subnet.cidr.hosts().filter(|host| *host != subnet.gateway)
                    });
                    let addresses = Addresses {
                        unused: hosts.collect(),
                        freed: Vec::new(),
                    };
                    self.networks.insert(network.id, addresses);
                    if network.ingress {
                        self.ingress = Some(network.id);
                    }
                }
                Change::NetworkGone(id) => {
                    self.networks.remove(id);
                    self.ingress = self.ingress.filter(|ingress| ingress != id);
                }
                Change::Endpoint(endpoint) => {
                    let addresses = self.networks.get_mut(&endpoint.network).unwrap();
                    if matches!(command, Command::CreateEndpoint(spec) if spec.ipv4.is_none()) {
                        addresses.assert_next(endpoint.ipv4);
                    }
                    addresses.take(endpoint.ipv4);
                }
                Change::EndpointGone(id) => {
                    let endpoint = &before.endpoints[id];
                    let addresses = self.networks.get_mut(&endpoint.network).unwrap();
                    addresses.freed.push(endpoint.ipv4);
                }
                Change::Node(node) => {
                    let waits = matches!(command, Command::SetNodeStatus(_));
                    self.node(before, node.id, node.ingress, waits);
                }
                Change::NodeGone(id) => self.node(before, *id, None, true),
                Change::Service(service) => self.service(before, service.id, &service.networks),
                Change::ServiceGone(id) => self.service(before, *id, &[]),
                Change::Cluster(_) => {}
            }
        }
    }

    /// A node that `waits` may be without an address although one is free.
    fn node(&mut self, before: &View, id: NodeId, now: Option<Ipv4Addr>, waits: bool) {
        let was = before.nodes.get(&id).and_then(|node| node.ingress);
        let Some(ingress) = self.ingress else {
            return assert_eq!(now, None);
        };
        let addresses = self.networks.get_mut(&ingress).unwrap();
        match (was, now) {
            (Some(was), None) => addresses.freed.push(was),
            (None, Some(now)) => {
                addresses.assert_next(now);
                addresses.take(now);
            }
            (None, None) => assert!(waits || addresses.next().is_none(), "left without"),
            (Some(was), Some(now)) => assert_eq!(was, now),
        }
    }

    fn service(&mut self, before: &View, id: ServiceId, now: &[ServiceNetwork]) {
        let was = (before.services.get(&id)).map_or(&[][..], |service| &service.networks);
        for gone in was.iter().filter(|on| !now.contains(on)) {
            let addresses = self.networks.get_mut(&gone.network).unwrap();
            addresses.freed.extend(gone.vip);
        }
        for new in now.iter().filter(|on| !was.contains(on)) {
            let addresses = self.networks.get_mut(&new.network).unwrap();
            if let Some(vip) = new.vip {
                addresses.assert_next(vip);
                addresses.take(vip);
            }
        }
    }
}

impl Addresses {
    fn next(&self) -> Option<Ipv4Addr> {
        self.unused.first().or(self.freed.first()).copied()
    }

    fn assert_next(&self, assigned: Ipv4Addr) {
        assert_eq!(Some(assigned), self.next());
    }

    fn take(&mut self, taken: Ipv4Addr) {
        self.unused.retain(|address| *address != taken);
        self.freed.retain(|address| *address != taken);
    }
}
