//! Writes a kernel's body as MLIR text: arith, scf, llvm and nvvm operations on SSA values.
//!
//! # Invariants
//! - Integers known while writing are folded, so that the text holds what depends on the thread.
//! - Constants stand at the top of the body and dominate everything.
//! - The same calls give the same text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use perilune_plan::DType;

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ty {
    /// Truth value.
    I1,
    /// A byte moved without looking at it.
    I8,
    /// Two bytes moved without looking at them.
    I16,
    /// Tile coordinates, thread numbers, registers of matrix fragments.
    I32,
    /// Element offsets in global memory.
    I64,
    /// Arithmetic.
    F32,
    /// Storage.
    Bf16,
    /// Storage.
    F16,
    /// Pointer to global memory.
    Global,
    /// Pointer to a block's shared memory.
    Shared,
}

impl Ty {
    /// The MLIR type.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Ty::I1 => "i1",
            Ty::I8 => "i8",
            Ty::I16 => "i16",
            Ty::I32 => "i32",
            Ty::I64 => "i64",
            Ty::F32 => "f32",
            Ty::Bf16 => "bf16",
            Ty::F16 => "f16",
            Ty::Global => "!llvm.ptr<1>",
            Ty::Shared => "!llvm.ptr<3>",
        }
    }

    /// Bytes in memory.
    pub(crate) const fn bytes(self) -> u32 {
        match self {
            Ty::I1 | Ty::I8 => 1,
            Ty::I16 | Ty::Bf16 | Ty::F16 => 2,
            Ty::I32 | Ty::F32 => 4,
            Ty::I64 | Ty::Global | Ty::Shared => 8,
        }
    }

    /// The type that storage of `dtype` is read as; `None` where no generated kernel computes.
    pub(crate) const fn of(dtype: DType) -> Option<Ty> {
        match dtype {
            DType::f32 => Some(Ty::F32),
            DType::bf16 => Some(Ty::Bf16),
            DType::f16 => Some(Ty::F16),
            DType::f64 | DType::i32 | DType::i1 => None,
        }
    }
}

/// An SSA value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Val {
    id: u32,
    /// Its type.
    pub(crate) ty: Ty,
    /// Its value, if it is known while writing.
    pub(crate) known: Option<i64>,
}

impl fmt::Display for Val {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.id)
    }
}

/// How two integers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Less,
    LessOrEqual,
    Equal,
}

/// A body being written.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    constants: BTreeMap<(Ty, i64), Val>,
    head: String,
    body: String,
    next: u32,
}

impl Builder {
    /// The body's operations.
    pub(crate) fn finish(self) -> String {
        self.head + &self.body
    }

    fn value(&mut self, ty: Ty) -> Val {
        self.next += 1;
        Val { id: self.next - 1, ty, known: None }
    }

    /// A parameter of the kernel: a pointer to global memory.
    pub(crate) fn parameter(&mut self) -> Val {
        self.value(Ty::Global)
    }

    /// Writes `%result = text`.
    fn op(&mut self, ty: Ty, text: &str) -> Val {
        let result = self.value(ty);
        let _ = writeln!(self.body, "{result} = {text}");
        result
    }

    /// Writes an operation without a result.
    fn act(&mut self, text: &str) {
        self.body.push_str(text);
        self.body.push('\n');
    }

    fn constant(&mut self, ty: Ty, bits: i64, text: &str, known: Option<i64>) -> Val {
        if let Some(found) = self.constants.get(&(ty, bits)) {
            return *found;
        }
        let val = Val { known, ..self.value(ty) };
        let _ = writeln!(self.head, "{val} = arith.constant {text} : {}", ty.name());
        self.constants.insert((ty, bits), val);
        val
    }

    /// An integer constant of a type.
    pub(crate) fn int(&mut self, ty: Ty, value: i64) -> Val {
        let text = match ty {
            Ty::I1 => if value == 0 { "false" } else { "true" }.to_owned(),
            _ => value.to_string(),
        };
        if ty == Ty::I1 {
            return self.truth(&text, value);
        }
        self.constant(ty, value, &text, Some(value))
    }

    fn truth(&mut self, text: &str, value: i64) -> Val {
        if let Some(found) = self.constants.get(&(Ty::I1, value)) {
            return *found;
        }
        let val = Val { known: Some(value), ..self.value(Ty::I1) };
        let _ = writeln!(self.head, "{val} = arith.constant {text}");
        self.constants.insert((Ty::I1, value), val);
        val
    }

    /// A 32-bit integer.
    pub(crate) fn i32(&mut self, value: i64) -> Val {
        self.int(Ty::I32, value)
    }

    /// A 32-bit float.
    pub(crate) fn f32(&mut self, value: f32) -> Val {
        let bits = value.to_bits();
        self.constant(Ty::F32, i64::from(bits), &format!("0x{bits:08X}"), None)
    }

    fn two(&mut self, op: &str, a: Val, b: Val) -> Val {
        debug_assert_eq!(a.ty, b.ty, "{op}");
        self.op(a.ty, &format!("{op} {a}, {b} : {}", a.ty.name()))
    }

    /// `a + b`.
    pub(crate) fn add(&mut self, a: Val, b: Val) -> Val {
        match (a.known, b.known) {
            (Some(x), Some(y)) => self.int(a.ty, x + y),
            (Some(0), None) => b,
            (None, Some(0)) => a,
            _ => self.two("arith.addi", a, b),
        }
    }

    /// `a + b` with a known `b`.
    pub(crate) fn add_const(&mut self, a: Val, b: i64) -> Val {
        let b = self.int(a.ty, b);
        self.add(a, b)
    }

    /// `a − b`.
    pub(crate) fn sub(&mut self, a: Val, b: Val) -> Val {
        match (a.known, b.known) {
            (Some(x), Some(y)) => self.int(a.ty, x - y),
            (_, Some(0)) => a,
            _ => self.two("arith.subi", a, b),
        }
    }

    /// `a · b` with a known `b`.
    pub(crate) fn mul(&mut self, a: Val, b: i64) -> Val {
        match (a.known, b) {
            (Some(x), _) => self.int(a.ty, x * b),
            (None, 0) => self.int(a.ty, 0),
            (None, 1) => a,
            (None, _) => {
                let b = self.int(a.ty, b);
                self.two("arith.muli", a, b)
            }
        }
    }

    /// `a / b` of numbers that are not negative, with a known positive `b`.
    pub(crate) fn div(&mut self, a: Val, b: i64) -> Val {
        match (a.known, b) {
            (Some(x), _) => self.int(a.ty, x / b),
            (None, 1) => a,
            (None, _) => {
                let b = self.int(a.ty, b);
                self.two("arith.divui", a, b)
            }
        }
    }

    /// `a mod b` of numbers that are not negative, with a known positive `b`.
    pub(crate) fn rem(&mut self, a: Val, b: i64) -> Val {
        match (a.known, b) {
            (Some(x), _) => self.int(a.ty, x % b),
            (None, 1) => self.int(a.ty, 0),
            (None, _) => {
                let b = self.int(a.ty, b);
                self.two("arith.remui", a, b)
            }
        }
    }

    /// The smaller of two signed integers.
    pub(crate) fn min(&mut self, a: Val, b: Val) -> Val {
        match (a.known, b.known) {
            (Some(x), Some(y)) => self.int(a.ty, x.min(y)),
            _ => self.two("arith.minsi", a, b),
        }
    }

    /// The larger of two signed integers.
    pub(crate) fn max(&mut self, a: Val, b: Val) -> Val {
        match (a.known, b.known) {
            (Some(x), Some(y)) => self.int(a.ty, x.max(y)),
            _ => self.two("arith.maxsi", a, b),
        }
    }

    /// Comparison of signed integers.
    pub(crate) fn compare(&mut self, how: Compare, a: Val, b: Val) -> Val {
        if let (Some(x), Some(y)) = (a.known, b.known) {
            let holds = match how {
                Compare::Less => x < y,
                Compare::LessOrEqual => x <= y,
                Compare::Equal => x == y,
            };
            return self.int(Ty::I1, i64::from(holds));
        }
        let name = match how {
            Compare::Less => "slt",
            Compare::LessOrEqual => "sle",
            Compare::Equal => "eq",
        };
        self.op(Ty::I1, &format!("arith.cmpi {name}, {a}, {b} : {}", a.ty.name()))
    }

    /// `a < b`.
    pub(crate) fn less(&mut self, a: Val, b: Val) -> Val {
        self.compare(Compare::Less, a, b)
    }

    /// Both hold.
    pub(crate) fn and(&mut self, a: Val, b: Val) -> Val {
        match (a.known, b.known) {
            (Some(1), _) => b,
            (_, Some(1)) => a,
            (Some(0), _) | (_, Some(0)) => self.int(Ty::I1, 0),
            _ => self.two("arith.andi", a, b),
        }
    }

    /// `if choice { a } else { b }`.
    pub(crate) fn select(&mut self, choice: Val, a: Val, b: Val) -> Val {
        match choice.known {
            Some(1) => a,
            Some(_) => b,
            None if a == b => a,
            None => {
                let ty = a.ty.name();
                self.op(a.ty, &format!("arith.select {choice}, {a}, {b} : {ty}"))
            }
        }
    }

    /// A 32-bit integer that is not negative, as a 64-bit one.
    pub(crate) fn wide(&mut self, a: Val) -> Val {
        match a.known {
            Some(x) => self.int(Ty::I64, x),
            None => self.op(Ty::I64, &format!("arith.extui {a} : i32 to i64")),
        }
    }

    /// A float operation of two values, `mulf` or `addf` and the like.
    pub(crate) fn float(&mut self, op: &str, a: Val, b: Val) -> Val {
        self.two(&format!("arith.{op}"), a, b)
    }

    /// Equality of floats; false for NaN.
    pub(crate) fn float_equal(&mut self, a: Val, b: Val) -> Val {
        self.op(Ty::I1, &format!("arith.cmpf oeq, {a}, {b} : f32"))
    }

    /// A call of an LLVM intrinsic on f32.
    pub(crate) fn intrinsic(&mut self, name: &str, args: &[Val]) -> Val {
        let names: Vec<String> = args.iter().map(Val::to_string).collect();
        let types: Vec<&str> = args.iter().map(|a| a.ty.name()).collect();
        let (names, types) = (names.join(", "), types.join(", "));
        self.op(Ty::F32, &format!("llvm.call_intrinsic \"{name}\"({names}) : ({types}) -> f32"))
    }

    /// `a · b + c`, rounded once.
    pub(crate) fn fma(&mut self, a: Val, b: Val, c: Val) -> Val {
        self.intrinsic("llvm.fma", &[a, b, c])
    }

    /// The larger of two floats; NaN if one is.
    pub(crate) fn maximum(&mut self, a: Val, b: Val) -> Val {
        self.intrinsic("llvm.maximum", &[a, b])
    }

    /// `2^x`, NVIDIA's approximation: relative error 2⁻²².
    pub(crate) fn exp2(&mut self, x: Val) -> Val {
        self.intrinsic("llvm.nvvm.ex2.approx.ftz", &[x])
    }

    /// `log2 x`, NVIDIA's approximation: absolute error 2⁻²² for x in [½, 2], relative outside.
    pub(crate) fn log2(&mut self, x: Val) -> Val {
        self.intrinsic("llvm.nvvm.lg2.approx.ftz.f", &[x])
    }

    /// A stored number as f32.
    pub(crate) fn widen(&mut self, x: Val) -> Val {
        match x.ty {
            Ty::F32 => x,
            ty => self.op(Ty::F32, &format!("arith.extf {x} : {} to f32", ty.name())),
        }
    }

    /// An f32 rounded to a storage type, to nearest even.
    pub(crate) fn narrow(&mut self, x: Val, ty: Ty) -> Val {
        match ty {
            Ty::F32 => x,
            ty => self.op(ty, &format!("arith.truncf {x} : f32 to {}", ty.name())),
        }
    }

    /// A pointer moved by bytes.
    pub(crate) fn at(&mut self, pointer: Val, bytes: Val) -> Val {
        if bytes.known == Some(0) {
            return pointer;
        }
        let (ptr, index) = (pointer.ty.name(), bytes.ty.name());
        let text = format!("llvm.getelementptr {pointer}[{bytes}] : ({ptr}, {index}) -> {ptr}, i8");
        self.op(pointer.ty, &text)
    }

    /// A pointer moved by a known number of bytes.
    pub(crate) fn at_const(&mut self, pointer: Val, bytes: i64) -> Val {
        if bytes == 0 {
            return pointer;
        }
        let ptr = pointer.ty.name();
        self.op(
            pointer.ty,
            &format!("llvm.getelementptr {pointer}[{bytes}] : ({ptr}) -> {ptr}, i8"),
        )
    }

    /// Loads one value.
    pub(crate) fn load(&mut self, pointer: Val, ty: Ty) -> Val {
        let (align, ptr) = (ty.bytes(), pointer.ty.name());
        let text =
            format!("llvm.load {pointer} {{alignment = {align} : i64}} : {ptr} -> {}", ty.name());
        self.op(ty, &text)
    }

    /// Stores one value.
    pub(crate) fn store(&mut self, value: Val, pointer: Val) {
        let (ty, align, ptr) = (value.ty.name(), value.ty.bytes(), pointer.ty.name());
        self.act(&format!(
            "llvm.store {value}, {pointer} {{alignment = {align} : i64}} : {ty}, {ptr}"
        ));
    }

    /// Loads `count` neighbours with one access aligned to all of them.
    pub(crate) fn load_vector(&mut self, pointer: Val, ty: Ty, count: u32) -> Vec<Val> {
        if count == 1 {
            return vec![self.load(pointer, ty)];
        }
        let (elem, align, ptr) = (ty.name(), ty.bytes() * count, pointer.ty.name());
        let vector = format!("vector<{count}x{elem}>");
        let text = format!("llvm.load {pointer} {{alignment = {align} : i64}} : {ptr} -> {vector}");
        let whole = self.op(ty, &text);
        let lane = |i: u32| format!("vector.extract {whole}[{i}] : {elem} from {vector}");
        (0..count).map(|i| self.op(ty, &lane(i))).collect()
    }

    /// Stores neighbours with one access aligned to all of them.
    pub(crate) fn store_vector(&mut self, values: &[Val], pointer: Val) {
        if let [value] = values {
            return self.store(*value, pointer);
        }
        let (count, ty) = (values.len() as u32, values[0].ty);
        let vector = format!("vector<{count}x{}>", ty.name());
        let names: Vec<String> = values.iter().map(Val::to_string).collect();
        let whole = self.op(ty, &format!("vector.from_elements {} : {vector}", names.join(", ")));
        let (align, ptr) = (ty.bytes() * count, pointer.ty.name());
        self.act(&format!(
            "llvm.store {whole}, {pointer} {{alignment = {align} : i64}} : {vector}, {ptr}"
        ));
    }

    /// The address of a symbol in shared memory.
    pub(crate) fn shared_symbol(&mut self, name: &str) -> Val {
        self.op(Ty::Shared, &format!("llvm.mlir.addressof @{name} : !llvm.ptr<3>"))
    }

    /// The thread's number in its block, along x.
    pub(crate) fn thread(&mut self) -> Val {
        self.op(Ty::I32, "nvvm.read.ptx.sreg.tid.x : i32")
    }

    /// The block's number, along x.
    pub(crate) fn block(&mut self) -> Val {
        self.op(Ty::I32, "nvvm.read.ptx.sreg.ctaid.x : i32")
    }

    /// Waits for every thread of the block; memory written before is seen after.
    pub(crate) fn barrier(&mut self) {
        self.act("nvvm.barrier");
    }

    /// Waits for every thread of the warp; memory written before is seen after.
    pub(crate) fn warp_barrier(&mut self) {
        let all = self.i32(-1);
        self.act(&format!("nvvm.bar.warp.sync {all} : i32"));
    }

    /// The value of the lane whose number differs in the bits of `mask`.
    pub(crate) fn butterfly(&mut self, value: Val, mask: i64) -> Val {
        let (all, mask, clamp) = (self.i32(-1), self.i32(mask), self.i32(31));
        self.op(
            Ty::F32,
            &format!("nvvm.shfl.sync bfly {all}, {value}, {mask}, {clamp} : f32 -> f32"),
        )
    }

    /// Starts an asynchronous copy of `size` bytes (4, 8 or 16) to shared memory, of which the
    /// first `read` come from global memory and the rest are zero.
    pub(crate) fn copy_async(&mut self, to: Val, from: Val, size: u32, read: Option<Val>) {
        let cache = if size == 16 { "cg" } else { "ca" };
        let (value, ty) = match read {
            Some(read) => (format!(", {read}"), ", i32"),
            None => (String::new(), ""),
        };
        self.act(&format!(
            "nvvm.cp.async.shared.global {to}, {from}, {size}, cache = {cache}{value} : \
             !llvm.ptr<3>, !llvm.ptr<1>{ty}"
        ));
    }

    /// Ends a group of asynchronous copies.
    pub(crate) fn copy_commit(&mut self) {
        self.act("nvvm.cp.async.commit.group");
    }

    /// Waits until at most `pending` of this thread's groups of copies are under way.
    pub(crate) fn copy_wait(&mut self, pending: u32) {
        self.act(&format!("nvvm.cp.async.wait.group {pending}"));
    }

    /// Loads `count` (2 or 4) 8 × 8 matrices of 16-bit elements; every lane names one row.
    pub(crate) fn load_matrices(&mut self, row: Val, count: u32, transposed: bool) -> Vec<Val> {
        let layout = if transposed { "col" } else { "row" };
        let parts = vec!["i32"; count as usize].join(", ");
        let whole = self.op(
            Ty::I32,
            &format!(
                "nvvm.ldmatrix {row} {{num = {count} : i32, layout = #nvvm.mma_layout<{layout}>, \
                 shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, \
                 eltType = #nvvm.ld_st_matrix_elt_type<b16>}} : (!llvm.ptr<3>) -> \
                 !llvm.struct<({parts})>"
            ),
        );
        self.fields(whole, count, Ty::I32)
    }

    fn fields(&mut self, whole: Val, count: u32, ty: Ty) -> Vec<Val> {
        let parts = vec![ty.name(); count as usize].join(", ");
        let field = |i: u32| format!("llvm.extractvalue {whole}[{i}] : !llvm.struct<({parts})>");
        (0..count).map(|i| self.op(ty, &field(i))).collect()
    }

    /// `C += A · B` of a warp: m16n8k16, 16-bit operands of type `ty`, f32 accumulation.
    pub(crate) fn mma(&mut self, ty: Ty, a: &[Val], b: &[Val], c: &[Val]) -> Vec<Val> {
        // MLIR wants f16 fragments as pairs and bf16 ones as bits.
        let register = if ty == Ty::F16 { "vector<2xf16>" } else { "i32" };
        let [a, b] = [a, b].map(|fragment| match ty {
            Ty::F16 => fragment.iter().map(|v| self.pair_of_bits(*v)).collect(),
            _ => fragment.to_vec(),
        });
        let list = |vals: &[Val]| vals.iter().map(Val::to_string).collect::<Vec<_>>().join(", ");
        let (elem, a, b, c) = (ty.name(), list(&a), list(&b), list(c));
        let whole = self.op(
            Ty::F32,
            &format!(
                "nvvm.mma.sync A[{a}] B[{b}] C[{c}] {{layoutA = #nvvm.mma_layout<row>, \
                 layoutB = #nvvm.mma_layout<col>, multiplicandAPtxType = #nvvm.mma_type<{elem}>, \
                 multiplicandBPtxType = #nvvm.mma_type<{elem}>, \
                 shape = #nvvm.shape<m = 16, n = 8, k = 16>}} : ({register}, {register}, f32) -> \
                 !llvm.struct<(f32, f32, f32, f32)>"
            ),
        );
        self.fields(whole, 4, Ty::F32)
    }

    /// 32 bits as two f16.
    fn pair_of_bits(&mut self, bits: Val) -> Val {
        self.op(Ty::I32, &format!("llvm.bitcast {bits} : i32 to vector<2xf16>"))
    }

    /// `for i in from .. to` carrying values; `body` gets `i` and the values and gives the next.
    pub(crate) fn repeat(
        &mut self,
        (from, to): (Val, Val),
        carried: &[Val],
        body: impl FnOnce(&mut Builder, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let step = self.i32(1);
        let index = self.value(Ty::I32);
        let inner: Vec<Val> = carried.iter().map(|v| self.value(v.ty)).collect();
        let outer: Vec<Val> = carried.iter().map(|v| self.value(v.ty)).collect();
        let types: Vec<&str> = carried.iter().map(|v| v.ty.name()).collect();
        let names = |vals: &[Val]| vals.iter().map(Val::to_string).collect::<Vec<_>>().join(", ");
        let mut open = String::new();
        if !outer.is_empty() {
            let _ = write!(open, "{} = ", names(&outer));
        }
        let _ = write!(open, "scf.for {index} = {from} to {to} step {step}");
        if !outer.is_empty() {
            let pairs: Vec<String> =
                inner.iter().zip(carried).map(|(i, c)| format!("{i} = {c}")).collect();
            let _ = write!(open, " iter_args({}) -> ({})", pairs.join(", "), types.join(", "));
        }
        self.act(&format!("{open} : i32 {{"));
        let next = body(self, index, &inner);
        debug_assert_eq!(next.len(), carried.len());
        if !next.is_empty() {
            let text = format!("scf.yield {} : {}", names(&next), types.join(", "));
            self.act(&text);
        }
        self.act("}");
        outer
    }

    /// Does `body` where `condition` holds.
    pub(crate) fn when(&mut self, condition: Val, body: impl FnOnce(&mut Builder)) {
        match condition.known {
            Some(0) => {}
            Some(_) => body(self),
            None => {
                self.act(&format!("scf.if {condition} {{"));
                body(self);
                self.act("}");
            }
        }
    }

    /// Where `condition` holds, what `body` makes of `values`; elsewhere `values`.
    pub(crate) fn replace_when(
        &mut self,
        condition: Val,
        values: &[Val],
        body: impl FnOnce(&mut Builder) -> Vec<Val>,
    ) -> Vec<Val> {
        match condition.known {
            Some(0) => return values.to_vec(),
            Some(_) => return body(self),
            None => {}
        }
        let results: Vec<Val> = values.iter().map(|v| self.value(v.ty)).collect();
        let names = |vals: &[Val]| vals.iter().map(Val::to_string).collect::<Vec<_>>().join(", ");
        let types: Vec<&str> = values.iter().map(|v| v.ty.name()).collect();
        let types = types.join(", ");
        self.act(&format!("{} = scf.if {condition} -> ({types}) {{", names(&results)));
        let new = body(self);
        self.act(&format!("scf.yield {} : {types}\n}} else {{", names(&new)));
        self.act(&format!("scf.yield {} : {types}\n}}", names(values)));
        results
    }
}
