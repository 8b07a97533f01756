//! Classes of services: the number of slots is a constant of a rule, so that services with as many
//! of them, chosen in the same way, share a chain.

mod name;

pub(crate) use name::PLACES;

use std::num::NonZeroU32;

use crate::spec::{Address, Family, Ports, ServiceKey};

/// How a number below the number of slots is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pick {
    /// At random.
    Random,
    /// By counting.
    RoundRobin,
    /// From the source address.
    Source,
    /// From source address and port.
    Flow,
}

/// What the services of a class are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A port of a service address.
    Port,
    /// A service address.
    Address,
    /// A port of all local addresses.
    Local,
}

/// Services whose clients keep their backends for the same time share chains for that, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Affinity {
    pub(crate) family: Family,
    pub(crate) place: Place,
    pub(crate) seconds: NonZeroU32,
}

/// What services that share a chain have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// No backend takes flows: they are refused.
    #[default]
    Empty,
    /// Some do.
    Slots {
        family: Family,
        place: Place,
        pick: Pick,
        slots: u16,
        /// For how many seconds a client keeps its backend.
        affinity: Option<NonZeroU32>,
        /// A count is of a rule, so that services that count do not share one: each has an instance
        /// of such a class for itself. Always 0 of the others. The last field, for instances of a
        /// class to be side by side in order.
        instance: u32,
    },
}

impl Place {
    fn of(key: &ServiceKey) -> Self {
        match (key.address, key.ports) {
            (Address::Local(_), _) => Self::Local,
            (Address::Vip(_), Ports::All) => Self::Address,
            (Address::Vip(_), Ports::One(..)) => Self::Port,
        }
    }
}

impl Class {
    /// Classes that have their chains whether a service is in them or not.
    pub(crate) const PERMANENT: [Self; 1] = [Self::Empty];

    pub(crate) fn is_permanent(self) -> bool {
        Self::PERMANENT.contains(&self)
    }

    /// The class of a service with that many slots, or its first instance.
    pub(crate) fn new(
        key: &ServiceKey,
        pick: Pick,
        slots: usize,
        affinity: Option<NonZeroU32>,
    ) -> Self {
        match u16::try_from(slots) {
            Ok(slots) if slots > 0 => Self::Slots {
                family: key.family(),
                place: Place::of(key),
                pick,
                slots,
                affinity,
                instance: 0,
            },
            _ => Self::Empty,
        }
    }

    /// How many slots a service of the class has.
    pub(crate) fn slots(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Slots { slots, .. } => u32::from(slots),
        }
    }

    pub(crate) fn affinity(self) -> Option<Affinity> {
        let Self::Slots {
            family,
            place,
            affinity: Some(seconds),
            ..
        } = self
        else {
            return None;
        };
        Some(Affinity {
            family,
            place,
            seconds,
        })
    }

    /// Whether at most one service at a time may use its chain.
    pub(crate) fn is_exclusive(self) -> bool {
        matches!(
            self,
            Self::Slots {
                pick: Pick::RoundRobin,
                ..
            }
        )
    }

    /// The class of the same slots chosen by chance, which services share.
    pub(crate) fn by_chance(mut self) -> Self {
        if let Self::Slots { pick, .. } = &mut self {
            *pick = Pick::Random;
        }
        self.with_instance(0)
    }

    /// Another instance of the class.
    pub(crate) fn with_instance(mut self, number: u32) -> Self {
        if let Self::Slots { instance, .. } = &mut self {
            *instance = number;
        }
        self
    }

    pub(crate) fn instance(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Slots { instance, .. } => instance,
        }
    }
}
