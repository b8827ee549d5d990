//! Between channels first (files, tensors, other programs) and channels last (here).

/// `[C, P]` to `[P, C]` for one sample, with `y = (x - mean[c]) * factor[c]`.
pub fn to_channels_last_normalised(x: &[f32], mean: &[f32], factor: &[f32], out: &mut [f32]) {
    let channels = mean.len();
    if channels == 0 {
        return;
    }
    let positions = x.len() / channels;
    for (c, row) in x.chunks_exact(positions.max(1)).enumerate() {
        let (mean, factor) = (mean[c], factor[c]);
        for (o, &v) in out[c..].iter_mut().step_by(channels).zip(row) {
            *o = (v - mean) * factor;
        }
    }
}

/// `[rows, cols]` to `[cols, rows]`, for each of the matrices in `x`.
pub fn transpose(x: &[f32], rows: usize, cols: usize, out: &mut [f32]) {
    let n = rows * cols;
    if n == 0 {
        return;
    }
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        if rows == 1 || cols == 1 {
            out.copy_from_slice(x);
            continue;
        }
        for (j, column) in out.chunks_exact_mut(rows).enumerate() {
            for (o, v) in column.iter_mut().zip(x[j..].iter().step_by(cols)) {
                *o = *v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_gives_the_matrices_back() {
        let x: Vec<f32> = (0_u16..24).map(f32::from).collect();
        let (mut t, mut back) = (vec![0.0; 24], vec![0.0; 24]);
        transpose(&x, 3, 4, &mut t);
        assert_eq!(t[..4], [0.0, 4.0, 8.0, 1.0]);
        assert_eq!(t[12..14], [12.0, 16.0]);
        transpose(&t, 4, 3, &mut back);
        assert_eq!(back, x);
    }

    #[test]
    fn normalising_moves_channels_to_the_end() {
        let mut out = [0.0; 6];
        to_channels_last_normalised(
            &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0],
            &[1.0, 10.0],
            &[1.0, 0.1],
            &mut out,
        );
        assert_eq!(out, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
    }
}
