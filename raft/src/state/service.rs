use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::refuse::{conflict, exhausted, in_use, invalid, not_found, outdated};
use super::{Change, Decision, NetworkId, Object, Revision, State};
use super::{address, check, cost, limits};
use crate::command::{Refusal, ServiceChange, ServiceSpec};
use crate::model::{
    Driver, EndpointMode, HealthCheck, IpFamily, Probe, PublishMode, PublishedPort, Service,
    ServiceId, ServiceNetwork,
};

impl State {
    pub(super) fn create_service(
        &self,
        index: Revision,
        spec: &ServiceSpec,
    ) -> Result<Decision, Refusal> {
        let service = self.new_service(index, spec, None)?;
        self.check_room(cost::of_service(&service))?;
        Ok(changed(Arc::new(service)))
    }

    /// The row of a service that is to be made. `held` is an address that the same request takes.
    pub(super) fn new_service(
        &self,
        index: Revision,
        spec: &ServiceSpec,
        held: Option<(NetworkId, IpAddr)>,
    ) -> Result<Service, Refusal> {
        self.check_service(spec)?;
        let on = |network: &NetworkId| {
            let held = held.filter(|(on, _)| on == network);
            self.service_network(spec.mode, *network, held.map(|(_, address)| address))
        };
        let service = Service {
            id: spec.id,
            name: spec.name.clone(),
            networks: spec.networks.iter().map(on).collect::<Result<_, _>>()?,
            ports: self.published(spec.id, spec.mode, &spec.ports)?,
            mode: spec.mode,
            scheduler: spec.scheduler,
            affinity: spec.affinity,
            drain_timeout_ms: spec.drain_timeout_ms,
            idle_timeout_s: spec.idle_timeout_s,
            health: spec.health.clone(),
            labels: spec.labels.clone(),
            revision: index,
            ends_with_endpoints: spec.ends_with_endpoints,
        };
        check_facts(&service)?;
        Ok(service)
    }

    fn check_service(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        check::dns_label("service name", &spec.name)?;
        if self.index.service_names.contains_key(&spec.name) {
            return Err(conflict(format_args!(
                "service name `{}` is taken; choose another",
                spec.name
            )));
        }
        if self.view.services.contains_key(&spec.id) {
            return Err(conflict(format_args!(
                "service id {} is taken; draw another",
                spec.id
            )));
        }
        if self.view.services.len() >= limits::SERVICES {
            return Err(exhausted(format_args!(
                "the cluster has {0} of {0} services; remove one with `weft service rm`",
                limits::SERVICES
            )));
        }
        check_network_count(spec.networks.len())?;
        let mut seen = BTreeSet::new();
        match spec.networks.iter().find(|network| !seen.insert(**network)) {
            None => Ok(()),
            Some(twice) => Err(invalid(format_args!(
                "network {} is named twice; name each network of a service once",
                self.known_network(*twice)?.name
            ))),
        }
    }

    /// A service's place on a network that it is not on yet.
    fn service_network(
        &self,
        mode: EndpointMode,
        network: NetworkId,
        held: Option<IpAddr>,
    ) -> Result<ServiceNetwork, Refusal> {
        let network = self.known_network(network)?;
        if network.ingress {
            return Err(invalid(format_args!(
                "network {} carries published ports and takes no services; choose another",
                network.name
            )));
        }
        if network.driver == Driver::Bridge {
            return Err(invalid(format_args!(
                "network {} is local to each node (driver bridge), and a service is one for all \
                 nodes; choose a network whose endpoints reach one another",
                network.name
            )));
        }
        let vip = match (mode, self.index.members.get(&network.id)) {
            (EndpointMode::Vip, Some(_)) if !network.has(IpFamily::V4) => {
                return Err(invalid(format_args!(
                    "network {} has no IPv4, which the address of a service is of; use endpoint mode \
                     dnsrr, or a network with both",
                    network.name
                )));
            }
            (EndpointMode::Vip, Some(members)) => {
                let free = address::free(network, members, IpFamily::V4, held)?;
                address::v4(free)
            }
            (EndpointMode::Vip, None) | (EndpointMode::DnsRr, _) => None,
        };
        Ok(ServiceNetwork {
            network: network.id,
            vip,
        })
    }

    pub(super) fn update_service(
        &self,
        index: Revision,
        id: ServiceId,
        change: &ServiceChange,
    ) -> Result<Decision, Refusal> {
        let old = self.known_service(id)?;
        if change.base.is_some_and(|base| base != old.revision) {
            return Err(outdated(format_args!(
                "service {} was changed meanwhile; look at it and ask again",
                old.name
            )));
        }
        let mut service = Service::clone(old);
        service.mode = change.mode.unwrap_or(old.mode);
        match &change.ports {
            Some(ports) => service.ports = self.published(id, service.mode, ports)?,
            None => check_mode(&service)?,
        }
        service.scheduler = change.scheduler.unwrap_or(old.scheduler);
        service.affinity = change.affinity.unwrap_or(old.affinity);
        service.drain_timeout_ms = change.drain_timeout_ms.unwrap_or(old.drain_timeout_ms);
        service.idle_timeout_s = change.idle_timeout_s.unwrap_or(old.idle_timeout_s);
        if let Some(health) = &change.health {
            service.health.clone_from(health);
        }
        for key in &change.labels_remove {
            service.labels.remove(key);
        }
        service.labels.extend(change.labels_add.clone());
        self.move_service(&mut service, change)?;
        self.settle_addresses(&mut service)?;
        if **old == service {
            return Ok(Decision::new(Object::Service(old.clone()), Vec::new()));
        }
        service.revision = index;
        check_facts(&service)?;
        let grown = cost::of_service(&service).saturating_sub(cost::of_service(old));
        self.check_room(grown)?;
        Ok(changed(Arc::new(service)))
    }

    /// Takes a service off networks and onto others.
    fn move_service(&self, service: &mut Service, change: &ServiceChange) -> Result<(), Refusal> {
        let is_on = |service: &Service, network: NetworkId| {
            service.networks.iter().any(|on| on.network == network)
        };
        for id in &change.networks_remove {
            let network = self.known_network(*id)?;
            if !is_on(service, *id) {
                return Err(invalid(format_args!(
                    "service {} is not on network {}; name one that it is on",
                    service.name, network.name
                )));
            }
            let mut members = (self.index.backends(service.id))
                .filter_map(|member| self.view.endpoints.get(&member));
            if let Some(member) = members.find(|member| member.network == *id) {
                return Err(in_use(format_args!(
                    "network {} has endpoints of service {} (such as {}); detach them first",
                    network.name,
                    service.name,
                    self.describe(member)
                )));
            }
            service.networks.retain(|on| on.network != *id);
        }
        for id in &change.networks_add {
            let network = self.known_network(*id)?;
            let old = self.known_service(service.id)?;
            if is_on(service, *id) || is_on(old, *id) {
                return Err(conflict(format_args!(
                    "service {} is on network {} already; name one that it is not on",
                    service.name, network.name
                )));
            }
            let on = self.service_network(service.mode, *id, None)?;
            service.networks.push(on);
        }
        check_network_count(service.networks.len())
    }

    /// Gives the service an address on each of its networks, or takes them away, as its mode says.
    fn settle_addresses(&self, service: &mut Service) -> Result<(), Refusal> {
        for on in &mut service.networks {
            match service.mode {
                EndpointMode::DnsRr => on.vip = None,
                EndpointMode::Vip if on.vip.is_some() => {}
                EndpointMode::Vip => *on = self.service_network(service.mode, on.network, None)?,
            }
        }
        Ok(())
    }

    pub(super) fn remove_service(
        &self,
        index: Revision,
        id: ServiceId,
    ) -> Result<Decision, Refusal> {
        let service = self.known_service(id)?;
        let mut changes = self.released(index, id);
        changes.push(Change::ServiceGone(id));
        Ok(Decision::new(Object::Service(service.clone()), changes))
    }

    pub(super) fn known_service(&self, id: ServiceId) -> Result<&Arc<Service>, Refusal> {
        self.view.services.get(&id).ok_or_else(|| {
            not_found(format_args!(
                "there is no service {id}; `weft service ls` lists all"
            ))
        })
    }

    /// The name of a service for messages.
    pub(super) fn service_name(&self, id: ServiceId) -> &str {
        self.view
            .services
            .get(&id)
            .map_or("?", |service| &service.name)
    }
}

fn changed(service: Arc<Service>) -> Decision {
    let changes = vec![Change::Service(service.clone())];
    Decision::new(Object::Service(service), changes)
}

fn check_network_count(count: usize) -> Result<(), Refusal> {
    if count == 0 {
        return Err(invalid(
            "a service needs a network to be reached on; name at least one",
        ));
    }
    if count > limits::NETWORKS_PER_SERVICE {
        return Err(check::too_many(
            "networks of one service",
            count,
            limits::NETWORKS_PER_SERVICE,
        ));
    }
    Ok(())
}

/// A service without an address has no ports of all nodes.
fn check_mode(service: &Service) -> Result<(), Refusal> {
    let of_all_nodes = |port: &&PublishedPort| port.mode == PublishMode::Ingress;
    match service.ports.iter().find(of_all_nodes) {
        Some(port) if service.mode == EndpointMode::DnsRr => Err(conflict(format_args!(
            "service {0} publishes port {1}/{2} on all nodes, which endpoint mode dnsrr has no \
             address for; take it off with `weft service update --publish-rm {1}/{2} {0}`, or \
             publish it with mode=host",
            service.name, port.published, port.protocol
        ))),
        _ => Ok(()),
    }
}

/// What may change during a service's life.
fn check_facts(service: &Service) -> Result<(), Refusal> {
    check::labels(&service.labels)?;
    if let Some(affinity) = service.affinity {
        check::in_range(
            "affinity timeout",
            affinity.timeout_s,
            &limits::AFFINITY_TIMEOUTS_S,
            " seconds",
        )?;
    }
    check::in_range(
        "drain timeout",
        service.drain_timeout_ms,
        &limits::DRAIN_TIMEOUTS_MS,
        " milliseconds",
    )?;
    if let Some(timeout) = service.idle_timeout_s {
        check::in_range(
            "idle timeout",
            timeout,
            &limits::IDLE_TIMEOUTS_S,
            " seconds",
        )?;
    }
    service.health.as_ref().map_or(Ok(()), check_health)
}

fn check_health(health: &HealthCheck) -> Result<(), Refusal> {
    check::in_range(
        "health check interval",
        health.interval_ms,
        &limits::HEALTH_INTERVALS_MS,
        " milliseconds",
    )?;
    check::in_range(
        "health check timeout",
        health.timeout_ms,
        &limits::HEALTH_TIMEOUTS_MS,
        " milliseconds",
    )?;
    check::in_range(
        "health check retries",
        health.retries,
        &limits::HEALTH_RETRIES,
        "",
    )?;
    match &health.probe {
        Probe::Tcp { port } => check::probe_port(*port),
        Probe::Http { port, path } => {
            check::probe_port(*port)?;
            check::http_path(path)
        }
        Probe::Exec { command } => check::command(command),
    }
}
