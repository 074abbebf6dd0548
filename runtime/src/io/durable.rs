//! Writing so that a crash leaves the old file or the new one, never a part.
//!
//! Write a temporary file beside the target, fsync it, rename it, fsync the folder.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::IoError;

/// Writes `path` whole or not at all.
pub(super) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), IoError> {
    let temporary = beside(path)?;
    let written = File::create(&temporary).and_then(|file| {
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        fill(&mut writer)?;
        writer.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)
    });
    if let Err(source) = written {
        // The file may never have been made; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(IoError::system("write", path, source));
    }
    sync_folder(folder_of(path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), IoError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| IoError::system("sync", folder, source))
}

/// The folder that holds a path.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A temporary name in the same folder, of this process.
fn beside(path: &Path) -> Result<PathBuf, IoError> {
    let name = path.file_name().ok_or_else(|| IoError::format(path, "it names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".tmp-{}", std::process::id()));
    Ok(path.with_file_name(temporary))
}
