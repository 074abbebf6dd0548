//! LAUNCH.ron: what to launch, with which parameters, and what to expect.
//!
//! # Invariants
//! - A file it names lies in its own folder or below, whatever links say; nothing else is read.
//! - `Random` data depends on the seed alone; see [`Init::Random`].

use crate::number::{FloatFormat, Overflow, Rounding, decode, encode};
use crate::source::{LoadError, Position, code};
use ron::extensions::Extensions;
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};

/// The longest LAUNCH.ron that is read, in bytes.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// A launch: the content of a LAUNCH.ron file.
///
/// # Examples
/// ```
/// let text = r#"Launch(
///     entry: "saxpy",
///     grid: (4, 1, 1), block: (128, 1, 1),
///     params: [
///         Buffer(name: "x", bytes: 2048, init: Random(seed: 1, dtype: f32, low: -1.0, high: 1.0)),
///         Buffer(name: "y", bytes: 2048, init: Zeros),
///         F32(2.0), U32(512),
///     ],
/// )"#;
/// let launch = perilune_ptx_vm::Launch::parse(text)?;
/// assert_eq!(launch.grid, (4, 1, 1));
/// # Ok::<(), perilune_ptx_vm::LoadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Name of the kernel.
    pub entry: String,
    /// CTAs per dimension.
    pub grid: (u32, u32, u32),
    /// Threads of a CTA per dimension.
    pub block: (u32, u32, u32),
    /// CTAs of a cluster per dimension; without it the kernel's `.reqnctapercluster`, or 1.
    #[serde(default)]
    pub cluster: Option<(u32, u32, u32)>,
    /// Dynamic shared memory in bytes.
    #[serde(default)]
    pub shared_bytes: u32,
    /// Buffers that are no parameters themselves: tensor maps and pointers lead into them.
    #[serde(default)]
    pub buffers: Vec<LaunchBuffer>,
    /// The kernel's parameters, in order.
    #[serde(default)]
    pub params: Vec<LaunchParam>,
    /// What buffers hold afterwards.
    #[serde(default)]
    pub expect: Vec<Expect>,
    /// The folder that file names are relative to.
    #[serde(skip)]
    folder: PathBuf,
}

/// A new buffer in global memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchBuffer {
    /// Name by which parameters and `expect` speak of it.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// What it holds at first.
    pub init: Init,
}

/// A parameter of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum LaunchParam {
    /// A pointer to a new buffer in global memory.
    Buffer(LaunchBuffer),
    /// A pointer into a buffer named before.
    BufferOffset {
        /// The buffer.
        name: String,
        /// Bytes from its beginning.
        bytes: u64,
    },
    /// A 32-bit unsigned number.
    U32(u32),
    /// A 32-bit signed number.
    I32(i32),
    /// A 64-bit unsigned number.
    U64(u64),
    /// A 64-bit signed number.
    I64(i64),
    /// An f32.
    F32(f32),
    /// An f64.
    F64(f64),
    /// Bytes of any parameter, such as a structure or a half.
    Bytes(Vec<u8>),
    /// A tensor map (TMA descriptor) over a buffer named before.
    TensorMap {
        /// Name of the map.
        name: String,
        /// The buffer.
        over: String,
        /// Type of an element.
        dtype: Dtype,
        /// Elements per dimension, innermost first.
        dims: Vec<u64>,
        /// Bytes between elements of the dimensions but the innermost.
        strides: Vec<u64>,
        /// Elements of a box, per dimension.
        #[serde(rename = "box")]
        box_dims: Vec<u32>,
        /// Steps within the box, per dimension; 1 without.
        #[serde(default)]
        element_strides: Vec<u32>,
        /// How the box lies in shared memory.
        #[serde(default)]
        swizzle: SwizzleMode,
        /// What is read outside of the tensor.
        #[serde(default)]
        oob: OutOfBounds,
    },
}

/// How a TMA box lies in shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwizzleMode {
    /// Rows behind each other.
    #[default]
    None,
    /// 16-byte chunks exchanged within 32 bytes.
    B32,
    /// 16-byte chunks exchanged within 64 bytes.
    B64,
    /// 16-byte chunks exchanged within 128 bytes.
    B128,
}

/// What TMA reads outside of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutOfBounds {
    /// Zeros.
    #[default]
    Zeros,
    /// The special NaN of `CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA`.
    Nan,
}

/// What a buffer holds at first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Nothing; reading it is a finding (V1003).
    Uninit,
    /// A raw little-endian file; shorter than the buffer leaves zeros at the end.
    File(String),
    /// These bytes, then zeros.
    Bytes(Vec<u8>),
    /// Element `i` is `low + (high - low) · u`, where `u` is the upper 53 bits, over 2⁵³, of SplitMix64
    /// at `seed + (i + 1) · 0x9E3779B97F4A7C15`; computed in f64 and rounded to nearest (integers: down).
    Random {
        /// Chooses the data.
        seed: u64,
        /// Type of an element.
        dtype: Dtype,
        /// Smallest value.
        low: f64,
        /// Largest value.
        high: f64,
    },
}

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    F64,
    F32,
    Tf32,
    F16,
    Bf16,
    E4m3,
    E5m2,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl Dtype {
    /// Size of an element in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::Tf32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::E4m3 | Self::E5m2 | Self::I8 | Self::U8 => 1,
        }
    }

    /// The floating-point format, if it is one.
    #[must_use]
    pub const fn float(self) -> Option<FloatFormat> {
        Some(match self {
            Self::F64 => FloatFormat::F64,
            Self::F32 => FloatFormat::F32,
            Self::Tf32 => FloatFormat::Tf32,
            Self::F16 => FloatFormat::F16,
            Self::Bf16 => FloatFormat::Bf16,
            Self::E4m3 => FloatFormat::E4m3,
            Self::E5m2 => FloatFormat::E5m2,
            _ => return None,
        })
    }

    /// The value of little-endian bytes as f64; wide integers lose their last digits.
    #[must_use]
    pub fn value(self, bytes: &[u8]) -> f64 {
        let mut wide = [0; 8];
        wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
        let bits = u64::from_le_bytes(wide);
        if let Some(format) = self.float() {
            return decode(format, bits);
        }
        match self {
            Self::I8 => f64::from(bits as i8),
            Self::I16 => f64::from(bits as i16),
            Self::I32 => f64::from(bits as i32),
            Self::I64 => bits as i64 as f64,
            _ => bits as f64,
        }
    }

    /// The bits of a value, rounded to nearest, integers down.
    #[must_use]
    pub fn bits(self, value: f64) -> u64 {
        match self.float() {
            Some(format) => encode(format, value, Rounding::NearestEven, Overflow::Ieee),
            None if matches!(self, Self::U64) => value.floor() as u64,
            None => value.floor() as i64 as u64,
        }
    }
}

/// What a buffer holds afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The buffer.
    pub buffer: String,
    /// Raw little-endian file with the right values; shorter compares the beginning.
    pub file: String,
    /// Type of an element.
    pub dtype: Dtype,
    /// How far off a value may be.
    pub tolerance: Tolerance,
}

/// How far off a finite value may be; equal values and two NaNs always agree, other infinities and NaNs never.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Tolerance {
    /// Equal bits.
    Exact,
    /// `|got - want| ≤ a`.
    Abs(f64),
    /// `|got - want| ≤ r · |want|`.
    Rel(f64),
    /// `|got - want| ≤ a + r · |want|`.
    AbsRel(f64, f64),
}

impl Tolerance {
    /// Whether `got` may stand for `want`.
    #[must_use]
    pub fn accepts(self, got: f64, want: f64) -> bool {
        let bound = match self {
            Self::Exact => 0.0,
            Self::Abs(a) => a,
            Self::Rel(r) => r * want.abs(),
            Self::AbsRel(a, r) => a + r * want.abs(),
        };
        // Infinity is no distance: it is there or it is not.
        let near = got.is_finite() && want.is_finite() && (got - want).abs() <= bound;
        got == want || (got.is_nan() && want.is_nan()) || near
    }
}

/// A value that is not what was expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The buffer.
    pub buffer: String,
    /// First element that is wrong.
    pub element: usize,
    /// What it holds.
    pub got: f64,
    /// What it should hold.
    pub want: f64,
    /// How many elements are wrong.
    pub count: usize,
}

impl Launch {
    /// Parses the text of a LAUNCH.ron; files are relative to the working folder.
    ///
    /// # Errors
    /// V0001 with line and column.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        Self::parse_named("<launch>", text)
    }

    fn parse_named(name: &str, text: &str) -> Result<Self, LoadError> {
        let short = Extensions::IMPLICIT_SOME | Extensions::UNWRAP_VARIANT_NEWTYPES;
        let options = ron::Options::default().with_default_extension(short);
        options.from_str(text).map_err(|error| {
            let (line, column) = (error.span.start.line as u32, error.span.start.col as u32);
            let shown = text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
            LoadError {
                code: code::SYNTAX,
                file: name.to_owned(),
                position: Position { line, column },
                text: shown.trim().to_owned(),
                message: error.code.to_string(),
            }
        })
    }

    /// Reads a LAUNCH.ron; the files it names are relative to it.
    ///
    /// # Errors
    /// V0001 for its text, V0005 for its length, V0006 when it cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let size =
            std::fs::metadata(path).map_err(|e| failure(&name, code::LAUNCH, e.to_string()))?;
        if size.len() > MAX_TEXT_BYTES {
            let message = format!("a launch of more than {MAX_TEXT_BYTES} bytes");
            return Err(failure(&name, code::LIMIT, message));
        }
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| failure(&name, code::LAUNCH, e.to_string()))?;
        let mut launch = Self::parse_named(&name, &text)?;
        launch.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(launch)
    }

    /// The bytes of a file beside the launch, at most `limit` of them.
    ///
    /// # Errors
    /// V0006 for a name that leaves the folder and for a file that cannot be read or is longer.
    pub fn file(&self, name: &str, limit: u64) -> Result<Vec<u8>, LoadError> {
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || name.is_empty() {
            let message = format!("`{name}` does not lie beside the launch");
            return Err(failure(name, code::LAUNCH, message));
        }
        let unreadable = |error: std::io::Error| failure(name, code::LAUNCH, error.to_string());
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let folder = folder.canonicalize().map_err(unreadable)?;
        let path = folder.join(name).canonicalize().map_err(unreadable)?;
        let data = std::fs::metadata(&path).map_err(unreadable)?;
        let wrong = if !path.starts_with(&folder) {
            Some("a link leads out of the launch's folder".to_owned())
        } else if !data.is_file() {
            Some("no regular file".to_owned())
        } else if data.len() > limit {
            Some(format!("{} bytes where {limit} fit", data.len()))
        } else {
            None
        };
        match wrong {
            Some(message) => Err(failure(name, code::LAUNCH, message)),
            None => std::fs::read(&path).map_err(unreadable),
        }
    }

    /// Compares buffers, given by `read`, with what is expected.
    ///
    /// # Errors
    /// V0006 for a file that cannot be read or does not hold whole elements, and for a buffer nothing names.
    pub fn compare(
        &self,
        read: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Vec<Mismatch>, LoadError> {
        let mut found = Vec::new();
        for expect in &self.expect {
            let Some(got) = read(&expect.buffer) else {
                let message = format!("no buffer is called `{}`", expect.buffer);
                return Err(failure(&expect.file, code::LAUNCH, message));
            };
            let want = self.file(&expect.file, got.len() as u64)?;
            if want.is_empty() || !want.len().is_multiple_of(expect.dtype.bytes()) {
                let message = format!("{} bytes are no elements to compare with", want.len());
                return Err(failure(&expect.file, code::LAUNCH, message));
            }
            found.extend(mismatch(expect, &got, &want));
        }
        Ok(found)
    }
}

fn mismatch(expect: &Expect, got: &[u8], want: &[u8]) -> Option<Mismatch> {
    let size = expect.dtype.bytes();
    let mut found: Option<Mismatch> = None;
    for (element, (got, want)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
        let (bits_agree, exact) = (got == want, expect.tolerance == Tolerance::Exact);
        let (got, want) = (expect.dtype.value(got), expect.dtype.value(want));
        if bits_agree || (!exact && expect.tolerance.accepts(got, want)) {
            continue;
        }
        let buffer = expect.buffer.clone();
        let first = found.get_or_insert(Mismatch { buffer, element, got, want, count: 0 });
        first.count += 1;
    }
    found
}

fn failure(name: &str, code: &'static str, message: String) -> LoadError {
    let position = Position { line: 1, column: 1 };
    LoadError { code, file: name.to_owned(), position, text: String::new(), message }
}

/// SplitMix64 of a counter.
fn split_mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// `bytes` bytes of [`Init::Random`] data.
pub(crate) fn random_bytes(
    (seed, dtype): (u64, Dtype),
    (low, high): (f64, f64),
    bytes: u64,
) -> Vec<u8> {
    let size = dtype.bytes();
    let mut found = Vec::with_capacity(bytes as usize);
    let mut index = 0u64;
    while (found.len() as u64) < bytes {
        index += 1;
        let mixed = split_mix(seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let unit = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        let bits = dtype.bits(low + (high - low) * unit);
        found.extend_from_slice(&bits.to_le_bytes()[..size]);
    }
    found.truncate(bytes as usize);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_may_be_a_parameter_or_stand_by_itself() {
        let text = r#"Launch(entry: "k", grid: (1, 1, 1), block: (1, 1, 1),
            buffers: [(name: "x", bytes: 8, init: File("x.bin"))],
            params: [BufferOffset(name: "x", bytes: 4), Buffer(name: "y", bytes: 4, init: Zeros)])"#;
        let launch = Launch::parse(text).expect("a launch");
        let y = LaunchBuffer { name: "y".to_owned(), bytes: 4, init: Init::Zeros };
        assert_eq!(launch.params[1], LaunchParam::Buffer(y));
        assert_eq!(launch.buffers[0].init, Init::File("x.bin".to_owned()));
    }
}
