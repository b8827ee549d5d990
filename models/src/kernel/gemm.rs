//! Matrix product through the `gemm` crate, behind views whose bounds were checked.

/// Why a matrix view or a product is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatError {
    /// The view reaches past the slice.
    #[error(
        "a {rows} x {cols} matrix with strides {row_stride} and {col_stride} does not fit {len} values"
    )]
    Bounds {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Values between rows.
        row_stride: usize,
        /// Values between columns.
        col_stride: usize,
        /// Values in the slice.
        len: usize,
    },
    /// Two places of a matrix to be written are one value.
    #[error(
        "a {rows} x {cols} matrix with strides {row_stride} and {col_stride} overlaps itself and cannot be written"
    )]
    Overlap {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Values between rows.
        row_stride: usize,
        /// Values between columns.
        col_stride: usize,
    },
    /// Inner or outer dimensions of a product differ.
    #[error("cannot multiply {a:?} by {b:?} into {c:?}")]
    Dimensions {
        /// Rows and columns of the left operand.
        a: (usize, usize),
        /// Rows and columns of the right operand.
        b: (usize, usize),
        /// Rows and columns of the result.
        c: (usize, usize),
    },
}

/// Largest dimension or stride of a view, so that index arithmetic in `isize` cannot overflow.
const MAX_EXTENT: usize = 1 << 31;

fn reach(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if [rows, cols, row_stride, col_stride]
        .iter()
        .any(|&n| n > MAX_EXTENT)
    {
        return None;
    }
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1)
        .checked_mul(row_stride)?
        .checked_add((cols - 1).checked_mul(col_stride)?)?
        .checked_add(1)
}

/// A matrix to read: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A view with any strides; elements may overlap.
    ///
    /// # Errors
    /// [`MatError::Bounds`] when it reaches past `data`.
    pub fn new(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, MatError> {
        match reach(rows, cols, row_stride, col_stride) {
            Some(n) if n <= data.len() => Ok(Self {
                data,
                rows,
                cols,
                row_stride,
                col_stride,
            }),
            _ => Err(MatError::Bounds {
                rows,
                cols,
                row_stride,
                col_stride,
                len: data.len(),
            }),
        }
    }

    /// Rows after rows without gaps.
    ///
    /// # Errors
    /// [`MatError::Bounds`] when `data` is too short.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Result<Self, MatError> {
        Self::new(data, rows, cols, cols, 1)
    }

    /// Rows and columns swapped; nothing is copied.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// `(rows, columns)`.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The elements row by row.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        (0..self.rows).flat_map(move |i| {
            (0..self.cols).map(move |j| self.data[i * self.row_stride + j * self.col_stride])
        })
    }
}

/// A matrix to write; no two elements share a place.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A view whose rows or columns lie apart.
    ///
    /// # Errors
    /// [`MatError::Bounds`] when it reaches past `data`, [`MatError::Overlap`] when rows and columns
    /// interleave so that elements could coincide.
    pub fn new(
        data: &'a mut [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, MatError> {
        if reach(rows, cols, row_stride, col_stride).is_none_or(|n| n > data.len()) {
            return Err(MatError::Bounds {
                rows,
                cols,
                row_stride,
                col_stride,
                len: data.len(),
            });
        }
        let by_rows = col_stride >= 1 && row_stride >= cols * col_stride;
        let by_cols = row_stride >= 1 && col_stride >= rows * row_stride;
        if rows.saturating_mul(cols) > 1 && !by_rows && !by_cols {
            return Err(MatError::Overlap {
                rows,
                cols,
                row_stride,
                col_stride,
            });
        }
        Ok(Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride,
        })
    }

    /// Rows after rows without gaps.
    ///
    /// # Errors
    /// [`MatError::Bounds`] when `data` is too short.
    pub fn dense(data: &'a mut [f32], rows: usize, cols: usize) -> Result<Self, MatError> {
        Self::new(data, rows, cols, cols, 1)
    }

    /// `(rows, columns)`.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Applies `f(i, j, element)` to every element, row by row.
    pub fn update(&mut self, mut f: impl FnMut(usize, usize, &mut f32)) {
        for i in 0..self.rows {
            for j in 0..self.cols {
                f(
                    i,
                    j,
                    &mut self.data[i * self.row_stride + j * self.col_stride],
                );
            }
        }
    }
}

/// Refuses a product whose dimensions do not fit.
///
/// # Errors
/// [`MatError::Dimensions`].
pub fn check(a: &Mat<'_>, b: &Mat<'_>, c: &MatMut<'_>) -> Result<(), MatError> {
    if a.cols == b.rows && a.rows == c.rows && b.cols == c.cols {
        Ok(())
    } else {
        Err(MatError::Dimensions {
            a: a.size(),
            b: b.size(),
            c: c.size(),
        })
    }
}

/// `C = alpha A B + beta C`; with `beta == 0` the old `C` is not read.
///
/// `threads` above 1 splits the product over rayon's pool when it is worth it; each element is
/// still summed by one thread in one order.
///
/// # Shapes
/// A `[m, k]`, B `[k, n]`, C `[m, n]`
/// # Errors
/// [`MatError::Dimensions`].
pub fn gemm(
    alpha: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    beta: f32,
    c: MatMut<'_>,
    threads: usize,
) -> Result<(), MatError> {
    check(&a, &b, &c)?;
    if c.rows == 0 || c.cols == 0 {
        return Ok(());
    }
    let parallelism = if threads > 1 {
        gemm::Parallelism::Rayon(threads)
    } else {
        gemm::Parallelism::None
    };
    let stride = |n: usize| n as isize;
    // SAFETY: the constructors of `Mat` and `MatMut` checked that every `(i, j)` inside `rows x cols`
    // is an index inside the borrowed slice and that no extent exceeds 2^31; `check` made the three
    // sizes agree; `c` is borrowed mutably, so it aliases neither `a` nor `b`, and its elements do
    // not coincide.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data.as_mut_ptr(),
            stride(c.col_stride),
            stride(c.row_stride),
            beta != 0.0,
            a.data.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_products_accumulate() {
        // A is stored transposed, C is every second column of a wider matrix.
        let a = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
        let b = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let mut c = [10.0_f32, -1.0, 20.0, -1.0, 30.0, -1.0, 40.0, -1.0];
        gemm(
            2.0,
            Mat::new(&a, 2, 3, 1, 2).expect("a"),
            Mat::dense(&b, 3, 2).expect("b"),
            0.5,
            MatMut::new(&mut c, 2, 2, 4, 2).expect("c"),
            1,
        )
        .expect("product");
        // A = [1 2 3; 4 5 6], A B = [4 5; 10 11].
        assert_eq!(c, [13.0, -1.0, 20.0, -1.0, 35.0, -1.0, 42.0, -1.0]);
    }

    #[test]
    fn an_empty_inner_dimension_scales_the_result() {
        let mut c = [2.0_f32, 4.0];
        let a = Mat::dense(&[], 1, 0).expect("a");
        let b = Mat::dense(&[], 0, 2).expect("b");
        gemm(1.0, a, b, 0.5, MatMut::dense(&mut c, 1, 2).expect("c"), 1).expect("product");
        assert_eq!(c, [1.0, 2.0]);
    }

    #[test]
    fn views_past_their_slice_and_self_overlapping_results_are_refused() {
        let mut v = [0.0_f32; 6];
        assert!(matches!(Mat::dense(&v, 3, 3), Err(MatError::Bounds { .. })));
        assert!(matches!(
            Mat::new(&v, usize::MAX, 2, usize::MAX, 1),
            Err(MatError::Bounds { .. })
        ));
        assert!(Mat::new(&v, 3, 4, 1, 1).is_ok());
        assert!(matches!(
            MatMut::new(&mut v, 3, 4, 1, 1),
            Err(MatError::Overlap { .. })
        ));
        // All on one place.
        assert!(matches!(
            MatMut::new(&mut v, 2, 1, 0, 1),
            Err(MatError::Overlap { .. })
        ));
        let a = [0.0_f32; 4];
        let e = gemm(
            1.0,
            Mat::dense(&a, 2, 2).expect("a"),
            Mat::dense(&a, 1, 2).expect("b"),
            0.0,
            MatMut::dense(&mut v, 2, 2).expect("c"),
            1,
        );
        assert!(matches!(e, Err(MatError::Dimensions { .. })));
    }
}
