//! Q8_0: blocks of 32 values with one half-precision scale.
//!
//! A block is 34 bytes: the scale `d` as little-endian f16, then 32 signed bytes `q`; a value is
//! `f32(d) * q`. Rows are padded with zeros to whole blocks.
//!
//! # Why quantizing twice gives the same blocks
//!
//! Quantizing divides by the **unrounded** scale `s = amax / 127` but stores `d = f16(s)`, so it is
//! not obvious. Let a block have `d > 0`:
//!
//! 1. The largest value has `|q| = 127`: `amax * (1 / s)` is 127 within a few units in the last
//!    place.
//! 2. Every `d * q` is exact in f32: 11 significant bits times 7 make 18, f32 has 24.
//! 3. So the second pass finds `amax = 127 d`, and `127 d / 127` rounds to `d` itself, which f16
//!    holds; and `d * q * (1 / d)` is within `127 * 2^-22` of the integer `q`, which rounding finds.
//!
//! Only where the scale underflows (`s <= 2^-25`, so `d = 0`) would ggml keep bytes that mean
//! nothing, and a second pass would zero them. [`quantize`] stores zeros there at once. Everywhere
//! else its bytes are ggml's reference bytes.
//!
//! # Source
//! ggml's `quantize_row_q8_0_ref`; candle's `BlockQ8_0` is the oracle in the tests below.

use half::f16;

/// Values in a block.
pub const BLOCK_VALUES: usize = 32;

/// Bytes of a block: scale and quantized values.
pub const BLOCK_BYTES: usize = 2 + BLOCK_VALUES;

/// Largest magnitude of a quantized value.
const STEPS: f32 = 127.0;

/// Why a matrix cannot be quantized or a block not be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Q8Error {
    /// NaN or an infinity.
    #[error("row {row}, column {column} holds the non-finite value {value}")]
    NonFinite {
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        column: usize,
        /// The value.
        value: f32,
    },
    /// The block's scale does not fit half precision.
    #[error(
        "block {block} of row {row} reaches {amax}, at most {max} can be scaled in half precision"
    )]
    Range {
        /// Row of the matrix.
        row: usize,
        /// Block in the row.
        block: usize,
        /// Largest magnitude in the block.
        amax: f32,
        /// Largest magnitude that can be stored.
        max: f32,
    },
    /// A stored scale that is NaN or infinite.
    #[error("block {block} of row {row} has the non-finite scale {scale}")]
    Scale {
        /// Row of the matrix.
        row: usize,
        /// Block in the row.
        block: usize,
        /// The scale.
        scale: f32,
    },
    /// Padding after a row's last value that is not zero.
    #[error("row {row} has a value other than zero in its padding")]
    Padding {
        /// Row of the matrix.
        row: usize,
    },
    /// Numbers of values or bytes do not fit rows and columns.
    #[error("{rows} rows of {columns} need {want} {unit}, got {got}")]
    Length {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
        /// Needed.
        want: usize,
        /// Found.
        got: usize,
        /// `values` or `bytes`.
        unit: &'static str,
    },
    /// No matrix has these dimensions.
    #[error("{rows} rows of {columns} columns cannot be addressed, or there are none")]
    Size {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
}

/// Columns after padding to whole blocks; `None` on overflow.
#[must_use]
pub fn padded(columns: usize) -> Option<usize> {
    columns.checked_next_multiple_of(BLOCK_VALUES)
}

/// Bytes of a quantized matrix; `None` on overflow.
#[must_use]
pub fn byte_len(rows: usize, columns: usize) -> Option<usize> {
    let blocks = padded(columns)? / BLOCK_VALUES;
    rows.checked_mul(blocks)?.checked_mul(BLOCK_BYTES)
}

fn size(rows: usize, columns: usize) -> Result<usize, Q8Error> {
    match byte_len(rows, columns) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(Q8Error::Size { rows, columns }),
    }
}

/// Quantizes a row-major matrix.
///
/// # Shapes
/// `values`: `[rows, columns]`; result: `rows * ceil(columns / 32)` blocks.
/// # Errors
/// [`Q8Error`] when a value is not finite, a block exceeds half precision's scale (magnitudes above
/// 127 * 65504), or `values` has another length.
pub fn quantize(values: &[f32], rows: usize, columns: usize) -> Result<Vec<u8>, Q8Error> {
    let mut bytes = Vec::with_capacity(size(rows, columns)?);
    if rows.checked_mul(columns) != Some(values.len()) {
        return Err(Q8Error::Length {
            rows,
            columns,
            want: rows.saturating_mul(columns),
            got: values.len(),
            unit: "values",
        });
    }
    for (row, values) in values.chunks_exact(columns).enumerate() {
        if let Some(column) = values.iter().position(|v| !v.is_finite()) {
            return Err(Q8Error::NonFinite {
                row,
                column,
                value: values[column],
            });
        }
        for (block, values) in values.chunks(BLOCK_VALUES).enumerate() {
            quantize_block(values, &mut bytes).map_err(|amax| Q8Error::Range {
                row,
                block,
                amax,
                max: STEPS * f16::MAX.to_f32(),
            })?;
        }
    }
    Ok(bytes)
}

/// Appends one block of up to 32 finite values; the error is the magnitude that is too large.
fn quantize_block(values: &[f32], bytes: &mut Vec<u8>) -> Result<(), f32> {
    let amax = values.iter().fold(0_f32, |m, v| m.max(v.abs()));
    let scale = amax / STEPS;
    let stored = f16::from_f32(scale);
    if !stored.is_finite() {
        return Err(amax);
    }
    bytes.extend(stored.to_le_bytes());
    let inverse = if stored == f16::ZERO {
        0.0
    } else {
        1.0 / scale
    };
    // `round` takes halves away from zero, like C's `roundf`; the product never leaves +-127.
    let quantized = values.iter().map(|v| (v * inverse).round() as i8 as u8);
    let end = bytes.len() + BLOCK_VALUES;
    bytes.extend(quantized);
    bytes.resize(end, 0);
    Ok(())
}

/// Restores a row-major matrix: each value is exactly `f32(scale) * q`, padding is dropped.
///
/// # Shapes
/// `bytes`: `rows * ceil(columns / 32)` blocks; result: `[rows, columns]`.
/// # Errors
/// [`Q8Error`] when `bytes` has another length, a scale is not finite, or padding is not zero.
pub fn dequantize(bytes: &[u8], rows: usize, columns: usize) -> Result<Vec<f32>, Q8Error> {
    let want = size(rows, columns)?;
    if bytes.len() != want {
        return Err(Q8Error::Length {
            rows,
            columns,
            want,
            got: bytes.len(),
            unit: "bytes",
        });
    }
    let mut values = Vec::with_capacity(rows * columns);
    for (row, bytes) in bytes.chunks_exact(want / rows).enumerate() {
        let mut left = columns;
        for (block, bytes) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let (scale, quantized) = bytes.split_at(2);
            let scale = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
            if !scale.is_finite() {
                return Err(Q8Error::Scale { row, block, scale });
            }
            let (kept, padding) = quantized.split_at(left.min(BLOCK_VALUES));
            values.extend(kept.iter().map(|&q| scale * f32::from(q as i8)));
            if padding.iter().any(|&q| q != 0) {
                return Err(Q8Error::Padding { row });
            }
            left -= kept.len();
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    /// What candle makes of a matrix whose rows are whole blocks.
    fn candle(values: &[f32], rows: usize, columns: usize) -> (Vec<u8>, Vec<f32>) {
        let t = Tensor::from_slice(values, (rows, columns), &Device::Cpu).unwrap();
        let q = QTensor::quantize(&t, GgmlDType::Q8_0).unwrap();
        let back = q.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        (q.data().unwrap().into_owned(), back.to_vec1().unwrap())
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    /// Blocks whose magnitudes span all of f32 that half precision can scale, halves included.
    fn blocks() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            8 => -1.0_f32..1.0,
            1 => (-254_i32..=254).prop_map(|half| half as f32 / 254.0),
            1 => Just(0.0_f32),
        ];
        let exponent = -40_i32..22;
        (prop::collection::vec(value, 96), exponent)
            .prop_map(|(v, e)| v.iter().map(|x| x * 2_f32.powi(e)).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn bytes_and_values_are_candles_where_the_scale_does_not_underflow(v in blocks()) {
            let bytes = quantize(&v, 1, 96).unwrap();
            let values = dequantize(&bytes, 1, 96).unwrap();
            let (want_bytes, want_values) = candle(&v, 1, 96);
            for (got, want) in bytes.chunks(BLOCK_BYTES).zip(want_bytes.chunks(BLOCK_BYTES)) {
                prop_assert_eq!(&got[..2], &want[..2]);
                if got[..2] == [0, 0] {
                    prop_assert!(got.iter().all(|&b| b == 0));
                } else {
                    prop_assert_eq!(got, want);
                }
            }
            // -0.0 and 0.0 differ in bits only where candle multiplies 0 by a negative byte.
            prop_assert_eq!(values, want_values);
        }

        #[test]
        fn quantizing_dequantized_values_gives_the_same_blocks(v in blocks()) {
            let bytes = quantize(&v, 3, 32).unwrap();
            let values = dequantize(&bytes, 3, 32).unwrap();
            let again = quantize(&values, 3, 32).unwrap();
            prop_assert_eq!(&again, &bytes);
            prop_assert_eq!(bits(&dequantize(&again, 3, 32).unwrap()), bits(&values));
        }

        #[test]
        fn short_rows_are_padded_with_zeros(columns in 1_usize..70, seed in -1.0_f32..1.0) {
            let v: Vec<f32> = (0..2 * columns).map(|i| (i as f32 + seed).sin()).collect();
            let width = padded(columns).unwrap();
            let mut wide = vec![0.0; 2 * width];
            for row in 0..2 {
                wide[row * width..row * width + columns]
                    .copy_from_slice(&v[row * columns..(row + 1) * columns]);
            }
            let bytes = quantize(&v, 2, columns).unwrap();
            prop_assert_eq!(&bytes, &candle(&wide, 2, width).0);
            prop_assert_eq!(dequantize(&bytes, 2, columns).unwrap().len(), 2 * columns);
        }

        #[test]
        fn any_bytes_restore_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 68)) {
            if let Ok(values) = dequantize(&bytes, 2, 32) {
                prop_assert!(values.iter().all(|v| v.is_finite()));
            }
        }
    }

    /// All 31,743 positive finite scales of half precision, subnormal ones included, against all
    /// 255 bytes: the proof in the module's head, carried out.
    #[test]
    fn every_scale_and_every_byte_survive_a_second_pass() {
        let bytes_of_a_row: Vec<i8> = (-127..=127).collect();
        for code in 1..f16::INFINITY.to_bits() {
            let d = f16::from_bits(code);
            let mut row = Vec::with_capacity(9 * BLOCK_BYTES);
            for q in bytes_of_a_row.chunks(BLOCK_VALUES - 1) {
                row.extend(d.to_le_bytes());
                row.extend(q.iter().map(|&q| q as u8));
                // Every block of the quantizer's making reaches 127.
                row.resize(row.len() + BLOCK_VALUES - q.len(), 127);
            }
            let columns = row.len() / BLOCK_BYTES * BLOCK_VALUES;
            let values = dequantize(&row, 1, columns).unwrap();
            assert_eq!(quantize(&values, 1, columns).unwrap(), row, "scale {d}");
        }
    }

    #[test]
    fn halves_round_away_from_zero() {
        // amax 127 makes the scale exactly 1.
        let mut v = vec![0.0; 32];
        v[..5].copy_from_slice(&[127.0, 0.5, -0.5, 1.5, -2.5]);
        let bytes = quantize(&v, 1, 32).unwrap();
        let q: Vec<i8> = bytes[2..7].iter().map(|&b| b as i8).collect();
        assert_eq!(q, [127, 1, -1, 2, -3]);
    }

    #[test]
    fn a_scale_that_underflows_makes_a_zero_block_and_stays_one() {
        for tiny in [1e-45_f32, 1e-38, 1e-30, 127.0 * 2_f32.powi(-25)] {
            let bytes = quantize(&[tiny; 32], 1, 32).unwrap();
            assert_eq!(bytes, [0; BLOCK_BYTES], "{tiny}");
        }
        let above = quantize(&[127.0 * 2_f32.powi(-25) * 1.001; 32], 1, 32).unwrap();
        assert_eq!(above[..3], [1, 0, 127]);
    }

    #[test]
    fn what_half_precision_cannot_scale_is_an_error() {
        let largest = 127.0 * 65504.0;
        quantize(&[largest; 32], 1, 32).unwrap();
        let mut v = vec![0.0; 128];
        v[100] = largest * 1.01;
        let error = quantize(&v, 2, 64).unwrap_err();
        assert!(
            matches!(
                error,
                Q8Error::Range {
                    row: 1,
                    block: 1,
                    ..
                }
            ),
            "{error}"
        );
        v[100] = f32::NAN;
        let error = quantize(&v, 2, 64).unwrap_err();
        assert!(
            matches!(
                error,
                Q8Error::NonFinite {
                    row: 1,
                    column: 36,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn wrong_lengths_scales_and_padding_are_errors() {
        assert!(matches!(
            quantize(&[0.0; 3], 2, 2),
            Err(Q8Error::Length {
                want: 4,
                got: 3,
                ..
            })
        ));
        assert!(matches!(quantize(&[], 0, 2), Err(Q8Error::Size { .. })));
        assert!(matches!(
            quantize(&[], usize::MAX, 2),
            Err(Q8Error::Size { .. })
        ));
        assert!(matches!(
            quantize(&[], 1, usize::MAX),
            Err(Q8Error::Size { .. })
        ));
        assert!(matches!(
            dequantize(&[0; 33], 1, 32),
            Err(Q8Error::Length { want: 34, .. })
        ));
        let mut block = [0; BLOCK_BYTES];
        block[1] = 0x7c;
        assert!(matches!(
            dequantize(&block, 1, 32),
            Err(Q8Error::Scale { .. })
        ));
        let mut block = [0; BLOCK_BYTES];
        block[33] = 1;
        assert!(matches!(
            dequantize(&block, 1, 31),
            Err(Q8Error::Padding { row: 0 })
        ));
    }
}
