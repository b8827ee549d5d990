//! Label skew: which classes a node sees when no node sees all.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The `k` classes (ascending, out of `class_count`) that node `node_index` sees.
///
/// Classes are dealt like cards: the nodes are walked in order, and each takes the `k` classes
/// that the nodes before it have taken least, ties broken by a shuffle keyed by the node's index.
/// So after any number of nodes no class is seen by two nodes more than another, and the hands
/// differ from node to node. Depends on nothing but the three numbers. `k` above `class_count`
/// gives all classes.
#[must_use]
pub fn deal(node_index: usize, k: usize, class_count: usize) -> Vec<usize> {
    let mut taken = vec![0_usize; class_count];
    let mut hand = Vec::new();
    for node in 0..=node_index {
        let mut rng = ChaCha8Rng::seed_from_u64(node as u64);
        let mut classes: Vec<(usize, u64, usize)> = (0..class_count)
            .map(|class| (taken[class], rng.next_u64(), class))
            .collect();
        classes.sort_unstable();
        hand = classes.iter().take(k).map(|&(_, _, class)| class).collect();
        for &class in &hand {
            taken[class] += 1;
        }
    }
    hand.sort_unstable();
    hand
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_any_number_of_nodes_every_class_is_seen_almost_equally_often() {
        for k in 1..=6 {
            let mut seen = [0_usize; 6];
            for node in 0..40 {
                let hand = deal(node, k, 6);
                assert_eq!(hand.len(), k);
                assert!(hand.windows(2).all(|pair| pair[0] < pair[1]));
                hand.iter().for_each(|&class| seen[class] += 1);
                let most = seen.iter().max().expect("six");
                let least = seen.iter().min().expect("six");
                assert!(most - least <= 1, "k {k} node {node}: {seen:?}");
            }
        }
    }

    #[test]
    fn nodes_get_different_hands_and_the_same_one_each_time() {
        let hands: std::collections::BTreeSet<_> = (0..12).map(|n| deal(n, 3, 6)).collect();
        assert!(hands.len() >= 8, "{hands:?}");
        assert_eq!(deal(5, 3, 6), deal(5, 3, 6));
        assert_eq!(deal(0, 9, 6), [0, 1, 2, 3, 4, 5]);
        assert!(deal(0, 0, 6).is_empty());
    }
}
