//! The addresses of a network and who holds them.

use std::net::Ipv4Addr;

use super::index::{Holder, Members};
use super::refuse::{conflict, exhausted, invalid};
use super::{State, subnet};
use crate::command::Refusal;
use crate::model::Network;

impl State {
    /// The address that an endpoint asks for.
    pub(super) fn wanted_address(
        &self,
        network: &Network,
        members: &Members,
        wanted: Ipv4Addr,
    ) -> Result<Ipv4Addr, Refusal> {
        let accepted = || {
            let ranges = network.subnets.iter().map(subnet::accepted_range);
            ranges.collect::<Vec<_>>().join(", ")
        };
        let Some(subnet) = (network.subnets.iter()).find(|subnet| subnet.cidr.contains(&wanted))
        else {
            return Err(invalid(format_args!(
                "address {wanted} is outside network {}; {} are accepted",
                network.name,
                accepted()
            )));
        };
        let reserved = if wanted == subnet.gateway {
            Some("gateway")
        } else if wanted == subnet.cidr.network() {
            Some("network address")
        } else if wanted == subnet.cidr.broadcast() {
            Some("broadcast address")
        } else {
            None
        };
        if let Some(purpose) = reserved {
            return Err(invalid(format_args!(
                "address {wanted} is reserved: it is the {purpose} of subnet {}; {} are accepted",
                subnet.cidr,
                accepted()
            )));
        }
        match members.addresses.get(&wanted) {
            None => Ok(wanted),
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
        self.index.members.get(&network)?.pool.next()
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

/// The address that is assigned next, when the same request has taken `held`.
pub(super) fn free(
    network: &Network,
    members: &Members,
    held: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Refusal> {
    let next = match held {
        None => members.pool.next(),
        Some(held) => {
            let mut pool = members.pool.clone();
            pool.take(held);
            pool.next()
        }
    };
    next.ok_or_else(|| {
        let total: u64 = (network.subnets.iter())
            .map(|subnet| u64::from(subnet::usable_addresses(subnet)))
            .sum();
        exhausted(format_args!(
            "network {} has no free address: {} of {total} are used; detach endpoints, remove \
             services, or create a network with a larger --subnet",
            network.name,
            members.addresses.len()
        ))
    })
}
