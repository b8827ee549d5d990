//! Validation and shape inference: from a [`Graph`] anybody may have written to a [`Checked`] one.

use std::collections::HashMap;

use super::{Graph, Node, Shape};
use crate::ops::{ParamSpec, ShapeError};

/// Nodes a graph may have: far above any network for a node, low enough that a hostile file cannot
/// make validation slow.
pub const MAX_NODES: usize = 10_000;

/// Values in one activation of one sample; stops shapes that could never be held in memory.
pub const MAX_VALUES: usize = 1 << 31;

/// What is wrong with a graph; every variant names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two nodes share a name, or a node is named like the graph's input.
    #[error("node name `{0}` is used twice or is reserved")]
    DuplicateName(String),
    /// A name would not survive as part of a parameter name.
    #[error("node name `{0}` must be 1 to 64 characters of a-z, A-Z, 0-9, `_`, `-` or `.`")]
    BadName(String),
    /// A node reads a value nobody makes.
    #[error("node `{node}` reads `{value}`, which no node makes")]
    MissingValue {
        /// The reader.
        node: String,
        /// The value it reads.
        value: String,
    },
    /// The output names a value nobody makes.
    #[error("the graph's output `{0}` is not a node")]
    MissingOutput(String),
    /// Nodes that wait for each other.
    #[error("node `{0}` is part of a cycle")]
    Cycle(String),
    /// A node's value is never read and is not the output.
    #[error("the value of node `{0}` is never used")]
    Unused(String),
    /// Operator and input shapes do not fit.
    #[error("node `{node}` ({kind}): {source}")]
    Shape {
        /// The node.
        node: String,
        /// Its operator.
        kind: &'static str,
        /// What does not fit.
        source: ShapeError,
    },
    /// The graph's own input shape is empty, has a zero, or is too large.
    #[error("input shape {0:?} must have 1 to 3 dimensions, none of them zero, and a sane size")]
    Input(Shape),
    /// Too many nodes.
    #[error("graph has {got} nodes, at most {max} are allowed")]
    TooManyNodes {
        /// Nodes found.
        got: usize,
        /// Nodes allowed.
        max: usize,
    },
    /// An activation too large to ever hold.
    #[error("the value of node `{node}` has shape {shape:?}, which is too large")]
    TooLarge {
        /// The node.
        node: String,
        /// Its output shape.
        shape: Shape,
    },
}

/// Where a node reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The graph's input.
    Input,
    /// The value of the node at this place in [`Checked::nodes`].
    Node(usize),
}

/// A valid graph: nodes in topological order, with resolved inputs and known shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Input shape of one sample.
    pub input: Shape,
    /// Nodes such that each reads only earlier ones.
    pub nodes: Vec<Node>,
    /// For each node, where its inputs come from.
    pub sources: Vec<Vec<Source>>,
    /// For each node, the shape of its value (no batch dimension).
    pub shapes: Vec<Shape>,
    /// Place of the output node.
    pub output: usize,
}

impl Checked {
    /// Shape of the value at `source`.
    #[must_use]
    pub fn shape(&self, source: Source) -> &Shape {
        match source {
            Source::Input => &self.input,
            Source::Node(i) => &self.shapes[i],
        }
    }

    /// Every parameter as `(full name, spec)`, in node order.
    pub fn params(&self) -> impl Iterator<Item = (String, ParamSpec)> + '_ {
        self.nodes.iter().flat_map(|n| {
            n.op.params()
                .into_iter()
                .map(move |p| (format!("{}.{}", n.name, p.suffix), p))
        })
    }
}

fn named_well(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn fits(shape: &Shape) -> bool {
    shape
        .iter()
        .try_fold(1_usize, |n, &d| n.checked_mul(d))
        .is_some_and(|n| (1..=MAX_VALUES).contains(&n))
}

impl Graph {
    /// Validates the graph and infers every shape.
    ///
    /// # Errors
    /// [`GraphError`], naming the node at fault.
    pub fn check(&self) -> Result<Checked, GraphError> {
        if self.nodes.len() > MAX_NODES {
            return Err(GraphError::TooManyNodes {
                got: self.nodes.len(),
                max: MAX_NODES,
            });
        }
        if !(1..=3).contains(&self.input.len()) || !fits(&self.input) {
            return Err(GraphError::Input(self.input.clone()));
        }
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            if !named_well(&node.name) {
                return Err(GraphError::BadName(node.name.clone()));
            }
            if node.name == Self::INPUT || places.insert(&node.name, i).is_some() {
                return Err(GraphError::DuplicateName(node.name.clone()));
            }
            // Before inputs are followed: a node with a million of them would make each step slow.
            let (got, want) = (node.inputs.len(), node.op.arity());
            if got != want {
                return Err(GraphError::Shape {
                    node: node.name.clone(),
                    kind: node.op.kind(),
                    source: ShapeError::Arity { want, got },
                });
            }
        }
        let output = *places
            .get(self.output.as_str())
            .ok_or_else(|| GraphError::MissingOutput(self.output.clone()))?;
        let order = self.topological(&places)?;
        self.all_used(output)?;

        let mut at = vec![0; self.nodes.len()];
        for (place, &i) in order.iter().enumerate() {
            at[i] = place;
        }
        let mut checked = Checked {
            input: self.input.clone(),
            nodes: Vec::with_capacity(order.len()),
            sources: Vec::with_capacity(order.len()),
            shapes: Vec::with_capacity(order.len()),
            output: at[output],
        };
        for &i in &order {
            let node = &self.nodes[i];
            let sources: Vec<Source> = node
                .inputs
                .iter()
                .map(|name| match places.get(name.as_str()) {
                    Some(&j) => Source::Node(at[j]),
                    None => Source::Input,
                })
                .collect();
            let inputs: Vec<&Shape> = sources.iter().map(|&s| checked.shape(s)).collect();
            let shape = node
                .op
                .output_shape(&inputs)
                .map_err(|source| GraphError::Shape {
                    node: node.name.clone(),
                    kind: node.op.kind(),
                    source,
                })?;
            let params_fit = node.op.params().iter().all(|p| fits(&p.shape));
            if !fits(&shape) || !params_fit {
                return Err(GraphError::TooLarge {
                    node: node.name.clone(),
                    shape,
                });
            }
            checked.nodes.push(node.clone());
            checked.sources.push(sources);
            checked.shapes.push(shape);
        }
        Ok(checked)
    }

    /// Kahn's algorithm; ties are broken by the order in the file, so that the result is stable.
    fn topological(&self, places: &HashMap<&str, usize>) -> Result<Vec<usize>, GraphError> {
        let n = self.nodes.len();
        let mut waiting = vec![0_usize; n];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); n];
        for (i, node) in self.nodes.iter().enumerate() {
            for name in &node.inputs {
                if name == Self::INPUT {
                    continue;
                }
                let &j = places
                    .get(name.as_str())
                    .ok_or_else(|| GraphError::MissingValue {
                        node: node.name.clone(),
                        value: name.clone(),
                    })?;
                waiting[i] += 1;
                readers[j].push(i);
            }
        }
        let mut ready: std::collections::BTreeSet<usize> =
            (0..n).filter(|&i| waiting[i] == 0).collect();
        let mut order = Vec::with_capacity(n);
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for &r in &readers[i] {
                waiting[r] -= 1;
                if waiting[r] == 0 {
                    ready.insert(r);
                }
            }
        }
        let Some(mut i) = (0..n).find(|&i| waiting[i] > 0) else {
            return Ok(order);
        };
        // A node left over may only stand behind a cycle; n steps back along unfinished inputs
        // end inside it.
        for _ in 0..n {
            let back = self.nodes[i].inputs.iter();
            i = back
                .filter_map(|name| places.get(name.as_str()).copied())
                .find(|&j| waiting[j] > 0)
                .unwrap_or(i);
        }
        Err(GraphError::Cycle(self.nodes[i].name.clone()))
    }

    fn all_used(&self, output: usize) -> Result<(), GraphError> {
        let read: std::collections::HashSet<&str> = self
            .nodes
            .iter()
            .flat_map(|n| n.inputs.iter().map(String::as_str))
            .collect();
        for (i, node) in self.nodes.iter().enumerate() {
            if i != output && !read.contains(node.name.as_str()) {
                return Err(GraphError::Unused(node.name.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Gru, GruOutput, Linear, Op};

    fn linear(name: &str, from: &str, i: usize, o: usize) -> Node {
        Node {
            name: name.into(),
            op: Op::Linear(Linear {
                in_features: i,
                out_features: o,
                bias: true,
            }),
            inputs: vec![from.into()],
        }
    }

    fn graph(nodes: Vec<Node>, output: &str) -> Graph {
        Graph {
            input: vec![4],
            nodes,
            output: output.into(),
        }
    }

    #[test]
    fn nodes_in_any_order_come_out_topological() {
        let c = graph(
            vec![linear("b", "a", 3, 2), linear("a", "input", 4, 3)],
            "b",
        )
        .check()
        .expect("valid");
        assert_eq!(c.nodes[0].name, "a");
        assert_eq!(c.sources, vec![vec![Source::Input], vec![Source::Node(0)]]);
        assert_eq!(c.shapes, vec![vec![3], vec![2]]);
        assert_eq!(c.output, 1);
    }

    #[test]
    fn a_cycle_names_a_node_in_it() {
        let e = graph(vec![linear("a", "b", 4, 4), linear("b", "a", 4, 4)], "b").check();
        assert_eq!(e, Err(GraphError::Cycle("a".into())));
        let nodes = vec![
            linear("behind", "b", 4, 4),
            linear("a", "b", 4, 4),
            linear("b", "a", 4, 4),
        ];
        let e = graph(nodes, "behind").check().expect_err("cycle");
        assert!(matches!(e, GraphError::Cycle(n) if n != "behind"));
    }

    #[test]
    fn a_missing_value_names_reader_and_value() {
        let e = graph(vec![linear("a", "ghost", 4, 4)], "a").check();
        assert_eq!(
            e,
            Err(GraphError::MissingValue {
                node: "a".into(),
                value: "ghost".into()
            })
        );
    }

    #[test]
    fn a_shape_clash_names_the_node() {
        let e = graph(
            vec![linear("a", "input", 4, 3), linear("b", "a", 5, 2)],
            "b",
        )
        .check()
        .expect_err("clash");
        assert_eq!(
            e.to_string(),
            "node `b` (linear): wants 5 channels, got 3 in shape [3]"
        );
    }

    #[test]
    fn names_are_checked_and_every_value_is_used() {
        let twice = graph(
            vec![linear("a", "input", 4, 4), linear("a", "input", 4, 4)],
            "a",
        );
        assert_eq!(twice.check(), Err(GraphError::DuplicateName("a".into())));
        let odd = graph(vec![linear("a/b", "input", 4, 4)], "a/b");
        assert_eq!(odd.check(), Err(GraphError::BadName("a/b".into())));
        let unused = graph(
            vec![linear("a", "input", 4, 4), linear("b", "input", 4, 4)],
            "a",
        );
        assert_eq!(unused.check(), Err(GraphError::Unused("b".into())));
        let nowhere = graph(vec![linear("a", "input", 4, 4)], "z");
        assert_eq!(nowhere.check(), Err(GraphError::MissingOutput("z".into())));
    }

    #[test]
    fn surplus_inputs_are_refused_before_any_is_followed() {
        // In a cycle: had its inputs been followed, the cycle would have been found first.
        let mut a = linear("a", "b", 4, 4);
        a.inputs = vec!["b".into(); 3];
        let error = graph(vec![a, linear("b", "a", 4, 4)], "b").check();
        assert_eq!(
            error.expect_err("refused").to_string(),
            "node `a` (linear): takes 1 input(s), got 3"
        );
    }

    #[test]
    fn sizes_that_overflow_are_errors_not_panics() {
        let mut g = graph(vec![linear("a", "input", 4, usize::MAX)], "a");
        assert!(matches!(g.check(), Err(GraphError::TooLarge { .. })));
        g.input = vec![usize::MAX, usize::MAX];
        assert!(matches!(g.check(), Err(GraphError::Input(_))));
    }

    #[test]
    fn recurrent_layers_of_hostile_sizes_are_errors_not_panics() {
        let check = |shape: [usize; 2], input, hidden, output| {
            let op = Op::Gru(Gru {
                input,
                hidden,
                output,
            });
            let node = Node {
                name: "g".into(),
                op,
                inputs: vec!["input".into()],
            };
            let mut graph = graph(vec![node], "g");
            graph.input = shape.to_vec();
            let _ = graph.nodes[0].op.params();
            graph.check().map(|checked| checked.shapes[0].clone())
        };
        use GruOutput::{Last, Sequence};
        assert_eq!(check([3, 8], 3, 5, Sequence), Ok(vec![5, 8]));
        assert_eq!(check([3, 8], 3, 5, Last), Ok(vec![5]));
        for output in [Sequence, Last] {
            let error = |shape, input, hidden| {
                let error = check(shape, input, hidden, output).expect_err("refused");
                error.to_string()
            };
            assert_eq!(
                error([4, 8], 3, 5),
                "node `g` (gru): wants 3 channels, got 4 in shape [4, 8]"
            );
            assert!(error([3, 8], 3, 0).contains("at least 1"));
            assert!(error([3, 8], 0, 5).contains("at least 1"));
            // Its square does not fit, nor does three times it, nor its product with the steps.
            for hidden in [1 << 20, usize::MAX / 3, usize::MAX / 3 + 1, usize::MAX] {
                let error = error([3, 8], 3, hidden);
                assert!(error.contains("`g`"), "{error}");
            }
            // All states of a sample are held, also where only the last is given on.
            let error = error([1, 1 << 30], 1, 64);
            assert!(error.contains("over 1073741824 time steps"), "{error}");
        }
    }
}
