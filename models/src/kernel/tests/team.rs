//! How work is shared out, and slices that members write at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::kernel::cells::Cells;
use crate::kernel::team::share;

/// Fewer values than this are not worth a team, and more are: the first number there is for both.
const AROUND_WORTH: [usize; 3] = [0, 16_383, 16_384];

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn shares_are_even_and_join(n in 0..100_000_usize, parts in 1..40_usize) {
        let mut next = 0;
        for i in 0..parts {
            let share = share(n, parts, i);
            assert_eq!(share.start, next);
            assert!((n / parts..=n.div_ceil(parts)).contains(&share.len()));
            next = share.end;
        }
        assert_eq!(next, n);
    }

    #[test]
    fn members_get_their_own_share_where_there_is_enough_to_do(
        n in prop_oneof![0..5_usize, 0..500_usize],
        values in select(AROUND_WORTH.to_vec()),
    ) {
        for cpu in cpus() {
            let seen = Mutex::new(Vec::new());
            cpu.split(values, n, |member, range| {
                seen.lock().expect("shares").push((member, range));
            });
            let mut seen = seen.into_inner().expect("shares");
            seen.sort_by_key(|(member, _)| *member);
            let members = if values > 16_383 { cpu.team().members().min(n) } else { n.min(1) };
            let want: Vec<_> = (0..members).map(|m| (m, share(n, members, m))).collect();
            assert_eq!(seen, want);
        }
    }

    #[test]
    fn chunks_are_written_once_each(
        (count, each) in (0..60_usize, 1..40_usize),
        values in select(AROUND_WORTH.to_vec()),
    ) {
        for cpu in cpus() {
            let mut all = vec![0; count * each];
            cpu.chunks(values, &mut all, each, |i, chunk| {
                assert_eq!(chunk.len(), each);
                for (k, v) in chunk.iter_mut().enumerate() {
                    *v += i * each + k + 1;
                }
            });
            assert!(all.iter().enumerate().all(|(i, v)| *v == i + 1));
        }
    }

    #[test]
    fn places_outside_a_slice_are_never_handed_out(
        len in 0..50_usize,
        (start, end) in (0..60_usize, 0..60_usize),
    ) {
        let mut slice = vec![0_u8; len];
        let cells = Cells::new(&mut slice);
        // SAFETY: one thread, and one reference at a time.
        let range = catch_unwind(AssertUnwindSafe(|| unsafe { cells.range(start..end) }.fill(1)));
        assert_eq!(range.is_ok(), start <= end && end <= len);
        let place = catch_unwind(AssertUnwindSafe(|| cells.place(&(start..start))));
        assert_eq!(place.is_ok(), start <= len);
        let written = slice.iter().enumerate().filter(|(_, v)| **v == 1).map(|(i, _)| i);
        assert!(written.eq(if range.is_ok() { start..end } else { 0..0 }));
    }
}
