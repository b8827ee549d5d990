//! A folder per class, each with JPEG or PNG files.
//!
//! Images are brought to one size the way classifiers are usually evaluated: the middle square is
//! scaled to `size`. A photograph that says which side is up is turned upright.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{DynamicImage, GenericImageView as _, ImageDecoder as _, ImageFormat, ImageReader};
use lamplight_models::graph::Shape;

use super::{MAX_SAMPLES, Pool, Set, rgb, unit};
use crate::source::SourceError;

const REMEDY: &str =
    "point the source at a directory with one folder of JPEG or PNG files per class";
/// Most classes, that is, folders.
const MAX_CLASSES: usize = 10_000;
/// Largest image file.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most bytes that decoding may cost per byte of file. A photograph costs some 30 and a black frame 600; what
/// claims more was made to take memory, not to be looked at.
const MAX_COST: u64 = 700;
/// Files smaller than this are counted as having it.
const LEAST_BYTES: u64 = 1 << 10;

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

/// Reads and decodes one image.
fn read(file: &Path, size: u32) -> Result<Vec<f32>, SourceError> {
    let failed = |cause| SourceError::Read {
        file: file.to_owned(),
        cause,
        remedy: "remove the file or replace it by a readable image",
    };
    let bytes = fs::metadata(file).map_err(failed)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(SourceError::TooLarge {
            file: file.to_owned(),
            bytes,
            limit: MAX_FILE_BYTES,
        });
    }
    let bytes = fs::read(file).map_err(failed)?;
    parse(&bytes, size).map_err(failed)
}

/// Decodes a JPEG or PNG file and brings it to one size.
///
/// What the file claims is checked against its length before memory is taken for it.
///
/// # Shapes
/// `[3, size, size]`, values from 0 to 1
/// # Errors
/// An [`io::Error`] that says what is wrong with the bytes.
pub(in crate::source) fn parse(bytes: &[u8], size: u32) -> io::Result<Vec<f32>> {
    let wrong = |fault: String| io::Error::new(io::ErrorKind::InvalidData, fault);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let limit = MAX_COST.saturating_mul(LEAST_BYTES.max(bytes.len() as u64));
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(limit);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| wrong(e.to_string()))?;
    // A progressive JPEG keeps all coefficients, 16 bits each and padded, beside the pixels.
    let cost = decoder
        .total_bytes()
        .saturating_mul(if jpeg { 4 } else { 1 });
    if cost > limit {
        let (width, height) = decoder.dimensions();
        return Err(wrong(format!(
            "{width} x {height} pixels in a file of {} bytes are more than it can hold",
            bytes.len()
        )));
    }
    let upright = decoder.orientation().map_err(|e| wrong(e.to_string()))?;
    let image = DynamicImage::from_decoder(decoder).map_err(|e| wrong(e.to_string()))?;
    let mut image = DynamicImage::ImageRgba8(square(&image, size));
    image.apply_orientation(upright);
    let mut x = Vec::with_capacity(3 * (size * size) as usize);
    for channel in 0..3 {
        x.extend(image.pixels().map(|(_, _, p)| unit(p.0[channel])));
    }
    Ok(x)
}

/// Scales the middle square to `size`. Never makes the long side of a sliver longer.
fn square(image: &DynamicImage, size: u32) -> image::RgbaImage {
    let side = image.width().min(image.height());
    let (x, y) = ((image.width() - side) / 2, (image.height() - side) / 2);
    let middle = imageops::crop_imm(image, x, y, side, side);
    if side == size {
        middle.to_image()
    } else {
        imageops::resize(&*middle, size, size, FilterType::Triangle)
    }
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
        let mut x = Vec::new();
        for &place in places {
            x.extend(read(&self.files[place], self.size)?);
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_square_is_scaled_and_kept() {
        // Left third red, middle green, right blue: the middle square is green.
        let wide = image::RgbImage::from_fn(300, 100, |x, _| match x / 100 {
            0 => image::Rgb([255, 0, 0]),
            1 => image::Rgb([0, 255, 0]),
            _ => image::Rgb([0, 0, 255]),
        });
        let small = square(&DynamicImage::ImageRgb8(wide), 10);
        assert_eq!(small.dimensions(), (10, 10));
        assert_eq!(*small.get_pixel(5, 5), image::Rgba([0, 255, 0, 255]));
        assert_eq!(*small.get_pixel(0, 5), image::Rgba([0, 255, 0, 255]));
    }

    #[test]
    fn every_shape_becomes_the_square_asked_for() {
        for (w, h) in [(1, 1), (1, 7), (33, 32), (32, 32), (5, 64)] {
            let image = DynamicImage::new_rgb8(w, h);
            assert_eq!(square(&image, 32).dimensions(), (32, 32), "{w} x {h}");
        }
    }
}
