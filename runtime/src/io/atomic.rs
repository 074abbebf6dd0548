//! Files that are there whole or not at all.
//!
//! # Invariants
//! - A reader of `path` sees the old bytes or the new ones, never a part, also after a power loss:
//!   write a temporary file beside it, fsync, rename, fsync the folder.
//! - A failed write leaves no temporary file behind.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;

use super::volume::{Disk, Fill, Sink, Volume, fill_synced};

/// Temporary names tried before giving up: leftovers of killed writers may hold some.
const NAME_TRIES: u32 = 1000;

/// Writes a file atomically, creating its folder when missing.
///
/// # Errors
/// Whatever the file system says; `path` is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Like [`write()`], for contents that are better streamed than held.
///
/// # Errors
/// Whatever the file system or `fill` says; `path` is then untouched.
pub fn write_with(
    path: &Path,
    mut fill: impl FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(&folder)?;
    replace(&Disk, path, &mut fill)?;
    Disk.sync_folder(&folder)
}

fn replace(volume: &dyn Volume, path: &Path, fill: Fill<'_>) -> io::Result<()> {
    let (temporary, sink) = create_beside(volume, path)?;
    let written = fill_synced(sink, fill).and_then(|()| volume.rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = volume.remove_file(&temporary);
    }
    written
}

/// Makes a file under a name that no other writer, living or killed, holds.
fn create_beside(volume: &dyn Volume, path: &Path) -> io::Result<(PathBuf, Box<dyn Sink>)> {
    let mut attempt = 0;
    loop {
        let temporary = temporary_beside(path, attempt)?;
        match volume.create(&temporary) {
            Ok(sink) => return Ok((temporary, sink)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < NAME_TRIES => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn temporary_beside(path: &Path, attempt: u32) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
    })?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{attempt}.tmp", process::id()));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
    fn a_fill_that_fails_half_way_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("out");
        write(&path, b"old").expect("first write");
        let failed = write_with(&path, |out| {
            out.write_all(b"ne")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.expect_err("fails").to_string(), "no more");
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn the_leftover_of_a_killed_writer_is_no_obstacle() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("out");
        let leftover = temporary_beside(&path, 0).expect("a name");
        fs::write(&leftover, b"half").expect("leftover");
        write(&path, b"new").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::read(&leftover).expect("read"), b"half");
    }

    #[test]
    fn a_file_is_readable_by_others_as_the_umask_allows() {
        let folder = tempfile::tempdir().expect("temp dir");
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write(&ours, b"").expect("write");
        fs::write(&plain, b"").expect("write");
        let mode = |path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&ours), mode(&plain) & 0o644);
    }

    #[test]
    fn a_path_without_a_file_name_is_an_error() {
        assert!(write(Path::new(".."), b"x").is_err());
    }
}
