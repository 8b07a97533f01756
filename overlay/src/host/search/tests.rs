use proptest::prelude::*;

use super::*;

/// Follows the search along a path that carries `width`; `lose` says which packets are lost beside.
/// Returns how many were sent.
fn follow(
    search: &mut PathSearch,
    now: &mut Moment,
    until: Moment,
    width: u32,
    mut lose: impl FnMut() -> bool,
) -> usize {
    let mut sent = 0;
    while search.next() <= until {
        *now = search.next().max(*now);
        for size in search.poll(*now) {
            sent += 1;
            if size <= width && !lose() {
                search.answered(*now + Duration::from_millis(1), size);
            }
        }
    }
    *now = until;
    sent
}

const LONG: Moment = Duration::from_secs(9);

proptest! {
    #[test]
    fn what_a_path_carries_is_found_to_the_byte_within_nine_seconds(
        top in 1280u32..65_536,
        share in 0.0f64..=1.0,
    ) {
        let width = 1280 + ((top - 1280) as f64 * share) as u32;
        let (mut search, mut now) = (PathSearch::new(1280, top), Moment::ZERO);
        let sent = follow(&mut search, &mut now, LONG, width, || false);
        prop_assert_eq!(search.found(), Some(width));
        prop_assert!(sent <= 200, "{}", sent);
    }

    #[test]
    fn a_path_that_becomes_narrower_or_wider_is_followed(
        widths in prop::collection::vec(1280u32..=1500, 1..6),
    ) {
        let (mut search, mut now) = (PathSearch::new(1280, 1500), Moment::ZERO);
        for width in widths {
            let until = now + INTERVAL + 2 * LONG;
            follow(&mut search, &mut now, until, width, || false);
            prop_assert_eq!(search.found(), Some(width));
        }
    }

    #[test]
    fn loss_makes_no_path_narrower_than_it_is_for_long(seed in any::<u64>()) {
        let (mut search, mut now) = (PathSearch::new(1280, 1500), Moment::ZERO);
        let mut state = seed | 1;
        // A tenth of all packets.
        let mut lose = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % 10 == 0
        };
        follow(&mut search, &mut now, Duration::from_secs(300), 1500, &mut lose);
        let until = now + 3 * INTERVAL;
        follow(&mut search, &mut now, until, 1500, || false);
        prop_assert_eq!(search.found(), Some(1500));
    }
}

#[test]
fn a_peer_that_does_not_answer_says_nothing_of_the_path() {
    let (mut search, mut now) = (PathSearch::new(1280, 1500), Moment::ZERO);
    let sent = follow(
        &mut search,
        &mut now,
        Duration::from_secs(100),
        1500,
        || true,
    );
    assert_eq!(search.found(), None);
    assert!(sent <= 40, "{sent}");
    follow(
        &mut search,
        &mut now,
        Duration::from_secs(120),
        1400,
        || false,
    );
    assert_eq!(search.found(), Some(1400));
    // What is known is kept while it is away.
    follow(
        &mut search,
        &mut now,
        Duration::from_secs(180),
        1400,
        || true,
    );
    assert_eq!(search.found(), Some(1400));
}

#[test]
fn what_is_larger_than_was_asked_for_is_not_believed() {
    let mut search = PathSearch::new(1280, 1500);
    search.poll(Moment::ZERO);
    search.answered(Moment::ZERO, 9000);
    assert_eq!(search.found(), None);
    // Nothing was asked for at all.
    let mut search = PathSearch::new(1280, 1500);
    search.answered(Moment::ZERO, 1500);
    assert_eq!(search.found(), None);
}

#[test]
fn ends_that_carry_another_size_begin_anew_and_the_same_does_not() {
    let (mut search, mut now) = (PathSearch::new(1280, 1500), Moment::ZERO);
    follow(&mut search, &mut now, LONG, 1500, || false);
    search.set_top(1500);
    assert_eq!(search.found(), Some(1500));
    search.set_top(9000);
    assert_eq!(search.found(), None);
    follow(&mut search, &mut now, LONG * 2, 9000, || false);
    assert_eq!(search.found(), Some(9000));
}
