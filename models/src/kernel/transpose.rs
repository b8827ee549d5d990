//! Turning squares of numbers around: what lies side by side comes to lie one below the other.

use super::isa::Isa;

/// Rows and columns of a square.
pub(super) const SIDE: usize = 16;

/// `out[i][j] = rows[j][i]`, by way of registers where they hold a row: sixteen lines of memory are
/// asked for at once, instead of one after the other.
#[inline(always)]
pub(super) fn square(isa: Isa, rows: [&[f32; SIDE]; SIDE], out: &mut [[f32; SIDE]; SIDE]) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx512 | Isa::Avx512Bf16) {
        // SAFETY: sets come from a `Cpu` or through `Element::store`, which both look whether they are there.
        unsafe { x86::square(rows, out) };
        return;
    }
    let _ = isa;
    for (j, row) in rows.iter().enumerate() {
        for (out, v) in out.iter_mut().zip(row.iter()) {
            out[j] = *v;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::SIDE;
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn square(rows: [&[f32; SIDE]; SIDE], out: &mut [[f32; SIDE]; SIDE]) {
        // SAFETY: every row has sixteen floats, which are a register's.
        let r = rows.map(|row| unsafe { _mm512_loadu_ps(row.as_ptr()) });
        // Pairs of rows, then fours: in each quarter of a register a square of 4 x 4 is turned.
        let two: [__m512; SIDE] = std::array::from_fn(|i| {
            let (a, b) = (r[i & !1], r[i | 1]);
            if i & 1 == 0 {
                _mm512_unpacklo_ps(a, b)
            } else {
                _mm512_unpackhi_ps(a, b)
            }
        });
        let four: [__m512; SIDE] = std::array::from_fn(|i| {
            let first = i & !3 | (i >> 1 & 1);
            let (a, b) = (
                _mm512_castps_pd(two[first]),
                _mm512_castps_pd(two[first | 2]),
            );
            _mm512_castpd_ps(if i & 1 == 0 {
                _mm512_unpacklo_pd(a, b)
            } else {
                _mm512_unpackhi_pd(a, b)
            })
        });
        // Quarters change places: of `four[4 * a + b]`, quarter `q` goes to row `4 * q + b`, quarter
        // `a`.
        for b in 0..4 {
            let [p, q, s, t] = [four[b], four[4 + b], four[8 + b], four[12 + b]];
            let (low, high) = (
                _mm512_shuffle_f32x4::<0b10_00_10_00>(p, q),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(p, q),
            );
            let (low2, high2) = (
                _mm512_shuffle_f32x4::<0b10_00_10_00>(s, t),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(s, t),
            );
            // SAFETY: as above.
            unsafe {
                let mut put = |row: usize, v: __m512| _mm512_storeu_ps(out[row].as_mut_ptr(), v);
                put(b, _mm512_shuffle_f32x4::<0b10_00_10_00>(low, low2));
                put(4 + b, _mm512_shuffle_f32x4::<0b10_00_10_00>(high, high2));
                put(8 + b, _mm512_shuffle_f32x4::<0b11_01_11_01>(low, low2));
                put(12 + b, _mm512_shuffle_f32x4::<0b11_01_11_01>(high, high2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_turned_around_by_every_set() {
        let rows: [[f32; SIDE]; SIDE] =
            std::array::from_fn(|i| std::array::from_fn(|j| (i * SIDE + j) as f32));
        for isa in Isa::available().iter().copied() {
            let mut out = [[0.0; SIDE]; SIDE];
            square(isa, rows.each_ref(), &mut out);
            for (i, row) in out.iter().enumerate() {
                for (j, v) in row.iter().enumerate() {
                    assert_eq!(*v, rows[j][i], "{isa}: {i} {j}");
                }
            }
        }
    }
}
