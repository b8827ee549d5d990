use super::*;
use proptest::prelude::*;

fn input(resize: Resize, range: ValueRange, shape: [usize; 3]) -> ImageInput {
    ImageInput::new(ImageRule { resize, range }, &shape).unwrap()
}

fn near(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{got:?}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-4 * w.abs().max(1.0), "{got:?}, {want:?}");
    }
}

#[test]
fn scaling_down_averages_with_a_triangle() {
    // Four pixels to two: the centres are at 1 and 3, the triangle reaches two pixels. Pixel
    // centres at .5, 1.5, 2.5 weigh 3/4, 3/4, 1/4, together 7/4; mirrored for the second.
    let to = input(Resize::Stretch, ValueRange::Byte, [1, 1, 2]);
    let got = to.apply(&[0, 100, 200, 40], 1, 4).unwrap();
    near(&got, &[500.0 / 7.0, 820.0 / 7.0]);
    // The same down a column.
    let to = input(Resize::Stretch, ValueRange::Byte, [1, 2, 1]);
    let got = to.apply(&[0, 100, 200, 40], 4, 1).unwrap();
    near(&got, &[500.0 / 7.0, 820.0 / 7.0]);
}

#[test]
fn scaling_up_interpolates_and_holds_the_border() {
    // Two pixels to four: the centres are at .25, .75, 1.25, 1.75.
    let to = input(Resize::Stretch, ValueRange::Byte, [1, 1, 4]);
    near(
        &to.apply(&[0, 100], 1, 2).unwrap(),
        &[0.0, 25.0, 75.0, 100.0],
    );
    // Both axes at once: rows 0, 100 and 100, 200 rise by 25 and 75 in each direction.
    let to = input(Resize::Stretch, ValueRange::Byte, [1, 4, 4]);
    let got = to.apply(&[0, 100, 100, 200], 2, 2).unwrap();
    let steps = [0.0, 25.0, 75.0, 100.0];
    let want: Vec<f32> = (0..16).map(|i| steps[i / 4] + steps[i % 4]).collect();
    near(&got, &want);
}

#[test]
fn channels_come_one_after_the_other_in_the_range_asked_for() {
    let rgb = [255, 0, 51, 0, 255, 102];
    let to = input(Resize::None, ValueRange::Unit, [3, 1, 2]);
    near(
        &to.apply(&rgb, 1, 2).unwrap(),
        &[1.0, 0.0, 0.0, 1.0, 0.2, 0.4],
    );
    let to = input(Resize::None, ValueRange::Byte, [3, 1, 2]);
    let exact = [255.0, 0.0, 0.0, 255.0, 51.0, 102.0];
    assert_eq!(to.apply(&rgb, 1, 2).unwrap(), exact);
}

#[test]
fn the_middle_is_kept() {
    let to = input(Resize::ShortestSide(100), ValueRange::Unit, [3, 80, 60]);
    // 300 x 200 becomes 150 x 100; (150 - 80) / 2 = 35, (100 - 60) / 2 = 20.
    let g = to.geometry(300, 200).unwrap();
    assert_eq!((g.scaled, g.origin), ([150, 100], [35, 20]));
    // 200 x 301 becomes 100 x 150.5, rounded down; (150 - 60) / 2 = 45.
    let g = to.geometry(200, 301).unwrap();
    assert_eq!((g.scaled, g.origin), ([100, 150], [10, 45]));
    // What is left over is odd: the smaller half is above.
    let to = input(Resize::None, ValueRange::Byte, [1, 2, 1]);
    let g = to.geometry(5, 2).unwrap();
    assert_eq!((g.scaled, g.origin), ([5, 2], [1, 0]));
    let column = [0, 9, 1, 9, 2, 9, 3, 9, 4, 9];
    assert_eq!(to.apply(&column, 5, 2).unwrap(), [1.0, 2.0]);
}

#[test]
fn an_image_of_the_right_size_passes_unchanged() {
    let pixels: Vec<u8> = (0..4 * 4 * 3).map(|i| (i * 5) as u8).collect();
    let want: Vec<f32> = (0..3)
        .flat_map(|c| pixels[c..].iter().step_by(3).map(|&v| f32::from(v)))
        .collect();
    for rule in [
        ImageRule::of_size(4, 4, ValueRange::Byte),
        ImageRule {
            resize: Resize::Stretch,
            range: ValueRange::Byte,
        },
        ImageRule {
            resize: Resize::None,
            range: ValueRange::Byte,
        },
    ] {
        let to = ImageInput::new(rule, &[3, 4, 4]).unwrap();
        assert_eq!(to.apply(&pixels, 4, 4).unwrap(), want, "{rule:?}");
    }
    let rule = ImageRule::of_size(2, 4, ValueRange::Byte);
    assert_eq!(rule.resize, Resize::Stretch, "not a square");
}

#[test]
fn a_sliver_of_an_image_is_scaled_without_its_long_side() {
    // Scaled whole, this column would have 32 x 32,000,000 pixels.
    let to = input(Resize::ShortestSide(32), ValueRange::Byte, [3, 32, 32]);
    let got = to.apply_with(1_000_000, 1, |row, _| [(row / 500_000) as u8 * 200; 3]);
    let got = got.unwrap();
    // The middle is the border between both halves, drawn out to 32 pixels.
    assert_eq!(got.len(), 3 * 32 * 32);
    assert!(got[0] < 5.0 && got[31 * 32] > 195.0, "{got:?}");
    assert!(got.windows(33).all(|w| w[0] <= w[32] || w[0] > 195.0));
    let to = input(Resize::Stretch, ValueRange::Byte, [1, 2, 2]);
    let got = to.apply_with(1, 100_000, |_, column| [(column / 50_000) as u8 * 200; 3]);
    let got = got.unwrap();
    assert!(
        (got[0] + got[1] - 200.0).abs() < 0.1 && got[0] < 30.0,
        "{got:?}"
    );
    assert_eq!(got[..2], got[2..]);
}

#[test]
fn rules_that_some_image_could_not_follow_are_refused() {
    let new = |resize, shape: &[usize]| {
        let range = ValueRange::Unit;
        ImageInput::new(ImageRule { resize, range }, shape)
            .unwrap_err()
            .to_string()
    };
    let e = new(Resize::ShortestSide(31), &[3, 32, 16]);
    assert!(e.contains("31 pixels") && e.contains("at least 32"), "{e}");
    assert!(new(Resize::ShortestSide(0), &[3, 1, 1]).contains("is 0 pixels"));
    assert!(new(Resize::ShortestSide(1 << 20), &[3, 1, 1]).contains("1 to 16384"));
    assert!(new(Resize::None, &[3, 20_000, 1]).contains("height is 20000"));
    assert!(new(Resize::None, &[6, 128]).contains("[6, 128]"));
    assert!(new(Resize::None, &[4, 32, 32]).contains("the input has 4"));
}

#[test]
fn images_that_do_not_fit_are_named() {
    let to = input(Resize::None, ValueRange::Unit, [3, 4, 4]);
    let e = to.apply(&[0; 36], 3, 4).unwrap_err().to_string();
    assert!(
        e.contains("3 x 4 pixels") && e.contains("middle 4 x 4"),
        "{e}"
    );
    let to = input(Resize::Stretch, ValueRange::Unit, [3, 4, 4]);
    let e = to.apply(&[0; 35], 3, 4).unwrap_err().to_string();
    assert!(e.contains("has 36 bytes, got 35"), "{e}");
    assert!(matches!(to.apply(&[], 0, 4), Err(ImageError::Empty { .. })));
    assert!(to.apply(&[], usize::MAX, usize::MAX).is_err());
}

proptest! {
    #[test]
    fn any_image_fills_the_input_and_stays_between_its_extremes(
        (h, w) in (1..40_usize, 1..40_usize),
        (height, width) in (1..12_usize, 1..12_usize),
        extra in 0..9_u32,
        stretch in any::<bool>(),
        seed in any::<u8>(),
    ) {
        let side = height.max(width) as u32 + extra;
        let resize = if stretch { Resize::Stretch } else { Resize::ShortestSide(side) };
        let to = input(resize, ValueRange::Byte, [3, height, width]);
        let pixels: Vec<u8> = (0..h * w * 3)
            .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
            .collect();
        let got = to.apply(&pixels, h, w).unwrap();
        prop_assert_eq!(got.len(), 3 * height * width);
        let least = f32::from(*pixels.iter().min().unwrap()) - 1e-3;
        let most = f32::from(*pixels.iter().max().unwrap()) + 1e-3;
        prop_assert!(got.iter().all(|v| (least..=most).contains(v)));
    }
}
