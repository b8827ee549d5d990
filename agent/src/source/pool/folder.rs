//! A folder per class, each with JPEG or PNG files.
//!
//! Images are brought to one size the way classifiers are usually evaluated: the shorter side is
//! scaled to `size`, and the middle square is kept.

use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageReader, imageops::FilterType};
use lamplight_models::graph::Shape;

use super::{MAX_SAMPLES, Pool, Set, rgb, unit};
use crate::source::SourceError;

const REMEDY: &str =
    "point the source at a directory with one folder of JPEG or PNG files per class";
/// Most classes, that is, folders.
const MAX_CLASSES: usize = 10_000;
/// Largest image file.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Most bytes of pixels per byte of file. Neither format can pack tighter (deflate reaches 1032), so
/// what claims more is made to take memory, not to be looked at.
const MAX_EXPANSION: u64 = 1024;
/// Pixels a file may claim whatever its size.
const FREE_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Folder {
    files: Vec<PathBuf>,
    size: u32,
    channels: Vec<String>,
    shape: Shape,
    classes: Vec<String>,
    labels: Vec<u32>,
}

impl Folder {
    /// Lists the images. Where `dir` has folders `train` and `test` (or `val`), these are the sets.
    pub(super) fn open(dir: &Path, set: Set, size: u32) -> Result<Self, SourceError> {
        let sets = ["train", "test", "val"].map(|name| dir.join(name));
        let root = match set {
            _ if !sets[0].is_dir() => match set {
                Set::Train => dir.to_owned(),
                Set::Test => return Err(none(dir, "it has no folder `test` beside `train`")),
            },
            Set::Train => sets[0].clone(),
            Set::Test => match sets[1..].iter().find(|set| set.is_dir()) {
                Some(set) => set.clone(),
                None => return Err(none(dir, "it has no folder `test` or `val`")),
            },
        };
        let mut folders = list(&root)?;
        folders.retain(|f| f.is_dir());
        if folders.is_empty() || folders.len() > MAX_CLASSES {
            let fault = format!(
                "it has {} folders, expected 1 to {MAX_CLASSES}",
                folders.len()
            );
            return Err(none(&root, &fault));
        }
        let mut pool = Self {
            files: Vec::new(),
            size,
            channels: rgb(),
            shape: vec![3, size as usize, size as usize],
            classes: Vec::new(),
            labels: Vec::new(),
        };
        for folder in folders {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let mut files = list(&folder)?;
            files.retain(|f| is_image(f));
            if files.is_empty() {
                return Err(none(&folder, "it has no `.jpg`, `.jpeg` or `.png` file"));
            }
            pool.labels
                .extend(std::iter::repeat_n(pool.classes.len() as u32, files.len()));
            pool.classes.push(name.into_owned());
            pool.files.append(&mut files);
            if pool.files.len() > MAX_SAMPLES {
                return Err(none(&root, &format!("it has over {MAX_SAMPLES} images")));
            }
        }
        Ok(pool)
    }
}

fn none(path: &Path, fault: &str) -> SourceError {
    SourceError::Read {
        file: path.to_owned(),
        cause: io::Error::new(io::ErrorKind::NotFound, fault.to_owned()),
        remedy: REMEDY,
    }
}

/// What a directory holds, in the order of names; hidden entries are left out.
fn list(dir: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let failed = |cause| SourceError::Read {
        file: dir.to_owned(),
        cause,
        remedy: REMEDY,
    };
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries)
}

fn is_image(file: &Path) -> bool {
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    ["jpg", "jpeg", "png"].contains(&extension.to_ascii_lowercase().as_str())
}

/// Decodes one image, having checked what it claims against its size.
fn decode(file: &Path) -> Result<DynamicImage, SourceError> {
    let failed = |cause| SourceError::Read {
        file: file.to_owned(),
        cause,
        remedy: "remove the file or replace it by a readable image",
    };
    let wrong = |fault: String| failed(io::Error::new(io::ErrorKind::InvalidData, fault));
    let bytes = fs::metadata(file).map_err(failed)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(SourceError::TooLarge {
            file: file.to_owned(),
            bytes,
            limit: MAX_FILE_BYTES,
        });
    }
    let open = || {
        let reader = BufReader::new(fs::File::open(file)?);
        ImageReader::new(reader).with_guessed_format()
    };
    let (width, height) = open()
        .map_err(failed)?
        .into_dimensions()
        .map_err(|e| wrong(e.to_string()))?;
    let claimed = u64::from(width) * u64::from(height) * 3;
    let limit = FREE_BYTES.max(bytes.saturating_mul(MAX_EXPANSION));
    if claimed > limit {
        return Err(wrong(format!(
            "{width} x {height} pixels in a file of {bytes} bytes are more than it can hold"
        )));
    }
    let mut reader = open().map_err(failed)?;
    let mut limits = image::Limits::default();
    // Wide pixels (16 bits, alpha) and the decoder's own buffers.
    limits.max_alloc = Some(limit.saturating_mul(8).saturating_add(1 << 20));
    reader.limits(limits);
    reader.decode().map_err(|e| wrong(e.to_string()))
}

/// Scales the shorter side to `size` and keeps the middle square.
fn square(image: &DynamicImage, size: u32) -> image::RgbImage {
    let (width, height) = (image.width().max(1), image.height().max(1));
    let short = u64::from(width.min(height));
    let scale = |side: u32| (u64::from(side) * u64::from(size)).div_ceil(short) as u32;
    let scaled = if (width, height) == (size, size) {
        image.to_rgb8()
    } else {
        image
            .resize_exact(scale(width), scale(height), FilterType::Triangle)
            .to_rgb8()
    };
    let (x, y) = ((scaled.width() - size) / 2, (scaled.height() - size) / 2);
    image::imageops::crop_imm(&scaled, x, y, size, size).to_image()
}

impl Pool for Folder {
    fn channels(&self) -> &[String] {
        &self.channels
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, places: &[usize]) -> Result<Vec<f32>, SourceError> {
        let mut x = Vec::with_capacity(places.len() * self.shape.iter().product::<usize>());
        for &place in places {
            let image = square(&decode(&self.files[place])?, self.size);
            for channel in 0..3 {
                x.extend(image.pixels().map(|p| unit(p.0[channel])));
            }
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_side_is_scaled_and_the_middle_kept() {
        // Left third red, middle green, right blue: the middle square is green.
        let wide = image::RgbImage::from_fn(300, 100, |x, _| match x / 100 {
            0 => image::Rgb([255, 0, 0]),
            1 => image::Rgb([0, 255, 0]),
            _ => image::Rgb([0, 0, 255]),
        });
        let small = square(&DynamicImage::ImageRgb8(wide), 10);
        assert_eq!(small.dimensions(), (10, 10));
        assert_eq!(*small.get_pixel(5, 5), image::Rgb([0, 255, 0]));
        assert!(small.get_pixel(1, 5).0[1] > 200);
    }

    #[test]
    fn every_shape_becomes_the_square_asked_for() {
        for (w, h) in [(1, 1), (1, 7), (33, 32), (32, 32), (5, 64)] {
            let image = DynamicImage::new_rgb8(w, h);
            assert_eq!(square(&image, 32).dimensions(), (32, 32), "{w} x {h}");
        }
    }
}
