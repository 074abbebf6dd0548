//! Every MLIR operation of the loops stage, to CLIF.
//!
//! # Invariants
//! - The match over operation names is the whole set; a new operation needs an arm.
//! - What Cranelift has no vector instruction for is done lane by lane.

use melior::ir::attribute::AttributeLike;
use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, BlockRef, OperationRef, RegionLike, Value, ValueLike};

use super::builder::{Builder, Elem, Name, Shape, hex_f64, key};
use super::error;
use crate::diagnostic::InternalError;

type Done = Result<(), InternalError>;
type Op<'c, 'a> = OperationRef<'c, 'a>;

/// The operations of a block, its terminator excepted.
pub(super) fn block(b: &mut Builder, block: BlockRef<'_, '_>) -> Done {
    let mut next = block.first_operation();
    while let Some(op) = next {
        operation(b, op)?;
        next = op.next_in_block();
    }
    Ok(())
}

fn operation(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let identifier = op.name();
    let name = identifier.as_string_ref().as_str().map_err(|e| error(e.to_string()))?;
    match name {
        "func.return" => {
            b.push("return");
            Ok(())
        }
        "scf.yield" => Ok(()),
        "scf.for" => scf_for(b, op),
        "scf.if" => scf_if(b, op),
        "arith.constant" => constant(b, op),
        "ub.poison" => poison(b, op),
        "memref.alloca" => alloca(b, op),
        "memref.load" | "vector.load" => load(b, op),
        "memref.store" | "vector.store" => store(b, op),
        "vector.broadcast" => broadcast(b, op),
        "vector.extract" => extract(b, op),
        "vector.from_elements" => from_elements(b, op),
        "arith.addf" | "arith.subf" | "arith.mulf" => contractible(b, op, name),
        "arith.divf" => plain(b, op, "fdiv"),
        "arith.maximumf" => plain(b, op, "fmax"),
        "arith.minimumf" => plain(b, op, "fmin"),
        "arith.remf" => remainder(b, op),
        "arith.negf" => plain(b, op, "fneg"),
        "math.absf" => plain(b, op, "fabs"),
        "math.sqrt" => plain(b, op, "sqrt"),
        "math.floor" => plain(b, op, "floor"),
        "math.rsqrt" => rsqrt(b, op),
        "math.exp" | "math.log" | "math.tanh" | "math.sin" | "math.cos" | "math.powf" => {
            transcendental(b, op, name)
        }
        "arith.addi" => addi(b, op),
        "arith.subi" => plain(b, op, "isub"),
        "arith.muli" => plain(b, op, "imul"),
        "arith.andi" => plain(b, op, "band"),
        "arith.ori" => plain(b, op, "bor"),
        "arith.xori" => plain(b, op, "bxor"),
        "arith.maxsi" => plain(b, op, "smax"),
        "arith.minsi" => plain(b, op, "smin"),
        "arith.maxui" => plain(b, op, "umax"),
        "arith.minui" => plain(b, op, "umin"),
        "arith.divsi" => lanewise(b, op, "sdiv"),
        "arith.divui" => lanewise(b, op, "udiv"),
        "arith.remsi" => lanewise(b, op, "srem"),
        "arith.remui" => lanewise(b, op, "urem"),
        "arith.shli" => lanewise(b, op, "ishl"),
        "arith.shrui" => lanewise(b, op, "ushr"),
        "arith.shrsi" => lanewise(b, op, "sshr"),
        "arith.mului_extended" => mul_extended(b, op),
        "arith.cmpi" => compare(b, op, "icmp", &INTEGER_PREDICATES),
        "arith.cmpf" => compare(b, op, "fcmp", &FLOAT_PREDICATES),
        "arith.select" => select(b, op),
        "arith.index_cast" | "arith.extsi" | "arith.extui" | "arith.trunci"
        | "arith.index_castui" => convert_integer(b, op, name),
        "arith.sitofp" | "arith.uitofp" | "arith.fptosi" | "arith.extf" | "arith.truncf" => {
            convert_float(b, op, name)
        }
        _ => Err(error(format!("operation `{name}` has no CLIF"))),
    }
}

/// `cmpi` predicates by number.
const INTEGER_PREDICATES: [&str; 10] =
    ["eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge"];
/// `cmpf` predicates by number; the first and last are constant and never written.
const FLOAT_PREDICATES: [&str; 16] = [
    "", "eq", "gt", "ge", "lt", "le", "one", "ord", "ueq", "ugt", "uge", "ult", "ule", "ne", "uno",
    "",
];

fn operand<'c, 'a>(op: Op<'c, 'a>, i: usize) -> Result<Value<'c, 'a>, InternalError> {
    op.operand(i).map_err(|e| error(e.to_string()))
}

fn result<'c, 'a>(op: Op<'c, 'a>, i: usize) -> Result<Value<'c, 'a>, InternalError> {
    op.result(i).map(Value::from).map_err(|e| error(e.to_string()))
}

fn name_of(b: &Builder, value: Value<'_, '_>) -> Result<Name, InternalError> {
    b.name(key(value)).cloned().ok_or_else(|| error(format!("value without a name: {value}")))
}

fn arg(b: &Builder, op: Op<'_, '_>, i: usize) -> Result<Name, InternalError> {
    name_of(b, operand(op, i)?)
}

fn shape_of(value: Value<'_, '_>) -> Result<Shape, InternalError> {
    let ty = value.r#type().to_string();
    Shape::parse(&ty).ok_or_else(|| error(format!("type `{ty}` has no CLIF")))
}

fn attribute(op: Op<'_, '_>, name: &str) -> Result<String, InternalError> {
    op.attribute(name).map(|a| a.to_string()).map_err(|e| error(e.to_string()))
}

fn contracts(op: Op<'_, '_>) -> bool {
    op.attribute("fastmath").is_ok_and(|a| a.to_string().contains("contract"))
}

fn plain(b: &mut Builder, op: Op<'_, '_>, instruction: &str) -> Done {
    let args: Result<Vec<Name>, _> = (0..op.operand_count()).map(|i| arg(b, op, i)).collect();
    let name = b.def(&format!("{instruction} {}", args?.join(", ")));
    b.bind(result(op, 0)?, name);
    Ok(())
}

fn constant(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    let attr = op.attribute("value").map_err(|e| error(e.to_string()))?;
    let text = attr.to_string();
    let text = text.split(" : ").next().unwrap_or("").trim();
    let lanes = text.strip_prefix("dense<").and_then(|t| t.strip_suffix('>')).unwrap_or(text);
    let name = match lanes.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(list) => {
            let parts: Result<Vec<Name>, _> = list
                .split(',')
                .map(|t| scalar_constant(b, t.trim(), shape.elem, shape.vector))
                .collect();
            assemble(b, &parts?, shape.clif())
        }
        None => {
            let scalar = scalar_constant(b, lanes, shape.elem, shape.vector)?;
            match shape.vector {
                true => b.def(&format!("splat.{} {scalar}", shape.clif())),
                false => scalar,
            }
        }
    };
    if let (Ok(value), false) = (lanes.parse::<i64>(), shape.vector) {
        b.constants.insert(key(out), value);
    }
    b.bind(out, name);
    let _ = attr.r#type();
    Ok(())
}

fn scalar_constant(
    b: &mut Builder,
    text: &str,
    elem: Elem,
    mask: bool,
) -> Result<Name, InternalError> {
    let bad = || error(format!("constant `{text}` not understood"));
    let int = || text.parse::<i64>().map_err(|_| bad());
    Ok(match elem {
        Elem::F32 => {
            let value = match text.strip_prefix("0x") {
                Some(hex) => f32::from_bits(u32::from_str_radix(hex, 16).map_err(|_| bad())?),
                None => text.parse::<f64>().map_err(|_| bad())? as f32,
            };
            b.f32(value)
        }
        Elem::F64 => {
            let value = match text.strip_prefix("0x") {
                Some(hex) => f64::from_bits(u64::from_str_radix(hex, 16).map_err(|_| bad())?),
                None => text.parse::<f64>().map_err(|_| bad())?,
            };
            b.def(&format!("f64const {}", hex_f64(value)))
        }
        Elem::I1 => match (text == "true", mask) {
            (set, true) => b.def(&format!("iconst.i32 {}", -i32::from(set))),
            (set, false) => b.def(&format!("iconst.i8 {}", i32::from(set))),
        },
        Elem::Index => b.def(&format!("iconst.i64 {}", int()?)),
        Elem::I32 => b.def(&format!("iconst.i32 {}", int()?)),
        Elem::I8 => b.def(&format!("iconst.i8 {}", int()?)),
        Elem::Bf16 | Elem::F16 => {
            let bits = match text.strip_prefix("0x") {
                Some(hex) => u16::from_str_radix(hex, 16).map_err(|_| bad())?,
                None => half_bits(text.parse().map_err(|_| bad())?, elem),
            };
            b.def(&format!("iconst.i32 {bits}"))
        }
    })
}

/// The bits of a 16-bit float.
fn half_bits(value: f64, elem: Elem) -> u16 {
    match elem {
        Elem::Bf16 => half::bf16::from_f64(value).to_bits(),
        _ => half::f16::from_f64(value).to_bits(),
    }
}

fn poison(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    let scalar = match shape.elem {
        Elem::F32 => b.f32(0.0),
        Elem::F64 => b.def("f64const 0.0"),
        Elem::Index => b.def("iconst.i64 0"),
        Elem::I8 | Elem::I1 if !shape.vector => b.def("iconst.i8 0"),
        Elem::I8 | Elem::I1 | Elem::I32 | Elem::Bf16 | Elem::F16 => b.def("iconst.i32 0"),
    };
    let name = match shape.vector {
        true => b.def(&format!("splat.{} {scalar}", shape.clif())),
        false => scalar,
    };
    b.bind(out, name);
    Ok(())
}

fn assemble(b: &mut Builder, parts: &[Name], clif: &str) -> Name {
    let mut vector = b.def(&format!("splat.{clif} {}", parts[0]));
    for (k, part) in parts.iter().enumerate().skip(1) {
        vector = b.def(&format!("insertlane {vector}, {part}, {k}"));
    }
    vector
}

fn lane(b: &mut Builder, vector: &Name, k: usize) -> Name {
    b.def(&format!("extractlane {vector}, {k}"))
}

fn memref_elem(value: Value<'_, '_>) -> Result<(u64, Elem), InternalError> {
    let ty = value.r#type().to_string();
    ty.strip_prefix("memref<")
        .and_then(|t| t.strip_suffix('>'))
        .and_then(|t| t.split_once('x'))
        .and_then(|(n, e)| Some((n.parse().ok()?, Elem::parse(e)?)))
        .ok_or_else(|| error(format!("memory type `{ty}` has no CLIF")))
}

fn alloca(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let out = result(op, 0)?;
    let (elems, elem) = memref_elem(out)?;
    let address = b.stack((elems * elem.bytes()).max(1));
    b.bind(out, address);
    Ok(())
}

/// Address and byte offset of an element; a constant in the index goes into the offset.
fn address(
    b: &mut Builder,
    memory: Value<'_, '_>,
    index: Value<'_, '_>,
) -> Result<(String, Elem), InternalError> {
    let (_, elem) = memref_elem(memory)?;
    let base = name_of(b, memory)?;
    let bytes = elem.bytes() as i64;
    if let Some(c) = b.constants.get(&key(index)) {
        return Ok((offset(&base, c * bytes), elem));
    }
    let (index, constant) = match b.sums.get(&key(index)) {
        Some((rest, c)) => (rest.clone(), *c),
        None => (name_of(b, index)?, 0),
    };
    let scaled = match bytes {
        1 => index,
        _ => {
            let by = b.def(&format!("iconst.i64 {}", bytes.trailing_zeros()));
            b.two("ishl", &index, &by)
        }
    };
    let address = b.two("iadd", &base, &scaled);
    Ok((offset(&address, constant * bytes), elem))
}

fn offset(address: &str, bytes: i64) -> String {
    match bytes {
        0 => address.to_string(),
        _ => format!("{address}{bytes:+}"),
    }
}

fn load(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let out = result(op, 0)?;
    let (at, elem) = address(b, operand(op, 0)?, operand(op, 1)?)?;
    let vector = shape_of(out)?.vector;
    let name = match (elem, vector) {
        (Elem::Bf16 | Elem::F16, true) => b.def(&format!("uload16x4 notrap {at}")),
        (Elem::Bf16 | Elem::F16, false) => b.def(&format!("uload16.i32 notrap {at}")),
        (Elem::I8 | Elem::I1 | Elem::Index, true) => {
            return Err(error("a vector load of bytes or indices"));
        }
        (_, _) => b.def(&format!("load.{} notrap {at}", Shape { elem, vector }.clif())),
    };
    b.bind(out, name);
    Ok(())
}

fn store(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let value = operand(op, 0)?;
    let name = name_of(b, value)?;
    let (at, elem) = address(b, operand(op, 1)?, operand(op, 2)?)?;
    match (elem, shape_of(value)?.vector) {
        (Elem::Bf16 | Elem::F16, true) => {
            let packed = b.two("unarrow", &name, &name);
            let pairs = b.bits("i64x2", &packed);
            let low = lane(b, &pairs, 0);
            b.push(&format!("store notrap {low}, {at}"));
        }
        (Elem::Bf16 | Elem::F16, false) => b.push(&format!("istore16 notrap {name}, {at}")),
        (Elem::I8 | Elem::I1 | Elem::Index, true) => {
            return Err(error("a vector store of bytes or indices"));
        }
        (_, _) => b.push(&format!("store notrap {name}, {at}")),
    }
    Ok(())
}

/// The mask lane of a truth value.
fn mask_lane(b: &mut Builder, bit: &Name) -> Name {
    let wide = b.one("uextend.i32", bit);
    b.one("ineg", &wide)
}

fn broadcast(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let mut x = arg(b, op, 0)?;
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    if shape.elem == Elem::I1 {
        x = mask_lane(b, &x);
    }
    let name = b.def(&format!("splat.{} {x}", shape.clif()));
    b.bind(out, name);
    Ok(())
}

fn extract(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let position = attribute(op, "static_position")?;
    let digits: String =
        position.chars().skip_while(|c| *c != ':').filter(char::is_ascii_digit).collect();
    let k: usize = digits.parse().map_err(|_| error(format!("position `{position}`")))?;
    let out = result(op, 0)?;
    let x = arg(b, op, 0)?;
    let mut name = lane(b, &x, k);
    if shape_of(out)?.elem == Elem::I1 {
        let low = b.one("ireduce.i8", &name);
        let one = b.def("iconst.i8 1");
        name = b.two("band", &low, &one);
    }
    b.bind(out, name);
    Ok(())
}

fn from_elements(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    let mut parts = Vec::with_capacity(4);
    for i in 0..op.operand_count() {
        let part = arg(b, op, i)?;
        parts.push(if shape.elem == Elem::I1 { mask_lane(b, &part) } else { part });
    }
    let name = assemble(b, &parts, shape.clif());
    b.bind(out, name);
    Ok(())
}

/// Sums and products of floats; a sum of a contractible product is one `fma`.
fn contractible(b: &mut Builder, op: Op<'_, '_>, name: &str) -> Done {
    let (x, y) = (arg(b, op, 0)?, arg(b, op, 1)?);
    let (left, right) = (key(operand(op, 0)?), key(operand(op, 1)?));
    let out = result(op, 0)?;
    let free = contracts(op);
    let product = |b: &Builder, k: usize| b.products.get(&k).cloned().filter(|_| free);
    let val = match (name, product(b, left), product(b, right)) {
        ("arith.mulf", _, _) => {
            if free {
                b.products.insert(key(out), (x.clone(), y.clone()));
            }
            b.two("fmul", &x, &y)
        }
        ("arith.addf", Some((p, q)), _) => b.fma(&p, &q, &y),
        ("arith.addf", None, Some((p, q))) => b.fma(&p, &q, &x),
        ("arith.addf", None, None) => b.two("fadd", &x, &y),
        (_, Some((p, q)), _) => {
            let minus = b.one("fneg", &y);
            b.fma(&p, &q, &minus)
        }
        (_, None, Some((p, q))) => {
            let minus = b.one("fneg", &p);
            b.fma(&minus, &q, &x)
        }
        (_, None, None) => b.two("fsub", &x, &y),
    };
    b.bind(out, val);
    Ok(())
}

fn rsqrt(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let x = arg(b, op, 0)?;
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    let root = b.one("sqrt", &x);
    let one = match (shape.elem, shape.vector) {
        (Elem::F64, _) => b.def("f64const 0x1.0p0"),
        (_, true) => b.f32x4(1.0),
        (_, false) => b.f32(1.0),
    };
    let name = b.two("fdiv", &one, &root);
    b.bind(out, name);
    Ok(())
}

/// `x − trunc(x/y)·y`, rounded once. Where the quotient was rounded up to a whole number, the rest has
/// the other sign than `x` and is one `y` short. Exact while quotients are below 2^23.
fn remainder(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let (x, y) = (arg(b, op, 0)?, arg(b, op, 1)?);
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    let zero = match (shape.elem, shape.vector) {
        (Elem::F64, _) => b.def("f64const 0x0.0"),
        (_, true) => b.f32x4(0.0),
        (_, false) => b.f32(0.0),
    };
    let pick = |b: &mut Builder, mask: &Name, yes: &Name, no: &Name| match shape.vector {
        true => b.blend(mask, yes, no),
        false => b.def(&format!("select {mask}, {yes}, {no}")),
    };
    let quotient = b.two("fdiv", &x, &y);
    let whole = b.one("trunc", &quotient);
    let minus = b.one("fneg", &whole);
    let rest = b.fma(&minus, &y, &x);
    let (above, size) = (b.two("fcmp gt", &x, &zero), b.one("fabs", &y));
    let short = b.two("fcmp lt", &rest, &zero);
    let short = b.two("band", &above, &short);
    let (below, long) = (b.two("fcmp lt", &x, &zero), b.two("fcmp gt", &rest, &zero));
    let long = b.two("band", &below, &long);
    let (more, less) = (b.two("fadd", &rest, &size), b.two("fsub", &rest, &size));
    let rest = pick(b, &short, &more, &rest);
    let rest = pick(b, &long, &less, &rest);
    let x_size = b.one("fabs", &x);
    let small = b.two("fcmp lt", &x_size, &size);
    let name = pick(b, &small, &x, &rest);
    b.bind(out, name);
    Ok(())
}

fn transcendental(b: &mut Builder, op: Op<'_, '_>, name: &str) -> Done {
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    if shape.elem != Elem::F32 {
        return Err(error(format!("`{name}` on a type other than f32")));
    }
    let mut args = Vec::with_capacity(2);
    for i in 0..op.operand_count() {
        let x = arg(b, op, i)?;
        args.push(if shape.vector { x } else { b.one("splat.f32x4", &x) });
    }
    let vector = match name {
        "math.exp" => b.exp(&args[0]),
        "math.log" => b.log(&args[0]),
        "math.tanh" => b.tanh(&args[0]),
        "math.sin" => b.sin_cos(&args[0], 0),
        "math.cos" => b.sin_cos(&args[0], 1),
        _ => b.pow(&args[0], &args[1]),
    };
    let val = if shape.vector { vector } else { lane(b, &vector, 0) };
    b.bind(out, val);
    Ok(())
}

fn addi(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let (x, y) = (arg(b, op, 0)?, arg(b, op, 1)?);
    let out = result(op, 0)?;
    if let Some(c) = b.constants.get(&key(operand(op, 1)?)).copied() {
        let (rest, before) =
            b.sums.get(&key(operand(op, 0)?)).cloned().unwrap_or_else(|| (x.clone(), 0));
        b.sums.insert(key(out), (rest, before + c));
    }
    let name = b.two("iadd", &x, &y);
    b.bind(out, name);
    Ok(())
}

/// Integer operations without a vector form.
fn lanewise(b: &mut Builder, op: Op<'_, '_>, instruction: &str) -> Done {
    let (x, y) = (arg(b, op, 0)?, arg(b, op, 1)?);
    let out = result(op, 0)?;
    let name = each_lane(b, shape_of(out)?.vector, [&x, &y], instruction);
    b.bind(out, name);
    Ok(())
}

fn each_lane(b: &mut Builder, vector: bool, [x, y]: [&Name; 2], instruction: &str) -> Name {
    if !vector {
        return b.two(instruction, x, y);
    }
    let parts: Vec<Name> = (0..4)
        .map(|k| {
            let (x, y) = (lane(b, x, k), lane(b, y, k));
            b.two(instruction, &x, &y)
        })
        .collect();
    assemble(b, &parts, "i32x4")
}

fn mul_extended(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let (x, y) = (arg(b, op, 0)?, arg(b, op, 1)?);
    let vector = shape_of(result(op, 1)?)?.vector;
    let low = b.two("imul", &x, &y);
    let high = each_lane(b, vector, [&x, &y], "umulhi");
    b.bind(result(op, 0)?, low);
    b.bind(result(op, 1)?, high);
    Ok(())
}

fn compare(b: &mut Builder, op: Op<'_, '_>, instruction: &str, predicates: &[&str]) -> Done {
    let predicate = attribute(op, "predicate")?;
    let number: usize = predicate
        .split(" : ")
        .next()
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| error(format!("predicate `{predicate}`")))?;
    let name = predicates.get(number).filter(|p| !p.is_empty());
    let name = name.ok_or_else(|| error(format!("predicate `{predicate}`")))?;
    let (mut x, mut y) = (arg(b, op, 0)?, arg(b, op, 1)?);
    let shape = shape_of(operand(op, 0)?)?;
    if shape.elem == Elem::I1 && !shape.vector && instruction == "icmp" {
        (x, y) = (b.one("uextend.i32", &x), b.one("uextend.i32", &y));
    }
    let val = b.def(&format!("{instruction} {name} {x}, {y}"));
    b.bind(result(op, 0)?, val);
    Ok(())
}

fn select(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let (c, x, y) = (arg(b, op, 0)?, arg(b, op, 1)?, arg(b, op, 2)?);
    let out = result(op, 0)?;
    let shape = shape_of(out)?;
    let name = match (shape_of(operand(op, 0)?)?.vector, shape.clif()) {
        (true, "f32x4") => b.blend(&c, &x, &y),
        (true, _) => b.def(&format!("bitselect {c}, {x}, {y}")),
        (false, _) => b.def(&format!("select {c}, {x}, {y}")),
    };
    b.bind(out, name);
    Ok(())
}

fn convert_integer(b: &mut Builder, op: Op<'_, '_>, name: &str) -> Done {
    let x = arg(b, op, 0)?;
    let out = result(op, 0)?;
    let (from, to) = (shape_of(operand(op, 0)?)?, shape_of(out)?);
    let unsigned = matches!(name, "arith.extui" | "arith.index_castui");
    let val = match (from.elem, to.elem, from.vector) {
        (Elem::I1, Elem::I32 | Elem::I8, true) => {
            let one = b.i32x4(if unsigned { 1 } else { -1 });
            b.two("band", &x, &one)
        }
        (Elem::I1, Elem::I8, false) if unsigned => x,
        (Elem::I32, Elem::Index, false) if unsigned => b.one("uextend.i64", &x),
        (Elem::I32, Elem::Index, false) => b.one("sextend.i64", &x),
        (Elem::Index, Elem::I32, false) => b.one("ireduce.i32", &x),
        (Elem::I1 | Elem::I8, Elem::I32, false) if unsigned => b.one("uextend.i32", &x),
        (Elem::I8, Elem::I32, false) => b.one("sextend.i32", &x),
        (Elem::I1, Elem::I32, false) => mask_lane(b, &x),
        (Elem::I1, Elem::Index, false) => b.one("uextend.i64", &x),
        (Elem::I32, Elem::I8, false) => b.one("ireduce.i8", &x),
        (Elem::I32 | Elem::I8, Elem::I1, false) => {
            let byte = if from.elem == Elem::I8 { x } else { b.one("ireduce.i8", &x) };
            let one = b.def("iconst.i8 1");
            b.two("band", &byte, &one)
        }
        (_, _, _) => return Err(error(format!("conversion `{op}` has no CLIF"))),
    };
    b.bind(out, val);
    Ok(())
}

fn convert_float(b: &mut Builder, op: Op<'_, '_>, name: &str) -> Done {
    let x = arg(b, op, 0)?;
    let out = result(op, 0)?;
    let (from, to) = (shape_of(operand(op, 0)?)?, shape_of(out)?);
    let clif = to.clif();
    let val = match (from.elem, to.elem) {
        (Elem::I32 | Elem::I1, Elem::Bf16 | Elem::F16) => {
            let wide = integer_to_float(b, &x, from.elem, Shape { elem: Elem::F32, ..to });
            from_f32(b, &wide, to)
        }
        (Elem::I32 | Elem::I1, _) => integer_to_float(b, &x, from.elem, to),
        (Elem::Bf16 | Elem::F16, Elem::I32) => {
            let wide = to_f32(b, &x, from);
            b.one(&format!("fcvt_to_sint_sat.{clif}"), &wide)
        }
        (_, Elem::I32) if name == "arith.fptosi" => b.one(&format!("fcvt_to_sint_sat.{clif}"), &x),
        (Elem::Bf16 | Elem::F16, Elem::F32) => to_f32(b, &x, from),
        (Elem::F32, Elem::Bf16 | Elem::F16) => from_f32(b, &x, to),
        (Elem::F32, Elem::F64) if !from.vector => b.one("fpromote.f64", &x),
        (Elem::F64, Elem::F32) if !from.vector => b.one("fdemote.f32", &x),
        (_, _) => return Err(error(format!("conversion `{op}` has no CLIF"))),
    };
    b.bind(out, val);
    Ok(())
}

/// A 16-bit float, widened.
fn to_f32(b: &mut Builder, x: &Name, from: Shape) -> Name {
    if from.elem == Elem::F16 {
        return in_lanes(b, x, from.vector, "i32x4", f32_from_f16);
    }
    let bits = b.shift("ishl", x, 16);
    b.bits(Shape { elem: Elem::F32, ..from }.clif(), &bits)
}

/// An f32, narrowed to a 16-bit float.
fn from_f32(b: &mut Builder, x: &Name, to: Shape) -> Name {
    match to.elem {
        Elem::F16 => in_lanes(b, x, to.vector, "f32x4", f16_from_f32),
        _ => bf16_from_f32(b, x, to.vector),
    }
}

/// A signed i32 or a truth value as an f32 or f64.
fn integer_to_float(b: &mut Builder, x: &Name, from: Elem, to: Shape) -> Name {
    match from {
        Elem::I1 => bit_to_float(b, x, to),
        _ => b.one(&format!("fcvt_from_sint.{}", to.clif()), x),
    }
}

fn bit_to_float(b: &mut Builder, x: &Name, to: Shape) -> Name {
    if to.vector {
        let one = b.i32x4(1);
        let bit = b.two("band", x, &one);
        return b.one("fcvt_from_sint.f32x4", &bit);
    }
    let wide = b.one("uextend.i32", x);
    b.one(&format!("fcvt_from_sint.{}", to.clif()), &wide)
}

/// Runs a vector sequence on a scalar's lane 0, or on a vector.
fn in_lanes(
    b: &mut Builder,
    x: &Name,
    vector: bool,
    ty: &str,
    f: fn(&mut Builder, &Name) -> Name,
) -> Name {
    if vector {
        return f(b, x);
    }
    let wide = b.one(&format!("splat.{ty}"), x);
    let out = f(b, &wide);
    lane(b, &out, 0)
}

/// Rounds to nearest even; NaN stays a quiet NaN. The bits land in the low half.
fn bf16_from_f32(b: &mut Builder, x: &Name, vector: bool) -> Name {
    in_lanes(b, x, vector, "f32x4", |b, x| {
        let bits = b.bits("i32x4", x);
        let upper = b.shift("ushr", &bits, 16);
        let one = b.i32x4(1);
        let odd = b.two("band", &upper, &one);
        let half = b.i32x4(0x7fff);
        let up = b.two("iadd", &odd, &half);
        let sum = b.two("iadd", &bits, &up);
        let rounded = b.shift("ushr", &sum, 16);
        let quiet = b.i32x4(0x40);
        let nan = b.two("bor", &upper, &quiet);
        let is_nan = b.two("fcmp uno", x, x);
        b.def(&format!("bitselect {is_nan}, {nan}, {rounded}"))
    })
}

/// Widens the low 16 bits of each lane: rebias by an exact product, which also settles subnormals.
fn f32_from_f16(b: &mut Builder, h: &Name) -> Name {
    let low = b.i32x4(0x7fff);
    let magnitude = b.two("band", h, &low);
    let shifted = b.shift("ishl", &magnitude, 13);
    let small = b.bits("f32x4", &shifted);
    let rebias = b.f32x4(f32::from_bits(0x7780_0000));
    let value = b.two("fmul", &small, &rebias);
    let infinite = b.i32x4(0x7bff);
    let special = b.two("icmp sgt", &magnitude, &infinite);
    let exponent = b.i32x4(0x7f80_0000);
    let all = b.two("bor", &shifted, &exponent);
    let bits = b.bits("i32x4", &value);
    let bits = b.def(&format!("bitselect {special}, {all}, {bits}"));
    let sign = b.two("bxor", h, &magnitude);
    let sign = b.shift("ishl", &sign, 16);
    let bits = b.two("bor", &bits, &sign);
    b.bits("f32x4", &bits)
}

/// Narrows to 16 bits, to nearest even; overflow is infinity, subnormals are kept.
fn f16_from_f32(b: &mut Builder, x: &Name) -> Name {
    let bits = b.bits("i32x4", x);
    let mask = b.i32x4(0x7fff_ffff);
    let magnitude = b.two("band", &bits, &mask);
    let sign = b.two("bxor", &bits, &magnitude);
    let sign = b.shift("ushr", &sign, 16);
    let absolute = b.bits("f32x4", &magnitude);
    let half = b.f32x4(0.5);
    let shifted = b.two("fadd", &absolute, &half);
    let shifted = b.bits("i32x4", &shifted);
    let half_bits = b.i32x4(0.5f32.to_bits() as i32);
    let subnormal = b.two("isub", &shifted, &half_bits);
    let thirteenth = b.shift("ushr", &magnitude, 13);
    let one = b.i32x4(1);
    let odd = b.two("band", &thirteenth, &one);
    let rebias = b.i32x4(0xfff - (112 << 23));
    let sum = b.two("iadd", &magnitude, &rebias);
    let sum = b.two("iadd", &sum, &odd);
    let normal = b.shift("ushr", &sum, 13);
    let least_normal = b.i32x4(113 << 23);
    let is_subnormal = b.two("icmp slt", &magnitude, &least_normal);
    let value = b.def(&format!("bitselect {is_subnormal}, {subnormal}, {normal}"));
    let (top, infinity) = (b.i32x4(0x4780_0000), b.i32x4(0x7c00));
    let over = b.two("icmp sge", &magnitude, &top);
    let value = b.def(&format!("bitselect {over}, {infinity}, {value}"));
    let nan = b.i32x4(0x7e00);
    let is_nan = b.two("fcmp uno", x, x);
    let value = b.def(&format!("bitselect {is_nan}, {nan}, {value}"));
    b.two("bor", &value, &sign)
}

/// A loop, its test at the bottom.
fn scf_for(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let (lo, hi, step) = (arg(b, op, 0)?, arg(b, op, 1)?, arg(b, op, 2)?);
    let count = op.result_count();
    let mut init = vec![lo.clone()];
    for i in 0..count {
        init.push(arg(b, op, 3 + i)?);
    }
    let body = body_of(op, 0)?;
    let (inner, after) = (b.block(), b.block());
    let some = b.two("icmp slt", &lo, &hi);
    b.push(&format!("brif {some}, {inner}({}), {after}{}", init.join(", "), list(&init[1..])));
    let mut params = Vec::with_capacity(count + 1);
    let mut results = Vec::with_capacity(count);
    for i in 0..=count {
        let value = body.argument(i).map_err(|e| error(e.to_string()))?;
        let name = b.fresh();
        let ty = shape_of(value.into())?.clif();
        b.bind(value, name.clone());
        params.push((name, ty));
        if i > 0 {
            results.push((b.fresh(), ty));
        }
    }
    b.open(&inner, &params);
    block(b, body)?;
    let next = b.two("iadd", &params[0].0, &step);
    let more = b.two("icmp slt", &next, &hi);
    let mut carried = vec![next];
    carried.extend(yields(b, body)?);
    b.push(&format!(
        "brif {more}, {inner}({}), {after}{}",
        carried.join(", "),
        list(&carried[1..])
    ));
    b.open(&after, &results);
    for (i, (name, _)) in results.into_iter().enumerate() {
        b.bind(result(op, i)?, name);
    }
    Ok(())
}

fn list(names: &[Name]) -> String {
    match names {
        [] => String::new(),
        _ => format!("({})", names.join(", ")),
    }
}

fn body_of<'c, 'a>(op: Op<'c, 'a>, region: usize) -> Result<BlockRef<'c, 'a>, InternalError> {
    let region = op.region(region).map_err(|e| error(e.to_string()))?;
    region.first_block().ok_or_else(|| error("an empty region"))
}

fn yields(b: &Builder, body: BlockRef<'_, '_>) -> Result<Vec<Name>, InternalError> {
    let Some(end) = body.terminator() else { return Ok(Vec::new()) };
    (0..end.operand_count()).map(|i| arg(b, end, i)).collect()
}

fn scf_if(b: &mut Builder, op: Op<'_, '_>) -> Done {
    let condition = arg(b, op, 0)?;
    let (then, other, after) = (b.block(), b.block(), b.block());
    b.push(&format!("brif {condition}, {then}, {other}"));
    let mut results = Vec::with_capacity(op.result_count());
    for i in 0..op.result_count() {
        results.push((b.fresh(), shape_of(result(op, i)?)?.clif()));
    }
    for (region, label) in [(0, &then), (1, &other)] {
        b.open(label, &[]);
        let region = op.region(region).map_err(|e| error(e.to_string()))?;
        let out = match region.first_block() {
            Some(body) => {
                block(b, body)?;
                yields(b, body)?
            }
            None => Vec::new(),
        };
        b.push(&format!("jump {after}{}", list(&out)));
    }
    b.open(&after, &results);
    for (i, (name, _)) in results.into_iter().enumerate() {
        b.bind(result(op, i)?, name);
    }
    Ok(())
}
