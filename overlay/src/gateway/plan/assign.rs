use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::gateway::layout;
use crate::gateway::observed::{Container, Family, HubNamespace, Observed};
use crate::gateway::record::Record;
use crate::gateway::spec::{GatewaySpec, LegAddresses};
use crate::observed::Peer;

/// What becomes of the legs of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Those that are attached, with their addresses.
    pub legs: BTreeMap<String, LegAddresses>,
    /// Those that cannot be, with the reason.
    pub failed: BTreeMap<String, String>,
    /// Those whose container is gone.
    pub gone: BTreeSet<String>,
    /// Versions of IP for which a leg that is to be the way out is not: the container has another.
    pub own_way: BTreeMap<String, BTreeSet<Family>>,
}

/// Which address each leg gets: the one that it is seen to have, else the lowest that is free. `taken` are
/// those that other legs have.
pub fn assign(spec: &GatewaySpec, observed: &Observed, taken: &BTreeSet<Ipv4Addr>) -> Assigned {
    let mut assigned = Assigned::default();
    let mut attachable = Vec::new();
    let mut faults = spec.leg_faults();
    for key in spec.legs.keys() {
        let why = match (observed.legs.get(key), faults.remove(key.as_str())) {
            (Some(Container::Gone), _) => {
                assigned.gone.insert(key.clone());
                continue;
            }
            (_, Some(fault)) => fault,
            (
                Some(Container::Here {
                    taken: false,
                    own_way,
                    ..
                }),
                None,
            ) => {
                attachable.push(key);
                if !own_way.is_empty() && spec.egress.contains(key) {
                    assigned.own_way.insert(key.clone(), own_way.clone());
                }
                continue;
            }
            (Some(Container::Here { taken: true, .. }), None) => {
                format!("{} exists in the container and is not weft's", layout::LEG)
            }
            (Some(Container::Unusable(why)), None) => why.clone(),
            (None, None) => "its container was not looked at".to_owned(),
        };
        assigned.failed.insert(key.clone(), why);
    }
    let mut held = BTreeMap::new();
    for key in assigned.failed.keys().chain(attachable.iter().copied()) {
        if let Some(address) = seen(spec, observed, key).filter(|seen| !taken.contains(seen)) {
            held.entry(address).or_insert(key.clone());
        }
    }
    let kept: BTreeMap<&String, Ipv4Addr> = held.iter().map(|(a, key)| (key, *a)).collect();
    let mut free = (1..=spec.hosts())
        .map(|number| spec.address4(number))
        .filter(|address| spec.is_for_legs(*address))
        .filter(|address| !held.contains_key(address) && !taken.contains(address));
    for key in attachable {
        if let Some(v4) = kept.get(key).copied().or_else(|| free.next()) {
            let v6 = observed.ipv6.then(|| spec.address6(v4));
            assigned.legs.insert(key.clone(), LegAddresses { v4, v6 });
        } else {
            let why = format!("no address is left in {}", spec.subnet4);
            assigned.failed.insert(key.clone(), why);
        }
    }
    assigned
}

/// The address that a leg has: by the record at the hub's end, else as the container has it.
fn seen(spec: &GatewaySpec, observed: &Observed, key: &str) -> Option<Ipv4Addr> {
    let HubNamespace::Present(hub) = &observed.hub else {
        return None;
    };
    let port = hub.ports.get(&layout::port(key))?;
    let record = port.link.alias.as_deref().and_then(Record::from_alias);
    let recorded = record.filter(|record| record.key == key);
    let inside = match &port.peer {
        Peer::Home(inner) => inner.addresses.iter().map(|net| net.addr()).collect(),
        Peer::Elsewhere => Vec::new(),
    };
    let inside = inside.into_iter().filter_map(|address| match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    let recorded = recorded.map(|record| record.address);
    recorded
        .into_iter()
        .chain(inside)
        .find(|address| spec.is_for_legs(*address))
}
