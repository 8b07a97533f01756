//! What a table says, read back or remembered.

use std::collections::BTreeMap;

use weft_netns::nft::{self, Chain, MapData, MapElement, Rule, Timeout};

use crate::chains::{self, Part};
use crate::class::Class;
use crate::classes::{Classes, Numbered};
use crate::idle::{Idle, Times};
use crate::layout::{self, Map};
use crate::spec::{Backend, Family, ServiceKey};

/// A table as it is in the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raw {
    pub(crate) chains: Vec<Chain>,
    pub(crate) maps: Vec<nft::Map>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) timeouts: Vec<Timeout>,
    pub(crate) elements: BTreeMap<Map, Vec<MapElement>>,
}

/// What the table does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// With what it says of each.
    pub(crate) services: BTreeMap<ServiceKey, Entry>,
    /// Those with a chain.
    pub(crate) classes: Classes,
    /// Time-outs that are there, with how many elements lead to each.
    pub(crate) idles: BTreeMap<Idle, usize>,
}

/// What the table says of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// None where a change was interrupted: the service is not in use then.
    pub(crate) class: Option<Class>,
    /// The backend of each slot; where clients keep theirs, of each number that is a backend's own.
    /// May be more than the class uses, where a change was interrupted.
    pub(crate) backends: BTreeMap<u32, Backend>,
    /// The number of each slot's backend, where clients keep theirs. May be more, too.
    pub(crate) picks: BTreeMap<u32, u32>,
    /// Time-outs of its flows where they are not the kernel's.
    pub(crate) times: Times,
}

impl Entry {
    /// The backends of the slots in use, in order.
    pub(crate) fn order(&self) -> Vec<Backend> {
        let Some(class) = self.class else {
            return Vec::new();
        };
        let slots = ..class.slots();
        if class.affinity().is_none() {
            let backends = self.backends.range(slots);
            return backends.map(|(_, backend)| *backend).collect();
        }
        let picks = self.picks.range(slots);
        picks
            .filter_map(|(_, number)| self.backends.get(number).copied())
            .collect()
    }
}

impl Observed {
    /// Reads a table; none when anything about it is not as this crate makes it.
    pub(crate) fn read(table: &str, raw: &Raw) -> Option<Self> {
        let classes = raw.elements.get(&Map::Classes)?.iter();
        let classes: Option<Vec<Numbered>> = classes.map(layout::read_class).collect();
        let mut observed = Self {
            services: BTreeMap::new(),
            classes: Classes::read(classes?)?,
            idles: BTreeMap::new(),
        };
        if !has_shape(table, raw, &observed.classes) {
            return None;
        }
        for timeout in &raw.timeouts {
            observed.idles.insert(Idle::read(timeout)?, 0);
        }
        for family in [Family::V4, Family::V6] {
            for element in raw.elements.get(&Map::Services(family))? {
                let key = layout::read_service_key(family, &element.key)?;
                let number = layout::read_number(value(element)?)?;
                let class = observed.classes.with_number(number)?;
                observed.services.entry(key).or_default().class = Some(class);
                observed.classes.enter(class);
            }
            for element in raw.elements.get(&Map::Backends(family))? {
                let (key, slot) = layout::read_slot_key(family, &element.key)?;
                let backend = layout::read_backend(family, value(element)?)?;
                let entry = observed.services.entry(key).or_default();
                entry.backends.insert(slot, backend);
            }
            for element in raw.elements.get(&Map::Picks(family))? {
                let (key, slot) = layout::read_slot_key(family, &element.key)?;
                let number = layout::read_number(value(element)?)?;
                let entry = observed.services.entry(key).or_default();
                entry.picks.insert(slot, number);
            }
            for element in raw.elements.get(&Map::Idles(family))? {
                let (key, protocol) = layout::read_idle_key(family, &element.key)?;
                let MapData::Object(name) = &element.data else {
                    return None;
                };
                let idle: Idle = name.parse().ok()?;
                *observed.idles.get_mut(&idle)? += 1;
                if idle.protocol != protocol {
                    return None;
                }
                let entry = observed.services.entry(key).or_default();
                entry.times.insert(protocol, idle.seconds);
            }
        }
        Some(observed)
    }
}

fn value(element: &MapElement) -> Option<&[u8]> {
    match &element.data {
        MapData::Value(bytes) => Some(bytes),
        _ => None,
    }
}

/// Whether chains, maps and rules are those of these classes and no others.
fn has_shape(table: &str, raw: &Raw, classes: &Classes) -> bool {
    let affinities = classes.affinities().map(Part::Affinity);
    let classes = classes.all().filter(|class| !class.is_permanent());
    let parts: Vec<Part> = affinities.chain(classes.map(Part::Class)).collect();
    let mut chains = chains::chains(table);
    chains.extend(parts.iter().flat_map(|part| part.chains(table)));
    let mut rules = chains::rules(table);
    rules.extend(parts.iter().flat_map(|part| part.rules(table)));
    let maps = Map::ALL.map(|map| map.object(table)).to_vec();
    sorted(&raw.chains, |chain| &chain.name) == sorted(&chains, |chain| &chain.name)
        && sorted(&raw.maps, |map| &map.name) == sorted(&maps, |map| &map.name)
        // Within a chain the order counts, and sorting keeps it.
        && sorted(&raw.rules, |rule| &rule.chain) == sorted(&rules, |rule| &rule.chain)
}

fn sorted<T>(items: &[T], name: impl Fn(&T) -> &str) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    items.sort_by(|a, b| name(a).cmp(name(b)));
    items
}
