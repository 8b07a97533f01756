//! Which containers' tables are to be touched, and how; without touching any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_lb::spec::{Changes, Spec};
use weft_netns::Identity;
use weft_overlay::NetnsRef;
use weft_raft::model::{NetworkId, View};

use super::loads::{self, ByPlace, Place};
use super::table::Work;
use crate::translate::services::{
    self, Container, Here, Members, ServiceIndex, ServicesDirty, Vip,
};

/// What the wanted tables follow from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) view: &'a View,
    pub(super) index: &'a ServiceIndex,
    pub(super) here: Here<'a>,
    pub(super) loads: &'a ByPlace,
}

/// What is to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope<'a> {
    /// Everything; and what an earlier agent may have left.
    Start,
    /// Everything.
    All,
    /// What this touches.
    Touched(&'a ServicesDirty),
}

/// What is to be done in a container: its work, and ways to its namespace if it is known.
pub(super) type Plan = BTreeMap<Identity, (Work, BTreeSet<NetnsRef>)>;

/// What is to be done; `known` is where a table is or may be.
pub(super) fn plan(wanted: Wanted<'_>, known: &BTreeSet<Identity>, scope: Scope<'_>) -> Plan {
    let planner = Planner {
        wanted,
        known,
        start: matches!(scope, Scope::Start),
        containers: BTreeMap::new(),
        specs: BTreeMap::new(),
        members: BTreeMap::new(),
        plan: Plan::new(),
    };
    planner.plan(scope)
}

struct Planner<'a> {
    wanted: Wanted<'a>,
    known: &'a BTreeSet<Identity>,
    start: bool,
    containers: BTreeMap<Identity, Option<Container>>,
    /// Containers on the same networks have the same services.
    specs: BTreeMap<BTreeSet<NetworkId>, Arc<Spec>>,
    members: BTreeMap<BTreeSet<NetworkId>, Arc<Members>>,
    plan: Plan,
}

impl Planner<'_> {
    fn plan(mut self, scope: Scope<'_>) -> Plan {
        let Wanted { index, here, .. } = self.wanted;
        match scope {
            Scope::Start | Scope::All => {
                let places = index.places_on(here.node);
                for place in places.union(self.known) {
                    self.whole(*place);
                }
            }
            Scope::Touched(dirty) => {
                let local = dirty.places.iter().filter(|(node, _)| *node == here.node);
                for (_, place) in local {
                    self.whole(*place);
                }
                for vip in &dirty.vips {
                    for place in index.places_on_network(here.node, vip.0) {
                        self.part(place, *vip);
                    }
                }
                for place in dirty.loads.intersection(self.known) {
                    self.by_load(*place);
                }
            }
        }
        self.plan
    }

    /// All services of a container.
    fn whole(&mut self, place: Identity) {
        let container = self.container(place);
        let netns = container.as_ref().map(|container| container.netns.clone());
        let work = match container {
            Some(container) if services::has_services(self.wanted.index, &container) => {
                let spec = self.spec(&container);
                let spec = self.weighed(place, spec);
                let members = self.start.then(|| self.members(&container));
                Some(Work::Make { spec, members })
            }
            _ if self.known.contains(&place) => Some(Work::Remove),
            _ => self.start.then_some(Work::Sweep),
        };
        if let Some(work) = work {
            self.plan.insert(place, (work, netns.unwrap_or_default()));
        }
    }

    /// The services of a container that choose by load.
    fn by_load(&mut self, place: Identity) {
        let Some(container) = self.container(place) else {
            return;
        };
        for vip in self.wanted.index.vips_by_load() {
            if container.networks.contains(&vip.0) {
                self.part(place, vip);
            }
        }
    }

    /// One service of a container.
    fn part(&mut self, place: Identity, vip: Vip) {
        let Some(container) = self.container(place) else {
            return;
        };
        let Wanted {
            view, index, loads, ..
        } = self.wanted;
        if !self.known.contains(&place) || !services::has_services(index, &container) {
            self.whole(place);
            return;
        }
        let service = || {
            let mut service = services::container_service(view, index, &container, vip)?;
            loads::weigh(&mut service, loads.get(&Place::Container(place)));
            Some(service)
        };
        match self.plan.get_mut(&place) {
            Some((Work::Change(changes), _)) => {
                changes.insert(services::key(vip), service());
            }
            // All of it is looked at anyway.
            Some(_) => {}
            None => {
                let changes = Changes::from([(services::key(vip), service())]);
                let work = (Work::Change(changes), container.netns);
                self.plan.insert(place, work);
            }
        }
    }

    fn container(&mut self, place: Identity) -> Option<Container> {
        let Wanted {
            view, index, here, ..
        } = self.wanted;
        let found = self.containers.entry(place);
        found
            .or_insert_with(|| services::container(view, index, here, place))
            .clone()
    }

    fn spec(&mut self, container: &Container) -> Arc<Spec> {
        let Wanted { view, index, .. } = self.wanted;
        let made = self.specs.entry(container.networks.clone());
        made.or_insert_with(|| Arc::new(services::container_services(view, index, container)))
            .clone()
    }

    /// With the weights that follow from the loads that a container sees.
    fn weighed(&self, place: Identity, spec: Arc<Spec>) -> Arc<Spec> {
        let load = self.wanted.loads.get(&Place::Container(place));
        if load.is_none() {
            return spec;
        }
        let mut own = Spec::clone(&spec);
        for service in own.values_mut() {
            loads::weigh(service, load);
        }
        Arc::new(own)
    }

    fn members(&mut self, container: &Container) -> Arc<Members> {
        let Wanted { view, index, .. } = self.wanted;
        let made = self.members.entry(container.networks.clone());
        made.or_insert_with(|| Arc::new(services::container_members(view, index, container)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use weft_raft::model::{Change, Endpoint, EndpointId, ServiceId};

    use super::*;
    use crate::translate::services::testing::{HERE, Known, client, member, place, service, vip};

    /// Containers 2 and 3 here, one on each network; the backends elsewhere.
    fn known() -> Known {
        Known::of(
            &[service(1, &[1]), service(2, &[1])],
            &[
                client(2, 1, 1),
                client(3, 2, 1),
                member(4, 1, 2, 1),
                client(5, 1, 3),
            ],
        )
    }

    /// A word for each container that is to be touched.
    fn planned(known: &Known, tables: &[u8], scope: Scope<'_>) -> Vec<(u64, String)> {
        let wanted = Wanted {
            view: &known.view,
            index: &known.index,
            here: HERE,
            loads: &ByPlace::new(),
        };
        let tables = tables.iter().map(|number| place(*number)).collect();
        let plan = plan(wanted, &tables, scope);
        let word = |work: &Work| match work {
            Work::Make { spec, members } => match members {
                Some(_) => format!("make {} and forget strays", spec.len()),
                None => format!("make {}", spec.len()),
            },
            Work::Change(changes) => {
                let gone = changes.values().filter(|service| service.is_none());
                format!("change {} of them gone {}", changes.len(), gone.count())
            }
            Work::Remove => "remove".to_owned(),
            Work::Sweep => "sweep".to_owned(),
        };
        let rows = plan.iter();
        rows.map(|(place, (work, _))| (place.inode, word(work)))
            .collect()
    }

    fn words(plan: &[(u64, &str)]) -> Vec<(u64, String)> {
        let rows = plan.iter();
        rows.map(|(place, word)| (*place, (*word).to_owned()))
            .collect()
    }

    #[test]
    fn only_containers_with_services_have_tables() {
        let known = known();
        let plan = planned(&known, &[], Scope::All);
        assert_eq!(plan, words(&[(2, "make 2")]));
        // What an earlier agent left is looked for once.
        let plan = planned(&known, &[], Scope::Start);
        let start = [(2, "make 2 and forget strays"), (3, "sweep")];
        assert_eq!(plan, words(&start));
        let none = Known::of(&[], &[client(2, 1, 1)]);
        assert_eq!(planned(&none, &[], Scope::All), []);
    }

    #[test]
    fn a_backend_that_changes_is_one_change_in_each_table_of_its_network() {
        let mut known = known();
        known.put(client(6, 1, 1));
        let dirty = known.put(Endpoint {
            weight: 7,
            ..member(4, 1, 2, 1)
        });
        let plan = planned(&known, &[2], Scope::Touched(&dirty));
        // Container 6 has no table yet.
        assert_eq!(
            plan,
            words(&[(2, "change 1 of them gone 0"), (6, "make 2")])
        );
    }

    #[test]
    fn a_service_that_goes_takes_its_address_and_the_last_one_the_table() {
        let mut known = known();
        let gone = |number| Change::ServiceGone(ServiceId::new([number; 10]));
        let dirty = known.apply(&[gone(1)]);
        let plan = planned(&known, &[2], Scope::Touched(&dirty));
        assert_eq!(plan, words(&[(2, "change 1 of them gone 1")]));
        let dirty = known.apply(&[gone(2)]);
        let plan = planned(&known, &[2], Scope::Touched(&dirty));
        assert_eq!(plan, words(&[(2, "remove")]));
        assert_eq!(planned(&known, &[], Scope::Touched(&dirty)), []);
    }

    #[test]
    fn a_container_that_is_attached_gets_its_table_and_one_that_is_detached_loses_it() {
        let mut known = known();
        let dirty = known.put(client(6, 1, 1));
        let plan = planned(&known, &[2], Scope::Touched(&dirty));
        assert_eq!(plan, words(&[(6, "make 2")]));
        let gone = Change::EndpointGone(EndpointId::new([6; 10]));
        let dirty = known.apply(&[gone]);
        let plan = planned(&known, &[2, 6], Scope::Touched(&dirty));
        assert_eq!(plan, words(&[(6, "remove")]));
        // However it came about.
        let plan = planned(&known, &[2, 9], Scope::All);
        assert_eq!(plan, words(&[(2, "make 2"), (9, "remove")]));
        // Another host's containers are not this one's business.
        let dirty = known.put(client(7, 1, 2));
        assert_eq!(planned(&known, &[2], Scope::Touched(&dirty)), []);
    }

    #[test]
    fn a_container_that_changes_network_has_the_services_of_the_new_one() {
        let mut known = known();
        let dirty = known.put(client(2, 2, 1));
        let plan = planned(&known, &[2], Scope::Touched(&dirty));
        assert_eq!(plan, words(&[(2, "remove")]));
        let dirty = known.apply(&[Change::Service(Arc::new(service(1, &[1, 2])))]);
        assert!(dirty.vips.contains(&vip(2, 1)));
        let plan = planned(&known, &[], Scope::Touched(&dirty));
        assert_eq!(plan, words(&[(2, "make 1"), (3, "make 1")]));
    }
}
