//! From what the process does to what it should do.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::RelaySpec;

/// What connections are for: those through one listener to one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The listener's address.
    pub listener: SocketAddr,
    /// The backend's.
    pub backend: SocketAddr,
    /// The backend's [tag](super::Member::tag).
    pub tag: u64,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Listeners to close. Before others are opened, which may want their ports.
    pub close: Vec<SocketAddr>,
    /// Listeners to open.
    pub open: Vec<SocketAddr>,
    /// Connections to reset, because their backend or their listener is no more.
    pub reset: Vec<Use>,
}

/// Compares what is wanted with what there is: sockets that listen, and uses with connections.
pub fn plan(wanted: &RelaySpec, listening: &BTreeSet<SocketAddr>, used: &BTreeSet<Use>) -> Plan {
    let is_wanted = |used: &Use| {
        let listener = wanted.get(&used.listener);
        let member = listener.and_then(|listener| listener.backends.get(&used.backend));
        member.is_some_and(|member| member.tag == used.tag)
    };
    let gone = listening.iter().filter(|at| !wanted.contains_key(at));
    let new = wanted.keys().filter(|at| !listening.contains(at));
    Plan {
        close: gone.copied().collect(),
        open: new.copied().collect(),
        reset: used
            .iter()
            .filter(|used| !is_wanted(used))
            .copied()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Listener, Member, Scheduler};
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn listener(backends: &[(u16, u64)]) -> Listener {
        let member = |tag| Member { weight: 0, tag };
        Listener {
            scheduler: Scheduler::RoundRobin,
            affinity_s: None,
            mss: None,
            backends: backends
                .iter()
                .map(|(b, tag)| (at(*b), member(*tag)))
                .collect(),
        }
    }

    fn used(listener: u16, backend: u16, tag: u64) -> Use {
        Use {
            listener: at(listener),
            backend: at(backend),
            tag,
        }
    }

    #[test]
    fn connections_to_who_is_gone_or_another_are_reset() {
        let wanted = [
            (at(1), listener(&[(10, 1), (11, 2)])),
            (at(2), listener(&[])),
        ]
        .into();
        let there = [
            used(1, 10, 1),
            used(1, 11, 9),
            used(1, 12, 1),
            used(3, 10, 1),
        ]
        .into();
        let plan = plan(&wanted, &[at(1), at(3)].into(), &there);
        assert_eq!((plan.close, plan.open), (vec![at(3)], vec![at(2)]));
        assert_eq!(plan.reset, [used(1, 11, 9), used(1, 12, 1), used(3, 10, 1)]);
    }

    proptest! {
        #[test]
        fn what_was_done_needs_nothing_more(
            wanted in prop::collection::btree_map(
                1u16..9, prop::collection::btree_map(1u16..9, 0u64..3, 0..4), 0..6),
            listening in prop::collection::btree_set(1u16..9, 0..6),
            there in prop::collection::btree_set((1u16..9, 1u16..9, 0u64..3), 0..20),
        ) {
            let spec: RelaySpec = wanted.iter().map(|(port, backends)| {
                let backends: Vec<_> = backends.iter().map(|(b, tag)| (*b, *tag)).collect();
                (at(*port), listener(&backends))
            }).collect();
            let mut listening: BTreeSet<_> = listening.into_iter().map(at).collect();
            let mut there: BTreeSet<_> =
                there.into_iter().map(|(l, b, tag)| used(l, b, tag)).collect();
            let made = plan(&spec, &listening, &there);
            listening.retain(|at| !made.close.contains(at));
            listening.extend(made.open);
            there.retain(|used| !made.reset.contains(used));
            prop_assert!(listening.iter().eq(spec.keys()));
            prop_assert_eq!(plan(&spec, &listening, &there), Plan::default());
        }
    }
}
