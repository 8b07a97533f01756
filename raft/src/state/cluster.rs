use std::sync::Arc;

use super::index::{Floors, Index};
use super::ingress::INGRESS;
use super::pool::AddressPool;
use super::refuse::{conflict, invalid};
use super::{Change, Cluster, Decision, Object, Revision, State};
use super::{address, check, limits, subnet};
use crate::command::{InitCluster, Refusal, Secrets};
use crate::model::{Driver, IpFamily, Labels, Network, NodeId, Role, View, Vni};

/// Raft id of a cluster's first manager, which is a member before there is a log.
const FIRST_RAFT_ID: u64 = 1;

impl State {
    pub(super) fn init(&self, index: Revision, init: &InitCluster) -> Result<Decision, Refusal> {
        if let Some(cluster) = &self.view.cluster {
            return Err(conflict(format_args!(
                "cluster {} exists already; to make another, leave it first",
                cluster.id
            )));
        }
        check_cluster(&init.cluster)?;
        check::apart_from_tunnels(init.node.addr, init.cluster.data_path_port)?;
        check_secrets(&init.secrets)?;
        if init.node.role != Role::Manager {
            return Err(invalid("the first node of a cluster is a manager"));
        }
        let mut node = self.admit(index, FIRST_RAFT_ID, None, &init.node)?;

        // The node's routes count for the first subnet as for every other.
        let mut alone = View::default();
        alone.nodes.insert(node.id, node.clone());
        let routes = Index::rebuild(&alone, Default::default());
        let (subnet, next) = subnet::from_pools(&alone, &init.cluster, &routes)?;
        let ingress = Network {
            id: init.ingress,
            name: INGRESS.to_owned(),
            driver: Driver::Overlay,
            vni: Some(Vni::INGRESS),
            subnets: vec![subnet],
            routes: Vec::new(),
            aux_addresses: Default::default(),
            mtu: None,
            internal: false,
            multicast: false,
            encrypted: false,
            ingress: true,
            allow_overlap: false,
            labels: Labels::new(),
            revision: index,
        };
        let first = AddressPool::new(&ingress).next(IpFamily::V4);
        Arc::make_mut(&mut node).ingress = first.and_then(address::v4);
        let changes = vec![
            Change::Cluster(init.cluster.clone()),
            Change::Network(Arc::new(ingress)),
            Change::Node(node.clone()),
        ];
        Ok(Decision {
            secrets: Some(init.secrets.clone()),
            floors: Some(Floors {
                vni: Vni::FIRST.get(),
                subnet: next,
                subnet6: 0,
            }),
            ..Decision::new(Object::Node(node), changes)
        })
    }

    pub(super) fn rotate_token(&self, role: Role, secret: [u8; 16]) -> Result<Decision, Refusal> {
        let mut secrets = self
            .secrets
            .clone()
            .ok_or_else(|| conflict("this replica holds no secrets; rotate tokens on a manager"))?;
        match role {
            Role::Manager => secrets.manager_token = secret,
            Role::Worker => secrets.worker_token = secret,
        }
        check_secrets(&secrets)?;
        Ok(Decision {
            secrets: Some(secrets),
            ..Decision::new(Object::None, Vec::new())
        })
    }

    /// The name of a node for messages.
    pub(super) fn node_name(&self, id: NodeId) -> &str {
        self.view.nodes.get(&id).map_or("?", |node| &node.name)
    }
}

fn check_cluster(cluster: &Cluster) -> Result<(), Refusal> {
    check::in_range(
        "data path port",
        cluster.data_path_port,
        &limits::DATA_PATH_PORTS,
        "",
    )?;
    check::not_esp(cluster.data_path_port)?;
    check::in_range(
        "certificate expiry",
        cluster.cert_expiry_s,
        &limits::CERT_EXPIRIES_S,
        " seconds",
    )?;
    check_der("CA certificate", &cluster.ca_cert)?;
    check_pools(cluster)
}

fn check_pools(cluster: &Cluster) -> Result<(), Refusal> {
    let mask = cluster.pool_mask_length;
    let longest = limits::SUBNET_PREFIX_LONGEST;
    if cluster.pools.is_empty() {
        return Err(invalid(
            "a cluster needs an address pool, such as 10.0.0.0/8",
        ));
    }
    if cluster.pools.len() > limits::POOLS {
        return Err(check::too_many(
            "address pools",
            cluster.pools.len(),
            limits::POOLS,
        ));
    }
    if !(limits::SUBNET_PREFIX_SHORTEST..=longest).contains(&mask) {
        return Err(invalid(format_args!(
            "address pool mask length {mask} is out of range; {} to {longest} are accepted",
            limits::SUBNET_PREFIX_SHORTEST
        )));
    }
    for (number, pool) in cluster.pools.iter().enumerate() {
        if *pool != pool.trunc() {
            return Err(invalid(format_args!(
                "address pool {pool} has host bits set; write {}",
                pool.trunc()
            )));
        }
        if mask < pool.prefix_len() {
            return Err(invalid(format_args!(
                "address pool {pool} is smaller than the /{mask} subnets to be taken from it; give a \
                 mask length of {} to {longest}",
                pool.prefix_len()
            )));
        }
        if let Some((range, purpose)) = subnet::reserved(ipnet::IpNet::V4(*pool)) {
            return Err(invalid(format_args!(
                "address pool {pool} overlaps {range}, which is reserved ({purpose}); choose a \
                 private range, such as 10.0.0.0/8"
            )));
        }
        let others = cluster.pools.iter().take(number);
        if let Some(other) = { others }.find(|other| other.contains(pool) || pool.contains(*other))
        {
            return Err(invalid(format_args!(
                "address pool {pool} overlaps address pool {other}; give each address once"
            )));
        }
    }
    Ok(())
}

fn check_secrets(secrets: &Secrets) -> Result<(), Refusal> {
    check_der("CA key", &secrets.ca_key)?;
    // The secret alone tells which role a joiner is given.
    if secrets.manager_token == secrets.worker_token {
        return Err(invalid(
            "the join secrets of managers and workers are equal; draw another",
        ));
    }
    Ok(())
}

fn check_der(what: &str, der: &[u8]) -> Result<(), Refusal> {
    check::in_range(
        &format!("length of the {what}"),
        der.len(),
        &(1..=limits::DER_BYTES),
        " bytes",
    )
}
