//! From what a table says to what it should say, without touching the kernel.
//!
//! A packet looks up the class of its service first and a slot's backend after that, and a
//! transaction may come between the two. A plan therefore has three stages, each committed before
//! the next: first all slots that the new classes use, then the classes, then the slots that only
//! the old classes used. At every moment every slot that a packet can ask for is there.

use std::collections::BTreeSet;

use crate::class::{Class, Pick};
use crate::classes::{Draft, Numbered};
use crate::observed::{Entry, Observed};
use crate::spec::{Backend, Changes, Scheduler, Service, ServiceKey, Spec};
use crate::{maglev, slots};

/// One change of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Makes a class's chain.
    AddClass(Numbered),
    /// Removes it. No service is in it any more.
    RemoveClass(Numbered),
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
        new: Option<Numbered>,
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

    /// Changes some services. Takes time in proportion to these.
    pub(crate) fn partial(changes: &Changes, observed: &Observed) -> Self {
        let wanted = changes.iter().map(|(key, service)| (key, service.as_ref()));
        Self::new(wanted, observed)
    }

    fn new<'a>(
        wanted: impl Iterator<Item = (&'a ServiceKey, Option<&'a Service>)>,
        observed: &Observed,
    ) -> Self {
        let mut plan = Self::default();
        let mut draft = Draft::new(&observed.classes);
        let absent = Entry::default();
        let mut services = observed.services.len();
        for (key, service) in wanted {
            let entry = observed.services.get(key);
            services += usize::from(service.is_some());
            services -= usize::from(entry.is_some());
            plan.service(key, service, entry.unwrap_or(&absent), &mut draft);
        }
        let [first, _, last] = &mut plan.stages;
        first.extend(draft.added().map(Op::AddClass));
        let surplus = draft.surplus(services).into_iter();
        last.extend(surplus.filter_map(|class| {
            let number = observed.classes.number(class)?;
            Some(Op::RemoveClass(Numbered { class, number }))
        }));
        plan
    }

    fn service(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        entry: &Entry,
        draft: &mut Draft<'_>,
    ) {
        let (class, slots) = service.map(|service| content(key, service, entry)).unzip();
        let class = draft.move_to(entry.class, class);
        let slots = slots.unwrap_or_default();
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
        for (slot, backend) in entry.slots.range(class.map_or(0, |c| c.class.slots())..) {
            let (key, slot, old, new) = (*key, *slot, Some(*backend), None);
            last.push(Op::SetSlot {
                key,
                slot,
                old,
                new,
            });
        }
        if class.map(|class| class.class) != entry.class {
            middle.push(Op::SetClass {
                key: *key,
                old: entry.class,
                new: class,
            });
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
        Scheduler::Random => (Pick::Random, dense(&by_weight(&active), entry)),
        Scheduler::SourceHash => (Pick::Source, dense(&by_weight(&active), entry)),
        Scheduler::RoundRobin => {
            let once: Vec<(Backend, u32)> = active.iter().map(|(b, _)| (*b, 1)).collect();
            (Pick::RoundRobin, dense(&once, entry))
        }
        Scheduler::WeightedRoundRobin => {
            let wanted = by_weight(&active);
            let slots = if wanted.iter().all(|(_, count)| *count == 1) {
                dense(&wanted, entry)
            } else {
                slots::interleave(&wanted)
            };
            (Pick::RoundRobin, slots)
        }
    };
    (Class::new(key, pick, slots.len()), slots)
}

/// How many slots each backend has.
fn by_weight(active: &[(Backend, u16)]) -> Vec<(Backend, u32)> {
    let weights: Vec<u16> = active.iter().map(|(_, weight)| *weight).collect();
    let counts = slots::multiplicities(&weights);
    let backends = active.iter().map(|(backend, _)| *backend);
    backends.zip(counts).collect()
}

/// The slots, in the order that keeps most of what is there.
fn dense(wanted: &[(Backend, u32)], entry: &Entry) -> Vec<Backend> {
    let in_use = entry.class.map_or(0, Class::slots);
    let present: Vec<Backend> = entry.slots.range(..in_use).map(|(_, b)| *b).collect();
    slots::assign(&present, wanted)
}

impl Observed {
    /// What the table says after the change.
    pub(crate) fn apply(&mut self, op: &Op) {
        match *op {
            Op::AddClass(class) => {
                self.classes.add(class);
            }
            Op::RemoveClass(class) => self.classes.remove(class.class),
            Op::SetSlot { key, slot, new, .. } => {
                let slots = &mut self.services.entry(key).or_default().slots;
                match new {
                    Some(backend) => slots.insert(slot, backend),
                    None => slots.remove(&slot),
                };
                self.forget_if_gone(&key);
            }
            Op::SetClass { key, old, new } => {
                let new = new.map(|class| class.class);
                self.services.entry(key).or_default().class = new;
                if let Some(old) = old {
                    self.classes.leave(old);
                }
                if let Some(new) = new {
                    self.classes.enter(new);
                }
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
