//! The network that carries published ports, and the nodes' addresses on it.

use std::iter;
use std::sync::Arc;

use super::pool::AddressPool;
use super::refuse::{conflict, exhausted, in_use, invalid};
use super::{Change, Node, Revision, State, address, subnet};
use crate::command::{NetworkSpec, Refusal};
use crate::model::{IpFamily, Network, PublishMode, PublishedPort, Service};

/// Name of the network that carries published ports, in a new cluster.
pub(super) const INGRESS: &str = "ingress";

impl State {
    /// What a network that is to carry published ports cannot have.
    pub(super) fn check_ingress(&self, spec: &NetworkSpec) -> Result<(), Refusal> {
        if !spec.ingress {
            return Ok(());
        }
        if let Some(other) = self.index.ingress {
            return Err(conflict(format_args!(
                "network {0} carries published ports already, and only one can; remove it first \
                 with `weft network rm {0}`",
                self.network_name(other)
            )));
        }
        let v6 = spec.ipv6
            || spec
                .subnets
                .iter()
                .any(|spec| spec.cidr.network().is_ipv6());
        let senseless = [
            (v6, "IPv6", "it takes clients of IPv6 without"),
            (spec.internal, "--internal", "clients are outside"),
            (spec.multicast, "--multicast", "nothing is sent to all"),
            (
                spec.allow_overlap,
                "--allow-overlap",
                "the hosts themselves are on it",
            ),
        ];
        if let Some((_, flag, why)) = { senseless.iter() }.find(|(asked, ..)| *asked) {
            return Err(invalid(format_args!(
                "{flag} makes no sense for the network that carries published ports: {why}; leave \
                 it out"
            )));
        }
        if spec.subnets.len() > 1 {
            return Err(invalid(format_args!(
                "{} subnets are too many for the network that carries published ports; give one \
                 with room for all nodes",
                spec.subnets.len()
            )));
        }
        Ok(())
    }

    /// The nodes with addresses of `network`, which is about to carry published ports.
    pub(super) fn enter_ingress(
        &self,
        index: Revision,
        network: &Network,
    ) -> Result<Vec<Change>, Refusal> {
        let nodes = self.view.nodes.len();
        let room = network.subnets.iter();
        let room: u64 = room
            .map(|subnet| subnet::Room::of(network, subnet, iter::empty()).total)
            .sum();
        if room < nodes as u64 {
            let subnets = network.subnets.iter().map(|subnet| subnet.cidr.to_string());
            return Err(exhausted(format_args!(
                "subnet {} has {room} addresses for {nodes} nodes; give a larger --subnet",
                subnets.collect::<Vec<_>>().join(", ")
            )));
        }
        let mut pool = AddressPool::new(network);
        let enter = |node: &Arc<Node>| {
            let ingress = pool.next(IpFamily::V4);
            ingress.into_iter().for_each(|address| pool.take(address));
            let ingress = ingress.and_then(address::v4);
            Change::Node(Arc::new(Node {
                ingress,
                revision: index,
                ..Node::clone(node)
            }))
        };
        Ok(self.view.nodes.values().map(enter).collect())
    }

    /// The nodes without addresses of `network`, which is about to go; refused while it is used.
    pub(super) fn leave_ingress(
        &self,
        index: Revision,
        network: &Network,
    ) -> Result<Vec<Change>, Refusal> {
        let carried =
            |service: &Service| service.ports.iter().find(|port| is_carried(port)).cloned();
        let mut users = { self.view.services.values() }
            .filter_map(|service| Some((service, carried(service)?)));
        if let Some((service, port)) = users.next() {
            let others = match users.count() {
                0 => String::new(),
                1 => " (and of another service)".to_owned(),
                count => format!(" (and of {count} other services)"),
            };
            return Err(in_use(format_args!(
                "network {} carries port {}/{} of service {}{others}; take it off with `weft service \
                 update --publish-rm {1}/{2} {3}`, or remove the service first",
                network.name, port.published, port.protocol, service.name
            )));
        }
        let leave = |node: &Arc<Node>| {
            Change::Node(Arc::new(Node {
                ingress: None,
                revision: index,
                ..Node::clone(node)
            }))
        };
        let nodes = self.view.nodes.values();
        Ok(nodes
            .filter(|node| node.ingress.is_some())
            .map(leave)
            .collect())
    }

    /// A port of all nodes needs a network that brings it to the endpoints.
    pub(super) fn check_carried(&self, port: &PublishedPort) -> Result<(), Refusal> {
        if !is_carried(port) || self.index.ingress.is_some() {
            return Ok(());
        }
        Err(conflict(format_args!(
            "target port {}/{} cannot be published on all nodes: there is no ingress network; make \
             one with `weft network create {INGRESS} --ingress`, or publish with mode=host",
            port.target, port.protocol
        )))
    }
}

fn is_carried(port: &PublishedPort) -> bool {
    port.mode == PublishMode::Ingress
}
