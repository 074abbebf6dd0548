//! A program from the text of its MLIR module.
//!
//! # Invariants
//! - `read(print(p))` is the [normal form](super::normal) of `p`, locations included.
//! - Text is untrusted: its nesting is bounded before MLIR's recursive parser sees it, MLIR
//!   verifies it, only the ops that [`print`](super::print) writes are accepted, and the program
//!   is [verified](super::verify) before it is returned.

mod body;
mod kernel;

use std::collections::HashMap;
use std::fmt;

use melior::ir::attribute::{
    ArrayAttribute, AttributeLike, DictionaryAttribute, FlatSymbolRefAttribute, FloatAttribute,
    IntegerAttribute, StringAttribute,
};
use melior::ir::operation::OperationLike;
use melior::ir::{
    Attribute, BlockLike, BlockRef, Location, OperationRef, RegionLike, Value, ValueLike,
};

use perilune_plan::{Machine, Only, Shard};

use super::normal::canonical_bits;
use super::verify::verify;
use super::{
    ArgKind, Call, Decision, EntryArg, EntryFn, EntryResult, Kernel, Layout, Place, Program,
    Reason, ResultTarget, Rule, Slot,
};
use crate::mlir::Mlir;
use crate::types::{DType, Type};

/// Brackets a text may nest.
const MAX_DEPTH: usize = 64;
/// Bytes an affine map may have, up to its closing bracket.
const MAX_MAP_BYTES: usize = 4096;
/// Bytes a text may have.
const MAX_BYTES: usize = 1 << 30;

/// Why a text is not a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// What is wrong, with the op where there is one.
    pub message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

type Result<T> = std::result::Result<T, ReadError>;
type Op<'c, 'a> = OperationRef<'c, 'a>;

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(ReadError { message: message.into() })
}

/// Reads a program.
///
/// # Errors
/// When MLIR refuses the text or it is not a program.
pub fn read(mlir: &Mlir, text: &str) -> Result<Program> {
    check_depth(text)?;
    let wrap = |e: crate::diagnostic::InternalError| ReadError { message: e.message };
    mlir.load_dialect().map_err(wrap)?;
    let module = mlir.parse("read", text).map_err(wrap)?;
    let mut program = Program::default();
    if let Ok(name) = module.as_operation().attribute("perilune.name") {
        program.name = string(name)?;
    }
    if let Ok(mesh) = module.as_operation().attribute("perilune.mesh") {
        program.mesh = string(mesh)?.parse().map_err(|message| ReadError { message })?;
    }
    if let Ok(machine) = module.as_operation().attribute("perilune.machine") {
        let machine = Machine::from_ron(&string(machine)?);
        program.machine = Some(machine.map_err(|message| ReadError { message })?);
    }
    let mut numbers: HashMap<String, u32> = HashMap::new();
    for op in operations(module.body()) {
        if name(op)? != "func.func" {
            return refuse(format!("`{}` outside a function", name(op)?));
        }
        let symbol = string(attribute(op, "sym_name")?)?;
        if op.has_attribute("sym_visibility") {
            numbers.insert(symbol.clone(), program.kernels.len() as u32);
            program.kernels.push(kernel::read(op, symbol)?);
        } else {
            program.entries.push(entry(op, symbol, &numbers, &program.kernels)?);
        }
    }
    verify(&program).map_err(|e| ReadError { message: e.message })?;
    Ok(program)
}

/// MLIR's parser recurses without a bound, into brackets and along affine expressions: refuse what
/// would overflow its stack.
pub(crate) fn check_depth(text: &str) -> Result<()> {
    if text.len() > MAX_BYTES {
        return refuse(format!("text of {} bytes; the limit is {MAX_BYTES}", text.len()));
    }
    let bytes = text.as_bytes();
    let (mut depth, mut i) = (0usize, 0);
    while let Some(byte) = bytes.get(i) {
        match byte {
            b'"' => i = end_of_string(bytes, i),
            b'/' if bytes.get(i + 1) == Some(&b'/') => i = end_of_line(bytes, i),
            b'a' if bytes[i..].starts_with(b"affine") => check_affine(bytes, i)?,
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b'>' if i > 0 && bytes[i - 1] == b'-' => {}
            b')' | b']' | b'}' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return refuse(format!("brackets nest more than {MAX_DEPTH} deep"));
        }
        i += 1;
    }
    Ok(())
}

/// Where the string that begins at `start` ends: at its closing quote, or with its line.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while let Some(byte) = bytes.get(i) {
        match byte {
            b'"' | b'\n' => break,
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    i
}

fn end_of_line(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| start + n)
}

/// A map or set is short; the affine dialect, whose ops hold expressions of any length, is not used.
fn check_affine(bytes: &[u8], at: usize) -> Result<()> {
    let rest = &bytes[at..];
    let named = at > 0 && (bytes[at - 1] == b'@' || is_word(bytes[at - 1]));
    if rest.starts_with(b"affine.") && !named {
        return refuse("an op of the affine dialect");
    }
    let is_map = rest.starts_with(b"affine_map") || rest.starts_with(b"affine_set");
    let closes =
        |n: &usize| rest[*n] == b'>' && rest[n - 1] != b'-' && rest.get(n + 1) != Some(&b'=');
    let length = (1..rest.len().min(MAX_MAP_BYTES)).find(closes);
    if is_map && length.is_none() {
        return refuse(format!("an affine map of more than {MAX_MAP_BYTES} bytes"));
    }
    Ok(())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$')
}

/// The operations of a block, its terminator included.
fn operations<'c, 'a>(block: BlockRef<'c, 'a>) -> Vec<Op<'c, 'a>> {
    let mut all = Vec::new();
    let mut next = block.first_operation();
    while let Some(op) = next {
        all.push(op);
        next = op.next_in_block();
    }
    all
}

/// The only block of an op's only region.
fn block<'c, 'a>(op: Op<'c, 'a>) -> Result<BlockRef<'c, 'a>> {
    let region = op.region(0).map_err(|e| ReadError { message: e.to_string() })?;
    match region.first_block() {
        Some(block) if block.next_in_region().is_none() => Ok(block),
        _ => refuse(format!("`{}` without exactly one block", name(op)?)),
    }
}

fn name(op: Op<'_, '_>) -> Result<String> {
    let identifier = op.name();
    text(identifier.as_string_ref().to_raw())
}

fn attribute<'c>(op: Op<'c, '_>, attribute: &str) -> Result<Attribute<'c>> {
    match op.attribute(attribute) {
        Ok(a) => Ok(a),
        Err(_) => refuse(format!("`{}` without `{attribute}`", name(op)?)),
    }
}

/// The value of a string attribute.
pub(crate) fn string(attribute: Attribute<'_>) -> Result<String> {
    match StringAttribute::try_from(attribute) {
        // SAFETY: it is a string attribute, alive as long as its context.
        Ok(_) => text(unsafe { mlir_sys::mlirStringAttrGetValue(attribute.to_raw()) }),
        Err(e) => refuse(e.to_string()),
    }
}

/// A string of MLIR. melior reads the last byte of every string, the empty one included, and takes
/// UTF-8 for granted.
fn text(raw: mlir_sys::MlirStringRef) -> Result<String> {
    if raw.length == 0 {
        return Ok(String::new());
    }
    // SAFETY: the reference came from an attribute or identifier of a live context, which owns its
    // `length` bytes; they are copied before this returns.
    let bytes = unsafe { std::slice::from_raw_parts(raw.data.cast::<u8>(), raw.length) };
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => refuse(format!("a string that is not UTF-8: {e}")),
    }
}

/// f64 bits of a scalar attribute.
fn scalar(value: Attribute<'_>) -> Result<u64> {
    let text = value.r#type().to_string();
    let ty = dtype(&text)?;
    if ty.is_float() {
        let value = FloatAttribute::try_from(value);
        let value = value.map_err(|e| ReadError { message: e.to_string() })?.value();
        return Ok(canonical_bits(value, ty));
    }
    Ok(canonical_bits(integer(value)? as f64, ty))
}

fn integer(attribute: Attribute<'_>) -> Result<i64> {
    match IntegerAttribute::try_from(attribute) {
        Ok(n) => Ok(n.value()),
        Err(e) => refuse(e.to_string()),
    }
}

fn unsigned(attribute: Attribute<'_>) -> Result<u64> {
    u64::try_from(integer(attribute)?).map_err(|e| ReadError { message: e.to_string() })
}

fn array(attribute: Attribute<'_>) -> Result<Vec<Attribute<'_>>> {
    let Ok(array) = ArrayAttribute::try_from(attribute) else { return refuse("expected an array") };
    (0..array.len())
        .map(|i| array.element(i).map_err(|e| ReadError { message: e.to_string() }))
        .collect()
}

/// Identity of an MLIR value.
fn key<'c>(value: impl ValueLike<'c>) -> usize {
    value.to_raw().ptr as usize
}

fn operand<'c, 'a>(op: Op<'c, 'a>, n: usize) -> Result<Value<'c, 'a>> {
    op.operand(n).map_err(|e| ReadError { message: e.to_string() })
}

fn operand_key(op: Op<'_, '_>, n: usize) -> Result<usize> {
    Ok(key(operand(op, n)?))
}

fn result_key(op: Op<'_, '_>, n: usize) -> Result<usize> {
    op.result(n).map(key).map_err(|e| ReadError { message: e.to_string() })
}

fn dtype(text: &str) -> Result<DType> {
    Ok(match text {
        "f64" => DType::f64,
        "f32" => DType::f32,
        "bf16" => DType::bf16,
        "f16" => DType::f16,
        "i32" => DType::i32,
        "i1" => DType::i1,
        _ => return refuse(format!("type `{text}` is not known")),
    })
}

/// Type of a tensor value.
fn tensor<'c>(value: impl ValueLike<'c>) -> Result<Type> {
    tensor_type(&value.r#type().to_string())
}

fn tensor_type(text: &str) -> Result<Type> {
    let inner = text.strip_prefix("tensor<").and_then(|t| t.strip_suffix('>'));
    let Some(inner) = inner else { return refuse(format!("`{text}` is not a tensor")) };
    let mut shape = Vec::new();
    let mut rest = inner;
    while let Some((extent, tail)) = rest.split_once('x') {
        let Ok(extent) = extent.parse::<u64>() else {
            return refuse(format!("`{text}` is not of static extents"));
        };
        shape.push(extent);
        rest = tail;
    }
    let ty = Type { dtype: dtype(rest)?, shape };
    match ty.checked_bytes() {
        Some(_) => Ok(ty),
        None => refuse(format!("`{text}` is larger than 2^60 bytes")),
    }
}

fn results(op: Op<'_, '_>) -> Result<Vec<Type>> {
    op.results().map(tensor).collect()
}

/// An attribute of a function's `n`-th argument or result.
fn nth<'c>(op: Op<'c, '_>, list: &str, n: usize, wanted: &str) -> Result<Option<Attribute<'c>>> {
    let Ok(list) = op.attribute(list) else { return Ok(None) };
    let Some(item) = array(list)?.get(n).copied() else { return Ok(None) };
    let Ok(dictionary) = DictionaryAttribute::try_from(item) else { return Ok(None) };
    Ok(dictionary.element_by_name(wanted))
}

fn entry(
    op: Op<'_, '_>,
    name: String,
    numbers: &HashMap<String, u32>,
    kernels: &[Kernel],
) -> Result<EntryFn> {
    let mut entry = EntryFn { name, ..EntryFn::default() };
    let block = block(op)?;
    let mut slots: HashMap<usize, Slot> = HashMap::new();
    for i in 0..block.argument_count() {
        let value = block.argument(i).map_err(|e| ReadError { message: e.to_string() })?;
        slots.insert(key(value), Slot(i as u32));
        entry.args.push(entry_arg(op, i, tensor(value)?)?);
    }
    let arena = op.attribute("perilune.arena_bytes").ok().map(unsigned).transpose()?;
    let mut places: Vec<Place> = (0..entry.args.len() as u32).map(Place::Arg).collect();
    for inner in operations(block) {
        match self::name(inner)?.as_str() {
            "func.call" => {
                let call = call(inner, (numbers, kernels), &mut slots)?;
                if arena.is_some() {
                    places.extend(call_places(inner)?);
                }
                entry.calls.push(call);
            }
            "func.return" => {
                for n in 0..inner.operand_count() {
                    let value = slot(&slots, inner, n)?;
                    let (target, shard) = (target(op, n)?, shard(op, "res_attrs", n)?);
                    entry.results.push(EntryResult { value, target, shard });
                }
            }
            other => return refuse(format!("`{other}` in an entry")),
        }
    }
    entry.layout = arena.map(|arena_bytes| Layout { places, arena_bytes });
    Ok(entry)
}

fn entry_arg(op: Op<'_, '_>, n: usize, ty: Type) -> Result<EntryArg> {
    let text = |wanted: &str| -> Result<String> {
        match nth(op, "arg_attrs", n, wanted)? {
            Some(value) => string(value),
            None => refuse(format!("argument {n} of an entry without `{wanted}`")),
        }
    };
    let kinds = [ArgKind::Param, ArgKind::Buffer, ArgKind::State, ArgKind::Feed];
    let kind = text("perilune.kind")?;
    match kinds.into_iter().find(|k| super::print::kind_name(*k) == kind) {
        Some(kind) => {
            let shard = shard(op, "arg_attrs", n)?;
            let owner = nth(op, "arg_attrs", n, "perilune.only")?.map(only).transpose()?;
            Ok(EntryArg { name: text("perilune.name")?, ty, kind, shard, owner })
        }
        None => refuse(format!("argument kind `{kind}` is not known")),
    }
}

/// How an argument or a result is cut.
fn shard(op: Op<'_, '_>, list: &str, n: usize) -> Result<Option<Shard>> {
    let text = nth(op, list, n, "perilune.shard")?.map(string).transpose()?;
    text.map(|t| t.parse().map_err(|message| ReadError { message })).transpose()
}

/// The ranks that something is for.
fn only(attribute: Attribute<'_>) -> Result<Only> {
    string(attribute)?.parse().map_err(|message| ReadError { message })
}

fn target(op: Op<'_, '_>, n: usize) -> Result<ResultTarget> {
    if let Some(name) = nth(op, "res_attrs", n, "perilune.update")? {
        return Ok(ResultTarget::Update(string(name)?));
    }
    match nth(op, "res_attrs", n, "perilune.fetch")? {
        Some(name) => Ok(ResultTarget::Fetch(string(name)?)),
        None => refuse(format!("result {n} of an entry has no target")),
    }
}

fn slot(slots: &HashMap<usize, Slot>, op: Op<'_, '_>, n: usize) -> Result<Slot> {
    match slots.get(&operand_key(op, n)?) {
        Some(slot) => Ok(*slot),
        None => refuse("a value of another function"),
    }
}

fn call(
    op: Op<'_, '_>,
    (numbers, kernels): (&HashMap<String, u32>, &[Kernel]),
    slots: &mut HashMap<usize, Slot>,
) -> Result<Call> {
    let callee = FlatSymbolRefAttribute::try_from(attribute(op, "callee")?)
        .map_err(|e| ReadError { message: e.to_string() })?;
    // SAFETY: it is a flat symbol reference, alive as long as its context.
    let callee = text(unsafe { mlir_sys::mlirFlatSymbolRefAttrGetValue(callee.to_raw()) })?;
    let Some(kernel) = numbers.get(&callee) else {
        return refuse(format!("`{callee}` is not a kernel written above its call"));
    };
    if kernels[*kernel as usize].results.len() != op.result_count() {
        return refuse(format!("a call of `{callee}` has other results"));
    }
    let args = (0..op.operand_count()).map(|n| slot(slots, op, n)).collect::<Result<_>>()?;
    let first_result = Slot(slots.len() as u32);
    for n in 0..op.result_count() {
        slots.insert(result_key(op, n)?, Slot(first_result.0 + n as u32));
    }
    let epilogue = op.attribute("perilune.epilogue").ok().map(unsigned).transpose()?;
    let only = op.attribute("perilune.only").ok().map(only).transpose()?;
    let until = op.attribute("perilune.until").ok().map(unsigned).transpose()?;
    let until = until.map(|call| call as u32);
    let nodes = nodes(op.location())?;
    let decisions = match op.attribute("perilune.fusion") {
        Ok(list) => array(list)?.into_iter().map(decision).collect::<Result<_>>()?,
        Err(_) => Vec::new(),
    };
    Ok(Call { kernel: *kernel, args, first_result, nodes, epilogue, only, until, decisions })
}

fn decision(attribute: Attribute<'_>) -> Result<Decision> {
    let Ok(fields) = DictionaryAttribute::try_from(attribute) else {
        return refuse("a decision is a dictionary");
    };
    let field = |name: &str| match fields.element_by_name(name) {
        Some(value) => Ok(value),
        None => refuse(format!("a decision without `{name}`")),
    };
    let (code, rule) = (string(field("code")?)?, string(field("rule")?)?);
    let Some(reason) = Reason::ALL.iter().copied().find(|r| r.code() == code) else {
        return refuse(format!("reason `{code}` is not known"));
    };
    let Some(rule) = Rule::ALL.iter().copied().find(|r| r.name() == rule) else {
        return refuse(format!("rule `{rule}` is not known"));
    };
    let (from, to) = (string(field("from")?)?, string(field("to")?)?);
    let (bytes, rows) = (unsigned(field("bytes")?)?, unsigned(field("rows")?)?);
    Ok(Decision { rule, reason, from, to, bytes, rows })
}

fn call_places(op: Op<'_, '_>) -> Result<Vec<Place>> {
    let place = |a: Attribute<'_>| -> Result<Place> {
        let text = string(a)?;
        let place = text.split_once(' ').and_then(|(kind, n)| match kind {
            "arena" => n.parse().ok().map(Place::Arena),
            "arg" => n.parse().ok().map(Place::Arg),
            _ => None,
        });
        place.ok_or_else(|| ReadError { message: format!("place `{text}` is not known") })
    };
    let places = array(attribute(op, "perilune.places")?)?;
    if places.len() != op.result_count() {
        return refuse("a call has other results than places");
    }
    places.into_iter().map(place).collect()
}

/// Node paths of a location.
fn nodes(location: Location<'_>) -> Result<Vec<String>> {
    if location.is_name() {
        return text(location.name_value().as_string_ref().to_raw()).map(|name| vec![name]);
    }
    if location.is_fused() {
        let all = (0..location.fused_num_locations()).map(|i| nodes(location.fused_location(i)));
        return Ok(all.collect::<Result<Vec<_>>>()?.concat());
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_text_never_reaches_the_parser() {
        let deep = "[".repeat(1_000_000);
        assert!(check_depth(&deep).is_err());
        assert!(check_depth(&format!("\"{deep}\"")).is_ok(), "inside a string");
        assert!(check_depth(&"(i32) -> i32 ".repeat(1000)).is_ok());
        let after_escape = format!("{{a = \"\\\\\", b = {deep}");
        assert!(check_depth(&after_escape).is_err(), "the backslash is escaped, the quote is not");
        assert!(check_depth(&format!("{{a = \"\\\"{deep}\"}}")).is_ok(), "the quote is escaped");
    }

    #[test]
    fn long_affine_expressions_never_reach_the_parser() {
        assert!(check_depth("affine_map<(d0, d1) -> (d1, d0)>").is_ok());
        assert!(check_depth("affine_set<(d0) : (d0 - 1 >= 0)>").is_ok());
        for sign in ["- ", "d0 + "] {
            let long = format!("affine_map <(d0) -> ({}d0)>", sign.repeat(100_000));
            assert!(check_depth(&long).is_err_and(|e| e.message.contains("affine map")));
        }
        assert!(check_depth("affine.load %m[%i]").is_err());
        assert!(check_depth("func.call @affine.load() // affine.load").is_ok());
    }

    #[test]
    fn a_tensor_that_no_memory_holds_is_refused() {
        assert!(tensor_type("tensor<0x7xbf16>").is_ok_and(|ty| ty.shape == [0, 7]));
        for bad in ["tensor<9223372036854775807xf32>", "tensor<4294967296x4294967296xi1>"] {
            assert!(tensor_type(bad).is_err_and(|e| e.message.contains("2^60")), "{bad}");
        }
    }
}
