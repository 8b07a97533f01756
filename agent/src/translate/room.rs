//! How near a network is to having no address left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_raft::model::{Change, IpFamily, Network, NetworkId, View};
use weft_raft::state::Room;

/// From this part of its addresses on, a network is said to be short of them.
const SHORT_PERCENT: u64 = 80;

/// Of which family a network is short of addresses while `held` are held, a line for people each.
pub(crate) fn shortage(network: &Network, held: &BTreeSet<IpAddr>) -> BTreeMap<IpFamily, String> {
    let mut found = BTreeMap::new();
    for family in [IpFamily::V4, IpFamily::V6] {
        let (mut used, mut total) = (0u64, 0u64);
        for subnet in network.subnets.iter().filter(|s| s.family() == family) {
            let room = Room::of(network, subnet, held.iter().copied());
            used = used.saturating_add(room.total.saturating_sub(room.free));
            total = total.saturating_add(room.total);
        }
        if total == 0 || used.saturating_mul(100) < total.saturating_mul(SHORT_PERCENT) {
            continue;
        }
        let name = &network.name;
        let grow = match network.ingress {
            true => "make it anew with a larger --subnet".to_owned(),
            false => format!("give it more with `weft network update --subnet-add CIDR {name}`"),
        };
        let line = format!("network {name} uses {used} of {total} {family} addresses; {grow}");
        found.insert(family, line);
    }
    found
}

/// Networks that came to be short of addresses by some changes (`true`), or are so no longer.
pub(crate) fn shortage_news(before: &View, changes: &[Change]) -> Vec<(NetworkId, bool, String)> {
    let mut news = Vec::new();
    for id in touched(before, changes) {
        let row = changes.iter().rev().find_map(|change| match change {
            Change::Network(row) if row.id == id => Some(row),
            _ => None,
        });
        let Some(now) = row.or_else(|| before.networks.get(&id)) else {
            continue;
        };
        let held: BTreeSet<IpAddr> = before.held_addresses(id).collect();
        let was = before.networks.get(&id).map(|old| shortage(old, &held));
        let was = was.unwrap_or_default();
        let is = shortage(now, &held_after(before, id, held, changes));
        let gone = was.iter().filter(|(family, _)| !is.contains_key(family));
        let new = is.iter().filter(|(family, _)| !was.contains_key(family));
        news.extend(gone.map(|(_, line)| (id, false, line.clone())));
        news.extend(new.map(|(_, line)| (id, true, line.clone())));
    }
    news
}

/// The networks whose subnets or held addresses may differ. Nodes come and go too seldom to be
/// told of before one has no address.
fn touched(before: &View, changes: &[Change]) -> BTreeSet<NetworkId> {
    let mut found = BTreeSet::new();
    for change in changes {
        match change {
            Change::Network(row) => {
                found.insert(row.id);
            }
            Change::Endpoint(row) if !before.endpoints.contains_key(&row.id) => {
                found.insert(row.network);
            }
            Change::EndpointGone(id) => {
                found.extend(before.endpoints.get(id).map(|row| row.network));
            }
            Change::Service(row) if !before.services.contains_key(&row.id) => {
                found.extend(row.networks.iter().map(|on| on.network));
            }
            Change::ServiceGone(id) => {
                let row = before.services.get(id).into_iter();
                found.extend(row.flat_map(|row| row.networks.iter().map(|on| on.network)));
            }
            _ => {}
        }
    }
    found
}

fn held_after(
    before: &View,
    id: NetworkId,
    mut held: BTreeSet<IpAddr>,
    changes: &[Change],
) -> BTreeSet<IpAddr> {
    for change in changes {
        match change {
            Change::Endpoint(row) if row.network == id => held.extend(row.addresses()),
            Change::EndpointGone(gone) => {
                let row = before.endpoints.get(gone).filter(|row| row.network == id);
                let addresses = row.into_iter().flat_map(|row| row.addresses());
                for address in addresses {
                    held.remove(&address);
                }
            }
            Change::Service(row) => {
                let on = row.networks.iter().filter(|on| on.network == id);
                held.extend(on.filter_map(|on| on.vip.map(IpAddr::V4)));
            }
            Change::ServiceGone(gone) => {
                let row = before.services.get(gone).into_iter();
                let on = row
                    .flat_map(|row| &row.networks)
                    .filter(|on| on.network == id);
                for vip in on.filter_map(|on| on.vip) {
                    held.remove(&IpAddr::V4(vip));
                }
            }
            _ => {}
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_raft::model::Subnet;

    use super::*;
    use crate::translate::tests::{endpoint, network};

    #[test]
    fn a_network_is_short_from_four_fifths_of_its_addresses_on() {
        let mut small = network(1);
        small.subnets[0].cidr = "10.0.1.0/29".parse().unwrap();
        // Of five addresses, three.
        let rows = [2, 3, 4].map(|number| endpoint(number, 1, 1));
        let mut before = View::default();
        let row = Change::Network(Arc::new(small.clone()));
        let made = rows
            .iter()
            .cloned()
            .map(|row| Change::Endpoint(Arc::new(row)));
        before.apply(5, &[row].into_iter().chain(made).collect::<Vec<_>>());
        let next = |number| Change::Endpoint(Arc::new(endpoint(number, 1, 1)));
        let line = "network n1 uses 4 of 5 IPv4 addresses; give it more with `weft network update \
                    --subnet-add CIDR n1`";
        let news = shortage_news(&before, &[next(5)]);
        assert_eq!(news, [(small.id, true, line.to_owned())]);
        // More of it is no news, but that it grew is.
        let mut after = before.clone();
        after.apply(before.revision + 1, &[next(5)]);
        assert_eq!(shortage_news(&after, &[next(6)]), []);
        small.subnets.push(Subnet {
            cidr: "10.0.2.0/29".parse().unwrap(),
            gateway: IpAddr::from([10, 0, 2, 1]),
            range: None,
        });
        let news = shortage_news(&after, &[Change::Network(Arc::new(small.clone()))]);
        assert_eq!(news, [(small.id, false, line.to_owned())]);
        let gone = rows[0].id;
        let news = shortage_news(&after, &[Change::EndpointGone(gone)]);
        assert_eq!(news.len(), 1);
        assert!(!news[0].1);
    }
}
