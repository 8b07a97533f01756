//! The published ports of a service, and which are free.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::refuse::{conflict, exhausted, invalid};
use super::{State, check, limits};
use crate::command::Refusal;
use crate::model::{EndpointMode, Protocol, PublishMode, PublishedPort, ServiceId, SourceMode};

/// A published port, on one address of the nodes or (`None`) on all.
pub(super) type PortKey = (Protocol, u16, Option<IpAddr>);

/// Which service publishes which port.
#[derive(Clone, Debug, Default)]
pub(super) struct PortTable {
    holders: BTreeMap<PortKey, ServiceId>,
}

impl PortTable {
    pub(super) fn insert(&mut self, port: &PublishedPort, holder: ServiceId) {
        self.holders.insert(key(port), holder);
    }

    pub(super) fn remove(&mut self, port: &PublishedPort) {
        self.holders.remove(&key(port));
    }

    /// Holders of the port on any address that `key` is about, too.
    fn holders(&self, (protocol, port, ip): PortKey) -> impl Iterator<Item = ServiceId> + '_ {
        self.holders
            .range((protocol, port, None)..=(protocol, port, Some(LAST_ADDRESS)))
            .filter(move |((_, _, held), _)| ip.is_none() || held.is_none() || *held == ip)
            .map(|(_, holder)| *holder)
    }
}

const LAST_ADDRESS: IpAddr = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));

fn key(port: &PublishedPort) -> PortKey {
    (port.protocol, port.published, port.ip)
}

impl State {
    /// The ports that a service publishes from now on: what is wanted, with a number wherever
    /// that is left open.
    pub(super) fn published(
        &self,
        service: ServiceId,
        mode: EndpointMode,
        wanted: &[PublishedPort],
    ) -> Result<Vec<PublishedPort>, Refusal> {
        if wanted.len() > limits::PORTS_PER_SERVICE {
            return Err(check::too_many(
                "published ports",
                wanted.len(),
                limits::PORTS_PER_SERVICE,
            ));
        }
        let before = self.view.services.get(&service);
        let mut choice = Choice {
            state: self,
            service,
            chosen: PortTable::default(),
            before: before.map_or_else(Vec::new, |service| service.ports.clone()),
        };
        let mut ports = wanted.to_vec();
        // Who names a number gets it, and who has one keeps it: what is assigned comes last.
        for port in &ports {
            check_port(mode, port)?;
            self.check_carried(port)?;
            choice.claim(port)?;
        }
        for same_address in [true, false] {
            for port in open(&mut ports) {
                choice.keep(port, same_address);
            }
        }
        let mut floors = BTreeMap::new();
        for port in open(&mut ports) {
            let floor = (floors.entry((port.protocol, port.ip)))
                .or_insert_with(|| *limits::DYNAMIC_PORTS.start());
            *floor = choice.assign(port, *floor)?;
        }
        Ok(ports)
    }
}

/// The ports that have no number yet.
fn open(ports: &mut [PublishedPort]) -> impl Iterator<Item = &mut PublishedPort> {
    ports.iter_mut().filter(|port| port.published == 0)
}

/// The numbers of one request while they are chosen.
struct Choice<'a> {
    state: &'a State,
    service: ServiceId,
    chosen: PortTable,
    /// What the service publishes and has not been taken over.
    before: Vec<PublishedPort>,
}

impl Choice<'_> {
    /// Takes the number that a port names, if it names one.
    fn claim(&mut self, port: &PublishedPort) -> Result<(), Refusal> {
        let PublishedPort {
            published,
            protocol,
            ..
        } = port;
        if *published == 0 {
            return Ok(());
        }
        if self.chosen.holders(key(port)).next().is_some() {
            return Err(invalid(format_args!(
                "port {published}/{protocol} is asked for twice; publish it once, or each time on \
                 another address (ip=)"
            )));
        }
        if let Some(holder) = self.other(key(port)) {
            return Err(conflict(format_args!(
                "port {published}/{protocol} is published by service {}; choose another, or none for \
                 a free one",
                self.state.service_name(holder)
            )));
        }
        self.chosen.insert(port, self.service);
        Ok(())
    }

    /// Takes the number that the service publishes already for what the port leads to, if it does.
    fn keep(&mut self, port: &mut PublishedPort, same_address: bool) {
        let at = self.before.iter().position(|old| {
            (old.target, old.protocol) == (port.target, port.protocol)
                && (!same_address || old.ip == port.ip)
                && self.is_free((old.protocol, old.published, port.ip))
        });
        if let Some(at) = at {
            port.published = self.before.remove(at).published;
            self.chosen.insert(port, self.service);
        }
    }

    /// Takes the lowest free number from `floor` up; returns where the next search begins.
    fn assign(&mut self, port: &mut PublishedPort, floor: u16) -> Result<u16, Refusal> {
        let range = limits::DYNAMIC_PORTS;
        port.published = (floor..=*range.end())
            .find(|number| self.is_free((port.protocol, *number, port.ip)))
            .ok_or_else(|| {
                exhausted(format_args!(
                    "no {} port from {} to {} is free; name one outside, or remove a service",
                    port.protocol,
                    range.start(),
                    range.end()
                ))
            })?;
        self.chosen.insert(port, self.service);
        Ok(port.published.saturating_add(1))
    }

    fn is_free(&self, key: PortKey) -> bool {
        self.chosen.holders(key).next().is_none() && self.other(key).is_none()
    }

    /// Another service that publishes the port.
    fn other(&self, key: PortKey) -> Option<ServiceId> {
        let mut holders = self.state.index.published.holders(key);
        holders.find(|holder| *holder != self.service)
    }
}

/// What makes sense or not in any state.
fn check_port(mode: EndpointMode, port: &PublishedPort) -> Result<(), Refusal> {
    if port.target == 0 {
        return Err(invalid(
            "target port 0 is no port; name the one that the service listens on, 1 to 65535",
        ));
    }
    if mode == EndpointMode::DnsRr && port.mode == PublishMode::Ingress {
        return Err(invalid(
            "endpoint mode dnsrr has no address to publish to; use vip, or mode=host",
        ));
    }
    if port.source == SourceMode::ProxyV2 && port.protocol != Protocol::Tcp {
        return Err(invalid(format_args!(
            "source=proxy-v2 puts a header in front of a TCP stream; use preserve or snat for {}",
            port.protocol
        )));
    }
    if let Some(ip) = port.ip {
        check::publish_ip(ip)?;
    }
    check_clients(port)
}

fn check_clients(port: &PublishedPort) -> Result<(), Refusal> {
    if port.allow_from.len() > limits::ALLOW_FROM {
        return Err(check::too_many(
            "ranges of clients of one port",
            port.allow_from.len(),
            limits::ALLOW_FROM,
        ));
    }
    match port
        .allow_from
        .iter()
        .find(|range| **range != range.trunc())
    {
        None => Ok(()),
        Some(range) => Err(invalid(format_args!(
            "range of clients {range} has host bits set; write {}",
            range.trunc()
        ))),
    }
}
