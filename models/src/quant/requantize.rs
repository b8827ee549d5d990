//! From exact parameters to the next file, keeping what rounding took away.

use super::gguf::{self, GgufError};
use crate::delta::{Delta, DeltaError};
use crate::model::Model;

/// A model as its readers will see it, and the file they read.
#[derive(Debug, Clone)]
pub struct Requantized {
    /// The GGUF file.
    pub bytes: Vec<u8>,
    /// The model every reader of `bytes` holds: the exact base of the next deltas.
    pub model: Model,
}

/// Quantizes `exact` into a file and reads it back.
///
/// # Errors
/// [`GgufError`] when the model is invalid or a weight is too large for its block's scale.
pub fn requantize(exact: &Model) -> Result<Requantized, GgufError> {
    let bytes = gguf::write(exact)?;
    let model = gguf::read(&bytes)?;
    Ok(Requantized { bytes, model })
}

impl Requantized {
    /// What rounding took away: `exact - model`, over the trainable parameters.
    ///
    /// An aggregator adds it to the next release's sum, so that updates smaller than half a
    /// quantization step are not lost but arrive later.
    ///
    /// # Errors
    /// [`DeltaError`] when `exact` is not the model that was quantized.
    pub fn rounding_error(&self, exact: &Model) -> Result<Delta, DeltaError> {
        Delta::between(&self.model, exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::tcn_model;
    use crate::model::values;
    use crate::ops::ParamRole;

    #[test]
    fn only_weights_round_and_by_at_most_half_a_step_and_the_scale_error() {
        let exact = tcn_model(11);
        let out = requantize(&exact).unwrap();
        let error = out.rounding_error(&exact).unwrap();
        for (name, spec) in exact.roles() {
            let (_, lost) = &error.tensors[&name];
            let worst = lost.iter().fold(0_f32, |m, v| m.max(v.abs()));
            let weights = values(&name, &exact.params[&name]).unwrap();
            let largest = weights.iter().fold(0_f32, |m, v| m.max(v.abs()));
            if spec.role == ParamRole::Weight {
                // Half a step of the largest block, plus 127 steps of a scale rounded to 11 bits.
                let bound = largest / 127.0 * (0.5 + 127.0 / 2048.0) * 1.001;
                assert!(
                    worst > 0.0 && worst <= bound,
                    "`{name}`: {worst} above {bound}"
                );
            } else {
                assert_eq!(worst, 0.0, "`{name}` is stored as F32");
            }
        }
    }

    #[test]
    fn adding_the_rounding_error_back_recovers_the_exact_parameters() {
        let exact = tcn_model(12);
        let out = requantize(&exact).unwrap();
        let back = out
            .rounding_error(&exact)
            .unwrap()
            .apply(&out.model)
            .unwrap();
        for (name, tensor) in &exact.params {
            let want = values(name, tensor).unwrap();
            let got = values(name, &back.params[name]).unwrap();
            let scale = want.iter().fold(0_f32, |m, v| m.max(v.abs()));
            for (g, w) in got.iter().zip(&want) {
                assert!(
                    (g - w).abs() <= f32::EPSILON * scale,
                    "`{name}`: {g}, {w} wanted"
                );
            }
        }
    }
}
