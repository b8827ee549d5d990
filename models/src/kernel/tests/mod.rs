//! Every kernel against the plain loops that define it: random shapes, every set of instructions this
//! processor has, one thread and several, f32 and bfloat16. Convolutions have theirs in `conv/tests`.
//!
//! [`noise`] is made so that most sums of it are exact in f32, whatever their order: kernels whose
//! rounding is not at stake must then give what the plain loop gives to the bit.

mod channels;
mod element;
mod gates;
mod gemm;
mod pass;
mod team;
mod tile;
mod window;

use std::cell::Cell;
use std::sync::OnceLock;

use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;

use super::cpu::Cpu;
use super::element::Element;
use super::isa::Isa;

/// Numbers in `-1..1`, the same for the same salt: multiples of 1/64, which bfloat16 holds exactly.
pub(super) fn noise(n: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 57) as f32 - 64.0) / 64.0
        })
        .collect()
}

/// [`noise`] with no numbers, infinities and a negative zero here and there.
fn rough(n: usize, salt: u64) -> Vec<f32> {
    let mut values = noise(n, salt);
    let odd = [f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY];
    let places = values.iter_mut().skip(salt as usize % 7).step_by(23);
    for (v, odd) in places.zip(odd.into_iter().cycle()) {
        *v = odd;
    }
    values
}

/// Multiples of 1/4 in `-1..2`, by sample, channel and what they are for.
fn wave(sample: usize, channel: usize, purpose: usize) -> f32 {
    ((sample * 7 + channel * 3 + purpose) % 11) as f32 * 0.25 - 1.0
}

/// So many cases, or fewer where `PROPTEST_CASES` asks for fewer: builds with a sanitizer are slow.
pub(super) fn cases(most: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.min(most),
        ..asked
    }
}

/// Sizes around those of registers and tiles, and any small ones.
fn size() -> impl Strategy<Value = usize> {
    let edges = vec![15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 255, 256, 257, 300];
    prop_oneof![2 => 1..12_usize, 1 => select(edges)]
}

/// Lengths of whole values: short ones, and some that are worth a team.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..700_usize, 1 => 16_384..20_000_usize]
}

/// Every set of instructions with one, two and three threads; teams are kept for all tests.
fn cpus() -> &'static [Cpu] {
    static CPUS: OnceLock<Vec<Cpu>> = OnceLock::new();
    CPUS.get_or_init(|| {
        let sets = Isa::available().iter();
        sets.flat_map(|&isa| [1, 2, 3].map(|threads| Cpu::with(isa, threads)))
            .collect()
    })
}

thread_local! {
    static PINNED: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// The set that a test has chosen for kernels that otherwise take the best.
pub(super) fn pinned() -> Option<Isa> {
    PINNED.get()
}

/// What `f` makes with each set of instructions: one result, since all must agree to the bit.
fn by_every_set(what: &str, f: impl Fn(Isa) -> Vec<f32>) -> Vec<f32> {
    let make = |isa| {
        PINNED.set(Some(isa));
        let made = f(isa);
        PINNED.set(None);
        made
    };
    let portable = make(Isa::Portable);
    for &isa in Isa::available() {
        assert_same(&format!("{what} by {isa}"), &make(isa), &portable);
    }
    portable
}

/// [`by_every_set`] with several threads, too.
fn by_every_cpu(what: &str, f: impl Fn(&Cpu) -> Vec<f32>) -> Vec<f32> {
    let alone = f(&cpus()[0]);
    for cpu in cpus() {
        let what = format!("{what} by {} of {}", cpu.team().members(), cpu.isa());
        assert_same(&what, &f(cpu), &alone);
    }
    alone
}

fn narrow<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&v| T::narrow(v)).collect()
}

fn widen<T: Element>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| v.widen()).collect()
}

/// The same bits, or both not a number.
fn assert_same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
            "{what}[{i}]: {got} for {want}"
        );
    }
}

/// The same numbers, or both not a number.
fn assert_equal(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            got == want || got.is_nan() && want.is_nan(),
            "{what}[{i}]: {got} for {want}"
        );
    }
}

/// As close as `tolerance`, measured against the largest value (and at least 1).
pub(super) fn assert_close(
    what: &str,
    got: impl Iterator<Item = f32>,
    want: &[f64],
    tolerance: f64,
) {
    let scale = want.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    let mut n = 0;
    for (i, (got, want)) in got.zip(want).enumerate() {
        let apart = (f64::from(got) - want).abs();
        assert!(apart <= tolerance * scale, "{what}[{i}]: {got} for {want}");
        n += 1;
    }
    assert_eq!(n, want.len(), "{what}");
}

#[test]
fn noise_is_held_exactly_and_rough_noise_has_what_it_says() {
    let values = noise(1000, 3);
    assert_eq!(widen(&narrow::<bf16>(&values)), values);
    let rough = rough(100, 3);
    assert!(rough.iter().any(|v| v.is_nan()) && rough.iter().any(|v| v.is_infinite()));
}
