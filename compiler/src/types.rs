//! Tensor types: an element type and static extents.
//!
//! # Invariants
//! - Extents may be 0; their product fits in `u64` (checked when a spec's dims are bound and when a
//!   program is read).

pub use perilune_plan::DType;

/// Type of a value: `f32[2, 128, 256]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<u64>>) -> Self {
        Type { dtype, shape: shape.into() }
    }

    /// Number of dimensions.
    pub fn ndim(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elems(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes in memory, contiguous.
    pub fn bytes(&self) -> u64 {
        self.elems() * self.dtype.bytes()
    }

    /// Bytes in memory, if a program can address them: at most 2^60.
    pub fn checked_bytes(&self) -> Option<u64> {
        let bytes = self.shape.iter().try_fold(self.dtype.bytes(), |acc, d| acc.checked_mul(*d));
        bytes.filter(|bytes| *bytes <= 1 << 60)
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Type { dtype, shape: self.shape.clone() }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}
