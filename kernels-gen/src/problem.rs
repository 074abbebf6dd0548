//! What a kernel has to compute: one launch of a plan step, with its operands as parameters.
//!
//! # Invariants
//! - Two launches with equal problems can share a kernel: nothing of a problem says which buffers
//!   it works on. In the plan's types, `View::buffer` is the parameter's number.
//! - Parameters are in the order of the step's fields.

use perilune_plan::{
    Attention, AttentionGrad, AttentionShape, Contract, DType, HeadsView, KernelParam, Loop,
    Ragged, RaggedForm, StepOp, View,
};

/// Query positions whose maximal logit one element of an attention's scratch holds.
pub const STRIP: u64 = 16;

/// What one launch computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A strided, batched matrix product.
    Contract(Contract),
    /// A matrix product over groups of rows.
    Ragged(Ragged),
    /// Attention forward; `max_logit` is f32 `[heads, batch · ⌈seq_q / 16⌉]`, one maximum per
    /// [`STRIP`] of queries.
    Attention(Attention),
    /// `out[h] = max over i of part[h, i]`, −∞ of none.
    MaxLogit {
        /// Heads.
        heads: u64,
        /// Parts of a head.
        each: u64,
        /// Elements to skip in the result.
        offset: u64,
    },
    /// `delta[b, h, i] = Σ_d o · d_o`, f32 `[batch, heads, seq_q]`; parameters `o`, `d_o`, `delta`.
    GradDelta(AttentionGrad),
    /// `d_q`; parameters `q, k, v, lse, d_o, delta, d_q`.
    GradQueries(AttentionGrad),
    /// `d_k` and `d_v`; parameters `q, k, v, lse, d_o, delta, d_k, d_v`.
    GradKeys(AttentionGrad),
    /// `dst = src`.
    Copy {
        /// Elements.
        elems: u64,
    },
}

/// A problem: the work and the types it is done on.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What is computed.
    pub work: Work,
    /// Types of the parameters.
    pub dtypes: Vec<DType>,
}

/// What a launch passes for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A buffer of the entry.
    Buffer(u32),
    /// The `n`-th f32 scratch of the step, of as many elements as its kernels touch.
    Scratch(u32),
}

/// One launch of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it computes.
    pub problem: Problem,
    /// Its arguments, in the order of the parameters.
    pub arguments: Vec<Argument>,
}

/// The launches that do a step, in order; none for a launch, which already is one, and none for a
/// collective. `dtype` is a buffer's element type, `elems` its extent. An epilogue is a launch of its
/// own and not here.
pub fn parts(op: &StepOp, buffer: &dyn Fn(u32) -> (DType, u64)) -> Vec<Part> {
    match op {
        StepOp::Launch(_) | StepOp::Collective(_) => Vec::new(),
        StepOp::Contract(c) => vec![contract(c, buffer)],
        StepOp::Ragged(r) => vec![ragged(r, buffer)],
        StepOp::Attention(a) => attention(a, buffer),
        StepOp::AttentionGrad(a) => attention_grad(a, buffer),
        StepOp::Copy { src, dst } => {
            let work = Work::Copy { elems: buffer(*src).1 };
            vec![Roles::new(buffer).buffers(&[*src, *dst]).part(work)]
        }
    }
}

/// Collects the arguments of a part.
struct Roles<'a> {
    buffer: &'a dyn Fn(u32) -> (DType, u64),
    arguments: Vec<Argument>,
    dtypes: Vec<DType>,
}

impl<'a> Roles<'a> {
    fn new(buffer: &'a dyn Fn(u32) -> (DType, u64)) -> Self {
        Roles { buffer, arguments: Vec::new(), dtypes: Vec::new() }
    }

    fn buffers(mut self, numbers: &[u32]) -> Self {
        for n in numbers {
            self.arguments.push(Argument::Buffer(*n));
            self.dtypes.push((self.buffer)(*n).0);
        }
        self
    }

    fn scratch(mut self, n: u32) -> Self {
        self.arguments.push(Argument::Scratch(n));
        self.dtypes.push(DType::f32);
        self
    }

    fn part(self, work: Work) -> Part {
        Part { problem: Problem { work, dtypes: self.dtypes }, arguments: self.arguments }
    }
}

fn parameter(n: u32, view: View) -> View {
    View { buffer: n, ..view }
}

fn heads(n: u32, view: &HeadsView) -> HeadsView {
    HeadsView { view: parameter(n, view.view), ..*view }
}

fn contract(c: &Contract, buffer: &dyn Fn(u32) -> (DType, u64)) -> Part {
    let work = Contract {
        a: parameter(0, c.a),
        b: parameter(1, c.b),
        c: parameter(2, c.c),
        epilogue: None,
        ..c.clone()
    };
    let roles = Roles::new(buffer).buffers(&[c.a.buffer, c.b.buffer, c.c.buffer]);
    roles.part(Work::Contract(work))
}

fn ragged(r: &Ragged, buffer: &dyn Fn(u32) -> (DType, u64)) -> Part {
    let work = Ragged {
        a: parameter(0, r.a),
        b: parameter(1, r.b),
        offsets: parameter(2, r.offsets),
        c: parameter(3, r.c),
        epilogue: None,
        ..r.clone()
    };
    let roles = Roles::new(buffer);
    let all = [r.a.buffer, r.b.buffer, r.offsets.buffer, r.c.buffer];
    roles.buffers(&all).part(Work::Ragged(work))
}

fn attention(a: &Attention, buffer: &dyn Fn(u32) -> (DType, u64)) -> Vec<Part> {
    let mut roles = Roles::new(buffer).buffers(&[
        a.q.view.buffer,
        a.k.view.buffer,
        a.v.view.buffer,
        a.o.view.buffer,
    ]);
    let mut work = Attention {
        q: heads(0, &a.q),
        k: heads(1, &a.k),
        v: heads(2, &a.v),
        o: heads(3, &a.o),
        ..a.clone()
    };
    if let Some(lse) = a.lse {
        work.lse = Some(parameter(roles.dtypes.len() as u32, lse));
        roles = roles.buffers(&[lse.buffer]);
    }
    let Some(max) = a.max_logit else { return vec![roles.part(Work::Attention(work))] };
    work.max_logit = Some(View { buffer: roles.dtypes.len() as u32, offset: 0 });
    let forward = roles.scratch(0).part(Work::Attention(work));
    let (heads, each) = (a.shape.heads, strips(&a.shape));
    let reduce = Work::MaxLogit { heads, each, offset: max.offset };
    vec![forward, Roles::new(buffer).scratch(0).buffers(&[max.buffer]).part(reduce)]
}

fn attention_grad(a: &AttentionGrad, buffer: &dyn Fn(u32) -> (DType, u64)) -> Vec<Part> {
    let of = |v: &HeadsView| v.view.buffer;
    let work = |numbers: [u32; 9]| {
        let [q, k, v, lse, o, d_o, d_q, d_k, d_v] = numbers;
        AttentionGrad {
            shape: a.shape,
            q: heads(q, &a.q),
            k: heads(k, &a.k),
            v: heads(v, &a.v),
            o: heads(o, &a.o),
            lse: parameter(lse, a.lse),
            d_o: heads(d_o, &a.d_o),
            d_q: heads(d_q, &a.d_q),
            d_k: heads(d_k, &a.d_k),
            d_v: heads(d_v, &a.d_v),
        }
    };
    let inputs = [of(&a.q), of(&a.k), of(&a.v), a.lse.buffer, of(&a.d_o)];
    let main = || Roles::new(buffer).buffers(&inputs).scratch(0);
    let delta = Roles::new(buffer).buffers(&[of(&a.o), of(&a.d_o)]).scratch(0);
    vec![
        delta.part(Work::GradDelta(work([0, 0, 0, 0, 0, 1, 0, 0, 0]))),
        main().buffers(&[of(&a.d_q)]).part(Work::GradQueries(work([0, 1, 2, 3, 0, 4, 6, 0, 0]))),
        main()
            .buffers(&[of(&a.d_k), of(&a.d_v)])
            .part(Work::GradKeys(work([0, 1, 2, 3, 0, 4, 0, 6, 7]))),
    ]
}

impl Problem {
    /// Every extent that a kernel counts with.
    pub(crate) fn extents(&self) -> Vec<u64> {
        let attention = |s: &AttentionShape| {
            vec![s.batch, s.heads, s.seq_q, s.seq_kv, s.qk_dim, s.v_dim, rows(s), strips(s)]
        };
        match &self.work {
            Work::Contract(c) => {
                let loops = c.batch.iter().chain(&c.sum).chain([&c.m, &c.n, &c.k]);
                let product = |l: &[Loop]| l.iter().map(|l| l.extent).product::<u64>();
                let sums = product(&c.sum).saturating_mul(c.k.extent);
                loops.map(|l| l.extent).chain([product(&c.batch), sums]).collect()
            }
            Work::Ragged(r) => vec![r.rows, r.groups, r.k, r.n, r.rows + r.groups],
            Work::Attention(a) => attention(&a.shape),
            Work::GradDelta(a) | Work::GradQueries(a) | Work::GradKeys(a) => attention(&a.shape),
            Work::MaxLogit { heads, each, .. } => vec![*heads, *each],
            // Counted in accesses, which the generator bounds.
            Work::Copy { .. } => Vec::new(),
        }
    }

    /// A name that says what is computed, not unique: `contract_f32_64x48x32`.
    pub fn stem(&self) -> String {
        let dtype = self.dtypes[0];
        match &self.work {
            Work::Contract(c) => {
                format!("contract_{dtype}_{}x{}x{}", c.m.extent, c.n.extent, c.k.extent)
            }
            Work::Ragged(r) => {
                let form = match r.form {
                    RaggedForm::Rows => "rows",
                    RaggedForm::Outer => "outer",
                };
                format!("ragged_{form}_{dtype}_{}x{}x{}", r.rows, r.n, r.k)
            }
            Work::Attention(a) => format!("attention_{}", attention_stem(dtype, &a.shape)),
            Work::GradDelta(a) => format!("attention_delta_{}", attention_stem(dtype, &a.shape)),
            Work::GradQueries(a) => format!("attention_dq_{}", attention_stem(dtype, &a.shape)),
            Work::GradKeys(a) => format!("attention_dkv_{}", attention_stem(dtype, &a.shape)),
            Work::MaxLogit { heads, each, .. } => format!("max_logit_{heads}x{each}"),
            Work::Copy { elems } => format!("copy_{dtype}_{elems}"),
        }
    }

    /// Floating-point operations of one launch: of the whole product where it is ragged or causal
    /// half of it.
    pub fn flops(&self) -> u64 {
        let product = |all: &[u64]| all.iter().product::<u64>();
        match &self.work {
            Work::Contract(c) => {
                let loops = c.batch.iter().chain(&c.sum).chain([&c.m, &c.n, &c.k]);
                2 * loops.map(|l| l.extent).product::<u64>()
            }
            Work::Ragged(r) => 2 * product(&[r.rows, r.k, r.n]),
            Work::Attention(a) => 2 * pairs(&a.shape) * (a.shape.qk_dim + a.shape.v_dim),
            Work::MaxLogit { .. } | Work::Copy { .. } => 0,
            Work::GradDelta(a) => {
                2 * product(&[a.shape.batch, a.shape.heads, a.shape.seq_q, a.shape.v_dim])
            }
            Work::GradQueries(a) => 2 * pairs(&a.shape) * (2 * a.shape.qk_dim + a.shape.v_dim),
            Work::GradKeys(a) => 2 * pairs(&a.shape) * (2 * a.shape.qk_dim + 2 * a.shape.v_dim),
        }
    }

    /// Elements that each parameter may touch, from its start.
    pub fn reach(&self) -> Vec<u64> {
        match &self.work {
            Work::Contract(c) => contract_reach(c),
            Work::Ragged(r) => ragged_reach(r),
            Work::Attention(a) => attention_reach(a),
            Work::MaxLogit { heads, each, offset } => vec![heads * each, offset + heads],
            Work::GradDelta(a) => {
                let value = |v: &HeadsView| heads_reach(v, &a.shape, true, a.shape.v_dim);
                vec![value(&a.o), value(&a.d_o), rows(&a.shape)]
            }
            Work::GradQueries(a) => {
                let mut all = grad_inputs_reach(a);
                all.push(heads_reach(&a.d_q, &a.shape, true, a.shape.qk_dim));
                all
            }
            Work::GradKeys(a) => {
                let mut all = grad_inputs_reach(a);
                all.push(heads_reach(&a.d_k, &a.shape, false, a.shape.qk_dim));
                all.push(heads_reach(&a.d_v, &a.shape, false, a.shape.v_dim));
                all
            }
            Work::Copy { elems } => vec![*elems, *elems],
        }
    }

    /// How many of the last parameters are written.
    pub fn results(&self) -> usize {
        match &self.work {
            Work::Attention(a) => {
                1 + usize::from(a.lse.is_some()) + usize::from(a.max_logit.is_some())
            }
            Work::GradKeys(_) => 2,
            Work::Contract(_)
            | Work::Ragged(_)
            | Work::MaxLogit { .. }
            | Work::GradDelta(_)
            | Work::GradQueries(_)
            | Work::Copy { .. } => 1,
        }
    }

    /// The parameters of a launch.
    pub(crate) fn params(&self) -> Vec<KernelParam> {
        let reach = self.reach();
        let first_result = reach.len() - self.results();
        reach
            .iter()
            .zip(&self.dtypes)
            .enumerate()
            .map(|(i, (elems, dtype))| KernelParam {
                dtype: *dtype,
                elems: *elems,
                written: i >= first_result,
            })
            .collect()
    }
}

/// Query-key pairs that are looked at: about half of them where a mask hides the future.
fn pairs(s: &AttentionShape) -> u64 {
    let all = s.batch * s.heads * s.seq_q * s.seq_kv;
    if s.causal { all.div_ceil(2) } else { all }
}

/// Strips of queries of one head.
pub(crate) fn strips(s: &AttentionShape) -> u64 {
    s.batch * s.seq_q.div_ceil(STRIP)
}

fn attention_stem(dtype: DType, s: &AttentionShape) -> String {
    format!("{dtype}_{}x{}_{}x{}", s.seq_q, s.seq_kv, s.qk_dim, s.v_dim)
}

fn rows(s: &AttentionShape) -> u64 {
    s.batch * s.heads * s.seq_q
}

/// One past the last element of a view.
fn end(offset: u64, loops: &[(u64, i64)]) -> u64 {
    if loops.iter().any(|(extent, _)| *extent == 0) {
        return 0;
    }
    let forward = |(extent, stride): &(u64, i64)| (extent - 1) * (*stride).max(0) as u64;
    offset + loops.iter().map(forward).sum::<u64>() + 1
}

fn contract_reach(c: &Contract) -> Vec<u64> {
    let inner = || c.batch.iter().chain(&c.sum).chain([&c.m, &c.n, &c.k]);
    let of = |stride: fn(&Loop) -> i64| -> Vec<(u64, i64)> {
        inner().map(|l| (l.extent, stride(l))).collect()
    };
    let outer = c.batch.iter().chain([&c.m, &c.n]);
    let result: Vec<(u64, i64)> = outer.map(|l| (l.extent, l.c)).collect();
    vec![end(c.a.offset, &of(|l| l.a)), end(c.b.offset, &of(|l| l.b)), end(c.c.offset, &result)]
}

fn ragged_reach(r: &Ragged) -> Vec<u64> {
    let [group, middle, inner] = r.b_strides;
    let a = end(r.a.offset, &[(r.rows, r.a_row), (r.k, 1)]);
    let offsets = r.offsets.offset + r.groups + 1;
    let (b, c) = match r.form {
        RaggedForm::Rows => (
            end(r.b.offset, &[(r.groups, group), (r.k, middle), (r.n, inner)]),
            end(r.c.offset, &[(r.rows, r.n as i64), (r.n, 1)]),
        ),
        RaggedForm::Outer => (
            end(r.b.offset, &[(r.rows, middle), (r.n, inner)]),
            end(r.c.offset, &[(r.groups * r.k, r.n as i64), (r.n, 1)]),
        ),
    };
    vec![a, b, offsets, c]
}

/// Reach of an operand with queries (or keys) as positions.
fn heads_reach(view: &HeadsView, s: &AttentionShape, queries: bool, dim: u64) -> u64 {
    let (seq, heads) = if queries { (s.seq_q, s.heads) } else { (s.seq_kv, s.kv_heads) };
    let loops = [(s.batch, view.batch), (seq, view.seq), (heads, view.head), (dim, 1)];
    end(view.view.offset, &loops)
}

fn attention_reach(a: &Attention) -> Vec<u64> {
    let s = &a.shape;
    let mut all = vec![
        heads_reach(&a.q, s, true, s.qk_dim),
        heads_reach(&a.k, s, false, s.qk_dim),
        heads_reach(&a.v, s, false, s.v_dim),
        heads_reach(&a.o, s, true, s.v_dim),
    ];
    all.extend(a.lse.map(|lse| lse.offset + rows(s)));
    all.extend(a.max_logit.map(|_| s.heads * strips(s)));
    all
}

fn grad_inputs_reach(a: &AttentionGrad) -> Vec<u64> {
    let s = &a.shape;
    vec![
        heads_reach(&a.q, s, true, s.qk_dim),
        heads_reach(&a.k, s, false, s.qk_dim),
        heads_reach(&a.v, s, false, s.v_dim),
        a.lse.offset + rows(s),
        heads_reach(&a.d_o, s, true, s.v_dim),
        rows(s),
    ]
}
