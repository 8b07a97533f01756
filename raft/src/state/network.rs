use std::sync::Arc;

use ipnet::IpNet;

use super::index::Floors;
use super::ingress::INGRESS;
use super::refuse::{conflict, exhausted, in_use, invalid, not_found};
use super::{Change, Cluster, Decision, NetworkId, Object, Revision, State};
use super::{check, cost, limits, route, subnet};
use crate::command::{NetworkChange, NetworkSpec, Refusal, SubnetSpec};
use crate::model::{Driver, IpFamily, Network, Subnet, Vni};

impl State {
    pub(super) fn create_network(
        &self,
        index: Revision,
        cluster: &Cluster,
        spec: &NetworkSpec,
    ) -> Result<Decision, Refusal> {
        self.check_network(spec)?;
        let mut floors = self.index.floors;
        let vni = match spec.driver.has_tunnels() {
            true => Some(self.vni(spec, &mut floors)?),
            false => None,
        };
        let mut network = Network {
            id: spec.id,
            name: spec.name.clone(),
            driver: spec.driver.clone(),
            vni,
            subnets: self.subnets(cluster, spec, &mut floors)?,
            routes: Vec::new(),
            aux_addresses: spec.aux_addresses.clone(),
            mtu: spec.mtu,
            internal: spec.internal,
            multicast: spec.multicast,
            encrypted: spec.encrypted,
            ingress: spec.ingress,
            allow_overlap: spec.allow_overlap,
            labels: spec.labels.clone(),
            revision: index,
        };
        subnet::check_aux(&network)?;
        check_mtu(&network)?;
        route::change(&mut network, &[], &spec.routes)?;
        let network = Arc::new(network);
        self.check_room(cost::of_network(&network))?;
        let mut changes = vec![Change::Network(network.clone())];
        if network.ingress {
            changes.extend(self.enter_ingress(index, &network)?);
        }
        Ok(Decision {
            floors: Some(floors),
            ..Decision::new(Object::Network(network), changes)
        })
    }

    fn check_network(&self, spec: &NetworkSpec) -> Result<(), Refusal> {
        check::dns_label("network name", &spec.name)?;
        check::labels(&spec.labels)?;
        if spec.subnets.len() > limits::SUBNETS_PER_NETWORK {
            return Err(check::too_many(
                "subnets",
                spec.subnets.len(),
                limits::SUBNETS_PER_NETWORK,
            ));
        }
        check_driver(spec)?;
        check::aux_addresses(&spec.aux_addresses)?;
        self.check_ingress(spec)?;
        if spec.name == INGRESS && !spec.ingress {
            return Err(conflict(format_args!(
                "network name `{INGRESS}` belongs to the network that carries published ports; \
                 choose another, or give --ingress to make that one"
            )));
        }
        if let Some(holder) = self.index.network_names.get(&spec.name) {
            return Err(conflict(format_args!(
                "network name `{}` is taken (network {holder}); choose another",
                spec.name
            )));
        }
        if self.view.networks.contains_key(&spec.id) {
            return Err(conflict(format_args!(
                "network id {} is taken; draw another",
                spec.id
            )));
        }
        if self.view.networks.len() >= limits::NETWORKS {
            return Err(exhausted(format_args!(
                "the cluster has {0} of {0} networks; remove one with `weft network rm`",
                limits::NETWORKS
            )));
        }
        Ok(())
    }

    fn vni(&self, spec: &NetworkSpec, floors: &mut Floors) -> Result<Vni, Refusal> {
        let wanted = spec.vni.or(spec.ingress.then_some(Vni::INGRESS));
        let Some(wanted) = wanted else {
            let first = floors.vni.max(Vni::FIRST.get());
            let vni = (first..=Vni::MAX.get())
                .filter_map(Vni::new)
                .find(|vni| !self.index.vnis.contains_key(vni))
                .ok_or_else(|| exhausted("no VNI is left; remove a network"))?;
            floors.vni = vni.get() + 1;
            return Ok(vni);
        };
        // Not everything that can be decoded is a VNI.
        if Vni::new(wanted.get()).is_none() {
            return Err(invalid(format_args!(
                "VNI {wanted} is out of range; 1 to {} are accepted",
                Vni::MAX
            )));
        }
        match self.index.vnis.get(&wanted) {
            None => Ok(wanted),
            Some(holder) if spec.ingress => Err(conflict(format_args!(
                "VNI {wanted} is held by network {}; choose another with --vni",
                self.network_name(*holder)
            ))),
            Some(holder) => Err(conflict(format_args!(
                "VNI {wanted} is held by network {}; choose another, or none to have a free one \
                 assigned",
                self.network_name(*holder)
            ))),
        }
    }

    fn subnets(
        &self,
        cluster: &Cluster,
        spec: &NetworkSpec,
        floors: &mut Floors,
    ) -> Result<Vec<Subnet>, Refusal> {
        let mut subnets = subnet::chosen(
            &self.view,
            &self.index,
            &[],
            &spec.subnets,
            spec.allow_overlap,
        )?;
        let has = |subnets: &[Subnet], family| subnets.iter().any(|s| s.family() == family);
        if !has(&subnets, IpFamily::V4) && (spec.ipv6 || subnets.is_empty()) {
            let (subnet, next) = subnet::from_pools(&self.view, cluster, &self.index)?;
            floors.subnet = next;
            subnets.insert(0, subnet);
        }
        if !has(&subnets, IpFamily::V6) && spec.ipv6 {
            let (subnet, next) = subnet::from_ula(cluster, &self.index)?;
            floors.subnet6 = next;
            subnets.push(subnet);
        }
        Ok(subnets)
    }

    pub(super) fn update_network(
        &self,
        index: Revision,
        id: NetworkId,
        change: &NetworkChange,
    ) -> Result<Decision, Refusal> {
        let old = self.known_network(id)?;
        let mut network = Network::clone(old);
        network.encrypted = change.encrypted.unwrap_or(old.encrypted);
        if network.encrypted {
            needs_tunnels(&network.driver, "--encrypted")?;
        }
        network.multicast = change.multicast.unwrap_or(old.multicast);
        if network.multicast {
            needs_tunnels(&network.driver, "--multicast")?;
        }
        network.mtu = change.mtu.unwrap_or(old.mtu);
        if network.ingress && network.multicast {
            return Err(invalid(format_args!(
                "network {} carries published ports, and nothing on it is sent to all; leave \
                 --multicast out",
                network.name
            )));
        }
        self.grow(&mut network, &change.subnets_add)?;
        check_mtu(&network)?;
        route::change(&mut network, &change.routes_remove, &change.routes_add)?;
        for key in &change.labels_remove {
            network.labels.remove(key);
        }
        network.labels.extend(change.labels_add.clone());
        check::labels(&network.labels)?;
        let grown = cost::of_network(&network).saturating_sub(cost::of_network(old));
        self.check_room(grown)?;
        // Whoever asks again is told the same, and nobody else hears of it.
        if **old == network {
            return Ok(Decision::new(Object::Network(old.clone()), Vec::new()));
        }
        network.revision = index;
        let network = Arc::new(network);
        let changes = vec![Change::Network(network.clone())];
        Ok(Decision::new(Object::Network(network), changes))
    }

    /// Takes in further subnets.
    fn grow(&self, network: &mut Network, cidrs: &[IpNet]) -> Result<(), Refusal> {
        let count = network.subnets.len() + cidrs.len();
        if count > limits::SUBNETS_PER_NETWORK {
            return Err(check::too_many(
                "subnets",
                count,
                limits::SUBNETS_PER_NETWORK,
            ));
        }
        if let Some(cidr) = cidrs.first().filter(|_| network.ingress) {
            return Err(invalid(format_args!(
                "network {} carries published ports and cannot take subnet {cidr}; make it anew with \
                 a larger --subnet",
                network.name
            )));
        }
        let specs: Vec<SubnetSpec> = (cidrs.iter())
            .map(|cidr| SubnetSpec {
                cidr: *cidr,
                gateway: None,
                range: None,
            })
            .collect();
        let added = subnet::chosen(
            &self.view,
            &self.index,
            &network.subnets,
            &specs,
            network.allow_overlap,
        )?;
        // Endpoints keep the addresses that they have, and would have none of it.
        if let Some(subnet) = added.iter().find(|subnet| !network.has(subnet.family())) {
            let family = subnet.family();
            return Err(invalid(format_args!(
                "network {} has no {family}, and subnet {} would give it to some endpoints only; make \
                 another network with both",
                network.name, subnet.cidr
            )));
        }
        network.subnets.extend(added);
        Ok(())
    }

    pub(super) fn remove_network(
        &self,
        index: Revision,
        id: NetworkId,
    ) -> Result<Decision, Refusal> {
        let network = self.known_network(id)?;
        let mut changes = match network.ingress {
            true => self.leave_ingress(index, network)?,
            false => Vec::new(),
        };
        if let Some(members) = self.index.members.get(&id)
            && let Some(example) = members.names.values().next()
            && let Some(example) = self.view.endpoints.get(example)
        {
            let count = members.names.len();
            return Err(in_use(format_args!(
                "network {} has {count} endpoint{} (such as {} on node {}); detach {} first",
                network.name,
                if count == 1 { "" } else { "s" },
                example.name,
                self.node_name(example.node),
                if count == 1 { "it" } else { "them" },
            )));
        }
        if let Some(members) = self.index.members.get(&id)
            && let Some(service) = members.services.first()
        {
            let name = self.service_name(*service);
            return Err(in_use(format_args!(
                "network {0} is used by service {name}; remove the service, or take it off the \
                 network with `weft service update --network-rm {0} {name}`",
                network.name
            )));
        }
        changes.push(Change::NetworkGone(id));
        Ok(Decision::new(Object::Network(network.clone()), changes))
    }

    pub(super) fn known_network(&self, id: NetworkId) -> Result<&Arc<Network>, Refusal> {
        self.view.networks.get(&id).ok_or_else(|| {
            not_found(format_args!(
                "there is no network {id}; `weft network ls` lists all"
            ))
        })
    }

    /// The name of a network for messages.
    pub(super) fn network_name(&self, id: NetworkId) -> &str {
        self.view
            .networks
            .get(&id)
            .map_or("?", |network| &network.name)
    }
}

/// What only a driver with tunnels can have.
fn check_driver(spec: &NetworkSpec) -> Result<(), Refusal> {
    let of_tunnels = [
        (spec.encrypted, "--encrypted"),
        (spec.multicast, "--multicast"),
        (spec.vni.is_some(), "--vni"),
        (spec.ingress, "--ingress"),
    ];
    let mut asked = of_tunnels.into_iter().filter(|(asked, _)| *asked);
    asked.try_for_each(|(_, flag)| needs_tunnels(&spec.driver, flag))
}

fn needs_tunnels(driver: &Driver, flag: &str) -> Result<(), Refusal> {
    match driver.has_tunnels() {
        true => Ok(()),
        false => Err(invalid(format_args!(
            "{flag} is of tunnels between nodes, and driver {driver} has none; leave it out, or use \
             driver overlay"
        ))),
    }
}

/// What its addresses and its purpose need.
fn check_mtu(network: &Network) -> Result<(), Refusal> {
    let Some(mtu) = network.mtu else {
        return Ok(());
    };
    check::mtu(mtu)?;
    let why = if network.ingress {
        "the network that carries published ports, which does so over IPv6 too"
    } else if network.has(IpFamily::V6) {
        "a network with IPv6"
    } else {
        return Ok(());
    };
    if mtu >= limits::IPV6_MTU {
        return Ok(());
    }
    Err(invalid(format_args!(
        "MTU {mtu} is too small for {why}; {} to {} bytes are accepted",
        limits::IPV6_MTU,
        limits::MTUS.end()
    )))
}
