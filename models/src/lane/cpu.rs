//! The processor as a lane.

use super::{Lane, LaneError, LaneKind, Mat, MatMut};
use crate::kernel::gemm::gemm;

/// Products on the CPU.
#[derive(Debug, Clone, Copy)]
pub struct CpuLane {
    threads: usize,
}

impl CpuLane {
    /// A lane of this many threads (0 counts as 1); above 1, products are split over rayon's pool.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads: threads.max(1),
        }
    }
}

impl Lane for CpuLane {
    fn kind(&self) -> LaneKind {
        LaneKind::Cpu
    }

    fn gemm(
        &self,
        alpha: f32,
        a: Mat<'_>,
        b: Mat<'_>,
        beta: f32,
        c: MatMut<'_>,
    ) -> Result<(), LaneError> {
        Ok(gemm(alpha, a, b, beta, c, self.threads)?)
    }
}
