use super::running::Running;
use super::{ControlStatus, PeerStatus};
use crate::model::{NodeStatus, Role};

impl Running {
    /// See [`super::ControlPlane::status`].
    pub(super) fn status(&self) -> ControlStatus {
        let leader = self.leader().map(|leader| leader.node);
        ControlStatus {
            member: Some(self.member),
            addr: Some(self.addr()),
            leader,
            term: self
                .group
                .as_ref()
                .map_or(0, |group| group.metrics().current_term),
            revision: self.hub.revision(),
            applied: self.reports.own(),
            managers: self.quorum(),
            peers: self.peer_statuses(),
            transport: self.transport.counters(),
            requests: self.counters.read(),
            store: self
                .group
                .as_ref()
                .map(crate::consensus::Group::store_status),
            fault: self.group.as_ref().and_then(crate::consensus::Group::fault),
            certificate_not_after: Some(self.not_after),
        }
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let links = self.transport.links();
        let leads = self.is_leader();
        self.hub.with_view(|view| {
            let others = view
                .nodes
                .values()
                .filter(|node| node.id != self.member.node);
            let shown = others.filter(|node| node.role == Role::Manager || leads);
            let status = |node: &std::sync::Arc<crate::model::Node>| {
                let health = self.peers.of(node.id);
                let link = links.iter().find(|link| link.node == node.id);
                PeerStatus {
                    node: node.id,
                    addr: node.addr,
                    role: node.role,
                    reachable: match node.role {
                        Role::Manager => health.is_some_and(|health| health.reachable),
                        Role::Worker => node.status == NodeStatus::Ready,
                    },
                    rtt: link
                        .map(|link| link.rtt)
                        .or(health.and_then(|health| health.rtt)),
                }
            };
            shown.map(status).collect()
        })
    }
}
