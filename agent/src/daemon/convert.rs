//! From what the parts of the agent say to what the local API says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use weft_encrypt::InboundCounters;
use weft_encrypt::forwarding::DropCounters;
use weft_encrypt::path::PeerState;
use weft_overlay::Features;
use weft_raft::control::{
    ControlStatus, InitError, JoinError, LeaveError, ProposeError, Quorum, TimedOut,
};
use weft_raft::model::{NodeId, View, Vni};

use super::dataplane::Report;
use super::encryption::{EncryptionReport, PeerReport, Protection};
use super::names::NamesReport;
use super::reconcile::KernelState;
use super::wait::AppliedMap;
use crate::api::types::host_wide;
use crate::api::types::{
    ApiError, Certificate, DataplaneStatus, DnsStatus, EncryptionStatus, ErrorCode, Feature,
    Managers, Peer, Problem, ProtectedPeer, ProtectionState, Status,
};
use crate::dataplane::dns::DnsCounts;
use crate::dataplane::wire::State;

/// What the kernel was probed for.
pub(super) fn features(features: &Features) -> Vec<Feature> {
    features
        .list
        .iter()
        .map(|feature| Feature {
            name: feature.name.to_owned(),
            present: feature.missing.is_none(),
            hint: feature.missing.as_ref().map(|why| {
                format!(
                    "{why}; networks cannot be made without it: use a kernel with {}",
                    feature.option
                )
            }),
        })
        .collect()
}

/// What an agent knows of itself beside its view.
pub(super) struct Known<'a> {
    pub(super) control: &'a ControlStatus,
    pub(super) kernel: &'a KernelState,
    pub(super) features: &'a [Feature],
    pub(super) dataplane: &'a Report,
    pub(super) encryption: &'a EncryptionReport,
    pub(super) names: &'a NamesReport,
    /// What the nodes' kernels reflect, where this node was told.
    pub(super) applied: &'a AppliedMap,
}

/// What `weft status` shows.
pub(super) fn status(known: &Known<'_>, view: &View) -> Status {
    let Known {
        control,
        kernel,
        features,
        dataplane,
        encryption,
        names,
        applied,
    } = known;
    let member = control.member;
    let own = member.and_then(|member| view.nodes.get(&member.node));
    Status {
        node: member.map(|member| member.node.to_string()),
        name: own.map(|node| node.name.clone()),
        cluster: member.map(|member| member.cluster.to_string()),
        role: member.map(|member| member.role.into()),
        leader: control.leader.map(|leader| leader.to_string()),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: view.revision,
        applied: kernel.applied,
        managers: managers(control.managers),
        peers: peers(control, applied, view),
        features: features.to_vec(),
        problems: problems(known, view),
        warnings: own.map(|node| host_wide(node)).unwrap_or_default(),
        drops: drops(control, kernel),
        certificate: certificate(control),
        dataplane: dataplane_status(dataplane),
        encryption: encryption_status(encryption, view),
        dns: dns_status(names),
    }
}

fn encryption_status(report: &EncryptionReport, view: &View) -> Option<EncryptionStatus> {
    let peers = report.peers.iter();
    Some(EncryptionStatus {
        path: report.path?.name().to_owned(),
        form: report.path?.form().map(|form| form.to_string()),
        error: report.error.clone(),
        peers: peers
            .map(|(node, peer)| protected_peer(*node, peer, view))
            .collect(),
        strays: strays(report).collect(),
        clear_dropped_in: report.clear_dropped.0,
        clear_dropped_out: report.clear_dropped.1,
    })
}

fn protected_peer(node: NodeId, peer: &PeerReport, view: &View) -> ProtectedPeer {
    let known = &peer.state;
    let (state, reason) = match &peer.protection {
        Protection::Protected => (ProtectionState::Protected, None),
        Protection::Blocked(why) => (ProtectionState::Blocked, Some(why.clone())),
    };
    ProtectedPeer {
        node: node.to_string(),
        name: view
            .nodes
            .get(&node)
            .map(|row| row.name.clone())
            .unwrap_or_default(),
        vtep: peer.vtep,
        remote: known.remote,
        state,
        reason,
        epoch_out: peer.epoch_out,
        epoch_in: peer.epoch_in,
        age_s: peer.age.map(|age| age.as_secs()),
        packets_out: known.outbound.packets,
        bytes_out: known.outbound.bytes,
        packets_in: known.inbound.packets,
        bytes_in: known.inbound.bytes,
        drops: protection_drops(known).collect(),
        last_received_ms: known.last_received_ms,
    }
}

/// Packets from and for a peer that were dropped, by cause, where any were.
pub(super) fn protection_drops(peer: &PeerState) -> impl Iterator<Item = (String, u64)> + use<> {
    let own = [
        ("no_key", peer.no_key),
        ("foreign_network", peer.foreign_network),
        ("send_failed", peer.send_failed),
        ("exhausted", peer.outbound.exhausted),
    ];
    let own = own.into_iter().filter(|(_, count)| *count > 0);
    refusals(&peer.inbound).chain(own.map(|(name, count)| (name.to_owned(), count)))
}

/// What was dropped, by cause, where anything was.
pub(super) fn refusals(counters: &InboundCounters) -> impl Iterator<Item = (String, u64)> + use<> {
    let causes = [
        ("bad_length", counters.bad_length),
        ("unknown_spi", counters.unknown_spi),
        ("replayed", counters.replayed),
        ("too_old", counters.too_old),
        ("auth_failed", counters.auth_failed),
        ("bad_padding", counters.bad_padding),
        ("wrong_next_header", counters.wrong_next_header),
        ("bad_inner", counters.bad_inner),
    ];
    let causes = causes.into_iter().filter(|(_, count)| *count > 0);
    causes.map(|(name, count)| (name.to_owned(), count))
}

/// What was dropped of nobody in particular, by cause.
pub(super) fn strays(report: &EncryptionReport) -> impl Iterator<Item = (String, u64)> + use<> {
    let no_port = ("no_port".to_owned(), report.no_port);
    let no_port = Some(no_port).filter(|(_, count)| *count > 0);
    refusals(&report.strays).chain(no_port)
}

/// Frames between a network's bridge and the data path that went no further, by cause, where any did.
pub(super) fn frame_drops(
    counters: &DropCounters,
) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    let causes = [
        ("short", counters.short),
        ("unknown_destination", counters.unknown_destination),
        ("unknown_neighbour", counters.unknown_neighbour),
        ("not_flooded", counters.not_flooded),
        ("no_peer", counters.no_peer),
        ("congested", counters.congested),
        ("undelivered", counters.undelivered),
    ];
    causes.into_iter().filter(|(_, count)| *count > 0)
}

fn dataplane_status(report: &Report) -> Option<DataplaneStatus> {
    let (pid, version) = report.process.clone()?;
    let sum = |of: fn(&State) -> u64| report.states.iter().map(of).sum();
    Some(DataplaneStatus {
        pid,
        version,
        connections: sum(|state| state.connections),
        refused: sum(|state| state.refused),
        unreachable: sum(|state| state.unreachable),
        lost: report.lost,
    })
}

fn dns_status(report: &NamesReport) -> Option<DnsStatus> {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let Some(state) = &report.state else {
        return report.error.clone().map(|error| DnsStatus {
            serving: 0,
            failed: 0,
            upstreams: Vec::new(),
            error: Some(error),
            queries: BTreeMap::new(),
        });
    };
    let counted = dns_queries(&state.counts);
    Some(DnsStatus {
        serving: number(state.serving),
        failed: number(state.failed.len()),
        upstreams: state.upstreams.clone(),
        error: state.upstream_error.clone(),
        queries: counted.map(|(what, count)| (what.to_owned(), count)).into(),
    })
}

/// What became of queries inside containers.
pub(super) fn dns_queries(counts: &DnsCounts) -> [(&'static str, u64); 8] {
    [
        ("answered", counts.answered),
        ("no-data", counts.no_data),
        ("no-name", counts.no_name),
        ("refused", counts.refused),
        ("malformed", counts.malformed),
        ("forwarded", counts.forwarded),
        ("failed", counts.failed),
        ("limited", counts.limited),
    ]
}

fn managers(quorum: Quorum) -> Managers {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Managers {
        total: number(quorum.total),
        reachable: number(quorum.reachable),
        needed: number(quorum.needed),
    }
}

fn peers(control: &ControlStatus, applied: &AppliedMap, view: &View) -> Vec<Peer> {
    let seen: BTreeMap<NodeId, _> = control.peers.iter().map(|peer| (peer.node, peer)).collect();
    view.nodes
        .values()
        .filter(|node| control.member.is_none_or(|member| member.node != node.id))
        .map(|node| {
            let peer = seen.get(&node.id);
            let rtt = peer.and_then(|peer| peer.rtt);
            Peer {
                node: node.id.to_string(),
                name: node.name.clone(),
                addr: node.addr,
                role: node.role.into(),
                reachable: peer.map(|peer| peer.reachable),
                rtt_us: rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                applied: applied.get(&node.id).copied(),
            }
        })
        .collect()
}

fn problems(known: &Known<'_>, view: &View) -> Vec<Problem> {
    let Known {
        control,
        kernel,
        dataplane,
        encryption,
        names,
        ..
    } = known;
    let fault = control.fault.iter().map(|message| Problem {
        object: "store".to_owned(),
        message: format!("this manager takes part in no decision until it is restarted: {message}"),
    });
    let guard = kernel.guard_error.iter().map(|message| Problem {
        object: "guard".to_owned(),
        message: format!("frames of non-members are not being dropped: {message}"),
    });
    let ports = kernel.ports_error.iter().map(|message| Problem {
        object: "published ports".to_owned(),
        message: message.clone(),
    });
    // What it was first told of is among the published ports' problems already.
    let process =
        { dataplane.error.iter() }.filter(|error| kernel.ports_error.as_ref() != Some(error));
    let process = process.map(|message| Problem {
        object: "data-plane process".to_owned(),
        message: message.clone(),
    });
    let carried = encryption.trouble().map(|message| Problem {
        object: "encrypted networks".to_owned(),
        message: message.clone(),
    });
    let answered = names.error.iter().map(|message| Problem {
        object: "names in containers".to_owned(),
        message: message.clone(),
    });
    let unopened = encryption.ports.iter().filter_map(|(vni, port)| {
        let row = view
            .networks
            .values()
            .find(|row| row.vni.map(Vni::get) == Some(*vni))?;
        Some(Problem {
            object: format!("network {}", row.name),
            message: format!("nothing leaves this node: {}", port.error.as_ref()?),
        })
    });
    let networks = kernel.failed.iter().map(|(id, message)| {
        let row = id.parse().ok().and_then(|id| view.networks.get(&id));
        Problem {
            object: format!("network {}", row.map_or(id.as_str(), |row| &row.name)),
            message: message.clone(),
        }
    });
    let endpoint = |(id, message): (&String, &String)| {
        let row = id.parse().ok().and_then(|id| view.endpoints.get(&id));
        Problem {
            object: format!("endpoint {}", row.map_or(id.as_str(), |row| &row.name)),
            message: message.clone(),
        }
    };
    let endpoints = kernel.endpoints_failed.iter().map(endpoint);
    let services = kernel.services_failed.iter().map(endpoint);
    fault
        .chain(guard)
        .chain(ports)
        .chain(process)
        .chain(carried)
        .chain(answered)
        .chain(unopened)
        .chain(networks)
        .chain(endpoints)
        .chain(services)
        .collect()
}

fn drops(control: &ControlStatus, kernel: &KernelState) -> BTreeMap<String, u64> {
    let transport = &control.transport;
    let requests = &control.requests;
    [
        ("control_refused_tls", transport.refused_tls),
        ("control_truncated", transport.closed_truncated),
        ("control_oversized", transport.closed_oversized),
        ("control_unknown_kind", transport.closed_unknown_kind),
        ("control_not_quic", transport.not_quic),
        ("control_overload", transport.overload),
        ("control_refused_streams", transport.refused_streams),
        ("control_undecodable", requests.undecodable),
        ("control_unauthorised", requests.unauthorised),
        ("control_bad_tokens", requests.bad_tokens),
        ("data_path_non_member", kernel.guard_dropped),
        ("kernel_repairs", kernel.repairs),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .collect()
}

fn certificate(control: &ControlStatus) -> Option<Certificate> {
    let not_after = seconds(control.certificate_not_after?);
    let expires_in_s = not_after - seconds(SystemTime::now());
    Some(Certificate {
        not_after,
        expires_in_s,
    })
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

/// Managers that a joiner may be pointed at, this node first.
pub(super) fn manager_addresses(view: &View, this: Option<NodeId>) -> Vec<SocketAddr> {
    let mut managers: Vec<_> = view
        .nodes
        .values()
        .filter(|node| node.raft_id != 0)
        .collect();
    managers.sort_by_key(|node| (Some(node.id) != this, node.id));
    managers.iter().map(|node| node.addr).collect()
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        let code = match error {
            ProposeError::Refused(refusal) => return refusal.into(),
            ProposeError::NotMember => return Self::not_member(),
            ProposeError::NoLeader(_) => ErrorCode::NoLeader,
            ProposeError::TimedOut(_) => ErrorCode::TimedOut,
            ProposeError::TooLarge { .. } | ProposeError::Forbidden { .. } => ErrorCode::Invalid,
            ProposeError::Failed(_) => ErrorCode::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<InitError> for ApiError {
    fn from(error: InitError) -> Self {
        let code = match error {
            InitError::Refused(refusal) => return refusal.into(),
            InitError::AlreadyMember { .. } => ErrorCode::AlreadyMember,
            _ => ErrorCode::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<JoinError> for ApiError {
    fn from(error: JoinError) -> Self {
        let code = match error {
            JoinError::Refused(refusal) => return refusal.into(),
            JoinError::AlreadyMember { .. } => ErrorCode::AlreadyMember,
            JoinError::OtherCluster { .. } | JoinError::WrongSecret | JoinError::NoRemote => {
                ErrorCode::Invalid
            }
            JoinError::NoLeader(_) => ErrorCode::NoLeader,
            _ => ErrorCode::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<LeaveError> for ApiError {
    fn from(error: LeaveError) -> Self {
        let code = match error {
            LeaveError::NotMember => return Self::not_member(),
            LeaveError::Manager { .. } => ErrorCode::InUse,
            LeaveError::Propose(ProposeError::NoLeader(_)) => ErrorCode::NoLeader,
            LeaveError::Propose(ProposeError::TimedOut(_)) => ErrorCode::TimedOut,
            _ => ErrorCode::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<TimedOut> for ApiError {
    fn from(error: TimedOut) -> Self {
        Self::new(ErrorCode::TimedOut, error.to_string())
    }
}
