//! The processor as a lane.

use super::{Lane, LaneError, LaneKind, Mat, MatMut};
use crate::kernel::cpu::Cpu;
use crate::kernel::gemm::gemm;

/// Products on the CPU.
#[derive(Debug)]
pub struct CpuLane {
    host: Cpu,
}

impl CpuLane {
    /// A lane of this many threads (0 counts as 1).
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self::on(Cpu::new(threads))
    }

    /// A lane of these threads and instructions.
    #[must_use]
    pub fn on(host: Cpu) -> Self {
        Self { host }
    }
}

impl Lane for CpuLane {
    fn kind(&self) -> LaneKind {
        LaneKind::Cpu
    }

    fn host(&self) -> &Cpu {
        &self.host
    }

    fn offloads(&self) -> bool {
        false
    }

    fn gemm(
        &self,
        alpha: f32,
        a: Mat<'_>,
        b: Mat<'_>,
        beta: f32,
        c: MatMut<'_>,
    ) -> Result<(), LaneError> {
        Ok(gemm(alpha, a, b, beta, c, self.host.team().members())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_gives_the_same_bytes_every_time() {
        // Large enough for the product to be split.
        let n = 300;
        let a: Vec<f32> = (0..n * n).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..n * n).map(|i| (i as f32 * 0.11).cos()).collect();
        let run = |threads| {
            let mut c = vec![0.5; n * n];
            CpuLane::new(threads)
                .gemm(
                    1.0,
                    Mat::dense(&a, n, n).expect("a"),
                    Mat::dense(&b, n, n).expect("b").transposed(),
                    1.0,
                    MatMut::dense(&mut c, n, n).expect("c"),
                )
                .expect("product");
            c
        };
        for threads in [1, 2, 4] {
            assert_eq!(run(threads), run(threads), "{threads} threads");
        }
    }
}
