//! Model files: GGUF version 3 with Q8_0 weights and everything else in F32.
//!
//! # The file
//!
//! Standard keys: `general.architecture` = `lamplight`, `general.name`, `general.alignment`,
//! `general.file_type`, `general.quantization_version`. Ours begin with `lamplight.`: format version,
//! architecture, graph (JSON of [`crate::graph::Graph`]), the true shape of every tensor, and the
//! description of input and output ([`crate::model::ModelInfo`]). `docs/model-file.md` lists every
//! key with its type, unit and meaning; a test holds it to what [`write()`] writes.
//!
//! Files from before descriptions lack `lamplight.description_version` and what came with it. They
//! are read with defaults, and written again without these keys.
//!
//! A weight of shape `[O, ...]` is stored as `O` rows of the other dimensions' product, padded with
//! zeros to a multiple of 32. Tensors lie in the order of their names without gaps, padded to 32
//! bytes with zeros.
//!
//! # One model, one file
//!
//! [`write()`] is deterministic, and for every file it made, `write(&read(&file)?)? == file`; see
//! [`super::q8_0`] for why rounding twice changes nothing.
//!
//! # Why not candle's reader
//!
//! Model files arrive over the network. `candle_core::quantized::gguf_file` (0.11.1) bounds its
//! lengths, but divides by the file's own alignment (zero panics), lets a second key or tensor
//! of one name silently win, multiplies dimensions unchecked, holds every array element as a
//! 32-byte value, and allows gaps, overlaps and trailing bytes. Its writer takes metadata in any
//! order but knows only version 2. The reader here borrows from the file, allocates a small
//! multiple of its length at most, and accepts one layout. candle's reader is a test's oracle.

mod layout;
mod read;
mod write;

pub use read::read;
pub use write::write;

use super::q8_0::Q8Error;
use crate::model::ModelError;

/// `GGUF` as the first four bytes.
const MAGIC: [u8; 4] = *b"GGUF";
/// Container version written and read.
const CONTAINER_VERSION: u32 = 3;
/// Version of the `lamplight.*` keys.
const FORMAT_VERSION: u32 = 1;
/// Multiple at which tensors start; GGUF's default.
const ALIGNMENT: usize = 32;

const GENERAL_ARCHITECTURE: &str = "general.architecture";
const GENERAL_ALIGNMENT: &str = "general.alignment";
const GENERAL_NAME: &str = "general.name";
const GENERAL_FILE_TYPE: &str = "general.file_type";
const GENERAL_QUANTIZATION: &str = "general.quantization_version";
const KEY_VERSION: &str = "lamplight.format_version";
const KEY_ARCHITECTURE: &str = "lamplight.architecture";
const KEY_GRAPH: &str = "lamplight.graph";
const KEY_MEAN: &str = "lamplight.input.mean";
const KEY_STD: &str = "lamplight.input.std";
const KEY_CHANNELS: &str = "lamplight.input.channels";
const KEY_RATE: &str = "lamplight.sampling_rate_hz";
const KEY_CLASSES: &str = "lamplight.classes";
const KEY_DESCRIPTION: &str = "lamplight.description_version";
const KEY_INPUT_NAME: &str = "lamplight.input.name";
const KEY_INPUT_SHAPE: &str = "lamplight.input.shape";
const KEY_LAYOUT: &str = "lamplight.input.layout";
const KEY_DTYPE: &str = "lamplight.input.dtype";
const KEY_OUTPUT_NAME: &str = "lamplight.output.name";
const KEY_RESIZE: &str = "lamplight.image.resize";
const KEY_RESIZE_SIDE: &str = "lamplight.image.resize_side";
const KEY_FILTER: &str = "lamplight.image.filter";
const KEY_CROP: &str = "lamplight.image.crop";
const KEY_RANGE: &str = "lamplight.image.range";
/// Keys that came with descriptions: none of them is in a file from before.
const DESCRIBED: [&str; 10] = [
    KEY_INPUT_NAME,
    KEY_INPUT_SHAPE,
    KEY_LAYOUT,
    KEY_DTYPE,
    KEY_OUTPUT_NAME,
    KEY_RESIZE,
    KEY_RESIZE_SIDE,
    KEY_FILTER,
    KEY_CROP,
    KEY_RANGE,
];
/// Before a tensor's name: its true shape.
const KEY_SHAPE: &str = "lamplight.shape.";

/// What raw input values are, before normalisation: the only type there is.
const DTYPE_F32: &str = "f32";
/// The only filter images are scaled with; see [`crate::image`].
const FILTER_BILINEAR: &str = "bilinear";
/// The only part of a scaled image that is kept.
const CROP_CENTER: &str = "center";

/// ggml's code of F32 tensors.
const TYPE_F32: u32 = 0;
/// ggml's code of Q8_0 tensors.
const TYPE_Q8_0: u32 = 8;

/// Codes of metadata values.
mod value_type {
    pub(super) const U32: u32 = 4;
    pub(super) const F32: u32 = 6;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const F64: u32 = 12;
}

/// Why a model cannot be written or a file not be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GgufError {
    /// The first bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {0:02x?}")]
    Magic([u8; 4]),
    /// Another version of the container.
    #[error("GGUF version {got} is not supported, only {want}")]
    ContainerVersion {
        /// Version found.
        got: u32,
        /// Version supported.
        want: u32,
    },
    /// A newer (or never released) version of the `lamplight.*` keys.
    #[error("model format version {got} is not supported, only {want}; update this program")]
    FormatVersion {
        /// Version found.
        got: u32,
        /// Version supported.
        want: u32,
    },
    /// Another program's model.
    #[error("general.architecture is `{0}`, only `lamplight` files describe their graph")]
    Architecture(String),
    /// The file ends inside something.
    #[error("{what} needs {want} bytes at offset {at}, the file has {left} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: usize,
        /// Bytes needed.
        want: u64,
        /// Bytes there.
        left: usize,
    },
    /// Bytes after the last tensor.
    #[error("the file has {got} bytes, its tensors end at {want}")]
    Length {
        /// Length of the file.
        got: usize,
        /// End of the last tensor.
        want: usize,
    },
    /// Text that is not UTF-8.
    #[error("{what} at offset {at} is not UTF-8")]
    Text {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A value type that GGUF does not have, or an array of arrays.
    #[error("metadata `{key}` has the unsupported value type {code}")]
    ValueType {
        /// The key.
        key: String,
        /// The type's code.
        code: u32,
    },
    /// A key is there twice.
    #[error("metadata `{0}` is there twice")]
    DuplicateKey(String),
    /// A key that must be there is not.
    #[error("metadata `{0}` is missing")]
    MissingKey(String),
    /// A key holds another type or value than it must.
    #[error("metadata `{key}` must be {want}")]
    Value {
        /// The key.
        key: String,
        /// What it must be.
        want: String,
    },
    /// A key holds a word that this program does not know.
    #[error(
        "metadata `{key}` is {got:?}, this program knows {known}; update it if the file is newer"
    )]
    Unknown {
        /// The key.
        key: &'static str,
        /// The word found, cut to a printable length.
        got: String,
        /// The words known.
        known: &'static str,
    },
    /// A key that cannot be there beside what other keys say.
    #[error("metadata `{key}` is there, but {why}")]
    OutOfPlace {
        /// The key.
        key: &'static str,
        /// Why it cannot be.
        why: &'static str,
    },
    /// The graph is not valid JSON of a graph, or holds numbers JSON cannot.
    #[error("metadata `lamplight.graph`: {0}")]
    Graph(String),
    /// A tensor is there twice.
    #[error("tensor `{0}` is there twice")]
    DuplicateTensor(String),
    /// The graph wants a tensor the file lacks.
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    /// The file holds a tensor no node wants.
    #[error("tensor `{0}` belongs to no node of the graph")]
    UnexpectedTensor(String),
    /// A tensor is stored with other dimensions than its true shape asks for.
    #[error(
        "tensor `{name}` is stored as {got:?} (innermost first), its shape {shape:?} asks for {want:?}"
    )]
    Dimensions {
        /// The tensor.
        name: String,
        /// Dimensions found, innermost first as in the file.
        got: Vec<u64>,
        /// Dimensions wanted.
        want: Vec<u64>,
        /// True shape by the graph.
        shape: Vec<usize>,
    },
    /// More dimensions than ggml has.
    #[error("tensor `{name}` has {got} dimensions, at most 4 exist")]
    Rank {
        /// The tensor.
        name: String,
        /// Dimensions found.
        got: u32,
    },
    /// A tensor has another storage type than its role asks for.
    #[error("tensor `{name}` has ggml type {got}, its role asks for {want}")]
    TensorType {
        /// The tensor.
        name: String,
        /// ggml's code found.
        got: u32,
        /// ggml's code wanted.
        want: u32,
    },
    /// A tensor does not start where the one before it ends: a gap, an overlap, or misaligned.
    #[error("tensor `{name}` starts at {got} of the data, the one before it ends at {want}")]
    Offset {
        /// The tensor.
        name: String,
        /// Offset found.
        got: u64,
        /// Offset wanted.
        want: u64,
    },
    /// Bytes between tensors that are not zero.
    #[error("padding before offset {0} holds bytes other than zero")]
    Padding(usize),
    /// A tensor's values cannot be stored or restored.
    #[error("tensor `{name}`: {source}")]
    Quantized {
        /// The tensor.
        name: String,
        /// What is wrong, with row and block.
        source: Q8Error,
    },
    /// The model is invalid.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// How a parameter lies in a file: rows of a length, and dimensions innermost first.
struct Stored {
    type_code: u32,
    rows: usize,
    columns: usize,
    dimensions: Vec<u64>,
    bytes: usize,
}

impl Stored {
    /// `None` when the parameter's size overflows.
    fn of(spec: &crate::ops::ParamSpec) -> Option<Self> {
        let product = |dims: &[usize]| dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        if spec.role == crate::ops::ParamRole::Weight {
            let rows = *spec.shape.first()?;
            let columns = product(&spec.shape[1..])?;
            let width = super::q8_0::padded(columns)?;
            return Some(Self {
                type_code: TYPE_Q8_0,
                rows,
                columns,
                dimensions: vec![width as u64, rows as u64],
                bytes: super::q8_0::byte_len(rows, columns)?,
            });
        }
        let columns = product(&spec.shape)?;
        Some(Self {
            type_code: TYPE_F32,
            rows: 1,
            columns,
            dimensions: spec.shape.iter().rev().map(|&d| d as u64).collect(),
            bytes: columns.checked_mul(4)?,
        })
    }
}
