//! How an op is written: RON forms with exact source spans.
//!
//! The spec layer opens a file with [`parse_file`], meets a node as a [`Raw`], asks
//! [`Raw::head`] for its name and hands it either to [`super::build`] or to a block of that name.
//! Forms are plain serde types; every [`Spanned`] in them knows its place in the file.
//!
//! # Invariants
//! - Spans are exact at any depth: a [`Spanned`] is deserialised from a borrowed slice of the file,
//!   whose address gives its offset. The scope set by [`parse_file`] or [`Raw::parse`] ties
//!   addresses to the file.
//! - Deserialisation errors keep the innermost place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use ron::value::RawValue;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

use super::{Value, codes};
use crate::diagnostic::Diagnostic;
use crate::scalar::parse::{Expr, Mapping, Word, parse, parse_mapping, parse_words};
use crate::source::{SourceId, Span};
use crate::syntax::{self, TreeKind};
use crate::types::Type;

/// What ops need from the scope their node stands in.
pub trait FormCx {
    /// The value of a node, parameter or input; reports an unknown name.
    fn operand(&mut self, name: &Spanned<String>) -> Option<Value>;
    /// An extent; reports unknown names, fractions and negative results.
    fn dim(&mut self, form: &DimForm) -> Option<u64>;
    /// A constant; reports unknown names.
    fn scalar(&mut self, form: &ScalarForm) -> Option<f64>;
    /// A name inside an expression; reports an unknown name.
    fn name(&mut self, name: &str, span: Span) -> Option<Name>;
    /// Type of a value.
    fn ty(&self, value: Value) -> Type;
    /// Tells the author.
    fn report(&mut self, diagnostic: Diagnostic);
}

/// What a name inside an expression means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Name {
    /// A tensor.
    Operand(Value),
    /// A block parameter, dim or other constant.
    Constant(f64),
}

/// A deserialised thing and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    /// The thing.
    pub value: T,
    /// Its place.
    pub span: Span,
}

/// A piece of RON kept as text, to be read once its kind is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// The text, without surrounding space and comments.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// A constant expression in RON: a number, a bare name, or a string: `3`, `d_model`,
/// `"qk_nope + qk_rope"`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstForm {
    /// The expression.
    pub expr: Expr,
    /// Its place: for a string, between the quotes.
    pub text: TextSpan,
}

/// An extent.
pub type DimForm = ConstForm;

/// A constant.
pub type ScalarForm = ConstForm;

/// An element expression in RON: `"x[b s] * w[s] -> b s"`.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingForm {
    /// The expression and the dimensions of its result.
    pub mapping: Mapping,
    /// Its place between the quotes.
    pub text: TextSpan,
}

/// Place of a text inside which byte ranges are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSpan {
    /// The whole text.
    pub span: Span,
    /// Whether bytes of the text are bytes of the file (no escapes).
    pub exact: bool,
}

impl TextSpan {
    /// The file span of a byte range of the text.
    pub fn at(&self, range: &Range<u32>) -> Span {
        if !self.exact {
            return self.span;
        }
        let (start, end) = (self.span.start + range.start, self.span.start + range.end);
        Span { start: start.min(self.span.end), end: end.min(self.span.end), ..self.span }
    }
}

/// A RON text that does not have the expected form.
#[derive(Clone, Debug, PartialEq)]
pub struct FormError {
    /// The innermost place to blame.
    pub span: Span,
    /// What RON says.
    pub error: ron::Error,
    /// Set when the text is well-formed RON, but an expression or name inside it is wrong.
    pub code: Option<crate::diagnostic::Code>,
}

impl<T> Spanned<T> {
    /// Another thing at the same place.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: f(self.value), span: self.span }
    }
}

impl Raw {
    /// The leading identifier: `Einsum` of `Einsum("…", [..])`, with its place.
    pub fn head(&self) -> Option<Spanned<&str>> {
        let len = self.text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        let name = &self.text[..len.unwrap_or(self.text.len())];
        let starts = name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
        let span = Span { end: self.span.start + name.len() as u32, ..self.span };
        starts.then_some(Spanned { value: name, span })
    }

    /// Reads the text as a `T`.
    ///
    /// # Errors
    /// Where and why it is not one.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FormError> {
        parse_at(self.span.source, self.span.start, &self.text)
    }
}

impl Raw {
    /// Reads the text as a `T` (a struct named as the head): fields in order, named, or in order
    /// and then named, `Slice("q", dim: 2, len: 8)`; those with defaults may be left out.
    ///
    /// # Errors
    /// Where and why it is not one.
    pub fn form<T: DeserializeOwned>(&self) -> Result<T, FormError> {
        let Span { source, start: offset, .. } = self.span;
        let tree = syntax::parse(source, &self.text).map_err(|d| {
            let Span { start, end, .. } = d.primary.span;
            let span = Span { source, start: offset + start, end: offset + end };
            FormError { span, error: ron::Error::Message(d.headline), code: None }
        })?;
        let head = Span { end: offset + tree.head_span().end, ..self.span };
        let TreeKind::Call(call) = tree.kind else {
            return Err(FormError {
                span: self.span,
                error: ron::Error::ExpectedStructLike,
                code: None,
            });
        };
        in_scope(source, offset, &self.text, || {
            let fields = Fields { text: &self.text, call: &call, names: &[], next: 0 };
            T::deserialize(fields).map_err(|error| FormError { span: head, error, code: None })
        })
    }
}

/// Reads a struct from what stands between the parentheses of a call.
struct Fields<'de, 'c> {
    text: &'de str,
    call: &'c syntax::Call,
    names: &'static [&'static str],
    next: usize,
}

impl<'de> Fields<'de, '_> {
    fn slice(&self, span: Span) -> &'de str {
        &self.text[span.start as usize..span.end as usize]
    }

    fn fail(&self, span: Span, error: ron::Error) -> ron::Error {
        fail(FormError { span: span_of(self.slice(span)), error, code: None })
    }

    /// Name of the next item, whether it was written, and its place.
    fn next_name(&self, item: &syntax::Item) -> Result<(String, Span), ron::Error> {
        if let Some(field) = &item.field {
            let before = &self.call.items[..self.next];
            let in_order = before.iter().take_while(|i| i.field.is_none()).count();
            let named = |i: &syntax::Item| i.field.as_ref().is_some_and(|f| f.text == field.text);
            let placed = self.names.iter().take(in_order).any(|n| *n == field.text);
            if placed || before.iter().any(named) {
                let error = ron::Error::Message(format!("`{}` is given twice", field.text));
                let span = span_of(self.slice(field.span));
                let code = Some(crate::codes::DUPLICATE_KEY);
                return Err(fail(FormError { span, error, code }));
            }
            return Ok((field.text.clone(), field.span));
        }
        match self.names.get(self.next) {
            Some(name) => Ok(((*name).to_string(), item.value.span)),
            None => {
                let expected = format!("at most {} values", self.names.len());
                let found = self.call.items.len();
                let error = ron::Error::ExpectedDifferentLength { expected, found };
                Err(self.fail(item.value.span, error))
            }
        }
    }
}

impl<'de> Deserializer<'de> for Fields<'de, '_> {
    type Error = ron::Error;

    fn deserialize_struct<V: serde::de::Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ron::Error> {
        if self.call.name.as_ref().is_none_or(|n| n.text != name) {
            let found = self.call.name.as_ref().map_or(String::new(), |n| n.text.clone());
            return Err(ron::Error::ExpectedDifferentStructName { expected: name, found });
        }
        visitor.visit_map(Fields { names: fields, ..self })
    }

    fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, ron::Error> {
        Err(ron::Error::ExpectedStructLike)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> serde::de::MapAccess<'de> for Fields<'de, '_> {
    type Error = ron::Error;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ron::Error> {
        let Some(item) = self.call.items.get(self.next) else { return Ok(None) };
        let (name, span) = self.next_name(item)?;
        let key = serde::de::value::StrDeserializer::<ron::Error>::new(&name);
        seed.deserialize(key).map(Some).map_err(|e| self.fail(span, e))
    }

    fn next_value_seed<S: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, ron::Error> {
        let Some(item) = self.call.items.get(self.next) else { return Err(ron::Error::Eof) };
        self.next += 1;
        let text = self.slice(item.value.span);
        let mut inner = ron::Deserializer::from_str_with_options(text, &options())
            .map_err(|e| fail::<ron::Error>(located(text, e)))?;
        match seed.deserialize(&mut inner) {
            Ok(value) => Ok(value),
            Err(error) => Err(fail(located(text, inner.span_error(error)))),
        }
    }
}

/// Reads a whole file as a `T`.
///
/// # Errors
/// Where and why it is not one.
pub fn parse_file<T: DeserializeOwned>(source: SourceId, text: &str) -> Result<T, FormError> {
    parse_at(source, 0, text)
}

/// The text a scope is reading: addresses inside it belong to `source` from `offset` on.
#[derive(Clone, Copy)]
struct Scope {
    source: SourceId,
    address: usize,
    len: usize,
    offset: u32,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
    static INNERMOST: RefCell<Option<FormError>> = const { RefCell::new(None) };
}

fn parse_at<T: DeserializeOwned>(
    source: SourceId,
    offset: u32,
    text: &str,
) -> Result<T, FormError> {
    in_scope(source, offset, text, || read(text))
}

/// Runs `f` with slices of `text` placed in the file; the innermost error wins.
fn in_scope<T>(
    source: SourceId,
    offset: u32,
    text: &str,
    f: impl FnOnce() -> Result<T, FormError>,
) -> Result<T, FormError> {
    let scope = Scope { source, address: text.as_ptr() as usize, len: text.len(), offset };
    let outer = SCOPE.replace(Some(scope));
    INNERMOST.take();
    let result = f();
    let innermost = INNERMOST.take();
    SCOPE.replace(outer);
    result.map_err(|e| innermost.unwrap_or(e))
}

/// Reads a slice of the scope's text; a failure carries its place.
fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, FormError> {
    options().from_str(text).map_err(|e| located(text, e))
}

/// The file place of an error in a slice.
fn located(text: &str, e: ron::error::SpannedError) -> FormError {
    let (start, end) = (position(text, e.span.start), position(text, e.span.end));
    let whole = span_of(text);
    let at = |p: usize| (whole.start + p as u32).min(whole.end);
    let span = Span { start: at(start), end: at(end.max(start)), ..whole };
    FormError { span, error: e.code, code: None }
}

fn options() -> ron::Options {
    ron::Options::default().with_default_extension(
        ron::extensions::Extensions::IMPLICIT_SOME
            | ron::extensions::Extensions::UNWRAP_VARIANT_NEWTYPES,
    )
}

/// Byte offset of a line and column (both from 1, columns in characters).
fn position(text: &str, p: ron::error::Position) -> usize {
    let line_start = match p.line {
        0 | 1 => 0,
        n => text.match_indices('\n').nth(n - 2).map_or(text.len(), |(i, _)| i + 1),
    };
    let column = p.col.saturating_sub(1);
    text[line_start..].char_indices().nth(column).map_or(text.len(), |(i, _)| line_start + i)
}

/// Place of a slice of the scope's text.
fn span_of(slice: &str) -> Span {
    let scope = SCOPE.with_borrow(|s| *s);
    let Some(scope) = scope else { return Span { source: SourceId(0), start: 0, end: 0 } };
    let at = (slice.as_ptr() as usize).wrapping_sub(scope.address);
    if at + slice.len() > scope.len {
        return Span { source: scope.source, start: scope.offset, end: scope.offset };
    }
    let start = scope.offset + at as u32;
    Span { source: scope.source, start, end: start + slice.len() as u32 }
}

/// The next value as a slice of the file.
fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    Ok(<&RawValue>::deserialize(deserializer)?.trim().get_ron())
}

/// Keeps the first (innermost) error and turns it into one of the outer deserialiser.
fn fail<E: serde::de::Error>(error: FormError) -> E {
    let message = error.error.to_string();
    INNERMOST.with_borrow_mut(|slot| {
        slot.get_or_insert(error);
    });
    E::custom(message)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = raw(deserializer)?;
        let value = read(text).map_err(fail)?;
        Ok(Spanned { value, span: span_of(text) })
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = raw(deserializer)?;
        Ok(Raw { text: text.to_string(), span: span_of(text) })
    }
}

/// The text of a RON string, number or bare name, and its place.
fn text_form<E: serde::de::Error>(text: &str) -> Result<(String, TextSpan), E> {
    let span = span_of(text);
    if !text.starts_with('"') && !text.starts_with("r\"") && !text.starts_with("r#") {
        return Ok((text.to_string(), TextSpan { span, exact: true }));
    }
    let value: String = read(text).map_err(fail)?;
    let exact = text.len() == value.len() + 2;
    let inner =
        if exact { Span { start: span.start + 1, end: span.end - 1, ..span } } else { span };
    Ok((value, TextSpan { span: inner, exact }))
}

fn expr_error<E: serde::de::Error>(e: crate::scalar::parse::ParseError, text: TextSpan) -> E {
    fail(FormError {
        span: text.at(&e.range),
        error: ron::Error::Message(e.message),
        code: Some(codes::EXPR_SYNTAX),
    })
}

impl<'de> Deserialize<'de> for ConstForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (value, text) = text_form(raw(deserializer)?)?;
        let expr = parse(&value).map_err(|e| expr_error::<D::Error>(e, text))?;
        Ok(ConstForm { expr, text })
    }
}

impl<'de> Deserialize<'de> for MappingForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let slice = raw(deserializer)?;
        if !slice.starts_with('"') {
            return Err(D::Error::custom("expected an expression in quotes"));
        }
        let (value, text) = text_form(slice)?;
        let mapping = parse_mapping(&value).map_err(|e| expr_error::<D::Error>(e, text))?;
        Ok(MappingForm { mapping, text })
    }
}

/// Dimension words in RON: `"b s d"`.
#[derive(Clone, Debug, PartialEq)]
pub struct WordsForm {
    /// The words.
    pub words: Vec<Word>,
    /// Their place between the quotes.
    pub text: TextSpan,
}

impl<'de> Deserialize<'de> for WordsForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let slice = raw(deserializer)?;
        if !slice.starts_with('"') {
            return Err(D::Error::custom("expected dimension words in quotes"));
        }
        let (value, text) = text_form(slice)?;
        let words = parse_words(&value).map_err(|e| expr_error::<D::Error>(e, text))?;
        Ok(WordsForm { words, text })
    }
}

/// A map whose keys keep their places and order; a repeated key is an error.
#[derive(Clone, Debug, PartialEq)]
pub struct SpannedMap<T> {
    /// Entries in the order written.
    pub entries: Vec<(Spanned<String>, T)>,
}

impl<T> Default for SpannedMap<T> {
    fn default() -> Self {
        SpannedMap { entries: Vec::new() }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for SpannedMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = SpannedMap<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(Spanned<String>, T)> = Vec::new();
                let mut seen = BTreeMap::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    if seen.insert(key.value.clone(), ()).is_some() {
                        let message = format!("key `{}` stands twice", key.value);
                        return Err(fail(FormError {
                            span: key.span,
                            error: ron::Error::Message(message),
                            code: None,
                        }));
                    }
                    let value = map.next_value()?;
                    entries.push((key, value));
                }
                Ok(SpannedMap { entries })
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::scalar::parse::ExprKind;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[serde(rename = "Toy")]
    struct Toy(MappingForm, Vec<Spanned<String>>, #[serde(default)] SpannedMap<DimForm>);

    fn text_at(text: &str, span: Span) -> &str {
        &text[span.start as usize..span.end as usize]
    }

    #[test]
    fn spans_are_exact_through_nested_slices() {
        let file = "[ /* é */ (\"n\", Toy(\"a[b] + c\", [\"x\", \n \"yy\"], {\"j\": \"2 * k\", \"i\": d})) ]";
        let nodes: Vec<(Spanned<String>, Raw)> = parse_file(SourceId(0), file).expect("valid");
        let (name, node) = &nodes[0];
        assert_eq!(text_at(file, name.span), "\"n\"");
        assert_eq!(node.head().map(|h| text_at(file, h.span).to_string()), Some("Toy".into()));
        let toy: Toy = node.parse().expect("valid");
        assert_eq!(text_at(file, toy.1[1].span), "\"yy\"");
        let mut seen = Vec::new();
        toy.0.mapping.expr.names(&mut |n, _, r| seen.push((n, text_at(file, toy.0.text.at(r)))));
        assert_eq!(seen, [("a", "a[b]"), ("c", "c")]);
        assert_eq!(text_at(file, toy.2.entries[0].0.span), "\"j\"");
        assert_eq!(text_at(file, toy.2.entries[0].1.text.span), "2 * k");
        assert!(matches!(toy.2.entries[1].1.expr.kind, ExprKind::Name { .. }));
    }

    #[test]
    fn trailing_fields_of_a_tuple_form_may_be_left_out() {
        let toy: Toy = parse_file(SourceId(0), "Toy(\"a\", [])").expect("valid");
        assert!(toy.2.entries.is_empty());
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    #[serde(rename = "Cut")]
    struct Cut {
        x: String,
        #[serde(default)]
        dim: u64,
    }

    #[test]
    fn a_form_is_read_with_named_or_positional_fields() {
        let cut = |text: &str| {
            let end = text.len() as u32;
            let span = Span { source: SourceId(0), start: 0, end };
            Raw { text: text.to_string(), span }.form::<Cut>()
        };
        let want = Cut { x: "q".into(), dim: 2 };
        assert_eq!(cut("Cut(\"q\", 2)").expect("positional"), want);
        assert_eq!(cut("Cut(\"q\", dim: 2)").expect("mixed"), want);
        assert_eq!(cut("Cut( /* c */ x: \"q\", dim: 2)").expect("named"), want);
        assert_eq!(cut("Cut(\"q\")").expect("short").dim, 0);
        assert_eq!(cut("Cut(x: \"q\")").expect("short").dim, 0);
        assert!(cut("Cut(\"q\", x: \"q\")").is_err());
        assert!(cut("Cut(\"q\", 2, 3)").is_err());
        assert!(cut("Cut(x: \"q\", dm: 2)").is_err());
        assert!(cut("Cat(\"q\")").is_err());
    }

    #[test]
    fn errors_name_the_innermost_place() {
        let file = "[(\"n\", Toy(\"a + \", [\"x\"]))]";
        let nodes: Vec<(Spanned<String>, Raw)> = parse_file(SourceId(0), file).expect("valid");
        let error = nodes[0].1.parse::<Toy>().expect_err("bad expression");
        assert_eq!(error.code, Some(codes::EXPR_SYNTAX));
        assert_eq!(error.span.start as usize, file.find("\", [\"x").expect("there"));

        let file = "Toy(\"a\", [3])";
        let error = parse_file::<Toy>(SourceId(0), file).expect_err("not a string");
        assert_eq!(error.span.start, 10);

        let file = "Toy(\"a\", [], {\"j\": 1, \"j\": 2})";
        let error = parse_file::<Toy>(SourceId(0), file).expect_err("duplicate key");
        assert_eq!(error.span.start, 22);
    }
}
