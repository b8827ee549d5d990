//! Which parameters a run moves.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::ops::{ParamRole, ParamSpec};

/// Which parameters move; all others stay exactly as the base has them, and are in no delta.
///
/// # Source
/// `bias`: Ben Zaken et al. 2022 (BitFit); `norm`: Frankle et al. 2021; `head`: linear probing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trainable {
    /// Every parameter but running statistics.
    #[default]
    All,
    /// Those of the last layer with weights before the logits.
    Head,
    /// Every bias, the shifts of norms included.
    Bias,
    /// Scale and shift of every norm.
    Norm,
}

/// No such set of parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trainable set {0:?} is not known; known: all, head, bias, norm")]
pub struct UnknownTrainable(String);

impl Trainable {
    /// Every set there is.
    pub const EVERY: [Self; 4] = [Self::All, Self::Head, Self::Bias, Self::Norm];

    /// The name in files and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Head => "head",
            Self::Bias => "bias",
            Self::Norm => "norm",
        }
    }

    /// Full names of the graph's parameters that move. May be empty: a net without norms has none
    /// to train.
    #[must_use]
    pub fn names(self, graph: &Graph) -> BTreeSet<String> {
        let head = (self == Self::Head).then(|| head(graph)).flatten();
        let of_node = |node: &crate::graph::Node| {
            let (name, is_head) = (node.name.clone(), head == Some(node.name.as_str()));
            node.op
                .params()
                .into_iter()
                .filter(move |p| p.role != ParamRole::Statistic && self.covers(p, is_head))
                .map(move |p| format!("{name}.{}", p.suffix))
        };
        graph.nodes.iter().flat_map(of_node).collect()
    }

    fn covers(self, param: &ParamSpec, is_head: bool) -> bool {
        match self {
            Self::All => true,
            Self::Head => is_head,
            // The shifts of norms are called so, too.
            Self::Bias => param.role == ParamRole::Bias || param.suffix == "bias",
            Self::Norm => param.role == ParamRole::Norm,
        }
    }
}

/// Going back from the output, the first node with weights. Where ways part, the first input's is
/// gone; a head stands before they do.
fn head(graph: &Graph) -> Option<&str> {
    let mut name = graph.output.as_str();
    // A graph that has not been checked may go in circles.
    for _ in 0..graph.nodes.len() {
        let node = graph.nodes.iter().find(|n| n.name == name)?;
        if (node.op.params().iter()).any(|p| p.role == ParamRole::Weight) {
            return Some(&node.name);
        }
        name = node.inputs.first()?;
    }
    None
}

impl fmt::Display for Trainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Trainable {
    type Err = UnknownTrainable;
    fn from_str(text: &str) -> Result<Self, UnknownTrainable> {
        Self::EVERY
            .into_iter()
            .find(|t| t.as_str() == text)
            .ok_or_else(|| UnknownTrainable(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::{small_model, tcn_model};
    use crate::zoo::{GruConfig, gru};

    fn names(t: Trainable) -> Vec<String> {
        t.names(&small_model(1).graph).into_iter().collect()
    }

    #[test]
    fn each_set_names_its_parameters_and_never_a_statistic() {
        assert_eq!(names(Trainable::Head), ["head.bias", "head.weight"]);
        assert_eq!(names(Trainable::Bias), ["block0.norm.bias", "head.bias"]);
        let norm = ["block0.norm.bias", "block0.norm.weight"];
        assert_eq!(names(Trainable::Norm), norm);
        assert_eq!(names(Trainable::All).len(), 5);
    }

    #[test]
    fn the_head_of_a_deeper_net_is_its_last_layer() {
        let head = Trainable::Head.names(&tcn_model(1).graph);
        let all = Trainable::All.names(&tcn_model(1).graph);
        assert_eq!(head.len(), 2, "{head:?}");
        assert!(head.is_subset(&all) && all.len() > 8);
    }

    #[test]
    fn both_biases_of_a_recurrent_layer_are_biases() {
        let graph = gru(&GruConfig::new(2, 8, 3)).unwrap();
        let biases = Trainable::Bias.names(&graph);
        let want = ["gru0.bias_hh", "gru0.bias_ih", "head.bias"];
        assert_eq!(biases.into_iter().collect::<Vec<_>>(), want);
        assert!(Trainable::Norm.names(&graph).is_empty());
        assert_eq!(Trainable::All.names(&graph).len(), 6);
    }

    #[test]
    fn a_graph_that_goes_in_circles_has_no_head() {
        let mut graph = small_model(1).graph;
        for node in &mut graph.nodes {
            node.inputs = vec!["block0.relu".into()];
        }
        graph.output = "block0.relu".into();
        let _ = Trainable::Head.names(&graph);
    }

    #[test]
    fn names_are_read_back_and_others_are_refused() {
        for t in Trainable::EVERY {
            assert_eq!(t.as_str().parse(), Ok(t));
        }
        let e = "everything".parse::<Trainable>().unwrap_err();
        assert!(e.to_string().contains("all, head, bias, norm"), "{e}");
    }
}
