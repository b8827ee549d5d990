//! Files of sensor data, as people keep them: recordings, tables, images.

use std::io::Write as _;
use std::path::Path;

use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use lamplight_agent::source::{
    CsvRows, CsvSpec, DataSpec, HaptSpec, Keep, Kind, PoolFormat, SourceError, SourceSpec, Split,
    detect, hapt, parse,
};
use lamplight_models::samples::Samples;

use crate::memory::{within, within_times};
use crate::{Answer, parts};

/// Bytes of memory per byte of a table: a line of a few characters becomes a row with its places.
const TABLE: u64 = 128;
/// Bytes of memory per byte of what may be compressed: readers unpack up to a hundred bytes of one,
/// each becomes a number of four, and lists grow by doubling.
const PACKED: u64 = 100 * 4 * 3;
/// How often a table's windows may hold a row, here.
const MAX_OVERLAP: u64 = 16;
/// Bytes of memory per byte of an image; the decoder is held to 700.
const IMAGE: u64 = 1024;

/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// See [`crate::TARGETS`].
///
/// The input's files are `experiments.csv`, `labels.csv`, `draws.csv` and the signals. Signals that
/// are not compressed yet are compressed here, so that inputs may change the rows themselves.
pub fn hapt(input: &[u8]) -> Answer {
    let [experiments, labels, draws, signals] = parts::split(input);
    let zipped = zipped(signals);
    let dir = parts::directory(&[
        ("experiments.csv", experiments),
        ("labels.csv", labels),
        ("draws.csv", draws),
        ("signals_i16le.bin.gz", &zipped),
    ]);
    let drawn = within(input.len(), TABLE, || hapt::draws(dir.path(), 1));
    let read = recordings(input.len(), dir.path(), vec![1, 2]);
    if drawn.is_err() {
        return Answer::Refused;
    }
    Answer::of(&read)
}

/// Opens a directory of recordings and reads both parts of these people's windows.
fn recordings(input: usize, dir: &Path, subjects: Vec<u32>) -> Result<[Samples; 2], SourceError> {
    assert_eq!(detect(dir).ok(), Some(Kind::Hapt));
    let spec = SourceSpec {
        data: DataSpec::Hapt(HaptSpec {
            dir: dir.to_string_lossy().into_owned(),
            subjects,
        }),
        keep: Keep {
            classes: None,
            split: Split::InTime,
        },
    };
    let read = within(input, TABLE, || {
        let source = spec.open()?;
        Ok([source.train()?, source.held_out()?])
    });
    if let Ok(parts) = &read {
        parts.iter().for_each(valid);
    }
    read
}

/// Samples of any source keep the promises of their type.
pub(crate) fn valid(samples: &Samples) {
    if !samples.is_empty() {
        let bytes = samples.to_bytes().expect("a source's samples are valid");
        assert_eq!(Samples::from_bytes(&bytes).as_ref(), Ok(samples));
    }
}

/// Compresses what is not compressed.
pub(crate) fn zipped(bytes: &[u8]) -> Vec<u8> {
    if bytes.starts_with(&GZIP) {
        return bytes.to_vec();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

/// See [`crate::TARGETS`].
///
/// The input's files are `labels.txt`, the accelerometer's and the gyroscope's rows, and
/// `activity_labels.txt`.
pub fn hapt_published(input: &[u8]) -> Answer {
    let [labels, acceleration, rotation, activities] = parts::split(input);
    let mut files = vec![
        ("RawData/labels.txt", labels),
        ("RawData/acc_exp01_user01.txt", acceleration),
        ("RawData/gyro_exp01_user01.txt", rotation),
    ];
    // The archive's list may be missing.
    if !activities.is_empty() {
        files.push(("activity_labels.txt", activities));
    }
    let dir = parts::directory(&files);
    let rows = within(input.len(), TABLE, || parse::hapt_text(acceleration, 0.001));
    drop(rows);
    Answer::of(&recordings(input.len(), dir.path(), vec![1]))
}

/// See [`crate::TARGETS`].
///
/// The input's files are a batch and `batches.meta.txt`.
pub fn cifar10(input: &[u8]) -> Answer {
    let [batch, names] = parts::split(input);
    let read = within(input.len(), PACKED, || parse::cifar10(batch));
    if let Ok(samples) = &read {
        valid(samples);
        agree(read.as_ref().ok(), batch, |zipped| {
            parse::cifar10(zipped).ok()
        });
    }
    let dir = parts::directory(&[("data_batch_1.bin", batch), ("batches.meta.txt", names)]);
    let line = format!("cifar10:{}", dir.path().display());
    let pool = pooled(input.len(), 1, &line);
    assert!(read.is_ok() || pool.is_err(), "the whole file is refused");
    Answer::of(&pool)
}

/// See [`crate::TARGETS`].
///
/// The input's files are images and labels.
pub fn idx(input: &[u8]) -> Answer {
    let [images, labels] = parts::split(input);
    let read = within(input.len(), PACKED, || parse::idx_pair(images, labels));
    if let Ok(samples) = &read {
        valid(samples);
        agree(read.as_ref().ok(), images, |zipped| {
            parse::idx_pair(zipped, labels).ok()
        });
    }
    let dir = parts::directory(&[
        ("train-images-idx3-ubyte", images),
        ("train-labels-idx1-ubyte.gz", labels),
    ]);
    let line = format!("idx:{}", dir.path().display());
    let pool = pooled(input.len(), 1, &line);
    assert!(read.is_ok() || pool.is_err(), "the whole pair is refused");
    Answer::of(&pool)
}

/// See [`crate::TARGETS`].
///
/// The input's files are the options of the line that names the table, and the table.
pub fn csv(input: &[u8]) -> Answer {
    let [options, table] = parts::split(input);
    let Ok(options) = std::str::from_utf8(options) else {
        return Answer::Refused;
    };
    let Some(spec) = csv_spec(&format!("csv:x?{options}")) else {
        return Answer::Refused;
    };
    // Windows that overlap repeat rows, as often as the one who wrote the line wants; a fuzzer would
    // want a million times.
    let overlap = match spec.rows {
        CsvRows::Steps { window, stride } => window.div_ceil(stride) as u64,
        CsvRows::Windows { .. } => 1,
    };
    if overlap > MAX_OVERLAP {
        return Answer::Refused;
    }
    let read = within_times(input.len(), PACKED, overlap, || {
        parse::csv_table(table, &spec)
    });
    if let Ok(samples) = &read {
        valid(samples);
        agree(read.as_ref().ok(), table, |zipped| {
            parse::csv_table(zipped, &spec).ok()
        });
    }
    let dir = parts::directory(&[("t.csv", table)]);
    let line = format!("csv:{}/t.csv?{options}", dir.path().display());
    let pool = pooled(input.len(), overlap, &line);
    assert!(read.is_ok() || pool.is_err(), "the whole table is refused");
    Answer::of(&read)
}

fn csv_spec(line: &str) -> Option<CsvSpec> {
    match line.parse::<SourceSpec>().ok()?.data {
        DataSpec::Pool(pool) => match pool.format {
            PoolFormat::Csv(spec) => Some(spec),
            _ => None,
        },
        _ => None,
    }
}

/// See [`crate::TARGETS`].
pub fn image(input: &[u8]) -> Answer {
    const SIDE: u32 = 8;
    let input = checked_chunks(input);
    let read = within(input.len(), IMAGE, || parse::image(&input, SIDE));
    if let Ok(values) = &read {
        assert_eq!(values.len(), 3 * (SIDE * SIDE) as usize);
        assert!(values.iter().all(|v| (0.0..=1.0).contains(v)));
    }
    Answer::of(&read)
}

/// A PNG file with the checksum of each chunk put right: they would hide everything behind them.
fn checked_chunks(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    let mut at = 8;
    while let Some(length) = file.get(at..at + 4) {
        let length = length.iter().fold(0_usize, |n, &b| n << 8 | usize::from(b));
        let (start, end) = (at + 4, (at + 8).saturating_add(length));
        let Some(chunk) = file.get(start..end) else {
            break;
        };
        let mut crc = Crc::new();
        crc.update(chunk);
        let Some(sum) = file.get_mut(end..end + 4) else {
            break;
        };
        sum.copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
    file
}

/// What a source line opens, both parts of it; each row `times` times.
fn pooled(input: usize, times: u64, line: &str) -> Result<[Samples; 2], SourceError> {
    let spec: SourceSpec = line.parse().expect("a line of this program");
    let read = within_times(input, PACKED, times, || {
        let source = spec.open()?;
        Ok([source.train()?, source.held_out()?])
    });
    if let Ok(parts) = &read {
        parts.iter().for_each(valid);
    }
    read
}

/// A compressed file reads as what it was made of, unless it packs too well to be believed.
fn agree(plain: Option<&Samples>, file: &[u8], read: impl FnOnce(&[u8]) -> Option<Samples>) {
    let zipped = zipped(file);
    if zipped.len() * 64 > file.len()
        && let Some(again) = read(&zipped)
    {
        assert_eq!(Some(&again), plain);
    }
}
