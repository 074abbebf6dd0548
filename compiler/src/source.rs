//! Source text and where in it a thing was written.
//!
//! # Invariants
//! - A [`Span`] is a byte range into exactly one loaded file; offsets fall on character boundaries.
//! - Paths are relative to the model root with `/` separators; no stage sees an absolute path.

/// A loaded file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// A byte range of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which file.
    pub source: SourceId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// One file of a spec.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path relative to the model root.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// Every file loaded so far.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Adds a file.
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<String>) -> SourceId {
        self.files.push(SourceFile { path: path.into(), text: text.into() });
        SourceId(self.files.len() as u32 - 1)
    }

    /// The file behind an id.
    pub fn file(&self, id: SourceId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// The text a span covers.
    pub fn text(&self, span: Span) -> &str {
        &self.file(span.source).text[span.start as usize..span.end as usize]
    }

    /// All files in load order.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Line and column (both from 1, columns in characters) of a byte offset.
    pub fn line_column(&self, source: SourceId, offset: u32) -> (usize, usize) {
        let before = &self.file(source).text[..offset as usize];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        (line, column)
    }
}

/// How the compiler gets at files without doing IO itself.
pub trait Loader {
    /// The text of the file at a root-relative path.
    ///
    /// # Errors
    /// A sentence saying why: missing, not UTF-8, too large, outside the root.
    fn load(&self, path: &str) -> Result<String, String>;
}
