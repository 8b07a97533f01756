//! What of this host keeps services from being reached here: others' packet filters, programs that
//! listen on published ports, and ports that the kernel hands out. Told to the cluster in this
//! node's row, so that it is said wherever a port is published.

mod firewall;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use weft_overlay::host;
use weft_raft::command::Command;
use weft_raft::control::ControlPlane;
use weft_raft::model::{Change, Node, NodeId, Notice, PublishMode, Service, ServiceId, View};
use weft_raft::state::limits;
use weft_raft::watch::WatchItem;

use self::firewall::Generation;
use super::host_ports::HostPorts;
use crate::api::lookup;
use crate::api::types::Port;
use crate::translate;

/// Everything is looked at again this often.
const LOOK: Duration = Duration::from_secs(30);
/// The host's packet filter is asked this often whether anybody changed it.
const ASK: Duration = Duration::from_secs(5);
/// Shortest time from one look to the next, so that a burst of changes costs some looks only.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the cluster may take to hear of it.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the notices in this node's row true until `stop`.
pub(super) async fn keep(control: ControlPlane, stop: CancellationToken) {
    tokio::select! {
        () = keep_on(control) => {}
        () = stop.cancelled() => {}
    }
}

async fn keep_on(control: ControlPlane) {
    let mut subscription = control.subscribe();
    let mut keeper = Keeper {
        control,
        generation: Generation::default(),
        firewall: Vec::new(),
        look_at_firewall: Instant::now(),
    };
    let mut look = Instant::now();
    let mut looked = look;
    let mut ask = look + ASK;
    loop {
        tokio::select! {
            item = subscription.next() => match item {
                Some(item) => {
                    if keeper.concerns(&item) {
                        look = look.min(Instant::now().max(looked + PAUSE));
                    }
                    continue;
                }
                None => return,
            },
            () = tokio::time::sleep_until(look.min(ask)) => {}
        }
        let now = Instant::now();
        if now >= ask {
            ask = now + ASK;
            if keeper.generation.has_changed().await {
                keeper.look_at_firewall = now;
                look = now;
            }
        }
        if now >= look {
            keeper.look().await;
            looked = Instant::now();
            look = looked + LOOK;
        }
    }
}

struct Keeper {
    control: ControlPlane,
    generation: Generation,
    /// As last found: it takes longer to look at than ports.
    firewall: Vec<String>,
    look_at_firewall: Instant,
}

impl Keeper {
    /// Whether it changes which ports this node serves.
    fn concerns(&self, item: &WatchItem) -> bool {
        let Some(member) = self.control.membership() else {
            return false;
        };
        let WatchItem::Changes { changes, .. } = item else {
            return true;
        };
        changes.iter().any(|change| match change {
            Change::Service(row) => !row.ports.is_empty(),
            Change::ServiceGone(_) => true,
            Change::Node(row) => row.id == member.node,
            Change::Endpoint(row) => row.node == member.node && row.service.is_some(),
            _ => false,
        })
    }

    async fn look(&mut self) {
        let Some(member) = self.control.membership() else {
            return;
        };
        let now = Instant::now();
        if now >= self.look_at_firewall {
            self.look_at_firewall = now + LOOK;
            self.read_firewall(member.node).await;
        }
        // Only a panic of its own could keep it from answering.
        let ports = tokio::task::spawn_blocking(HostPorts::read).await;
        let ports = ports.unwrap_or_default();
        let told = self.control.with_view(|view| {
            let row = view.nodes.get(&member.node)?;
            let notices = notices(view, row, &ports, &self.firewall);
            (notices != row.notices).then_some(notices)
        });
        if let Some(notices) = told {
            self.tell(member.node, notices).await;
        }
    }

    async fn tell(&self, id: NodeId, notices: Vec<Notice>) {
        for notice in &notices {
            info!("in the way of services: {}", notice.message);
        }
        let change = weft_raft::command::NodeChange {
            notices: Some(notices),
            ..Default::default()
        };
        let command = Command::UpdateNode {
            id,
            change: Box::new(change),
        };
        if let Err(error) = self.control.propose(command, TELL_TIMEOUT).await {
            debug!(%error, "the cluster could not be told what is in the way of services here");
        }
    }

    async fn read_firewall(&mut self, id: NodeId) {
        let known = self.control.with_view(|view| {
            let row: Arc<Node> = view.nodes.get(&id)?.clone();
            let cluster = view.cluster.as_ref()?;
            let encrypted = view.networks.values().any(|network| network.encrypted);
            let inner = encrypted.then(|| translate::inner_port(cluster));
            Some((row, cluster.data_path_port, inner))
        });
        let Some((row, tunnels, inner)) = known else {
            return;
        };
        match host::facts().await {
            Ok(facts) => self.firewall = firewall::lines(facts, &row, tunnels, inner).await,
            Err(error) => debug!(%error, "the host's links could not be read"),
        }
    }
}

/// What is to be in the node's row.
fn notices(view: &View, row: &Node, host: &HostPorts, firewall: &[String]) -> Vec<Notice> {
    let notice = |service: Option<ServiceId>, message: String| Notice {
        service,
        message: shortened(message),
    };
    let host_wide = firewall.iter().map(|line| notice(None, line.clone()));
    let of_services = view.services.values().flat_map(|service| {
        let lines = host.warnings(&served(view, row, service));
        lines.into_iter().map(|line| notice(Some(service.id), line))
    });
    host_wide
        .chain(of_services)
        .take(limits::NODE_NOTICES)
        .collect()
}

/// The ports of a service that the node answers at.
fn served(view: &View, row: &Node, service: &Service) -> Vec<Port> {
    let is_here = |ip| lookup::has_address(row, ip);
    let mut ports = service.ports.clone();
    ports.retain(|port| port.ip.is_none_or(|ip| ip.is_loopback() || is_here(ip)));
    if ports.iter().any(|port| port.mode == PublishMode::Host) {
        let mut members = lookup::members(view, service.id);
        if !members.any(|member| member.node == row.id) {
            ports.retain(|port| port.mode == PublishMode::Ingress);
        }
    }
    ports.iter().map(Port::from).collect()
}

fn shortened(mut message: String) -> String {
    let mut end = limits::NOTICE_BYTES.min(message.len());
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message
}

#[cfg(test)]
mod tests;
