use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use lamplight_models::image::{ImageInput, ImageRule, ValueRange};
use lamplight_models::model::{Model, ModelInfo};
use lamplight_models::zoo::{Norm, resnet20};

use crate::learn::{Misfit, fit};
use crate::source::real_data::real_data;
use crate::source::{SampleSource, SourceError, SourceSpec};

fn open(spec: &str) -> Result<Box<dyn SampleSource>, SourceError> {
    spec.parse::<SourceSpec>().expect(spec).open()
}

/// A record whose every byte is told by its number and label.
fn record(number: u8, label: u8) -> Vec<u8> {
    let mut record = vec![label];
    record.extend((0..3072_u32).map(|i| match i % 1024 {
        0 => number.wrapping_add((i / 1024) as u8),
        // Nothing that packs a hundredfold, as no photograph does.
        _ => (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ number,
    }));
    record
}

fn cifar(dir: &Path) {
    let batch =
        |from: u8| -> Vec<u8> { (from..from + 40).flat_map(|n| record(n, n % 10)).collect() };
    std::fs::write(dir.join("data_batch_1.bin"), batch(0)).expect("written");
    let file = std::fs::File::create(dir.join("data_batch_2.bin.gz")).expect("made");
    let mut zip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    zip.write_all(&batch(40)).expect("zipped");
    zip.finish().expect("zipped");
    std::fs::write(dir.join("test_batch.bin"), batch(100)).expect("written");
}

#[test]
fn cifar_batches_plain_and_zipped_are_one_pool() {
    let dir = tempfile::tempdir().expect("dir");
    cifar(dir.path());
    let at = dir.path().display();
    let source = open(&format!("cifar10:{at}")).expect("opened");
    let info = source.describe();
    assert_eq!(info.window, [3, 32, 32]);
    assert_eq!(info.classes[3], "cat");
    let (train, held_out) = (
        source.train().expect("train"),
        source.held_out().expect("rest"),
    );
    // 8 of each class: 5 to train on, 3 held out.
    assert_eq!((train.len(), held_out.len()), (50, 30));
    assert!(train.x.iter().all(|v| (0.0..=1.0).contains(v)));
    // Record 41 is the second of the zipped batch and of class 1: its planes begin with 41, 42, 43.
    let begins = |i: usize| [0, 1024, 2048].map(|p| (train.sample(i)[p] * 255.0).round() as u32);
    assert!((0..50).any(|i| train.y[i] == 1 && begins(i) == [41, 42, 43]));
    let first = train.sample(0);
    assert_eq!(
        (first[0], first[1024], first[2048]),
        (0.0, 1.0 / 255.0, 2.0 / 255.0)
    );

    let test = open(&format!("cifar10:{at}?set=test&split=all")).expect("opened");
    assert_eq!(test.held_out().expect("all").len(), 40);
    assert!(test.train().expect("none").is_empty());
}

#[test]
fn parts_of_a_pool_are_disjoint_and_together_whole() {
    let dir = tempfile::tempdir().expect("dir");
    cifar(dir.path());
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for part in ["cloud", "0", "1", "2"] {
        let spec = format!(
            "cifar10:{}?part={part}&parts=3&cloud=0.25&seed=5&split=all",
            dir.path().display()
        );
        let samples = open(&spec).expect("opened").held_out().expect("read");
        assert!(samples.len() >= 15, "{part}: {}", samples.len());
        total += samples.len();
        seen.extend((0..samples.len()).map(|i| (samples.sample(i)[0] * 255.0).round() as u32));
    }
    assert_eq!((total, seen.len()), (80, 80));
}

#[test]
fn what_breaks_off_or_has_a_wrong_label_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("data_batch_1.bin");
    let at = dir.path().display();
    let fault = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        open(&format!("cifar10:{at}"))
            .expect_err("broken")
            .to_string()
    };
    let mut whole = record(1, 3);
    whole.extend(&record(2, 4)[..100]);
    assert!(fault(&whole).contains("record 1 has 100 bytes of 3073"));
    let wrong = fault(&record(1, 10));
    assert!(
        wrong.contains("label is 10") && wrong.contains("data_batch_1.bin"),
        "{wrong}"
    );
    std::fs::remove_file(&file).expect("gone");
    let none = open(&format!("cifar10:{at}"))
        .expect_err("empty")
        .to_string();
    assert!(none.contains("*.bin"), "{none}");
}

fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dimensions.len() as u8];
    file.extend(dimensions.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(values);
    file
}

#[test]
fn idx_files_are_read_and_their_claims_checked() {
    let dir = tempfile::tempdir().expect("dir");
    let (images, labels) = (
        dir.path().join("train-images-idx3-ubyte"),
        dir.path().join("train-labels-idx1-ubyte"),
    );
    let values: Vec<u8> = (0..10 * 6).collect();
    std::fs::write(&images, idx(&[10, 2, 3], &values)).expect("written");
    std::fs::write(&labels, idx(&[10], &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1])).expect("written");
    let spec = format!("idx:{}?split=all", dir.path().display());
    let samples = open(&spec).expect("opened").held_out().expect("read");
    assert_eq!(
        (samples.shape.as_slice(), samples.len()),
        (&[1, 2, 3][..], 10)
    );
    assert_eq!(samples.sample(1)[0], 6.0 / 255.0);

    // Claims of four thousand million images cost nothing but an error.
    std::fs::write(&labels, idx(&[u32::MAX], &[0; 4])).expect("written");
    assert!(open(&spec).is_err());
    std::fs::write(&labels, idx(&[10], &[0; 4])).expect("written");
    let short = open(&spec).expect_err("short").to_string();
    assert!(short.contains("4 of 10 labels"), "{short}");
    std::fs::write(&labels, idx(&[9], &[0; 9])).expect("written");
    let odd = open(&spec).expect_err("odd").to_string();
    assert!(odd.contains("9 labels for 10 images"), "{odd}");
    std::fs::write(&labels, idx(&[10], &[0; 10])).expect("written");
    std::fs::write(&images, idx(&[10, 2, 3], &values[..50])).expect("written");
    let cut = open(&spec)
        .expect("labels are there")
        .held_out()
        .expect_err("cut");
    assert!(cut.to_string().contains("bytes of 6"), "{cut}");
}

#[test]
fn more_images_than_their_file_can_hold_are_refused_before_their_labels_are_read() {
    let dir = tempfile::tempdir().expect("dir");
    let zeros = |dimensions: &[u32], name: &str| {
        let file = std::fs::File::create(dir.path().join(name)).expect("made");
        let mut zip = flate2::write::GzEncoder::new(file, flate2::Compression::best());
        zip.write_all(&idx(dimensions, &vec![0; 60_000]))
            .expect("zipped");
        zip.finish().expect("zipped");
    };
    zeros(&[60_000, 1, 1], "train-images-idx3-ubyte.gz");
    zeros(&[60_000], "train-labels-idx1-ubyte.gz");
    let bomb = open(&format!("idx:{}", dir.path().display()));
    let fault = bomb.expect_err("a bomb").to_string();
    assert!(fault.contains("claims 60000 images in"), "{fault}");
}

#[test]
fn class_names_that_no_model_could_have_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    std::fs::write(dir.path().join("data_batch_1.bin"), record(1, 3)).expect("written");
    let names = |names: String| {
        std::fs::write(dir.path().join("batches.meta.txt"), names).expect("written");
        let spec = format!("cifar10:{}", dir.path().display());
        open(&spec).expect_err("refused").to_string()
    };
    let twice = names("same\n".repeat(10));
    assert!(twice.contains("class name `same` is used twice"), "{twice}");
    let control = names((0..10).map(|i| format!("a\tb{i}\n")).collect());
    assert!(control.contains("control characters"), "{control}");
}

#[test]
fn a_folder_per_class_is_a_pool_and_a_bomb_is_none() {
    let dir = tempfile::tempdir().expect("dir");
    for (class, color) in [("bike", [200, 0, 0]), ("car", [0, 100, 0])] {
        let folder = dir.path().join(class);
        std::fs::create_dir(&folder).expect("made");
        for i in 0..10 {
            let image = image::RgbImage::from_pixel(40 + i, 30, image::Rgb(color));
            image.save(folder.join(format!("{i}.png"))).expect("saved");
        }
        std::fs::write(folder.join("notes.txt"), "no image").expect("written");
    }
    let spec = format!("images:{}?size=16", dir.path().display());
    let source = open(&spec).expect("opened");
    assert_eq!(source.describe().classes, ["bike", "car"]);
    let train = source.train().expect("read");
    assert_eq!(
        (train.shape.as_slice(), train.len()),
        (&[3, 16, 16][..], 14)
    );
    assert_eq!(train.sample(0)[0], 200.0 / 255.0);
    assert_eq!(train.sample(13)[256], 100.0 / 255.0);

    // A PNG that claims 30,000 x 30,000 pixels in a hundred bytes.
    let file = dir.path().join("car/0.png");
    let mut png = std::fs::read(&file).expect("read");
    png[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
    let crc = crc(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    std::fs::write(&file, png).expect("written");
    let e = open(&spec)
        .expect("listed")
        .train()
        .expect_err("a bomb")
        .to_string();
    assert!(
        e.contains("30000 x 30000") && e.contains("car/0.png"),
        "{e}"
    );
}

#[test]
fn images_are_made_as_the_model_at_hand_wants_them() {
    let dir = tempfile::tempdir().expect("dir");
    let folder = dir.path().join("photos/bike");
    std::fs::create_dir_all(&folder).expect("made");
    // Red on the left, blue on the right; the middle half is 64 of 128 columns.
    let image = image::RgbImage::from_fn(128, 64, |x, _| match x {
        0..64 => image::Rgb([200, 0, 0]),
        _ => image::Rgb([0, 0, 100]),
    });
    for i in 0..4 {
        image.save(folder.join(format!("{i}.png"))).expect("saved");
    }
    cifar(dir.path());
    let info = ModelInfo {
        architecture: "resnet20".into(),
        input_mean: vec![0.0; 3],
        input_std: vec![1.0; 3],
        channels: ["red", "green", "blue"]
            .map(|c| format!("{c} [0-255]"))
            .into(),
        image: Some(ImageRule::of_size(32, 32, ValueRange::Byte)),
        classes: vec!["bike".into(), "car".into()],
        ..ModelInfo::default()
    };
    let mut model =
        Model::init(resnet20(2, Norm::Batch).expect("a graph"), info, 1).expect("a model");
    let wanted = model.image_input().expect("a rule");

    // By itself the source makes others, which are refused by name.
    let photos: SourceSpec = format!("images:{}?size=16", dir.path().join("photos").display())
        .parse()
        .expect("a source");
    let misfit = |source: &dyn SampleSource| fit::check(&model, &source.describe());
    let alone = photos.open().expect("opened");
    assert!(matches!(misfit(&*alone), Err(Misfit::Window { .. })));
    let source = photos.open_for(wanted.as_ref()).expect("opened");
    misfit(&*source).expect("fits");
    let samples = source.train().expect("read");
    assert_eq!(samples.shape, [3, 32, 32]);
    let at = |channel: usize, column: usize| samples.sample(0)[(channel * 32 + 9) * 32 + column];
    assert_eq!((at(0, 0), at(2, 0)), (200.0, 0.0));
    assert_eq!((at(0, 31), at(2, 31)), (0.0, 100.0));

    // Images of one size, too.
    let planes: SourceSpec = format!("cifar10:{}", dir.path().display())
        .parse()
        .expect("a source");
    let alone = planes.open().expect("opened");
    assert!(matches!(misfit(&*alone), Err(Misfit::Channel { .. })));
    let source = planes.open_for(wanted.as_ref()).expect("opened");
    misfit(&*source).expect("fits");
    let (bytes, unit) = (source.train().expect("read"), alone.train().expect("read"));
    assert!(bytes.x.iter().zip(&unit.x).all(|(b, u)| b / 255.0 == *u));
    // As large as the model wants them.
    let rule = ImageRule::of_size(48, 48, ValueRange::Unit);
    let larger = ImageInput::new(rule, &[3, 48, 48]).expect("a rule");
    let source = planes.open_for(Some(&larger)).expect("opened");
    assert_eq!(source.describe().window, [3, 48, 48]);
    assert_eq!(source.held_out().expect("read").shape, [3, 48, 48]);

    // A source that went its own way is told so.
    model.info.channels.clear();
    let alone = planes.open().expect("opened");
    let e = fit::check(&model, &alone.describe()).expect_err("another range");
    assert!(
        e.to_string()
            .contains("values 0-255; the source makes them"),
        "{e}"
    );
}

/// CRC-32 as PNG has it.
fn crc(bytes: &[u8]) -> u32 {
    let mut c = flate2::Crc::new();
    c.update(bytes);
    c.sum()
}

#[test]
fn the_real_photographs_have_the_counts_their_readme_says() {
    let Some(dir) = real_data("cifar10") else {
        return;
    };
    let spec = format!("cifar10:{}/train_lossless.bin.gz?split=all", dir.display());
    let samples = open(&spec).expect("opened").held_out().expect("read");
    let counts = [299, 287, 322, 285, 311, 279, 312, 297, 308, 300];
    assert_eq!(samples.class_counts(), counts);
    // As in the publisher's first batch.
    assert_eq!(samples.y[..10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]);
    let test = format!("cifar10:{}?set=test&split=all", dir.display());
    let both = open(&test).expect("opened").held_out().expect("read");
    assert_eq!(both.len(), 500 + 1500);
}

#[test]
fn the_real_digits_are_read_as_their_publisher_laid_them_out() {
    let Some(dir) = real_data("mnist") else {
        return;
    };
    let spec = format!("idx:{}?set=test&split=all", dir.display());
    let samples = open(&spec).expect("opened").held_out().expect("read");
    assert_eq!(samples.shape, [1, 28, 28]);
    assert_eq!(samples.classes.len(), 10);
    // Ink on an empty page: dark corners, a bright middle.
    let corner = (0..samples.len())
        .map(|i| samples.sample(i)[0])
        .sum::<f32>();
    let middle = (0..samples.len())
        .map(|i| samples.sample(i)[14 * 28 + 14])
        .sum::<f32>();
    assert!(corner < 0.01 * middle, "{corner} {middle}");
}
