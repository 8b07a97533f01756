use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::refuse::{conflict, exhausted, in_use, not_found};
use super::{Change, Decision, Node, Object, Revision, State, check, cost, limits};
use crate::command::{NodeChange, NodeSpec, Refusal};
use crate::model::{EndpointId, Labels, NodeId, NodeStatus, Notice, Role};

impl State {
    pub(super) fn add_node(&self, index: Revision, spec: &NodeSpec) -> Result<Decision, Refusal> {
        self.check_control_port(spec.addr)?;
        self.check_tunnel_end(spec.id, spec.data_path_addr)?;
        let node = match self.view.nodes.get(&spec.id) {
            Some(known) => self.readmit(index, known, spec)?,
            None => {
                self.check_node_count(spec.role)?;
                let raft_id = match spec.role {
                    Role::Manager => index,
                    Role::Worker => 0,
                };
                self.admit(index, raft_id, self.free_ingress(), spec)?
            }
        };
        Ok(self.node_decision(node))
    }

    /// A joiner that asks again: it is told what it was told the first time, with its new addresses.
    fn readmit(
        &self,
        index: Revision,
        known: &Arc<Node>,
        spec: &NodeSpec,
    ) -> Result<Arc<Node>, Refusal> {
        if known.role != spec.role {
            return Err(conflict(format_args!(
                "node {} is a member as {} already; remove it before it joins as {}",
                known.name, known.role, spec.role
            )));
        }
        let node = Node {
            addr: spec.addr,
            data_path_addr: spec.data_path_addr,
            underlay_mtu: spec.underlay_mtu,
            host_routes: spec.host_routes.clone(),
            ingress: known.ingress.or_else(|| self.free_ingress()),
            version: spec.version.clone(),
            ..Node::clone(known)
        };
        check_facts(&node)?;
        Ok(changed(index, known, node))
    }

    /// The row of a new node.
    pub(super) fn admit(
        &self,
        index: Revision,
        raft_id: u64,
        ingress: Option<Ipv4Addr>,
        spec: &NodeSpec,
    ) -> Result<Arc<Node>, Refusal> {
        check::node_name(&spec.name)?;
        let node = Node {
            id: spec.id,
            name: self.free_node_name(&spec.name),
            role: spec.role,
            raft_id,
            addr: spec.addr,
            data_path_addr: spec.data_path_addr,
            underlay_mtu: spec.underlay_mtu,
            host_routes: spec.host_routes.clone(),
            ingress,
            availability: spec.availability,
            status: NodeStatus::Ready,
            labels: Labels::new(),
            version: spec.version.clone(),
            revision: index,
            addresses: Vec::new(),
            notices: Vec::new(),
            paths: BTreeMap::new(),
        };
        check_facts(&node)?;
        self.check_room(cost::of_node(&node))?;
        Ok(Arc::new(node))
    }

    fn check_node_count(&self, role: Role) -> Result<(), Refusal> {
        if self.view.nodes.len() >= limits::NODES {
            return Err(exhausted(format_args!(
                "the cluster is full: {0} of {0} nodes; remove one with `weft node rm`",
                limits::NODES
            )));
        }
        if role == Role::Manager && self.index.managers >= limits::MANAGERS {
            return Err(exhausted(format_args!(
                "the cluster has {0} of {0} managers; remove one first, or join as a worker",
                limits::MANAGERS
            )));
        }
        Ok(())
    }

    fn free_node_name(&self, wanted: &str) -> String {
        let taken = |name: &str| {
            self.index
                .node_names
                .contains_key(&name.to_ascii_lowercase())
        };
        if !taken(wanted) {
            return wanted.to_owned();
        }
        // There are at most as many taken names as nodes.
        (2..=limits::NODES + 2)
            .map(|number| format!("{wanted}-{number}"))
            .find(|name| !taken(name))
            .unwrap_or_else(|| wanted.to_owned())
    }

    pub(super) fn update_node(
        &self,
        index: Revision,
        id: NodeId,
        change: &NodeChange,
    ) -> Result<Decision, Refusal> {
        let old = self.known_node(id)?;
        let mut node = Node::clone(old);
        if let Some(addr) = change.addr {
            self.check_control_port(addr)?;
            node.addr = addr;
        }
        if let Some(addr) = change.data_path_addr {
            self.check_tunnel_end(id, addr)?;
            node.data_path_addr = addr;
        }
        if let Some(mtu) = change.underlay_mtu {
            node.underlay_mtu = mtu;
        }
        if let Some(routes) = &change.host_routes {
            node.host_routes.clone_from(routes);
        }
        if let Some(availability) = change.availability {
            node.availability = availability;
        }
        if let Some(version) = &change.version {
            node.version.clone_from(version);
        }
        if let Some(addresses) = &change.addresses {
            node.addresses.clone_from(addresses);
        }
        if let Some(notices) = &change.notices {
            node.notices.clone_from(notices);
        }
        if let Some(paths) = &change.paths {
            node.paths.clone_from(paths);
        }
        for key in &change.labels_remove {
            node.labels.remove(key);
        }
        node.labels.extend(change.labels_add.clone());
        node.ingress = node.ingress.or_else(|| self.free_ingress());
        check_facts(&node)?;
        let grown = cost::of_node(&node).saturating_sub(cost::of_node(old));
        self.check_room(grown)?;
        Ok(self.node_decision(changed(index, old, node)))
    }

    pub(super) fn remove_node(&self, id: NodeId) -> Result<Decision, Refusal> {
        let node = self.known_node(id)?;
        if node.role == Role::Manager && self.index.managers <= 1 {
            return Err(in_use(format_args!(
                "node {} is the last manager and holds the cluster's state; join another manager \
                 first",
                node.name
            )));
        }
        let gone: BTreeSet<EndpointId> = self.index.on_node(id).collect();
        let mut changes: Vec<Change> = gone.iter().copied().map(Change::EndpointGone).collect();
        changes.extend(self.ending_with(&gone));
        changes.push(Change::NodeGone(id));
        Ok(Decision::new(Object::Node(node.clone()), changes))
    }

    pub(super) fn set_node_status(
        &self,
        index: Revision,
        heard: &[(NodeId, NodeStatus)],
    ) -> Result<Decision, Refusal> {
        if heard.len() > limits::NODES {
            return Err(check::too_many("node statuses", heard.len(), limits::NODES));
        }
        // The last word on a node counts. One that was removed meanwhile is passed over: the rest
        // of what the leader heard is still true.
        let heard: BTreeMap<NodeId, NodeStatus> = heard.iter().copied().collect();
        let changes = heard
            .into_iter()
            .filter_map(|(id, status)| Some((self.view.nodes.get(&id)?, status)))
            .filter(|(node, status)| node.status != *status)
            .map(|(node, status)| {
                Change::Node(Arc::new(Node {
                    status,
                    revision: index,
                    ..Node::clone(node)
                }))
            })
            .collect();
        Ok(Decision::new(Object::None, changes))
    }

    fn check_control_port(&self, addr: SocketAddr) -> Result<(), Refusal> {
        match &self.view.cluster {
            Some(cluster) => check::apart_from_tunnels(addr, cluster.data_path_port),
            None => Ok(()),
        }
    }

    /// A tunnel end is one node's: others would send it what is for both. A node that is down keeps
    /// it from nobody, as its host may have been set up anew; and loopback addresses are every host's.
    fn check_tunnel_end(&self, id: NodeId, end: IpAddr) -> Result<(), Refusal> {
        let end = end.to_canonical();
        let mut others = self.view.nodes.values();
        let holder = others.find(|node| {
            node.id != id
                && !end.is_loopback()
                && node.status != NodeStatus::Down
                && node.data_path_addr.to_canonical() == end
        });
        match holder {
            None => Ok(()),
            Some(holder) => Err(in_use(format_args!(
                "data-path address {end} is that of node {}, which is up; choose one of this host's own \
                 with --data-path-addr, or remove that node",
                holder.name
            ))),
        }
    }

    pub(super) fn known_node(&self, id: NodeId) -> Result<&Arc<Node>, Refusal> {
        self.view.nodes.get(&id).ok_or_else(|| {
            not_found(format_args!(
                "there is no node {id}; `weft node ls` lists all"
            ))
        })
    }

    /// Nothing changes when the row is as it was.
    fn node_decision(&self, node: Arc<Node>) -> Decision {
        let same = self.view.nodes.get(&node.id) == Some(&node);
        let changes = if same {
            Vec::new()
        } else {
            vec![Change::Node(node.clone())]
        };
        Decision::new(Object::Node(node), changes)
    }
}

fn changed(index: Revision, old: &Arc<Node>, new: Node) -> Arc<Node> {
    if **old == new {
        return old.clone();
    }
    Arc::new(Node {
        revision: index,
        ..new
    })
}

/// What may change during a node's life.
fn check_facts(node: &Node) -> Result<(), Refusal> {
    check::control_addr(node.addr)?;
    check::data_path_addr(node.data_path_addr)?;
    check::underlay_mtu(node.underlay_mtu)?;
    check::version(&node.version)?;
    check::labels(&node.labels)?;
    check_routes(&node.host_routes)?;
    check_addresses(&node.addresses)?;
    check_notices(&node.notices)?;
    check_paths(&node.paths)
}

fn check_paths(paths: &BTreeMap<NodeId, u32>) -> Result<(), Refusal> {
    match paths.len() {
        0..=limits::NODES => paths.values().copied().try_for_each(check::underlay_mtu),
        many => Err(check::too_many("narrow paths", many, limits::NODES)),
    }
}

fn check_addresses(addresses: &[IpAddr]) -> Result<(), Refusal> {
    match addresses.len() {
        0..=limits::NODE_ADDRESSES => Ok(()),
        many => Err(check::too_many("addresses", many, limits::NODE_ADDRESSES)),
    }
}

fn check_notices(notices: &[Notice]) -> Result<(), Refusal> {
    if notices.len() > limits::NODE_NOTICES {
        return Err(check::too_many(
            "notices",
            notices.len(),
            limits::NODE_NOTICES,
        ));
    }
    let long = |notice: &&Notice| notice.message.len() > limits::NOTICE_BYTES;
    match notices.iter().find(long) {
        None => Ok(()),
        Some(notice) => Err(check::too_many(
            "bytes of a notice",
            notice.message.len(),
            limits::NOTICE_BYTES,
        )),
    }
}

fn check_routes(routes: &[IpNet]) -> Result<(), Refusal> {
    if routes.len() > limits::HOST_ROUTES {
        Err(check::too_many(
            "host routes",
            routes.len(),
            limits::HOST_ROUTES,
        ))
    } else {
        Ok(())
    }
}
