//! Documentation comments read from Rust sources, so that a page says what the code says.

use std::fs;

use syn::{
    Attribute, Expr, Fields, GenericArgument, Item, Lit, Meta, PathArguments, Type, Visibility,
};

use crate::markdown::root;

/// A field of a struct or a case of an enum.
pub(crate) struct Member {
    /// Its name in Rust.
    pub(crate) name: String,
    /// Its documentation.
    pub(crate) doc: String,
    /// Its type, of a field.
    pub(crate) ty: Option<Type>,
    /// Number given to a case.
    pub(crate) number: Option<String>,
    /// Whether serde has a default for it.
    pub(crate) has_default: bool,
}

/// A Rust file.
pub(crate) struct Source {
    path: String,
    file: syn::File,
}

impl Source {
    /// Reads a file by its path from the root.
    pub(crate) fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path));
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        Source { path: path.to_owned(), file }
    }

    /// What the file says of itself.
    pub(crate) fn header(&self) -> String {
        doc(&self.file.attrs)
    }

    /// Names of the public types, in order.
    pub(crate) fn types(&self) -> Vec<String> {
        let public = |vis: &Visibility| matches!(vis, Visibility::Public(_));
        let names = self.file.items.iter().filter_map(|item| match item {
            Item::Struct(item) if public(&item.vis) => Some(item.ident.to_string()),
            Item::Enum(item) if public(&item.vis) => Some(item.ident.to_string()),
            _ => None,
        });
        names.collect()
    }

    /// Documentation of a type.
    pub(crate) fn doc(&self, name: &str) -> String {
        let attrs = self.file.items.iter().find_map(|item| match item {
            Item::Struct(item) if item.ident == name => Some(&item.attrs),
            Item::Enum(item) if item.ident == name => Some(&item.attrs),
            _ => None,
        });
        doc(attrs.unwrap_or_else(|| panic!("{}: no type `{name}`", self.path)))
    }

    /// Fields of a struct or cases of an enum, in order.
    pub(crate) fn members(&self, name: &str) -> Vec<Member> {
        let found = self.file.items.iter().find_map(|item| match item {
            Item::Struct(item) if item.ident == name => Some(fields(&item.fields)),
            Item::Enum(item) if item.ident == name => {
                Some(item.variants.iter().map(case).collect())
            }
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{}: no type `{name}`", self.path))
    }

    /// The texts of a constant list of strings.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let found = self.file.items.iter().find_map(|item| match item {
            Item::Const(item) if item.ident == name => Some(texts(&item.expr)),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{}: no constant `{name}`", self.path))
    }
}

fn fields(fields: &Fields) -> Vec<Member> {
    let member = |field: &syn::Field| Member {
        name: field.ident.as_ref().map(ToString::to_string).unwrap_or_default(),
        doc: doc(&field.attrs),
        ty: Some(field.ty.clone()),
        number: None,
        has_default: field.attrs.iter().any(is_serde_default),
    };
    fields.iter().map(member).collect()
}

fn case(variant: &syn::Variant) -> Member {
    let number = variant.discriminant.as_ref().and_then(|(_, value)| match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => Some(number.to_string()),
            _ => None,
        },
        _ => None,
    });
    let name = variant.ident.to_string();
    Member { name, doc: doc(&variant.attrs), ty: None, number, has_default: false }
}

fn is_serde_default(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    list.path.is_ident("serde") && list.tokens.to_string().starts_with("default")
}

fn texts(expr: &Expr) -> Vec<String> {
    match expr {
        Expr::Reference(reference) => texts(&reference.expr),
        Expr::Array(array) => array.elems.iter().flat_map(texts).collect(),
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => vec![text.value()],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The text of `///` and `//!` comments.
fn doc(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> =
        lines.map(|l| l.strip_prefix(' ').map_or(l.clone(), str::to_owned)).collect();
    lines.join("\n")
}

/// The last word of a path type and its first argument: `Option<WordsForm>` as (`Option`, ..).
pub(crate) fn head(ty: &Type) -> (String, Option<&Type>) {
    let Type::Path(path) = ty else { return (String::new(), None) };
    let Some(last) = path.path.segments.last() else { return (String::new(), None) };
    let argument = match &last.arguments {
        PathArguments::AngleBracketed(list) => list.args.iter().find_map(|a| match a {
            GenericArgument::Type(ty) => Some(ty),
            _ => None,
        }),
        _ => None,
    };
    (last.ident.to_string(), argument)
}
