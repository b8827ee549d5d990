//! What to do at each node of a graph, worked out once.
//!
//! Norms and rectifiers make no values of their own where their readers can read through a map: the
//! value they stand on is kept once, and read as they would have made it. A rectifier behind a sum is
//! part of the sum. For inference with fixed statistics both become the last touch of the product
//! they follow, residual sum included.

use crate::graph::{Checked, Source};
use crate::ops::norm::Norm;
use crate::ops::{Keeps, NormMode, Op};

/// A norm, or a rectifier, or both, over a stored value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chain {
    pub base: Source,
    pub norm: Option<usize>,
    pub most: Option<f32>,
}

/// What a node's value is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// A buffer that the node's operator makes.
    Made,
    /// A buffer that a product makes.
    Product,
    /// What a chain makes of its base while it is read.
    Seen(Chain),
    /// A buffer that a chain makes of its base.
    Copied(Chain),
    /// A buffer for the sum of the two values that node `of` reads, cut where a rectifier follows.
    Sum { of: usize, most: Option<f32> },
    /// A buffer that product `of` makes, put through a chain and perhaps added to another value.
    Folded {
        of: usize,
        norm: Option<usize>,
        other: Option<Source>,
        most: Option<f32>,
    },
    /// No value: part of another node's.
    Inner,
}

/// A graph's plan.
#[derive(Debug)]
pub(super) struct Plan {
    pub places: Vec<Place>,
    /// Whether the adjoint of each node runs.
    pub carries: Vec<bool>,
    /// Whether each node's buffer is read again by an adjoint.
    pub kept: Vec<bool>,
    /// What the adjoint of each node reads again.
    pub keeps: Vec<Keeps>,
    /// Last node whose forward reads the buffer of each node; itself if nobody does.
    pub last_reader: Vec<usize>,
    /// For a product whose value is read through one chain alone: the end of that chain.
    pub follower: Vec<Option<usize>>,
    /// Gradients that come back to each node.
    pub arrivals: Vec<usize>,
}

/// Nodes that read each node.
fn readers(graph: &Checked) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); graph.nodes.len()];
    for (i, sources) in graph.sources.iter().enumerate() {
        for source in sources {
            if let Source::Node(j) = *source {
                readers[j].push(i);
            }
        }
    }
    readers
}

fn is_product(op: &Op) -> bool {
    matches!(op, Op::Conv1d(_) | Op::Conv2d(_) | Op::Linear(_))
}

/// Whether an operator reads through maps.
fn sees(op: &Op) -> bool {
    is_product(op) || *op == Op::Add
}

impl Plan {
    /// `keep`: values are kept for an adjoint.
    pub(super) fn new(graph: &Checked, trainable: &[bool], mode: NormMode, keep: bool) -> Self {
        let readers = readers(graph);
        let mut places = Vec::with_capacity(graph.nodes.len());
        for (i, node) in graph.nodes.iter().enumerate() {
            let place = if is_product(&node.op) {
                Place::Product
            } else if node.op == Op::Add {
                Place::Sum { of: i, most: None }
            } else if Norm::of(&node.op).is_some() || node.op.rectifies_to().is_some() {
                end_of_chain(graph, &readers, &mut places, i)
            } else {
                Place::Made
            };
            // Whoever cannot read through a map gets a buffer.
            if !sees(&node.op) {
                for source in &graph.sources[i] {
                    if !matches!(place, Place::Seen(_) | Place::Copied(_)) {
                        copy_out(&mut places, *source);
                    }
                }
            }
            places.push(place);
        }
        copy_out(&mut places, Source::Node(graph.output));
        if !keep {
            fold(graph, &readers, mode, &mut places);
        }
        let (carries, kept, keeps) = flows(graph, trainable, mode, &places);
        let follower = (0..places.len())
            .map(|i| {
                let only = places.iter().enumerate().filter(|(_, p)| match p {
                    Place::Seen(c) | Place::Copied(c) => c.base == Source::Node(i),
                    _ => false,
                });
                let ends: Vec<usize> = only.map(|(end, _)| end).collect();
                match (places[i], ends.as_slice(), readers[i].as_slice()) {
                    (Place::Product, &[end], &[_]) => Some(end),
                    _ => None,
                }
            })
            .collect();
        let mut plan = Self {
            places,
            carries,
            kept,
            keeps,
            last_reader: (0..graph.nodes.len()).collect(),
            follower,
            arrivals: vec![0; graph.nodes.len()],
        };
        for i in (0..graph.nodes.len()).filter(|&i| plan.carries[i]) {
            for source in plan.reads(graph, i) {
                if let Source::Node(j) = source {
                    plan.arrivals[j] += 1;
                }
            }
        }
        plan.last_reader = plan.find_last_readers(graph);
        plan
    }

    /// The stored value behind a source, and the node through whose chain it is read.
    pub(super) fn behind(&self, source: Source) -> (Source, Option<usize>) {
        match source {
            Source::Node(j) => match self.places[j] {
                Place::Seen(chain) => (chain.base, Some(j)),
                _ => (source, None),
            },
            Source::Input => (source, None),
        }
    }

    /// The sources whose values node `i` reads when it is its turn.
    pub(super) fn reads(&self, graph: &Checked, i: usize) -> Vec<Source> {
        match self.places[i] {
            Place::Inner => Vec::new(),
            Place::Seen(chain) | Place::Copied(chain) => vec![chain.base],
            Place::Sum { of, .. } => graph.sources[of].clone(),
            Place::Folded { of, other, .. } => {
                graph.sources[of].iter().copied().chain(other).collect()
            }
            Place::Made | Place::Product => graph.sources[i].clone(),
        }
    }

    fn find_last_readers(&self, graph: &Checked) -> Vec<usize> {
        let n = graph.nodes.len();
        let mut last: Vec<usize> = (0..n).collect();
        for i in 0..n {
            for source in self.reads(graph, i) {
                if let (Source::Node(j), _) = self.behind(source) {
                    last[j] = i;
                }
            }
        }
        // The output belongs to the caller until the next call.
        last[graph.output] = n;
        last
    }
}

/// A norm's or rectifier's place; what it swallows becomes [`Place::Inner`].
fn end_of_chain(graph: &Checked, readers: &[Vec<usize>], places: &mut [Place], i: usize) -> Place {
    let source = graph.sources[i][0];
    let most = graph.nodes[i].op.rectifies_to();
    let norm = most.is_none().then_some(i);
    if let (Some(most), Source::Node(j)) = (most, source) {
        let alone = readers[j].len() == 1 && j != graph.output;
        match places[j] {
            Place::Sum { of, most: None } if alone => {
                places[j] = Place::Inner;
                return Place::Sum {
                    of,
                    most: Some(most),
                };
            }
            Place::Seen(chain) if alone && chain.most.is_none() => {
                places[j] = Place::Inner;
                return Place::Seen(Chain {
                    most: Some(most),
                    ..chain
                });
            }
            _ => {}
        }
    }
    copy_out(places, source);
    Place::Seen(Chain {
        base: source,
        norm,
        most,
    })
}

/// Gives a value that is only seen a buffer of its own.
fn copy_out(places: &mut [Place], source: Source) {
    if let Source::Node(j) = source
        && let Place::Seen(chain) = places[j]
    {
        places[j] = Place::Copied(chain);
    }
}

/// Makes chains with fixed statistics, and sums, the last touch of the product they follow.
fn fold(graph: &Checked, readers: &[Vec<usize>], mode: NormMode, places: &mut [Place]) {
    let is_fixed = |norm: Option<usize>| {
        norm.and_then(|n| Norm::of(&graph.nodes[n].op))
            .is_none_or(|n| n.is_fixed(mode))
    };
    for i in 0..places.len() {
        if let Place::Seen(Chain {
            base: Source::Node(of),
            norm,
            most,
        })
        | Place::Copied(Chain {
            base: Source::Node(of),
            norm,
            most,
        }) = places[i]
            && places[of] == Place::Product
            && readers[of].len() == 1
            && of != graph.output
            && is_fixed(norm)
        {
            places[of] = Place::Inner;
            places[i] = Place::Folded {
                of,
                norm,
                other: None,
                most,
            };
        }
    }
    for i in 0..places.len() {
        let Place::Sum { of, most } = places[i] else {
            continue;
        };
        let [a, b] = graph.sources[of][..] else {
            continue;
        };
        for (mine, other) in [(a, b), (b, a)] {
            let Source::Node(j) = mine else { continue };
            let alone = readers[j].len() == 1 && j != graph.output;
            // A product may run over its samples as if they were one; what is added to it then has to be
            // the same function of all of them.
            if let Source::Node(o) = other
                && let Place::Seen(chain) = places[o]
                && !is_fixed(chain.norm)
            {
                continue;
            }
            let folded = match places[j] {
                Place::Product => Some((j, None)),
                Place::Folded {
                    of,
                    norm,
                    other: None,
                    most: None,
                } => Some((of, norm)),
                _ => None,
            };
            if let (Some((of, norm)), true) = (folded, alone) {
                places[j] = Place::Inner;
                places[i] = Place::Folded {
                    of,
                    norm,
                    other: Some(other),
                    most,
                };
                break;
            }
        }
    }
}

/// Where gradients go, and what they need.
fn flows(
    graph: &Checked,
    trainable: &[bool],
    mode: NormMode,
    places: &[Place],
) -> (Vec<bool>, Vec<bool>, Vec<Keeps>) {
    let n = graph.nodes.len();
    let (mut carries, mut kept) = (vec![false; n], vec![false; n]);
    let mut keeps = vec![Keeps::default(); n];
    let mut first_param = 0;
    let mut own = Vec::with_capacity(n);
    for (i, node) in graph.nodes.iter().enumerate() {
        let count = node.op.params().len();
        own.push(&trainable[first_param..first_param + count]);
        first_param += count;
        let below = graph.sources[i]
            .iter()
            .any(|s| matches!(s, Source::Node(j) if carries[*j]));
        carries[i] = below || own[i].contains(&true);
    }
    let keep = |kept: &mut Vec<bool>, source: Source| {
        let behind = match source {
            Source::Node(j) => match places[j] {
                Place::Seen(chain) => chain.base,
                _ => source,
            },
            Source::Input => source,
        };
        if let Source::Node(j) = behind {
            kept[j] = true;
        }
    };
    for (i, node) in graph.nodes.iter().enumerate() {
        if !carries[i] {
            continue;
        }
        let below = graph.sources[i]
            .iter()
            .any(|s| matches!(s, Source::Node(j) if carries[*j]));
        match places[i] {
            Place::Made | Place::Product => {
                keeps[i] = node.op.keeps(below, own[i], mode);
                kept[i] |= keeps[i].output;
                if keeps[i].inputs {
                    for &source in &graph.sources[i] {
                        keep(&mut kept, source);
                    }
                }
            }
            Place::Sum { most, .. } => kept[i] |= most.is_some(),
            Place::Seen(chain) | Place::Copied(chain) => {
                let of_norm = chain.norm.is_some_and(|norm| {
                    let below = matches!(chain.base, Source::Node(j) if carries[j]);
                    graph.nodes[norm].op.keeps(below, own[norm], mode).inputs
                });
                if of_norm || chain.most.is_some() {
                    keep(&mut kept, chain.base);
                }
            }
            Place::Inner | Place::Folded { .. } => {}
        }
    }
    (carries, kept, keeps)
}
