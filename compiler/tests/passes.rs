//! Fusion and epilogues on small programs: the entry before and after exactly the pass, with the
//! decisions that its calls carry.

use std::collections::BTreeSet;
use std::path::Path;

use perilune_compiler::compile::{compile, optimize};
use perilune_compiler::elaborate::load_train;
use perilune_compiler::import::import;
use perilune_compiler::lower::Target;
use perilune_compiler::mlir::Mlir;
use perilune_compiler::passes::{epilogue, fuse};
use perilune_compiler::program::print::print;
use perilune_compiler::program::read::read;
use perilune_compiler::program::verify::verify;
use perilune_compiler::program::{
    Decision, Kernel, KernelOp, OpKind, Place, Program, Reason, Rule,
};
use perilune_compiler::scalar::{Binary, ScalarOp};
use perilune_compiler::source::Loader;
use perilune_plan::{Machine, StepOp};

/// An elementwise kernel of these operands, all `[16, 8]`.
fn map(name: &str, operands: usize, body: &str) -> String {
    let numbers = || 0..operands;
    let join = |f: &dyn Fn(usize) -> String| numbers().map(f).collect::<Vec<_>>().join(", ");
    let ty = "tensor<16x8xf32>";
    let identity = "affine_map<(d0, d1) -> (d0, d1)>";
    format!(
        "func.func private @{name}({}) -> ({ty}) {{
           %e = tensor.empty() : {ty}
           %v = linalg.generic {{indexing_maps = [{}, {identity}], \
             iterator_types = [\"parallel\", \"parallel\"]}} ins({} : {}) outs(%e : {ty}) {{
           ^bb0({}, %acc: f32):
             {body}
             linalg.yield %y : f32
           }} -> {ty}
           return %v : {ty}
         }}\n",
        join(&|n| format!("%p{n}: {ty}")),
        join(&|_| identity.into()),
        join(&|n| format!("%p{n}")),
        join(&|_| ty.into()),
        join(&|n| format!("%a{n}: f32")),
    )
}

/// The sum of a `[16, 8]` tensor along its rows or down its columns.
fn sum(name: &str, out: &str) -> String {
    let (read, ty) = match out {
        "rows" => ("d0, d1", "tensor<16xf32>"),
        _ => ("d1, d0", "tensor<8xf32>"),
    };
    format!(
        "func.func private @{name}(%p: tensor<16x8xf32>) -> ({ty}) {{
           %e = tensor.empty() : {ty}
           %c = arith.constant 0.0e0 : f32
           %f = linalg.fill ins(%c : f32) outs(%e : {ty}) -> {ty}
           %v = linalg.generic {{indexing_maps = [affine_map<(d0, d1) -> ({read})>, \
             affine_map<(d0, d1) -> (d0)>], iterator_types = [\"parallel\", \"reduction\"]}} \
             ins(%p : tensor<16x8xf32>) outs(%f : {ty}) {{
           ^bb0(%a: f32, %acc: f32):
             %y = arith.addf %acc, %a : f32
             linalg.yield %y : f32
           }} -> {ty}
           return %v : {ty}
         }}\n"
    )
}

/// `[16, 4] · [4, 8]`.
const PRODUCT: &str = "func.func private @product(%p0: tensor<16x4xf32>, %p1: tensor<4x8xf32>) -> \
    (tensor<16x8xf32>) {
      %e = tensor.empty() : tensor<16x8xf32>
      %c = arith.constant 0.0e0 : f32
      %f = linalg.fill ins(%c : f32) outs(%e : tensor<16x8xf32>) -> tensor<16x8xf32>
      %v = linalg.contract indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, \
        affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>] \
        ins(%p0, %p1 : tensor<16x4xf32>, tensor<4x8xf32>) outs(%f : tensor<16x8xf32>) \
        -> tensor<16x8xf32>
      return %v : tensor<16x8xf32>
    }\n";

/// A program of kernels and one entry on `x [16, 4]`, `w [4, 8]` and `y [16, 8]`; a call is
/// `result = kernel operands`, a result of other extents `result: type = …`.
fn program(mlir: &Mlir, kernels: &[String], calls: &[&str], results: &[&str]) -> Program {
    let mut types: Vec<(String, &str)> =
        [("x", "tensor<16x4xf32>"), ("w", "tensor<4x8xf32>"), ("y", "tensor<16x8xf32>")]
            .map(|(name, ty)| (name.to_owned(), ty))
            .into();
    let feed = |(name, ty): &(String, &str)| {
        format!("%{name}: {ty} {{perilune.kind = \"feed\", perilune.name = \"{name}\"}}")
    };
    let args: Vec<String> = types.iter().map(feed).collect();
    let mut body = String::new();
    let of = |types: &[(String, &str)], name: &str| -> String {
        types.iter().find(|(n, _)| n == name).map_or(String::new(), |(_, ty)| (*ty).to_owned())
    };
    for call in calls {
        let (made, rest) = call.split_once(" = ").expect("a call has a result");
        let (made, ty) = made.split_once(": ").unwrap_or((made, "tensor<16x8xf32>"));
        let mut words = rest.split(' ');
        let kernel = words.next().expect("a call has a kernel");
        let operands: Vec<&str> = words.collect();
        let list =
            |f: &dyn Fn(&&str) -> String| operands.iter().map(f).collect::<Vec<_>>().join(", ");
        let names = list(&|o| format!("%{o}"));
        let inputs = list(&|o| of(&types, o));
        body += &format!(
            "%{made} = func.call @{kernel}({names}) : ({inputs}) -> ({ty}) loc(\"{made}\")\n"
        );
        types.push((made.to_owned(), ty));
    }
    let list = |f: &dyn Fn(&&str) -> String| results.iter().map(f).collect::<Vec<_>>().join(", ");
    let fetched = list(&|r| format!("{} {{perilune.fetch = \"{r}\"}}", of(&types, r)));
    let names = list(&|r| format!("%{r}"));
    let given = list(&|r| of(&types, r));
    let text = format!(
        "module attributes {{perilune.name = \"small\"}} {{
         {}func.func @main({}) -> ({fetched}) {{\n{body}return {names} : {given}\n}}\n}}",
        kernels.concat(),
        args.join(", "),
    );
    read(mlir, &text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The calls of the only entry, as printed, one attribute a line.
fn calls(program: &Program) -> String {
    verify(program).unwrap_or_else(|e| panic!("{e}"));
    let text = print(program);
    let lines = text.lines().filter(|line| line.contains("func.call"));
    let split = lines.map(|line| line.trim().replace("{bytes", "\n  {bytes"));
    split.collect::<Vec<_>>().join("\n")
}

/// The calls before and after a pass.
fn around(program: &mut Program, pass: fn(&mut Program)) -> String {
    let before = calls(program);
    pass(program);
    format!("{before}\n\n{}", calls(program))
}

fn exponential() -> String {
    map("exp", 1, "%y = math.exp %a0 : f32")
}

fn addition() -> String {
    map("add", 2, "%y = arith.addf %a0, %a1 : f32")
}

#[test]
fn a_chain_is_fused_past_a_contraction() {
    let mlir = Mlir::new();
    let kernels = [exponential(), addition(), PRODUCT.to_owned(), sum("sum", "rows")];
    // `b` reads `a` and a product; `r` shares rows with `b`.
    let list = ["a = exp y", "p = product x w", "b = add a p", "r: tensor<16xf32> = sum b"];
    let mut program = program(&mlir, &kernels, &list, &["b", "r"]);
    insta::assert_snapshot!("fuse_chain", around(&mut program, fuse::run));
}

/// The lower half of the rows of `[16, 8]` above the upper half.
fn roll() -> String {
    "func.func private @roll(%p: tensor<16x8xf32>) -> (tensor<16x8xf32>) {
       %a = tensor.extract_slice %p[8, 0] [8, 8] [1, 1] : tensor<16x8xf32> to tensor<8x8xf32>
       %b = tensor.extract_slice %p[0, 0] [8, 8] [1, 1] : tensor<16x8xf32> to tensor<8x8xf32>
       %v = tensor.concat dim(0) %a, %b : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
       return %v : tensor<16x8xf32>
     }\n"
    .to_owned()
}

#[test]
fn an_edge_that_is_refused_does_not_come_inside_along_another() {
    let mlir = Mlir::new();
    let kernels = [exponential(), addition(), roll()];
    // `r` reads other rows of `a` than its own; `b` is with `r` when it meets `c`, which is with `a`.
    let list = ["a = exp y", "c = exp a", "r = roll a", "b = add r c"];
    let mut program = program(&mlir, &kernels, &list, &["b"]);
    fuse::run(&mut program);
    let nodes: Vec<&[String]> =
        program.entries[0].calls.iter().map(|c| c.nodes.as_slice()).collect();
    assert_eq!(nodes, [["a", "c"], ["r", "b"]]);
    let decided = program.entries[0].calls[1].decisions.iter().map(|d| d.reason);
    assert_eq!(
        decided.collect::<Vec<_>>(),
        [Reason::Misaligned, Reason::Misaligned, Reason::Fused, Reason::Misaligned]
    );
}

#[test]
fn the_rows_of_a_contraction_take_an_epilogue() {
    let mlir = Mlir::new();
    let kernels = [
        PRODUCT.to_owned(),
        exponential(),
        addition(),
        sum("down", "columns"),
        sum("along", "rows"),
    ];
    // `e` is the epilogue of `p`; `d` has no rows; `s` comes too late; `q` moves to `b`.
    let list = [
        "p = product x w",
        "q = product x w",
        "e = exp p",
        "d: tensor<8xf32> = down p",
        "s: tensor<16xf32> = along p",
        "f = exp e",
        "b = add q f",
    ];
    let mut program = program(&mlir, &kernels, &list, &["d", "s", "b"]);
    insta::assert_snapshot!("epilogue_rows", around(&mut program, epilogue::run));
}

#[test]
fn a_reader_behind_a_path_through_another_call_is_no_epilogue() {
    let mlir = Mlir::new();
    let kernels = [PRODUCT.to_owned(), addition(), sum("down", "columns"), spread()];
    let list = ["p = product x w", "d: tensor<8xf32> = down p", "t = spread d", "b = add p t"];
    let mut program = program(&mlir, &kernels, &list, &["b"]);
    epilogue::run(&mut program);
    let decided: Vec<(Rule, Reason, u64, u64)> = program.entries[0]
        .calls
        .iter()
        .flat_map(|c| &c.decisions)
        .map(|d| (d.rule, d.reason, d.bytes, d.rows))
        .collect();
    let rule = Rule::Epilogue;
    assert_eq!(decided, [(rule, Reason::NotFusable, 512, 16), (rule, Reason::Cycle, 512, 16)]);
    assert!(program.entries[0].calls.iter().all(|c| c.epilogue.is_none()));
}

/// The sum over two ranks.
fn all_reduce() -> String {
    "func.func private @all_reduce(%p: tensor<16x8xf32>) -> (tensor<16x8xf32>) {
       %v = \"perilune.all_reduce\"(%p) {axes = \"0\", combine = \"sum\", ranks = 2 : i64} \
         : (tensor<16x8xf32>) -> tensor<16x8xf32>
       return %v : tensor<16x8xf32>
     }\n"
    .to_owned()
}

/// Pairs of nodes, and whether they run as one call or why not.
type Decided = BTreeSet<(String, String, Reason)>;

/// What a pass decides about pairs of nodes on two ranks, whose collectives run beside kernels or are
/// waited for at once.
fn on_two_ranks(list: &[&str], results: &[&str], beside: bool, pass: fn(&mut Program)) -> Decided {
    let mlir = Mlir::new();
    let kernels = [PRODUCT.to_owned(), exponential(), addition(), all_reduce()];
    let mut program = program(&mlir, &kernels, list, results);
    program.mesh = "dp=2".parse().expect("a mesh");
    program.machine = beside.then(Machine::default);
    pass(&mut program);
    let calls = &program.entries[0].calls;
    let of = |d: &Decision| (d.from.clone(), d.to.clone(), d.reason);
    calls.iter().flat_map(|call| &call.decisions).map(of).collect()
}

#[test]
fn nothing_is_held_up_for_a_collective_that_it_does_not_need() {
    let decided = |list: &[(&str, &str, Reason)]| -> Decided {
        list.iter().map(|(from, to, reason)| ((*from).into(), (*to).into(), *reason)).collect()
    };
    // `d` reads `a` and does not need `s`; it would wait for it if `a` were with `c`.
    let list = ["a = exp y", "s = all_reduce y", "c = add a s", "d = exp a"];
    let found = |beside| on_two_ranks(&list, &["c", "d"], beside, fuse::run);
    assert!(found(true).contains(&("a".into(), "c".into(), Reason::HeldUp)), "{:?}", found(true));
    assert!(found(false).contains(&("a".into(), "c".into(), Reason::Fused)), "{:?}", found(false));
    // `p` does not need `s`.
    let list = ["p = product x w", "s = all_reduce y", "e = add p s"];
    let found = |beside| on_two_ranks(&list, &["e"], beside, epilogue::run);
    assert_eq!(found(true), decided(&[("p", "e", Reason::HeldUp)]));
    assert_eq!(found(false), decided(&[("p", "e", Reason::Fused)]));
}

/// A `[8]` tensor on every row of `[16, 8]`.
fn spread() -> String {
    "func.func private @spread(%p: tensor<8xf32>) -> (tensor<16x8xf32>) {
       %e = tensor.empty() : tensor<16x8xf32>
       %v = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d1)>, \
         affine_map<(d0, d1) -> (d0, d1)>], iterator_types = [\"parallel\", \"parallel\"]} \
         ins(%p : tensor<8xf32>) outs(%e : tensor<16x8xf32>) {
       ^bb0(%a: f32, %acc: f32):
         linalg.yield %a : f32
       } -> tensor<16x8xf32>
       return %v : tensor<16x8xf32>
     }\n"
    .to_owned()
}

/// The repository's models.
struct Disk;

impl Loader for Disk {
    fn load(&self, path: &str) -> Result<String, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::read_to_string(root.join(path)).map_err(|e| e.to_string())
    }
}

/// Bytes that a slot takes of the arena or of an argument.
fn bytes(program: &Program, entry: usize, slot: usize) -> (Option<u32>, u64, u64) {
    let entry = &program.entries[entry];
    let length = entry.slot_types(&program.kernels)[slot].bytes();
    match entry.layout.as_ref().map(|l| l.places[slot]) {
        Some(Place::Arg(n)) => (Some(n), 0, length),
        Some(Place::Arena(offset)) => (None, offset, offset + length),
        None => panic!("no layout"),
    }
}

#[test]
fn an_epilogue_never_writes_what_its_contraction_reads() {
    let (spec, messages, _) = load_train(&Disk, "k2-nano/train.ron", &[]);
    let spec = spec.unwrap_or_else(|| panic!("{messages:?}"));
    let compiled = compile(&spec, Target::Cpu).expect("it compiles");
    let program = &compiled.program;
    let mut checked = 0;
    for (e, entry) in program.entries.iter().enumerate() {
        let pairs = entry.calls.windows(2).filter(|pair| pair[1].epilogue.is_some());
        for [host, call] in pairs.filter_map(|pair| <&[_; 2]>::try_from(pair).ok()) {
            for written in call.results(&program.kernels) {
                let written = bytes(program, e, written.0 as usize);
                let read = host.args.iter().map(|slot| bytes(program, e, slot.0 as usize));
                let apart = |read: (Option<u32>, u64, u64)| {
                    written.0 != read.0 || written.1 >= read.2 || read.1 >= written.2
                };
                assert!(read.into_iter().all(apart), "{:?} and {:?}", host.nodes, call.nodes);
                checked += 1;
            }
        }
    }
    assert!(checked > 200, "{checked} results");
    compiled.plan.verify().expect("the plan bounds its epilogues");
    let steps = compiled.plan.entries.iter().flat_map(|e| &e.steps);
    let ragged = |op: &StepOp| matches!(op, StepOp::Ragged(r) if r.epilogue.is_some());
    assert!(steps.filter(|step| ragged(&step.op)).count() > 3, "experts have epilogues");
    let gpu = compile(&spec, Target::Sm90a).expect("it compiles").plan;
    let hosts = |op: &StepOp| matches!(op, StepOp::Contract(c) if c.epilogue.is_some());
    assert!(!gpu.entries.iter().flat_map(|e| &e.steps).any(|s| hosts(&s.op) || ragged(&s.op)));
}

#[test]
fn tensors_of_one_shape_and_distribution_are_drawn_by_one_kernel() {
    let (spec, messages, _) = load_train(&Disk, "k2-nano/train.ron", &[]);
    let spec = spec.unwrap_or_else(|| panic!("{messages:?}"));
    let mut program = import("k2-nano", &[&spec.init]);
    optimize(&mut program);
    let draws = |kernel: &Kernel| {
        let random = |op: &KernelOp| match &op.kind {
            OpKind::Generic(g) => {
                g.body.ops.iter().any(|s| matches!(s, ScalarOp::Binary(Binary::MulHiU, ..)))
            }
            _ => false,
        };
        kernel.ops.iter().any(random)
    };
    let calls = program.entries[0].calls.iter();
    let drawn = calls.filter(|c| draws(&program.kernels[c.kernel as usize])).count();
    let mut shapes: Vec<_> =
        program.kernels.iter().filter(|k| draws(k)).map(|k| k.result_types()).collect();
    let kernels = shapes.len();
    shapes.sort_by_key(|s| format!("{s:?}"));
    shapes.dedup();
    assert_eq!(shapes.len(), kernels, "one kernel a shape");
    assert!(drawn >= 2 * kernels, "{drawn} tensors by {kernels} kernels");
    // The keys, which differ, are made by few kernels.
    let others = program.kernels.iter().filter(|k| !draws(k) && !k.params.is_empty()).count();
    assert!(others <= 1 + drawn / 20, "{others} kernels make the keys of {drawn} tensors");
}
