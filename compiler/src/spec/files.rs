//! Loading a spec: the root file and all it imports.
//!
//! # Invariants
//! - A file is loaded once; a path is relative to the root, normalised, and never leaves it.
//! - Files never import each other in a circle.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::block::{BlockSpec, read_block};
use super::names::{NamesSpec, read_names};
use super::optimizer::{OptimizerSpec, read_optimizer};
use super::read::Sink;
use super::syntax::{Name, Tree, parse};
use super::train::{TrainSpec, read_train};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{Loader, SourceId, SourceMap, Span};

const MAX_FILES: usize = 1000;
/// Bytes of the largest file: whoever reads files for the compiler need not read more.
pub const MAX_BYTES: usize = 4 << 20;
const MAX_IMPORT_DEPTH: usize = 64;

/// A loaded file.
#[derive(Clone, Debug)]
pub struct File {
    /// Path relative to the root.
    pub path: String,
    /// What stands in it.
    pub spec: FileSpec,
    /// Imported alias to path, those that loaded.
    pub imports: BTreeMap<String, String>,
}

/// The value of a file.
#[derive(Clone, Debug)]
pub enum FileSpec {
    /// `Block(..)` or `Model(..)`.
    Block(Rc<BlockSpec>),
    /// `Optimizer(..)`.
    Optimizer(Rc<OptimizerSpec>),
    /// `Train(..)`.
    Train(Rc<TrainSpec>),
    /// `Names(..)`.
    Names(Rc<NamesSpec>),
}

impl FileSpec {
    /// Its leading word.
    pub fn word(&self) -> &'static str {
        match self {
            FileSpec::Block(b) => b.what,
            FileSpec::Optimizer(_) => "Optimizer",
            FileSpec::Train(_) => "Train",
            FileSpec::Names(_) => "Names",
        }
    }
}

/// All files of a spec.
pub struct Files<'a> {
    loader: &'a dyn Loader,
    /// Their texts.
    pub sources: SourceMap,
    loaded: BTreeMap<String, Option<Rc<File>>>,
    open: Vec<String>,
}

impl<'a> Files<'a> {
    /// No files yet.
    pub fn new(loader: &'a dyn Loader) -> Self {
        Files { loader, sources: SourceMap::default(), loaded: BTreeMap::new(), open: Vec::new() }
    }

    /// Loads the file a run starts from.
    pub fn load_root(&mut self, sink: &mut Sink, path: &str) -> Option<Rc<File>> {
        match resolve("", path) {
            Ok(path) => self.load(sink, &path, None),
            Err(why) => {
                let source = self.sources.add(path, "");
                sink.push(outside(path, &why, Span { source, start: 0, end: 0 }));
                None
            }
        }
    }

    /// Loads a file named in another.
    pub fn load_named(&mut self, sink: &mut Sink, from: &str, named: &Name) -> Option<Rc<File>> {
        match resolve(from, &named.text) {
            Ok(path) => self.load(sink, &path, Some(named.span)),
            Err(why) => {
                sink.push(outside(&named.text, &why, named.span));
                None
            }
        }
    }

    /// A file loaded before.
    pub fn get(&self, path: &str) -> Option<Rc<File>> {
        self.loaded.get(path).cloned().flatten()
    }

    fn load(&mut self, sink: &mut Sink, path: &str, from: Option<Span>) -> Option<Rc<File>> {
        if let Some(at) = self.open.iter().position(|p| p == path) {
            let mut circle: Vec<&str> = self.open[at..].iter().map(String::as_str).collect();
            circle.push(path);
            let headline = format!("`{}` imports itself", short(path));
            let span = from.unwrap_or(Span { source: SourceId(0), start: 0, end: 0 });
            let error = Diagnostic::error(codes::IMPORT_CYCLE, headline, span, "closes the circle");
            sink.push(error.help(format!("the circle is {}", circle.join(" → "))));
            return None;
        }
        if let Some(known) = self.loaded.get(path) {
            return known.clone();
        }
        let tree = self.read(sink, path, from)?;
        self.open.push(path.to_owned());
        let file = self.interpret(sink, path, &tree);
        self.open.pop();
        self.loaded.insert(path.to_owned(), file.clone());
        file
    }

    fn read(&mut self, sink: &mut Sink, path: &str, from: Option<Span>) -> Option<Tree> {
        let here = |map: &mut SourceMap| {
            from.unwrap_or_else(|| Span { source: map.add(path, ""), start: 0, end: 0 })
        };
        if self.loaded.len() >= MAX_FILES || self.open.len() >= MAX_IMPORT_DEPTH {
            let span = here(&mut self.sources);
            let (code, headline) = match self.open.len() >= MAX_IMPORT_DEPTH {
                true => {
                    (codes::TOO_DEEP, format!("imports nest deeper than {MAX_IMPORT_DEPTH} files"))
                }
                false => {
                    (codes::TOO_MUCH_TEXT, format!("the spec has more than {MAX_FILES} files"))
                }
            };
            sink.push(Diagnostic::error(code, headline, span, "this one is too many"));
            return None;
        }
        let text = match self.loader.load(path) {
            Ok(text) => text,
            Err(why) => {
                let span = here(&mut self.sources);
                let headline = format!("cannot read `{}`", short(path));
                sink.push(Diagnostic::error(codes::UNREADABLE, headline, span, why));
                self.loaded.insert(path.to_owned(), None);
                return None;
            }
        };
        if text.len() > MAX_BYTES {
            let span = here(&mut self.sources);
            let headline = format!("`{}` is larger than {} MiB", short(path), MAX_BYTES >> 20);
            sink.push(Diagnostic::error(codes::TOO_MUCH_TEXT, headline, span, "too large"));
            return None;
        }
        let source = self.sources.add(path, text);
        match parse(source, &self.sources.file(source).text) {
            Ok(tree) => Some(tree),
            Err(error) => {
                sink.push(*error);
                self.loaded.insert(path.to_owned(), None);
                None
            }
        }
    }

    fn interpret(&mut self, sink: &mut Sink, path: &str, tree: &Tree) -> Option<Rc<File>> {
        let spec = match tree.head() {
            Some("Block" | "Model") => FileSpec::Block(Rc::new(read_block(sink, tree)?)),
            Some("Optimizer") => FileSpec::Optimizer(Rc::new(read_optimizer(sink, tree)?)),
            Some("Train") => FileSpec::Train(Rc::new(read_train(sink, tree)?)),
            Some("Names") => FileSpec::Names(Rc::new(read_names(sink, tree)?)),
            _ => {
                let headline = "the file holds none of the values a spec is made of";
                let error = Diagnostic::error(
                    codes::WRONG_FILE_KIND,
                    headline,
                    tree.head_span(),
                    "this value",
                );
                sink.push(
                    error.help("a file holds `Block`, `Model`, `Optimizer`, `Train` or `Names`"),
                );
                return None;
            }
        };
        let declared: &[(Name, Name)] = match &spec {
            FileSpec::Block(b) => &b.imports,
            FileSpec::Optimizer(o) => &o.imports,
            FileSpec::Train(t) => &t.imports,
            FileSpec::Names(_) => &[],
        };
        let mut imports = BTreeMap::new();
        for (alias, named) in declared {
            if let Some(file) = self.load_named(sink, path, named) {
                imports.insert(alias.text.clone(), file.path.clone());
            }
        }
        Some(Rc::new(File { path: path.to_owned(), spec, imports }))
    }
}

fn outside(path: &str, why: &str, span: Span) -> Diagnostic {
    let headline = format!("`{}` is not a path inside the model root", short(path));
    Diagnostic::error(codes::OUTSIDE_ROOT, headline, span, why)
        .help("paths are relative to the file that names them and stay below the root")
}

fn short(path: &str) -> String {
    let n = path.chars().count();
    if n <= 32 {
        path.to_owned()
    } else {
        format!("…{}", path.chars().skip(n - 31).collect::<String>())
    }
}

/// The root-relative path of `path` as written in the file `from`.
fn resolve(from: &str, path: &str) -> Result<String, String> {
    if path.is_empty() || path.contains(['\\', '\0', ':']) || path.chars().any(char::is_control) {
        return Err("not a relative path with `/`".to_owned());
    }
    if path.starts_with('/') {
        return Err("absolute".to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return Err("leaves the root".to_owned()),
            ".." => {}
            _ => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_root() {
        assert_eq!(resolve("blocks/mla.ron", "rope.ron"), Ok("blocks/rope.ron".into()));
        assert_eq!(resolve("k2/train.ron", "../blocks/./mla.ron"), Ok("blocks/mla.ron".into()));
        for bad in ["../../x.ron", "/etc/passwd", "a\\b", "", "c:/x", "a\0b"] {
            assert!(resolve("k2/train.ron", bad).is_err(), "{bad:?}");
        }
    }
}
