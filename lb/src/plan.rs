//! From what a table says to what it should say, without touching the kernel.
//!
//! A packet looks up the class of its service first and a slot's backend after that, and a
//! transaction may come between the two. A plan therefore has three stages, each committed before
//! the next: first all slots that the new classes use, then the classes, then the slots that only
//! the old classes used. At every moment every slot that a packet can ask for is there.

mod content;

use std::collections::{BTreeMap, BTreeSet};

use content::Content;

use crate::class::Class;
use crate::classes::{Draft, Numbered, Turnover};
use crate::observed::{Entry, Observed};
use crate::spec::{Backend, Changes, Service, ServiceKey, Spec};

/// One change of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Makes a class's chain.
    AddClass(Turnover),
    /// Removes it. No service is in it any more.
    RemoveClass(Turnover),
    /// Changes the backend of a slot or number; none is no slot.
    SetBackend {
        key: ServiceKey,
        slot: u32,
        old: Option<Backend>,
        new: Option<Backend>,
    },
    /// Changes the number of a slot's backend; none is no slot.
    SetPick {
        key: ServiceKey,
        slot: u32,
        old: Option<u32>,
        new: Option<u32>,
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
        first.extend(draft.added().into_iter().map(Op::AddClass));
        last.extend(draft.removed(services).into_iter().map(Op::RemoveClass));
        plan
    }

    fn service(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        entry: &Entry,
        draft: &mut Draft<'_>,
    ) {
        let wanted = service.map(|service| Content::new(key, service, entry));
        let class = draft.move_to(entry.class, wanted.as_ref().map(|content| content.class));
        let Content {
            backends, picks, ..
        } = wanted.unwrap_or_default();
        let key = *key;
        let [first, middle, last] = &mut self.stages;
        let set = |(slot, old, new)| Op::SetBackend {
            key,
            slot,
            old,
            new,
        };
        let (come, go) = differences(&entry.backends, &backends);
        first.extend(come.into_iter().map(set));
        last.extend(go.into_iter().map(set));
        let set = |(slot, old, new)| Op::SetPick {
            key,
            slot,
            old,
            new,
        };
        let (come, go) = differences(&entry.picks, &picks);
        first.extend(come.into_iter().map(set));
        last.extend(go.into_iter().map(set));
        if class.map(|class| class.class) != entry.class {
            middle.push(Op::SetClass {
                key,
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

/// A slot, with what it is and what it has to be.
type Difference<T> = (u32, Option<T>, Option<T>);

/// What has to be set, and what has to go after that.
fn differences<T: Copy + PartialEq>(
    present: &BTreeMap<u32, T>,
    wanted: &BTreeMap<u32, T>,
) -> (Vec<Difference<T>>, Vec<Difference<T>>) {
    let come = wanted.iter().filter_map(|(slot, new)| {
        let old = present.get(slot).copied();
        (old != Some(*new)).then_some((*slot, old, Some(*new)))
    });
    let go = present
        .iter()
        .filter(|(slot, _)| !wanted.contains_key(slot));
    let go = go.map(|(slot, old)| (*slot, Some(*old), None));
    (come.collect(), go.collect())
}

impl Observed {
    /// What the table says after the change.
    pub(crate) fn apply(&mut self, op: &Op) {
        match *op {
            Op::AddClass(Turnover { class, .. }) => {
                self.classes.add(class);
            }
            Op::RemoveClass(Turnover { class, .. }) => self.classes.remove(class.class),
            Op::SetBackend { key, slot, new, .. } => {
                let entry = self.services.entry(key).or_default();
                match new {
                    Some(backend) => entry.backends.insert(slot, backend),
                    None => entry.backends.remove(&slot),
                };
                self.forget_if_gone(&key);
            }
            Op::SetPick { key, slot, new, .. } => {
                let entry = self.services.entry(key).or_default();
                match new {
                    Some(number) => entry.picks.insert(slot, number),
                    None => entry.picks.remove(&slot),
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
