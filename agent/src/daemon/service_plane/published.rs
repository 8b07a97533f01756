//! Between this node's containers and the world: their legs, which are their way out and that of published
//! ports to them, the way to the other nodes, and the tables in the host's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use tracing::warn;
use weft_lb::Balancer;
use weft_lb::flows::Flows;
use weft_lb::ingress::{Ingress, IngressSpec};
use weft_lb::relay::RelaySpec;
use weft_lb::spec::{Changes, Scheduler, ServiceKey, Spec};
use weft_netns::{Identity, Netns};
use weft_overlay::gateway::observed::Family;
use weft_overlay::gateway::{
    Gateway, GatewayReport, GatewaySpec, LegAddresses, SUBNET6, choose_subnet, observed_subnet,
};
use weft_overlay::host;
use weft_raft::model::{NodeId, View};

use super::loads::{self, Load};
use super::lost::Suspect;
use super::plan::Wanted;
use crate::daemon::dataplane::Dataplane;
use crate::translate::services::published::{self, Published, Target};
use crate::translate::services::{Here, ServiceIndex};

/// Name of the nftables table that balances published ports. Not the one of a container's service
/// addresses: the host's namespace may be a container's, too.
const BALANCE_TABLE: &str = "weft-ports";
/// Smallest MTU of legs, in bytes: IPv6's (RFC 8200 section 5). A mesh that carries less tells so by ICMP.
const LEG_MTU_MIN: u32 = 1280;
/// Name of the one that brings packets back the way that they came.
pub(in crate::daemon) const RULES_TABLE: &str = "weft-ingress";

/// What this node does for published ports, and for its containers' way out.
#[derive(Debug)]
pub(super) struct PublishedPorts {
    /// Does what the kernel cannot.
    dataplane: Dataplane,
    /// What it was last told, if it did that.
    relayed: Option<RelaySpec>,
    /// Where the gateway keeps its own namespace.
    hub: PathBuf,
    /// None before the first pass, and after one that could not read it.
    gateway: Option<Gateway>,
    tables: Option<Tables>,
    /// What the gateway was last made to be, if it is.
    made: Option<GatewaySpec>,
    /// Where the legs' addresses are from.
    subnet4: Option<Ipv4Net>,
    legs: BTreeMap<Identity, LegAddresses>,
    failed: BTreeMap<Identity, String>,
    /// Containers whose way out is another than their leg.
    own_way: BTreeMap<Identity, BTreeSet<Family>>,
    error: Option<String>,
    /// Services that choose by load, with the weights that were asked for.
    by_load: Spec,
    /// Something of ours may be in the kernel.
    present: bool,
}

/// The tables, and what they say.
#[derive(Debug)]
struct Tables {
    balancer: Balancer,
    ingress: Ingress,
    flows: Flows,
    said: Option<Published>,
    /// What this kernel cannot do of it.
    lacking: Option<&'static str>,
}

impl PublishedPorts {
    /// Nothing is known of the kernel yet. `hub` is a file that the gateway's own namespace is kept at.
    pub(super) fn new(hub: PathBuf, dataplane: Dataplane) -> Self {
        Self {
            dataplane,
            relayed: None,
            hub,
            gateway: None,
            tables: None,
            made: None,
            subnet4: None,
            legs: BTreeMap::new(),
            failed: BTreeMap::new(),
            own_way: BTreeMap::new(),
            error: None,
            by_load: Spec::new(),
            present: true,
        }
    }

    /// Containers that have no leg although they should, and why.
    pub(super) fn failed(&self) -> &BTreeMap<Identity, String> {
        &self.failed
    }

    /// Containers that keep a default route of their own, with the versions of IP that it is for.
    pub(super) fn own_way(&self) -> &BTreeMap<Identity, BTreeSet<Family>> {
        &self.own_way
    }

    /// Why published ports and ways out do not work on this node, if so.
    pub(super) fn error(&self) -> Option<&String> {
        self.error.as_ref()
    }

    /// Nodes that are down, where this one may have flows to them.
    pub(super) fn suspects(&self) -> BTreeSet<Suspect> {
        { self.said().into_iter() }
            .flat_map(Published::at_down_nodes)
            .collect()
    }

    /// Brings the kernel to what is wanted, looking at it with `full` even where nothing changed.
    /// Without `ports` at most containers have come or gone that no published port leads to. Answers
    /// with how many changes that took.
    pub(super) async fn reconcile(
        &mut self,
        wanted: Wanted<'_>,
        load: Option<&Load>,
        full: bool,
        ports: bool,
    ) -> usize {
        let Wanted {
            view, index, here, ..
        } = wanted;
        let targets = published::targets(view, index, here);
        if targets.is_empty() && !published::is_used(view) {
            return self.remove().await;
        }
        self.present = true;
        // Whatever failed is tried again below: a gateway that did is not `made`, nor are tables held.
        self.error = None;
        let mut ops = 0;
        match self.gateway_spec(view, targets, here).await {
            Ok(spec) => {
                if self.made.is_none() {
                    let made = self.published(view, index, here, spec.subnet4);
                    ops += self.make_rules(made.rules).await;
                }
                ops += self.make_gateway(spec, full).await;
            }
            Err(error) => self.fail(error),
        }
        // Without a gateway there is nothing that connections could be sent to.
        let Some(gateway4) = self.subnet4 else {
            return ops;
        };
        if !ports && !full && self.said().is_some() {
            return ops;
        }
        let mut wanted = self.published(view, index, here, gateway4);
        // Who listens comes before what leads there.
        let relay = std::mem::take(&mut wanted.relay);
        self.make_relay(relay, full).await;
        let by_load = wanted.balance.iter();
        let by_load = by_load.filter(|(_, of)| of.scheduler == Scheduler::LeastConnections);
        self.by_load = by_load.map(|(key, of)| (*key, of.clone())).collect();
        wanted.balance.extend(self.weighed(load));
        ops + self.make_tables(wanted, full).await
    }

    /// What the tables say.
    fn said(&self) -> Option<&Published> {
        self.tables.as_ref()?.said.as_ref()
    }

    /// Published services that choose by load.
    pub(super) fn by_load(&self) -> BTreeSet<ServiceKey> {
        self.by_load.keys().copied().collect()
    }

    fn weighed(&self, load: Option<&Load>) -> Spec {
        let mut weighed = self.by_load.clone();
        for service in weighed.values_mut() {
            loads::weigh(service, load);
        }
        weighed
    }

    /// Gives backends the weights that follow from their load, and changes nothing else. Answers
    /// with how many changes that took.
    pub(super) async fn weigh(&mut self, load: Option<&Load>) -> usize {
        let mut weighed = self.weighed(load);
        let Some(mut tables) = self.tables.take() else {
            return 0;
        };
        if let Some(said) = &tables.said {
            weighed.retain(|key, service| said.balance.get(key) != Some(service));
        }
        if weighed.is_empty() {
            self.tables = Some(tables);
            return 0;
        }
        let made =
            tokio::task::spawn_blocking(move || tables.weigh(weighed).map(|ops| (tables, ops)));
        match made.await.map_err(anyhow::Error::from).flatten() {
            Ok((tables, ops)) => {
                self.tables = Some(tables);
                ops
            }
            Err(error) => {
                self.fail(format!("{error:#}"));
                0
            }
        }
    }

    fn published(
        &self,
        view: &View,
        index: &ServiceIndex,
        here: Here<'_>,
        gateway4: Ipv4Net,
    ) -> Published {
        published::published(view, index, here, gateway4, &self.legs)
    }

    /// Takes everything away, if anything may be there.
    pub(super) async fn remove(&mut self) -> usize {
        if !self.present {
            return 0;
        }
        self.make_relay(RelaySpec::new(), true).await;
        let mut troubles: Vec<String> = self.error.take().into_iter().collect();
        let tables = self.tables.take();
        let made = tables.is_some();
        let removed = tokio::task::spawn_blocking(move || remove_tables(tables)).await;
        let mut ops = 0;
        match removed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => troubles.push(format!("{error:#}")),
            Err(error) => troubles.push(error.to_string()),
        }
        match self.open_gateway() {
            Ok(mut gateway) => {
                let report = gateway.reconcile(None).await;
                ops += report.ops;
                troubles.extend(report.error.map(|error| error.to_string()));
                self.gateway = Some(gateway);
            }
            Err(error) => troubles.push(error),
        }
        // Where nothing was made, there may be nothing to make it with.
        let made = made || self.made.is_some();
        let trouble = troubles.pop().filter(|_| made);
        self.made = None;
        self.subnet4 = None;
        self.legs.clear();
        self.failed.clear();
        self.error = None;
        self.present = trouble.is_some();
        if let Some(trouble) = trouble {
            self.fail(trouble);
        }
        ops
    }

    async fn gateway_spec(
        &self,
        view: &View,
        targets: BTreeMap<Identity, Target>,
        here: Here<'_>,
    ) -> Result<GatewaySpec, String> {
        let mut spec = GatewaySpec {
            subnet4: self.choose_subnet(view, here.node).await?,
            subnet6: SUBNET6,
            mtu: published::mesh_mtu(view).max(LEG_MTU_MIN),
            legs: BTreeMap::new(),
            published: BTreeSet::new(),
            egress: BTreeSet::new(),
            udp_ports: BTreeMap::new(),
            mesh: published::mesh(view, here.node),
        };
        for (place, target) in targets {
            let key = key(place);
            for (is, keys) in [
                (target.published, &mut spec.published),
                (target.egress, &mut spec.egress),
            ] {
                keys.extend(is.then(|| key.clone()));
            }
            if !target.udp_ports.is_empty() {
                spec.udp_ports.insert(key.clone(), target.udp_ports);
            }
            spec.legs.insert(key, target.netns);
        }
        Ok(spec)
    }

    /// An agent that starts goes on with what is there.
    async fn choose_subnet(&self, view: &View, node: NodeId) -> Result<Ipv4Net, String> {
        let row = view.nodes.get(&node);
        let routes = row
            .map(|row| row.host_routes.as_slice())
            .unwrap_or_default();
        let subnets = view.networks.values().flat_map(|network| &network.subnets);
        let taken: Vec<IpNet> = subnets.map(|subnet| subnet.cidr).collect();
        let observed = match self.subnet4 {
            Some(known) => Some(known),
            None => host::facts()
                .await
                .ok()
                .and_then(|facts| observed_subnet(&facts)),
        };
        choose_subnet(routes, &taken, observed)
            .ok_or_else(|| "no private range is left for the containers' way out".to_owned())
    }

    /// All of it, or only the legs that are not as they are known to be.
    async fn make_gateway(&mut self, spec: GatewaySpec, full: bool) -> usize {
        let made = self.made.take();
        let differing = made.as_ref().and_then(|made| made.differing_legs(&spec));
        let part = differing.filter(|_| !full);
        if part.as_ref().is_some_and(BTreeSet::is_empty) {
            self.made = made;
            return 0;
        }
        let mut gateway = match self.open_gateway() {
            Ok(gateway) => gateway,
            Err(error) => {
                self.fail(error);
                return 0;
            }
        };
        let report = match part {
            Some(keys) => {
                self.forget(|place| keys.contains(&key(place)));
                let taken = self.legs.values().map(|leg| leg.v4).collect();
                gateway.reconcile_legs(&spec, keys, taken).await
            }
            None => {
                self.forget(|_| true);
                gateway.reconcile(Some(&spec)).await
            }
        };
        self.gateway = Some(gateway);
        let ops = report.ops;
        self.note(spec, report);
        ops
    }

    /// What is known of containers.
    fn forget(&mut self, which: impl Fn(Identity) -> bool) {
        self.legs.retain(|place, _| !which(*place));
        self.failed.retain(|place, _| !which(*place));
        self.own_way.retain(|place, _| !which(*place));
    }

    /// Takes in what is new of containers.
    fn note(&mut self, spec: GatewaySpec, report: GatewayReport) {
        let place = |key: &String| {
            let netns = spec.legs.get(key)?;
            let (device, inode) = (netns.device, netns.inode);
            Some(Identity { device, inode })
        };
        for (key, why) in &report.failed {
            warn!(
                leg = key,
                why, "a container has no way to the host; trying again"
            );
        }
        let legs = report.legs.iter();
        let legs = legs.filter_map(|(key, leg)| Some((place(key)?, *leg)));
        self.legs.extend(legs);
        let failed = report.failed.into_iter();
        let failed = failed.filter_map(|(key, why)| Some((place(&key)?, why)));
        self.failed.extend(failed);
        let own_way = report.own_way.into_iter();
        let own_way = own_way.filter_map(|(key, families)| Some((place(&key)?, families)));
        self.own_way.extend(own_way);
        self.subnet4 = Some(spec.subnet4);
        let whole = report.error.is_none() && self.failed.is_empty();
        if let Some(error) = report.error {
            self.fail(error.to_string());
        }
        self.made = whole.then_some(spec);
    }

    async fn make_relay(&mut self, relay: RelaySpec, full: bool) {
        if !full && self.relayed.as_ref() == Some(&relay) {
            return;
        }
        self.relayed = None;
        match self.dataplane.want(relay.clone()).await {
            Ok(()) => self.relayed = Some(relay),
            Err(error) => self.fail(error),
        }
    }

    /// Before there is a gateway: it opens the host to what these rules drop.
    async fn make_rules(&mut self, rules: IngressSpec) -> usize {
        let tables = self.tables.take();
        let made = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            let mut tables = match tables {
                Some(tables) => tables,
                None => open_tables()?,
            };
            let report = tables.ingress.reconcile(&rules)?;
            Ok((tables, report.ops))
        });
        match made.await.map_err(anyhow::Error::from).flatten() {
            Ok((tables, ops)) => {
                self.tables = Some(tables);
                ops
            }
            Err(error) => {
                self.fail(format!("{error:#}"));
                0
            }
        }
    }

    async fn make_tables(&mut self, wanted: Published, full: bool) -> usize {
        let tables = self.tables.take();
        let made = tokio::task::spawn_blocking(move || make_tables(tables, wanted, full)).await;
        let made = made.unwrap_or_else(|error| Err(error.to_string()));
        match made {
            Ok((tables, ops)) => {
                if let Some(lacking) = tables.lacking {
                    self.fail(lacking.to_owned());
                }
                self.tables = Some(tables);
                ops
            }
            Err(error) => {
                self.fail(error);
                0
            }
        }
    }

    fn open_gateway(&mut self) -> Result<Gateway, String> {
        match self.gateway.take() {
            Some(gateway) => Ok(gateway),
            None => Gateway::open(self.hub.clone()).map_err(|error| error.to_string()),
        }
    }

    fn fail(&mut self, error: String) {
        if self.error.as_ref() != Some(&error) {
            warn!(
                error,
                "published ports and ways out do not work here; trying again"
            );
        }
        self.error = Some(error);
    }
}

/// Makes the tables say what is wanted. Blocks.
fn make_tables(
    tables: Option<Tables>,
    wanted: Published,
    full: bool,
) -> Result<(Tables, usize), String> {
    let mut tables = match tables {
        Some(tables) => tables,
        None => open_tables().map_err(|error| error.to_string())?,
    };
    let said = tables.said.take();
    let ops = match said.as_ref().filter(|_| !full) {
        Some(said) if *said == wanted => 0,
        Some(said) => tables
            .change(said, &wanted)
            .map_err(|error| error.to_string())?,
        None => tables.make(&wanted).map_err(|error| error.to_string())?,
    };
    if let Some(said) = said.filter(|said| *said != wanted) {
        tables.forget(&said, &wanted);
    }
    tables.said = Some(wanted);
    Ok((tables, ops))
}

impl Tables {
    /// What marks and lets in comes before what sends packets there.
    fn make(&mut self, wanted: &Published) -> anyhow::Result<usize> {
        let rules = self.ingress.reconcile(&wanted.rules)?;
        if wanted.balance.is_empty() {
            self.balance_nothing()?;
            return Ok(rules.ops);
        }
        let report = self.balancer.reconcile(&wanted.balance)?;
        self.lacking = report.lacking();
        Ok(rules.ops + report.ops + usize::from(report.created))
    }

    /// The table is there while there is something in it.
    fn balance_nothing(&mut self) -> anyhow::Result<()> {
        let next = Balancer::open(&Netns::current()?, BALANCE_TABLE)?;
        self.lacking = None;
        Ok(std::mem::replace(&mut self.balancer, next).remove()?)
    }

    fn change(&mut self, said: &Published, wanted: &Published) -> anyhow::Result<usize> {
        let mut ops = 0;
        if said.rules != wanted.rules {
            ops += self.ingress.reconcile(&wanted.rules)?.ops;
        }
        let changes = changes(&said.balance, &wanted.balance);
        if wanted.balance.is_empty() && !changes.is_empty() {
            self.balance_nothing()?;
            ops += changes.len();
        } else if !changes.is_empty() {
            let mut report = self.balancer.change(&changes)?;
            ops += report.ops;
            if report.created {
                // It was lost, and has the changed services alone.
                report = self.balancer.reconcile(&wanted.balance)?;
                ops += report.ops;
            }
            self.lacking = report.lacking();
        }
        Ok(ops)
    }

    fn weigh(&mut self, weighed: Spec) -> anyhow::Result<usize> {
        let changes = weighed.iter().map(|(key, of)| (*key, Some(of.clone())));
        let report = self.balancer.change(&changes.collect())?;
        let mut ops = report.ops;
        if let Some(said) = &mut self.said {
            said.balance.extend(weighed);
            if report.created {
                ops += self.balancer.reconcile(&said.balance)?.ops;
            }
        }
        Ok(ops)
    }

    /// Flows stay with a backend that is gone: a client that sends datagrams would never get another,
    /// and a connection would hang instead of being reset. A node that is down is not gone.
    fn forget(&mut self, said: &Published, wanted: &Published) {
        let listed = said.balance.iter().flat_map(|(key, service)| {
            let backends = service.backends.keys();
            backends.map(|backend| (*key, *backend))
        });
        for (key, gone) in listed {
            let service = wanted.balance.get(&key);
            let stays = service.is_some_and(|service| service.backends.contains_key(&gone));
            if stays || wanted.down.contains(&gone.address) {
                continue;
            }
            if let Err(error) = self.flows.forget(&gone, Some(&key)) {
                warn!(%error, backend = %gone, "flows stay with a backend that is gone");
            }
        }
    }
}

/// What differs.
fn changes(said: &Spec, wanted: &Spec) -> Changes {
    let gone = said.keys().filter(|key| !wanted.contains_key(key));
    let differs = wanted
        .iter()
        .filter(|(key, service)| said.get(key) != Some(service));
    let mut changes: Changes = gone.map(|key| (*key, None)).collect();
    changes.extend(differs.map(|(key, service)| (*key, Some(service.clone()))));
    changes
}

fn open_tables() -> anyhow::Result<Tables> {
    let host = Netns::current()?;
    Ok(Tables {
        balancer: Balancer::open(&host, BALANCE_TABLE)?,
        ingress: Ingress::open(&host, RULES_TABLE)?,
        flows: Flows::open(&host)?,
        said: None,
        lacking: None,
    })
}

/// Blocks.
fn remove_tables(tables: Option<Tables>) -> anyhow::Result<()> {
    let tables = match tables {
        Some(tables) => tables,
        None => open_tables()?,
    };
    tables.balancer.remove()?;
    Ok(tables.ingress.remove()?)
}

/// The name of a container's leg.
fn key(place: Identity) -> String {
    format!("{:x}-{:x}", place.device, place.inode)
}
