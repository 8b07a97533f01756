//! Services: what the local API asks of the cluster about them, and how they are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::time::Instant;
use weft_overlay::host;
use weft_raft::command::{
    Command, EndpointChange, Object, RefusalKind, ServiceChange, ServiceSpec,
};
use weft_raft::control::{BackendNumbers, NumbersOf, ProposeError};
use weft_raft::model::{self, NetworkId, NodeId, PublishedPort, ServiceId, View};

use super::backend::{Daemon, PROPOSE_TIMEOUT};
use super::host_ports::HostPorts;
use super::own_ports;
use super::service_plane;
use super::wait;
use crate::api::types::host_wide;
use crate::api::types::{
    ApiError, Endpoint, EndpointUpdateRequest, ErrorCode, HealthCheck, Port, PortKey, Protocol,
    PublishRequest, Service, ServiceAnswer, ServiceCreateRequest, ServiceUpdateRequest, Warning,
};
use crate::api::{WaitFor, lookup};

/// How long an endpoint that leaves may finish what it began, unless told otherwise.
const DRAIN_TIMEOUT_MS: u32 = 10_000;

/// How long the nodes are waited for to say what is in the way of a port, and how long they take
/// for it once they know of the port.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
const LOOK_TIME: Duration = Duration::from_millis(100);

/// Addresses that a refusal names.
const EXAMPLES: usize = 4;

/// How long until an update that came too late is worked out again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// All services, by name.
pub(super) async fn list(daemon: &Daemon) -> Result<Vec<Service>, ApiError> {
    let this = daemon.this()?;
    let numbers = service_plane::numbers(daemon, None).await;
    let mut services: Vec<Service> = daemon.control.with_view(|view| {
        let mut members: BTreeMap<ServiceId, Vec<&Arc<model::Endpoint>>> = BTreeMap::new();
        for endpoint in view.endpoints.values() {
            if let Some(service) = endpoint.service {
                members.entry(service).or_default().push(endpoint);
            }
        }
        view.services
            .values()
            .map(|row| {
                let members = members.remove(&row.id).unwrap_or_default();
                Service::from_row(row, members, view, |member| known(&numbers, member, this))
            })
            .collect()
    });
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(services)
}

/// One service.
pub(super) async fn one(daemon: &Daemon, wanted: &str) -> Result<Service, ApiError> {
    daemon.this()?;
    let row = found(daemon, wanted)?;
    let own = service_plane::numbers(daemon, Some(row.id));
    let (mut numbers, others) = tokio::join!(own, daemon.control.others_numbers(row.id));
    numbers.extend(others?);
    Ok(describe(daemon, &row, &numbers))
}

/// Creates a service.
pub(super) async fn create(
    daemon: Daemon,
    request: ServiceCreateRequest,
) -> Result<ServiceAnswer, ApiError> {
    daemon.this()?;
    check_ports(&daemon, &request.ports)?;
    let spec = ServiceSpec {
        id: ServiceId(daemon.random_id()?),
        name: request.name,
        networks: networks(&daemon, &request.networks)?,
        ports: request.ports.into_iter().map(PublishedPort::from).collect(),
        mode: request.mode.into(),
        scheduler: request.scheduler.into(),
        affinity: request.affinity.into(),
        drain_timeout_ms: request.drain_timeout_ms.unwrap_or(DRAIN_TIMEOUT_MS),
        idle_timeout_s: request.idle_timeout_s.filter(|seconds| *seconds > 0),
        health: request.health.map(model::HealthCheck::from),
        labels: request.labels,
        ends_with_endpoints: false,
    };
    let before = Before::new(host_ports().await);
    let created = daemon
        .propose(Command::CreateService(Box::new(spec)))
        .await?;
    answer(&daemon, created, &before).await
}

/// What a service is made of that comes with its first endpoint, `endpoint` on `network`.
pub(super) fn with_endpoint(
    daemon: &Daemon,
    request: PublishRequest,
    endpoint: &str,
    network: NetworkId,
) -> Result<ServiceSpec, ApiError> {
    check_ports(daemon, &request.ports)?;
    let name = request.name.unwrap_or_else(|| endpoint.to_owned());
    let is_taken = |view: &View| view.services.values().any(|row| row.name == name);
    if daemon.control.with_view(is_taken) {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "service `{name}` exists already; publish on it with 'weft service update {name} \
                 --publish-add ..', and join it without --publish"
            ),
        ));
    }
    let mut on = vec![network];
    on.extend(networks(daemon, &request.networks)?);
    Ok(ServiceSpec {
        id: ServiceId(daemon.random_id()?),
        name,
        networks: on,
        ports: request.ports.into_iter().map(PublishedPort::from).collect(),
        mode: model::EndpointMode::Vip,
        scheduler: model::Scheduler::RoundRobin,
        affinity: None,
        drain_timeout_ms: DRAIN_TIMEOUT_MS,
        idle_timeout_s: None,
        health: None,
        labels: model::Labels::new(),
        ends_with_endpoints: true,
    })
}

/// Changes a service.
pub(super) async fn update(
    daemon: Daemon,
    wanted: String,
    request: ServiceUpdateRequest,
) -> Result<ServiceAnswer, ApiError> {
    daemon.this()?;
    check_ports(&daemon, &request.ports_add)?;
    let host = host_ports().await;
    let deadline = Instant::now() + PROPOSE_TIMEOUT;
    loop {
        let row = found(&daemon, &wanted)?;
        let update = Command::UpdateService {
            id: row.id,
            change: Box::new(change(&daemon, &row, request.clone())?),
        };
        match daemon.control.propose(update, PROPOSE_TIMEOUT).await {
            Ok(applied) => {
                let reached = daemon
                    .control
                    .wait_revision(applied.revision, PROPOSE_TIMEOUT);
                reached.await?;
                let shown = describe(&daemon, &row, &NumbersOf::new());
                let before = Before {
                    host,
                    ports: row.ports.clone(),
                    warnings: shown.warnings.into_iter().collect(),
                };
                return answer(&daemon, applied.object, &before).await;
            }
            // Somebody else was faster; this node's view is about to show it.
            Err(ProposeError::Refused(refusal))
                if refusal.kind == RefusalKind::Outdated && Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a service; its endpoints go on in no service.
pub(super) async fn remove(daemon: Daemon, wanted: String) -> Result<Service, ApiError> {
    daemon.this()?;
    let row = found(&daemon, &wanted)?;
    let was = describe(&daemon, &row, &NumbersOf::new());
    daemon
        .propose(Command::RemoveService { id: row.id })
        .await?;
    Ok(was)
}

/// Changes an endpoint, on whichever node it is.
pub(super) async fn update_endpoint(
    daemon: Daemon,
    wanted: String,
    request: EndpointUpdateRequest,
) -> Result<Endpoint, ApiError> {
    daemon.this()?;
    let id = daemon
        .control
        .with_view(|view| lookup::endpoint(view, &wanted).map(|row| row.id))?;
    let change = EndpointChange {
        weight: request.weight,
    };
    match daemon
        .propose(Command::UpdateEndpoint { id, change })
        .await?
    {
        Object::Endpoint(row) => Ok(daemon.describe(&row, None)),
        _ => Err(ApiError::failed(
            "the cluster answered something else than an endpoint",
        )),
    }
}

fn found(daemon: &Daemon, wanted: &str) -> Result<Arc<model::Service>, ApiError> {
    daemon
        .control
        .with_view(|view| lookup::service(view, wanted).cloned())
}

fn describe(daemon: &Daemon, row: &model::Service, numbers: &NumbersOf) -> Service {
    let this = daemon.control.membership().map(|member| member.node);
    daemon.control.with_view(|view| {
        let members = lookup::members(view, row.id);
        let numbers = |member: &model::Endpoint| match this {
            Some(this) => known(numbers, member, this),
            None => Err("this node is in no cluster any more".to_owned()),
        };
        Service::from_row(row, members, view, numbers)
    })
}

/// What is known of an endpoint, or why nothing is.
fn known(
    numbers: &NumbersOf,
    member: &model::Endpoint,
    this: NodeId,
) -> Result<BackendNumbers, String> {
    let found = numbers.get(&member.id).cloned();
    found.unwrap_or_else(|| {
        Err(match member.node == this {
            true => "its connections are not counted yet".to_owned(),
            false => "another node has counted; inspect the service to ask it".to_owned(),
        })
    })
}

/// What was so before a change: only what is new is warned of.
struct Before {
    host: HostPorts,
    ports: Vec<PublishedPort>,
    warnings: BTreeSet<Warning>,
}

impl Before {
    /// Of a service that was not there.
    fn new(host: HostPorts) -> Self {
        Self {
            host,
            ports: Vec::new(),
            warnings: BTreeSet::new(),
        }
    }
}

/// What was made or changed, with what the nodes say of the ports that it had not before.
async fn answer(
    daemon: &Daemon,
    object: Object,
    before: &Before,
) -> Result<ServiceAnswer, ApiError> {
    let Object::Service(row) = object else {
        return Err(ApiError::failed(
            "the cluster answered something else than a service",
        ));
    };
    let new = row.ports.iter().filter(|port| !before.ports.contains(port));
    let new: Vec<Port> = new.map(Port::from).collect();
    let mut warnings = Vec::new();
    if !new.is_empty() {
        others_have_looked(daemon, row.revision).await;
        let this = daemon.this()?;
        let (name, own) = daemon.control.with_view(|view| {
            let node = view.nodes.get(&this);
            let own = node.map(|node| host_wide(node)).unwrap_or_default();
            (node.map(|node| node.name.clone()), own)
        });
        let here = before.host.warnings(&new).into_iter().chain(own);
        warnings.extend(here.map(|message| Warning {
            node: name.clone(),
            message,
        }));
        let told = describe(daemon, &row, &NumbersOf::new()).warnings;
        let told = told.into_iter().filter(|warning| warning.node != name);
        warnings.extend(told.filter(|warning| !before.warnings.contains(warning)));
    }
    Ok(ServiceAnswer {
        service: describe(daemon, &row, &NumbersOf::new()),
        warnings,
    })
}

/// Waits a moment, until the other nodes have taken a change in and could say what is in the way of
/// it there. What they say later is in the service as it is shown.
async fn others_have_looked(daemon: &Daemon, revision: u64) {
    let others = daemon.control.with_view(|view| view.nodes.len() > 1);
    if !others {
        return;
    }
    let taken_in = wait::wait(daemon, WaitFor::Revision(revision), LOOK_TIMEOUT);
    let looked = async {
        let _ = taken_in.await;
        tokio::time::sleep(LOOK_TIME).await;
    };
    let _ = tokio::time::timeout(LOOK_TIMEOUT, looked).await;
}

/// Taken before the change, after which what weft itself does with the ports may show.
async fn host_ports() -> HostPorts {
    // Only a panic of its own could keep it from answering.
    tokio::task::spawn_blocking(HostPorts::read)
        .await
        .unwrap_or_default()
}

fn networks(daemon: &Daemon, wanted: &[String]) -> Result<Vec<NetworkId>, ApiError> {
    daemon.control.with_view(|view| {
        let ids = wanted
            .iter()
            .map(|name| Ok(lookup::network(view, name)?.id));
        ids.collect()
    })
}

fn change(
    daemon: &Daemon,
    row: &model::Service,
    request: ServiceUpdateRequest,
) -> Result<ServiceChange, ApiError> {
    let ports = match request.ports_add.is_empty() && request.ports_rm.is_empty() {
        true => None,
        false => Some(ports(row, request.ports_add, &request.ports_rm)?),
    };
    let health = match (request.health, request.health_rm) {
        (None, false) => None,
        (None, true) => Some(None),
        (Some(wanted), false) => {
            let current = row.health.as_ref().map(HealthCheck::from);
            let check = wanted.applied_to(current).ok_or_else(|| {
                ApiError::invalid(format!(
                    "service `{}` has no health check to change; give it one with --health",
                    row.name
                ))
            })?;
            Some(Some(check.into()))
        }
        (Some(_), true) => {
            return Err(ApiError::invalid(
                "a health check cannot be changed and removed at once; give one of the two",
            ));
        }
    };
    Ok(ServiceChange {
        // What is told as a whole was worked out from the row.
        base: (ports.is_some() || health.is_some()).then_some(row.revision),
        ports,
        scheduler: request.scheduler.map(Into::into),
        affinity: request.affinity.map(Into::into),
        drain_timeout_ms: request.drain_timeout_ms,
        idle_timeout_s: request
            .idle_timeout_s
            .map(|seconds| Some(seconds).filter(|seconds| *seconds > 0)),
        health,
        networks_add: networks(daemon, &request.networks_add)?,
        networks_remove: networks(daemon, &request.networks_rm)?,
        labels_add: request.labels_add,
        labels_remove: request.labels_rm,
        mode: request.mode.map(Into::into),
    })
}

/// The ports of a service without some of them and with others.
fn ports(
    row: &model::Service,
    add: Vec<Port>,
    remove: &[PortKey],
) -> Result<Vec<PublishedPort>, ApiError> {
    let mut ports = row.ports.clone();
    for key in remove {
        let named = |port: &PublishedPort| {
            (port.published, Protocol::from(port.protocol)) == (key.published, key.protocol)
        };
        if !row.ports.iter().any(named) {
            return Err(ApiError::not_found(format!(
                "service `{}` does not publish {}/{}; 'weft service inspect {}' shows what it does",
                row.name, key.published, key.protocol, row.name
            )));
        }
        ports.retain(|port| !named(port));
    }
    ports.extend(add.into_iter().map(PublishedPort::from));
    Ok(ports)
}

/// Refuses ports that nobody could reach, or by which the cluster would lose itself.
fn check_ports(daemon: &Daemon, ports: &[Port]) -> Result<(), ApiError> {
    let here = own_addresses();
    daemon.control.with_view(|view| {
        for port in ports {
            check_address(view, &here, port)?;
            own_ports::check_published(view, port)?;
        }
        Ok(())
    })
}

/// Other nodes' addresses are known as far as they told the cluster.
fn check_address(view: &View, here: &[IpAddr], port: &Port) -> Result<(), ApiError> {
    let Some(ip) = port.ip else {
        return Ok(());
    };
    if here.contains(&ip) || lookup::is_of_a_node(view, ip) {
        return Ok(());
    }
    let mut known: Vec<String> = Vec::new();
    for node in view.nodes.values() {
        let own = [node.addr.ip(), node.data_path_addr];
        let of_family = own.iter().chain(&node.addresses);
        let mut of_family = of_family.filter(|known| known.is_ipv4() == ip.is_ipv4());
        known.extend(of_family.next().map(|ip| format!("{ip} of {}", node.name)));
    }
    let known = match known.len() {
        0 => "no node has one of that family".to_owned(),
        1..=EXAMPLES => known.join(", "),
        _ => format!("{}, ..", known[..EXAMPLES].join(", ")),
    };
    Err(ApiError::invalid(format!(
        "{ip} is an address that no node has; give one that 'weft node inspect' shows of a node, \
         such as {known}"
    )))
}

/// Those that this host just got may not have been told to the cluster yet.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter(|interface| !host::is_own_link(&interface.interface_name))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}
