//! NCCL's library: found, loaded, and checked before anything of it is used.
//!
//! It is loaded at run time, so that builds need neither NCCL nor CUDA. It is searched here and not
//! by a binding of its own, because the pip wheel has it as `libnccl.so.2`, and because a process
//! must never have two: each would have its own view of the same GPUs.
//!
//! # Invariants
//! - Only libraries of [`LEAST`] or later are used.
//! - A process that already has another copy of NCCL is refused one.

use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Loaded, RTLD_LOCAL, RTLD_NOW, Symbol};

/// Bytes of the id by which the ranks of a communicator know each other.
pub const UNIQUE_ID_BYTES: usize = 128;
/// The first version with all that is used here.
pub const LEAST: Version = Version(22400);
/// Variable with the library's path.
const PATH: &str = "PERILUNE_NCCL";
const NAME: &str = "libnccl.so.2";

/// A version as NCCL counts: 2.30.7 is 23007.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Version(code) = self;
        write!(f, "{}.{}.{}", code / 10_000, code / 100 % 100, code % 100)
    }
}

/// Why there is no NCCL to use.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It is nowhere.
    #[error("no {NAME}: looked into {}", list(.0))]
    Absent(Vec<PathBuf>),
    /// It cannot be loaded.
    #[error("`{}` cannot be loaded: {what}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The loader's words.
        what: String,
    },
    /// It is too old.
    #[error("`{}` is NCCL {found}, {LEAST} is the first that is used", path.display())]
    Old {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// The process has another copy.
    #[error("`{}` would be a second NCCL beside `{}`", path.display(), other.display())]
    Second {
        /// The file that was to be loaded.
        path: PathBuf,
        /// The one that is loaded.
        other: PathBuf,
    },
    /// A call failed.
    #[error("{call}: {what}")]
    Call {
        /// The function.
        call: &'static str,
        /// NCCL's words.
        what: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

/// `ncclUniqueId`.
#[repr(C)]
struct UniqueId([c_char; UNIQUE_ID_BYTES]);

/// NCCL, loaded.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    version: Version,
    loaded: Loaded,
}

impl Library {
    /// Looks where `PERILUNE_NCCL` says, else in the folders of `LD_LIBRARY_PATH`, of Python's
    /// packages (`VIRTUAL_ENV`) and of the system, and loads the first one.
    ///
    /// # Errors
    /// [`LibraryError`].
    pub fn find() -> Result<Library, LibraryError> {
        let candidates = candidates(&|name| std::env::var(name).ok());
        match candidates.iter().find(|path| path.exists()) {
            Some(path) => Library::load(path),
            None => Err(LibraryError::Absent(candidates)),
        }
    }

    /// Loads a file.
    ///
    /// # Errors
    /// [`LibraryError`].
    pub fn load(path: &Path) -> Result<Library, LibraryError> {
        let load = |what: String| LibraryError::Load { path: path.to_owned(), what };
        let path_there = std::fs::canonicalize(path).map_err(|error| load(error.to_string()))?;
        if let Some(other) = other_copy(&path_there) {
            return Err(LibraryError::Second { path: path_there, other });
        }
        // SAFETY: loading runs the library's initialisers; whoever names a library trusts it.
        let loaded = unsafe { Loaded::open(Some(&path_there), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| load(error.to_string()))?;
        let mut library = Library { path: path_there, version: Version(0), loaded };
        let mut code = 0;
        // SAFETY: the signature is that of nccl.h, and the pointer is good for the call.
        library.checked("ncclGetVersion", unsafe {
            let call: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
                library.symbol("ncclGetVersion")?;
            call(&raw mut code)
        })?;
        library.version = Version(code);
        if library.version < LEAST {
            return Err(LibraryError::Old { path: library.path, found: library.version });
        }
        Ok(library)
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// A new id, for one rank to make and all ranks to join with. Needs no GPU.
    ///
    /// # Errors
    /// [`LibraryError::Call`].
    pub fn unique_id(&self) -> Result<[u8; UNIQUE_ID_BYTES], LibraryError> {
        let mut id = UniqueId([0; UNIQUE_ID_BYTES]);
        // SAFETY: the signature is that of nccl.h, and the pointer is good for the call.
        self.checked("ncclGetUniqueId", unsafe {
            let call: Symbol<unsafe extern "C" fn(*mut UniqueId) -> c_int> =
                self.symbol("ncclGetUniqueId")?;
            call(&raw mut id)
        })?;
        Ok(id.0.map(|byte| byte as u8))
    }

    /// # Safety
    /// `T` must be the type that nccl.h gives the function.
    unsafe fn symbol<T>(&self, call: &'static str) -> Result<Symbol<T>, LibraryError> {
        // SAFETY: the caller's promise.
        let found = unsafe { self.loaded.get(call.as_bytes()) };
        found.map_err(|error| LibraryError::Call { call, what: error.to_string() })
    }

    fn checked(&self, call: &'static str, code: c_int) -> Result<(), LibraryError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the signature is that of nccl.h; the text it gives is the library's own.
        let words = unsafe {
            let text: Result<Symbol<unsafe extern "C" fn(c_int) -> *const c_char>, _> =
                self.symbol("ncclGetErrorString");
            let text = text.map(|text| text(code)).ok().filter(|text| !text.is_null());
            text.map(|text| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        let what = words.unwrap_or_else(|| format!("error {code}"));
        Err(LibraryError::Call { call, what })
    }
}

/// Where NCCL may be, the most wanted place first.
fn candidates(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(path) = variable(PATH) {
        return vec![PathBuf::from(path)];
    }
    let mut found: Vec<PathBuf> = Vec::new();
    if let Some(folders) = variable("LD_LIBRARY_PATH") {
        found.extend(std::env::split_paths(&folders).filter(|f| !f.as_os_str().is_empty()));
    }
    if let Some(environment) = variable("VIRTUAL_ENV") {
        let library = Path::new(&environment).join("lib");
        let mut pythons: Vec<PathBuf> = std::fs::read_dir(&library)
            .map(|names| names.filter_map(Result::ok).map(|name| name.path()).collect())
            .unwrap_or_default();
        pythons.sort();
        found.extend(pythons.iter().map(|python| python.join("site-packages/nvidia/nccl/lib")));
    }
    for folder in ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/cuda/lib64"] {
        found.push(PathBuf::from(folder));
    }
    found.into_iter().map(|folder| folder.join(NAME)).collect()
}

/// A copy of NCCL that this process has loaded and that is another file than `path`.
fn other_copy(path: &Path) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    another(&maps, path)
}

fn another(maps: &str, path: &Path) -> Option<PathBuf> {
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let is_nccl = |file: &&Path| {
        file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnccl.so"))
    };
    files.filter(is_nccl).find(|file| *file != path).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_nccl_counts() {
        assert_eq!(Version(23007).to_string(), "2.30.7");
        assert_eq!(LEAST.to_string(), "2.24.0");
    }

    #[test]
    fn a_path_that_is_given_is_the_only_one_looked_at() {
        let given = |name: &str| (name == PATH).then(|| "/opt/nccl.so".to_owned());
        assert_eq!(candidates(&given), [PathBuf::from("/opt/nccl.so")]);
        let folders = |name: &str| (name == "LD_LIBRARY_PATH").then(|| "/a::/b".to_owned());
        let found = candidates(&folders);
        assert_eq!(found[..2], [PathBuf::from("/a/libnccl.so.2"), "/b/libnccl.so.2".into()]);
    }

    #[test]
    fn the_library_of_a_wheel_is_found_in_its_environment() {
        let folder = tempfile::tempdir().expect("temp dir");
        let below = folder.path().join("lib/python3.11/site-packages/nvidia/nccl/lib");
        std::fs::create_dir_all(&below).expect("made");
        let environment = folder.path().display().to_string();
        let found = candidates(&|name| (name == "VIRTUAL_ENV").then(|| environment.clone()));
        assert_eq!(found.first(), Some(&below.join("libnccl.so.2")));
    }

    #[test]
    fn a_second_copy_is_seen_among_what_is_loaded() {
        let maps = "7f00-7f01 r-xp 0 08:01 12 /usr/lib/libc.so.6\n\
                    7f02-7f03 r-xp 0 08:01 13 /a/libnccl.so.2.30.7\n\
                    7f04-7f05 rw-p 0 00:00 0 [heap]\n";
        let other = Some(PathBuf::from("/a/libnccl.so.2.30.7"));
        assert_eq!(another(maps, Path::new("/b/libnccl.so.2")), other);
        assert_eq!(another(maps, Path::new("/a/libnccl.so.2.30.7")), None);
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a skipped check says so")]
    fn an_nccl_that_is_there_gives_ids_without_a_gpu_and_is_the_only_one() {
        let folder = tempfile::tempdir().expect("temp dir");
        let text = folder.path().join("libnccl.so.2");
        assert!(matches!(Library::load(&text), Err(LibraryError::Load { .. })));
        std::fs::write(&text, b"no library").expect("written");
        let refused = Library::load(&text).expect_err("it is text").to_string();
        assert!(refused.contains("cannot be loaded"), "{refused}");
        let library = match Library::find() {
            Ok(library) => library,
            Err(LibraryError::Absent(_)) => {
                eprintln!("skipped: no NCCL");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(library.version() >= LEAST);
        let (one, other) = (library.unique_id().expect("an id"), library.unique_id());
        assert_ne!(one, other.expect("an id"), "ids are unique");
        let again = Library::load(library.path()).expect("the same file is no second copy");
        assert_eq!(again.version(), library.version());
        let second = Library::load(&text).expect_err("there is one already");
        assert!(matches!(second, LibraryError::Second { .. }), "{second}");
    }
}
