//! Who gets which samples of a pool.

use std::collections::BTreeSet;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

use crate::source::SourceError;

/// Fewest samples a part may have, as far as there are enough: less is no training set.
const LEAST: usize = 10;
/// Draws tried until every part has its fewest samples.
const DRAWS: usize = 1000;

/// One part of a pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Which part.
    pub part: Part,
    /// Into how many the nodes' samples are parted.
    pub parts: u32,
    /// Share of the samples, 0 to 1, that is the cloud's and no node's.
    pub cloud: f64,
    /// Concentration of a Dirichlet distribution over parts, drawn per class; small is skewed.
    /// `None` parts evenly.
    pub dirichlet: Option<f64>,
    /// Seed of shuffling and drawing; the same for all parts of one pool.
    pub seed: u64,
    /// Most samples used of the whole pool, drawn from all classes as evenly as they allow.
    pub limit: Option<usize>,
}

/// Which part of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The cloud's.
    Cloud,
    /// A node's, from 0.
    Node(u32),
}

impl Default for Share {
    fn default() -> Self {
        Self {
            part: Part::Node(0),
            parts: 1,
            cloud: 0.0,
            dirichlet: None,
            seed: 0,
            limit: None,
        }
    }
}

impl Share {
    /// Whether a pool is shared out at all, or is one node's as a whole.
    pub(super) fn is_parted(&self) -> bool {
        self.parts > 1 || self.cloud > 0.0
    }

    /// Places of this part's samples, ascending; all parts of one pool and seed are disjoint.
    ///
    /// With [`Share::dirichlet`], for each class the parts' shares are one draw from a symmetric
    /// Dirichlet distribution, and draws are repeated until every part has [`LEAST`] samples.
    /// Samples in `groups` stay together: groups are dealt to cloud and nodes whole.
    ///
    /// # Errors
    /// [`SourceError::Share`] when no draw gives every part its fewest samples,
    /// [`SourceError::Groups`] when there are fewer groups than parts, and
    /// [`SourceError::WholeGroups`] when groups should be skewed.
    /// # Source
    /// Hsu et al. 2019, "Measuring the effects of non-identical data distribution for federated
    /// visual classification"; the repetition is that of Li et al. 2021, "Federated learning on
    /// non-IID data silos".
    pub(super) fn places(
        &self,
        labels: &[u32],
        classes: usize,
        groups: Option<&[u32]>,
    ) -> Result<Vec<usize>, SourceError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut by_class = vec![Vec::new(); classes];
        for (place, &label) in labels.iter().enumerate() {
            by_class[label as usize].push(place);
        }
        by_class.iter_mut().for_each(|c| c.shuffle(&mut rng));
        if let Some(limit) = self.limit {
            let kept = evened(limit, &by_class);
            for (places, kept) in by_class.iter_mut().zip(kept) {
                places.truncate(kept);
            }
        }
        let mut mine = match groups {
            Some(groups) if self.is_parted() => self.whole(&by_class, groups, &mut rng)?,
            _ => self.single(by_class, &mut rng)?,
        };
        mine.sort_unstable();
        Ok(mine)
    }

    /// This part when samples are dealt one by one.
    fn single(
        &self,
        mut by_class: Vec<Vec<usize>>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<usize>, SourceError> {
        let mut cloud = Vec::new();
        for places in &mut by_class {
            let kept = (places.len() as f64 * (1.0 - self.cloud)).round() as usize;
            cloud.extend(places.split_off(kept.min(places.len())));
        }
        Ok(match self.part {
            Part::Cloud => cloud,
            Part::Node(part) => {
                let mut parts = match self.dirichlet {
                    None => self.evenly(&by_class),
                    Some(alpha) => self.skewed(&by_class, alpha, rng)?,
                };
                match parts.get_mut(part as usize) {
                    Some(part) => std::mem::take(part),
                    None => Vec::new(),
                }
            }
        })
    }

    /// This part when groups are dealt whole: the cloud has the first of them, shuffled, at least one
    /// if it has a share at all, and the nodes are dealt the others in turn.
    fn whole(
        &self,
        by_class: &[Vec<usize>],
        groups: &[u32],
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<usize>, SourceError> {
        if let Some(alpha) = self.dirichlet {
            return Err(SourceError::WholeGroups { alpha });
        }
        let there: BTreeSet<u32> = by_class.iter().flatten().map(|&p| groups[p]).collect();
        let mut order: Vec<u32> = there.into_iter().collect();
        order.shuffle(rng);
        let parts = self.parts as usize;
        let least = usize::from(self.cloud > 0.0);
        if order.len() < parts + least {
            return Err(SourceError::Groups {
                groups: order.len(),
                parts,
                cloud: least,
            });
        }
        let cloud = (order.len() as f64 * self.cloud).round() as usize;
        let cloud = cloud.clamp(least, order.len() - parts);
        let mine: BTreeSet<u32> = match self.part {
            Part::Cloud => order[..cloud].iter().copied().collect(),
            Part::Node(part) => {
                let nodes = order[cloud..].iter().skip(part as usize);
                nodes.step_by(parts).copied().collect()
            }
        };
        let all = by_class.iter().flatten().copied();
        Ok(all.filter(|&p| mine.contains(&groups[p])).collect())
    }

    /// Each class is dealt round, going on where the last one ended.
    fn evenly(&self, by_class: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let mut parts = vec![Vec::new(); self.parts as usize];
        for (turn, &place) in by_class.iter().flatten().enumerate() {
            parts[turn % self.parts as usize].push(place);
        }
        parts
    }

    fn skewed(
        &self,
        by_class: &[Vec<usize>],
        alpha: f64,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Vec<usize>>, SourceError> {
        let total: usize = by_class.iter().map(Vec::len).sum();
        let parts = self.parts as usize;
        let least = LEAST.min(total / parts);
        let refused = || SourceError::Share {
            parts,
            samples: total,
            least,
            alpha,
        };
        let gamma = Gamma::new(alpha, 1.0).map_err(|_| refused())?;
        for _ in 0..DRAWS {
            let mut dealt = vec![Vec::new(); parts];
            for places in by_class {
                let draws: Vec<f64> = (0..parts).map(|_| gamma.sample(rng)).collect();
                let sum: f64 = draws.iter().sum();
                // A tiny concentration may draw nothing but zeros: then nobody is told from others.
                let share = |d: f64| {
                    if sum > 0.0 {
                        d / sum
                    } else {
                        1.0 / parts as f64
                    }
                };
                let (mut passed, mut from) = (0.0, 0);
                for (part, &draw) in draws.iter().enumerate() {
                    passed += share(draw);
                    let to = if part + 1 == parts {
                        places.len()
                    } else {
                        ((passed * places.len() as f64).round() as usize).clamp(from, places.len())
                    };
                    dealt[part].extend_from_slice(&places[from..to]);
                    from = to;
                }
            }
            if dealt.iter().all(|part| part.len() >= least) {
                return Ok(dealt);
            }
        }
        Err(refused())
    }
}

/// How many of each class to keep so that there are `limit`, as even as the classes' sizes allow; what
/// does not go round goes to the first classes, one each.
fn evened(limit: usize, by_class: &[Vec<usize>]) -> Vec<usize> {
    let at = |level: usize| by_class.iter().map(move |c| c.len().min(level));
    let longest = by_class.iter().map(Vec::len).max().unwrap_or(0);
    // The highest level that is not too much, between one that is not and one that may be.
    let (mut low, mut high) = (0, longest + 1);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if at(middle).sum::<usize>() <= limit {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut left = limit.saturating_sub(at(low).sum());
    let one_more = |places: &Vec<usize>| {
        let more = usize::from(left > 0 && places.len() > low);
        left -= more;
        places.len().min(low) + more
    };
    by_class.iter().map(one_more).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(n: usize, classes: usize) -> Vec<u32> {
        (0..n).map(|i| (i * 7 % classes) as u32).collect()
    }

    proptest! {
        #[test]
        fn every_sample_has_exactly_one_owner(
            n in 0_usize..400, classes in 1_usize..8, parts in 1_u32..9, cloud in 0.0_f64..1.0,
            alpha in prop::option::of(0.2_f64..10.0), seed: u64,
        ) {
            let labels = labels(n, classes);
            let share = |part| Share { part, parts, cloud, dirichlet: alpha, seed, limit: None };
            let mut all = share(Part::Cloud).places(&labels, classes, None).expect("the cloud's");
            for part in 0..parts {
                match share(Part::Node(part)).places(&labels, classes, None) {
                    Ok(places) => all.extend(places),
                    Err(SourceError::Share { .. }) => return Ok(()),
                    Err(e) => return Err(TestCaseError::fail(e.to_string())),
                }
            }
            prop_assert_eq!(all.len(), n);
            prop_assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), n);
        }
    }

    /// Mean over parts of the largest class's share.
    fn concentration(alpha: Option<f64>) -> f64 {
        let labels = labels(4000, 10);
        let of = |part| {
            let share = Share {
                part: Part::Node(part),
                parts: 8,
                dirichlet: alpha,
                seed: 3,
                ..Share::default()
            };
            let places = share.places(&labels, 10, None).expect("parted");
            let mut counts = [0_usize; 10];
            places.iter().for_each(|&p| counts[labels[p] as usize] += 1);
            *counts.iter().max().expect("ten") as f64 / places.len() as f64
        };
        (0..8).map(of).sum::<f64>() / 8.0
    }

    #[test]
    fn a_small_concentration_is_skewed_and_none_is_even() {
        let (even, mild, strong) = (
            concentration(None),
            concentration(Some(100.0)),
            concentration(Some(0.1)),
        );
        assert!((even - 0.1).abs() < 0.01, "{even}");
        assert!(mild < 0.2, "{mild}");
        assert!(strong > 0.4, "{strong}");
    }

    #[test]
    fn too_few_samples_for_a_skewed_draw_is_an_error_and_no_endless_loop() {
        let share = Share {
            parts: 60,
            dirichlet: Some(0.01),
            ..Share::default()
        };
        let e = share
            .places(&labels(700, 2), 2, None)
            .expect_err("cannot be");
        assert!(e.to_string().contains("0.01"), "{e}");
    }

    proptest! {
        #[test]
        fn a_group_has_exactly_one_owner(
            sizes in prop::collection::vec(1_usize..9, 2..20), parts in 1_u32..6, cloud in 0.0_f64..1.0,
            seed: u64,
        ) {
            let groups: Vec<u32> = (0..).zip(&sizes).flat_map(|(g, &n)| vec![g; n]).collect();
            let labels = labels(groups.len(), 3);
            let mut owners = vec![Vec::new(); sizes.len()];
            let mut seen = 0;
            for part in (0..parts).map(Part::Node).chain([Part::Cloud]) {
                let share = Share { part, parts, cloud, seed, ..Share::default() };
                let places = match share.places(&labels, 3, Some(&groups)) {
                    Ok(places) => places,
                    Err(SourceError::Groups { .. }) => {
                        prop_assert!(sizes.len() < parts as usize + 1);
                        return Ok(());
                    }
                    Err(e) => return Err(TestCaseError::fail(e.to_string())),
                };
                let nobody = part == Part::Cloud && cloud == 0.0;
                prop_assert_eq!(places.is_empty(), nobody);
                if nobody {
                    continue;
                }
                seen += places.len();
                for place in places {
                    owners[groups[place] as usize].push(part);
                }
            }
            prop_assert_eq!(seen, groups.len());
            for owner in owners {
                prop_assert!(owner.iter().all(|o| *o == owner[0]));
            }
        }

        #[test]
        fn a_limit_is_reached_and_as_even_as_can_be(
            sizes in prop::collection::vec(0_usize..40, 1..8), limit in 0_usize..200,
        ) {
            let by_class: Vec<Vec<usize>> = sizes.iter().map(|&n| vec![0; n]).collect();
            let kept = evened(limit, &by_class);
            let total: usize = sizes.iter().sum();
            prop_assert_eq!(kept.iter().sum::<usize>(), limit.min(total));
            let most = kept.iter().max().copied().unwrap_or(0);
            for (kept, size) in kept.iter().zip(&sizes) {
                prop_assert!(kept == size || kept + 1 >= most, "{} of {}", kept, size);
            }
        }
    }
}
