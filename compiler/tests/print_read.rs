//! Programs as MLIR text: printed, verified by MLIR, read back.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::normal::normalise;
use perilune_compiler::program::print::print;
use perilune_compiler::program::read::read;
use perilune_compiler::program::verify::verify;
use perilune_compiler::program::{
    ArgKind, Call, Collective, CollectiveKind, Combine, ContractDims, Decision, DialectOp,
    EntryArg, EntryFn, EntryResult, Generic, Kernel, KernelOp, Layout, OpKind, Place, Program,
    Reason, ResultTarget, Rule, Slot, V,
};
use perilune_compiler::scalar::{Binary, Body, Cmp, S, ScalarOp, Unary};
use perilune_compiler::types::{DType, Type};
use perilune_plan::{Machine, Only};
use proptest::prelude::*;

/// Numbers from a seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n.max(1)
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn shape(&mut self, most: usize) -> Vec<u64> {
        (0..self.below(most + 1)).map(|_| self.pick(&[0, 1, 2, 3, 5, 8])).collect()
    }

    fn dtype(&mut self) -> DType {
        self.pick(&[
            DType::f32,
            DType::f32,
            DType::bf16,
            DType::f16,
            DType::f64,
            DType::i32,
            DType::i1,
        ])
    }

    fn float(&mut self) -> f64 {
        self.pick(&[
            0.0,
            -0.0,
            1.0,
            1e-6,
            0.1,
            -3.75e20,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ])
    }
}

/// A kernel under construction.
struct Make<'a> {
    rng: &'a mut Rng,
    types: Vec<Type>,
    ops: Vec<KernelOp>,
}

impl Make<'_> {
    fn push(&mut self, kind: OpKind, operands: Vec<V>, results: Vec<Type>) {
        self.types.extend(results.iter().cloned());
        self.ops.push(KernelOp { kind, operands, results });
    }

    fn any(&mut self) -> (V, Type) {
        let n = self.rng.below(self.types.len());
        (V(n as u32), self.types[n].clone())
    }

    fn step(&mut self) {
        match self.rng.below(9) {
            0 => self.slice(),
            1 => self.concat(),
            2 => self.pad(),
            3 => self.reshape(),
            4 => self.contract(),
            5 => self.constant(),
            6 => self.dialect(),
            _ => self.generic(),
        }
    }

    fn slice(&mut self) {
        let (v, ty) = self.any();
        let starts: Vec<u64> =
            ty.shape.iter().map(|n| self.rng.below(*n as usize + 1) as u64).collect();
        let sizes = ty.shape.iter().zip(&starts).map(|(n, s)| n - s).collect::<Vec<_>>();
        self.push(OpKind::Slice(starts), vec![v], vec![Type::new(ty.dtype, sizes)]);
    }

    fn concat(&mut self) {
        let (v, ty) = self.any();
        if ty.ndim() == 0 {
            return;
        }
        let dim = self.rng.below(ty.ndim());
        let mut shape = ty.shape.clone();
        shape[dim] *= 2;
        self.push(OpKind::Concat(dim as u64), vec![v, v], vec![Type::new(ty.dtype, shape)]);
    }

    fn pad(&mut self) {
        let (v, ty) = self.any();
        let mut amount =
            || -> Vec<u64> { ty.shape.iter().map(|_| self.rng.below(3) as u64).collect() };
        let (low, high) = (amount(), amount());
        let shape: Vec<u64> = (0..ty.ndim()).map(|d| low[d] + ty.shape[d] + high[d]).collect();
        let value = if ty.dtype.is_float() { self.rng.float() } else { 1.0 };
        let value = value.to_bits();
        self.push(OpKind::Pad { low, high, value }, vec![v], vec![Type::new(ty.dtype, shape)]);
    }

    fn reshape(&mut self) {
        let (v, ty) = self.any();
        let n = ty.elems();
        let mut shapes = vec![vec![n], vec![1, n], vec![n, 1, 1], ty.shape.clone()];
        if n % 2 == 0 {
            shapes.extend([vec![2, n / 2], vec![n / 2, 2]]);
        }
        if n == 1 {
            shapes.push(vec![]);
        }
        let shape = self.rng.pick(&shapes);
        self.push(OpKind::Reshape, vec![v], vec![Type::new(ty.dtype, shape)]);
    }

    fn contract(&mut self) {
        let (v, ty) = self.any();
        if !ty.dtype.is_float() || ty.ndim() == 0 {
            return;
        }
        let ids: Vec<u32> = (0..ty.ndim() as u32).map(|d| 3 * d + 2).collect();
        let summed = ty.ndim() - 1;
        let mut rhs = ids.clone();
        let (mut out, mut shape) = (ids[..summed].to_vec(), ty.shape[..summed].to_vec());
        if self.rng.below(2) == 0 && summed > 0 {
            // The leading dimension of the right side is one of its own.
            rhs[0] = 99;
            out.push(99);
            shape.push(ty.shape[0]);
        }
        let dims = ContractDims { lhs: ids, rhs, out };
        self.push(OpKind::Contract(dims), vec![v, v], vec![Type::new(ty.dtype, shape)]);
    }

    fn constant(&mut self) {
        let ty = Type::new(self.rng.dtype(), self.rng.shape(2));
        let splat = self.rng.below(2) == 0;
        let first = self.rng.float();
        let mut bits = Vec::new();
        for i in 0..ty.elems() {
            let float = if splat { first } else { self.rng.float() };
            let value = if ty.dtype.is_float() { float } else { f64::from(i as u32 % 2) };
            bits.push(value.to_bits());
        }
        self.push(OpKind::Constant(bits), vec![], vec![ty]);
    }

    /// A constant of a type.
    fn value(&mut self, dtype: DType, shape: &[u64]) -> V {
        let ty = Type::new(dtype, shape);
        let bits = vec![1f64.to_bits(); ty.elems() as usize];
        self.push(OpKind::Constant(bits), vec![], vec![ty]);
        V(self.types.len() as u32 - 1)
    }

    fn dialect(&mut self) {
        let ty = |dtype: DType, shape: &[u64]| Type::new(dtype, shape);
        let (f, i, r) = (self.rng.pick(&[DType::f32, DType::bf16]), DType::i32, DType::f32);
        let on = self.rng.below(2) == 0;
        let n = self.rng.below(4) as u64;
        let (op, operands, results) = match self.rng.below(10) {
            0 => (
                DialectOp::TopK { k: 2 },
                vec![ty(f, &[n, 3])],
                vec![ty(f, &[n, 2]), ty(i, &[n, 2])],
            ),
            1 => (DialectOp::ArgSort { bound: 4 }, vec![ty(i, &[n])], vec![ty(i, &[n])]),
            2 => (DialectOp::Histogram { bound: 7 }, vec![ty(i, &[n])], vec![ty(i, &[7])]),
            3 => (
                DialectOp::CumSum { exclusive: on },
                vec![ty(f, &[2, n])],
                vec![ty(f, &[2, n + u64::from(on)])],
            ),
            4 => (
                DialectOp::ScatterAdd { extent: 3 },
                vec![ty(f, &[n, 2]), ty(i, &[n])],
                vec![ty(f, &[3, 2])],
            ),
            5 => {
                let weights = if on { [2, 4, 3] } else { [2, 3, 4] };
                (
                    DialectOp::RaggedRows { transposed: on },
                    vec![ty(f, &[n, 3]), ty(f, &weights), ty(i, &[3])],
                    vec![ty(f, &[n, 4])],
                )
            }
            6 => (
                DialectOp::RaggedOuter,
                vec![ty(f, &[n, 3]), ty(f, &[n, 4]), ty(i, &[3])],
                vec![ty(f, &[2, 3, 4])],
            ),
            9 => self.collective(n),
            which => {
                let (scale, causal) = (0.1f64.to_bits(), on);
                let read = vec![ty(f, &[1, n, 2, 3]), ty(f, &[1, 3, 1, 3]), ty(f, &[1, 3, 1, 2])];
                let made = vec![ty(f, &[1, n, 2, 2]), ty(r, &[1, 2, n]), ty(r, &[2])];
                match which {
                    7 => (DialectOp::Attention { scale, causal }, read, made),
                    _ => {
                        let more = [&made[0], &made[1], &made[0]].map(Type::clone);
                        let operands = read.iter().cloned().chain(more).collect();
                        (DialectOp::AttentionGrad { scale, causal }, operands, read)
                    }
                }
            }
        };
        let operands = operands.iter().map(|ty| self.value(ty.dtype, &ty.shape)).collect();
        self.push(OpKind::Dialect(op), operands, results);
    }

    /// A collective of some ranks with its operands and results.
    fn collective(&mut self, n: u64) -> (DialectOp, Vec<Type>, Vec<Type>) {
        let ty = |dtype: DType, shape: &[u64]| Type::new(dtype, shape);
        let (f, i, ranks) = (self.rng.pick(&[DType::f32, DType::bf16]), DType::i32, n + 1);
        let (values, counts) = (vec![ty(f, &[n, 3]); 2], ty(i, &[2 * ranks]));
        let rows = |more: &[Type]| [more, &[counts.clone(), counts.clone()]].concat();
        let routed = vec![ty(f, &[5, 3])];
        let (kind, operands, results) = match self.rng.below(8) {
            0 => (CollectiveKind::AllReduce(Combine::Max), values.clone(), values),
            1 => (CollectiveKind::Reduce(Combine::Sum), values.clone(), values),
            2 => (CollectiveKind::Broadcast, values.clone(), values),
            3 => {
                let whole = vec![ty(f, &[n, 3 * ranks])];
                (CollectiveKind::AllGather { dim: 1 }, vec![ty(f, &[n, 3])], whole)
            }
            4 => (CollectiveKind::ExchangeCounts, vec![counts.clone()], vec![counts.clone()]),
            5 => (CollectiveKind::Dispatch { rows: 5 }, rows(&[ty(f, &[n, 3])]), routed),
            6 => (CollectiveKind::Combine { rows: 5 }, rows(&[ty(f, &[n, 3])]), routed),
            _ => {
                let tokens = [ty(f, &[n, 3]), ty(i, &[2 * n])];
                (CollectiveKind::DispatchTokens { rows: 5, per_token: 2 }, rows(&tokens), routed)
            }
        };
        let axes = self.rng.pick(&[&[0][..], &[1], &[0, 1]]).to_vec();
        let rooted = matches!(kind, CollectiveKind::Reduce(_) | CollectiveKind::Broadcast);
        let roots = if rooted { vec![0, n] } else { Vec::new() };
        let op = DialectOp::Collective(Collective { kind, axes, ranks, roots });
        (op, operands, results)
    }

    fn generic(&mut self) {
        let mut extents = self.rng.shape(3);
        let n_args = self.rng.below(3);
        let mut operands = Vec::new();
        let mut maps = Vec::new();
        for _ in 0..n_args {
            let (v, ty) = self.any();
            let first = extents.len() as u32;
            let constant = |d: usize, n: u64| n == 1 && d.is_multiple_of(2);
            let map = ty.shape.iter().enumerate().map(|(d, n)| match constant(d, *n) {
                true => None,
                false => Some(first + d as u32),
            });
            maps.push(map.collect::<Vec<_>>());
            extents.extend(&ty.shape);
            operands.push(v);
        }
        let mut dims: Vec<u32> = (0..extents.len() as u32).collect();
        let keep = self.rng.below(dims.len() + 1);
        while dims.len() > keep {
            dims.remove(self.rng.below(dims.len()));
        }
        dims.reverse();
        let (load, load_ty) = self.any();
        operands.push(load);
        let dtypes: Vec<DType> =
            operands[..n_args].iter().map(|v| self.types[v.0 as usize].dtype).collect();
        let mut body = random_body(self.rng, &dtypes, extents.len(), &load_ty);
        let types = body.dtypes(&dtypes, &[load_ty.dtype]);
        let result = self.rng.below(types.len());
        body.results = vec![S(result as u32)];
        let reduces = dims.len() < extents.len();
        let combine = reduces.then(|| self.rng.pick(&[Combine::Sum, Combine::Max, Combine::Min]));
        let shape: Vec<u64> = dims.iter().map(|d| extents[*d as usize]).collect();
        let g = Generic { extents, maps, out: dims, combine, body };
        self.push(OpKind::Generic(g), operands, vec![Type::new(types[result], shape)]);
    }
}

/// A body in which every scalar operation can turn up.
fn random_body(rng: &mut Rng, args: &[DType], dims: usize, load: &Type) -> Body {
    let mut b = Body::default();
    let zero = b.int(-7);
    b.push(ScalarOp::Int(1, DType::i1));
    if dims > 0 {
        b.push(ScalarOp::Index(rng.below(dims) as u32));
    }
    if rng.below(2) == 0 {
        b.push(ScalarOp::Load(0, vec![zero; load.ndim()]));
    }
    for n in 0..args.len() {
        b.arg(n as u32);
    }
    for _ in 0..rng.below(12) {
        let types = b.dtypes(args, &[load.dtype]);
        let x = S(rng.below(b.ops.len()) as u32);
        let ty = types[x.0 as usize];
        let same: Vec<S> =
            (0..types.len()).filter(|i| types[*i] == ty).map(|i| S(i as u32)).collect();
        let y = rng.pick(&same);
        let floats = [
            Unary::Neg,
            Unary::Abs,
            Unary::Sign,
            Unary::Exp,
            Unary::Log,
            Unary::Sqrt,
            Unary::Rsqrt,
            Unary::Tanh,
            Unary::Sigmoid,
            Unary::Sin,
            Unary::Cos,
            Unary::Floor,
        ];
        let arithmetic =
            [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min, Binary::Div];
        let integers = [
            Binary::And,
            Binary::Or,
            Binary::Xor,
            Binary::Shl,
            Binary::Shr,
            Binary::MulHiU,
            Binary::Rem,
        ];
        let truths = [Binary::And, Binary::Or, Binary::Xor, Binary::Max, Binary::Min];
        let orders = [Cmp::Eq, Cmp::Ne, Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge];
        b.push(match (rng.below(6), ty) {
            (0, t) if t.is_float() => ScalarOp::Unary(rng.pick(&floats), x),
            (0, DType::i32) => ScalarOp::Unary(rng.pick(&[Unary::Neg, Unary::Abs]), x),
            (0, _) => ScalarOp::Unary(Unary::Not, x),
            (1, DType::i1) => ScalarOp::Binary(rng.pick(&truths), x, y),
            (1, DType::i32) => ScalarOp::Binary(rng.pick(&integers), x, y),
            (1, _) => ScalarOp::Binary(rng.pick(&[Binary::Pow, Binary::Rem]), x, y),
            (2, DType::i1) => ScalarOp::Binary(Binary::Or, x, y),
            (2, _) => ScalarOp::Binary(rng.pick(&arithmetic), x, y),
            (3, _) => ScalarOp::Cmp(rng.pick(&orders), x, y),
            (4, _) => ScalarOp::Select(S(1), x, y),
            (_, _) if rng.below(2) == 0 => {
                let t = rng.pick(&[DType::f32, DType::bf16, DType::f16, DType::f64]);
                ScalarOp::Float(rng.float().to_bits(), t)
            }
            (_, _) => ScalarOp::Cast(x, rng.dtype()),
        });
    }
    b
}

fn random_kernel(rng: &mut Rng, name: String) -> Kernel {
    let params: Vec<Type> =
        (0..1 + rng.below(3)).map(|_| Type::new(rng.dtype(), rng.shape(3))).collect();
    let mut make = Make { rng, types: params.clone(), ops: Vec::new() };
    for _ in 0..1 + make.rng.below(6) {
        make.step();
    }
    let count = make.types.len();
    let results = (0..make.rng.below(3) + 1).map(|_| V(make.rng.below(count) as u32)).collect();
    Kernel { name, params, ops: make.ops, results }
}

fn random_decision(rng: &mut Rng) -> Decision {
    Decision {
        rule: rng.pick(Rule::ALL),
        reason: rng.pick(Reason::ALL),
        from: format!("layers.{}/\"é\" \\", rng.below(4)),
        to: String::new(),
        bytes: rng.below(1 << 40) as u64,
        rows: rng.below(9) as u64,
    }
}

/// A matrix product, and a kernel that can be its epilogue.
fn product_and_follower() -> [Kernel; 2] {
    let ty = |shape: [u64; 2]| Type::new(DType::f32, shape);
    let dims = ContractDims { lhs: vec![0, 1], rhs: vec![1, 2], out: vec![0, 2] };
    let product = KernelOp {
        kind: OpKind::Contract(dims),
        operands: vec![V(0), V(1)],
        results: vec![ty([6, 8])],
    };
    let mut body = Body::default();
    let x = body.arg(0);
    let y = body.apply(Unary::Exp, x);
    body.results.push(y);
    let (maps, out) = (vec![vec![Some(0), Some(1)]], vec![0, 1]);
    let map = Generic { extents: vec![6, 8], maps, out, combine: None, body };
    let follower =
        KernelOp { kind: OpKind::Generic(map), operands: vec![V(0)], results: vec![ty([6, 8])] };
    let kernel = |name: &str, params: Vec<Type>, op: KernelOp| {
        let results = vec![V(params.len() as u32)];
        Kernel { name: name.into(), params, ops: vec![op], results }
    };
    let product = kernel("product", vec![ty([6, 4]), ty([4, 8])], product);
    [product, kernel("follower", vec![ty([6, 8])], follower)]
}

fn some_ranks(rng: &mut Rng) -> Option<Only> {
    let text = rng.pick(&[None, Some("1 of 0"), Some("4 of 0,1")]);
    text.map(|text| text.parse().expect("ranks"))
}

fn random_program(seed: u64) -> Program {
    let rng = &mut Rng(seed);
    let names = ["map_0", "0 odd \"name\"", "x.y"];
    let mut kernels: Vec<Kernel> = names.iter().map(|n| random_kernel(rng, (*n).into())).collect();
    kernels.extend(product_and_follower());
    let mut entry = EntryFn { name: "train_step".into(), ..EntryFn::default() };
    for (k, kernel) in kernels.iter().enumerate() {
        for ty in &kernel.params {
            let kind = rng.pick(&[ArgKind::Param, ArgKind::Buffer, ArgKind::State, ArgKind::Feed]);
            let name = format!("layers.{}.w/{k} \\ é", entry.args.len());
            let shard = rng.pick(&[None, Some("0 over 1"), Some("1 over 0,1 in 3")]);
            let shard = shard.map(|text| text.parse().expect("a shard"));
            let owner = some_ranks(rng);
            entry.args.push(EntryArg { name, ty: ty.clone(), kind, shard, owner });
        }
    }
    let mut next = entry.args.len() as u32;
    for round in 0..2 {
        let mut arg = 0;
        for (k, kernel) in kernels.iter().enumerate() {
            let mut args: Vec<Slot> = (arg..arg + kernel.params.len() as u32).map(Slot).collect();
            arg += kernel.params.len() as u32;
            let epilogue = (kernel.name == "follower" && rng.below(2) == 0).then_some(6);
            if epilogue.is_some() {
                args = vec![Slot(next - 1)];
            }
            let nodes = (0..rng.below(3)).map(|n| format!("layers.{round}.q{n}/grad")).collect();
            let first_result = Slot(next);
            next += kernel.results.len() as u32;
            let decisions = (0..rng.below(3)).map(|_| random_decision(rng)).collect();
            let kernel = k as u32;
            let only = some_ranks(rng);
            let until = None;
            let call = Call { kernel, args, first_result, nodes, epilogue, only, until, decisions };
            entry.calls.push(call);
        }
    }
    let count = entry.calls.len() as u32;
    for (i, call) in entry.calls.iter_mut().enumerate() {
        let first = i as u32 + 2;
        if kernels[call.kernel as usize].collective().is_some() && first <= count {
            call.until = Some(first + rng.below((count - first) as usize + 1) as u32);
        }
    }
    entry.results = vec![
        EntryResult {
            value: Slot(next - 1),
            target: ResultTarget::Fetch("loss".into()),
            shard: Some("0 over 0".parse().expect("a shard")),
        },
        EntryResult {
            value: Slot(0),
            target: ResultTarget::Update("layers.0.w".into()),
            shard: None,
        },
    ];
    if rng.below(2) == 0 {
        let args = entry.args.len() as u32;
        let place = |s: u32| if s < args { Place::Arg(s) } else { Place::Arena(u64::from(s) * 64) };
        let places = (0..next).map(place).collect();
        entry.layout = Some(Layout { places, arena_bytes: 1 << 40 });
    }
    let forward = EntryFn { name: "forward".into(), ..EntryFn::default() };
    let mesh = rng.pick(&["", "dp=2,ep=3"]).parse().expect("a mesh");
    let machine = (rng.below(2) == 0).then(Machine::default);
    Program { name: "toy/\"train\"".into(), mesh, machine, kernels, entries: vec![entry, forward] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_reads_back(seed: u64) {
        thread_local!(static MLIR: Mlir = Mlir::new());
        let mut program = random_program(seed);
        verify(&program).unwrap();
        let text = print(&program);
        normalise(&mut program);
        verify(&program).unwrap();
        let again = MLIR.with(|mlir| read(mlir, &text)).unwrap_or_else(|e| panic!("{e}\n{text}"));
        prop_assert_eq!(&again, &program, "{}", text);
        // The text of the normal form is stable: it reads back to what it was printed from.
        let stable = print(&again);
        let twice = MLIR.with(|mlir| read(mlir, &stable)).unwrap_or_else(|e| panic!("{e}\n{stable}"));
        prop_assert!(twice == again && print(&twice) == stable, "{}", stable);
    }
}

#[test]
fn an_empty_name_is_a_name() {
    let text = "module attributes {perilune.name = \"\"} {
      func.func private @k(%a: tensor<4xf32>) -> tensor<4xf32> { return %a : tensor<4xf32> }
      func.func @main(%a: tensor<4xf32> {perilune.kind = \"feed\", perilune.name = \"\"}) ->
          (tensor<4xf32> {perilune.fetch = \"\"}) {
        %b = func.call @k(%a) : (tensor<4xf32>) -> (tensor<4xf32>) loc(\"\")
        return %b : tensor<4xf32>
      }
    }";
    let program = read(&Mlir::new(), text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((program.name.as_str(), program.entries[0].args[0].name.as_str()), ("", ""));
    assert_eq!(program.entries[0].calls[0].nodes, [""]);
}

/// Stock `mlir-opt`, where it is installed.
fn mlir_opt() -> Option<Command> {
    let prefix = std::env::var("MLIR_SYS_220_PREFIX").unwrap_or("/usr/lib/llvm-22".into());
    let path = std::path::Path::new(&prefix).join("bin/mlir-opt");
    path.exists().then(|| Command::new(path))
}

#[test]
fn stock_mlir_opt_verifies_the_text() {
    let Some(mut command) = mlir_opt() else {
        eprintln!("skipped: no mlir-opt");
        return;
    };
    let dialect = concat!(env!("CARGO_MANIFEST_DIR"), "/src/program/perilune.irdl.mlir");
    let mut text = String::new();
    for seed in 0..40 {
        text += &print(&random_program(seed * 7919));
        text += "// -----\n";
    }
    command.arg(format!("--irdl-file={dialect}")).arg("--split-input-file");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn text_that_is_no_program_is_refused_with_a_reason() {
    let mlir = Mlir::new();
    let nested = format!("module {{ {} }}", "module { ".repeat(100_000));
    let cases = [
        ("module { func.func @f() {", "text refused"),
        (nested.as_str(), "nest"),
        ("module { func.func @f() { %c = arith.constant 1 : i32 return } }", "in an entry"),
        ("module { func.func @f(%a: tensor<4xf32>) { return } }", "perilune.kind"),
        ("module { func.func private @k(%a: tensor<?xf32>) { return } }", "static extents"),
        (
            "module { func.func private @k(%a: tensor<4xf32>) -> tensor<4xf32> {
               %b = tosa.abs %a : (tensor<4xf32>) -> tensor<4xf32> return %b : tensor<4xf32> } }",
            "`tosa.abs` in a kernel",
        ),
        (
            "module { func.func private @k(%a: tensor<4xi32>) -> tensor<1xi32> {
               %b = \"perilune.histogram\"(%a) {bound = 1000000 : i64} : (tensor<4xi32>) -> tensor<1xi32>
               return %b : tensor<1xi32> } }",
            "makes no i32[1] of i32[4]",
        ),
        (
            "module { func.func private @k() -> tensor<1152921504606846976xi1> {
               %c = arith.constant dense<0> : tensor<1152921504606846976xi1>
               return %c : tensor<1152921504606846976xi1> } }",
            "a constant of more than 4096 elements",
        ),
        ("module attributes {perilune.name = \"\\FF\"} {}", "not UTF-8"),
        (
            "module { func.func @f() { call @\"\"() : () -> () return }
               func.func private @\"\"() }",
            "is not a kernel",
        ),
    ];
    for (text, reason) in cases {
        let error = read(&mlir, text).unwrap_err();
        assert!(error.message.contains(reason), "{} for {reason}", error.message);
    }
}
