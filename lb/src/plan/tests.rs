use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use weft_netns::nft::{MapData, MapElement, Verdict};

use super::*;
use crate::chains::{self, Part};
use crate::class::Pick;
use crate::classes::{CHAINS_MAX, Classes};
use crate::idle::Tracking;
use crate::layout::{self, Map};
use crate::observed::Raw;
use crate::spec::{Address, Family, MaglevSize, Ports, Protocol, Scheduler};
use crate::testing::{backend, key, port, service};
use crate::transaction::Transaction;

const TABLE: &str = "weft-lb";
const TRACKING: Tracking = Tracking {
    possible: true,
    lowered: false,
};

/// The maps and chains of a kernel's table, which refuses what the kernel would refuse.
#[derive(Clone)]
struct Kernel {
    chains: BTreeSet<Part>,
    idles: BTreeSet<Idle>,
    maps: BTreeMap<Map, BTreeMap<Vec<u8>, MapData>>,
}

impl Kernel {
    fn new() -> Self {
        let mut maps: BTreeMap<_, BTreeMap<_, _>> =
            Map::ALL.map(|map| (map, BTreeMap::new())).into();
        let permanent = Classes::default();
        let permanent = permanent.numbered().map(layout::class_element);
        let permanent = permanent.map(|element| (element.key, element.data));
        maps.insert(Map::Classes, permanent.collect());
        Self {
            chains: BTreeSet::new(),
            idles: BTreeSet::new(),
            maps,
        }
    }

    fn commit(&mut self, transaction: &Transaction) {
        for idle in &transaction.add_idles {
            assert!(self.idles.insert(*idle), "{idle} is there");
        }
        for part in &transaction.add_chains {
            assert!(self.chains.insert(*part), "{part:?} is there");
            if let Part::Class(class) = part {
                let affinity = class.affinity().map(Part::Affinity);
                assert!(affinity.is_none_or(|part| self.chains.contains(&part)));
            }
        }
        for (map, keys) in &transaction.delete {
            for key in keys {
                let old = self.maps.entry(*map).or_default().remove(key);
                assert!(old.is_some(), "no such element of {map:?}");
            }
        }
        for (map, elements) in &transaction.add {
            for element in elements {
                let (key, data) = (element.key.clone(), element.data.clone());
                let old = self.maps.entry(*map).or_default().insert(key, data);
                assert!(old.is_none(), "an element of {map:?} is there");
                if let MapData::Object(name) = &element.data {
                    let idle = name.parse().expect("a time-out");
                    assert!(self.idles.contains(&idle), "no {idle}");
                }
            }
        }
        for part in &transaction.delete_chains {
            assert!(self.chains.remove(part), "no {part:?}");
            let in_use = match part {
                Part::Class(class) => {
                    let goto = MapData::Verdict(Verdict::Goto(class.to_string()));
                    self.maps[&Map::Classes].values().any(|data| *data == goto)
                }
                Part::Affinity(affinity) => self.chains.iter().any(|part| match part {
                    Part::Class(class) => class.affinity() == Some(*affinity),
                    Part::Affinity(_) => false,
                }),
            };
            assert!(!in_use, "{part:?} in use");
        }
        for idle in &transaction.delete_idles {
            assert!(self.idles.remove(idle), "no {idle}");
            let object = MapData::Object(idle.to_string());
            let mut elements = self.maps.values().flat_map(BTreeMap::values);
            assert!(!elements.any(|data| *data == object), "{idle} in use");
        }
    }

    fn read(&self) -> Observed {
        let elements = self.maps.iter().map(|(map, elements)| {
            let elements = elements.iter().map(|(key, data)| MapElement {
                key: key.clone(),
                data: data.clone(),
            });
            (*map, elements.collect())
        });
        let parts = self.chains.iter();
        let raw = Raw {
            chains: chains::chains(TABLE)
                .into_iter()
                .chain(parts.clone().flat_map(|part| part.chains(TABLE)))
                .collect(),
            maps: Map::ALL.map(|map| map.object(TABLE)).to_vec(),
            rules: chains::rules(TABLE)
                .into_iter()
                .chain(parts.flat_map(|part| part.rules(TABLE)))
                .collect(),
            elements: elements.collect(),
            timeouts: { self.idles.iter() }
                .map(|idle| idle.object(TABLE))
                .collect(),
        };
        Observed::read(TABLE, &raw).expect("a table of the right shape")
    }

    /// Every slot that a packet which read its class from `earlier` may ask for is here.
    fn serves_readers_of(&self, earlier: &Observed) {
        let now = self.read();
        for (key, entry) in &earlier.services {
            let Some(class) = entry.class else {
                continue;
            };
            for slot in 0..class.slots() {
                let entry = now.services.get(key).expect("a service that was there");
                let number = match class.affinity() {
                    None => Some(&slot),
                    Some(_) => entry.picks.get(&slot),
                };
                let found = number.is_some_and(|number| entry.backends.contains_key(number));
                assert!(found, "{key} misses slot {slot}");
            }
        }
    }

    /// Commits stage by stage, and checks what packets between the stages meet.
    fn carry_out(&mut self, plan: &Plan) -> Vec<Kernel> {
        let mut states = vec![self.clone()];
        for (index, stage) in plan.stages.iter().enumerate() {
            let before = self.read();
            self.commit(&Transaction::new(stage));
            // The last stage is committed when no packet remembers the classes of before.
            if index < 2 {
                self.serves_readers_of(&before);
            }
            self.serves_readers_of(&self.read());
            states.push(self.clone());
        }
        states
    }
}

fn reconcile(kernel: &mut Kernel, spec: &Spec) -> Plan {
    let plan = Plan::full(spec, &kernel.read(), TRACKING);
    kernel.carry_out(&plan);
    assert_eq!(Plan::full(spec, &kernel.read(), TRACKING), Plan::default());
    plan
}

fn of_random(backends: &[(&str, u16, u16)]) -> Spec {
    let service = service(Scheduler::Random, backends);
    [(key("10.0.9.9", 80), service)].into()
}

#[test]
fn a_backend_that_goes_or_comes_is_a_few_changes() {
    let mut kernel = Kernel::new();
    let all: Vec<_> = (1..=50).map(|port| ("10.0.0.2", port, 1)).collect();
    // Services in the classes before and after, so that no chain comes or goes.
    let mut spec: Spec = of_random(&all);
    for (number, count) in [(81, 49), (82, 50)] {
        let other = service(Scheduler::Random, &all[..count]);
        spec.insert(key("10.0.9.9", number), other);
    }
    reconcile(&mut kernel, &spec);
    let mut less = spec.clone();
    let service = less.get_mut(&key("10.0.9.9", 80)).unwrap();
    service.backends.remove(&backend("10.0.0.2", 7));
    // The last slot into the freed one, the class, the last slot.
    let plan = reconcile(&mut kernel, &less);
    assert_eq!(plan.stages.each_ref().map(Vec::len), [1, 1, 1]);
    // A new last slot, the class.
    let plan = reconcile(&mut kernel, &spec);
    assert_eq!(plan.stages.each_ref().map(Vec::len), [1, 1, 0]);
}

#[test]
fn a_drained_backend_has_no_slot_and_the_last_one_leaves_a_service_that_refuses() {
    let mut kernel = Kernel::new();
    reconcile(
        &mut kernel,
        &of_random(&[("10.0.0.2", 80, 1), ("10.0.0.3", 80, 0)]),
    );
    let observed = kernel.read();
    let entry = &observed.services[&key("10.0.9.9", 80)];
    assert_eq!(entry.backends, [(0, backend("10.0.0.2", 80))].into());
    reconcile(&mut kernel, &of_random(&[("10.0.0.2", 80, 0)]));
    let observed = kernel.read();
    assert_eq!(
        observed.services[&key("10.0.9.9", 80)].class,
        Some(Class::Empty)
    );
    // As many unused chains are kept as there are services.
    let unused = observed.classes.all().filter(|class| !class.is_permanent());
    assert_eq!(unused.count(), 1);
}

fn class_of(kernel: &Kernel, key: &ServiceKey) -> Class {
    kernel.read().services[key].class.unwrap()
}

#[test]
fn services_that_take_turns_share_no_chain_and_find_theirs_again() {
    let mut kernel = Kernel::new();
    let keys = [80, 81, 82].map(|port| key("10.0.9.9", port));
    let hosts: Vec<_> = (1..=4).map(|port| ("10.0.0.2", port, 1)).collect();
    let of = |count| service(Scheduler::RoundRobin, &hosts[..count]);
    let spec: Spec = keys.map(|key| (key, of(3))).into();
    reconcile(&mut kernel, &spec);
    let classes = keys.map(|key| class_of(&kernel, &key));
    assert_eq!(classes.map(Class::instance), [0, 1, 2]);
    let change = |kernel: &mut Kernel, index: usize, count| {
        let changes = [(keys[index], Some(of(count)))].into();
        let plan = Plan::partial(&changes, &kernel.read(), TRACKING);
        kernel.carry_out(&plan);
        plan.stages.map(|stage| stage.len())
    };
    // A slot and a chain, the class.
    assert_eq!(change(&mut kernel, 1, 4), [2, 1, 0]);
    assert_eq!(class_of(&kernel, &keys[1]).instance(), 0);
    // The class, the last slot: the service comes back to the chain that nobody took.
    assert_eq!(change(&mut kernel, 1, 3), [0, 1, 1]);
    assert_eq!(class_of(&kernel, &keys[1]), classes[1]);
    // Another takes the chain that the first left.
    assert_eq!(change(&mut kernel, 0, 4), [1, 1, 0]);
    assert_eq!(class_of(&kernel, &keys[0]).instance(), 0);
}

#[test]
fn services_beyond_the_most_chains_choose_by_chance_and_stay() {
    let mut kernel = Kernel::new();
    let hosts: Vec<_> = (1..=3).map(|port| ("10.0.0.2", port, 1)).collect();
    let of = |count| service(Scheduler::RoundRobin, &hosts[..count]);
    let keys = || (1..=400).map(|port| key("10.0.9.9", port));
    let spec: Spec = keys().map(|key| (key, of(3))).collect();
    reconcile(&mut kernel, &spec);
    let alone = |kernel: &Kernel| {
        let services = kernel.read().services;
        let classes = services.values().filter_map(|entry| entry.class);
        classes.filter(|class| class.is_exclusive()).count()
    };
    assert_eq!(alone(&kernel), CHAINS_MAX - Class::PERMANENT.len());
    assert!(
        Plan::full(&spec, &kernel.read(), TRACKING)
            .stages
            .iter()
            .all(Vec::is_empty)
    );
    // One that leaves its chain makes room for another; with a single backend none needs one.
    let changes = [
        (key("10.0.9.9", 1), Some(of(1))),
        (key("10.0.9.9", 400), None),
    ];
    let plan = Plan::partial(&changes.into(), &kernel.read(), TRACKING);
    kernel.carry_out(&plan);
    assert_eq!(alone(&kernel), CHAINS_MAX - Class::PERMANENT.len() - 1);
    assert!(!class_of(&kernel, &key("10.0.9.9", 1)).is_exclusive());
    let plan = Plan::full(&spec, &kernel.read(), TRACKING);
    kernel.carry_out(&plan);
    assert_eq!(alone(&kernel), CHAINS_MAX - Class::PERMANENT.len());
}

#[test]
fn a_backend_keeps_its_number_whatever_happens_to_others() {
    let mut kernel = Kernel::new();
    let hosts: Vec<_> = (1..=9).map(|port| ("10.0.0.2", port, 1)).collect();
    let spec = |hosts: &[_]| -> Spec {
        let mut service = service(Scheduler::RoundRobin, hosts);
        service.affinity = Some(Duration::from_secs(60));
        [(key("10.0.9.9", 80), service)].into()
    };
    let numbers = |kernel: &Kernel| -> BTreeMap<Backend, u32> {
        let entry = &kernel.read().services[&key("10.0.9.9", 80)];
        let backends = entry.backends.iter().map(|(number, b)| (*b, *number));
        backends.collect()
    };
    reconcile(&mut kernel, &spec(&hosts));
    let all = numbers(&kernel);
    assert_eq!(all.len(), 9);
    let mut drained = hosts.clone();
    drained[2].2 = 0;
    let mut without = all.clone();
    without.remove(&backend("10.0.0.2", 3));
    // The last slot's pick into the freed slot, a class; the class; the last slot and the backend.
    let plan = reconcile(&mut kernel, &spec(&drained));
    assert_eq!(plan.stages.map(|stage| stage.len()), [2, 1, 2]);
    assert_eq!(numbers(&kernel), without);
    reconcile(&mut kernel, &spec(&hosts));
    assert_eq!(numbers(&kernel), all);
    reconcile(&mut kernel, &Spec::new());
    assert_eq!(kernel.read(), Observed::default());
}

#[test]
fn a_time_out_is_one_object_for_all_services_that_have_it() {
    let mut kernel = Kernel::new();
    let spec = |times: [Option<u64>; 2]| -> Spec {
        let of = |(port, time): (u16, Option<u64>)| {
            let mut service = service(Scheduler::Random, &[("10.0.0.2", 80, 1)]);
            service.idle = time.map(Duration::from_secs);
            (key("10.0.9.9", port), service)
        };
        [80, 81].into_iter().zip(times).map(of).collect()
    };
    let idles = |kernel: &Kernel| -> Vec<String> {
        let idles = kernel.idles.iter();
        idles.map(ToString::to_string).collect()
    };
    reconcile(&mut kernel, &spec([None, None]));
    // The object and the element, and then only an element.
    let plan = reconcile(&mut kernel, &spec([Some(60), None]));
    assert_eq!(plan.stages.map(|stage| stage.len()), [2, 0, 0]);
    let plan = reconcile(&mut kernel, &spec([Some(60), Some(60)]));
    assert_eq!(plan.stages.map(|stage| stage.len()), [1, 0, 0]);
    assert_eq!(idles(&kernel), ["tcp-60s"]);
    let plan = reconcile(&mut kernel, &spec([Some(90), None]));
    assert_eq!(plan.stages.map(|stage| stage.len()), [2, 0, 2]);
    assert_eq!(idles(&kernel), ["tcp-90s"]);
    reconcile(&mut kernel, &spec([None, None]));
    assert_eq!(idles(&kernel), [""; 0]);
}

#[test]
fn few_chains_are_kept_that_nobody_uses() {
    let mut kernel = Kernel::new();
    let backends: Vec<_> = (1..=100).map(|port| ("10.0.0.2", port, 1)).collect();
    for count in 1..=100 {
        reconcile(&mut kernel, &of_random(&backends[..count]));
    }
    let all = kernel.read().classes.all().count();
    assert_eq!(all, Class::PERMANENT.len() + 1 + 1);
}

#[test]
fn an_empty_spec_leaves_nothing() {
    let mut kernel = Kernel::new();
    reconcile(&mut kernel, &of_random(&[("10.0.0.2", 80, 1)]));
    reconcile(&mut kernel, &Spec::new());
    assert_eq!(kernel.read(), Observed::default());
}

#[test]
fn a_table_of_another_shape_is_not_read() {
    let mut raw = Raw {
        chains: chains::chains(TABLE),
        maps: Map::ALL.map(|map| map.object(TABLE)).to_vec(),
        rules: chains::rules(TABLE),
        elements: Map::ALL.map(|map| (map, Vec::new())).into(),
        timeouts: Vec::new(),
    };
    let permanent = Classes::default();
    let permanent = permanent.numbered().map(layout::class_element).collect();
    raw.elements.insert(Map::Classes, permanent);
    assert_eq!(Observed::read(TABLE, &raw), Some(Observed::default()));
    let mut ruleless = raw.clone();
    ruleless.rules.pop();
    let mut disordered = raw.clone();
    let last = disordered.rules.len() - 1;
    disordered.rules.swap(last - 2, last - 3);
    let mut mapless = raw.clone();
    mapless.maps.pop();
    let mut chained = raw.clone();
    let class = Class::new(&key("10.0.9.9", 80), Pick::Random, 2, None);
    chained.chains.extend(Part::Class(class).chains(TABLE));
    let mut odd = raw.clone();
    let element = MapElement {
        key: vec![0; 12],
        data: MapData::Value(vec![0; 4]),
    };
    odd.elements
        .insert(Map::Services(Family::V4), vec![element]);
    let mut timed = raw.clone();
    let idle: Idle = "tcp-300s".parse().unwrap();
    timed.timeouts.push(idle.object("weft-lb"));
    assert!(Observed::read(TABLE, &timed).is_some());
    timed.timeouts[0].states[0].1 = 299;
    for raw in [
        ruleless,
        disordered,
        mapless,
        chained,
        odd,
        timed,
        Raw::default(),
    ] {
        assert_eq!(Observed::read(TABLE, &raw), None);
    }
}

fn any_key() -> impl Strategy<Value = ServiceKey> {
    let addresses = vec![
        Address::Vip("10.0.9.1".parse().unwrap()),
        Address::Vip("2001:db8::9".parse().unwrap()),
        Address::Local(Family::V4),
        Address::Local(Family::V6),
    ];
    let one = |protocol, number| Ports::One(protocol, port(number));
    let ports = vec![
        Ports::All,
        one(Protocol::Tcp, 1),
        one(Protocol::Tcp, 2),
        one(Protocol::Udp, 1),
    ];
    let key = (prop::sample::select(addresses), prop::sample::select(ports));
    let good = |(address, ports): &(Address, Ports)| {
        *ports != Ports::All || matches!(address, Address::Vip(_))
    };
    key.prop_filter("a service of all ports has an address", good)
        .prop_map(|(address, ports)| ServiceKey { address, ports })
}

type AnyService = (Scheduler, [Option<Duration>; 2], BTreeMap<u8, u16>);

fn any_service() -> impl Strategy<Value = AnyService> {
    let scheduler = prop_oneof![
        3 => Just(Scheduler::RoundRobin),
        3 => Just(Scheduler::WeightedRoundRobin),
        4 => Just(Scheduler::Random),
        3 => Just(Scheduler::SourceHash),
        1 => Just(Scheduler::Maglev(MaglevSize::Small)),
    ];
    let weight = prop_oneof![1 => Just(0u16), 4 => Just(1), 2 => 1u16..10];
    let backends = prop::collection::btree_map(2u8..12, weight, 0..8);
    let time = prop_oneof![2 => Just(None), 1 => (1u64..3).prop_map(Some)];
    let time = time.prop_map(|seconds| seconds.map(Duration::from_secs));
    (scheduler, [time.clone(), time], backends)
}

fn any_spec() -> impl Strategy<Value = Spec> {
    prop::collection::btree_map(any_key(), any_service(), 0..8).prop_map(|services| {
        let build = |(key, (scheduler, [affinity, idle], backends)): (ServiceKey, AnyService)| {
            let prefix = match key.family() {
                Family::V4 => "10.0.0.",
                Family::V6 => "2001:db8::",
            };
            let port = if key.ports == Ports::All { 0 } else { 80 };
            let backends = backends
                .into_iter()
                .map(|(host, weight)| (backend(&format!("{prefix}{host}"), port), weight))
                .collect();
            let service = Service {
                scheduler,
                affinity,
                idle,
                backends,
            };
            (key, service)
        };
        services.into_iter().map(build).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn plans_lead_to_the_spec_and_no_packet_meets_a_missing_slot(
        specs in prop::collection::vec(any_spec(), 1..5),
    ) {
        let mut kernel = Kernel::new();
        for spec in &specs {
            reconcile(&mut kernel, spec);
            let observed = kernel.read();
            prop_assert!(observed.services.keys().eq(spec.keys()));
            let classes = observed.services.values().filter_map(|entry| entry.class);
            let mut exclusive: Vec<Class> = classes.filter(|c| c.is_exclusive()).collect();
            let count = exclusive.len();
            exclusive.sort();
            exclusive.dedup();
            prop_assert_eq!(exclusive.len(), count);
            for (key, service) in spec {
                let found: BTreeSet<_> = observed.services[key].backends.values().copied().collect();
                let wanted: BTreeSet<_> = service.active().map(|(backend, _)| backend).collect();
                prop_assert_eq!(found, wanted);
                prop_assert_eq!(&observed.services[key].times, &TRACKING.times(key, service));
            }
        }
    }

    #[test]
    fn a_plan_given_up_anywhere_is_finished_by_the_next(
        before in any_spec(),
        interrupted in any_spec(),
        after in any_spec(),
    ) {
        let mut kernel = Kernel::new();
        reconcile(&mut kernel, &before);
        let plan = Plan::full(&interrupted, &kernel.read(), TRACKING);
        for mut state in kernel.carry_out(&plan) {
            reconcile(&mut state, &after);
            prop_assert!(state.read().services.keys().eq(after.keys()));
        }
    }

    #[test]
    fn what_is_remembered_is_what_would_be_read(before in any_spec(), after in any_spec()) {
        let mut kernel = Kernel::new();
        reconcile(&mut kernel, &before);
        let mut remembered = kernel.read();
        let mut changes: Changes = before.keys().map(|key| (*key, None)).collect();
        changes.extend(after.iter().map(|(key, service)| (*key, Some(service.clone()))));
        let plan = Plan::partial(&changes, &remembered, TRACKING);
        prop_assert_eq!(&plan, &Plan::full(&after, &remembered, TRACKING));
        for stage in &plan.stages {
            for op in stage {
                remembered.apply(op);
            }
        }
        kernel.carry_out(&plan);
        prop_assert_eq!(remembered, kernel.read());
    }
}
