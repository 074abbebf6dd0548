//! Spec files from a folder, for the compiler that does no IO itself.
//!
//! # Invariants
//! - Nothing outside the root is ever opened: not by `..`, an absolute path or a symbolic link.
//! - A path that the folder does not have is looked up among the shipped models, so that a spec
//!   anywhere may import `blocks/rmsnorm.ron`.
//! - A file larger than [`MAX_BYTES`] is refused before it is read.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use perilune_compiler::source::Loader;

use crate::library::Library;

/// Largest spec file accepted.
pub const MAX_BYTES: u64 = perilune_compiler::spec::files::MAX_BYTES as u64;

/// Reads files below one folder, and the shipped models where it has none.
#[derive(Clone, Debug)]
pub struct FolderLoader {
    root: PathBuf,
}

impl FolderLoader {
    /// A loader for the files below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        FolderLoader { root: root.into() }
    }

    /// Splits the path of a spec into its model root and the path below it. The root is the
    /// nearest folder above the spec that holds `blocks/` or `optim/`, else the spec's own folder.
    pub fn for_spec(spec: &Path) -> (Self, String) {
        let own = spec.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let holds_library = |folder: &&Path| {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { *folder };
            folder.join("blocks").is_dir() || folder.join("optim").is_dir()
        };
        let root = spec.ancestors().skip(1).find(holds_library).unwrap_or(own);
        let below = spec.strip_prefix(root).unwrap_or(spec);
        let below = below.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        });
        let below = below.collect::<Vec<_>>().join("/");
        let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        (FolderLoader::new(root), below)
    }

    /// The folder it reads from.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file behind a path; `None` where the folder has none.
    fn resolve(&self, path: &str) -> Result<Option<PathBuf>, String> {
        let relative = Path::new(path);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err("the path leaves the model root".into());
        }
        let full = self.root.join(relative);
        if fs::symlink_metadata(&full).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let canonical = full.canonicalize().map_err(|error| sentence(&error))?;
        let root = self.root.canonicalize().map_err(|error| sentence(&error))?;
        if !canonical.starts_with(&root) {
            return Err("the path leaves the model root through a link".into());
        }
        Ok(Some(canonical))
    }
}

impl Loader for FolderLoader {
    fn load(&self, path: &str) -> Result<String, String> {
        let full = match self.resolve(path)? {
            Some(full) => full,
            None => return Library::default().load(path),
        };
        let file = fs::File::open(&full).map_err(|error| sentence(&error))?;
        let meta = file.metadata().map_err(|error| sentence(&error))?;
        if !meta.is_file() {
            return Err("it is not a file".into());
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| sentence(&error))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("it is larger than {} MiB", MAX_BYTES >> 20));
        }
        String::from_utf8(bytes).map_err(|error| {
            format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to())
        })
    }
}

fn sentence(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".into(),
        ErrorKind::PermissionDenied => "it may not be read".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temp dir");
        fs::create_dir_all(folder.path().join("models/blocks")).expect("mkdir");
        fs::create_dir_all(folder.path().join("models/k2")).expect("mkdir");
        fs::write(folder.path().join("models/blocks/a.ron"), "Block()").expect("write");
        fs::write(folder.path().join("secret"), "no").expect("write");
        folder
    }

    #[test]
    fn the_root_is_the_folder_that_holds_blocks() {
        let folder = tree();
        let spec = folder.path().join("models/k2/train.ron");
        let (loader, below) = FolderLoader::for_spec(&spec);
        assert_eq!(loader.root(), folder.path().join("models"));
        assert_eq!(below, "k2/train.ron");
        assert_eq!(loader.load("blocks/a.ron").expect("load"), "Block()");
    }

    #[test]
    fn a_spec_on_its_own_is_its_own_root() {
        let folder = tempfile::tempdir().expect("temp dir");
        let (loader, below) = FolderLoader::for_spec(&folder.path().join("one.ron"));
        assert_eq!((loader.root(), below.as_str()), (folder.path(), "one.ron"));
    }

    #[test]
    fn nothing_outside_the_root_is_read() {
        let folder = tree();
        let loader = FolderLoader::new(folder.path().join("models"));
        let link = folder.path().join("models/link");
        std::os::unix::fs::symlink(folder.path().join("secret"), link).expect("link");
        let absolute = folder.path().join("secret").display().to_string();
        for path in ["../secret", "blocks/../../secret", absolute.as_str(), "link"] {
            assert!(loader.load(path).expect_err(path).contains("leaves the model root"), "{path}");
        }
    }

    #[test]
    fn shipped_blocks_are_there_and_a_file_of_the_folder_comes_first() {
        let folder = tree();
        let shipped = FolderLoader::new(folder.path()).load("blocks/rmsnorm.ron");
        assert!(shipped.is_ok_and(|text| text.starts_with("Block(")));
        fs::create_dir(folder.path().join("blocks")).expect("mkdir");
        fs::write(folder.path().join("blocks/rmsnorm.ron"), "mine").expect("write");
        let own = FolderLoader::new(folder.path()).load("blocks/rmsnorm.ron");
        assert_eq!(own.as_deref(), Ok("mine"));
    }

    #[test]
    fn what_cannot_be_text_is_refused_with_a_sentence() {
        let folder = tree();
        let loader = FolderLoader::new(folder.path());
        fs::write(folder.path().join("bad"), b"ab\xff").expect("write");
        assert_eq!(loader.load("bad").expect_err("bad"), "it is not UTF-8 at byte 2");
        assert_eq!(loader.load("none").expect_err("none"), "there is no such file");
        assert_eq!(loader.load("models").expect_err("folder"), "it is not a file");
    }
}
