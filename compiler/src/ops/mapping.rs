//! From a written expression with index words to a `linalg.generic`: shared by `Map` and `Reduce`.
//!
//! # Invariants
//! - Iteration dimensions are the words in order of first appearance, `...` standing for any number
//!   of leading dimensions; a word has one extent.
//! - Operands are numbered by first appearance; one tensor read in two ways is two operands.

use std::ops::Range;

use super::form::{DimForm, FormCx, MappingForm, Name, SpannedMap, TextSpan, WordsForm};
use super::{Value, codes};
use crate::diagnostic::Diagnostic;
use crate::program::Generic;
use crate::scalar::elaborate::{ExprError, Resolve, Resolved, elaborate};
use crate::scalar::parse::Word;
use crate::source::Span;

/// A resolved expression: iteration dimensions, operands and body; `out` holds every dimension.
pub(super) struct Mapped {
    /// The elementwise function.
    pub generic: Generic,
    /// Its operands.
    pub operands: Vec<(Value, Span)>,
    words: Words,
}

/// Words and their extents, in order of first appearance.
#[derive(Default)]
struct Words {
    names: Vec<String>,
    extents: Vec<u64>,
    /// Number of dimensions that `...` stands for, once known.
    ellipsis: Option<usize>,
}

impl Words {
    fn position(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|n| n == name).map(|i| i as u32)
    }

    /// The dimension of a word, new or known; `Err` holds the extent it has elsewhere.
    fn bind(&mut self, name: &str, extent: u64) -> Result<u32, u64> {
        match self.position(name) {
            Some(d) if self.extents[d as usize] == extent => Ok(d),
            Some(d) => Err(self.extents[d as usize]),
            None => {
                self.names.push(name.to_string());
                self.extents.push(extent);
                Ok(self.names.len() as u32 - 1)
            }
        }
    }

    /// The dimensions a list of words stands for; the word that is unknown otherwise.
    fn find<'a>(&self, words: &'a [Word]) -> Result<Vec<u32>, &'a Word> {
        let mut dims = Vec::new();
        for word in words {
            if word.text == "..." {
                let n = self.ellipsis.ok_or(word)?;
                dims.extend((0..n).filter_map(|i| self.position(&ellipsis_name(i))));
            } else {
                dims.push(self.position(&word.text).ok_or(word)?);
            }
        }
        Ok(dims)
    }
}

fn ellipsis_name(i: usize) -> String {
    format!("...{i}")
}

struct Resolver<'a> {
    cx: &'a mut dyn FormCx,
    text: TextSpan,
    words: Words,
    /// Extents given to words that no operand has.
    given: Vec<(String, u64)>,
    operands: Vec<(Value, Span, Vec<Option<u32>>)>,
    /// First operand read whole, without index words, and first one read with them.
    plain: Option<(String, Range<u32>, Vec<u64>)>,
    indexed: Option<Range<u32>>,
}

impl Resolve for Resolver<'_> {
    fn name(
        &mut self,
        name: &str,
        index: Option<&[Word]>,
        range: &Range<u32>,
    ) -> Result<Option<Resolved>, ExprError> {
        let span = self.text.at(range);
        let value = match self.cx.name(name, span) {
            None => return Ok(None),
            Some(Name::Constant(x)) if index.is_none() => return Ok(Some(Resolved::Constant(x))),
            Some(Name::Constant(_)) => {
                let message = format!("`{name}` is a constant and takes no index");
                return Err(ExprError::new(codes::EXPR_INDEX, range, message));
            }
            Some(Name::Operand(value)) => value,
        };
        let ty = self.cx.ty(value);
        let map = match index {
            None if ty.ndim() == 0 => Vec::new(),
            None => self.whole(name, range, &ty.shape)?,
            Some(words) => {
                self.indexed.get_or_insert(range.clone());
                self.index(name, words, range, &ty.shape)?
            }
        };
        let known = self.operands.iter().position(|(v, _, m)| *v == value && *m == map);
        let n = known.unwrap_or_else(|| {
            self.operands.push((value, span, map));
            self.operands.len() - 1
        });
        Ok(Some(Resolved::Arg(n as u32, ty.dtype)))
    }

    fn dim(&mut self, word: &str) -> Option<u32> {
        if let Some(d) = self.words.position(word) {
            return Some(d);
        }
        let extent = self.given.iter().find(|(w, _)| w == word)?.1;
        self.words.bind(word, extent).ok()
    }
}

impl Resolver<'_> {
    /// An operand without index words: all such operands have one shape.
    fn whole(
        &mut self,
        name: &str,
        range: &Range<u32>,
        shape: &[u64],
    ) -> Result<Vec<Option<u32>>, ExprError> {
        if let Some((first, _, other)) = &self.plain
            && other != shape
        {
            let message = format!("shapes differ: `{first}` {other:?} vs `{name}` {shape:?}");
            return Err(ExprError::new(codes::EXTENTS_DIFFER, range, message).help(
                "give each operand index words to say how it is broadcast: `x[b s d] * w[d]`",
            ));
        }
        self.plain.get_or_insert_with(|| (name.to_string(), range.clone(), shape.to_vec()));
        self.words.ellipsis.get_or_insert(shape.len());
        let bound = shape.iter().enumerate().map(|(i, d)| self.words.bind(&ellipsis_name(i), *d));
        Ok(bound.map(Result::ok).collect())
    }

    /// The dimensions of an operand with index words.
    fn index(
        &mut self,
        name: &str,
        words: &[Word],
        range: &Range<u32>,
        shape: &[u64],
    ) -> Result<Vec<Option<u32>>, ExprError> {
        let n_ellipsis = words.iter().filter(|w| w.text == "...").count();
        let n_plain = words.len() - n_ellipsis;
        let fits = if n_ellipsis == 0 { n_plain == shape.len() } else { n_plain <= shape.len() };
        if n_ellipsis > 1 || !fits {
            let message = format!("`{name}` has {} dimensions, its index {n_plain}", shape.len());
            return Err(ExprError::new(codes::WRONG_NDIM, range, message)
                .help(format!("`{name}` has shape {shape:?}; write one word per dimension")));
        }
        let mut map = Vec::new();
        let mut extents = shape.iter().copied();
        for word in words {
            if word.text == "..." {
                self.bind_ellipsis(name, word, shape.len() - n_plain, &mut extents, &mut map)?;
                continue;
            }
            let extent = extents.next().unwrap_or(0);
            map.push(self.bind(name, word, extent)?);
        }
        let mut seen: Vec<u32> = map.iter().flatten().copied().collect();
        seen.sort_unstable();
        if seen.windows(2).any(|w| w[0] == w[1]) {
            let message = format!("an index word stands twice on `{name}`");
            return Err(ExprError::new(codes::EXPR_INDEX, range, message));
        }
        Ok(map)
    }

    fn bind_ellipsis(
        &mut self,
        name: &str,
        word: &Word,
        n: usize,
        extents: &mut dyn Iterator<Item = u64>,
        map: &mut Vec<Option<u32>>,
    ) -> Result<(), ExprError> {
        if *self.words.ellipsis.get_or_insert(n) != n {
            let other = self.words.ellipsis.unwrap_or(0);
            let message = format!("`...` stands for {n} dimensions of `{name}`, elsewhere {other}");
            return Err(ExprError::new(codes::WRONG_NDIM, &word.range, message));
        }
        for i in 0..n {
            let extent = extents.next().unwrap_or(0);
            let part = Word { text: ellipsis_name(i), range: word.range.clone() };
            map.push(self.bind(name, &part, extent)?);
        }
        Ok(())
    }

    fn bind(&mut self, name: &str, word: &Word, extent: u64) -> Result<Option<u32>, ExprError> {
        if word.text == "1" {
            if extent == 1 {
                return Ok(None);
            }
            let message = format!("index `1` reads a dimension of extent {extent} of `{name}`");
            return Err(ExprError::new(codes::EXTENTS_DIFFER, &word.range, message));
        }
        self.words.bind(&word.text, extent).map(Some).map_err(|other| {
            let message = format!("extents of `{}` differ: {other} vs {extent}", word.text);
            ExprError::new(codes::EXTENTS_DIFFER, &word.range, message)
                .help(format!("dimension `{}` of `{name}` has extent {extent}", word.text))
        })
    }
}

/// Tells the author what is wrong with a part of an expression.
pub(super) fn report(cx: &mut dyn FormCx, text: TextSpan, error: ExprError) {
    if error.told {
        return;
    }
    let mut d = Diagnostic::error(error.code, error.message, text.at(&error.range), "here");
    d.help = error.help;
    cx.report(d);
}

/// Resolves an expression; `dims` gives extents to words of its own.
pub(super) fn resolve(
    cx: &mut dyn FormCx,
    form: &MappingForm,
    dims: &SpannedMap<DimForm>,
) -> Option<Mapped> {
    let mut given = Vec::new();
    for (word, extent) in &dims.entries {
        given.push((word.value.clone(), cx.dim(extent)?));
    }
    let mut r = Resolver {
        cx,
        text: form.text,
        words: Words::default(),
        given,
        operands: Vec::new(),
        plain: None,
        indexed: None,
    };
    let result = elaborate(&form.mapping.expr, &mut r);
    let mixed = r.plain.clone().zip(r.indexed.clone());
    let body = match (result, mixed) {
        (Err(error), _) => {
            report(r.cx, form.text, error);
            return None;
        }
        (_, Some(((name, range, shape), _))) => {
            let message = format!("`{name}` needs index words, since others have them");
            let error = ExprError::new(codes::EXPR_INDEX, &range, message)
                .help(format!("`{name}` has shape {shape:?}; write one word per dimension"));
            report(r.cx, form.text, error);
            return None;
        }
        (Ok((body, _)), None) => body,
    };
    let (given, mut words, operands) = (r.given, r.words, r.operands);
    for ((word, _), (_, extent)) in dims.entries.iter().zip(&given) {
        if let Err(other) = words.bind(&word.value, *extent) {
            let headline = format!("extents of `{}` differ: {other} vs {extent}", word.value);
            cx.report(Diagnostic::error(codes::EXTENTS_DIFFER, headline, word.span, "given here"));
            return None;
        }
    }
    let (maps, operands): (Vec<_>, Vec<_>) =
        operands.into_iter().map(|(value, span, map)| (map, (value, span))).unzip();
    let out = (0..words.extents.len() as u32).collect();
    let generic = Generic { extents: words.extents.clone(), maps, out, combine: None, body };
    Some(Mapped { generic, operands, words })
}

impl Mapped {
    /// The dimensions that words stand for; reports an unknown word.
    pub(super) fn find(
        &self,
        cx: &mut dyn FormCx,
        words: &[Word],
        text: TextSpan,
    ) -> Option<Vec<u32>> {
        match self.words.find(words) {
            Ok(dims) => Some(dims),
            Err(word) => {
                let message = format!("`{}` is no dimension of this expression", word.text);
                let error = ExprError::new(codes::EXPR_INDEX, &word.range, message)
                    .help("words on operands are dimensions; `dims: {\"d\": n}` adds others");
                report(cx, text, error);
                None
            }
        }
    }

    /// The result's dimensions as stated by `-> words` or `out: "words"`, if either is.
    pub(super) fn stated_out(
        &self,
        cx: &mut dyn FormCx,
        form: &MappingForm,
        out: Option<&WordsForm>,
    ) -> Option<Option<Vec<u32>>> {
        match (&form.mapping.out, out) {
            (Some(words), None) => self.find(cx, words, form.text).map(Some),
            (None, Some(o)) => self.find(cx, &o.words, o.text).map(Some),
            (None, None) => Some(None),
            (Some(_), Some(o)) => {
                let headline = "the result's dimensions are given twice";
                let d = Diagnostic::error(codes::EXPR_INDEX, headline, o.text.span, "and here");
                cx.report(d.label(form.text.span, "after the arrow"));
                None
            }
        }
    }
}
