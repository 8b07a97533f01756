use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Planner, routing};
use crate::gateway::layout::{
    ANSWERS_FAR, ANSWERS_NEAR, EGRESS_METRIC, LEG, LEG_PRIORITY, LEG_TABLE, MAIN_TABLE,
};
use crate::gateway::observed::{Action, Container, Family, Route, Rule, Select};
use crate::gateway::op::Place;
use crate::gateway::record::Record;
use crate::gateway::spec::LegAddresses;

impl Planner<'_> {
    /// Brings the legs into shape.
    pub(super) fn legs(&mut self) {
        for (key, addresses) in self.assigned.legs.clone() {
            self.leg(&key, addresses);
        }
    }

    fn leg(&mut self, key: &str, addresses: LegAddresses) {
        let record = Record {
            key: key.to_owned(),
            address: addresses.v4,
            netns: self.spec.legs.get(key).cloned(),
        };
        let mut wanted = BTreeSet::from([self.spec.net4(addresses.v4)]);
        wanted.extend(addresses.v6.map(|v6| self.spec.net6(v6)));
        let place = Place::Leg(key.to_owned());
        let pair = self.pair(&place, addresses.v4, record.to_alias(), wanted);
        self.ways(key, &place, addresses, pair.bare);
    }

    /// Where clients come by the leg, what leaves from its address goes back through the host, whatever
    /// the container's main table says. That also makes the kernel take what comes in by the leg for right
    /// where it checks the way back to the sender (`rp_filter`). Where the leg is the way out, it is the
    /// main table's default, unless there is another. `bare`: the interface has no IPv4 routes any more.
    fn ways(&mut self, key: &str, place: &Place, addresses: LegAddresses, bare: bool) {
        let Some(Container::Here {
            rules,
            routes,
            own_way,
            ..
        }) = self.observed.legs.get(key)
        else {
            return;
        };
        let (published, egress) = (&self.spec.published, &self.spec.egress);
        let (published, egress) = (published.contains(key), egress.contains(key));
        let gone = |route: &&Route| {
            bare && route.device.as_deref() == Some(LEG) && route.destination.addr().is_ipv4()
        };
        let there: BTreeSet<Route> = routes.iter().filter(|r| !gone(r)).cloned().collect();
        let v6 = addresses
            .v6
            .map(|v6| (IpAddr::V6(v6), IpAddr::V6(self.spec.host6())));
        let v4 = (IpAddr::V4(addresses.v4), IpAddr::V4(self.spec.host4()));
        let (mut wanted_rules, mut wanted_routes) = (BTreeSet::new(), BTreeSet::new());
        for (from, via) in [v4].into_iter().chain(v6) {
            let family = Family::of(from);
            if published {
                wanted_rules.insert(Rule {
                    family,
                    priority: LEG_PRIORITY,
                    select: Select::From(from),
                    action: Action::Table(LEG_TABLE),
                    odd: false,
                });
                wanted_rules.extend(self.answers(key, family));
                wanted_routes.insert(routing::default_route(LEG_TABLE, via, LEG));
            }
            if egress && !own_way.contains(&family) {
                wanted_routes.insert(Route {
                    metric: EGRESS_METRIC,
                    ..routing::default_route(MAIN_TABLE, via, LEG)
                });
            }
        }
        let rules = (&wanted_rules, rules);
        routing::change(&mut self.ops, place, rules, (&wanted_routes, &there));
    }

    /// See [`GatewaySpec::udp_ports`](crate::gateway::GatewaySpec::udp_ports).
    fn answers(&self, key: &str, family: Family) -> impl Iterator<Item = Rule> {
        let ports = self.spec.udp_ports.get(key);
        let ranges = ports.map(ranges).unwrap_or_default();
        let actions = [
            (ANSWERS_NEAR, Action::Near(MAIN_TABLE)),
            (ANSWERS_FAR, Action::Table(LEG_TABLE)),
        ];
        ranges.into_iter().flat_map(move |(first, last)| {
            actions.map(|(priority, action)| Rule {
                family,
                priority,
                select: Select::Answers { first, last },
                action,
                odd: false,
            })
        })
    }
}

/// Most ranges of ports with rules of their own: every packet of the container meets the rules one
/// after the other.
const RANGES_MAX: usize = 32;

/// Neighbouring ports in one, so that a published range takes as many rules as a port. Where there
/// are too many those next to each other are joined, with what is between them.
fn ranges(ports: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports.range(1..) {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    while ranges.len() > RANGES_MAX {
        let gaps = ranges.windows(2).map(|pair| pair[1].0 - pair[0].1);
        let Some((at, _)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) else {
            break;
        };
        let (_, last) = ranges.remove(at + 1);
        ranges[at].1 = last;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ports_are_one_range() {
        let of = |ports: &[u16]| ranges(&ports.iter().copied().collect());
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[0, 1]), [(1, 1)]);
        assert_eq!(
            of(&[53, 54, 55, 65_534, 65_535, 80]),
            [(53, 55), (80, 80), (65_534, 65_535)]
        );
    }

    #[test]
    fn too_many_ranges_are_joined_where_they_are_close() {
        let mut ports: BTreeSet<u16> = (1..=40).map(|n| n * 1000).collect();
        ports.extend((0..100).map(|n| 45_000 + 2 * n));
        let joined = ranges(&ports);
        assert_eq!(joined.len(), RANGES_MAX);
        let covered = |port: &u16| {
            joined
                .iter()
                .any(|(first, last)| (first..=last).contains(&port))
        };
        assert!(ports.iter().all(covered));
        assert_eq!(joined.last(), Some(&(45_000, 45_198)));
    }
}
