mod addresses;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{debug, warn};
use weft_overlay::host::{self, HostFacts};
use weft_raft::command::{Command, NodeChange};
use weft_raft::control::ControlPlane;
use weft_raft::model::{Node, NodeId, View};

use self::addresses::{Addresses, usable};

/// How long the cluster may take to hear of it before it is told again.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);
/// Facts are read again this often although no event was heard.
const REREAD: Duration = Duration::from_secs(30);
/// After the cluster was told, its row is looked at again so often until it says so.
const CONFIRM: Duration = Duration::from_secs(1);

/// Keeps the cluster's row of this node true: underlay MTU, addresses, routes and agent version.
pub(super) struct FactsKeeper {
    control: ControlPlane,
    addresses: Addresses,
    due: Instant,
    /// When to look although nothing else happens; while the row is known to be untrue.
    wakeup: Option<Instant>,
    told_at: Option<Instant>,
}

impl FactsKeeper {
    pub(super) fn new(control: ControlPlane) -> Self {
        Self {
            control,
            addresses: Addresses::default(),
            due: Instant::now(),
            wakeup: None,
            told_at: None,
        }
    }

    /// A link, address or route of the host changed; bursts are told as one change.
    pub(super) fn host_changed(&mut self) {
        self.due = Instant::now();
    }

    /// When [`FactsKeeper::keep`] has something to do although nothing else happens.
    pub(super) fn wakeup(&self) -> Option<Instant> {
        self.wakeup
    }

    /// Forgets a wakeup whose time has come.
    pub(super) fn woken(&mut self, now: Instant) {
        self.wakeup = self.wakeup.filter(|at| *at > now);
    }

    /// Tells the cluster when what it believes of this node is no longer so.
    pub(super) async fn keep(&mut self, view: &View, node: NodeId) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        let Some(row) = view.nodes.get(&node) else {
            return;
        };
        self.due = now + REREAD;
        let facts = match host::facts().await {
            Ok(facts) => facts,
            Err(error) => {
                warn!(%error, "the host's links and routes could not be read");
                return;
            }
        };
        let addresses = self.addresses.told(&row.addresses, usable(&facts), now);
        let Some(change) = difference(row, &facts, addresses, view) else {
            self.told_at = None;
            if let Some(at) = self.addresses.due() {
                self.due = at.min(self.due);
                self.wakeup = Some(self.due);
            }
            return;
        };
        if self
            .told_at
            .is_some_and(|at| now.duration_since(at) < TELL_TIMEOUT)
        {
            self.look_soon(now);
            return;
        }
        self.told_at = Some(now);
        self.look_soon(now);
        let control = self.control.clone();
        tokio::spawn(async move {
            let command = Command::UpdateNode {
                id: node,
                change: Box::new(change),
            };
            if let Err(error) = control.propose(command, TELL_TIMEOUT).await {
                debug!(%error, "the cluster could not be told of this host's links and routes");
            }
        });
    }

    fn look_soon(&mut self, now: Instant) {
        self.due = now + CONFIRM;
        self.wakeup = Some(self.due);
    }
}

/// What of the row is no longer so; `None` when all is.
fn difference(
    row: &Node,
    facts: &HostFacts,
    addresses: Vec<IpAddr>,
    view: &View,
) -> Option<NodeChange> {
    let mut change = NodeChange::default();
    if let Some(mtu) = facts.mtu_for(row.data_path_addr)
        && mtu != row.underlay_mtu
    {
        change.underlay_mtu = Some(mtu);
    }
    let routes = routes_beside_networks(facts, view);
    if routes != row.host_routes {
        change.host_routes = Some(routes);
    }
    if addresses != row.addresses {
        change.addresses = Some(addresses);
    }
    let version = env!("CARGO_PKG_VERSION");
    if row.version != version {
        change.version = Some(version.to_owned());
    }
    (change != NodeChange::default()).then_some(change)
}

/// The host's prefixes, without those that equal a network's own subnet: a host may route a
/// network's addresses into it on purpose.
fn routes_beside_networks(facts: &HostFacts, view: &View) -> Vec<IpNet> {
    let ours = |route: &IpNet| {
        view.networks
            .values()
            .flat_map(|network| &network.subnets)
            .any(|subnet| subnet.cidr == *route)
    };
    facts
        .routes
        .iter()
        .filter(|route| !ours(route))
        .copied()
        .collect()
}
