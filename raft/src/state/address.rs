//! The addresses of a network and who holds them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::index::{Holder, Members};
use super::refuse::{conflict, exhausted, invalid};
use super::{State, subnet};
use crate::command::Refusal;
use crate::model::{IpFamily, Network};

impl State {
    /// The address that an endpoint asks for.
    pub(super) fn wanted_address(
        &self,
        network: &Network,
        members: &Members,
        wanted: IpAddr,
    ) -> Result<(), Refusal> {
        let accepted = || {
            let ranges = network.subnets.iter().map(subnet::accepted_range);
            ranges.collect::<Vec<_>>().join(", ")
        };
        let Some(subnet) = network.subnet_of(wanted) else {
            return Err(invalid(format_args!(
                "address {wanted} is outside network {}; {} are accepted",
                network.name,
                accepted()
            )));
        };
        let purpose = match wanted == subnet.gateway {
            true => Some("gateway"),
            false => subnet::odd_purpose(subnet, wanted),
        };
        if let Some(purpose) = purpose {
            return Err(invalid(format_args!(
                "address {wanted} is reserved: it is the {purpose} of subnet {}; {} are accepted",
                subnet.cidr,
                accepted()
            )));
        }
        let mut aux = network.aux_addresses.iter();
        if let Some((name, _)) = aux.find(|(_, aux)| **aux == wanted) {
            return Err(invalid(format_args!(
                "address {wanted} is reserved: it is auxiliary address `{name}` of network {}; choose \
                 another of {}",
                network.name,
                accepted()
            )));
        }
        match members.addresses.get(&wanted) {
            None => Ok(()),
            Some(holder) => Err(conflict(format_args!(
                "address {wanted} is held by {}; choose another of {}, or none to have a free one \
                 assigned",
                self.describe_holder(*holder),
                accepted()
            ))),
        }
    }

    /// The address that a node gets on the ingress network; none is no reason to refuse a node.
    pub(super) fn free_ingress(&self) -> Option<Ipv4Addr> {
        let network = self.index.ingress?;
        let pool = &self.index.members.get(&network)?.pool;
        pool.next(IpFamily::V4).and_then(v4)
    }

    /// The holder of an address for messages.
    fn describe_holder(&self, holder: Holder) -> String {
        match holder {
            Holder::Endpoint(id) => match self.view.endpoints.get(&id) {
                Some(endpoint) => self.describe(endpoint),
                None => format!("endpoint {id}"),
            },
            Holder::Service(id) => format!("service {}", self.service_name(id)),
            Holder::Node(id) => format!("node {}", self.node_name(id)),
        }
    }
}

pub(super) fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

pub(super) fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(v6),
    }
}

/// The address that is assigned next, when the same request has taken `held`.
pub(super) fn free(
    network: &Network,
    members: &Members,
    family: IpFamily,
    held: Option<IpAddr>,
) -> Result<IpAddr, Refusal> {
    let next = match held {
        None => members.pool.next(family),
        Some(held) => {
            let mut pool = members.pool.clone();
            pool.take(held);
            pool.next(family)
        }
    };
    next.ok_or_else(|| {
        let (mut used, mut total) = (0, 0);
        for subnet in &network.subnets {
            if subnet.family() == family {
                let held = members.addresses.keys().copied();
                let room = subnet::Room::of(network, subnet, held);
                used += room.total - room.free;
                total += room.total;
            }
        }
        let grow = match network.ingress {
            true => "remove nodes, or make it anew with a larger --subnet".to_owned(),
            false => format!(
                "detach endpoints, remove services, or give it more with `weft network update \
                 --subnet-add CIDR {}`",
                network.name
            ),
        };
        exhausted(format_args!(
            "network {} has no free {family} address: {used} of {total} are used; {grow}",
            network.name
        ))
    })
}
