//! Dense f64 tensors for the reference interpreter.
//!
//! Integers and truth values are held as exact f64.
//!
//! # Invariants
//! - `data.len()` is the product of `shape`; row-major.

/// A tensor of f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents.
    pub shape: Vec<u64>,
    /// Elements, row-major.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor of one value.
    pub fn full(shape: &[u64], value: f64) -> Self {
        Tensor { shape: shape.to_vec(), data: vec![value; shape.iter().product::<u64>() as usize] }
    }

    /// A tensor computed from each index.
    pub fn from_fn(shape: &[u64], mut f: impl FnMut(&[u64]) -> f64) -> Self {
        let mut data = Vec::with_capacity(shape.iter().product::<u64>() as usize);
        for_each_index(shape, |idx| data.push(f(idx)));
        Tensor { shape: shape.to_vec(), data }
    }

    /// Row-major position of an index.
    pub fn offset(&self, idx: &[u64]) -> usize {
        debug_assert_eq!(idx.len(), self.shape.len());
        idx.iter().zip(&self.shape).fold(0, |acc, (i, d)| acc * *d as usize + *i as usize)
    }

    /// Element at an index.
    pub fn at(&self, idx: &[u64]) -> f64 {
        self.data[self.offset(idx)]
    }
}

/// Calls `f` with every index of a shape in row-major order; never, if an extent is 0.
pub fn for_each_index(shape: &[u64], mut f: impl FnMut(&[u64])) {
    if shape.contains(&0) {
        return;
    }
    let mut idx = vec![0u64; shape.len()];
    loop {
        f(&idx);
        let mut d = shape.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            idx[d] += 1;
            if idx[d] < shape[d] {
                break;
            }
            idx[d] = 0;
        }
    }
}
