//! From what a table says to what it should say, without touching the kernel.
//!
//! A packet looks up the class of its service first and a slot's backend after that, and a
//! transaction may come between the two. A plan therefore has three stages, each committed before
//! the next: first all slots that the new classes use, then the classes, then the slots that only
//! the old classes used. At every moment every slot that a packet can ask for is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::class::{Class, Pick};
use crate::observed::{Entry, Observed};
use crate::spec::{Backend, Changes, Scheduler, Service, ServiceKey, Spec};
use crate::{maglev, slots};

/// One change of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Makes a class's chain.
    AddClass(Class),
    /// Removes it. No service is in it any more.
    RemoveClass(Class),
    /// Changes what a slot says; none is no slot.
    SetSlot {
        key: ServiceKey,
        slot: u32,
        old: Option<Backend>,
        new: Option<Backend>,
    },
    /// Changes the class of a service; none is no service.
    SetClass {
        key: ServiceKey,
        old: Option<Class>,
        new: Option<Class>,
    },
}

/// Changes in the order in which they have to be seen: each stage after the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) stages: [Vec<Op>; 3],
}

impl Plan {
    /// Makes the table say `spec` and nothing else.
    pub(crate) fn full(spec: &Spec, observed: &Observed) -> Self {
        let keys: BTreeSet<&ServiceKey> = spec.keys().chain(observed.services.keys()).collect();
        let wanted = keys.into_iter().map(|key| (key, spec.get(key)));
        Self::new(wanted, observed)
    }

    /// Changes some services. Takes time in proportion to these and to the number of classes.
    pub(crate) fn partial(changes: &Changes, observed: &Observed) -> Self {
        let wanted = changes.iter().map(|(key, service)| (key, service.as_ref()));
        Self::new(wanted, observed)
    }

    fn new<'a>(
        wanted: impl Iterator<Item = (&'a ServiceKey, Option<&'a Service>)>,
        observed: &Observed,
    ) -> Self {
        let mut plan = Self::default();
        let mut users = observed.classes.clone();
        let absent = Entry::default();
        for (key, service) in wanted {
            let entry = observed.services.get(key).unwrap_or(&absent);
            plan.service(key, service, entry, &mut users);
        }
        let [first, _, last] = &mut plan.stages;
        for (class, count) in users {
            if count > 0 && !observed.classes.contains_key(&class) {
                first.push(Op::AddClass(class));
            }
            if count == 0 && observed.classes.contains_key(&class) {
                last.push(Op::RemoveClass(class));
            }
        }
        plan
    }

    fn service(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        entry: &Entry,
        users: &mut BTreeMap<Class, usize>,
    ) {
        let wanted = service.map(|service| content(key, service, entry));
        let (class, slots) = match wanted {
            Some((class, slots)) => (Some(class), slots),
            None => (None, Vec::new()),
        };
        let [first, middle, last] = &mut self.stages;
        for (slot, new) in (0..).zip(&slots) {
            let old = entry.slots.get(&slot).copied();
            if old != Some(*new) {
                let (key, new) = (*key, Some(*new));
                first.push(Op::SetSlot {
                    key,
                    slot,
                    old,
                    new,
                });
            }
        }
        for (slot, backend) in entry.slots.range(class.map_or(0, Class::slots)..) {
            let (key, slot, old, new) = (*key, *slot, Some(*backend), None);
            last.push(Op::SetSlot {
                key,
                slot,
                old,
                new,
            });
        }
        if class != entry.class {
            middle.push(Op::SetClass {
                key: *key,
                old: entry.class,
                new: class,
            });
            count(users, entry.class, |users| users.saturating_sub(1));
            count(users, class, |users| users + 1);
        }
    }

    /// How many changes.
    pub(crate) fn ops(&self) -> usize {
        self.stages.iter().map(Vec::len).sum()
    }
}

/// The class and the slots of a service, with as few changes of its slots as can be.
fn content(key: &ServiceKey, service: &Service, entry: &Entry) -> (Class, Vec<Backend>) {
    let active: Vec<(Backend, u16)> = service.active().collect();
    let (pick, slots) = match service.scheduler {
        Scheduler::Maglev(size) => (Pick::Flow, maglev::table(&active, size)),
        Scheduler::Random => (Pick::Random, dense(&active, entry)),
        Scheduler::SourceHash => (Pick::Source, dense(&active, entry)),
    };
    (Class::new(key, pick, slots.len()), slots)
}

fn dense(active: &[(Backend, u16)], entry: &Entry) -> Vec<Backend> {
    let weights: Vec<u16> = active.iter().map(|(_, weight)| *weight).collect();
    let counts = slots::multiplicities(&weights);
    let wanted: Vec<(Backend, u32)> = active
        .iter()
        .zip(counts)
        .map(|((backend, _), count)| (*backend, count))
        .collect();
    let in_use = entry.class.map_or(0, Class::slots);
    let present: Vec<Backend> = entry.slots.range(..in_use).map(|(_, b)| *b).collect();
    slots::assign(&present, &wanted)
}

fn count(
    users: &mut BTreeMap<Class, usize>,
    class: Option<Class>,
    change: impl FnOnce(usize) -> usize,
) {
    if let Some(class) = class.filter(|class| !class.is_permanent()) {
        let count = users.entry(class).or_default();
        *count = change(*count);
    }
}

impl Observed {
    /// What the table says after the change.
    pub(crate) fn apply(&mut self, op: &Op) {
        match *op {
            Op::AddClass(class) => {
                self.classes.entry(class).or_default();
            }
            Op::RemoveClass(class) => {
                self.classes.remove(&class);
            }
            Op::SetSlot { key, slot, new, .. } => {
                let slots = &mut self.services.entry(key).or_default().slots;
                match new {
                    Some(backend) => slots.insert(slot, backend),
                    None => slots.remove(&slot),
                };
                self.forget_if_gone(&key);
            }
            Op::SetClass { key, old, new } => {
                self.services.entry(key).or_default().class = new;
                count(&mut self.classes, old, |users| users.saturating_sub(1));
                count(&mut self.classes, new, |users| users + 1);
                self.forget_if_gone(&key);
            }
        }
    }

    fn forget_if_gone(&mut self, key: &ServiceKey) {
        if self.services.get(key) == Some(&Entry::default()) {
            self.services.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
