//! Who takes which part in a federated run on people.

use std::path::Path;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{Layout, tables};
use crate::source::SourceError;

/// Of 25 people, how many are the cloud's and how many nobody trains on, as in the project's own draws.
const CLOUD_OF_25: usize = 4;
const UNSEEN_OF_25: usize = 9;

/// Who takes which part in a federated run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draw {
    /// People whose data the cloud pretrains on.
    pub cloud: Vec<u32>,
    /// One person per node.
    pub node: Vec<u32>,
    /// People nobody trains on.
    pub unseen: Vec<u32>,
}

/// Draw `d` of the people in a directory: as its `draws.csv` says, or, where it has none, as follows.
///
/// Everybody recorded, in the order of numbers, is shuffled by ChaCha8 seeded with `d`. Of `n` people the
/// first 4/25 are the cloud's, the last 9/25 are never trained on (both rounded, at least one), and those
/// between are the nodes'. So a draw depends on nothing but its number and who was recorded.
///
/// # Errors
/// [`SourceError`] when the table has a senseless line (also: somebody in a draw twice) or no such draw,
/// or without a table when the recordings cannot be listed or there are fewer than three people.
pub fn draws(dir: &Path, d: u32) -> Result<Draw, SourceError> {
    if dir.join(tables::DRAWS).exists() {
        return tables::read_draw(dir, d);
    }
    let mut people = tables::everybody(&Layout::of(dir).recordings()?);
    let n = people.len();
    if n < 3 {
        return Err(SourceError::FewPeople {
            dir: dir.to_owned(),
            people: n,
        });
    }
    people.shuffle(&mut ChaCha8Rng::seed_from_u64(u64::from(d)));
    let of = |part: usize| ((n * part + 12) / 25).max(1);
    let mut unseen = people.split_off(n - of(UNSEEN_OF_25));
    let mut node = people.split_off(of(CLOUD_OF_25));
    let mut cloud = people;
    for part in [&mut cloud, &mut node, &mut unseen] {
        part.sort_unstable();
    }
    Ok(Draw {
        cloud,
        node,
        unseen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that knows so many people, in the publisher's layout.
    fn people(n: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("dir");
        for subject in 1..=n {
            for experiment in [2 * subject - 1, 2 * subject] {
                let name = format!("acc_exp{experiment:02}_user{subject:02}.txt");
                std::fs::write(dir.path().join(name), "").expect("written");
            }
        }
        std::fs::write(dir.path().join("labels.txt"), "").expect("written");
        dir
    }

    #[test]
    fn everybody_has_one_part_and_each_draw_is_another() {
        for n in 3..=30 {
            let dir = people(n);
            let one = draws(dir.path(), 1).expect("a draw");
            assert_eq!(draws(dir.path(), 1).expect("a draw"), one);
            let mut all = [&one.cloud[..], &one.node, &one.unseen].concat();
            all.sort_unstable();
            assert_eq!(all, (1..=n).collect::<Vec<_>>());
            assert!(!one.cloud.is_empty() && !one.node.is_empty() && !one.unseen.is_empty());
        }
        let dir = people(30);
        let draw = |d| draws(dir.path(), d).expect("a draw");
        assert_ne!(draw(1), draw(2));
        let sizes = (
            draw(1).cloud.len(),
            draw(1).node.len(),
            draw(1).unseen.len(),
        );
        assert_eq!(sizes, (5, 14, 11));
        // Written down: a draw must not change from one version of this program to the next.
        assert_eq!(draw(1).cloud, [3, 8, 9, 26, 28]);
    }

    #[test]
    fn two_people_are_too_few() {
        let e = draws(people(2).path(), 1).expect_err("few").to_string();
        assert!(e.contains("has 2 people"), "{e}");
    }
}
