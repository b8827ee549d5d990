//! Work that asks one thing of a machine at its best, to be timed: the yardstick for kernels.

use std::hint::black_box;

use super::cpu::Cpu;
use super::tile::{self, Dots, Tiles};

/// Operands of a tile's sum: few enough that all it reads stays in the first-level cache.
const RUN: usize = 64;

/// Multiplications and additions by register tiles of one width.
#[derive(Clone, Copy)]
pub struct MultiplyAdds {
    tiles: &'static Tiles,
    width: usize,
    /// Operations on one pair of operands.
    each: usize,
}

impl MultiplyAdds {
    /// Every width of tile there is on this processor; `halves` asks for tiles of bfloat16 pairs, and
    /// where it has none they are those of f32.
    pub fn all(cpu: &Cpu, halves: bool) -> impl Iterator<Item = Self> {
        let pairs = halves.then(|| tile::pairs(cpu.isa())).flatten();
        // A multiplication and an addition, of one number or of two.
        let each = if pairs.is_some() { 4 } else { 2 };
        let tiles = pairs.unwrap_or_else(|| tile::floats(cpu.isa()));
        tiles.widths().map(move |width| Self { tiles, width, each })
    }

    /// Has each member of the team run the tallest tile so often, over operands in its first-level
    /// cache; answers how many operations that was, of all together.
    pub fn run(&self, cpu: &Cpu, times: usize) -> f64 {
        let (width, height) = (self.width, self.tiles.tallest(self.width));
        let wide = width * self.tiles.lanes;
        let tile = self.tiles.dots(width, height);
        cpu.team().run(&|_| {
            let x = vec![0.0_f32; height * RUN];
            let w = vec![0.0_f32; RUN * wide];
            let mut y = vec![0.0_f32; height * wide];
            let dots = Dots {
                x: x.as_ptr(),
                x_step: RUN,
                segments: &[0],
                run: RUN,
                w: w.as_ptr(),
                y: y.as_mut_ptr(),
                y_step: wide,
                add: true,
            };
            for _ in 0..times {
                // SAFETY: `x` has `RUN` operands at each of `height` positions, `w` a panel of as
                // many rows, `y` room for the results.
                unsafe { tile(black_box(&dots)) };
            }
            black_box(&mut y);
        });
        (times * cpu.team().members() * height * wide * RUN * self.each) as f64
    }
}

/// Reads numbers, each member of the team its share.
pub fn read(cpu: &Cpu, numbers: &[u64]) {
    cpu.team().split(numbers.len(), |_, share| {
        let mine = &numbers[share];
        black_box(cpu.isa().run(
            #[inline(always)]
            || mine.iter().fold(0_u64, |sum, n| sum.wrapping_add(*n)),
        ));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_for_every_kind_of_tile() {
        for members in [1, 2] {
            let cpu = Cpu::new(members);
            for halves in [false, true] {
                let mut kinds = 0;
                for work in MultiplyAdds::all(&cpu, halves) {
                    let one = work.run(&cpu, 1);
                    assert!(one >= (2 * RUN * members) as f64);
                    assert_eq!(work.run(&cpu, 3), 3.0 * one);
                    kinds += 1;
                }
                assert!(kinds > 1, "{kinds}");
            }
        }
        read(&Cpu::new(2), &[1; 100]);
    }
}
