//! What kind of data lies at a path, told by the names of files.

use std::path::{Path, PathBuf};

use super::SourceError;
use super::hapt::published;

/// A kind of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Recordings of people, in either layout.
    Hapt,
    /// CIFAR-10's binary batches.
    Cifar10,
    /// IDX files as of MNIST.
    Idx,
    /// A folder per class of JPEG or PNG files.
    Images,
    /// Tables of readings.
    Csv,
}

impl Kind {
    /// The word before the colon of a source.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Hapt => "hapt",
            Self::Cifar10 => "cifar10",
            Self::Idx => "idx",
            Self::Images => "images",
            Self::Csv => "csv",
        }
    }
}

/// Finds out what lies at a path. Files are not opened.
///
/// # Errors
/// [`SourceError`] when the path cannot be listed or holds nothing that is known.
pub fn detect(path: &Path) -> Result<Kind, SourceError> {
    let failed = |cause| SourceError::Read {
        file: path.to_owned(),
        cause,
        remedy: "name a file or directory that is there",
    };
    let unknown = || SourceError::UnknownKind {
        path: path.to_owned(),
    };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return of_file(&name(path)).ok_or_else(unknown);
    }
    if path.join("signals_i16le.bin.gz").is_file() || published::find(path).is_some() {
        return Ok(Kind::Hapt);
    }
    let entries = list(path).map_err(failed)?;
    let files: Vec<Kind> = entries.iter().filter_map(|e| of_file(&name(e))).collect();
    for kind in [Kind::Idx, Kind::Cifar10] {
        if files.contains(&kind) {
            return Ok(kind);
        }
    }
    if entries.iter().any(|e| has_images(e)) || has_classes(&path.join("train")) {
        return Ok(Kind::Images);
    }
    files.first().copied().ok_or_else(unknown)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.to_ascii_lowercase()
}

/// The kind that a file of this name, in small letters, belongs to.
fn of_file(name: &str) -> Option<Kind> {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    if plain.ends_with(".csv") {
        Some(Kind::Csv)
    } else if plain.ends_with("-images-idx3-ubyte") {
        Some(Kind::Idx)
    } else if plain.ends_with(".bin") {
        Some(Kind::Cifar10)
    } else {
        None
    }
}

fn list(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path()));
    entries.collect()
}

fn has_images(dir: &Path) -> bool {
    let entries = list(dir).unwrap_or_default();
    entries.iter().any(|e| {
        let name = name(e);
        [".jpg", ".jpeg", ".png"]
            .iter()
            .any(|end| name.ends_with(end))
    })
}

fn has_classes(dir: &Path) -> bool {
    let entries = list(dir).unwrap_or_default();
    entries.iter().any(|e| has_images(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_by_names_of_files() {
        for (files, kind) in [
            (
                &["signals_i16le.bin.gz", "labels.csv"][..],
                Some(Kind::Hapt),
            ),
            (&["RawData/labels.txt"], Some(Kind::Hapt)),
            (&["labels.txt", "acc_exp01_user01.txt"], Some(Kind::Hapt)),
            (&["data_batch_1.bin", "readme.html"], Some(Kind::Cifar10)),
            (&["train_lossless.bin.gz"], Some(Kind::Cifar10)),
            (&["train-images-idx3-ubyte", "x.csv"], Some(Kind::Idx)),
            (&["t10k-images-idx3-ubyte.gz"], Some(Kind::Idx)),
            (&["cat/1.JPG", "dog/2.png", "index.csv"], Some(Kind::Images)),
            (&["train/cat/1.jpeg", "test/cat/2.jpeg"], Some(Kind::Images)),
            (&["a.csv", "plots/readme"], Some(Kind::Csv)),
            (&["a.CSV.gz"], Some(Kind::Csv)),
            (&["a.txt"], None),
            (&[], None),
        ] {
            let dir = tempfile::tempdir().expect("dir");
            for file in files {
                let file = dir.path().join(file);
                std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
                std::fs::write(file, "").expect("written");
            }
            assert_eq!(detect(dir.path()).ok(), kind, "{files:?}");
        }
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("walk.csv");
        assert!(detect(&file).is_err());
        std::fs::write(&file, "").expect("written");
        assert_eq!(detect(&file).expect("a table"), Kind::Csv);
    }
}
