//! Fresh parameters from a seed.

use std::f64::consts::TAU;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Model, ModelError, ModelInfo, Params, roles, tensor};
use crate::graph::Graph;
use crate::ops::{ParamRole, ParamSpec};

impl Model {
    /// A model with freshly drawn parameters.
    ///
    /// Weights are normal with standard deviation `sqrt(2 / fan_in)`, biases 0, norms scale 1 and
    /// shift 0, running statistics mean 0 and variance 1. Weights and biases of recurrent layers are
    /// uniform within `1 / sqrt(hidden)` of 0, as in PyTorch. Parameters are drawn in the order of
    /// their names from one ChaCha8 stream, so the same seed gives the same bytes.
    ///
    /// # Errors
    /// [`ModelError`] when graph or description are invalid.
    ///
    /// # Source
    /// He et al. 2015, "Delving deep into rectifiers", equation 10.
    pub fn init(graph: Graph, info: ModelInfo, seed: u64) -> Result<Self, ModelError> {
        // Shapes are checked first: they decide how much is allocated.
        info.check(&graph.check()?)?;
        let mut normal = Normal::new(seed);
        let mut params = Params::new();
        for (name, spec) in roles(&graph) {
            let drawn = tensor(&name, draw(&spec, &mut normal), &spec.shape)?;
            params.insert(name, drawn);
        }
        Ok(Self {
            graph,
            params,
            info,
        })
    }
}

fn draw(spec: &ParamSpec, normal: &mut Normal) -> Vec<f32> {
    let count = spec.shape.iter().product();
    match (spec.role, spec.suffix) {
        (_, "weight_ih" | "weight_hh" | "bias_ih" | "bias_hh") => {
            // Three gates are stacked.
            let bound = 1.0 / (spec.shape[0] as f64 / 3.0).sqrt();
            let mut next = || ((2.0 * normal.unit() - 1.0) * bound) as f32;
            (0..count).map(|_| next()).collect()
        }
        (ParamRole::Weight, _) => {
            let fan_in: usize = spec.shape.iter().skip(1).product();
            let std = (2.0 / fan_in as f64).sqrt();
            (0..count).map(|_| (normal.next() * std) as f32).collect()
        }
        (ParamRole::Norm, "weight") | (ParamRole::Statistic, "running_var") => vec![1.0; count],
        (ParamRole::Bias | ParamRole::Norm | ParamRole::Statistic, _) => vec![0.0; count],
    }
}

/// Standard normal numbers by the Box-Muller transform.
///
/// Computed in f64 and rounded to f32 by the caller, so that a last-bit difference between two
/// platforms' `ln` and `cos` does not reach the parameters.
struct Normal {
    rng: ChaCha8Rng,
    spare: Option<f64>,
}

impl Normal {
    fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            spare: None,
        }
    }

    fn next(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let (sin, cos) = (TAU * self.unit()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// A number above 0 and below 1: 53 random bits and half a step, so that it has a logarithm.
    fn unit(&mut self) -> f64 {
        ((self.rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::values;
    use crate::zoo::{GruConfig, Norm, gru, resnet20};

    fn info() -> ModelInfo {
        ModelInfo {
            architecture: "resnet20".into(),
            input_mean: vec![0.5; 3],
            input_std: vec![0.25; 3],
            channels: Vec::new(),
            sampling_rate_hz: None,
            classes: (0..10).map(|c| c.to_string()).collect(),
            ..ModelInfo::default()
        }
    }

    fn bytes(m: &Model) -> Vec<u32> {
        m.params
            .iter()
            .flat_map(|(n, t)| values(n, t).unwrap())
            .map(f32::to_bits)
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let graph = resnet20(10, Norm::Batch).unwrap();
        let a = Model::init(graph.clone(), info(), 1).unwrap();
        let b = Model::init(graph.clone(), info(), 1).unwrap();
        let c = Model::init(graph, info(), 2).unwrap();
        assert_eq!(bytes(&a), bytes(&b));
        assert_ne!(bytes(&a), bytes(&c));
        a.check().unwrap();
    }

    #[test]
    fn weights_have_he_variance_and_norms_start_as_identity() {
        let graph = resnet20(10, Norm::Batch).unwrap();
        let m = Model::init(graph, info(), 3).unwrap();
        let name = "stage3.unit2.conv2.weight";
        let w = values(name, &m.params[name]).unwrap();
        let n = w.len() as f64;
        let mean = w.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = w.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        let want = 2.0 / (64.0 * 9.0);
        assert!(mean.abs() < 4.0 * (want / n).sqrt(), "mean {mean}");
        assert!(
            (var / want - 1.0).abs() < 0.03,
            "variance {var}, {want} wanted"
        );
        let at = |name: &str| values(name, &m.params[name]).unwrap();
        assert!(at("stem.norm.weight").iter().all(|&v| v == 1.0));
        assert!(at("stem.norm.bias").iter().all(|&v| v == 0.0));
        assert!(at("stem.norm.running_mean").iter().all(|&v| v == 0.0));
        assert!(at("stem.norm.running_var").iter().all(|&v| v == 1.0));
        assert!(at("head.bias").iter().all(|&v| v == 0.0));
    }

    #[test]
    fn recurrent_parameters_are_uniform_within_the_root_of_the_width() {
        let graph = gru(&GruConfig::new(3, 8, 10)).unwrap();
        let info = ModelInfo {
            architecture: "gru".into(),
            ..info()
        };
        let m = Model::init(graph, info, 4).unwrap();
        for suffix in ["weight_ih", "weight_hh", "bias_ih", "bias_hh"] {
            let name = format!("gru0.{suffix}");
            let v = values(&name, &m.params[&name]).unwrap();
            let n = v.len() as f32;
            let largest = v.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            // 1 / sqrt(64), and a variance of a third of its square.
            assert!(largest <= 0.125 && largest > 0.12, "{name}: {largest}");
            let square = v.iter().map(|v| v * v).sum::<f32>() / n;
            let want = 0.125_f32.powi(2) / 3.0;
            assert!(
                (square / want - 1.0).abs() < 3.0 / n.sqrt(),
                "{name}: {square}"
            );
        }
        let head = values("head.weight", &m.params["head.weight"]).unwrap();
        assert!(head.iter().any(|v| v.abs() > 0.25), "the head is normal");
    }

    #[test]
    fn the_normal_source_has_normal_tails() {
        let mut normal = Normal::new(5);
        let n = 200_000;
        let beyond_two = (0..n).filter(|_| normal.next().abs() > 2.0).count();
        let share = beyond_two as f64 / f64::from(n);
        assert!((share - 0.0455).abs() < 0.002, "share {share}");
    }
}
