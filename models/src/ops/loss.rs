//! Softmax cross entropy: where training starts to walk back.

use super::{OpError, expect_len};

/// Mean of `-log softmax(logits)[label]` over the batch; writes its gradient
/// `(softmax - onehot) / B` when asked.
///
/// The largest logit is subtracted first, so that no exponential overflows.
///
/// # Shapes
/// logits and grad `[B, classes]`, labels `[B]`
/// # Errors
/// [`OpError::Label`] when a label is no class, [`OpError::Length`] when a buffer does not fit.
pub fn softmax_cross_entropy(
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    mut grad: Option<&mut [f32]>,
) -> Result<f64, OpError> {
    expect_len("the logits", logits.len(), labels.len() * classes)?;
    if let Some(grad) = &grad {
        expect_len("the logits' gradient", grad.len(), logits.len())?;
    }
    if let Some((sample, &label)) = labels
        .iter()
        .enumerate()
        .find(|&(_, &label)| label as usize >= classes)
    {
        return Err(OpError::Label {
            sample,
            label,
            classes,
        });
    }
    if labels.is_empty() {
        return Ok(0.0);
    }
    let share = 1.0 / labels.len() as f64;
    let mut loss = 0.0_f64;
    for (i, (row, &label)) in logits.chunks_exact(classes).zip(labels).enumerate() {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps = row.iter().map(|&z| f64::from(z - top).exp());
        let sum: f64 = exps.clone().sum();
        loss += sum.ln() - f64::from(row[label as usize] - top);
        if let Some(grad) = &mut grad {
            let grad = &mut grad[i * classes..][..classes];
            for (g, e) in grad.iter_mut().zip(exps) {
                *g = (e / sum * share) as f32;
            }
            grad[label as usize] =
                ((f64::from(row[label as usize] - top).exp() / sum - 1.0) * share) as f32;
        }
    }
    Ok(loss * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_class_count() {
        let mut grad = [0.0; 8];
        let loss = softmax_cross_entropy(&[3.0; 8], &[1, 2], 4, Some(&mut grad)).expect("loss");
        assert!((loss - 4.0_f64.ln()).abs() < 1e-12);
        assert_eq!(grad[..4], [0.125, -0.375, 0.125, 0.125]);
    }

    #[test]
    fn huge_logits_stay_finite() {
        let loss = softmax_cross_entropy(&[1e4, -1e4], &[1], 2, None).expect("loss");
        assert_eq!(loss, 2e4);
    }

    #[test]
    fn not_a_number_is_seen() {
        let loss = softmax_cross_entropy(&[f32::NAN, 1.0], &[1], 2, None).expect("loss");
        assert!(loss.is_nan());
    }

    #[test]
    fn a_label_beyond_the_classes_is_named() {
        let e = softmax_cross_entropy(&[0.0; 4], &[0, 2], 2, None).expect_err("label");
        assert_eq!(
            e.to_string(),
            "sample 1 has label 2, but there are 2 classes"
        );
    }
}
