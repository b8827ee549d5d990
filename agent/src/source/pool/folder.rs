//! A folder per class, each with JPEG or PNG files.
//!
//! Images are brought to one size by a model's rule ([`lamplight_models::image`]), or, where a model
//! has none, the way classifiers are usually evaluated: the shorter side is scaled to `size`, and the
//! middle is kept. A photograph that says which side is up is turned upright first.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{
    DynamicImage, GenericImageView as _, ImageDecoder as _, ImageFormat, ImageReader, Pixel as _,
};
use lamplight_models::graph::Shape;
use lamplight_models::image::{ImageError, ImageInput, ImageRule, ValueRange};

use super::{MAX_SAMPLES, Pool, Set, colors};
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
/// Most bytes that decoding one image may cost, however large its file: a node is small. 64 megapixels in
/// color.
const MAX_DECODED_BYTES: u64 = 192 << 20;
/// Files smaller than this are counted as having it.
const LEAST_BYTES: u64 = 1 << 10;

#[derive(Debug)]
pub(super) struct Folder {
    files: Vec<PathBuf>,
    image: ImageInput,
    channels: Vec<String>,
    shape: Shape,
    classes: Vec<String>,
    labels: Vec<u32>,
}

impl Folder {
    /// Lists the images. Where `dir` has folders `train` and `test` (or `val`), these are the sets.
    pub(super) fn open(dir: &Path, set: Set, image: ImageInput) -> Result<Self, SourceError> {
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
            channels: colors(&image),
            shape: image.shape().to_vec(),
            image,
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
fn read(file: &Path, to: &ImageInput) -> Result<Vec<f32>, SourceError> {
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
    parse(&bytes, to).map_err(failed)
}

/// The rule for a model that has none: squares of this side, values from 0 to 1.
pub(in crate::source) fn square(size: u32) -> Result<ImageInput, ImageError> {
    let side = size as usize;
    let rule = ImageRule::of_size(side, side, ValueRange::Unit);
    ImageInput::new(rule, &[3, side, side])
}

/// Decodes a JPEG or PNG file and makes an input of it.
///
/// What the file claims is checked against its length before memory is taken for it.
///
/// # Shapes
/// `to.shape()`, in its rule's range
/// # Errors
/// An [`io::Error`] that says what is wrong with the bytes.
pub(in crate::source) fn parse(bytes: &[u8], to: &ImageInput) -> io::Result<Vec<f32>> {
    let wrong = |fault: String| io::Error::new(io::ErrorKind::InvalidData, fault);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let limit = MAX_COST
        .saturating_mul(LEAST_BYTES.max(bytes.len() as u64))
        .min(MAX_DECODED_BYTES);
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
        return Err(wrong(if cost > MAX_DECODED_BYTES {
            format!(
                "{width} x {height} pixels take {} MiB when decoded, at most {} are taken for one image; \
                 scale it down",
                cost >> 20,
                MAX_DECODED_BYTES >> 20
            )
        } else {
            format!(
                "{width} x {height} pixels in a file of {} bytes are more than it can hold",
                bytes.len()
            )
        }));
    }
    let upright = decoder.orientation().map_err(|e| wrong(e.to_string()))?;
    let image = DynamicImage::from_decoder(decoder).map_err(|e| wrong(e.to_string()))?;
    upright_input(&image, upright, to).map_err(|e| wrong(e.to_string()))
}

/// Turns an image upright and makes an input of it, without a second image in memory.
fn upright_input(
    image: &DynamicImage,
    upright: Orientation,
    to: &ImageInput,
) -> Result<Vec<f32>, ImageError> {
    use Orientation as O;
    let (width, height) = image.dimensions();
    let turned = matches!(
        upright,
        O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH
    );
    let (w, h) = if turned {
        (height, width)
    } else {
        (width, height)
    };
    let grey = to.shape()[0] == 1;
    to.apply_with(h as usize, w as usize, |row, column| {
        // Below the sides, which are u32.
        let (row, column) = (row as u32, column as u32);
        let (x, y) = match upright {
            O::NoTransforms => (column, row),
            O::FlipHorizontal => (width - 1 - column, row),
            O::FlipVertical => (column, height - 1 - row),
            O::Rotate180 => (width - 1 - column, height - 1 - row),
            O::Rotate90 => (row, height - 1 - column),
            O::Rotate270 => (width - 1 - row, column),
            O::Rotate90FlipH => (row, column),
            O::Rotate270FlipH => (width - 1 - row, height - 1 - column),
        };
        let pixel = image.get_pixel(x, y);
        if grey {
            [pixel.to_luma().0[0]; 3]
        } else {
            pixel.to_rgb().0
        }
    })
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
            x.extend(read(&self.files[place], &self.image)?);
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamplight_models::image::Resize;

    fn input(resize: Resize, shape: [usize; 3]) -> ImageInput {
        let range = ValueRange::Byte;
        ImageInput::new(ImageRule { resize, range }, &shape).expect("a rule")
    }

    #[test]
    fn the_shorter_side_is_scaled_and_the_middle_kept() {
        // Left third red, middle green, right blue: the middle square is green.
        let wide = image::RgbImage::from_fn(300, 100, |x, _| match x / 100 {
            0 => image::Rgb([255, 0, 0]),
            1 => image::Rgb([0, 255, 0]),
            _ => image::Rgb([0, 0, 255]),
        });
        let to = input(Resize::ShortestSide(10), [3, 10, 10]);
        let wide = DynamicImage::ImageRgb8(wide);
        let small = upright_input(&wide, Orientation::NoTransforms, &to).expect("fits");
        let at = |channel: usize, x: usize| small[channel * 100 + 55 - 5 + x].round();
        assert_eq!([0, 1, 2].map(|c| at(c, 5)), [0.0, 255.0, 0.0]);
        assert!(at(1, 1) > 250.0);
        // Grey, by what each color gives to brightness.
        let to = input(Resize::ShortestSide(10), [1, 10, 10]);
        let grey = upright_input(&wide, Orientation::NoTransforms, &to).expect("fits");
        assert_eq!(
            grey[55].round(),
            f32::from(image::Rgb([0_u8, 255, 0]).to_luma().0[0])
        );
    }

    #[test]
    fn an_image_that_would_take_a_nodes_memory_is_refused_however_large_its_file() {
        // A header that claims 20000 x 20000 grey pixels, and a megabyte of comment.
        let chunk = |name: &[u8; 4], body: &[u8]| {
            let named = [name.as_slice(), body].concat();
            let mut crc = flate2::Crc::new();
            crc.update(&named);
            let length = (body.len() as u32).to_be_bytes();
            [&length, named.as_slice(), &crc.sum().to_be_bytes()].concat()
        };
        let side = 20_000_u32.to_be_bytes();
        let header = [side.as_slice(), &side, &[8, 0, 0, 0, 0]].concat();
        let file = [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            chunk(b"IHDR", &header),
            chunk(b"teXt", &vec![b'x'; 1 << 20]),
            chunk(b"IDAT", &[]),
            chunk(b"IEND", &[]),
        ]
        .concat();
        let to = input(Resize::ShortestSide(10), [1, 10, 10]);
        let e = parse(&file, &to).expect_err("refused").to_string();
        assert!(e.contains("20000 x 20000 pixels take 381 MiB"), "{e}");
    }

    #[test]
    fn an_image_is_turned_upright_whichever_way_it_lies() {
        let lying = image::RgbImage::from_fn(3, 2, |x, y| image::Rgb([(x * 10 + y) as u8; 3]));
        let lying = DynamicImage::ImageRgb8(lying);
        for exif in 1..=8 {
            let upright = Orientation::from_exif(exif).expect("1 to 8");
            let mut want = lying.clone();
            want.apply_orientation(upright);
            let (width, height) = want.dimensions();
            let to = input(Resize::None, [1, height as usize, width as usize]);
            let got = upright_input(&lying, upright, &to).expect("fits");
            let want = want.to_luma8();
            let want: Vec<f32> = want.pixels().map(|p| f32::from(p.0[0])).collect();
            assert_eq!(got, want, "orientation {exif}");
        }
    }
}
