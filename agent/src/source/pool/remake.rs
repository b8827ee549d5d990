//! Images that all have one size, made as a model wants them.

use lamplight_models::graph::Shape;
use lamplight_models::image::{ImageError, ImageInput, ImageRule, ValueRange};

/// How a pool's images, `own` with values from 0 to 1, reach a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The rule that describes what comes of it.
    pub(super) rule: ImageRule,
    /// What to make of every image; `None` where they stay as they are.
    pub(super) to: Option<ImageInput>,
}

/// What to do for a model that takes images like this. For one that does not say, and for one of
/// another number of channels (which is refused by name later), images stay as they are.
///
/// # Errors
/// [`ImageError`] when these images are too small for a model that does not scale them.
pub(super) fn plan(own: &Shape, wanted: Option<&ImageInput>) -> Result<Option<Plan>, ImageError> {
    let &[channels, height, width] = own.as_slice() else {
        return Ok(None);
    };
    let Some(wanted) = wanted.filter(|wanted| wanted.shape()[0] == channels) else {
        return Ok(Some(Plan {
            rule: ImageRule::of_size(height, width, ValueRange::Unit),
            to: None,
        }));
    };
    // All have one size: what fits one fits all.
    let geometry = wanted.geometry(height, width)?;
    let stays = wanted.shape() == [channels, height, width]
        && geometry.scaled == [height, width]
        && wanted.rule().range == ValueRange::Unit;
    Ok(Some(Plan {
        rule: wanted.rule(),
        to: (!stays).then_some(*wanted),
    }))
}

/// Makes inputs of images.
///
/// # Shapes
/// `x`: samples of `own = [C, h, w]`, bytes as numbers from 0 to 1; result: as many of `to.shape()`.
/// # Errors
/// [`ImageError`] as [`plan`] finds it.
pub(super) fn remake(x: &[f32], own: &Shape, to: &ImageInput) -> Result<Vec<f32>, ImageError> {
    let &[channels, height, width] = own.as_slice() else {
        return Err(ImageError::Input(own.clone()));
    };
    let plane = height * width;
    let mut made = Vec::with_capacity(
        x.len() / (channels * plane).max(1) * to.shape().iter().product::<usize>(),
    );
    for image in x.chunks_exact(channels * plane) {
        // Exactly the byte that the number was made of.
        let byte = |channel: usize, at: usize| (image[channel * plane + at] * 255.0).round() as u8;
        made.extend(to.apply_with(height, width, |row, column| {
            [0, 1, 2].map(|c| byte(c.min(channels - 1), row * width + column))
        })?);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamplight_models::image::Resize;

    #[test]
    fn every_byte_comes_back_and_is_put_into_the_models_range() {
        let own = vec![1, 16, 16];
        let x: Vec<f32> = (0..=255_u8).map(super::super::unit).collect();
        let to = ImageRule::of_size(16, 16, ValueRange::Byte);
        let to = ImageInput::new(to, &own).expect("a rule");
        let plan = plan(&own, Some(&to)).expect("fits").expect("images");
        let made = remake(&x, &own, &plan.to.expect("another range")).expect("made");
        let want: Vec<f32> = (0..=255_u8).map(f32::from).collect();
        assert_eq!(made, want);
    }

    #[test]
    fn images_are_made_anew_only_where_the_model_wants_others() {
        let own = vec![3, 32, 32];
        let unit = |side| ImageRule::of_size(side, side, ValueRange::Unit);
        let input = |rule, side| ImageInput::new(rule, &[3, side, side]).expect("a rule");
        let to = |wanted: Option<ImageInput>| {
            let plan = plan(&own, wanted.as_ref()).expect("fits").expect("images");
            (plan.rule, plan.to.is_some())
        };
        assert_eq!(to(None), (unit(32), false));
        assert_eq!(to(Some(input(unit(32), 32))), (unit(32), false));
        assert_eq!(to(Some(input(unit(64), 64))), (unit(64), true));
        // The middle only.
        assert_eq!(to(Some(input(unit(32), 16))), (unit(32), true));
        let x = vec![0.0; 2 * 3 * 32 * 32];
        let small = input(unit(32), 16);
        let made = remake(&x, &own, &small).expect("made");
        assert_eq!(made.len(), 2 * 3 * 16 * 16);
        // Too small, and nothing to scale.
        let rule = ImageRule {
            resize: Resize::None,
            range: ValueRange::Unit,
        };
        let e = plan(&own, Some(&input(rule, 40))).expect_err("too small");
        assert!(e.to_string().contains("32 x 32"), "{e}");
        // A table's windows are no images.
        assert!(plan(&vec![6, 128], Some(&small)).expect("none").is_none());
    }
}
