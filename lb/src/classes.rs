//! The classes that have a chain, and who uses them.

use std::collections::{BTreeMap, BTreeSet};

use crate::class::{Affinity, Class};

/// Most chains that are kept although no service uses them: one that comes back to a number of
/// slots that it had finds its chain there. At most as many as there are services, too.
pub(crate) const UNUSED_MAX: usize = 64;

/// Most chains with which services still get one for themselves. The kernel goes through all of them
/// in every transaction that adds one, a millisecond for a thousand.
pub(crate) const CHAINS_MAX: usize = 256;

/// A class with the number that stands for it in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) class: Class,
    pub(crate) number: u32,
}

/// The classes that have a chain, with their numbers and how many services are in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Classes {
    held: BTreeMap<Class, Held>,
    numbers: BTreeMap<u32, Class>,
    /// Those without a service, but for the permanent ones.
    unused: BTreeSet<Class>,
    /// How many of them each is of.
    affinities: BTreeMap<Affinity, usize>,
}

/// A class that comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turnover {
    pub(crate) class: Numbered,
    /// What comes or goes with it, for it is the first or the last that needs that.
    pub(crate) affinity: Option<Affinity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    number: u32,
    users: usize,
}

/// The permanent ones.
impl Default for Classes {
    fn default() -> Self {
        let mut classes = Self {
            held: BTreeMap::new(),
            numbers: BTreeMap::new(),
            unused: BTreeSet::new(),
            affinities: BTreeMap::new(),
        };
        for class in Class::PERMANENT {
            let number = class.first_number();
            classes.add(Numbered { class, number });
        }
        classes
    }
}

impl Classes {
    /// Those that a table says it has; none if there cannot be such a table.
    pub(crate) fn read(found: impl IntoIterator<Item = Numbered>) -> Option<Self> {
        let mut classes = Self::default();
        let mut permanent: BTreeSet<Class> = Class::PERMANENT.into();
        for numbered in found {
            if permanent.remove(&numbered.class) {
                if classes.number(numbered.class) != Some(numbered.number) {
                    return None;
                }
            } else if !classes.add(numbered) {
                return None;
            }
        }
        permanent.is_empty().then_some(classes)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Class> {
        self.held.keys().copied()
    }

    pub(crate) fn numbered(&self) -> impl Iterator<Item = Numbered> {
        let held = self.held.iter();
        held.map(|(&class, &Held { number, .. })| Numbered { class, number })
    }

    pub(crate) fn affinities(&self) -> impl Iterator<Item = Affinity> {
        self.affinities.keys().copied()
    }

    pub(crate) fn with_number(&self, number: u32) -> Option<Class> {
        self.numbers.get(&number).copied()
    }

    pub(crate) fn number(&self, class: Class) -> Option<u32> {
        self.held.get(&class).map(|held| held.number)
    }

    /// False if it or its number is there already.
    pub(crate) fn add(&mut self, Numbered { class, number }: Numbered) -> bool {
        if self.held.contains_key(&class) || self.numbers.contains_key(&number) {
            return false;
        }
        self.held.insert(class, Held { number, users: 0 });
        self.numbers.insert(number, class);
        if !class.is_permanent() {
            self.unused.insert(class);
        }
        if let Some(affinity) = class.affinity() {
            *self.affinities.entry(affinity).or_default() += 1;
        }
        true
    }

    pub(crate) fn remove(&mut self, class: Class) {
        let Some(held) = self.held.remove(&class) else {
            return;
        };
        self.numbers.remove(&held.number);
        self.unused.remove(&class);
        if let Some(affinity) = class.affinity() {
            let classes = self.affinities.entry(affinity).or_default();
            *classes = classes.saturating_sub(1);
            if *classes == 0 {
                self.affinities.remove(&affinity);
            }
        }
    }

    /// One more service is in it.
    pub(crate) fn enter(&mut self, class: Class) {
        if let Some(held) = self.held.get_mut(&class) {
            held.users += 1;
            self.unused.remove(&class);
        }
    }

    /// One less is.
    pub(crate) fn leave(&mut self, class: Class) {
        if let Some(held) = self.held.get_mut(&class) {
            held.users = held.users.saturating_sub(1);
            if held.users == 0 && !class.is_permanent() {
                self.unused.insert(class);
            }
        }
    }

    fn users(&self, class: Class) -> usize {
        self.held.get(&class).map_or(0, |held| held.users)
    }
}

/// Who uses the classes after a change. Takes time in proportion to the change.
pub(crate) struct Draft<'a> {
    present: &'a Classes,
    users: BTreeMap<Class, usize>,
    added: BTreeMap<Class, u32>,
    numbers: BTreeSet<u32>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(present: &'a Classes) -> Self {
        Self {
            present,
            users: BTreeMap::new(),
            added: BTreeMap::new(),
            numbers: BTreeSet::new(),
        }
    }

    /// Moves a service to a class, or to an instance of it that no other service has: the one that
    /// it is in, or one that nobody has been in before the change, or a new one. Where there are too
    /// many for that it chooses by chance: a count that services share would give each of them some
    /// of its backends only, if they are asked in turns.
    pub(crate) fn move_to(
        &mut self,
        old: Option<Class>,
        wanted: Option<Class>,
    ) -> Option<Numbered> {
        let new = wanted.map(|class| match old {
            Some(old) if class.with_instance(old.instance()) == old => old,
            _ if class.is_exclusive() => self.instance(class).unwrap_or(class.by_chance()),
            _ => class,
        });
        if new != old {
            if let Some(old) = old {
                let users = self.users(old);
                self.users.insert(old, users.saturating_sub(1));
            }
            if let Some(new) = new {
                let users = self.users(new);
                self.users.insert(new, users + 1);
            }
        }
        new.map(|class| {
            let number = self.number(class);
            Numbered { class, number }
        })
    }

    /// The classes that come.
    pub(crate) fn added(&self) -> Vec<Turnover> {
        let mut there: BTreeSet<Affinity> = BTreeSet::new();
        let is_new = |affinity: &Affinity| !self.present.affinities.contains_key(affinity);
        let added = self.added.iter().map(|(&class, &number)| Turnover {
            class: Numbered { class, number },
            affinity: class.affinity().filter(is_new).filter(|a| there.insert(*a)),
        });
        added.collect()
    }

    /// The classes that go: those without a service, as far as they are more than are kept, and
    /// first of all those that had none before. `services` is how many there are then.
    pub(crate) fn removed(&self, services: usize) -> Vec<Turnover> {
        let still = |class: &&Class| !self.users.contains_key(class);
        let before = self.present.unused.iter().filter(still);
        let left = self.users.iter().filter(|(_, users)| **users == 0);
        let left = left.map(|(class, _)| class);
        let unused = before.chain(left.filter(|class| !class.is_permanent()));
        let kept = services.min(UNUSED_MAX);
        let count = unused.clone().count().saturating_sub(kept);
        let mut gone: BTreeMap<Affinity, usize> = BTreeMap::new();
        let mut is_last = |affinity: &Affinity| {
            let gone = gone.entry(*affinity).or_default();
            *gone += 1;
            let added = self
                .added
                .keys()
                .filter(|c| c.affinity() == Some(*affinity));
            *gone == self.present.affinities.get(affinity).unwrap_or(&0) + added.count()
        };
        let removed = unused.take(count).filter_map(|&class| {
            let number = self.present.number(class)?;
            Some(Turnover {
                class: Numbered { class, number },
                affinity: class.affinity().filter(&mut is_last),
            })
        });
        removed.collect()
    }

    fn users(&self, class: Class) -> usize {
        let changed = self.users.get(&class).copied();
        changed.unwrap_or_else(|| self.present.users(class))
    }

    fn instance(&self, class: Class) -> Option<Class> {
        let all = class.with_instance(0)..=class.with_instance(u32::MAX);
        let unused = self.present.unused.range(all.clone());
        let mut unused = unused.filter(|class| !self.users.contains_key(class));
        if let Some(unused) = unused.next() {
            return Some(*unused);
        }
        if self.present.held.len() + self.added.len() >= CHAINS_MAX {
            return None;
        }
        let present = self.present.held.range(all.clone()).next_back();
        let added = self.added.range(all).next_back();
        let last = present.map(|(c, _)| *c).max(added.map(|(c, _)| *c));
        let next = last.map_or(0, |last| last.instance().wrapping_add(1));
        let mut instances = (next..=u32::MAX).chain(0..next);
        let is_new = |number: &u32| {
            let class = class.with_instance(*number);
            !self.present.held.contains_key(&class) && !self.added.contains_key(&class)
        };
        Some(class.with_instance(instances.find(is_new).unwrap_or(next)))
    }

    /// Its number: a new one if it has none.
    fn number(&mut self, class: Class) -> u32 {
        let known = self.present.number(class);
        if let Some(number) = known.or_else(|| self.added.get(&class).copied()) {
            return number;
        }
        let is_free = |number: &u32| {
            !self.present.numbers.contains_key(number) && !self.numbers.contains(number)
        };
        let first = class.first_number();
        let number = (0..=u32::MAX)
            .map(|step| first.wrapping_add(step))
            .find(is_free)
            .unwrap_or(first);
        self.added.insert(class, number);
        self.numbers.insert(number);
        number
    }
}
