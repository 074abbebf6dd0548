//! Files that are there whole or not at all.
//!
//! # Invariants
//! - A reader of `path` sees the old bytes or the new ones, never a part, also after a power loss:
//!   write a temporary file beside it, fsync, rename, fsync the folder.
//! - A failed write leaves no temporary file behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file atomically, creating its folder when missing.
///
/// # Errors
/// Whatever the file system says; `path` is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(&folder)?;
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to report; the temporary may not exist.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(&folder)?.sync_all()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("sub/out.json");
        write(&path, b"old").expect("first write");
        write(&path, b"newer").expect("second write");
        assert_eq!(fs::read(&path).expect("read"), b"newer");
        assert_eq!(fs::read_dir(folder.path().join("sub")).expect("list").count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_cleans_up() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("full")).expect("occupy the name with a folder");
        assert!(write(&path, b"new").is_err());
        assert!(path.join("full").is_dir());
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_path_without_a_file_name_is_an_error() {
        assert!(write(Path::new(".."), b"x").is_err());
    }
}
