//! A tensor in host memory, owned: what feeds, fetches and weights are made of.
//!
//! # Invariants
//! - `data.len()` is the product of the shape times the element size; rows are contiguous.
//! - Bytes are little-endian, whatever the host.

use perilune_plan::DType;

use crate::RuntimeError;

/// A dense row-major tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<u64>,
    data: Vec<u8>,
}

impl HostTensor {
    /// A tensor over raw little-endian bytes.
    ///
    /// # Errors
    /// [`RuntimeError::Bytes`] where the bytes do not fill the shape.
    pub fn from_bytes(dtype: DType, shape: &[u64], data: Vec<u8>) -> Result<Self, RuntimeError> {
        let bytes = byte_count(dtype, shape);
        if bytes != Some(data.len() as u64) {
            return Err(RuntimeError::Bytes {
                expected: type_name(dtype, shape),
                found: data.len(),
            });
        }
        Ok(HostTensor { dtype, shape: shape.to_vec(), data })
    }

    /// An f32 tensor.
    ///
    /// # Errors
    /// [`RuntimeError::Bytes`] where the values do not fill the shape.
    pub fn from_f32(shape: &[u64], values: &[f32]) -> Result<Self, RuntimeError> {
        Self::from_bytes(DType::f32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An i32 tensor.
    ///
    /// # Errors
    /// [`RuntimeError::Bytes`] where the values do not fill the shape.
    pub fn from_i32(shape: &[u64], values: &[i32]) -> Result<Self, RuntimeError> {
        Self::from_bytes(DType::i32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An f32 scalar.
    pub fn scalar_f32(value: f32) -> Self {
        HostTensor { dtype: DType::f32, shape: Vec::new(), data: value.to_le_bytes().to_vec() }
    }

    /// An i32 scalar.
    pub fn scalar_i32(value: i32) -> Self {
        HostTensor { dtype: DType::i32, shape: Vec::new(), data: value.to_le_bytes().to_vec() }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Number of elements.
    pub fn elems(&self) -> usize {
        self.data.len() / self.dtype.bytes() as usize
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The type as a reader writes it: `f32[2, 3]`.
    pub fn type_name(&self) -> String {
        type_name(self.dtype, &self.shape)
    }

    /// The values of a floating-point tensor, widened or rounded to f32.
    ///
    /// # Errors
    /// [`RuntimeError::DType`] for integers.
    pub fn to_f32(&self) -> Result<Vec<f32>, RuntimeError> {
        let data = &self.data;
        Ok(match self.dtype {
            DType::f32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(array(b))).collect(),
            DType::f64 => {
                data.chunks_exact(8).map(|b| f64::from_le_bytes(array(b)) as f32).collect()
            }
            DType::bf16 => {
                data.chunks_exact(2).map(|b| widen_bf16(u16::from_le_bytes(array(b)))).collect()
            }
            DType::f16 => {
                data.chunks_exact(2).map(|b| widen_f16(u16::from_le_bytes(array(b)))).collect()
            }
            found @ (DType::i32 | DType::i1) => {
                return Err(RuntimeError::DType { expected: DType::f32, found });
            }
        })
    }

    /// The values of an i32 tensor.
    ///
    /// # Errors
    /// [`RuntimeError::DType`] for any other type.
    pub fn to_i32(&self) -> Result<Vec<i32>, RuntimeError> {
        match self.dtype {
            DType::i32 => {
                Ok(self.data.chunks_exact(4).map(|b| i32::from_le_bytes(array(b))).collect())
            }
            found => Err(RuntimeError::DType { expected: DType::i32, found }),
        }
    }

    /// The same values in another floating-point type (round to nearest even); integers stay.
    ///
    /// # Errors
    /// [`RuntimeError::DType`] between integers and floating-point types.
    pub fn cast(&self, dtype: DType) -> Result<HostTensor, RuntimeError> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let mismatch = RuntimeError::DType { expected: dtype, found: self.dtype };
        if !dtype.is_float() {
            return Err(mismatch);
        }
        let values = self.to_f32().map_err(|_| mismatch)?;
        let data = match dtype {
            DType::f64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
            DType::bf16 => values.iter().flat_map(|v| round_bf16(*v).to_le_bytes()).collect(),
            DType::f16 => values.iter().flat_map(|v| round_f16(*v).to_le_bytes()).collect(),
            DType::f32 | DType::i32 | DType::i1 => {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        };
        Ok(HostTensor { dtype, shape: self.shape.clone(), data })
    }
}

/// Bytes of a tensor, if they fit in 64 bits.
pub(crate) fn byte_count(dtype: DType, shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(dtype.bytes(), |total, extent| total.checked_mul(*extent))
}

/// `f32[2, 3]`.
pub(crate) fn type_name(dtype: DType, shape: &[u64]) -> String {
    let extents: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("{dtype}[{}]", extents.join(", "))
}

/// bf16 to f32, exact.
#[inline(always)]
pub(crate) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f32 to bf16, round to nearest even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { ((bits >> 16) | 0x40) as u16 } else { rounded as u16 }
}

/// IEEE binary16 to f32, exact.
fn widen_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let mantissa = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        0 => return f32::from_bits(sign | (mantissa as f32 * 2f32.powi(-24)).to_bits()),
        31 => 0x7f80_0000 | (mantissa << 13),
        _ => ((exponent + 112) << 23) | (mantissa << 13),
    };
    f32::from_bits(sign | magnitude)
}

/// f32 to IEEE binary16, round to nearest even.
fn round_f16(value: f32) -> u16 {
    let sign = ((value.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = value.abs();
    if value.is_nan() {
        return sign | 0x7e00;
    }
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    if magnitude < 2f32.powi(-14) {
        // Subnormal: adding 0.5 puts the last kept bit (2⁻²⁴) at the f32's last place.
        return sign | ((magnitude + 0.5).to_bits() - 0.5f32.to_bits()) as u16;
    }
    let bits = magnitude.to_bits() - (112 << 23);
    sign | ((bits + 0x0fff + ((bits >> 13) & 1)) >> 13) as u16
}

/// The bytes of one element; `chunks_exact` made the length right.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_types_survive_a_round_trip() {
        for bits in 0..=u16::MAX {
            let wide = widen_f16(bits);
            if !wide.is_nan() {
                assert_eq!(round_f16(wide), bits, "{wide}");
            }
            let wide = widen_bf16(bits);
            if !wide.is_nan() {
                assert_eq!(round_bf16(wide), bits, "{wide}");
            }
        }
        assert!(widen_bf16(round_bf16(f32::NAN)).is_nan());
        assert!(widen_f16(round_f16(f32::NAN)).is_nan());
    }

    #[test]
    fn rounding_goes_to_the_nearest_even() {
        assert_eq!(widen_bf16(round_bf16(1.0 + 1.0 / 256.0)), 1.0);
        assert_eq!(widen_bf16(round_bf16(1.0 + 3.0 / 256.0)), 1.0 + 4.0 / 256.0);
        assert_eq!(widen_f16(round_f16(1.0 + 1.0 / 2048.0)), 1.0);
        assert_eq!(round_f16(1e9), 0x7c00);
    }

    #[test]
    fn data_must_fill_the_shape() {
        assert!(HostTensor::from_f32(&[2, 3], &[0.0; 5]).is_err());
        assert!(HostTensor::from_bytes(DType::f32, &[u64::MAX, 8], Vec::new()).is_err());
        assert_eq!(HostTensor::from_f32(&[0, 3], &[]).map(|t| t.elems()).ok(), Some(0));
    }
}
