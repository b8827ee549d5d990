//! Recordings, tables, images.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Seed;
use crate::parts;
use crate::sources::zipped;

const EXPERIMENTS: &str = "experiment,subject,first_sample,n_samples\n1,1,0,300\n2,2,300,160\n";
const LABELS: &str = "experiment,subject,activity,start_sample,end_sample\n\
                      1,1,1,1,150\n1,1,7,151,160\n1,1,5,161,300\n2,2,2,1,160\n";
const DRAWS: &str = "draw,role,subject\n1,cloud,1\n1,node,2\n2,unseen,1\n";

pub(super) fn seeds() -> Vec<Seed> {
    let mut all = recordings();
    all.extend(published());
    all.extend(tables());
    all.extend(pools());
    all.extend(images());
    all
}

fn recordings() -> Vec<Seed> {
    let rows: Vec<u8> = (0..460_u16 * 6)
        .flat_map(|i| (i % 97).to_le_bytes())
        .collect();
    let of = |experiments: &str, labels: &str, signals: &[u8]| {
        let texts = [experiments, labels, DRAWS].map(str::as_bytes);
        parts::join(&[texts[0], texts[1], texts[2], signals])
    };
    let large = EXPERIMENTS.replace("1,1,0,300\n2,2,300,", "1,1,0,8640000\n2,2,8640000,");
    let all_of_it = LABELS.replace("1,1,5,161,300", "1,1,5,161,8640000");
    let quoted = format!(
        "experiment,subject,first_sample,n_samples\n\"{}",
        "\"\"".repeat(400)
    );
    vec![
        Seed::new("hapt", "good-rows", of(EXPERIMENTS, LABELS, &rows)),
        Seed::new("hapt", "good-gzip", of(EXPERIMENTS, LABELS, &zipped(&rows))),
        Seed::new(
            "hapt",
            "bad-8-million-rows",
            of(&large, &all_of_it, &rows[..240]),
        ),
        Seed::new("hapt", "bad-quotes", of(&quoted, LABELS, b"")),
    ]
}

/// A gzip file that unpacks to this many zeros, a thousand times its length.
fn bomb(before: &[u8], zeros: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(before).expect("memory takes it");
    encoder.write_all(&vec![0; zeros]).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn published() -> Vec<Seed> {
    let rows = |step: f64| -> String {
        (0..260)
            .map(|i| format!("{:.4} {} {}\n", f64::from(i % 7) * step, step, -step))
            .collect()
    };
    let (acceleration, rotation) = (rows(0.125), rows(0.25));
    let of = |labels: &str, acceleration: &str, activities: &str| {
        let texts = [labels, acceleration, &rotation, activities];
        parts::join(&texts.map(str::as_bytes))
    };
    let names = "1 WALKING\n2 WALKING_UPSTAIRS\n7 STAND_TO_SIT\n";
    vec![
        Seed::new(
            "hapt_published",
            "good-rows",
            of("1 1 1 1 250\n", &acceleration, names),
        ),
        Seed::new(
            "hapt_published",
            "bad-8-million-rows",
            parts::join(&[b"1 1 1 1 8640000\n", b"0 0 1\n", b"0 0 1\n"]),
        ),
        Seed::new(
            "hapt_published",
            "bad-name",
            of("1 1 1 1 9\n", "", "1 FLYING\n"),
        ),
    ]
}

fn tables() -> Vec<Seed> {
    let of = |options: &str, table: &[u8]| parts::join(&[options.as_bytes(), table]);
    let steps =
        "user,x,y,label\n1,0.5,1,walk\n1,1.5,2,walk\n1,2,3,\n2,3,4,sit\n2,4,5,sit\n2,5,6,sit\n";
    let wide = "walk;1;2;3;4\n\"sit\";5;6;7;-8e-3\n";
    let rows = ["1,a\n"; 40_000].concat();
    let long = format!("x,label\n{}", "9".repeat(1000));
    let many: String = (0..4)
        .map(|who| format!("1,{who},a\n").repeat(2000))
        .collect();
    let many = format!("x,who,label\n{many}");
    vec![
        Seed::new(
            "csv",
            "good-steps",
            of("window=2&group=user", steps.as_bytes()),
        ),
        Seed::new(
            "csv",
            "good-overlap",
            of("window=2&stride=1&columns=y,x", steps.as_bytes()),
        ),
        Seed::new(
            "csv",
            "good-overlap-of-a-packed-table",
            of("window=16&stride=1&group=who", &packed(many.as_bytes())),
        ),
        Seed::new(
            "csv",
            "good-wide",
            of(
                "wide=2&label=1&header=no&separator=semicolon",
                wide.as_bytes(),
            ),
        ),
        Seed::new(
            "csv",
            "bad-window-of-a-million",
            of("window=1000000&label=2&columns=1", b"1\n"),
        ),
        Seed::new(
            "csv",
            "bad-number-of-1000-digits",
            of("window=1", long.as_bytes()),
        ),
        Seed::new(
            "csv",
            "bad-bomb",
            of("window=1&header=no&label=2", &packed(rows.as_bytes())),
        ),
    ]
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn pools() -> Vec<Seed> {
    let header = |dimensions: &[u32]| {
        let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
        bytes.extend(dimensions.iter().flat_map(|d| d.to_be_bytes()));
        bytes
    };
    let with = |dimensions: &[u32], rest: &[u8]| [&header(dimensions), rest].concat();
    let pixels: Vec<u8> = (0..3 * 4 * 5).collect();
    let images = with(&[3, 4, 5], &pixels);
    let labels = with(&[3], &[0, 2, 1]);
    let many = 900_000;
    let record = |label: u8| -> Vec<u8> {
        let pixels = (0..3072_u32).map(|i| (i / 9 % 97) as u8);
        std::iter::once(label).chain(pixels).collect()
    };
    let batch = [record(3), record(9)].concat();
    let names = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
    vec![
        Seed::new("idx", "good-pair", parts::join(&[&images, &labels])),
        Seed::new(
            "idx",
            "good-gzip",
            parts::join(&[&zipped(&images), &zipped(&labels)]),
        ),
        Seed::new(
            "idx",
            "bad-10-million-large-images",
            parts::join(&[&header(&[10_000_000, 4096, 4096]), &header(&[10_000_000])]),
        ),
        Seed::new(
            "idx",
            "bad-side-2e32",
            parts::join(&[&header(&[1, u32::MAX, u32::MAX]), b""]),
        ),
        Seed::new(
            "idx",
            "bad-bomb",
            parts::join(&[
                &bomb(&header(&[60_000, 1, 1]), many / 3),
                &bomb(&header(&[60_000]), many / 3),
            ]),
        ),
        Seed::new(
            "cifar10",
            "good-gzip",
            parts::join(&[&zipped(&batch), names.as_bytes()]),
        ),
        Seed::new("cifar10", "bad-bomb", bomb(&[], 900_000)),
        Seed::new("cifar10", "bad-half-a-record", record(3)[..900].to_vec()),
    ]
}

/// A chunk of a PNG file; the target puts the checksum right.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &[0; 4]].concat()
}

/// A PNG file that claims these sides, with this many bytes of black behind them.
fn png(width: u32, height: u32, bytes: usize) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    // Eight bits, color, no interlacing.
    header.extend([8, 2, 0, 0, 0]);
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&vec![0; bytes]).expect("memory takes it");
    let packed = packed.finish().expect("memory takes it");
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &header),
        chunk(b"IDAT", &packed),
        chunk(b"IEND", b""),
    ]
    .concat()
}

fn images() -> Vec<Seed> {
    vec![
        Seed::new("image", "good-png", png(9, 5, 5 * (1 + 9 * 3))),
        Seed::new(
            "image",
            "bad-png-of-2e31-by-2e31",
            png(0x7fff_ffff, 0x7fff_ffff, 100),
        ),
        Seed::new("image", "bad-sliver", png(1, 0x7fff_ffff, 100)),
        Seed::new("image", "bad-bomb", png(600, 600, 600 * (1 + 600 * 3))),
        Seed::new("image", "bad-jpeg-of-65535-by-65535", jpeg(0xffff)),
    ]
}

/// The beginning of a JPEG file that claims these sides: its frame, and no picture.
fn jpeg(side: u16) -> Vec<u8> {
    let [high, low] = side.to_be_bytes();
    let mut file = vec![0xff, 0xd8, 0xff, 0xc0, 0, 17, 8, high, low, high, low, 3];
    file.extend([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xd9]);
    file
}
