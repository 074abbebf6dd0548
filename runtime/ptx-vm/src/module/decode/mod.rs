//! From the syntax tree to a [`Module`]: names resolved, every instruction known.
//!
//! # Invariants
//! - An instruction or modifier that nothing here takes is refused with V0002; none is stepped over.
//!
//! A family of instructions is a file; [`instruction`] lists which name goes where.

mod modifiers;
mod context;
mod integer;
mod video;
mod float;
mod convert;
mod select;
mod memory;
mod warp;
mod flow;
mod tensor;
mod bulk;
mod tensor_rows;
mod target;
mod declare;

use super::op::{Inst, Op, Pred};
use super::scope::Symbol;
use super::types::Type;
use super::{Function, Kernel, Meta, Module, Param, Place};
use crate::parse::ast::{self, Instruction, Statement, Unit, Variable};
use crate::source::{LoadError, Source, code};
use context::Context;
pub(crate) use declare::same_places;
use modifiers::Modifiers;
use std::collections::HashMap;
use target::Target;

/// The predicate that takes what nobody wants; predicate 0 stays false and stands for constants.
const SINK_PRED: Pred = 1;

/// Decodes a parsed text.
///
/// # Errors
/// V0002 … V0005 with their place.
pub(super) fn decode<'a>(source: &Source, unit: &Unit<'a>) -> Result<Module, LoadError> {
    let mut module = Module {
        source: source.clone(),
        target: unit.target.to_owned(),
        code: Vec::new(),
        meta: Vec::new(),
        pool: Vec::new(),
        functions: Vec::new(),
        kernels: Vec::new(),
        variables: super::Variables::default(),
        locations: Vec::new(),
    };
    let mut globals = HashMap::new();
    declare::functions(source, unit, &mut globals)?;
    declare::variables(source, &unit.variables, &mut globals, &mut module.variables)?;
    let definitions = declare::definitions(unit);
    for (index, function) in definitions.iter().enumerate() {
        let decoded = function_body(&mut module, unit, &globals, function)?;
        // What is declared and not defined cannot be launched.
        if function.is_entry && function.body.is_some() {
            module.kernels.push(kernel(source, function, index as u32)?);
        }
        module.functions.push(decoded);
    }
    declare::relocations(source, &unit.variables, &globals, &mut module.variables)?;
    module.variables.lay_out_constants();
    if module.variables.const_bytes > MAX_CONST_BYTES {
        let first = unit.variables.iter().find(|variable| variable.space == "const");
        let span = first.map_or(crate::source::Span::default(), |variable| variable.span);
        let message = format!("more than {MAX_CONST_BYTES} bytes of constants");
        return Err(source.error(code::LIMIT, span, message));
    }
    let Module { kernels, functions, variables, .. } = &mut module;
    for kernel in kernels.iter_mut() {
        variables.lay_out_shared(kernel, functions);
    }
    declare::check_calls(&module)?;
    Ok(module)
}

/// Where each parameter of a kernel lies in its block.
fn param_block(params: &[Variable<'_>]) -> Option<(Vec<Param>, u32)> {
    let mut at = 0u32;
    let mut found = Vec::new();
    for param in params {
        let (bytes, align) = declare::extent(param)?;
        let offset = at.checked_next_multiple_of(align)?;
        at = offset.checked_add(bytes)?;
        found.push(Param { name: param.name.to_owned(), offset, bytes });
    }
    Some((found, at))
}

fn kernel(source: &Source, function: &ast::Function<'_>, index: u32) -> Result<Kernel, LoadError> {
    let block = param_block(&function.params).filter(|(_, bytes)| *bytes <= MAX_PARAM_BYTES);
    let Some((params, param_bytes)) = block else {
        let message = format!("more than {MAX_PARAM_BYTES} bytes of parameters");
        return Err(source.error(code::LIMIT, function.span, message));
    };
    let tuning = function.tuning;
    Ok(Kernel {
        name: function.name.to_owned(),
        params,
        param_bytes,
        max_ntid: tuning.max_ntid,
        req_ntid: tuning.req_ntid,
        cluster: tuning.cluster,
        max_registers: tuning.max_nreg,
        shared_bytes: 0,
        function: index,
        shared_offsets: Vec::new(),
        dynamic_shared: 0,
    })
}

/// The largest parameter block of a kernel, as on hardware.
const MAX_PARAM_BYTES: u32 = 32764;

/// Constant memory at most: the eleven banks of hardware, in bytes.
const MAX_CONST_BYTES: u32 = 11 * (64 << 10);

/// Rows of a function at most: registers and constants that its text names.
const MAX_ROWS: usize = 1 << 16;

/// The largest frame of a function in local memory, in bytes.
const MAX_FRAME_BYTES: u32 = 512 << 10;

fn function_body<'a>(
    module: &mut Module,
    unit: &Unit<'a>,
    globals: &HashMap<&'a str, Symbol>,
    function: &ast::Function<'a>,
) -> Result<Function, LoadError> {
    let Module { source, code, meta, pool, variables, locations, .. } = module;
    let mut cx = Context::new(source, globals, pool, function.is_entry);
    let target = Target::named(unit.target);
    cx.variable_spaces = variables.all.iter().map(|variable| variable.space).collect();
    cx.span = function.span;
    let params = parameters(&mut cx, function)?;
    let returns =
        function.returns.iter().map(|p| declare::place(&mut cx, p)).collect::<Result<_, _>>()?;
    let first = code.len() as u32;
    let empty = Vec::new();
    let statements = function.body.as_ref().unwrap_or(&empty);
    labels(&mut cx, statements, first)?;
    let mut location = 0;
    for statement in statements {
        match statement {
            Statement::Instruction(inst) => {
                code.push(guarded(&mut cx, inst)?);
                let needed = target::needed(inst);
                if !target.has(needed) {
                    let (name, needed) = (inst.name, needed.name());
                    let message = format!("this `{name}` needs `{needed}`, not `{}`", unit.target);
                    return Err(cx.unknown(message));
                }
                meta.push(noted(&mut cx, inst, location));
            }
            Statement::Location { file, line } => {
                let name = unit.files.iter().find(|(index, _)| index == file);
                let name = name.map_or("", |(_, name)| *name).to_owned();
                locations.push((name, *line));
                location = locations.len() as u32;
            }
            other => declare::statement(&mut cx, other, variables)?,
        }
    }
    if function.body.is_some() {
        // Falling off the end is a return.
        code.push(Inst { op: Op::Return, guard: None });
        meta.push(Meta { span: function.span, opcode: function.span, ..Meta::default() });
    }
    if cx.scopes.n_rows as usize + cx.constants.len() > MAX_ROWS {
        cx.span = function.span;
        let message = format!("more than {MAX_ROWS} registers and constants");
        return Err(cx.error(code::LIMIT, message));
    }
    let decoded = Function {
        name: function.name.to_owned(),
        first,
        registers: cx.scopes.n_rows,
        preds: cx.scopes.n_preds,
        constants: std::mem::take(&mut cx.constants),
        frame_bytes: cx.frame_bytes,
        params,
        returns,
        callees: std::mem::take(&mut cx.callees),
        shared: std::mem::take(&mut cx.shared),
        has_body: function.body.is_some(),
        span: function.span,
    };
    drop(cx);
    declare::settle_rows(module, &decoded);
    Ok(decoded)
}

fn parameters<'a>(
    cx: &mut Context<'_, 'a>,
    function: &ast::Function<'a>,
) -> Result<Vec<Place>, LoadError> {
    if !function.is_entry {
        return function.params.iter().map(|param| declare::place(cx, param)).collect();
    }
    let Some((block, _)) = param_block(&function.params) else {
        return Err(cx.error(code::LIMIT, "the parameters are too large".to_owned()));
    };
    for (param, placed) in function.params.iter().zip(block) {
        cx.scopes.define(param.name, Symbol::Param { offset: placed.offset });
    }
    Ok(Vec::new())
}

/// Numbers the labels and keeps the lists of labels.
fn labels<'a>(
    cx: &mut Context<'_, 'a>,
    statements: &[Statement<'a>],
    first: u32,
) -> Result<(), LoadError> {
    let mut at = first;
    let (mut blocks, mut opened) = (vec![0], 0);
    for statement in statements {
        let block = blocks.last().copied().unwrap_or(0);
        match statement {
            Statement::Instruction(_) => at += 1,
            Statement::Open => {
                opened += 1;
                blocks.push(opened);
            }
            Statement::Close => {
                blocks.pop();
            }
            Statement::Label { name, span } => {
                let known = cx.labels.insert((block, *name), at);
                known.map_or(Ok(()), |_| {
                    let message = format!("the label `{name}` stands twice");
                    Err(cx.source.error(code::SYNTAX, *span, message))
                })?;
            }
            Statement::Targets { label, names } => {
                cx.targets.insert((block, *label), names.clone());
            }
            _ => {}
        }
    }
    Ok(())
}

fn guarded<'a>(cx: &mut Context<'_, 'a>, inst: &Instruction<'a>) -> Result<Inst, LoadError> {
    cx.span = inst.span;
    cx.name = inst.name;
    cx.reads.clear();
    cx.writes.clear();
    let guard = match inst.guard {
        Some((name, negated)) => Some(cx.literal_named(name, negated)?),
        None => None,
    };
    let mut mods = Modifiers::of(inst);
    let op = instruction(cx, &mut mods, inst)?;
    if let Some(rest) = mods.rest() {
        return Err(cx.unknown(format!("`{}` has no modifier `.{rest}`", inst.name)));
    }
    Ok(Inst { op, guard })
}

/// What was read and written, for the checks.
fn noted(cx: &mut Context<'_, '_>, inst: &Instruction<'_>, location: u32) -> Meta {
    let (reads, writes) = (std::mem::take(&mut cx.reads), std::mem::take(&mut cx.writes));
    let meta = Meta {
        span: inst.span,
        opcode: inst.opcode,
        reads: cx.list(&reads),
        writes: cx.list(&writes),
        location,
    };
    (cx.reads, cx.writes) = (reads, writes);
    meta
}

/// One instruction, by its name and where that decides by its type.
fn instruction<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Result<Op, LoadError> {
    match inst.name {
        "ld" | "ldu" => memory::load(cx, mods, inst),
        "st" | "red" if inst.modifiers.first() == Some(&"async") => {
            bulk::store_async(cx, mods, inst)
        }
        "st" => memory::store(cx, mods, inst),
        "atom" | "red" => memory::atomic(cx, mods, inst),
        "prefetch" | "prefetchu" | "applypriority" | "discard" => memory::prefetch(cx, mods, inst),
        "createpolicy" => memory::cache_policy(cx, mods, inst),
        "cvta" => memory::convert_address(cx, mods, inst),
        "isspacep" => memory::is_space(cx, mods, inst),
        "mapa" | "getctarank" => memory::map_shared(cx, mods, inst),
        "membar" | "fence" => memory::fence(cx, mods, inst),
        "cp" => memory::copy_async(cx, mods, inst),
        "mov" => select::mov(cx, mods, inst),
        "setp" => select::set_predicate(cx, mods, inst),
        "set" => select::set(cx, mods, inst),
        "selp" | "slct" => select::select(cx, mods, inst),
        "testp" => select::class(cx, mods, inst),
        "cvt" => convert::convert(cx, mods, inst),
        "shfl" => warp::shuffle(cx, mods, inst),
        "vote" => warp::vote(cx, mods, inst),
        "match" => warp::match_lanes(cx, mods, inst),
        "redux" => warp::reduce(cx, mods, inst),
        "elect" => warp::elect(cx, mods, inst),
        "activemask" => warp::active_mask(cx, mods, inst),
        "bar" | "barrier" => warp::barrier(cx, mods, inst),
        "nanosleep" => warp::pause(cx, mods, inst),
        "mma" => tensor::mma(cx, mods, inst),
        "ldmatrix" | "stmatrix" => tensor::move_matrices(cx, mods, inst),
        "movmatrix" => tensor::transpose(cx, mods, inst),
        "wgmma" => tensor::wgmma(cx, mods, inst),
        "setmaxnreg" => tensor::registers_limit(cx, mods, inst),
        "griddepcontrol" => tensor::grid_dependency(cx, mods, inst),
        "mbarrier" => bulk::mbarrier(cx, mods, inst),
        "tensormap" => bulk::tensor_map(cx, mods, inst),
        "bra" => flow::branch(cx, mods, inst),
        "brx" => flow::branch_index(cx, mods, inst),
        "call" => flow::call(cx, mods, inst),
        "ret" => end(mods, Op::Return),
        "exit" => end(mods, Op::Exit),
        "trap" | "brkpt" => end(mods, Op::Trap),
        "prmt" => integer::permute(cx, mods, inst),
        "shf" => integer::funnel(cx, mods, inst),
        "lop3" => integer::lookup(cx, mods, inst),
        "dp4a" | "dp2a" => integer::dot(cx, mods, inst),
        "vadd2" | "vsub2" | "vabsdiff2" | "vmin2" | "vmax2" => video::simd(cx, mods, inst, 16),
        "vadd4" | "vsub4" | "vabsdiff4" | "vmin4" | "vmax4" => video::simd(cx, mods, inst, 8),
        _ => typed(cx, mods, inst),
    }
}

fn end(mods: &mut Modifiers<'_>, op: Op) -> Result<Op, LoadError> {
    mods.flag("uni");
    Ok(op)
}

fn typed<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Result<Op, LoadError> {
    const KNOWN: [&str; 42] = [
        "add", "sub", "mul", "div", "rem", "min", "max", "addc", "subc", "mad", "madc", "fma",
        "abs", "neg", "copysign", "and", "or", "xor", "not", "cnot", "shl", "shr", "popc", "clz",
        "brev", "bfind", "fns", "bmsk", "szext", "bfe", "bfi", "mul24", "mad24", "sad", "rcp",
        "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh",
    ];
    if !KNOWN.contains(&inst.name) {
        return Err(cx.unknown(format!("unknown instruction `{}`", inst.name)));
    }
    let Some(ty) = mods.ty() else { return Err(cx.unknown("no type is named")) };
    let float = float::is_float(ty);
    match inst.name {
        "and" | "or" | "xor" | "not" if ty == Type::Pred => select::predicate_logic(cx, inst),
        "and" | "or" | "xor" | "not" | "cnot" => integer::logic(cx, inst, ty),
        "add" | "sub" | "mul" if float => float::arithmetic(cx, mods, inst, ty),
        "fma" | "mad" if float => float::multiply_add(cx, mods, inst, ty),
        "div" if float => float::divide(cx, mods, inst, ty),
        "min" | "max" if float => float::extremum(cx, mods, inst, ty),
        "abs" | "neg" | "copysign" if float => float::sign(cx, mods, inst, ty),
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
            float::function(cx, mods, inst, ty)
        }
        "abs" | "neg" => integer::sign(cx, inst, ty),
        "mad" | "madc" => integer::multiply_add(cx, mods, inst, ty),
        "shl" | "shr" => integer::shift(cx, inst, ty),
        "bfe" | "bfi" => integer::field(cx, inst, ty),
        "mul24" | "mad24" | "sad" => integer::special(cx, mods, inst, ty),
        "popc" | "clz" | "brev" | "bfind" | "fns" | "bmsk" | "szext" => {
            integer::bits(cx, mods, inst, ty)
        }
        _ => integer::arithmetic(cx, mods, inst, ty),
    }
}
