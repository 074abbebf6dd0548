//! One safetensors file: its header at once, its tensors when asked for.
//!
//! ```text
//! u64 header length │ JSON header: name → dtype, shape, offsets │ data, without gaps
//! ```
//!
//! # Invariants
//! - The header is bounded before it is read and checked before a tensor is: no name twice, tensors
//!   fill their offsets, offsets cover the data exactly once.
//! - Memory is taken only for bytes that the file has.
//! - Writing is deterministic: widest elements first (so that all are aligned), then by name.
//!
//! Files are read by position and not mapped: a file that shrinks under a reader is then an error
//! and not a signal.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use perilune_plan::DType;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::atomic;
use crate::HostTensor;

/// The longest header that is read or written.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;

/// The most tensors that one file may hold.
pub const MAX_TENSORS: usize = 200_000;

/// The header's key that names no tensor.
const METADATA: &str = "__metadata__";

/// What is wrong with a safetensors file, or with a request to one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// The file system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The path names something other than a file.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is not a well-formed safetensors file.
    #[error("`{}` is not a valid safetensors file: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// No tensor has this name.
    #[error("`{}` has no tensor `{name}`", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// The tensor's element type has no counterpart here.
    #[error("tensor `{name}` in `{}` is {stored}, which is not supported", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type, as the file writes it.
        stored: String,
    },
    /// An element has no counterpart in the type it is read as.
    #[error("tensor `{name}` in `{}`: element {index} is {value}, not {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Index of the first such element.
        index: usize,
        /// The element.
        value: i128,
        /// What it should be.
        expected: &'static str,
    },
    /// The tensors given cannot be written to one file.
    #[error("cannot write tensors: {what}")]
    Unwritable {
        /// Why.
        what: String,
    },
}

/// What a file says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    stored: Dtype,
    shape: Vec<u64>,
    begin: u64,
    bytes: u64,
}

impl Description {
    /// The element type it is read as; `None` where there is no counterpart.
    ///
    /// Integers become i32, each checked.
    pub fn dtype(&self) -> Option<DType> {
        Some(match self.stored {
            Dtype::F64 => DType::f64,
            Dtype::F32 => DType::f32,
            Dtype::BF16 => DType::bf16,
            Dtype::F16 => DType::f16,
            Dtype::BOOL => DType::i1,
            Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => DType::i32,
            Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => DType::i32,
            _ => return None,
        })
    }

    /// The element type as the file writes it: `BF16`, `I64`.
    pub fn stored_type(&self) -> String {
        format!("{:?}", self.stored)
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// An open file whose header has been checked.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Description>,
    metadata: BTreeMap<String, String>,
    header_hash: blake3::Hash,
    file_bytes: u64,
}

impl SafetensorsFile {
    /// Opens a file and checks its header; reads no tensor.
    ///
    /// # Errors
    /// [`SafetensorsError`] where it cannot be read or is not well-formed.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let io_error = |source| SafetensorsError::Io { path: path.to_path_buf(), source };
        let malformed = |what| SafetensorsError::Malformed { path: path.to_path_buf(), what };
        let (file, file_bytes) = open_regular(path)?;
        if file_bytes < 8 {
            return Err(malformed(format!("{file_bytes} bytes are too few")));
        }
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(io_error)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES.min(file_bytes - 8) {
            let limit = MAX_HEADER_BYTES.min(file_bytes - 8);
            return Err(malformed(format!("a header of {header_bytes} bytes, limit {limit}")));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact_at(&mut header, 8).map_err(io_error)?;
        let header_hash = hash_header(&length, &header);
        let parsed: Header =
            serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;
        let tensors = place(parsed.tensors, 8 + header_bytes, file_bytes).map_err(malformed)?;
        let path = path.to_path_buf();
        Ok(SafetensorsFile {
            path,
            file,
            tensors,
            metadata: parsed.metadata,
            header_hash,
            file_bytes,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Description> {
        &self.tensors
    }

    /// The free text that the writer left.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Hash of everything before the data.
    pub(super) fn header_hash(&self) -> blake3::Hash {
        self.header_hash
    }

    /// Length of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// [`SafetensorsError`] for an unknown name, a type or value without counterpart, or a file that
    /// changed since it was opened.
    pub fn read(&self, name: &str) -> Result<HostTensor, SafetensorsError> {
        let path = &self.path;
        let Some(description) = self.tensors.get(name) else {
            return Err(SafetensorsError::UnknownTensor { path: path.clone(), name: name.into() });
        };
        let Some(dtype) = description.dtype() else {
            let stored = description.stored_type();
            return Err(SafetensorsError::UnsupportedType {
                path: path.clone(),
                name: name.into(),
                stored,
            });
        };
        let stored = self
            .read_bytes(description)
            .map_err(|source| SafetensorsError::Io { path: path.clone(), source })?;
        let data = convert(description.stored, stored).map_err(|odd| SafetensorsError::Value {
            path: path.clone(),
            name: name.into(),
            index: odd.index,
            value: odd.value,
            expected: odd.expected,
        })?;
        HostTensor::from_bytes(dtype, &description.shape, data).map_err(|error| {
            SafetensorsError::Malformed { path: path.clone(), what: error.to_string() }
        })
    }

    fn read_bytes(&self, description: &Description) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // The file is this long, so the length fits; the memory may still not be there.
        bytes.try_reserve_exact(description.bytes as usize)?;
        bytes.resize(description.bytes as usize, 0);
        self.file.read_exact_at(&mut bytes, description.begin)?;
        Ok(bytes)
    }
}

/// Writes tensors to one file, atomically.
///
/// # Errors
/// [`SafetensorsError::Unwritable`] where a name repeats or there are too many,
/// [`SafetensorsError::Io`] where the file system refuses; `path` is then untouched.
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
    metadata: Option<(&str, &str)>,
) -> Result<(), SafetensorsError> {
    let encoding = Encoding::new(tensors, metadata)?;
    atomic::write_with(path, |out| encoding.write(out))
        .map_err(|source| SafetensorsError::Io { path: path.to_path_buf(), source })
}

/// A tensor before its values are there.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its name.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: &'a [u64],
}

/// The order of tensors in a file: wide elements first, then by name.
pub fn sort_for_file(tensors: &mut [Listed<'_>]) {
    tensors.sort_by_key(|tensor| (Reverse(tensor.dtype.bytes()), tensor.name));
}

/// Writes a file like [`write()`], one tensor in memory at a time: `value` gives each, in the order of
/// [`sort_for_file`].
///
/// # Errors
/// [`SafetensorsError::Unwritable`] for names that no file can have, before `value` is asked;
/// [`SafetensorsError::Io`] for what the file system or `value` says, or a value of another length.
pub fn write_streamed(
    path: &Path,
    mut tensors: Vec<Listed<'_>>,
    value: &mut dyn FnMut(&str) -> io::Result<HostTensor>,
) -> Result<(), SafetensorsError> {
    sort_for_file(&mut tensors);
    let (length, header) = header(&tensors, None)?;
    atomic::write_with(path, |out| {
        out.write_all(&length)?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| {
            let found = value(tensor.name)?;
            if (found.dtype(), found.shape()) != (tensor.dtype, tensor.shape) {
                return Err(io::Error::other(format!("`{}` is of another type", tensor.name)));
            }
            out.write_all(found.bytes())
        })
    })
    .map_err(|source| SafetensorsError::Io { path: path.to_path_buf(), source })
}

/// The length of a file's header, and the header, for tensors that follow in this order.
fn header(
    tensors: &[Listed<'_>],
    metadata: Option<(&str, &str)>,
) -> Result<([u8; 8], Vec<u8>), SafetensorsError> {
    let unwritable = |what: String| SafetensorsError::Unwritable { what };
    if tensors.len() > MAX_TENSORS {
        return Err(unwritable(format!("{} tensors, limit {MAX_TENSORS}", tensors.len())));
    }
    let mut names = BTreeSet::new();
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for Listed { name, dtype, shape } in tensors {
        if *name == METADATA || !names.insert(*name) {
            return Err(unwritable(format!("the name `{name}` is taken")));
        }
        let begin = end;
        end += (shape.iter().product::<u64>() * dtype.bytes()) as usize;
        let shape = shape.iter().map(|extent| *extent as usize).collect();
        let dtype = stored_dtype(*dtype);
        infos.push(((*name).to_owned(), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
    }
    let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let metadata = metadata.map(|pair| [text(pair)].into_iter().collect());
    let header = Metadata::new(metadata, infos).map_err(|e| unwritable(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| unwritable(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = header.len() as u64;
    if length > MAX_HEADER_BYTES {
        let what = format!("the header has {length} bytes, limit {MAX_HEADER_BYTES}");
        return Err(unwritable(what));
    }
    Ok((length.to_le_bytes(), header))
}

/// Tensors laid out for one file.
pub(super) struct Encoding<'a> {
    length: [u8; 8],
    header: Vec<u8>,
    tensors: Vec<(&'a str, &'a HostTensor)>,
}

impl<'a> Encoding<'a> {
    /// Lays tensors out.
    pub(super) fn new(
        tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
        metadata: Option<(&str, &str)>,
    ) -> Result<Self, SafetensorsError> {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_by_key(|(name, tensor)| (Reverse(tensor.dtype().bytes()), *name));
        let listed = |(name, tensor): &(&'a str, &'a HostTensor)| Listed {
            name,
            dtype: tensor.dtype(),
            shape: tensor.shape(),
        };
        let listing: Vec<Listed<'_>> = tensors.iter().map(listed).collect();
        let (length, header) = header(&listing, metadata)?;
        Ok(Encoding { length, header, tensors })
    }

    /// Hash of everything before the data.
    pub(super) fn header_hash(&self) -> blake3::Hash {
        hash_header(&self.length, &self.header)
    }

    /// Length of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        let data: u64 = self.tensors.iter().map(|(_, tensor)| tensor.bytes().len() as u64).sum();
        8 + self.header.len() as u64 + data
    }

    /// Writes the file's bytes.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.length)?;
        out.write_all(&self.header)?;
        self.tensors.iter().try_for_each(|(_, tensor)| out.write_all(tensor.bytes()))
    }
}

fn hash_header(length: &[u8; 8], header: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(length).update(header).finalize()
}

fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::f64 => Dtype::F64,
        DType::f32 => Dtype::F32,
        DType::bf16 => Dtype::BF16,
        DType::f16 => Dtype::F16,
        DType::i32 => Dtype::I32,
        DType::i1 => Dtype::BOOL,
    }
}

/// Opens a regular file and tells its length; anything else could block or never end.
fn open_regular(path: &Path) -> Result<(File, u64), SafetensorsError> {
    let io_error = |source| SafetensorsError::Io { path: path.to_path_buf(), source };
    if !std::fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(SafetensorsError::NotAFile { path: path.to_path_buf() });
    }
    let file = File::open(path).map_err(io_error)?;
    let bytes = file.metadata().map_err(io_error)?.len();
    Ok((file, bytes))
}

/// Reads a whole regular file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, SafetensorsError> {
    let (file, bytes) = open_regular(path)?;
    if bytes > limit {
        let what = format!("{bytes} bytes, limit {limit}");
        return Err(SafetensorsError::Malformed { path: path.to_path_buf(), what });
    }
    let mut text = Vec::new();
    file.take(limit)
        .read_to_end(&mut text)
        .map_err(|source| SafetensorsError::Io { path: path.to_path_buf(), source })?;
    Ok(text)
}

/// Checks that tensors fill their offsets and together the data, and says where in the file they are.
fn place(
    mut tensors: Vec<(String, TensorInfo)>,
    data_begin: u64,
    file_bytes: u64,
) -> Result<BTreeMap<String, Description>, String> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut placed = BTreeMap::new();
    let mut end = 0;
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if from != end || to < from {
            return Err(format!("tensor `{name}` has bytes {from}..{to}, expected from {end}"));
        }
        let shape: Vec<u64> = info.shape.iter().map(|extent| *extent as u64).collect();
        let elems = shape.iter().try_fold(1u64, |total, extent| total.checked_mul(*extent));
        let bits = elems.and_then(|elems| elems.checked_mul(info.dtype.bitsize() as u64));
        let bytes = (to - from) as u64;
        if bits != bytes.checked_mul(8) || bits.is_none() {
            return Err(format!(
                "tensor `{name}`: {bytes} bytes are not {:?}{shape:?}",
                info.dtype
            ));
        }
        end = to;
        let begin = data_begin
            .checked_add(from as u64)
            .ok_or_else(|| format!("tensor `{name}` begins at byte {from}"))?;
        let description = Description { stored: info.dtype, shape, begin, bytes };
        if placed.insert(name.clone(), description).is_some() {
            return Err(format!("the tensor `{name}` is described twice"));
        }
    }
    let data_bytes = file_bytes - data_begin;
    if end as u64 != data_bytes {
        return Err(format!("the tensors take {end} bytes, the file has {data_bytes} of data"));
    }
    Ok(placed)
}

/// The parsed header; repeated tensors are kept for [`place`] to find.
struct Header {
    tensors: Vec<(String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = Vec::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                let text = map.next_value::<UniqueMap>()?.0;
                if metadata.replace(text).is_some() {
                    return Err(A::Error::custom(format!("`{METADATA}` is given twice")));
                }
            } else if tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            } else {
                tensors.push((name, map.next_value::<TensorInfo>()?));
            }
        }
        Ok(Header { tensors, metadata: metadata.unwrap_or_default() })
    }
}

/// A map of strings that refuses a key given twice.
pub(super) struct UniqueMap(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueMapVisitor).map(UniqueMap)
    }
}

struct UniqueMapVisitor;

impl<'de> Visitor<'de> for UniqueMapVisitor {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from strings to strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if entries.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` is given twice")));
            }
            entries.insert(key, value);
        }
        Ok(entries)
    }
}

/// An element without counterpart.
struct OddValue {
    index: usize,
    value: i128,
    expected: &'static str,
}

/// Stored bytes as the bytes of the type that [`Description::dtype`] names.
fn convert(stored: Dtype, bytes: Vec<u8>) -> Result<Vec<u8>, OddValue> {
    match stored {
        Dtype::BOOL => match bytes.iter().position(|b| *b > 1) {
            Some(index) => {
                let value = i128::from(bytes[index]);
                Err(OddValue { index, value, expected: "0 or 1" })
            }
            None => Ok(bytes),
        },
        Dtype::I8 => narrow(&bytes, |b: [u8; 1]| i8::from_le_bytes(b).into()),
        Dtype::U8 => narrow(&bytes, |b: [u8; 1]| b[0].into()),
        Dtype::I16 => narrow(&bytes, |b| i16::from_le_bytes(b).into()),
        Dtype::U16 => narrow(&bytes, |b| u16::from_le_bytes(b).into()),
        Dtype::U32 => narrow(&bytes, |b| u32::from_le_bytes(b).into()),
        Dtype::I64 => narrow(&bytes, |b| i64::from_le_bytes(b).into()),
        Dtype::U64 => narrow(&bytes, |b| u64::from_le_bytes(b).into()),
        _ => Ok(bytes),
    }
}

fn narrow<const N: usize>(
    bytes: &[u8],
    value: impl Fn([u8; N]) -> i128,
) -> Result<Vec<u8>, OddValue> {
    let mut out = Vec::with_capacity(bytes.len() / N * 4);
    for (index, element) in bytes.as_chunks::<N>().0.iter().enumerate() {
        let value = value(*element);
        let narrowed =
            i32::try_from(value).map_err(|_| OddValue { index, value, expected: "an i32" })?;
        out.extend(narrowed.to_le_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
