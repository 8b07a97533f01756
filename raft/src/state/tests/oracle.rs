//! Who must be assigned which address, by means that are slow and obvious.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::*;
use crate::model::{NetworkId, NodeId, ServiceId, ServiceNetwork, Subnet};

/// Which address comes next, by lists of everything.
#[derive(Default)]
struct Addresses {
    unused: Vec<IpAddr>,
    freed: Vec<IpAddr>,
    /// All that come by themselves.
    assignable: BTreeSet<IpAddr>,
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
            && !changes.is_empty()
        {
            // Before that of a service that is made with it.
            let addresses = self.networks.get_mut(&spec.network).unwrap();
            let wanted = spec.ipv4.map(IpAddr::V4).into_iter();
            for wanted in wanted.chain(spec.ipv6.map(IpAddr::V6)) {
                addresses.take(wanted);
            }
        }
        for change in changes {
            match change {
                // One that is there goes on with its addresses, and may get more.
                Change::Network(network) => {
                    let known = before.networks.get(&network.id);
                    let known = known.map_or(0, |known| known.subnets.len());
                    let addresses = self.networks.entry(network.id).or_default();
                    for subnet in &network.subnets[known..] {
                        let further = assignable(network, subnet);
                        addresses.unused.extend(&further);
                        addresses.assignable.extend(further);
                    }
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
                    if let Command::CreateEndpoint(spec) = command {
                        let v4 = endpoint.ipv4.filter(|_| spec.ipv4.is_none());
                        let v6 = endpoint.ipv6.filter(|_| spec.ipv6.is_none());
                        let assigned = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
                        assigned.for_each(|address| addresses.assert_next(address));
                    }
                    endpoint.addresses().for_each(|held| addresses.take(held));
                }
                Change::EndpointGone(id) => {
                    let endpoint = &before.endpoints[id];
                    let addresses = self.networks.get_mut(&endpoint.network).unwrap();
                    endpoint.addresses().for_each(|held| addresses.free(held));
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
            (Some(was), None) => addresses.free(was.into()),
            (None, Some(now)) => {
                addresses.assert_next(now.into());
                addresses.take(now.into());
            }
            (None, None) => assert!(waits || addresses.next(false).is_none(), "left without"),
            (Some(was), Some(now)) => assert_eq!(was, now),
        }
    }

    fn service(&mut self, before: &View, id: ServiceId, now: &[ServiceNetwork]) {
        let was = (before.services.get(&id)).map_or(&[][..], |service| &service.networks);
        for gone in was.iter().filter(|on| !now.contains(on)) {
            let addresses = self.networks.get_mut(&gone.network).unwrap();
            (gone.vip.into_iter()).for_each(|vip| addresses.free(vip.into()));
        }
        for new in now.iter().filter(|on| !was.contains(on)) {
            let addresses = self.networks.get_mut(&new.network).unwrap();
            if let Some(vip) = new.vip {
                addresses.assert_next(vip.into());
                addresses.take(vip.into());
            }
        }
    }
}

impl Addresses {
    fn next(&self, v6: bool) -> Option<IpAddr> {
        let mut free = self.unused.iter().chain(&self.freed);
        free.find(|address| address.is_ipv6() == v6).copied()
    }

    fn assert_next(&self, assigned: IpAddr) {
        assert_eq!(Some(assigned), self.next(assigned.is_ipv6()));
    }

    fn free(&mut self, address: IpAddr) {
        if self.assignable.contains(&address) {
            self.freed.push(address);
        }
    }

    fn take(&mut self, taken: IpAddr) {
        self.unused.retain(|address| *address != taken);
        self.freed.retain(|address| *address != taken);
    }
}

/// Few enough to tell, of the smallest subnets and of the first of large ones.
fn assignable(network: &Network, subnet: &Subnet) -> Vec<IpAddr> {
    const MANY: usize = 300;
    let hosts: Vec<IpAddr> = match subnet.cidr {
        IpNet::V4(cidr) => cidr.hosts().map(IpAddr::V4).collect(),
        IpNet::V6(cidr) => cidr.hosts().take(MANY).skip(1).map(IpAddr::V6).collect(),
    };
    let aux: Vec<&IpAddr> = network.aux_addresses.values().collect();
    let range = subnet.range.unwrap_or(subnet.cidr);
    let free = |host: &IpAddr| *host != subnet.gateway && !aux.contains(&host);
    { hosts.into_iter() }
        .filter(|host| range.contains(host) && free(host))
        .collect()
}
