//! Processing elements that run matrix products.
//!
//! The products of convolutions and linear layers, forward and both gradients, go through a
//! [`Lane`]; everything else stays on the CPU ("offload" placement). A lane on an accelerator
//! copies operands in, executes, synchronizes and copies the result out.
//!
//! ```
//! use lamplight_models::lane::{Lane, LaneKind, Mat, MatMut, open};
//!
//! let lane = open("cpu".parse::<LaneKind>()?, 1)?;
//! let (a, b) = ([1.0, 2.0], [3.0, 4.0]);
//! let mut c = [0.0];
//! lane.gemm(
//!     1.0,
//!     Mat::dense(&a, 1, 2)?,
//!     Mat::dense(&b, 2, 1)?,
//!     0.0,
//!     MatMut::dense(&mut c, 1, 1)?,
//! )?;
//! assert_eq!(c, [11.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod candle;
mod cpu;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::kernel::cpu::Cpu;
pub use crate::kernel::gemm::{Mat, MatError, MatMut};
pub use candle::CandleLane;
pub use cpu::CpuLane;

/// What a lane cannot do.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The name is no kind of lane.
    #[error("`{0}` is no lane, expected `cpu`, `cuda` or `metal`")]
    UnknownKind(String),
    /// This program was built without the lane.
    #[error("lane `{kind}` is not in this build, rebuild with `--features {kind}`")]
    NotBuilt {
        /// The lane asked for.
        kind: LaneKind,
    },
    /// The device did not open.
    #[error("lane `{kind}` has no usable device: {reason}")]
    NoDevice {
        /// The lane asked for.
        kind: LaneKind,
        /// What the device library said.
        reason: String,
    },
    /// Operands do not fit.
    #[error(transparent)]
    Mat(#[from] MatError),
    /// The device failed while it worked.
    #[error("device failed during a product: {0}")]
    Device(#[from] candle_core::Error),
}

/// Kinds of lanes, as written in configuration: `cpu`, `cuda`, `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneKind {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU (cargo feature `cuda`).
    Cuda,
    /// The first Apple GPU (cargo feature `metal`).
    Metal,
}

impl fmt::Display for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        })
    }
}

impl FromStr for LaneKind {
    type Err = LaneError;

    fn from_str(name: &str) -> Result<Self, LaneError> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "metal" => Ok(Self::Metal),
            other => Err(LaneError::UnknownKind(other.to_owned())),
        }
    }
}

/// Something that multiplies F32 matrices.
pub trait Lane: fmt::Debug + Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> LaneKind;

    /// The processor and threads of everything that is not a product.
    fn host(&self) -> &Cpu;

    /// Whether products are handed over as matrices ([`Lane::gemm`]); if not, the host's own kernels
    /// make them.
    fn offloads(&self) -> bool;

    /// `C = alpha A B + beta C`; with `beta == 0` the old `C` is not read.
    ///
    /// The same operands give the same bytes on the same lane.
    ///
    /// # Shapes
    /// A `[m, k]`, B `[k, n]`, C `[m, n]`
    /// # Errors
    /// [`LaneError::Mat`] when the sizes differ, [`LaneError::Device`] when the device fails.
    fn gemm(
        &self,
        alpha: f32,
        a: Mat<'_>,
        b: Mat<'_>,
        beta: f32,
        c: MatMut<'_>,
    ) -> Result<(), LaneError>;
}

/// Opens a lane; `threads` is how many threads of the CPU it may use (0 counts as 1).
///
/// # Errors
/// [`LaneError::NotBuilt`] when the cargo feature is missing, [`LaneError::NoDevice`] when the
/// device does not open.
pub fn open(kind: LaneKind, threads: usize) -> Result<Arc<dyn Lane>, LaneError> {
    match kind {
        LaneKind::Cpu => Ok(Arc::new(CpuLane::new(threads))),
        LaneKind::Cuda | LaneKind::Metal => Ok(Arc::new(CandleLane::open(kind, threads)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for kind in [LaneKind::Cpu, LaneKind::Cuda, LaneKind::Metal] {
            assert_eq!(kind.to_string().parse::<LaneKind>().expect("name"), kind);
        }
        let e = "tpu".parse::<LaneKind>().expect_err("unknown");
        assert_eq!(
            e.to_string(),
            "`tpu` is no lane, expected `cpu`, `cuda` or `metal`"
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_lane_that_was_not_built_names_the_feature() {
        let e = open(LaneKind::Cuda, 1).expect_err("not built");
        assert_eq!(
            e.to_string(),
            "lane `cuda` is not in this build, rebuild with `--features cuda`"
        );
    }
}
