//! Weights in the safetensors format.
//!
//! # Invariants
//! - Reading is bounded: a header of at most 16 MiB and 200,000 tensors; offsets are checked
//!   against the file before any tensor is read.
//! - Writing streams, in the order given, with no metadata: equal input, equal bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use perilune_plan::DType;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};

use super::{IoError, durable};
use crate::HostTensor;

/// Largest header that is read.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Most tensors in a file.
const MAX_TENSORS: usize = 200_000;
/// Bytes of the header's length.
const LENGTH_BYTES: usize = 8;

/// A safetensors file, mapped.
pub struct Weights {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_begin: usize,
    names: BTreeSet<String>,
}

impl Weights {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// When it cannot be read, or is not a safetensors file within bounds.
    pub fn open(path: &Path) -> Result<Weights, IoError> {
        let fail = |source| IoError::system("read", path, source);
        let file = File::open(path).map_err(fail)?;
        // SAFETY: the mapping is private and read-only. A file that another process shortens
        // while it is mapped raises a signal; weights are not edited in place.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        let length: Option<[u8; LENGTH_BYTES]> =
            map.get(..LENGTH_BYTES).and_then(|bytes| bytes.try_into().ok());
        match length.map(u64::from_le_bytes) {
            None => return Err(IoError::format(path, "it is too short")),
            Some(length) if length > MAX_HEADER_BYTES => {
                return Err(IoError::format(path, format!("its header claims {length} bytes")));
            }
            Some(_) => {}
        }
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| IoError::format(path, error.to_string()))?;
        let names: BTreeSet<String> = metadata.tensors().into_keys().collect();
        if names.len() > MAX_TENSORS {
            return Err(IoError::format(path, format!("it has {} tensors", names.len())));
        }
        Ok(Weights {
            path: path.to_owned(),
            map,
            metadata,
            data_begin: LENGTH_BYTES + header,
            names,
        })
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Extents of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<u64>> {
        let info = self.metadata.info(name)?;
        Some(info.shape.iter().map(|extent| *extent as u64).collect())
    }

    /// Reads a tensor. 64-bit integers come as i32 when all values fit.
    ///
    /// # Errors
    /// When there is no such tensor, or its type has no counterpart here.
    pub fn read(&self, name: &str) -> Result<HostTensor, IoError> {
        let fail = |what: String| IoError::Tensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            what,
        };
        let no_tensor = || IoError::NoTensor { path: self.path.clone(), tensor: name.to_owned() };
        let info = self.metadata.info(name).ok_or_else(no_tensor)?;
        let (begin, end) = info.data_offsets;
        let bytes = self
            .map
            .get(self.data_begin + begin..self.data_begin + end)
            .ok_or_else(|| fail("it lies outside the file".to_owned()))?;
        let (dtype, data) = match info.dtype {
            Dtype::F64 => (DType::f64, bytes.to_vec()),
            Dtype::F32 => (DType::f32, bytes.to_vec()),
            Dtype::BF16 => (DType::bf16, bytes.to_vec()),
            Dtype::F16 => (DType::f16, bytes.to_vec()),
            Dtype::I32 => (DType::i32, bytes.to_vec()),
            Dtype::I64 => (DType::i32, narrow(bytes).map_err(fail)?),
            Dtype::BOOL => (DType::i1, bytes.iter().map(|byte| u8::from(*byte != 0)).collect()),
            other => return Err(fail(format!("the type {other:?} is not supported"))),
        };
        let shape = self.shape(name).ok_or_else(no_tensor)?;
        HostTensor::from_bytes(dtype, &shape, data).map_err(|error| fail(error.to_string()))
    }

    /// Reads a tensor as another floating-point type.
    ///
    /// # Errors
    /// As [`Weights::read`], and between integers and floating-point types.
    pub fn read_as(&self, name: &str, dtype: DType) -> Result<HostTensor, IoError> {
        let value = self.read(name)?;
        value.cast(dtype).map_err(|error| IoError::Tensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            what: error.to_string(),
        })
    }
}

/// 64-bit to 32-bit integers.
fn narrow(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(bytes.len() / 2);
    for chunk in bytes.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        let value = i64::from_le_bytes(word);
        let value = i32::try_from(value).map_err(|_| format!("{value} does not fit in 32 bits"))?;
        out.extend(value.to_le_bytes());
    }
    Ok(out)
}

/// Writes tensors, in the order given, whole or not at all.
///
/// # Errors
/// When a name comes twice, or the file cannot be written.
pub fn write(path: &Path, tensors: &[(&str, &HostTensor)]) -> Result<(), IoError> {
    let header = header(path, tensors)?;
    durable::write_file(path, |out| write_body(out, &header, tensors))
}

fn write_body(
    out: &mut dyn Write,
    header: &[u8],
    tensors: &[(&str, &HostTensor)],
) -> std::io::Result<()> {
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header)?;
    tensors.iter().try_for_each(|(_, tensor)| out.write_all(tensor.bytes()))
}

/// The header's JSON, padded with spaces to a multiple of 8 bytes.
fn header(path: &Path, tensors: &[(&str, &HostTensor)]) -> Result<Vec<u8>, IoError> {
    let mut seen = BTreeSet::new();
    let mut begin = 0;
    let mut parts = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !seen.insert(*name) {
            return Err(IoError::format(path, format!("the tensor `{name}` comes twice")));
        }
        let end = begin + tensor.bytes().len();
        let dtype = match tensor.dtype() {
            DType::f64 => "F64",
            DType::f32 => "F32",
            DType::bf16 => "BF16",
            DType::f16 => "F16",
            DType::i32 => "I32",
            DType::i1 => "BOOL",
        };
        let key = serde_json::Value::from(*name);
        let shape = serde_json::Value::from(tensor.shape());
        parts.push(format!(
            "{key}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}"
        ));
        begin = end;
    }
    let mut header = format!("{{{}}}", parts.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<(String, HostTensor)> {
        let floats = HostTensor::from_f32(&[2, 2], &[1.0, -2.0, 3.5, 0.0]).expect("it fits");
        let half = floats.cast(DType::bf16).expect("a float type");
        let ints = HostTensor::from_i32(&[3], &[1, -2, 3]).expect("it fits");
        let none = HostTensor::from_f32(&[0, 4], &[]).expect("it fits");
        let scalar = HostTensor::scalar_f32(7.0);
        [("w", floats), ("a \"quoted\"", half), ("ids", ints), ("none", none), ("s", scalar)]
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .to_vec()
    }

    fn named(sample: &[(String, HostTensor)]) -> Vec<(&str, &HostTensor)> {
        sample.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }

    #[test]
    fn what_is_written_is_read_and_equal_tensors_give_equal_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let sample = sample();
        let (one, two) = (folder.path().join("a.safetensors"), folder.path().join("b"));
        write(&one, &named(&sample)).expect("it writes");
        write(&two, &named(&sample)).expect("it writes");
        assert_eq!(std::fs::read(&one).ok(), std::fs::read(&two).ok());
        let weights = Weights::open(&one).expect("it reads");
        assert_eq!(weights.names().count(), sample.len());
        for (name, tensor) in &sample {
            assert_eq!(weights.read(name).ok().as_ref(), Some(tensor), "{name}");
        }
        assert_eq!(weights.read_as("w", DType::bf16).ok().as_ref(), Some(&sample[1].1));
        assert!(matches!(weights.read("x"), Err(IoError::NoTensor { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).map(Iterator::count).ok(), Some(2));
    }

    #[test]
    fn wide_integers_are_narrowed_only_when_they_fit() {
        let bytes: Vec<u8> = [5i64, -7].iter().flat_map(|v| v.to_le_bytes()).collect();
        let narrowed = narrow(&bytes).expect("they fit");
        assert_eq!(narrowed, [5i32, -7].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        assert!(narrow(&(1i64 << 40).to_le_bytes()).is_err());
    }

    #[test]
    fn every_truncation_and_a_huge_header_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("w");
        write(&path, &named(&sample())).expect("it writes");
        let whole = std::fs::read(&path).expect("it reads");
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).expect("it writes");
            assert!(Weights::open(&path).is_err(), "{len} bytes");
        }
        let mut huge = (1u64 << 40).to_le_bytes().to_vec();
        huge.extend(&whole[8..]);
        std::fs::write(&path, &huge).expect("it writes");
        assert!(matches!(Weights::open(&path), Err(IoError::Format { .. })));
    }

    #[test]
    fn a_name_that_comes_twice_and_a_missing_folder_are_errors() {
        let tensor = HostTensor::scalar_f32(1.0);
        let folder = tempfile::tempdir().expect("a folder");
        let twice = [("a", &tensor), ("a", &tensor)];
        assert!(write(&folder.path().join("w"), &twice).is_err());
        assert!(write(&folder.path().join("no/such/w"), &twice[..1]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).map(Iterator::count).ok(), Some(0));
    }
}
