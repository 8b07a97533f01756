use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{broadcast, watch};
use weft_overlay::guard::Guard;
use weft_raft::command::{Command, NetworkChange, NetworkSpec, Object, SubnetSpec};
use weft_raft::control::{ControlPlane, NumbersOf, NumbersSource};
use weft_raft::model::{self, Driver, Id, NetworkId, NodeId, ServiceId, View, Vni};

use super::dataplane::Report;
use super::encryption::{EncryptionReport, Protection};
use super::events::{self, Events};
use super::health::Reasons;
use super::names::NamesReport;
use super::passes::Passes;
use super::reconcile::{GUARD_TABLE, KernelState};
use super::{attach, convert, member, own_ports, service_plane, services, wait};
use crate::api::types::{
    ApiError, Applied, AttachRequest, Endpoint, EndpointState, EndpointUpdateRequest, ErrorCode,
    Feature, InitRequest, JoinRequest, Joined, LeaveRequest, Network, NetworkCreateRequest,
    NetworkUpdateRequest, Node, Role, Service, ServiceAnswer, ServiceCreateRequest,
    ServiceUpdateRequest, Status, Token,
};
use crate::api::{self, Backend, Reply, WaitFor, lookup};
use crate::config::Config;
use crate::health;
use crate::translate::{self, Index};

/// How long a change may take to be committed.
pub(super) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a read waits for what only the leader knows.
const ASK_LEADER: Duration = Duration::from_millis(500);

/// The agent as the local API sees it. Clones share it.
#[derive(Clone)]
pub(super) struct Daemon {
    pub(super) control: ControlPlane,
    pub(super) kernel: watch::Receiver<Arc<KernelState>>,
    dataplane: watch::Receiver<Arc<Report>>,
    pub(super) encryption: watch::Receiver<Arc<EncryptionReport>>,
    pub(super) names: watch::Receiver<Arc<NamesReport>>,
    pub(super) node_name: Option<String>,
    /// Where the sandboxes are.
    pub(super) netns_dir: PathBuf,
    /// How often the kernel was looked at.
    pub(super) passes: Arc<Passes>,
    /// How many health probes there were.
    pub(super) probes: watch::Receiver<health::Counters>,
    events: Events,
    reasons: Reasons,
    features: Arc<[Feature]>,
    random: SystemRandom,
}

/// What the API answers from.
pub(super) struct DaemonParts {
    /// The cluster.
    pub(super) control: ControlPlane,
    /// What this node's kernel reflects.
    pub(super) kernel: watch::Receiver<Arc<KernelState>>,
    /// What its data-plane process does.
    pub(super) dataplane: watch::Receiver<Arc<Report>>,
    /// What is known of its encrypted networks.
    pub(super) encryption: watch::Receiver<Arc<EncryptionReport>>,
    /// What is known of names inside its containers.
    pub(super) names: watch::Receiver<Arc<NamesReport>>,
    /// How often it was looked at.
    pub(super) passes: Arc<Passes>,
    /// What happens.
    pub(super) events: Events,
    /// Why backends are not healthy.
    pub(super) reasons: Reasons,
    /// How many health probes there were.
    pub(super) probes: watch::Receiver<health::Counters>,
}

impl Daemon {
    pub(super) fn new(parts: DaemonParts, features: Vec<Feature>, config: &Config) -> Self {
        Self {
            control: parts.control,
            kernel: parts.kernel,
            dataplane: parts.dataplane,
            encryption: parts.encryption,
            names: parts.names,
            node_name: config.node_name.clone(),
            netns_dir: config.netns_dir(),
            passes: parts.passes,
            probes: parts.probes,
            events: parts.events,
            reasons: parts.reasons,
            features: features.into(),
            random: SystemRandom::new(),
        }
    }

    /// This node's id, or the error of a node that is in no cluster.
    pub(super) fn this(&self) -> Result<NodeId, ApiError> {
        self.control
            .membership()
            .map(|member| member.node)
            .ok_or_else(ApiError::not_member)
    }

    /// Has a command carried out and waits until this node's view reflects it, so that what is
    /// read here next contains what was just written.
    pub(super) async fn propose(&self, command: Command) -> Result<Object, ApiError> {
        let applied = self.control.propose(command, PROPOSE_TIMEOUT).await?;
        self.control
            .wait_revision(applied.revision, PROPOSE_TIMEOUT)
            .await?;
        Ok(applied.object)
    }

    pub(super) fn random_id(&self) -> Result<Id, ApiError> {
        let mut bytes = [0; Id::LEN];
        self.random
            .fill(&mut bytes)
            .map_err(|_| ApiError::failed("the system's random source does not answer"))?;
        Ok(Id::new(bytes))
    }

    fn member_view<R>(
        &self,
        look: impl FnOnce(&View, NodeId) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        let this = self.this()?;
        self.control.with_view(|view| look(view, this))
    }

    async fn list_endpoints(&self) -> Result<Vec<Endpoint>, ApiError> {
        let this = self.this()?;
        let applied = self.control.applied(ASK_LEADER).await.ok();
        let kernel = self.kernel.borrow().clone();
        let mut endpoints: Vec<Endpoint> = self.control.with_view(|view| {
            let state = |row| wait::endpoint_state(row, view, this, &kernel, applied.as_ref());
            view.endpoints
                .values()
                .map(|row| {
                    let (state, error) = state(row);
                    Endpoint {
                        backend_error: self.reasons.of(row),
                        notice: kernel.notice(row).cloned(),
                        ..Endpoint::from_row(row, view, state, error)
                    }
                })
                .collect()
        });
        endpoints.sort_by(|a, b| (&a.network, &a.name).cmp(&(&b.network, &b.name)));
        Ok(endpoints)
    }

    async fn one_endpoint(&self, wanted: &str) -> Result<Endpoint, ApiError> {
        let this = self.this()?;
        let row = self.member_view(|view, _| lookup::endpoint(view, wanted).cloned())?;
        let applied = match row.node == this {
            true => None,
            false => self.control.applied(ASK_LEADER).await.ok(),
        };
        Ok(self.describe(&row, applied.as_ref()))
    }

    /// An endpoint's row as the API shows it.
    pub(super) fn describe(
        &self,
        row: &model::Endpoint,
        applied: Option<&wait::AppliedMap>,
    ) -> Endpoint {
        let kernel = self.kernel.borrow().clone();
        let this = self.control.membership().map(|member| member.node);
        self.control.with_view(|view| {
            let (state, error) = match this {
                Some(this) => wait::endpoint_state(row, view, this, &kernel, applied),
                None => (EndpointState::Pending, None),
            };
            Endpoint {
                backend_error: self.reasons.of(row),
                notice: kernel.notice(row).cloned(),
                ..Endpoint::from_row(row, view, state, error)
            }
        })
    }

    async fn create_network(&self, request: NetworkCreateRequest) -> Result<Network, ApiError> {
        self.this()?;
        let id = NetworkId(self.random_id()?);
        let spec = network_spec(id, request)?;
        if spec.encrypted {
            self.control.with_view(own_ports::check_encryption)?;
        }
        match self.propose(Command::CreateNetwork(Box::new(spec))).await? {
            Object::Network(row) => Ok(self.describe_network(&row)),
            _ => Err(ApiError::failed(
                "the cluster answered something else than a network",
            )),
        }
    }

    async fn update_network(
        &self,
        wanted: &str,
        request: NetworkUpdateRequest,
    ) -> Result<Network, ApiError> {
        let row = self.member_view(|view, _| lookup::network(view, wanted).cloned())?;
        if request.encrypted == Some(true) {
            self.control.with_view(own_ports::check_encryption)?;
        }
        let change = NetworkChange {
            encrypted: request.encrypted,
            routes_add: request.routes_add.into_iter().map(Into::into).collect(),
            routes_remove: request.routes_rm,
            multicast: request.multicast,
            mtu: request.mtu.map(|mtu| Some(mtu).filter(|mtu| *mtu > 0)),
            subnets_add: request.subnets_add,
            labels_add: request.labels_add,
            labels_remove: request.labels_rm,
        };
        let update = Command::UpdateNetwork {
            id: row.id,
            change: Box::new(change),
        };
        match self.propose(update).await? {
            Object::Network(row) => Ok(self.describe_network(&row)),
            _ => Err(ApiError::failed(
                "the cluster answered something else than a network",
            )),
        }
    }

    fn network_of(
        &self,
        view: &View,
        index: &Index,
        row: &model::Network,
        this: Option<NodeId>,
    ) -> Network {
        let error = self
            .kernel
            .borrow()
            .failed
            .get(&row.id.to_string())
            .cloned();
        let warning = translate::mtu_warning(view, index, row, this);
        let blocked = self.blocked(view, index, row);
        let held: BTreeSet<_> = view.held_addresses(row.id).collect();
        let short = translate::shortage(row, &held).into_values();
        Network {
            error,
            warnings: warning.into_iter().chain(blocked).chain(short).collect(),
            ..Network::from_row(row, translate::network_mtu(view, index, row, this), view)
        }
    }

    /// With whom nothing of an encrypted network is exchanged from this node, and why, a line each.
    fn blocked(&self, view: &View, index: &Index, row: &model::Network) -> Vec<String> {
        if !row.encrypted {
            return Vec::new();
        }
        let takes_part = |node| {
            let mut endpoints = index.endpoints(view, row.id);
            row.ingress || endpoints.any(|endpoint| endpoint.node == node)
        };
        let report = self.encryption.borrow().clone();
        let port = row.vni.and_then(|vni| report.ports.get(&vni.get()));
        let unopened = port.and_then(|port| port.error.as_ref());
        let unopened = unopened.map(|why| format!("nothing leaves this node: {why}"));
        let blocked = report.peers.iter().filter_map(|(node, peer)| {
            let Protection::Blocked(why) = &peer.protection else {
                return None;
            };
            let name = &view.nodes.get(node)?.name;
            takes_part(*node).then(|| format!("nothing is exchanged with {name}: {why}"))
        });
        unopened.into_iter().chain(blocked).collect()
    }

    fn describe_network(&self, row: &model::Network) -> Network {
        let this = self.control.membership().map(|member| member.node);
        self.control
            .with_view(|view| self.network_of(view, &Index::of(view), row, this))
    }
}

impl NumbersSource for Daemon {
    fn numbers(&self, service: ServiceId) -> BoxFuture<'static, NumbersOf> {
        let daemon = self.clone();
        Box::pin(async move { service_plane::numbers(&daemon, Some(service)).await })
    }
}

impl Backend for Daemon {
    fn status(&self) -> Reply<'_, Status> {
        Box::pin(async {
            let control = self.control.status();
            let mut kernel = (**self.kernel.borrow()).clone();
            if let Some(dropped) = guard_dropped().await {
                kernel.guard_dropped = dropped;
            }
            let leads = control
                .leader
                .is_some_and(|id| Some(id) == control.member.map(|m| m.node));
            // Only the leader was told; it asks itself, which waits for nobody.
            let applied = match leads {
                true => self.control.applied(ASK_LEADER).await.unwrap_or_default(),
                false => wait::AppliedMap::new(),
            };
            let dataplane = self.dataplane.borrow().clone();
            let encryption = self.encryption.borrow().clone();
            let names = self.names.borrow().clone();
            let known = convert::Known {
                control: &control,
                kernel: &kernel,
                features: &self.features,
                dataplane: &dataplane,
                encryption: &encryption,
                names: &names,
                applied: &applied,
            };
            Ok(self.control.with_view(|view| convert::status(&known, view)))
        })
    }

    fn init(&self, request: InitRequest) -> Reply<'_, Joined> {
        Box::pin(detached(member::init(self.clone(), request)))
    }

    fn join(&self, request: JoinRequest) -> Reply<'_, Joined> {
        Box::pin(detached(member::join(self.clone(), request)))
    }

    fn leave(&self, request: LeaveRequest) -> Reply<'_, ()> {
        let control = self.control.clone();
        Box::pin(detached(
            async move { Ok(control.leave(request.force).await?) },
        ))
    }

    fn token(&self, role: Role, rotate: bool) -> Reply<'_, Token> {
        Box::pin(async move {
            let this = self.this()?;
            let token = match rotate {
                true => self.control.rotate_token(role.into()).await?,
                false => self.control.token(role.into()).await?,
            };
            let managers = self
                .control
                .with_view(|view| convert::manager_addresses(view, Some(this)));
            Ok(Token {
                role,
                token,
                managers,
            })
        })
    }

    fn nodes(&self) -> Reply<'_, Vec<Node>> {
        Box::pin(async {
            let leader = self.control.status().leader;
            self.member_view(|view, this| {
                let rows = view.nodes.values();
                let mut nodes: Vec<Node> = rows
                    .map(|row| Node::from_row(row, leader, Some(this)))
                    .collect();
                nodes.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(nodes)
            })
        })
    }

    fn node(&self, node: String) -> Reply<'_, Node> {
        Box::pin(async move {
            let leader = self.control.status().leader;
            self.member_view(|view, this| {
                let row = lookup::node(view, Some(this), &node)?;
                Ok(Node::from_row(row, leader, Some(this)))
            })
        })
    }

    fn networks(&self) -> Reply<'_, Vec<Network>> {
        Box::pin(async {
            self.member_view(|view, this| {
                let index = Index::of(view);
                let rows = view.networks.values();
                let mut networks: Vec<Network> = rows
                    .map(|row| self.network_of(view, &index, row, Some(this)))
                    .collect();
                networks.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(networks)
            })
        })
    }

    fn network(&self, network: String) -> Reply<'_, Network> {
        Box::pin(async move {
            let row = self.member_view(|view, _| lookup::network(view, &network).cloned())?;
            Ok(self.describe_network(&row))
        })
    }

    fn network_create(&self, request: NetworkCreateRequest) -> Reply<'_, Network> {
        let daemon = self.clone();
        Box::pin(detached(
            async move { daemon.create_network(request).await },
        ))
    }

    fn network_update(&self, network: String, request: NetworkUpdateRequest) -> Reply<'_, Network> {
        let daemon = self.clone();
        Box::pin(detached(async move {
            daemon.update_network(&network, request).await
        }))
    }

    fn network_remove(&self, network: String) -> Reply<'_, Network> {
        let daemon = self.clone();
        Box::pin(detached(async move {
            let row = daemon.member_view(|view, _| lookup::network(view, &network).cloned())?;
            let was = daemon.describe_network(&row);
            daemon
                .propose(Command::RemoveNetwork { id: row.id })
                .await?;
            Ok(was)
        }))
    }

    fn endpoints(&self) -> Reply<'_, Vec<Endpoint>> {
        Box::pin(self.list_endpoints())
    }

    fn endpoint(&self, endpoint: String) -> Reply<'_, Endpoint> {
        Box::pin(async move { self.one_endpoint(&endpoint).await })
    }

    fn attach(&self, request: AttachRequest) -> Reply<'_, Endpoint> {
        Box::pin(detached(attach::attach(self.clone(), request)))
    }

    fn endpoint_update(
        &self,
        endpoint: String,
        request: EndpointUpdateRequest,
    ) -> Reply<'_, Endpoint> {
        let work = services::update_endpoint(self.clone(), endpoint, request);
        Box::pin(detached(work))
    }

    fn detach(&self, endpoint: String, force: bool) -> Reply<'_, Endpoint> {
        Box::pin(detached(attach::detach(self.clone(), endpoint, force)))
    }

    fn services(&self) -> Reply<'_, Vec<Service>> {
        Box::pin(services::list(self))
    }

    fn service(&self, service: String) -> Reply<'_, Service> {
        Box::pin(async move { services::one(self, &service).await })
    }

    fn service_create(&self, request: ServiceCreateRequest) -> Reply<'_, ServiceAnswer> {
        Box::pin(detached(services::create(self.clone(), request)))
    }

    fn service_update(
        &self,
        service: String,
        request: ServiceUpdateRequest,
    ) -> Reply<'_, ServiceAnswer> {
        let work = services::update(self.clone(), service, request);
        Box::pin(detached(work))
    }

    fn service_remove(&self, service: String) -> Reply<'_, Service> {
        Box::pin(detached(services::remove(self.clone(), service)))
    }

    fn wait(&self, what: WaitFor, timeout: Duration) -> Reply<'_, u64> {
        Box::pin(wait::wait(self, what, timeout))
    }

    fn events(&self) -> Reply<'_, api::Events> {
        let listener = self.events.listen();
        let control = self.control.clone();
        Box::pin(async move {
            let stream = stream::unfold((listener, control), |(mut listener, control)| async {
                let event = match listener.recv().await {
                    Ok(event) => (*event).clone(),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        events::resync(control.with_view(|view| view.revision))
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                };
                Some((event, (listener, control)))
            });
            Ok(stream.boxed())
        })
    }

    fn applied(&self) -> Reply<'_, Vec<Applied>> {
        Box::pin(async {
            let applied = self.control.applied(PROPOSE_TIMEOUT).await?;
            Ok(self.control.with_view(|view| {
                let name = |id| {
                    view.nodes
                        .get(id)
                        .map_or_else(String::new, |n| n.name.clone())
                };
                let rows = applied.iter();
                rows.map(|(id, revision)| Applied {
                    node: id.to_string(),
                    name: name(id),
                    revision: *revision,
                })
                .collect()
            }))
        })
    }
}

/// Frames of non-members dropped so far, as the kernel counts them now.
async fn guard_dropped() -> Option<u64> {
    let read = || Guard::open(GUARD_TABLE).and_then(|mut guard| guard.report());
    let report = tokio::task::spawn_blocking(read).await.ok()?.ok()??;
    Some(report.dropped4 + report.dropped6)
}

/// Runs `work` to its end even if the client goes away, so that nothing stays half done.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(ApiError::failed(format!(
            "the agent could not finish this: {error}"
        ))),
    }
}

fn network_spec(id: NetworkId, request: NetworkCreateRequest) -> Result<NetworkSpec, ApiError> {
    let driver = match request.driver.as_deref() {
        None => Driver::Overlay,
        Some(name) => name.parse().map_err(|why| {
            let name = name.escape_debug();
            ApiError::new(ErrorCode::Unsupported, format!("driver `{name}`: {why}"))
        })?,
    };
    let vni = match request.vni {
        None => None,
        Some(number) => Some(Vni::new(number).ok_or_else(|| {
            ApiError::invalid(format!("VNI {number} does not fit; use 1 to {}", Vni::MAX))
        })?),
    };
    let mut subnets: Vec<SubnetSpec> = request
        .subnets
        .iter()
        .map(|cidr| SubnetSpec {
            cidr: *cidr,
            gateway: None,
            range: None,
        })
        .collect();
    for gateway in request.gateways {
        let subnet = subnets
            .iter_mut()
            .find(|subnet| subnet.cidr.contains(&gateway) && subnet.gateway.is_none())
            .ok_or_else(|| {
                ApiError::invalid(format!(
                    "gateway {gateway} is in none of the given subnets, or its subnet has one \
                     already; give one gateway inside each --subnet at most"
                ))
            })?;
        subnet.gateway = Some(gateway);
    }
    for range in request.ip_ranges {
        let subnet = subnets
            .iter_mut()
            .find(|subnet| subnet.cidr.contains(&range) && subnet.range.is_none())
            .ok_or_else(|| {
                ApiError::invalid(format!(
                    "IP range {range} is in none of the given subnets, or its subnet has one already; \
                     give one IP range inside each --subnet at most"
                ))
            })?;
        subnet.range = Some(range);
    }
    Ok(NetworkSpec {
        id,
        name: request.name,
        driver,
        subnets,
        ipv6: request.ipv6,
        aux_addresses: request.aux_addresses,
        vni,
        routes: request.routes.into_iter().map(Into::into).collect(),
        mtu: request.mtu,
        internal: request.internal,
        multicast: request.multicast,
        encrypted: request.encrypted,
        allow_overlap: request.allow_overlap,
        labels: request.labels,
        ingress: request.ingress,
    })
}
