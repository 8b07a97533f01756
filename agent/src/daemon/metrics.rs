//! What is on the metrics page. Names and labels are stable: dashboards rely on them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use weft_lb::ingress::{Ingress, IngressReport};
use weft_netns::Netns;
use weft_overlay::guard::{Guard, GuardReport};
use weft_raft::control::{BackendNumbers, ControlStatus, NumbersOf};
use weft_raft::model::{Endpoint, NodeStatus, View, Vni};

use super::backend::Daemon;
use super::convert;
use super::encryption::{EncryptionReport, PeerReport, Protection};
use super::names::NamesReport;
use super::reconcile::{GUARD_TABLE, KernelState};
use super::service_plane::{self, INGRESS_TABLE};
use crate::api::types::BackendState;
use crate::metrics::{Kind, Page};

use Kind::{Counter, Gauge};

/// Drops that the kernel has counted, where there are counters.
#[derive(Default)]
struct Drops {
    guard: Option<GuardReport>,
    ingress: Option<IngressReport>,
}

/// The page as of now.
pub(super) async fn page(daemon: Daemon) -> String {
    let numbers = service_plane::numbers(&daemon, None).await;
    let drops = tokio::task::spawn_blocking(Drops::read).await;
    let drops = drops.unwrap_or_default();
    let control = daemon.control.status();
    let kernel = daemon.kernel.borrow().clone();
    let mut page = Page::default();
    build(&mut page);
    daemon.control.with_view(|view| {
        cluster(&mut page, &control, view);
        backends(&mut page, view, &numbers);
    });
    own_kernel(&mut page, &daemon, &kernel);
    refusals(&mut page, &control);
    dropped(&mut page, &drops);
    let report = daemon.encryption.borrow().clone();
    daemon
        .control
        .with_view(|view| encryption(&mut page, &report, view));
    let names = daemon.names.borrow().clone();
    dns(&mut page, &names);
    process(&mut page);
    page.finish()
}

impl Drops {
    /// Blocks.
    fn read() -> Self {
        let guard = Guard::open(GUARD_TABLE).and_then(|mut guard| guard.report());
        let host = Netns::current().ok();
        let ingress = host.and_then(|host| Ingress::open(&host, INGRESS_TABLE).ok());
        Self {
            guard: guard.ok().flatten(),
            ingress: ingress.and_then(|mut ingress| ingress.report().ok().flatten()),
        }
    }
}

fn build(page: &mut Page) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("weft_build_info", Gauge, "Version of the agent; always 1.")
        .sample(&version, 1);
}

fn cluster(page: &mut Page, control: &ControlStatus, view: &View) {
    let known = u64::from(control.leader.is_some());
    page.single(
        "weft_leader_known",
        Gauge,
        "Whether this node knows a leader.",
        known,
    );
    let own = control.member.map(|member| member.node);
    let leads = u64::from(own.is_some() && control.leader == own);
    page.single("weft_leader", Gauge, "Whether this node leads.", leads);
    page.single(
        "weft_raft_term",
        Gauge,
        "Raft term; 0 on workers.",
        control.term,
    );
    let help = "Revision of the cluster's state that this node knows.";
    page.single("weft_revision", Gauge, help, view.revision);
    let mut nodes = page.family("weft_nodes", Gauge, "Nodes of the cluster.");
    for (status, name) in [(NodeStatus::Ready, "ready"), (NodeStatus::Down, "down")] {
        let of_status = view.nodes.values().filter(|node| node.status == status);
        nodes.sample(&[("status", name)], of_status.count() as u64);
    }
    let mut managers = page.family("weft_managers", Gauge, "Managers of the cluster.");
    let quorum = control.managers;
    for (name, count) in [
        ("total", quorum.total),
        ("reachable", quorum.reachable),
        ("needed", quorum.needed),
    ] {
        managers.sample(&[("count", name)], count as u64);
    }
}

/// Services with their backends in the whole cluster, and the numbers of those of this node.
fn backends(page: &mut Page, view: &View, numbers: &NumbersOf) {
    states(page, view);
    let help = "Flows that a backend of this node has now.";
    family(
        page,
        "weft_backend_connections",
        Gauge,
        help,
        (view, numbers),
        |all| vec![(None, all.connections)],
    );
    let help = "Connections that others have begun to a backend of this node.";
    family(
        page,
        "weft_backend_connections_total",
        Counter,
        help,
        (view, numbers),
        |all| vec![(None, all.connections_total)],
    );
    let help = "Packets of such connections; segments that the kernel took together are one.";
    family(
        page,
        "weft_backend_packets_total",
        Counter,
        help,
        (view, numbers),
        |all| vec![(Some("in"), all.packets_in), (Some("out"), all.packets_out)],
    );
    let help = "Bytes of these packets, with IP headers.";
    family(
        page,
        "weft_backend_bytes_total",
        Counter,
        help,
        (view, numbers),
        |all| vec![(Some("in"), all.bytes_in), (Some("out"), all.bytes_out)],
    );
    let unknown = numbers.values().filter(|known| known.is_err()).count() as u64;
    let help = "Backends of this node whose numbers are not known.";
    page.single("weft_backends_unknown", Gauge, help, unknown);
}

fn states(page: &mut Page, view: &View) {
    const STATES: [BackendState; 5] = [
        BackendState::Starting,
        BackendState::Ready,
        BackendState::Unhealthy,
        BackendState::Draining,
        BackendState::Down,
    ];
    let mut counts = BTreeMap::new();
    for row in view.endpoints.values() {
        if let Some(service) = row.service {
            let state = BackendState::of(row, view).to_string();
            *counts.entry((service, state)).or_insert(0_u64) += 1;
        }
    }
    let help = "Backends of a service on all nodes, as this node knows them.";
    let mut family = page.family("weft_service_backends", Gauge, help);
    for service in view.services.values() {
        for state in STATES.map(|state| state.to_string()) {
            let count = counts.get(&(service.id, state.clone())).copied();
            let labels = [
                ("service", service.name.as_str()),
                ("state", state.as_str()),
            ];
            family.sample(&labels, count.unwrap_or(0));
        }
    }
}

/// A family of this node's backends. Of one whose numbers are not known it says nothing.
fn family(
    page: &mut Page,
    name: &str,
    kind: Kind,
    help: &str,
    (view, numbers): (&View, &NumbersOf),
    values: impl Fn(&BackendNumbers) -> Vec<(Option<&'static str>, u64)>,
) {
    let mut family = page.family(name, kind, help);
    for (id, known) in numbers {
        let (Ok(known), Some(row)) = (known, view.endpoints.get(id)) else {
            continue;
        };
        let Some([service, network]) = names(view, row) else {
            continue;
        };
        let id = id.to_string();
        for (direction, value) in values(known) {
            let mut labels = vec![
                ("service", service),
                ("backend", row.name.as_str()),
                ("network", network),
                ("id", id.as_str()),
            ];
            labels.extend(direction.map(|direction| ("direction", direction)));
            family.sample(&labels, value);
        }
    }
}

/// Of the service and of the network of an endpoint.
fn names<'a>(view: &'a View, row: &Endpoint) -> Option<[&'a str; 2]> {
    let service = view.services.get(&row.service?)?;
    let network = view.networks.get(&row.network)?;
    Some([&service.name, &network.name])
}

/// What this node has done to its kernel, and for its backends.
fn own_kernel(page: &mut Page, daemon: &Daemon, kernel: &Arc<KernelState>) {
    let help = "Revision that this node's kernel reflects.";
    page.single("weft_applied_revision", Gauge, help, kernel.applied);
    let passes = daemon.passes.read();
    let help = "Comparisons of the kernel with the wanted state.";
    page.single("weft_reconcile_passes_total", Counter, help, passes.made);
    let help = "Comparisons after which something was not as wanted.";
    page.single("weft_reconcile_errors_total", Counter, help, passes.failed);
    let help = "Changes made to the kernel.";
    page.single("weft_kernel_changes_total", Counter, help, kernel.ops);
    let help = "Changes that put back what others had changed.";
    page.single("weft_kernel_repairs_total", Counter, help, kernel.repairs);
    let probes = *daemon.probes.borrow();
    let help = "Health probes started.";
    page.single("weft_health_probes_total", Counter, help, probes.started);
    let help = "Health probes that had to wait for others.";
    page.single(
        "weft_health_probes_delayed_total",
        Counter,
        help,
        probes.delayed,
    );
}

/// What others wanted of the control port and did not get.
fn refusals(page: &mut Page, control: &ControlStatus) {
    let (transport, requests) = (&control.transport, &control.requests);
    let help = "What came to the control port and was refused or dropped.";
    let mut family = page.family("weft_control_refused_total", Counter, help);
    for (reason, count) in [
        ("tls", transport.refused_tls),
        ("handshake", transport.handshakes_failed),
        ("truncated", transport.closed_truncated),
        ("oversized", transport.closed_oversized),
        ("unknown-kind", transport.closed_unknown_kind),
        ("stranger-stream", transport.refused_streams),
        ("overload", transport.overload),
        ("timed-out", transport.calls_timed_out),
        ("not-quic", transport.not_quic),
        ("undecodable", requests.undecodable),
        ("unauthorised", requests.unauthorised),
        ("bad-token", requests.bad_tokens),
    ] {
        family.sample(&[("reason", reason)], count);
    }
    let help = "Connections of the control port that are open.";
    let mut family = page.family("weft_control_connections", Gauge, help);
    family.sample(&[("direction", "in")], transport.inbound_open);
    family.sample(&[("direction", "out")], transport.outbound_open);
    let help = "UDP payload of the control port, bytes.";
    let mut family = page.family("weft_control_bytes_total", Counter, help);
    family.sample(&[("direction", "in")], transport.bytes_received);
    family.sample(&[("direction", "out")], transport.bytes_sent);
}

/// Encrypted networks, by the nodes that share one with this node.
fn encryption(page: &mut Page, report: &EncryptionReport, view: &View) {
    let name = |node| {
        view.nodes
            .get(&node)
            .map(|row| row.name.clone())
            .unwrap_or_default()
    };
    if let Some(path) = report.path {
        let help = "Which data path carries encrypted networks; in user space, in which form.";
        let mut family = page.family("weft_encryption_path", Gauge, help);
        let form = path.form().map(|form| form.to_string()).unwrap_or_default();
        family.sample(&[("path", path.name()), ("form", &form)], 1);
    }
    let peers: Vec<_> = report
        .peers
        .iter()
        .map(|(node, peer)| (name(*node), peer))
        .collect();
    let mut numbers = |family: &str, kind, help: &str, of: fn(&PeerReport) -> Option<u64>| {
        let mut family = page.family(family, kind, help);
        for (name, peer) in &peers {
            if let Some(number) = of(peer) {
                family.sample(&[("peer", name)], number);
            }
        }
    };
    let help =
        "Whether traffic of encrypted networks with a node is protected; if not, it is blocked.";
    numbers("weft_encryption_protected", Gauge, help, |peer| {
        Some(u64::from(peer.protection == Protection::Protected))
    });
    let help = "Number of the key that this node sends to a node with.";
    numbers("weft_encryption_epoch", Gauge, help, |peer| peer.epoch_out);
    let help = "For how long it has, seconds.";
    let age = |peer: &PeerReport| peer.age.map(|age| age.as_secs());
    numbers("weft_encryption_key_age_seconds", Gauge, help, age);
    let help = "Milliseconds since a packet of a node was accepted.";
    let heard = |peer: &PeerReport| peer.state.last_received_ms;
    numbers("weft_encryption_last_received_ms", Gauge, help, heard);
    let help = "Packets of encrypted networks, by node.";
    let mut packets = page.family("weft_encryption_packets_total", Counter, help);
    for (name, peer) in &peers {
        let state = &peer.state;
        packets.sample(
            &[("peer", name), ("direction", "out")],
            state.outbound.packets,
        );
        packets.sample(
            &[("peer", name), ("direction", "in")],
            state.inbound.packets,
        );
    }
    let help = "What was wrapped in them, bytes.";
    let mut bytes = page.family("weft_encryption_bytes_total", Counter, help);
    for (name, peer) in &peers {
        let state = &peer.state;
        bytes.sample(
            &[("peer", name), ("direction", "out")],
            state.outbound.bytes,
        );
        bytes.sample(&[("peer", name), ("direction", "in")], state.inbound.bytes);
    }
    let help = "Packets of encrypted networks that were dropped; without a peer, those of nobody.";
    let mut drops = page.family("weft_encryption_dropped_total", Counter, help);
    for (name, peer) in &peers {
        for (cause, count) in convert::protection_drops(&peer.state) {
            drops.sample(&[("peer", name), ("cause", &cause)], count);
        }
    }
    for (cause, count) in convert::strays(report) {
        drops.sample(&[("peer", ""), ("cause", &cause)], count);
    }
    let help =
        "Frames between containers of encrypted networks and their data path that were dropped.";
    let mut frames = page.family("weft_encryption_frames_dropped_total", Counter, help);
    for (vni, port) in &report.ports {
        let row = view
            .networks
            .values()
            .find(|row| row.vni.map(Vni::get) == Some(*vni));
        let name = row.map(|row| row.name.to_string()).unwrap_or_default();
        for (cause, count) in convert::frame_drops(&port.dropped) {
            frames.sample(&[("network", &name), ("cause", cause)], count);
        }
    }
    let (clear_in, clear_out) = report.clear_dropped;
    let help = "Datagrams of encrypted networks in clear that were dropped.";
    let mut clear = page.family("weft_encryption_clear_dropped_total", Counter, help);
    clear.sample(&[("direction", "in")], clear_in);
    clear.sample(&[("direction", "out")], clear_out);
}

/// Names inside this node's containers.
fn dns(page: &mut Page, report: &NamesReport) {
    let Some(state) = &report.state else {
        return;
    };
    let help = "Containers of this node, by whether names are answered in them.";
    let mut containers = page.family("weft_dns_containers", Gauge, help);
    containers.sample(&[("state", "serving")], state.serving as u64);
    containers.sample(&[("state", "failed")], state.failed.len() as u64);
    let help = "Queries of containers since the data-plane process started.";
    let mut queries = page.family("weft_dns_queries_total", Counter, help);
    for (result, count) in convert::dns_queries(&state.counts) {
        queries.sample(&[("result", result)], count);
    }
    let help = "Packets of resolvers that were no answer to what they were asked.";
    let strays = state.counts.strays;
    page.single("weft_dns_strays_total", Counter, help, strays);
}

fn dropped(page: &mut Page, drops: &Drops) {
    let help = "VXLAN datagrams dropped because their sender is no node of the cluster.";
    let mut family = page.family("weft_guard_dropped_total", Counter, help);
    if let Some(guard) = &drops.guard {
        family.sample(&[("family", "ipv4")], guard.dropped4);
        family.sample(&[("family", "ipv6")], guard.dropped6);
    }
    let help = "Packets dropped on their way to or from published ports.";
    let mut family = page.family("weft_ingress_dropped_total", Counter, help);
    if let Some(ingress) = &drops.ingress {
        family.sample(&[("reason", "no-entry")], ingress.no_entry);
        family.sample(&[("reason", "not-allowed")], ingress.not_allowed);
        family.sample(&[("reason", "not-published")], ingress.not_published);
        family.sample(&[("reason", "loopback")], ingress.loopback);
    }
}

/// By the names that are customary for every program.
fn process(page: &mut Page) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (field, name, help) in [
        (
            "VmSize:",
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
        ),
        (
            "VmRSS:",
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
        ),
    ] {
        if let Some(bytes) = memory(&status, field) {
            page.single(name, Gauge, help, bytes);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // Without the one that reads them.
        let open = open.count().saturating_sub(1) as u64;
        page.single(
            "process_open_fds",
            Gauge,
            "Number of open file descriptors.",
            open,
        );
    }
}

/// Bytes of a field of proc_pid_status(5), which has them in KiB.
fn memory(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tweft\nVmSize:\t  123456 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(memory(status, "VmRSS:"), Some(2 << 20));
        assert_eq!(memory(status, "VmSwap:"), None);
        assert_eq!(memory("VmRSS:\tmuch kB\n", "VmRSS:"), None);
    }
}
