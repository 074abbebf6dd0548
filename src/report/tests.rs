//! Tests of the report as a whole.

use super::*;
use crate::metrics::ProfileRow;

/// A run that looks like one: falling loss, warm-up and decay, eight heads, sixteen experts.
fn made_up(steps: u64) -> Vec<Record> {
    let mut state = 1u64;
    let mut noise = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
    };
    let mut records = vec![Record::Run(Run {
        version: crate::metrics::VERSION,
        name: "k2-nano/train".into(),
        spec: "models/k2-nano/train.ron".into(),
        data: "examples/data/moby-dick.txt".into(),
        steps,
        tokens_per_step: 1024,
        threads: 2,
        params_total: 6_670_000,
        params_active: 2_400_000,
        train_flops_per_token: 16.2e6,
        persistent_bytes: 53 << 20,
        arena_bytes: 31 << 20,
        kernels: 143,
        launches: 1210,
        compile_seconds: 0.62,
        unigram: 3.077,
        bigram: 2.445,
        ..Run::default()
    })];
    for step in 1..=steps {
        let t = step as f64 / steps as f64;
        let loss = 1.9 + 3.4 * (-6.0 * t).exp() + 0.08 * noise();
        let mut record = Step {
            step,
            loss,
            seconds: 0.21,
            tokens_per_s: 4800.0 + 200.0 * noise(),
            ..Step::default()
        };
        record.scalars.insert("lr".into(), 2e-3 * (t * 20.0).min(1.0) * (1.0 - 0.8 * t));
        record.scalars.insert("step".into(), step as f64);
        for layer in 0..2 {
            let logits: Vec<f64> =
                (0..8).map(|h| (30.0 * t * f64::from(h + 1) / 4.0).min(32.0) + noise()).collect();
            let gamma = logits.iter().map(|&l| if l > 30.0 { 30.0 / l } else { 1.0 }).collect();
            let load = (0..16).map(|e| 64.0 + (1.0 - t) * 80.0 * f64::sin(f64::from(e))).collect();
            record.vectors.insert(format!("layers.{layer}.attn.max_logit"), logits);
            record.vectors.insert(format!("layers.{layer}.attn.gamma"), gamma);
            record.vectors.insert(format!("layers.{layer}.moe.expert_load"), load);
        }
        records.push(Record::Step(record));
        if step % (steps / 12).max(1) == 0 {
            records.push(Record::Eval(Eval { step, loss: loss + 0.05, tokens: 65_536 }));
        }
    }
    let row = |node: &str, what: &str, ns| ProfileRow {
        node: node.into(),
        what: what.into(),
        runs: 20,
        ns,
        flops: ns * 90,
        bytes: ns * 11,
    };
    records.push(Record::Profile(Profile {
        steps: 20,
        rows: vec![
            row("layers.1.moe.experts.up", "ragged", 812_000_000),
            row("head.logits", "contract", 640_000_000),
            row("layers.0.attn.attn/grad", "attention-grad", 402_000_000),
            row("loss.<ce> & more", "k17_softmax", 91_000_000),
        ],
    }));
    records.push(Record::End(End {
        steps,
        seconds: 214.0,
        tokens_per_s: 4800.0,
        validation_loss: 1.98,
        peak_rss_bytes: 310 << 20,
    }));
    records
}

#[test]
fn a_report_is_self_contained_and_escaped() {
    let page = html(&made_up(240));
    for absent in ["http", "<script", "url(", "src=", "<ce>"] {
        assert!(!page.contains(absent), "`{absent}` is in the page");
    }
    for present in [
        "loss.&lt;ce&gt; &amp; more",
        "unigram 3.077",
        "bigram 2.445",
        "QK-clip activity",
        "Expert load",
        "Time by node",
        "prefers-color-scheme: dark",
        "below the bigram entropy",
    ] {
        assert!(page.contains(present), "`{present}` is not in the page");
    }
    // For looking at it: PERILUNE_REPORT_SAMPLE=/tmp/sample.html cargo test a_report
    if let Some(path) = std::env::var_os("PERILUNE_REPORT_SAMPLE") {
        std::fs::write(path, &page).expect("write the sample");
    }
}

#[test]
fn every_tag_is_closed() {
    let page = html(&made_up(30));
    for tag in ["section", "figure", "svg", "table", "tr", "div", "figcaption", "main", "p"] {
        let open =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn a_run_that_never_stepped_still_has_a_page() {
    let page = html(&[Record::Run(Run::default())]);
    assert!(page.contains("<h2>Run</h2>"));
    assert!(!page.contains("<h2>Loss</h2>"));
}

#[test]
fn a_diverged_run_draws_what_is_finite() {
    let mut records = made_up(30);
    for record in &mut records {
        if let Record::Step(step) = record
            && step.step > 20
        {
            step.loss = f64::NAN;
        }
    }
    let page = html(&records);
    let drawing = page.split("<h2>Loss</h2>").nth(1).and_then(|p| p.split("</svg>").next());
    assert!(!drawing.expect("a loss chart").contains("NaN"));
}
