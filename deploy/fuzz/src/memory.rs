//! What an input may cost: counted while a parser runs, compared with the input's length.
//!
//! A file of up to 1 KiB costs at most 1 MiB, whatever it claims. A longer one may cost more, but only
//! in proportion to its length: each call of [`within`] names its factor.

use std::cell::Cell;

/// Inputs up to this length cost at most [`SMALL_COST`].
pub const SMALL_INPUT: usize = 1 << 10;
/// What a small input may cost, in bytes.
pub const SMALL_COST: u64 = 1 << 20;

thread_local! {
    static PEAK: Cell<u64> = const { Cell::new(0) };
}

/// The most bytes that one parser of a target held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spent(pub u64);

/// Begins to count for a target.
pub(crate) fn start() {
    PEAK.set(0);
}

/// The most since [`start`].
pub(crate) fn spent() -> Spent {
    Spent(PEAK.get())
}

/// The most an input of this length may cost.
#[must_use]
pub fn allowed(input: usize, per_byte: u64) -> u64 {
    SMALL_COST + per_byte * input.saturating_sub(SMALL_INPUT) as u64
}

/// Runs a parser over an input and answers what it made.
///
/// What the parser holds at its peak is compared with [`allowed`]; its own threads, of which parsers
/// have none, would not be seen.
///
/// # Panics
/// When the parser takes more.
pub fn within<T>(input: usize, per_byte: u64, parse: impl FnOnce() -> T) -> T {
    within_times(input, per_byte, 1, parse)
}

/// As [`within`], for a reader that was told to give what it reads `times` times over: windows that
/// overlap.
///
/// # Panics
/// When the parser takes more than `times` of what the input is allowed.
pub fn within_times<T>(input: usize, per_byte: u64, times: u64, parse: impl FnOnce() -> T) -> T {
    let mut made = None;
    let counted = allocation_counter::measure(|| made = Some(parse()));
    let peak = counted.bytes_max;
    PEAK.set(PEAK.get().max(peak));
    let most = allowed(input, per_byte) * times;
    assert!(
        peak <= most,
        "an input of {input} bytes took {peak} bytes of memory, at most {most} are allowed"
    );
    made.expect("`measure` calls what it is given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_parser_holds_at_its_peak_is_counted() {
        start();
        let left = within(10, 0, || {
            drop(std::hint::black_box(vec![1_u8; 500_000]));
            vec![1_u8; 1000]
        });
        assert_eq!(left.len(), 1000);
        assert_eq!(spent(), Spent(500_000));
    }

    #[test]
    #[should_panic(expected = "an input of 1024 bytes took 1048577 bytes")]
    fn a_small_input_that_takes_more_than_a_mebibyte_fails() {
        within(1024, 1000, || {
            std::hint::black_box(vec![0_u8; (1 << 20) + 1])
        });
    }

    #[test]
    fn a_longer_input_may_take_its_share() {
        let two = within(2024, 1, || {
            std::hint::black_box(vec![0_u8; (1 << 20) + 1000])
        });
        assert_eq!(two.len(), (1 << 20) + 1000);
    }
}
