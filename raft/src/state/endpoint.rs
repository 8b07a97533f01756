use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::index::Members;
use super::refuse::{Quoted, conflict, exhausted, invalid, not_found};
use super::{Change, Decision, Object, Revision, State};
use super::{address, check, cost, limits};
use crate::command::{EndpointChange, EndpointSpec, Refusal};
use crate::model::{
    BackendState, Endpoint, EndpointId, IpFamily, MacAddr, Network, NetworkId, Service,
};

impl State {
    pub(super) fn create_endpoint(
        &self,
        index: Revision,
        spec: &EndpointSpec,
    ) -> Result<Decision, Refusal> {
        check_spec(spec)?;
        let network = self.known_network(spec.network)?;
        self.known_node(spec.node)?;
        let members = self.index.members.get(&network.id).ok_or_else(|| {
            not_found(format_args!("network {} has no address pool", network.name))
        })?;
        self.check_endpoint(network, members, spec)?;
        if let Some(service) = spec.service {
            self.check_membership(network, service)?;
        }
        let ifname = self.ifname(spec)?;
        let wanted = spec.ipv4.map(IpAddr::V4).into_iter();
        for wanted in wanted.chain(spec.ipv6.map(IpAddr::V6)) {
            self.wanted_address(network, members, wanted)?;
        }
        let made = self.service_of(index, spec, network)?;
        let held = vip_on(made.as_ref(), network.id);
        let assigned = |family, wanted: Option<IpAddr>| match wanted {
            Some(wanted) => Ok(Some(wanted)),
            None if network.has(family) => address::free(network, members, family, held).map(Some),
            None => Ok(None),
        };
        let ipv4 = assigned(IpFamily::V4, spec.ipv4.map(IpAddr::V4))?.and_then(address::v4);
        let ipv6 = assigned(IpFamily::V6, spec.ipv6.map(IpAddr::V6))?.and_then(address::v6);
        let endpoint = Arc::new(Endpoint {
            id: spec.id,
            name: spec.name.clone(),
            network: spec.network,
            node: spec.node,
            ipv4,
            ipv6,
            mac: self.mac(network, members, spec.mac, (ipv4, ipv6))?,
            ifname,
            aliases: spec.aliases.clone(),
            labels: spec.labels.clone(),
            attachment: spec.attachment.clone(),
            kind: spec.kind.clone(),
            service: made.as_ref().map(|service| service.id).or(spec.service),
            weight: spec.weight,
            backend: BackendState::Starting,
            revision: index,
        });
        let cost = cost::of_endpoint(&endpoint) + made.as_ref().map_or(0, cost::of_service);
        self.check_room(cost)?;
        let made = made.map(|service| Change::Service(Arc::new(service)));
        let changes = made.into_iter().chain([Change::Endpoint(endpoint.clone())]);
        let changes = changes.collect();
        Ok(Decision::new(Object::Endpoint(endpoint), changes))
    }

    /// The service that is made with an endpoint.
    fn service_of(
        &self,
        index: Revision,
        spec: &EndpointSpec,
        network: &Network,
    ) -> Result<Option<Service>, Refusal> {
        let Some(made) = &spec.new_service else {
            return Ok(None);
        };
        if spec.service.is_some() {
            return Err(invalid(
                "an endpoint cannot join a service and be the first of another; name one of the two",
            ));
        }
        if !made.networks.contains(&network.id) {
            return Err(invalid(format_args!(
                "service {} is not to be on network {}, where its first endpoint is; name that \
                 network too",
                Quoted(&made.name),
                network.name
            )));
        }
        let held = spec.ipv4.map(|address| (network.id, address.into()));
        self.new_service(index, made, held).map(Some)
    }

    fn check_endpoint(
        &self,
        network: &Network,
        members: &Members,
        spec: &EndpointSpec,
    ) -> Result<(), Refusal> {
        if let Some(holder) = self.endpoint(members.names.get(&spec.name)) {
            return Err(conflict(format_args!(
                "endpoint name `{}` is taken on network {} (by {}); choose another",
                spec.name,
                network.name,
                self.describe(holder)
            )));
        }
        if self.view.endpoints.contains_key(&spec.id) {
            return Err(conflict(format_args!(
                "endpoint id {} is taken; draw another",
                spec.id
            )));
        }
        if self.view.endpoints.len() >= limits::ENDPOINTS {
            return Err(exhausted(format_args!(
                "the cluster has {0} of {0} endpoints; detach some first",
                limits::ENDPOINTS
            )));
        }
        if members.names.len() >= limits::ENDPOINTS_PER_NETWORK {
            return Err(exhausted(format_args!(
                "network {} has {1} of {1} endpoints; detach some first, or use another network",
                network.name,
                limits::ENDPOINTS_PER_NETWORK
            )));
        }
        self.check_namespace(network, spec)
    }

    fn check_namespace(&self, network: &Network, spec: &EndpointSpec) -> Result<(), Refusal> {
        let mut count = 0;
        for other in (self.index).in_namespace(&self.view, spec.node, &spec.attachment) {
            count += 1;
            if other.network == spec.network {
                return Err(conflict(format_args!(
                    "this namespace is on network {} already (as {}); detach that endpoint first",
                    network.name,
                    self.describe(other)
                )));
            }
        }
        if count >= limits::ENDPOINTS_PER_NAMESPACE {
            return Err(exhausted(format_args!(
                "this namespace is on {count} networks, and at most {} are accepted; detach one \
                 first",
                limits::ENDPOINTS_PER_NAMESPACE
            )));
        }
        Ok(())
    }

    fn ifname(&self, spec: &EndpointSpec) -> Result<String, Refusal> {
        let holder = |name: &str| {
            (self.index)
                .in_namespace(&self.view, spec.node, &spec.attachment)
                .find(|other| other.ifname == name)
        };
        let Some(wanted) = &spec.ifname else {
            return (0..=limits::ENDPOINTS_PER_NAMESPACE)
                .map(|number| format!("eth{number}"))
                .find(|name| holder(name).is_none())
                .ok_or_else(|| exhausted("no interface name from eth0 up is left; give --ifname"));
        };
        match holder(wanted) {
            None => Ok(wanted.clone()),
            Some(holder) => Err(conflict(format_args!(
                "interface name {wanted} is taken in this namespace (by {}); choose another, or none \
                 to have a free one assigned",
                self.describe(holder)
            ))),
        }
    }

    fn mac(
        &self,
        network: &Network,
        members: &Members,
        wanted: Option<MacAddr>,
        (ipv4, ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
    ) -> Result<MacAddr, Refusal> {
        let own = match (ipv4, ipv6) {
            (Some(ipv4), _) => MacAddr::from_ipv4(ipv4),
            (None, ipv6) => free_mac(members, ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED)),
        };
        let Some(wanted) = wanted.filter(|wanted| *wanted != own) else {
            return Ok(own);
        };
        // Kept for the endpoint that gets that address, so that assigning an address never
        // finds its MAC taken.
        let [_, _, a, b, c, d] = wanted.0;
        let address = Ipv4Addr::new(a, b, c, d);
        let of_address =
            wanted == MacAddr::from_ipv4(address) && network.subnet_of(address.into()).is_some();
        if of_address {
            return Err(conflict(format_args!(
                "MAC address {wanted} belongs to address {address} of network {}; choose one that \
                 does not begin with 02:42, or none",
                network.name
            )));
        }
        match self.endpoint(members.macs.get(&wanted)) {
            None => Ok(wanted),
            Some(holder) => Err(conflict(format_args!(
                "MAC address {wanted} is held by {}; choose another, or none to have one assigned",
                self.describe(holder)
            ))),
        }
    }

    pub(super) fn update_endpoint(
        &self,
        index: Revision,
        id: EndpointId,
        change: EndpointChange,
    ) -> Result<Decision, Refusal> {
        let old = self.known_endpoint(id)?;
        let weight = change.weight.unwrap_or(old.weight);
        if weight == old.weight {
            return Ok(Decision::new(Object::Endpoint(old.clone()), Vec::new()));
        }
        let endpoint = Arc::new(Endpoint {
            weight,
            revision: index,
            ..Endpoint::clone(old)
        });
        let changes = vec![Change::Endpoint(endpoint.clone())];
        Ok(Decision::new(Object::Endpoint(endpoint), changes))
    }

    pub(super) fn remove_endpoint(&self, id: EndpointId) -> Result<Decision, Refusal> {
        let endpoint = self.known_endpoint(id)?;
        let mut changes = vec![Change::EndpointGone(id)];
        changes.extend(self.ending_with(&BTreeSet::from([id])));
        Ok(Decision::new(Object::Endpoint(endpoint.clone()), changes))
    }

    fn known_endpoint(&self, id: EndpointId) -> Result<&Arc<Endpoint>, Refusal> {
        self.view.endpoints.get(&id).ok_or_else(|| {
            not_found(format_args!(
                "there is no endpoint {id}; `weft endpoint ls` lists all"
            ))
        })
    }

    fn endpoint(&self, id: Option<&EndpointId>) -> Option<&Arc<Endpoint>> {
        self.view.endpoints.get(id?)
    }

    /// An endpoint for messages.
    pub(super) fn describe(&self, endpoint: &Endpoint) -> String {
        format!(
            "endpoint {} on node {}",
            endpoint.name,
            self.node_name(endpoint.node)
        )
    }
}

/// The address that a service has on a network.
fn vip_on(service: Option<&Service>, network: NetworkId) -> Option<IpAddr> {
    { service?.networks.iter() }
        .find(|on| on.network == network)
        .and_then(|on| on.vip)
        .map(IpAddr::V4)
}

/// The MAC address of who has no IPv4 address. As many as are taken were tried at most.
fn free_mac(members: &Members, ipv6: Ipv6Addr) -> MacAddr {
    let mut attempt = 0;
    loop {
        let mac = MacAddr::from_ipv6(ipv6, attempt);
        if !members.macs.contains_key(&mac) {
            return mac;
        }
        attempt += 1;
    }
}

/// What makes sense or not in any state.
fn check_spec(spec: &EndpointSpec) -> Result<(), Refusal> {
    check::dns_label("endpoint name", &spec.name)?;
    check::aliases(&spec.aliases)?;
    check::labels(&spec.labels)?;
    check::attachment(&spec.attachment)?;
    check::kind(&spec.kind)?;
    if let Some(ifname) = &spec.ifname {
        check::ifname(ifname)?;
    }
    if let Some(mac) = spec.mac {
        check::mac(mac)?;
    }
    Ok(())
}
