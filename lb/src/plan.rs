//! From what a table says to what it should say, without touching the kernel.
//!
//! A packet looks up the class of its service first and a slot's backend after that, and a
//! transaction may come between the two. A plan therefore has three stages, each committed before
//! the next: first all slots that the new classes use, then the classes, then the slots that only
//! the old classes used. At every moment every slot that a packet can ask for is there.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use content::Content;

use crate::class::Class;
use crate::classes::{Draft, Numbered, Turnover};
use crate::idle::{Idle, Tracking};
use crate::observed::{Entry, Observed};
use crate::spec::{Backend, Changes, Protocol, Service, ServiceKey, Spec};

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
    /// Makes a time-out.
    AddIdle(Idle),
    /// Removes it. No service has it any more.
    RemoveIdle(Idle),
    /// Changes the time-out, in seconds, of a service's flows of a protocol; none is the kernel's.
    SetIdle {
        key: ServiceKey,
        protocol: Protocol,
        old: Option<NonZeroU32>,
        new: Option<NonZeroU32>,
    },
}

/// Changes in the order in which they have to be seen: each stage after the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) stages: [Vec<Op>; 3],
}

impl Plan {
    /// Makes the table say `spec` and nothing else.
    pub(crate) fn full(spec: &Spec, observed: &Observed, tracking: Tracking) -> Self {
        let keys: BTreeSet<&ServiceKey> = spec.keys().chain(observed.services.keys()).collect();
        let wanted = keys.into_iter().map(|key| (key, spec.get(key)));
        Self::new(wanted, observed, tracking)
    }

    /// Changes some services. Takes time in proportion to these.
    pub(crate) fn partial(changes: &Changes, observed: &Observed, tracking: Tracking) -> Self {
        let wanted = changes.iter().map(|(key, service)| (key, service.as_ref()));
        Self::new(wanted, observed, tracking)
    }

    fn new<'a>(
        wanted: impl Iterator<Item = (&'a ServiceKey, Option<&'a Service>)>,
        observed: &Observed,
        tracking: Tracking,
    ) -> Self {
        let mut plan = Self::default();
        let mut draft = Draft::new(&observed.classes);
        let absent = Entry::default();
        let mut services = observed.services.len();
        for (key, service) in wanted {
            let entry = observed.services.get(key);
            services += usize::from(service.is_some());
            services -= usize::from(entry.is_some());
            let entry = entry.unwrap_or(&absent);
            let content = service.map(|service| Content::new(key, service, entry, tracking));
            plan.service(key, content, entry, &mut draft);
        }
        let [first, _, last] = &mut plan.stages;
        first.extend(draft.added().into_iter().map(Op::AddClass));
        last.extend(draft.removed(services).into_iter().map(Op::RemoveClass));
        plan.idles(&observed.idles);
        plan
    }

    fn service(
        &mut self,
        key: &ServiceKey,
        wanted: Option<Content>,
        entry: &Entry,
        draft: &mut Draft<'_>,
    ) {
        let class = draft.move_to(entry.class, wanted.as_ref().map(|content| content.class));
        let Content {
            backends,
            picks,
            times,
            ..
        } = wanted.unwrap_or_default();
        let key = *key;
        let [first, middle, last] = &mut self.stages;
        let set = |(slot, old, new)| Op::SetBackend {
            key,
            slot,
            old,
            new,
        };
        let [come, go] = differences(&entry.backends, &backends);
        first.extend(come.into_iter().map(set));
        last.extend(go.into_iter().map(set));
        let set = |(slot, old, new)| Op::SetPick {
            key,
            slot,
            old,
            new,
        };
        let [come, go] = differences(&entry.picks, &picks);
        first.extend(come.into_iter().map(set));
        last.extend(go.into_iter().map(set));
        let set = |(protocol, old, new)| Op::SetIdle {
            key,
            protocol,
            old,
            new,
        };
        let [come, go] = differences(&entry.times, &times);
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

    /// Time-outs come before the first service that has them, and go after the last. `present` are
    /// those that are there, with their users.
    fn idles(&mut self, present: &BTreeMap<Idle, usize>) {
        let mut users = present.clone();
        for op in self.stages.iter().flatten() {
            let Op::SetIdle {
                protocol, old, new, ..
            } = *op
            else {
                continue;
            };
            let idle = |seconds| Idle { protocol, seconds };
            if let Some(new) = new.map(idle) {
                *users.entry(new).or_default() += 1;
            }
            if let Some(users) = old.and_then(|old| users.get_mut(&idle(old))) {
                *users = users.saturating_sub(1);
            }
        }
        let [first, _, last] = &mut self.stages;
        let (used, unused): (Vec<_>, Vec<_>) = users.into_iter().partition(|(_, n)| *n > 0);
        let added = used.into_iter().map(|(idle, _)| idle);
        let added = added.filter(|idle| !present.contains_key(idle));
        // Before what needs them, should the stage not fit into one transaction.
        first.splice(0..0, added.map(Op::AddIdle));
        last.extend(unused.into_iter().map(|(idle, _)| Op::RemoveIdle(idle)));
    }

    /// How many changes.
    pub(crate) fn ops(&self) -> usize {
        self.stages.iter().map(Vec::len).sum()
    }
}

/// A slot or protocol, with what it has and what it has to have.
type Difference<K, T> = (K, Option<T>, Option<T>);

/// What has to be set, and what has to go after that.
fn differences<K: Copy + Ord, T: Copy + PartialEq>(
    present: &BTreeMap<K, T>,
    wanted: &BTreeMap<K, T>,
) -> [Vec<Difference<K, T>>; 2] {
    let come = wanted.iter().filter_map(|(slot, new)| {
        let old = present.get(slot).copied();
        (old != Some(*new)).then_some((*slot, old, Some(*new)))
    });
    let go = present
        .iter()
        .filter(|(slot, _)| !wanted.contains_key(slot));
    let go = go.map(|(slot, old)| (*slot, Some(*old), None));
    [come.collect(), go.collect()]
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
            Op::AddIdle(idle) => {
                self.idles.insert(idle, 0);
            }
            Op::RemoveIdle(idle) => {
                self.idles.remove(&idle);
            }
            Op::SetIdle {
                key,
                protocol,
                old,
                new,
            } => {
                let times = &mut self.services.entry(key).or_default().times;
                match new {
                    Some(seconds) => times.insert(protocol, seconds),
                    None => times.remove(&protocol),
                };
                let idle = |seconds| Idle { protocol, seconds };
                if let Some(users) = old.and_then(|old| self.idles.get_mut(&idle(old))) {
                    *users = users.saturating_sub(1);
                }
                if let Some(new) = new {
                    *self.idles.entry(idle(new)).or_default() += 1;
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
