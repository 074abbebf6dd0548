//! Markdown as far as the tests need it: fenced blocks, headings, links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    /// What stands after the opening fence: `sh`, `ron`, `text`.
    pub(crate) info: String,
    /// The lines between the fences.
    pub(crate) body: String,
    /// Line of the opening fence, from 1.
    pub(crate) line: usize,
    /// Whether only blank lines part it from the block before.
    pub(crate) follows: bool,
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Text of a page, by its path from the root.
pub(crate) fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The pages outside the book that show commands.
pub(crate) fn front_pages() -> Vec<String> {
    let pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "PERFORMANCE.md",
        "SECURITY.md",
        "benches/README.md",
        "compiler/src/ops/README.md",
        "tests/golden/README.md",
    ];
    pages.map(str::to_owned).to_vec()
}

/// Every Markdown file below a folder, sorted.
pub(crate) fn pages(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of pages") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                let below = path.strip_prefix(root()).expect("below the root");
                found.push(below.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every page that is tested.
pub(crate) fn all_pages() -> Vec<String> {
    [front_pages(), pages("docs"), pages("examples")].concat()
}

/// The fenced blocks of a page, in order.
pub(crate) fn fences(text: &str) -> Vec<Fence> {
    let mut found: Vec<Fence> = Vec::new();
    let mut open: Option<Fence> = None;
    let mut only_blank = false;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let (info, follows) = (info.trim().to_owned(), only_blank);
                open = Some(Fence { info, body: String::new(), line: number + 1, follows });
            }
            (Some(_), Some(_)) => {
                found.extend(open.take());
                only_blank = true;
            }
            (Some(fence), None) => {
                fence.body.push_str(line);
                fence.body.push('\n');
            }
            (None, None) => only_blank &= line.trim().is_empty(),
        }
    }
    assert!(open.is_none(), "a fence is not closed: {open:?}");
    found
}

/// The anchors of a page's headings, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title == line || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}

/// Links of a page to headings that do not exist.
pub(crate) fn broken_anchors(page: &str) -> Vec<String> {
    let text = read(page);
    let folder = Path::new(page).parent().expect("a page has a folder");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let with_anchor = targets.filter_map(|target| target.split_once('#'));
    let broken = with_anchor.filter(|(file, anchor)| {
        if file.contains("://") {
            return false;
        }
        let target = if file.is_empty() { page.into() } else { folder.join(file) };
        let target = fs::read_to_string(root().join(target)).unwrap_or_default();
        !anchors(&target).contains(*anchor)
    });
    broken.map(|(file, anchor)| format!("{page}: `{file}#{anchor}`")).collect()
}
