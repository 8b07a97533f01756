//! The window against a model that remembers every number it has seen.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What RFC 4303 section 3.4.3 says, without a bitmap.
#[derive(Default)]
struct Model {
    seen: BTreeSet<u64>,
}

impl Model {
    fn accept(&mut self, sequence: u64, span: u64) -> Result<(), Refusal> {
        let top = self.seen.last().copied().unwrap_or(0);
        if sequence == 0 {
            return Err(Refusal::Replayed);
        }
        if sequence <= top && top - sequence >= span {
            return Err(Refusal::TooOld);
        }
        if self.seen.insert(sequence) {
            Ok(())
        } else {
            Err(Refusal::Replayed)
        }
    }
}

fn agrees<const N: usize>(start: u64, steps: &[i64]) -> Result<(), TestCaseError> {
    let (mut window, mut model) = (Window::<N>::new(), Model::default());
    for step in steps {
        let base = model.seen.last().copied().unwrap_or(start);
        let sequence = base.saturating_add_signed(*step);
        prop_assert_eq!(window.check(sequence), window.clone().accept(sequence));
        prop_assert_eq!(
            window.accept(sequence),
            model.accept(sequence, Window::<N>::SPAN)
        );
        prop_assert_eq!(window.top(), model.seen.last().copied().unwrap_or(0));
    }
    Ok(())
}

/// Steps from the highest number seen: close by, around the ends of words and windows, and far.
fn steps() -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![
        8 => -70i64..70,
        4 => -4200i64..4200,
        2 => prop::sample::select(vec![-64i64, -63, 64, 63, -4031, -4032, -4033]),
        1 => -100_000i64..100_000,
        1 => (1i64 << 31)..(1i64 << 33),
    ];
    prop::collection::vec(step, 1..400)
}

fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        Just(1),
        0u64..10_000,
        ((1u64 << 32) - 5000)..((1u64 << 32) + 5000),
        (u64::MAX - 5000)..=u64::MAX,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_window_decides_as_the_naive_model_does(start in starts(), steps in steps()) {
        agrees::<2>(start, &steps)?;
        agrees::<3>(start, &steps)?;
        agrees::<WORDS>(start, &steps)?;
    }

    #[test]
    fn any_number_in_the_window_or_ahead_of_it_is_reconstructed(
        top in starts(),
        offset in prop_oneof![
            -(WINDOW as i64 - 1)..=0,
            1i64..100_000,
            Just((1i64 << 32) - WINDOW as i64),
        ],
    ) {
        let mut window = Window::<WORDS>::new();
        prop_assume!(top > 0);
        window.accept(top).unwrap();
        let Some(sequence) = top.checked_add_signed(offset) else { return Ok(()) };
        prop_assert_eq!(window.reconstruct(sequence as u32), Some(sequence));
    }

    #[test]
    fn what_is_reconstructed_keeps_its_low_half_and_is_never_left_of_the_window(
        top in any::<u64>(),
        low in any::<u32>(),
    ) {
        let mut window = Window::<WORDS>::new();
        prop_assume!(top > 0);
        window.accept(top).unwrap();
        if let Some(sequence) = window.reconstruct(low) {
            prop_assert_eq!(sequence as u32, low);
            prop_assert!(u128::from(sequence) + u128::from(WINDOW) > u128::from(top));
        }
    }
}

#[test]
fn the_window_is_as_wide_as_it_says() {
    assert_eq!(WINDOW, 4032);
    let mut window = Window::<WORDS>::new();
    window.accept(10_000).unwrap();
    assert_eq!(window.check(10_000 - WINDOW + 1), Ok(()));
    assert_eq!(window.check(10_000 - WINDOW), Err(Refusal::TooOld));
    assert_eq!(window.check(10_000), Err(Refusal::Replayed));
}

#[test]
fn numbers_before_the_first_and_after_the_last_have_no_high_half() {
    let window = Window::<WORDS>::new();
    assert_eq!(window.reconstruct(0), Some(0));
    assert_eq!(window.reconstruct(1), Some(1));
    assert_eq!(
        window.reconstruct(u32::MAX),
        None,
        "would be before the first"
    );
    let mut window = Window::<WORDS>::new();
    window.accept(u64::MAX).unwrap();
    assert_eq!(window.reconstruct(u32::MAX), Some(u64::MAX));
    assert_eq!(window.reconstruct(0), None, "would be after the last");
}

#[test]
fn a_jump_over_the_whole_ring_leaves_no_old_bit() {
    let mut window = Window::<3>::new();
    for sequence in 1..=192 {
        window.accept(sequence).unwrap();
    }
    window.accept(192 * 1000).unwrap();
    for sequence in (192 * 1000 - 127)..192 * 1000 {
        assert_eq!(window.check(sequence), Ok(()), "{sequence}");
    }
}
