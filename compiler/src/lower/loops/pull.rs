//! Pull-style code generation: the element of a value at an index, from the elements it needs.
//!
//! # Invariants
//! - `element(v, at)` reads parameters only inside their extents: what a pad or a concatenation
//!   does not cover is clamped and selected away, and computed indices are clamped.
//! - Lanes follow the index: an index that carries lanes gives a vector, any other a scalar.

use std::collections::{BTreeMap, HashMap};

use super::emit::{Elem, Emitter, Ty, Val};
use super::index::{Index, Lin, Source, Var, VarInfo, flatten};
use super::memory;
use crate::diagnostic::InternalError;
use crate::program::{Generic, Kernel, OpKind, V};
use crate::scalar::{Cmp, S, ScalarOp};
use crate::types::{DType, Type};

/// Lanes of a vector: 128 bits of f32.
pub(crate) const LANES: u32 = 4;

/// Where a value comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Def {
    /// A kernel parameter.
    Param(usize),
    /// The only result of an op.
    Op(usize),
}

/// Threads that share the lanes of a row (a warp).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Team {
    /// Which of them this is.
    pub(crate) rank: Val,
    /// How many.
    pub(crate) threads: u32,
}

/// Code generation of one kernel.
pub(crate) struct Pull<'k> {
    pub(crate) kernel: &'k Kernel,
    pub(crate) defs: Vec<Def>,
    pub(crate) types: Vec<&'k Type>,
    pub(crate) emit: Emitter,
    /// Memory of each kernel argument: parameters, then results.
    pub(crate) memory: Vec<Val>,
    /// Memory of each constant whose elements differ.
    tables: BTreeMap<V, Val>,
    /// Computed indices already in a variable.
    computed: HashMap<(Vec<Val>, u64), Var>,
    quotients: HashMap<(Lin, i64), Var>,
    /// Clamped neighbours already in a variable.
    clamps: HashMap<(Lin, i64), Var>,
    /// Lane groups computed side by side: the lane variable, how many there are, and which one is
    /// being written.
    pub(crate) groups: Option<(Var, u32, u32)>,
    /// Threads that share a row's lanes; none on the CPU.
    pub(crate) team: Option<Team>,
    /// Depth from which the threads of the team follow their own indices.
    pub(crate) alone_from: usize,
    /// No vectors: an f64 is somewhere in the kernel.
    pub(crate) scalar_only: bool,
}

impl<'k> Pull<'k> {
    /// Starts a kernel.
    pub(crate) fn new(kernel: &'k Kernel) -> Result<Self, InternalError> {
        let mut defs: Vec<Def> = (0..kernel.params.len()).map(Def::Param).collect();
        let mut types: Vec<&Type> = kernel.params.iter().collect();
        for (i, op) in kernel.ops.iter().enumerate() {
            if op.results.len() != 1 {
                return Err(InternalError::new(
                    "loops",
                    "an op with several results in a loop kernel",
                ));
            }
            defs.push(Def::Op(i));
            types.push(&op.results[0]);
        }
        let scalar_only = types.iter().any(|t| t.dtype == DType::f64);
        let mut emit = Emitter::new();
        let args = kernel.params.len() + kernel.results.len();
        let memory = (0..args).map(|_| emit.argument(Elem::Index)).collect();
        let mut pull = Pull {
            kernel,
            defs,
            types,
            emit,
            memory,
            computed: HashMap::new(),
            quotients: HashMap::new(),
            clamps: HashMap::new(),
            groups: None,
            team: None,
            alone_from: usize::MAX,
            scalar_only,
            tables: BTreeMap::new(),
        };
        pull.fill_tables();
        Ok(pull)
    }

    /// Puts the constants whose elements differ on the stack, before anything reads them.
    pub(crate) fn fill_tables(&mut self) {
        for (i, op) in self.kernel.ops.iter().enumerate() {
            let OpKind::Constant(bits) = &op.kind else { continue };
            if bits.iter().all(|b| *b == bits[0]) {
                continue;
            }
            let v = V((self.kernel.params.len() + i) as u32);
            let ty = self.ty(v);
            let memref = memory::memref(ty.dtype, ty.elems());
            let any = Ty { elem: Elem::Index, lanes: 1 };
            let table = self.emit.effect_value(any, &format!("memref.alloca() : {memref}"));
            let slot = memory::Slot::new(table, ty);
            for (k, b) in bits.iter().enumerate() {
                let val = self.constant_value(*b, ty.dtype);
                memory::store(&mut self.emit, slot, &Lin::constant(k as i64), val);
            }
            self.tables.insert(v, table);
        }
    }

    fn constant_value(&mut self, bits: u64, dtype: DType) -> Val {
        let (value, ty) = (f64::from_bits(bits), Ty { elem: Elem::compute(dtype), lanes: 1 });
        let val = match ty.elem.is_float() {
            true => self.emit.float(value, ty),
            false => self.emit.int(value as i64, ty),
        };
        self.emit.round(val, dtype)
    }

    fn table_element(&mut self, v: V, bits: &[u64], at: &Index) -> Val {
        let ty = self.ty(v);
        match self.tables.get(&v).copied() {
            Some(table) => self.load(memory::Slot::new(table, ty), ty, at),
            None => self.constant_value(bits.first().copied().unwrap_or(0), ty.dtype),
        }
    }

    /// Type of a value.
    pub(crate) fn ty(&self, v: V) -> &'k Type {
        self.types[v.0 as usize]
    }

    /// The element of `v` at an index, with the lanes of the index.
    pub(crate) fn element(&mut self, v: V, at: &Index) -> Result<Val, InternalError> {
        if let Some(val) = self.emit.known(v, at) {
            return Ok(val);
        }
        if self.ty(v).elems() == 0 {
            // There is no such element: whoever asks selects it away.
            return Ok(self.constant_value(0, self.ty(v).dtype));
        }
        let val = match self.defs[v.0 as usize] {
            Def::Param(p) => {
                let ty = self.ty(v);
                self.load(memory::Slot::new(self.memory[p], ty), ty, at)
            }
            Def::Op(i) => self.op_element(v, i, at)?,
        };
        self.emit.remember(v, at, val);
        Ok(val)
    }

    fn op_element(&mut self, v: V, op: usize, at: &Index) -> Result<Val, InternalError> {
        let kernel = self.kernel;
        let op = &kernel.ops[op];
        match &op.kind {
            OpKind::Generic(g) if g.combine.is_some() => self.reduce(v, g, &op.operands, at),
            OpKind::Generic(g) => {
                let mut iter = vec![Lin::default(); g.extents.len()];
                for (d, lin) in g.out.iter().zip(at) {
                    iter[*d as usize] = lin.clone();
                }
                let val = self.body(g, &op.operands, &iter)?;
                Ok(self.emit.round(val, op.results[0].dtype))
            }
            OpKind::Slice(first) => {
                let at = at.iter().zip(first).map(|(l, f)| l.offset(*f as i64)).collect();
                self.element(op.operands[0], &at)
            }
            OpKind::Concat(dim) => self.concat(&op.operands, *dim as usize, at),
            OpKind::Pad { low, value, .. } => {
                self.pad(op.operands[0], low, f64::from_bits(*value), at)
            }
            OpKind::Reshape => {
                let to = self.ty(op.operands[0]).shape.clone();
                let at = self.reindex(flatten(at, &op.results[0].shape), &to);
                self.element(op.operands[0], &at)
            }
            OpKind::Constant(bits) => Ok(self.table_element(v, bits, at)),
            OpKind::Contract(_) | OpKind::Dialect(_) => {
                Err(InternalError::new("loops", "a plan step inside a loop kernel"))
            }
        }
    }

    /// The body of a generic at an iteration point.
    pub(crate) fn body(
        &mut self,
        g: &Generic,
        operands: &[V],
        iter: &[Lin],
    ) -> Result<Val, InternalError> {
        let result = g.body.results[0];
        let mut live = vec![false; g.body.ops.len()];
        live[result.0 as usize] = true;
        for i in (0..g.body.ops.len()).rev() {
            if live[i] {
                g.body.ops[i].operands(&mut |s| live[s.0 as usize] = true);
            }
        }
        let mut vals: Vec<Option<(Val, DType)>> = vec![None; g.body.ops.len()];
        for (i, op) in g.body.ops.iter().enumerate() {
            if live[i] {
                vals[i] = Some(self.scalar_op(op, &vals, (g, operands, iter))?);
            }
        }
        vals[result.0 as usize]
            .map(|v| v.0)
            .ok_or_else(|| InternalError::new("loops", "a body that yields nothing"))
    }

    fn scalar_op(
        &mut self,
        op: &ScalarOp,
        vals: &[Option<(Val, DType)>],
        (g, operands, iter): (&Generic, &[V], &[Lin]),
    ) -> Result<(Val, DType), InternalError> {
        let get = |s: &S| {
            vals.get(s.0 as usize)
                .copied()
                .flatten()
                .ok_or_else(|| InternalError::new("loops", "a scalar used before it is defined"))
        };
        Ok(match op {
            ScalarOp::Arg(n) => {
                let operand = operands[*n as usize];
                let map = &g.maps[*n as usize];
                let at: Index = map
                    .iter()
                    .map(|d| d.map_or(Lin::default(), |d| iter[d as usize].clone()))
                    .collect();
                (self.element(operand, &at)?, self.ty(operand).dtype)
            }
            ScalarOp::Float(bits, dtype) => {
                let ty = Ty { elem: Elem::compute(*dtype), lanes: 1 };
                (self.emit.float(f64::from_bits(*bits), ty), *dtype)
            }
            ScalarOp::Int(value, dtype) => {
                (self.emit.int(*value, Ty { elem: Elem::compute(*dtype), lanes: 1 }), *dtype)
            }
            ScalarOp::Index(d) => (self.index_as_i32(&iter[*d as usize]), DType::i32),
            ScalarOp::Load(n, at) => {
                let operand = operands[g.maps.len() + *n as usize];
                let shape = &self.ty(operand).shape;
                let mut index = Index::new();
                for (s, extent) in at.iter().zip(shape) {
                    let val = get(s)?.0;
                    index.push(self.computed_index(&[val], *extent));
                }
                (self.element(operand, &index)?, self.ty(operand).dtype)
            }
            ScalarOp::Unary(f, x) => {
                let (x, dtype) = get(x)?;
                (self.emit.unary(*f, x), dtype)
            }
            ScalarOp::Binary(f, x, y) => {
                let ((x, dtype), (y, _)) = (get(x)?, get(y)?);
                (self.emit.binary(*f, x, y), dtype)
            }
            ScalarOp::Cmp(cmp, x, y) => {
                let ((x, _), (y, _)) = (get(x)?, get(y)?);
                (self.emit.compare(*cmp, x, y), DType::i1)
            }
            ScalarOp::Select(c, x, y) => {
                let ((c, _), (x, dtype), (y, _)) = (get(c)?, get(x)?, get(y)?);
                (self.emit.select(c, x, y), dtype)
            }
            ScalarOp::Cast(x, to) => {
                let (x, from) = get(x)?;
                (self.emit.cast(x, from, *to), *to)
            }
        })
    }

    /// Element of a memory: a vector load where lanes are neighbours in memory, one load where
    /// they coincide, else one load per lane.
    fn load(&mut self, slot: memory::Slot, ty: &Type, at: &Index) -> Val {
        let flat = flatten(at, &ty.shape);
        if !flat.has_lanes(&self.emit.vars) {
            return memory::load(&mut self.emit, slot, &flat, 1);
        }
        if flat.lane_stride(&self.emit.vars) == Some(1) && ty.dtype != DType::i1 {
            return memory::load(&mut self.emit, slot, &flat, LANES);
        }
        let parts: Vec<Val> =
            (0..LANES).map(|k| memory::load_lane(&mut self.emit, slot, &flat, k)).collect();
        self.emit.gather(&parts)
    }

    /// An index as i32 values.
    fn index_as_i32(&mut self, lin: &Lin) -> Val {
        if !lin.has_lanes(&self.emit.vars) {
            return self.lane_as_i32(lin, 0);
        }
        match lin.lane_stride(&self.emit.vars) {
            Some(stride) => {
                let first = self.lane_as_i32(lin, 0);
                let ty = Ty { elem: Elem::I32, lanes: LANES };
                let steps: Vec<String> =
                    (0..i64::from(LANES)).map(|k| (k * stride).to_string()).collect();
                let text = format!("arith.constant dense<[{}]> : {ty}", steps.join(", "));
                let steps = self.emit.op_at(0, ty, text);
                self.emit.two("arith.addi", first, steps)
            }
            None => {
                let parts: Vec<Val> = (0..LANES).map(|k| self.lane_as_i32(lin, k)).collect();
                self.emit.gather(&parts)
            }
        }
    }

    /// An index in one lane as an i32 value.
    fn lane_as_i32(&mut self, lin: &Lin, lane: u32) -> Val {
        let index = self.emit.index_value(lin, lane);
        self.emit.convert("arith.index_cast", index, Elem::I32)
    }

    /// Computed i32 values as an index clamped to `0..extent`.
    pub(crate) fn computed_index(&mut self, vals: &[Val], extent: u64) -> Lin {
        let key = (vals.to_vec(), extent);
        if let Some(var) = self.computed.get(&key) {
            return Lin::var(*var);
        }
        let val = vals[0];
        let hi = extent.saturating_sub(1) as i64;
        let ty = val.ty;
        let (zero, top) = (self.emit.int(0, ty), self.emit.int(hi.min(i64::from(i32::MAX)), ty));
        let low = self.emit.two("arith.maxsi", val, zero);
        let clamped = self.emit.two("arith.minsi", low, top);
        let index = Ty { elem: Elem::Index, lanes: 1 };
        let each: Vec<String> = (0..ty.lanes)
            .map(|k| {
                let lane = self.emit.lane(clamped, k);
                self.emit
                    .op(index, &[lane], format!("arith.index_cast {lane} : i32 to index"))
                    .to_string()
            })
            .collect();
        let source = match each.as_slice() {
            [one] => Source::Uniform(one.clone()),
            _ => Source::Each(each),
        };
        let var = self.emit.var(VarInfo { source, depth: clamped.depth, lo: 0, hi, align: 1 });
        self.computed.insert(key, var);
        Lin::var(var)
    }

    /// A row-major position as an index into another shape.
    pub(crate) fn reindex(&mut self, flat: Lin, shape: &[u64]) -> Index {
        let mut rest = flat;
        let mut out = vec![Lin::default(); shape.len()];
        let mut outer: i64 = shape.iter().map(|d| *d as i64).product();
        if outer == 0 {
            return out;
        }
        for (d, extent) in shape.iter().enumerate() {
            outer /= *extent as i64;
            if d + 1 == shape.len()
                || *extent == 1 && outer > 1 && rest.range(&self.emit.vars).1 < outer
            {
                if d + 1 == shape.len() {
                    out[d] = rest.clone();
                }
                continue;
            }
            let (q, r) = self.div_rem(&rest, outer);
            out[d] = q;
            rest = r;
        }
        out
    }

    /// Quotient and remainder of a non-negative expression.
    pub(crate) fn div_rem(&mut self, lin: &Lin, n: i64) -> (Lin, Lin) {
        if n == 1 {
            return (lin.clone(), Lin::default());
        }
        if let Some(parts) = lin.split(n, &self.emit.vars) {
            return parts;
        }
        let q = Lin::var(self.quotient(lin, n));
        let r = lin.add(&q.scale(-n));
        // The remainder is bounded by `n`, which the sum does not show; name it so that it is known.
        let depth = r.depth(&self.emit.vars);
        let source = self.source_of(&r);
        let align =
            if lin.multiple_of(i64::from(LANES), &self.emit.vars) && n % i64::from(LANES) == 0 {
                i64::from(LANES)
            } else {
                1
            };
        let var = self.emit.var(VarInfo { source, depth, lo: 0, hi: n - 1, align });
        (q, Lin::var(var))
    }

    fn quotient(&mut self, lin: &Lin, n: i64) -> Var {
        let key = (lin.clone(), n);
        if let Some(var) = self.quotients.get(&key) {
            return *var;
        }
        let index = Ty { elem: Elem::Index, lanes: 1 };
        let (lo, hi) = lin.range(&self.emit.vars);
        let by = self.emit.index_const(n);
        let lanes = i64::from(LANES);
        let together = lin.lane_stride(&self.emit.vars) == Some(1)
            && lin.multiple_of(lanes, &self.emit.vars)
            && n % lanes == 0;
        let count = if lin.has_lanes(&self.emit.vars) && !together { LANES } else { 1 };
        let mut depth = 0;
        let each: Vec<String> = (0..count)
            .map(|k| {
                let value = self.emit.index_value(lin, k);
                let q =
                    self.emit.op(index, &[value, by], format!("arith.divui {value}, {by} : index"));
                depth = q.depth;
                q.to_string()
            })
            .collect();
        let source = if count == 1 { Source::Uniform(each[0].clone()) } else { Source::Each(each) };
        let info = VarInfo { source, depth, lo: lo.max(0) / n, hi: hi.max(0) / n, align: 1 };
        let var = self.emit.var(info);
        self.quotients.insert(key, var);
        var
    }

    fn source_of(&mut self, lin: &Lin) -> Source {
        if !lin.has_lanes(&self.emit.vars) {
            return Source::Uniform(self.emit.index_value(lin, 0).to_string());
        }
        if lin.lane_stride(&self.emit.vars) == Some(1) {
            return Source::Lanes(self.emit.index_value(lin, 0).to_string());
        }
        Source::Each((0..LANES).map(|k| self.emit.index_value(lin, k).to_string()).collect())
    }

    /// An element of a concatenation: of the one operand the index can fall in, else selected.
    fn concat(&mut self, operands: &[V], dim: usize, at: &Index) -> Result<Val, InternalError> {
        let (lo, hi) = at[dim].range(&self.emit.vars);
        let mut start = 0i64;
        let mut covering: Vec<(V, i64, i64)> = Vec::new();
        for v in operands {
            let extent = self.ty(*v).shape[dim] as i64;
            if extent > 0 && start <= hi && lo < start + extent {
                covering.push((*v, start, extent));
            }
            start += extent;
        }
        let mut out: Option<Val> = None;
        for (v, start, extent) in covering.iter().rev() {
            let mut inner = at.clone();
            inner[dim] = if covering.len() == 1 {
                at[dim].offset(-start)
            } else {
                self.clamped(&at[dim].offset(-start), *extent)
            };
            let val = self.element(*v, &inner)?;
            out = Some(match out {
                None => val,
                Some(later) => {
                    let inside = self.compare_index(&at[dim], Cmp::Lt, start + extent);
                    self.emit.select(inside, val, later)
                }
            });
        }
        out.ok_or_else(|| {
            InternalError::new("loops", "an index outside every operand of a concatenation")
        })
    }

    fn pad(&mut self, v: V, low: &[u64], value: f64, at: &Index) -> Result<Val, InternalError> {
        let ty = self.ty(v);
        let compute = Ty { elem: Elem::compute(ty.dtype), lanes: 1 };
        let fill = if compute.elem.is_float() {
            self.emit.float(value, compute)
        } else {
            self.emit.int(value as i64, compute)
        };
        let fill = self.emit.round(fill, ty.dtype);
        let mut inner = Index::new();
        let mut inside: Option<Val> = None;
        for ((lin, low), extent) in at.iter().zip(low).zip(&ty.shape) {
            let shifted = lin.offset(-(*low as i64));
            let extent = *extent as i64;
            let (lo, hi) = shifted.range(&self.emit.vars);
            if hi < 0 || lo >= extent || extent == 0 {
                return Ok(fill);
            }
            let mut tests = Vec::new();
            if lo < 0 {
                tests.push(self.compare_index(&shifted, Cmp::Ge, 0));
            }
            if hi >= extent {
                tests.push(self.compare_index(&shifted, Cmp::Lt, extent));
            }
            let clamp = !tests.is_empty();
            for test in tests {
                inside = Some(match inside {
                    None => test,
                    Some(all) => self.emit.two("arith.andi", all, test),
                });
            }
            inner.push(if clamp { self.clamped(&shifted, extent) } else { shifted });
        }
        let val = self.element(v, &inner)?;
        Ok(match inside {
            None => val,
            Some(inside) => self.emit.select(inside, val, fill),
        })
    }

    fn compare_index(&mut self, lin: &Lin, cmp: Cmp, bound: i64) -> Val {
        let val = if self.lanes_agree(lin, bound) {
            self.lane_as_i32(lin, 0)
        } else {
            self.index_as_i32(lin)
        };
        let bound = self.emit.int(bound, val.ty);
        self.emit.compare(cmp, val, bound)
    }

    /// The index held within `0..extent`.
    fn clamped(&mut self, lin: &Lin, extent: i64) -> Lin {
        if extent < i64::from(LANES) || !self.lanes_agree(lin, extent) {
            let val = self.index_as_i32(lin);
            return self.computed_index(&[val], extent as u64);
        }
        let key = (lin.clone(), extent);
        if let Some(var) = self.clamps.get(&key) {
            return Lin::var(*var);
        }
        let first = self.emit.index_value(lin, 0);
        let lanes = i64::from(LANES);
        let (zero, top) = (self.emit.index_const(0), self.emit.index_const(extent - lanes));
        let low = self.emit.two("arith.maxsi", first, zero);
        let clamped = self.emit.two("arith.minsi", low, top);
        let source = Source::Lanes(clamped.to_string());
        let info = VarInfo { source, depth: clamped.depth, lo: 0, hi: extent - 1, align: lanes };
        let var = self.emit.var(info);
        self.clamps.insert(key, var);
        Lin::var(var)
    }

    /// Whether all lanes of an index stand on one side of a bound: neighbours from a multiple of
    /// their number, as the bound is.
    fn lanes_agree(&self, lin: &Lin, bound: i64) -> bool {
        let (lanes, vars) = (i64::from(LANES), &self.emit.vars);
        lin.lane_stride(vars) == Some(1) && lin.multiple_of(lanes, vars) && bound % lanes == 0
    }
}
