//! Where windows lie in a person's segments, and how they are parted in time.

use super::tables::Segment;

/// Samples in a window: 2.56 s.
pub(super) const LENGTH: usize = 128;
/// From one window's start to the next.
pub(super) const STEP: usize = 64;
/// Out of ten windows of a class, how many come to train on.
const TRAIN_OF_TEN: usize = 7;

/// One window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Label.
    pub(super) class: usize,
    /// Recording it is in.
    pub(super) recording: usize,
    /// Place of its segment among the person's.
    pub(super) segment: usize,
    /// First row within the segment.
    pub(super) offset: usize,
    /// First row within the recording.
    pub(super) start: usize,
}

impl Place {
    fn shares_samples_with(&self, other: &Self) -> bool {
        self.recording == other.recording && self.start.abs_diff(other.start) < LENGTH
    }
}

/// Every window wholly inside a labelled segment, in the order of the segments.
pub(super) fn cut(segments: &[Segment]) -> Vec<Place> {
    let mut places = Vec::new();
    for (which, segment) in segments.iter().enumerate() {
        let Some(class) = segment.class else { continue };
        let rows = segment.end - segment.start;
        places.extend(
            (0..(rows + 1).saturating_sub(LENGTH))
                .step_by(STEP)
                .map(|offset| Place {
                    class,
                    recording: segment.recording,
                    segment: which,
                    offset,
                    start: segment.start + offset,
                }),
        );
    }
    places
}

/// Windows to train on and windows held out, both in the order given (time).
///
/// Per class, the first 70 % (rounded down) are to train on and the others held out; those of the
/// first part that share samples with the second are dropped.
pub(super) fn part(places: &[Place]) -> (Vec<Place>, Vec<Place>) {
    let classes = places.iter().map(|p| p.class + 1).max().unwrap_or(0);
    let mut counts = vec![0_usize; classes];
    places.iter().for_each(|p| counts[p.class] += 1);
    let mut passed = vec![0_usize; classes];
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for place in places {
        let early = passed[place.class] < counts[place.class] * TRAIN_OF_TEN / 10;
        passed[place.class] += 1;
        if early {
            train.push(*place);
        } else {
            held_out.push(*place);
        }
    }
    // Segments do not overlap, so only windows of one class can share samples, and of the held-out
    // ones only the first of each class can reach back across the cut.
    let firsts: Vec<Place> = (0..classes)
        .filter_map(|class| held_out.iter().find(|p| p.class == class).copied())
        .collect();
    train.retain(|place| !firsts.iter().any(|first| place.shares_samples_with(first)));
    (train, held_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(class: usize, recording: usize, start: usize, end: usize) -> Segment {
        Segment {
            recording,
            subject: 1,
            class: Some(class),
            start,
            end,
        }
    }

    #[test]
    fn windows_lie_wholly_inside_their_segment() {
        let starts = |rows: usize| -> Vec<usize> {
            cut(&[segment(0, 0, 10, 10 + rows)])
                .iter()
                .map(|place| place.start)
                .collect()
        };
        assert!(starts(127).is_empty());
        assert_eq!(starts(128), [10]);
        assert_eq!(starts(191), [10]);
        assert_eq!(starts(192), [10, 74]);
    }

    #[test]
    fn changes_of_posture_have_no_windows() {
        let mut change = segment(0, 0, 0, 500);
        change.class = None;
        assert!(cut(&[change]).is_empty());
    }

    #[test]
    fn the_window_across_the_cut_is_dropped() {
        // Ten windows in one segment: 7 early, and the seventh overlaps the eighth.
        let places = cut(&[segment(0, 0, 0, 128 + 9 * 64)]);
        assert_eq!(places.len(), 10);
        let (train, held_out) = part(&places);
        assert_eq!((train.len(), held_out.len()), (6, 3));
        assert_eq!(held_out[0].start, 7 * 64);
    }

    #[test]
    fn a_cut_between_segments_drops_nothing() {
        // Seven windows, then three in another recording.
        let places = cut(&[
            segment(0, 0, 0, 128 + 6 * 64),
            segment(0, 1, 0, 128 + 2 * 64),
        ]);
        let (train, held_out) = part(&places);
        assert_eq!((train.len(), held_out.len()), (7, 3));
    }

    #[test]
    fn nobody_without_windows_is_a_problem() {
        assert_eq!(part(&[]), (vec![], vec![]));
    }
}
