//! Names of classes: those of their chains, from which they are read back.

use std::fmt;
use std::str::FromStr;

use super::{Affinity, Class, Pick, Place};
use crate::hash;
use crate::spec::Family;

/// The chain of services that refuse.
const REFUSE: &str = "refuse";
/// Ends a time.
const SECONDS: char = 's';
const PICKS: [(Pick, &str); 4] = [
    (Pick::Random, "random"),
    (Pick::RoundRobin, "rr"),
    (Pick::Source, "source"),
    (Pick::Flow, "flow"),
];
/// In the order in which a packet is looked for at them.
pub(crate) const PLACES: [(Place, Family, &str); 6] = [
    (Place::Port, Family::V4, "vip4"),
    (Place::Port, Family::V6, "vip6"),
    (Place::Address, Family::V4, "all4"),
    (Place::Address, Family::V6, "all6"),
    (Place::Local, Family::V4, "local4"),
    (Place::Local, Family::V6, "local6"),
];

impl Place {
    pub(crate) fn word(self, family: Family) -> &'static str {
        let mut places = PLACES.iter();
        let place = places.find(|(p, f, _)| (*p, *f) == (self, family));
        place.map_or("", |(_, _, word)| *word)
    }
}

impl Class {
    /// The number that it has in the maps unless another class has that already. A hash, so that
    /// a number hardly ever comes to mean another class.
    pub(crate) fn first_number(self) -> u32 {
        let [.., a, b, c, d] = hash::of_bytes(self.to_string().into_bytes()).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn parse(name: &str) -> Option<Self> {
        if name == REFUSE {
            return Some(Self::Empty);
        }
        let mut words = name.split('-');
        let pick = words.next()?;
        let (pick, _) = *PICKS.iter().find(|(_, word)| *word == pick)?;
        let place = words.next()?;
        let (place, family, _) = *PLACES.iter().find(|(_, _, word)| *word == place)?;
        let slots = words.next()?.parse().ok().filter(|slots| *slots > 0)?;
        let mut words = words.peekable();
        let affinity = words
            .next_if(|word| word.ends_with(SECONDS))
            .and_then(|word| word.strip_suffix(SECONDS)?.parse().ok());
        let mut class = Self::Slots {
            family,
            place,
            pick,
            slots,
            affinity,
            instance: 0,
        };
        if class.is_exclusive() {
            class = class.with_instance(words.next()?.parse().ok()?);
        }
        words.next().is_none().then_some(class)
    }
}

/// No name of a class's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoClass;

impl FromStr for Class {
    type Err = NoClass;

    fn from_str(name: &str) -> Result<Self, NoClass> {
        // A number may be written in several ways, and only one of them is the name.
        Self::parse(name)
            .filter(|class| class.to_string() == name)
            .ok_or(NoClass)
    }
}

impl Affinity {
    /// The chain that leads a client to the backend that it has; it comes back from there if it has
    /// none.
    pub(crate) fn keep(self) -> String {
        self.chain("keep")
    }

    /// The chain that goes on there with the backend's number.
    pub(crate) fn kept(self) -> String {
        self.chain("kept")
    }

    /// The chain that keeps the backend whose slot was picked.
    pub(crate) fn learn(self) -> String {
        self.chain("learn")
    }

    fn chain(self, what: &str) -> String {
        let place = self.place.word(self.family);
        format!("{what}-{place}-{}{SECONDS}", self.seconds)
    }
}

/// The chain's name.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Slots {
            family,
            place,
            pick,
            slots,
            affinity,
            instance,
        } = self
        else {
            return f.write_str(REFUSE);
        };
        let picks = PICKS.iter().filter(|(p, _)| p == pick);
        let pick = picks.map(|(_, word)| word).next().unwrap_or(&"");
        let places = PLACES.iter().filter(|(p, f, _)| (p, f) == (place, family));
        let place = places.map(|(_, _, word)| word).next().unwrap_or(&"");
        write!(f, "{pick}-{place}-{slots}")?;
        if let Some(seconds) = affinity {
            write!(f, "-{seconds}{SECONDS}")?;
        }
        if self.is_exclusive() {
            write!(f, "-{instance}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;

    use super::*;
    use crate::testing::{all_ports, key, local};

    #[test]
    fn a_class_is_known_by_its_name() {
        let mut names = BTreeSet::new();
        for (pick, _) in PICKS {
            for vip in ["10.0.0.1", "2001:db8::1"] {
                for slots in [1, 3, 16_381] {
                    for key in [key(vip, 80), all_ports(vip), local(vip, 80)] {
                        for seconds in [0, 1, 3600] {
                            let affinity = NonZeroU32::new(seconds);
                            let class = Class::new(&key, pick, slots, affinity);
                            assert_eq!(class.to_string().parse(), Ok(class));
                            assert!(names.insert(class.to_string()), "{class}");
                        }
                    }
                }
            }
        }
        assert_eq!("refuse".parse(), Ok(Class::Empty));
        let class = Class::new(&key("2001:db8::1", 80), Pick::Random, 3, None);
        assert_eq!(class.to_string(), "random-vip6-3");
        let class = Class::new(
            &key("10.0.0.1", 80),
            Pick::RoundRobin,
            3,
            NonZeroU32::new(60),
        );
        assert_eq!(class.with_instance(7).to_string(), "rr-vip4-3-60s-7");
    }

    #[test]
    fn names_of_no_class_are_refused() {
        for name in [
            "",
            "foreign",
            "random-vip4",
            "random-vip4-0",
            "random-vip4-03",
            "random-vip4-3-1",
            "random-vip4-65536",
            "rr-vip4-3",
            "rr-vip4-3-60s",
            "random-vip4-3-0s",
            "random-vip4-3-60",
            "random-vip4-3-s",
            "rr-vip4-3-x",
            "rr-vip5-3-1",
            "refuse-",
        ] {
            assert_eq!(name.parse::<Class>(), Err(NoClass), "{name}");
        }
    }
}
