use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::command::{Command, EndpointSpec, NetworkSpec, Proposal};
use crate::model::EndpointKind;
use crate::state::State;
use crate::state::testing::{
    any_command, endpoint_spec, init_cluster, network_spec, proposal, small_cluster, subnet,
};

const WIDE: WatchLimits = WatchLimits {
    entries: 1000,
    bytes: 1 << 20,
};

fn narrow(entries: usize) -> WatchLimits {
    WatchLimits { entries, ..WIDE }
}

/// A state machine that feeds a hub.
struct Source {
    state: State,
    hub: WatchHub,
}

impl Source {
    fn new(limits: WatchLimits) -> Self {
        Self {
            state: State::new(),
            hub: WatchHub::new(View::default(), limits),
        }
    }

    /// At revision 2, with one network.
    fn with_network(limits: WatchLimits) -> Self {
        let mut source = Self::new(limits);
        source.apply(&proposal(1, Command::Init(Box::new(init_cluster()))));
        source.apply(&proposal(
            2,
            Command::CreateNetwork(Box::new(NetworkSpec {
                subnets: vec![subnet("172.16.0.0/16")],
                ..network_spec(1, "web")
            })),
        ));
        source
    }

    fn apply(&mut self, proposal: &Proposal) {
        let index = self.state.view().revision + 1;
        let (_, changes) = self.state.apply(index, proposal);
        assert!(self.hub.publish(index, changes.into()));
    }

    /// One revision with one new endpoint, whose number is the revision.
    fn endpoint(&mut self) {
        let number = self.state.view().revision + 1;
        let spec = endpoint_spec(number as u32, 1, &format!("c{number}"));
        self.apply(&proposal(number, Command::CreateEndpoint(Box::new(spec))));
        assert_eq!(self.state.view().endpoints.len() as u64, number - 2);
    }

    fn endpoints(&mut self, count: usize) {
        for _ in 0..count {
            self.endpoint();
        }
    }
}

/// What a follower is given until it has caught up: `s7` for a snapshot at revision 7, `7` for
/// changes.
fn drain(subscription: &mut Subscription, view: &mut View) -> Vec<String> {
    let mut given = Vec::new();
    while let Some(item) = subscription.try_next() {
        assert!(item.revision() > view.revision, "{item:?}");
        given.push(follow(view, &item));
    }
    given
}

fn follow(view: &mut View, item: &WatchItem) -> String {
    match item {
        WatchItem::Snapshot(new) => {
            *view = View::clone(new);
            format!("s{}", new.revision)
        }
        WatchItem::Changes { revision, changes } => {
            view.apply(*revision, changes);
            revision.to_string()
        }
    }
}

#[test]
fn a_follower_resumes_from_a_revision_by_deltas_only() {
    let mut source = Source::with_network(WIDE);
    source.endpoints(5);
    let mut view = source.hub.view().as_ref().clone();
    let mut subscription = source.hub.subscribe(view.revision);
    source.endpoints(3);
    assert_eq!(drain(&mut subscription, &mut view), ["8", "9", "10"]);
    assert_eq!(&view, source.state.view());
    assert_eq!(subscription.position(), Some(10));
}

#[test]
fn a_new_follower_gets_one_snapshot_and_then_deltas() {
    let mut source = Source::with_network(WIDE);
    source.endpoints(5);
    let mut subscription = source.hub.subscribe(None);
    let mut view = View::default();
    assert_eq!(drain(&mut subscription, &mut view), ["s7"]);
    source.endpoints(2);
    assert_eq!(drain(&mut subscription, &mut view), ["8", "9"]);
    assert_eq!(&view, source.state.view());
}

#[test]
fn one_that_is_too_far_behind_gets_one_snapshot_and_then_deltas() {
    let mut source = Source::with_network(narrow(4));
    let mut view = source.hub.view().as_ref().clone();
    let mut subscription = source.hub.subscribe(view.revision);
    source.endpoints(4);
    assert_eq!(drain(&mut subscription, &mut view), ["3", "4", "5", "6"]);
    source.endpoints(5);
    assert_eq!(drain(&mut subscription, &mut view), ["s11"]);
    source.endpoints(2);
    assert_eq!(drain(&mut subscription, &mut view), ["12", "13"]);
    assert_eq!(&view, source.state.view());
}

#[test]
fn a_revision_that_is_still_to_come_is_waited_for() {
    let mut source = Source::with_network(WIDE);
    let mut subscription = source.hub.subscribe(4);
    assert_eq!(subscription.try_next(), None);
    source.endpoints(2);
    assert_eq!(subscription.try_next(), None);
    source.endpoints(1);
    assert_eq!(subscription.try_next().map(|item| item.revision()), Some(5));
}

#[test]
fn revisions_without_changes_are_told_of_as_one_and_take_no_room() {
    let source = Source::with_network(narrow(4));
    let mut view = source.hub.view().as_ref().clone();
    let mut subscription = source.hub.subscribe(view.revision);
    for revision in 3..1000 {
        assert!(source.hub.publish(revision, Arc::default()));
    }
    assert_eq!(drain(&mut subscription, &mut view), ["999"]);
    assert_eq!(source.hub.read().ring.size().0, 2);
}

#[test]
fn what_is_reflected_already_is_ignored() {
    let source = Source::with_network(WIDE);
    let mut view = source.hub.view().as_ref().clone();
    let mut subscription = source.hub.subscribe(view.revision);
    assert!(!source.hub.publish(2, Arc::default()));
    assert!(!source.hub.reset(view.clone()));
    assert_eq!(drain(&mut subscription, &mut view), [""; 0]);
}

#[test]
fn after_an_installed_snapshot_those_behind_get_it_and_those_ahead_go_on() {
    let source = Source::with_network(WIDE);
    let mut ahead = Source::with_network(WIDE);
    ahead.endpoints(8);
    let mut view = source.hub.view().as_ref().clone();
    let mut behind = source.hub.subscribe(view.revision);
    let mut current = source.hub.subscribe(10);
    assert!(source.hub.reset(ahead.state.view().clone()));
    assert_eq!(drain(&mut behind, &mut view), ["s10"]);
    assert_eq!(current.try_next(), None);
    assert_eq!(source.hub.revision(), 10);
}

#[test]
fn another_cluster_starts_with_a_snapshot_whatever_its_revision() {
    let mut source = Source::with_network(WIDE);
    source.endpoints(5);
    let mut subscription = source.hub.subscribe(7);
    assert!(source.hub.reset(View::default()));
    let left = subscription.try_next();
    assert_eq!(left, Some(WatchItem::Snapshot(Arc::default())));
    assert_eq!(subscription.try_next(), None);
}

#[test]
fn the_ring_is_bounded_in_entries_and_in_bytes() {
    let limits = WatchLimits {
        entries: 10,
        bytes: 20_000,
    };
    let mut source = Source::with_network(limits);
    source.endpoints(50);
    let (entries, bytes) = source.hub.read().ring.size();
    assert_eq!(entries, 10);
    assert!((1000..20_000).contains(&bytes), "{bytes}");
    for number in 53..=60 {
        let spec = EndpointSpec {
            kind: EndpointKind::Run {
                command: vec!["x".repeat(9000)],
                detached: true,
            },
            ..endpoint_spec(number, 1, &format!("c{number}"))
        };
        source.apply(&proposal(
            number.into(),
            Command::CreateEndpoint(Box::new(spec)),
        ));
        let (entries, bytes) = source.hub.read().ring.size();
        assert!(entries <= 10 && bytes <= 20_000, "{entries} {bytes}");
    }
    assert_eq!(source.hub.read().ring.size().0, 2);
}

#[test]
fn a_follower_that_never_reads_keeps_nothing_alive() {
    let mut source = Source::with_network(narrow(2));
    let slow: Vec<_> = (0..100).map(|_| source.hub.subscribe(None)).collect();
    source.endpoints(20);
    let view = source.hub.view();
    // The hub and this test; no follower.
    assert_eq!(Arc::strong_count(&view), 2);
    drop(slow);
}

#[test]
fn a_view_that_was_handed_out_does_not_change() {
    let mut source = Source::with_network(WIDE);
    let held = source.hub.view();
    source.endpoints(3);
    assert_eq!(held.revision, 2);
    assert!(held.endpoints.is_empty());
    assert_eq!(source.hub.with_view(|view| view.endpoints.len()), 3);
}

#[tokio::test]
async fn a_waiter_wakes_at_its_revision() {
    let mut source = Source::with_network(WIDE);
    source.hub.wait_revision(2).await;
    let hub = source.hub.clone();
    let waiter = tokio::spawn(async move {
        hub.wait_revision(5).await;
        hub.revision()
    });
    source.endpoints(3);
    assert_eq!(waiter.await.unwrap(), 5);
}

#[tokio::test]
async fn a_follower_ends_after_everything_when_the_hub_is_gone() {
    let mut source = Source::with_network(WIDE);
    let mut subscription = source.hub.subscribe(2);
    source.endpoints(2);
    drop(source);
    assert_eq!(
        subscription.next().await.map(|item| item.revision()),
        Some(3)
    );
    assert_eq!(
        subscription.next().await.map(|item| item.revision()),
        Some(4)
    );
    assert_eq!(subscription.next().await, None);
}

#[tokio::test]
async fn a_wait_for_an_item_that_is_given_up_loses_none() {
    let mut source = Source::with_network(WIDE);
    let mut subscription = source.hub.subscribe(2);
    let given_up = tokio::time::timeout(Duration::from_millis(1), subscription.next());
    assert!(given_up.await.is_err());
    source.endpoints(1);
    assert_eq!(
        subscription.next().await.map(|item| item.revision()),
        Some(3)
    );
}

/// Readers of all paces, on threads of their own, while changes are published.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_skipped_or_doubled_under_concurrent_publishing() {
    const COUNT: u64 = 2000;
    let mut source = Source::with_network(narrow(16));
    let last = source.hub.revision() + COUNT;
    let readers: Vec<_> = (0..8u32)
        .map(|pace| {
            let mut subscription = source.hub.subscribe((pace % 2 == 0).then_some(0));
            tokio::spawn(async move {
                let mut view = View::default();
                let (mut snapshots, mut deltas) = (0, 0);
                while view.revision < last {
                    let item = subscription
                        .next()
                        .await
                        .expect("the hub outlives the reader");
                    let expected = view.revision + 1;
                    match &item {
                        WatchItem::Snapshot(_) => snapshots += 1,
                        // Each revision of this test has changes, so none may be missing.
                        WatchItem::Changes { revision, changes } => {
                            assert_eq!((*revision, changes.is_empty()), (expected, false));
                            deltas += 1;
                        }
                    }
                    follow(&mut view, &item);
                    for _ in 0..pace * pace {
                        tokio::task::yield_now().await;
                    }
                }
                (view, snapshots, deltas)
            })
        })
        .collect();
    let (state, hub) = tokio::task::spawn_blocking(move || {
        source.endpoints(COUNT as usize);
        (source.state, source.hub)
    })
    .await
    .unwrap();
    for reader in readers {
        let (view, snapshots, deltas) = reader.await.unwrap();
        assert!(snapshots + deltas <= COUNT + 1);
        assert!(snapshots > 0 || deltas == COUNT + 2);
        assert!(view == *state.view() && view == *hub.view());
    }
}

proptest! {
    #[test]
    fn any_follower_ends_with_the_view_of_the_state(
        commands in proptest::collection::vec((any_command(), 0u8..6), 1..60),
        entries in 1usize..12,
        from in proptest::option::of(0u64..4),
    ) {
        let mut source = Source::new(narrow(entries));
        source.apply(&proposal(0, Command::Init(Box::new(small_cluster()))));
        let mut view = View::default();
        let mut subscription = source.hub.subscribe(from.filter(|from| *from == 0));
        for (number, (command, reads)) in commands.into_iter().enumerate() {
            source.apply(&proposal(number as u64 + 1, command));
            for _ in 0..reads {
                if let Some(item) = subscription.try_next() {
                    prop_assert!(item.revision() > view.revision);
                    follow(&mut view, &item);
                    prop_assert_eq!(subscription.position(), Some(view.revision));
                }
            }
        }
        drain(&mut subscription, &mut view);
        prop_assert_eq!(&view, source.state.view());
        prop_assert_eq!(&view, &*source.hub.view());
    }
}
