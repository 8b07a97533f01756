//! What is to be answered where, and what has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_lb::dns::{Site, Zone};
use weft_overlay::NetnsRef;

/// Names, and the containers that may ask for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DnsSpec {
    /// Where the host says who knows other names.
    pub(crate) resolv_conf: PathBuf,
    /// The names of networks, by id.
    pub(crate) zones: BTreeMap<String, Arc<Zone>>,
    /// Containers, by their namespaces.
    pub(crate) places: BTreeMap<String, PlaceSpec>,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlaceSpec {
    /// Ways to its namespace.
    pub(crate) netns: BTreeSet<NetnsRef>,
    /// The networks that it is on, the first one first.
    pub(crate) zones: Vec<String>,
    /// Whether other names are looked for elsewhere.
    pub(crate) forwards: bool,
}

/// What is different from what was said before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DnsUpdate {
    /// Number of the update that this one follows; `None`: it follows none and says everything.
    pub(crate) after: Option<u64>,
    /// Its own number.
    pub(crate) number: u64,
    resolv_conf: PathBuf,
    zones: BTreeMap<String, Option<Arc<Zone>>>,
    places: BTreeMap<String, Option<PlaceSpec>>,
}

impl DnsSpec {
    /// What leads here from `before`, which was told with that number.
    pub(crate) fn since(&self, before: Option<(u64, &Self)>, number: u64) -> DnsUpdate {
        let nothing = Self::default();
        let old = before.map_or(&nothing, |(_, spec)| spec);
        let same_zone =
            |one: &Arc<Zone>, other: &Arc<Zone>| Arc::ptr_eq(one, other) || one == other;
        DnsUpdate {
            after: before.map(|(number, _)| number),
            number,
            resolv_conf: self.resolv_conf.clone(),
            zones: difference(&old.zones, &self.zones, same_zone),
            places: difference(&old.places, &self.places, PartialEq::eq),
        }
    }

    /// Becomes what the update leads to.
    pub(super) fn apply(&mut self, update: DnsUpdate) {
        if update.after.is_none() {
            *self = Self::default();
        }
        self.resolv_conf = update.resolv_conf;
        change(&mut self.zones, update.zones);
        change(&mut self.places, update.places);
    }

    /// What a container may ask.
    pub(super) fn site(&self, place: &PlaceSpec) -> Site {
        let zones = place.zones.iter().filter_map(|id| self.zones.get(id));
        Site {
            zones: zones.cloned().collect(),
            forwards: place.forwards,
        }
    }
}

fn difference<T: Clone>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    same: impl Fn(&T, &T) -> bool,
) -> BTreeMap<String, Option<T>> {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let gone = gone.map(|key| (key.clone(), None));
    let kept = |key: &String, value: &T| old.get(key).is_some_and(|before| same(before, value));
    let changed = new.iter().filter(|(key, value)| !kept(key, value));
    gone.chain(changed.map(|(key, value)| (key.clone(), Some(value.clone()))))
        .collect()
}

fn change<T>(all: &mut BTreeMap<String, T>, changes: BTreeMap<String, Option<T>>) {
    for (key, value) in changes {
        match value {
            Some(value) => all.insert(key, value),
            None => all.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(zones: &[(&str, &str)], places: &[&str]) -> DnsSpec {
        let zone = |name: &str| {
            Arc::new(Zone {
                name: name.to_owned(),
                ..Zone::default()
            })
        };
        let place = |zones: Vec<String>| PlaceSpec {
            netns: BTreeSet::new(),
            zones,
            forwards: true,
        };
        let ids = || zones.iter().map(|(id, _)| (*id).to_owned()).collect();
        DnsSpec {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            zones: { zones.iter() }
                .map(|(id, name)| ((*id).to_owned(), zone(name)))
                .collect(),
            places: { places.iter() }
                .map(|key| ((*key).to_owned(), place(ids())))
                .collect(),
        }
    }

    #[test]
    fn what_has_changed_leads_to_what_is_wanted() {
        let steps = [
            spec(&[("1", "web")], &["a"]),
            spec(&[("1", "web"), ("2", "db")], &["a", "b"]),
            spec(&[("1", "other"), ("2", "db")], &["b"]),
            spec(&[], &[]),
        ];
        let mut have = DnsSpec::default();
        let mut told: Option<(u64, &DnsSpec)> = None;
        for (number, step) in (1..).zip(&steps) {
            let update = step.since(told, number);
            let text = serde_json::to_string(&update).unwrap();
            have.apply(serde_json::from_str(&text).unwrap());
            assert_eq!(have, *step);
            told = Some((number, step));
        }
        let again = steps[1].since(Some((2, &steps[1])), 3);
        assert!(again.zones.is_empty() && again.places.is_empty());
        // Whoever knows nothing is told everything.
        have.apply(steps[1].since(None, 9));
        assert_eq!(have, steps[1]);
    }

    #[test]
    fn a_container_asks_the_networks_that_it_is_on() {
        let spec = spec(&[("1", "web"), ("2", "db")], &["a"]);
        let mut place = spec.places["a"].clone();
        place.zones = vec!["2".to_owned(), "gone".to_owned()];
        let site = spec.site(&place);
        assert_eq!(site.zones.len(), 1);
        assert_eq!(site.zones[0].name, "db");
    }
}
