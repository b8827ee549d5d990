//! Accelerators through candle's devices: copy in, execute, synchronize, copy out.

use candle_core::{Device, Tensor};

use super::{Lane, LaneError, LaneKind, Mat, MatMut};
use crate::kernel::cpu::Cpu;
use crate::kernel::gemm::check;

/// Products on a candle device. On `Device::Cpu` it takes the same path, so that the path is tested
/// on every machine.
#[derive(Debug)]
pub struct CandleLane {
    device: Device,
    host: Cpu,
}

impl CandleLane {
    /// A lane on this device; everything but products runs on so many of the host's threads.
    #[must_use]
    pub fn new(device: Device, threads: usize) -> Self {
        Self {
            device,
            host: Cpu::new(threads),
        }
    }

    /// The first device of a kind; threads as in [`CandleLane::new`].
    ///
    /// # Errors
    /// [`LaneError::NotBuilt`] when the cargo feature is missing, [`LaneError::NoDevice`] when the
    /// device does not open.
    pub fn open(kind: LaneKind, threads: usize) -> Result<Self, LaneError> {
        let device = match kind {
            LaneKind::Cpu => Ok(Device::Cpu),
            LaneKind::Cuda if cfg!(feature = "cuda") => Device::new_cuda(0),
            LaneKind::Metal if cfg!(feature = "metal") => Device::new_metal(0),
            LaneKind::Cuda | LaneKind::Metal => return Err(LaneError::NotBuilt { kind }),
        };
        let lane = device.map(|device| Self::new(device, threads));
        lane.map_err(|e| LaneError::NoDevice {
            kind,
            reason: e.to_string(),
        })
    }

    fn copy_in(&self, m: &Mat<'_>) -> Result<Tensor, LaneError> {
        Ok(Tensor::from_iter(m.values(), &self.device)?.reshape(m.size())?)
    }
}

impl Lane for CandleLane {
    fn kind(&self) -> LaneKind {
        match self.device {
            Device::Cpu => LaneKind::Cpu,
            Device::Cuda(_) => LaneKind::Cuda,
            Device::Metal(_) => LaneKind::Metal,
        }
    }

    fn host(&self) -> &Cpu {
        &self.host
    }

    fn offloads(&self) -> bool {
        true
    }

    fn gemm(
        &self,
        alpha: f32,
        a: Mat<'_>,
        b: Mat<'_>,
        beta: f32,
        mut c: MatMut<'_>,
    ) -> Result<(), LaneError> {
        check(&a, &b, &c)?;
        let (rows, cols) = c.size();
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        // candle refuses empty operands; an empty sum is zero.
        let product = if a.size().1 == 0 {
            vec![0.0; rows * cols]
        } else {
            let product = self.copy_in(&a)?.matmul(&self.copy_in(&b)?)?;
            self.device.synchronize()?;
            product.flatten_all()?.to_vec1::<f32>()?
        };
        c.update(|i, j, c| {
            let old = if beta == 0.0 { 0.0 } else { beta * *c };
            *c = alpha * product[i * cols + j] + old;
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::CpuLane;

    #[test]
    fn both_lanes_agree_on_strided_accumulating_products() {
        let a: Vec<f32> = (0..60).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..40).map(|i| (i % 5) as f32 - 2.0).collect();
        let run = |lane: &dyn Lane| {
            let mut c = vec![1.0; 48];
            lane.gemm(
                0.5,
                Mat::new(&a, 6, 5, 1, 12).expect("a"),
                Mat::new(&b, 5, 4, 8, 2).expect("b"),
                2.0,
                MatMut::new(&mut c, 6, 4, 8, 1).expect("c"),
            )
            .expect("product");
            c
        };
        assert_eq!(
            run(&CpuLane::new(1)),
            run(&CandleLane::new(Device::Cpu, 1)),
            "small integers and halves are exact"
        );
    }
}
