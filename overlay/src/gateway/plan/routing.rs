use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::Planner;
use crate::gateway::layout::{
    HOST_END, LOCAL_TABLE, MARK_MASK, MARK_SHIFT, RULES_DIGIT1, RULES_DIGIT2, RULES_END,
    RULES_GATE, RULES_NODES, table,
};
use crate::gateway::observed::{Action, Family, Route, Rule, Select};
use crate::gateway::op::{Op, Place};

/// What the kernel gives an IPv6 route that comes without (`IP6_RT_PRIO_USER`).
const METRIC6: u32 = 1024;

impl Planner<'_> {
    /// Sends back by the node that they came in by what is marked with its number.
    ///
    /// And takes in what is for ::1 once its translation is undone: the kernel looks for a way to ::1
    /// that is on the interface that a packet came in by, and the host's own is on `lo`. What comes
    /// in for ::1 in clear it drops before that.
    pub(super) fn routing(&mut self) {
        let (mut rules, mut routes) = (BTreeSet::new(), BTreeSet::new());
        let mesh = self.spec.mesh.as_ref().filter(|_| self.observed.mesh);
        if self.observed.ipv6 {
            let devices = [HOST_END]
                .into_iter()
                .chain(mesh.map(|mesh| mesh.ifname.as_str()));
            // Two to one destination differ in their metrics. That of `lo` is 0.
            routes.extend(devices.zip(METRIC6..).map(localhost));
        }
        for (node, entry) in mesh.iter().flat_map(|mesh| &mesh.entries) {
            let v4 = entry.via4.map(IpAddr::V4);
            let v6 = entry.via6.map(IpAddr::V6).filter(|_| self.observed.ipv6);
            for via in v4.into_iter().chain(v6) {
                let ifname = mesh.map_or("", |mesh| mesh.ifname.as_str());
                routes.insert(default_route(table(*node), via, ifname));
                rules.extend(tree(Family::of(via), *node));
            }
        }
        let rules = (&rules, &self.observed.rules);
        change(
            &mut self.ops,
            &Place::Host,
            rules,
            (&routes, &self.observed.routes),
        );
    }
}

pub(super) fn default_route(table: u32, via: IpAddr, device: &str) -> Route {
    let (any, metric) = match via {
        IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), METRIC6),
    };
    Route {
        table,
        destination: IpNet::new_assert(any, 0),
        metric,
        via: Some(via),
        device: Some(device.to_owned()),
        local: false,
        odd: false,
    }
}

pub(super) fn localhost((device, metric): (&str, u32)) -> Route {
    Route {
        table: LOCAL_TABLE,
        destination: IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        metric,
        via: None,
        device: Some(device.to_owned()),
        local: true,
        odd: false,
    }
}

/// The rules that lead to a node's table; see [`RULES_GATE`]. Most are those of other nodes too.
fn tree(family: Family, node: u16) -> [Rule; 5] {
    const DIGIT: u32 = 4;
    let rule = |priority, select, action| Rule {
        family,
        priority,
        select,
        action,
        odd: false,
    };
    // The first digits of the number, without so many of the last.
    let digits = |dropped: u32| {
        let shift = MARK_SHIFT + dropped * DIGIT;
        let number = u32::from(node) >> (dropped * DIGIT);
        let mask = (MARK_MASK >> shift) << shift;
        (
            number,
            Select::Mark {
                value: number << shift,
                mask,
            },
        )
    };
    let unmarked = Select::Mark {
        value: 0,
        mask: MARK_MASK,
    };
    let ((first, by_first), (two, by_two), (_, by_all)) = (digits(2), digits(1), digits(0));
    [
        rule(RULES_GATE, unmarked, Action::Goto(RULES_END)),
        rule(RULES_DIGIT1, by_first, Action::Goto(RULES_DIGIT2 + first)),
        rule(
            RULES_DIGIT2 + first,
            by_two,
            Action::Goto(RULES_NODES + two),
        ),
        rule(RULES_NODES + two, by_all, Action::Table(table(node))),
        rule(RULES_END, Select::All, Action::Nop),
    ]
}

/// Brings our rules and routes of a place into shape. `.0` is what is wanted, `.1` what there is. No
/// rule ever leads to a table that is not complete.
pub(super) fn change(
    ops: &mut Vec<Op>,
    place: &Place,
    rules: (&BTreeSet<Rule>, &BTreeSet<Rule>),
    routes: (&BTreeSet<Route>, &BTreeSet<Route>),
) {
    let place = || place.clone();
    let unwanted = rules.1.difference(rules.0);
    ops.extend(unwanted.map(|rule| Op::RemoveRule {
        place: place(),
        rule: *rule,
    }));
    let (set, removed) = route_changes(routes.0, routes.1);
    ops.extend(set.into_iter().map(|(route, replace)| Op::SetRoute {
        place: place(),
        route: route.clone(),
        replace,
    }));
    let missing = rules.0.difference(rules.1);
    ops.extend(missing.map(|rule| Op::AddRule {
        place: place(),
        rule: *rule,
    }));
    ops.extend(removed.into_iter().map(|route| Op::RemoveRoute {
        place: place(),
        route: route.clone(),
    }));
}

/// What has to be set, with whether it takes the place of another, and what has to be removed. Changed
/// in place, a route is never missing.
fn route_changes<'a>(
    wanted: &'a BTreeSet<Route>,
    there: &'a BTreeSet<Route>,
) -> (Vec<(&'a Route, bool)>, Vec<&'a Route>) {
    let key = |route: &Route| (route.table, route.destination, route.metric);
    let mut unwanted: BTreeMap<_, Vec<&Route>> = BTreeMap::new();
    for route in there.difference(wanted) {
        unwanted.entry(key(route)).or_default().push(route);
    }
    let missing: Vec<&Route> = wanted.difference(there).collect();
    let set = missing.into_iter().map(|route| {
        // The kernel replaces the first that it finds.
        let replaced = there
            .iter()
            .filter(|other| key(other) == key(route))
            .count()
            == 1
            && unwanted.remove(&key(route)).is_some();
        (route, replaced)
    });
    let set = set.collect();
    (set, unwanted.into_values().flatten().collect())
}
