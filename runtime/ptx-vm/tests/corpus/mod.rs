//! Walks a folder of PTX files beside the tests, spread over the machine's cores.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The `.ptx` files of `tests/<folder>`, sorted; of these only the ones whose name contains the
/// environment's `PTX_VM_ONLY`, if it is set (tests that count files then fail).
pub(crate) fn ptx_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let entries = fs::read_dir(&folder).expect("the corpus's folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ptx"));
    if let Ok(only) = std::env::var("PTX_VM_ONLY") {
        files.retain(|path| stem(path).contains(&only));
    }
    assert!(!files.is_empty(), "no file of `{}` is left", folder.display());
    files.sort();
    files
}

/// A file's name without folder and `.ptx`.
pub(crate) fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).expect("names are plain")
}

/// Asserts that `examine` has no complaint about any file; complaints are shown in the files' order.
pub(crate) fn assert_all(files: &[PathBuf], examine: impl Fn(&Path) -> Result<(), String> + Sync) {
    let complaints = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(complaint) = examine(path) {
                let text = format!("{}: {complaint}", stem(path));
                complaints.lock().expect("no examination panics").push(text);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut complaints = complaints.into_inner().expect("no examination panics");
    complaints.sort();
    let (wrong, all) = (complaints.len(), files.len());
    assert!(complaints.is_empty(), "{wrong} of {all} files:\n{}", complaints.join("\n"));
}
