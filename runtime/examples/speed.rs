//! Measures the built-in steps: matrix products (`speed gemm`) and attention (`speed attention`).
//!
//! `cargo run --release -p perilune-runtime --example speed -- gemm`
#![allow(clippy::print_stdout, reason = "a report for a person")]

use perilune_plan::{
    Attention, AttentionGrad, AttentionShape, Buffer, Contract, DType, Entry, FORMAT_VERSION,
    HeadsView, Loop, Mesh, Place, Plan, Step, StepOp, View,
};
use perilune_runtime::{Options, RuntimeError, Session};

fn main() -> Result<(), RuntimeError> {
    let what = std::env::args().nth(1).unwrap_or_default();
    for threads in [1, 2] {
        match what.as_str() {
            "attention" => attention(threads)?,
            _ => gemm(threads)?,
        }
    }
    Ok(())
}

fn whole(buffer: u32) -> View {
    View { buffer, offset: 0 }
}

/// A plan of one step over f32 temporaries of these sizes.
fn plan(elems: &[u64], op: StepOp) -> Plan {
    let mut arena_bytes = 0;
    let mut buffers = Vec::new();
    for count in elems {
        buffers.push(Buffer { dtype: DType::f32, elems: *count, place: Place::Arena(arena_bytes) });
        arena_bytes += (4 * count).next_multiple_of(64);
    }
    let entry = Entry {
        name: "main".to_owned(),
        feeds: Vec::new(),
        fetches: Vec::new(),
        arena_bytes,
        buffers,
        steps: vec![Step { op, nodes: vec![0], only: None }],
    };
    Plan {
        format: FORMAT_VERSION,
        name: "speed".to_owned(),
        target: "cpu".to_owned(),
        mesh: Mesh::default(),
        machine: None,
        tensors: Vec::new(),
        kernels: Vec::new(),
        entries: vec![entry],
        nodes: vec!["speed".to_owned()],
    }
}

/// Median nanoseconds and operations of the plan's only step.
fn measure(plan: Plan, threads: usize) -> Result<(u64, u64), RuntimeError> {
    let options = Options { threads: Some(threads), ..Options::default() };
    let mut session = Session::new(plan, options)?;
    session.run("main", &[])?;
    session.set_profiling(true);
    let begin = std::time::Instant::now();
    let mut runs = 0;
    while runs < 5 || (begin.elapsed().as_millis() < 300 && runs < 1000) {
        session.run("main", &[])?;
        runs += 1;
    }
    let totals = session.profile().by_kernel();
    Ok(totals.first().map_or((0, 0), |total| (total.median_ns, total.flops / total.calls)))
}

fn gemm(threads: usize) -> Result<(), RuntimeError> {
    let square = [64, 128, 256, 512, 1024, 2048].map(|n| (1, n, n, n));
    let other = [
        (1, 1024, 256, 1024),
        (1, 1024, 1024, 256),
        (1, 1024, 256, 256),
        (1, 1024, 5632, 512),
        (16, 64, 256, 256),
        (216, 128, 256, 128),
        (4096, 16, 16, 16),
        (1, 1, 1024, 1024),
        (1, 1024, 1, 1024),
    ];
    for (batch, n, k) in [(1, 256, 256), (1, 512, 512), (1, 1024, 1024), (64, 128, 256)] {
        let (ni, ki) = (n as i64, k as i64);
        for symmetric in [false, true] {
            let op = StepOp::Contract(Contract {
                a: whole(0),
                b: whole(0),
                c: whole(1),
                batch: vec![Loop { extent: batch, a: ni * ki, b: ni * ki, c: ni * ni }],
                sum: Vec::new(),
                m: Loop { extent: n, a: ki, b: 0, c: ni },
                n: Loop { extent: n, a: 0, b: ki, c: 1 },
                k: Loop { extent: k, a: 1, b: 1, c: 0 },
                alpha: 1.0,
                accumulate: false,
                symmetric,
                epilogue: None,
            });
            let (ns, _) = measure(plan(&[batch * n * k, batch * n * n], op), threads)?;
            let micros = ns as f64 / 1e3;
            println!(
                "{threads} threads A·Aᵀ {batch}×{n}×{k} symmetric={symmetric}: {micros:.1} µs"
            );
        }
    }
    for (batch, m, n, k) in square.into_iter().chain(other) {
        // `x · Wᵀ`, as most of a model's products are.
        let (mi, ni, ki) = (m as i64, n as i64, k as i64);
        for (form, a, b) in [
            ("nt", [ki, 1], [1, ki]),
            ("nn", [ki, 1], [ni, 1]),
            ("tn", [1, mi], [ni, 1]),
            ("tt", [1, mi], [1, ki]),
        ] {
            let op = StepOp::Contract(Contract {
                a: whole(0),
                b: whole(1),
                c: whole(2),
                batch: vec![Loop { extent: batch, a: mi * ki, b: ki * ni, c: mi * ni }],
                sum: Vec::new(),
                m: Loop { extent: m, a: a[0], b: 0, c: ni },
                n: Loop { extent: n, a: 0, b: b[1], c: 1 },
                k: Loop { extent: k, a: a[1], b: b[0], c: 0 },
                alpha: 1.0,
                accumulate: false,
                symmetric: false,
                epilogue: None,
            });
            let (ns, flops) =
                measure(plan(&[batch * m * k, batch * k * n, batch * m * n], op), threads)?;
            let rate = flops as f64 / ns as f64;
            let micros = ns as f64 / 1e3;
            println!(
                "{threads} threads {form} {batch}×{m}×{n}×{k}: {rate:.0} GFLOP/s, {micros:.1} µs"
            );
        }
    }
    Ok(())
}

fn attention(threads: usize) -> Result<(), RuntimeError> {
    for (batch, seq, heads, qk_dim, v_dim) in
        [(2u64, 512u64, 8u64, 96u64, 64u64), (4, 256, 8, 48, 32), (1, 2048, 8, 96, 64)]
    {
        let shape = AttentionShape {
            batch,
            seq_q: seq,
            seq_kv: seq,
            heads,
            kv_heads: heads,
            qk_dim,
            v_dim,
            scale: 0.1,
            causal: true,
        };
        let view = |buffer, dim: u64| HeadsView {
            view: whole(buffer),
            batch: (seq * heads * dim) as i64,
            seq: (heads * dim) as i64,
            head: dim as i64,
        };
        let (qk, v) = (batch * seq * heads * qk_dim, batch * seq * heads * v_dim);
        let rows = batch * heads * seq;
        let sizes = [qk, qk, v, v, rows, v, qk, qk, v];
        let (q, k, value, o) = (view(0, qk_dim), view(1, qk_dim), view(2, v_dim), view(3, v_dim));
        let lse = Some(whole(4));
        let forward = Attention { shape, q, k, v: value, o, lse, max_logit: None };
        let backward = AttentionGrad {
            shape,
            q,
            k,
            v: value,
            o,
            lse: whole(4),
            d_o: view(5, v_dim),
            d_q: view(6, qk_dim),
            d_k: view(7, qk_dim),
            d_v: view(8, v_dim),
        };
        for op in [StepOp::Attention(forward), StepOp::AttentionGrad(backward)] {
            let name = if matches!(op, StepOp::Attention(_)) { "forward" } else { "backward" };
            let (ns, flops) = measure(plan(&sizes, op), threads)?;
            let (rate, ms) = (flops as f64 / ns as f64, ns as f64 / 1e6);
            println!(
                "{threads} threads {name} [{batch}, {seq}, {heads}, {qk_dim}/{v_dim}] causal: {ms:.2} ms, {rate:.0} GFLOP/s"
            );
        }
    }
    Ok(())
}
