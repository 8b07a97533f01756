//! Becoming a member: resuming at start and making a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use super::local::{self, Local};
use super::running::{Parts, Running};
use super::{InitError, InitRequest, Inner, Member, OpenError, now_ms, random};
use crate::command::{Command, InitCluster, NodeSpec, Proposal, Secrets};
use crate::consensus::{Group, GroupConfig, Peer};
use crate::identity::{Authority, Identity, NodeKey};
use crate::model::{Cluster, ClusterId, NetworkId, Role, View};
use crate::state::State;
use crate::store::{Header, Store};
use crate::transport::Transport;

/// Raft id of a cluster's first manager.
const FIRST_RAFT_ID: u64 = 1;
/// For the first command of a cluster: one election and some flushes.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

impl Inner {
    /// Takes up the membership that the data directory holds.
    pub(super) async fn resume(&self) -> Result<Option<Arc<Running>>, OpenError> {
        let dir = &self.config.data_dir;
        local::recover(dir)?;
        let Some(identity) = Identity::load(dir)? else {
            if Store::is_present(dir) {
                return Err(OpenError::File {
                    path: dir.clone(),
                    problem: format!(
                        "it holds a store but no identity (node.crt): restore {0} from a backup, \
                         or remove {0} and join the cluster again",
                        dir.display()
                    ),
                });
            }
            return Ok(None);
        };
        let local = local::load(dir)?;
        let store = match identity.role {
            Role::Manager => Some(self.open_store(&identity).await?),
            Role::Worker => None,
        };
        let limits = self.config.limits.clone();
        let bound = Transport::bind_as(local.listen, limits, identity.key());
        let transport = match bound {
            Ok(transport) => transport,
            Err(error) => {
                close(store).await;
                return Err(error.into());
            }
        };
        let identity = Arc::new(identity);
        transport.set_identity(Arc::clone(&identity))?;
        let group = match store {
            Some(store) => {
                let group = self.start_group(store, &transport).await;
                Some(group.map_err(OpenError::Raft)?)
            }
            None => None,
        };
        Ok(Some(self.start(&identity, local, transport, group)))
    }

    async fn open_store(&self, identity: &Identity) -> Result<Store, OpenError> {
        let dir = self.config.data_dir.clone();
        let (node, cluster) = (identity.node, identity.cluster);
        let claim = self
            .claim()
            .ok_or_else(|| OpenError::Raft("shut down".to_owned()))?;
        let opened =
            tokio::task::spawn_blocking(move || Store::open(&dir, node, cluster, claim)).await;
        match opened {
            Ok(store) => Ok(store?),
            Err(error) => Err(OpenError::Raft(error.to_string())),
        }
    }

    pub(super) async fn start_group(
        &self,
        store: Store,
        transport: &Transport,
    ) -> Result<Group, String> {
        let config = GroupConfig {
            timing: self.config.timing,
            compaction: self.config.compaction,
            hub: self.hub.clone(),
            transport: transport.clone(),
        };
        Group::start(store, config).await
    }

    pub(super) fn start(
        &self,
        identity: &Identity,
        local: Local,
        transport: Transport,
        group: Option<Group>,
    ) -> Arc<Running> {
        let parts = Parts {
            member: member(identity),
            not_after: identity.not_after,
            local,
            transport,
            group,
            numbers: self.numbers.clone(),
            peering: self.peering.clone(),
        };
        Running::start(
            parts,
            &self.config,
            self.hub.clone(),
            Arc::clone(&self.counters),
        )
    }

    pub(super) async fn init(&self, request: InitRequest) -> Result<Member, InitError> {
        let _changing = self.change.lock().await;
        if let Some(running) = self.running() {
            return Err(InitError::AlreadyMember {
                cluster: running.member.cluster,
            });
        }
        let dir = &self.config.data_dir;
        let key = NodeKey::generate()?;
        let transport = Transport::bind_as(request.listen, self.config.limits.clone(), &key)?;
        let made = self.make_cluster(request, key, &transport).await;
        match made {
            Ok((identity, local, group)) => {
                let running = self.start(&identity, local, transport, Some(group));
                self.set_running(Some(Arc::clone(&running)));
                Ok(running.member)
            }
            Err(error) => {
                transport.close().await;
                local::remove_all(dir)?;
                self.hub.reset(View::default());
                Err(error)
            }
        }
    }

    async fn make_cluster(
        &self,
        request: InitRequest,
        key: NodeKey,
        transport: &Transport,
    ) -> Result<(Arc<Identity>, Local, Group), InitError> {
        let dir = &self.config.data_dir;
        let local = addresses(transport, request.advertise, request.listen);
        let now = SystemTime::now();
        let authority = Authority::create(ClusterId::new(self.random()?), now)?;
        let cert = authority.sign(&key.csr()?, Role::Manager, request.cert_expiry, now)?;
        let identity = Arc::new(Identity::new(key, &cert, authority.cert_der())?);
        let proposal = self.first_proposal(request, &identity, &authority, local.advertise)?;
        // Refused here, nothing has been written yet.
        State::new().apply(1, &proposal).0?;

        local::begin_joining(dir)?;
        local::remove_half_made(dir)?;
        let claim = self
            .claim()
            .ok_or_else(|| InitError::Raft("shut down".to_owned()))?;
        let (node, cluster) = (identity.node, identity.cluster);
        let header = Header {
            node,
            cluster,
            raft_id: FIRST_RAFT_ID,
        };
        let store = Store::create(dir, header, claim)?;
        transport.set_identity(Arc::clone(&identity))?;
        let group = self
            .start_group(store, transport)
            .await
            .map_err(InitError::Raft)?;
        let peer = Peer {
            node,
            addr: local.advertise,
        };
        let made = first_write(&group, peer, proposal).await.and_then(|()| {
            identity.save(dir)?;
            local::save(dir, &local).map_err(|source| InitError::Write {
                path: dir.clone(),
                source,
            })?;
            Ok(local::finish_joining(dir)?)
        });
        match made {
            Ok(()) => Ok((identity, local, group)),
            Err(error) => {
                group.stop().await;
                Err(error)
            }
        }
    }

    fn first_proposal(
        &self,
        request: InitRequest,
        identity: &Identity,
        authority: &Authority,
        addr: SocketAddr,
    ) -> Result<Proposal, InitError> {
        let pools = match request.pools.is_empty() {
            true => vec![default_pool()],
            false => request.pools,
        };
        let facts = request.facts;
        let command = Command::Init(Box::new(InitCluster {
            cluster: Cluster {
                id: identity.cluster,
                data_path_port: request.data_path_port,
                pools,
                pool_mask_length: request.pool_mask_length,
                cert_expiry_s: request.cert_expiry.as_secs(),
                ca_cert: authority.cert_der().to_vec(),
                created_ms: now_ms(),
            },
            secrets: Secrets {
                ca_key: authority.key_der().to_vec(),
                manager_token: self.random()?,
                worker_token: self.random()?,
            },
            node: NodeSpec {
                id: identity.node,
                name: facts.name,
                role: Role::Manager,
                addr,
                data_path_addr: facts.data_path_addr,
                underlay_mtu: facts.underlay_mtu,
                host_routes: facts.host_routes,
                availability: request.availability,
                version: self.config.version.clone(),
            },
            ingress: NetworkId::new(self.random()?),
        }));
        Ok(Proposal {
            request: self.random()?,
            time_ms: now_ms(),
            command,
        })
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], InitError> {
        random().map_err(|error| InitError::Raft(error.to_string()))
    }
}

pub(super) async fn close(store: Option<Store>) {
    if let Some(store) = store {
        store.close().await;
    }
}

async fn first_write(group: &Group, peer: Peer, proposal: Proposal) -> Result<(), InitError> {
    let raft = |reason: &str| InitError::Raft(reason.to_owned());
    group.bootstrap(peer).await.map_err(|error| raft(&error))?;
    let proposal = Arc::new(proposal);
    let write = async {
        loop {
            match group.write(Arc::clone(&proposal)).await {
                Ok(outcome) => return Ok(outcome?),
                Err(crate::consensus::WriteError::Stopped(reason)) => return Err(raft(&reason)),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let written: Result<_, InitError> = timeout(INIT_TIMEOUT, write)
        .await
        .map_err(|_| raft("the first entry was not written in time; is the disk very slow?"))?;
    written.map(drop)
}

fn member(identity: &Identity) -> Member {
    Member {
        node: identity.node,
        role: identity.role,
        cluster: identity.cluster,
    }
}

/// The address that peers dial has the port that is listened on.
pub(super) fn addresses(transport: &Transport, advertise: SocketAddr, listen: SocketAddr) -> Local {
    let port = transport.local_addr().port();
    Local {
        listen: SocketAddr::new(listen.ip(), port),
        advertise: SocketAddr::new(advertise.ip(), port),
        managers: Vec::new(),
    }
}

fn default_pool() -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 0, 0, 0), 8)
}
