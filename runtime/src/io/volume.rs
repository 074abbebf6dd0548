//! The file operations that durable writing is made of, so that tests can record, fail and cut them.
//!
//! # Invariants
//! - A file is created under a name that did not exist; nothing is opened for rewriting.
//! - What is not synced may be lost: contents by [`Sink::sync`], names by [`Volume::sync_folder`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Permissions of a written file, before the process's umask.
const FILE_MODE: u32 = 0o644;

/// Bytes gathered before a write reaches the file.
const BUFFER_BYTES: usize = 1 << 20;

/// Where files are written.
pub(crate) trait Volume: Send + Sync {
    /// Makes a folder whose parent exists.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file; it must not exist.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// Gives a file or folder another name in the same folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and all in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
}

/// A file being written.
pub(crate) trait Sink: Write + Send {
    /// Makes the contents durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system.
pub(crate) struct Disk;

impl Volume for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// What fills a new file.
pub(crate) type Fill<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// Fills a new file and makes its contents durable; its name is not yet.
pub(crate) fn fill_synced(sink: Box<dyn Sink>, fill: Fill<'_>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, sink);
    fill(&mut out)?;
    let mut sink = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    sink.sync()
}
