//! Compile a spec and run it from Rust: no files, no command line.
//!
//! A model of two lines is written here, elaborated over the shipped blocks, compiled for the CPU
//! of this machine, trained for a few steps on a pattern, and asked to go on with it.

#![expect(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::error::Error;

use perilune::exit::Failure;
use perilune::library::Library;
use perilune::pipeline;
use perilune_runtime::{HostTensor, Session};

const MODEL: &str = r#"Model(
    imports: { "Llama": "blocks/llama.ron" },
    dims: {
        "batch": 4, "seq": 24, "vocab": 8, "d_model": 32, "n_layers": 1, "d_ff": 64,
        "n_heads": 2, "n_kv_heads": 1, "head_dim": 16,
        "norm_eps": 1e-5, "init_std": 0.1, "rope_theta": 10000.0,
    },
    inputs: { "tokens": Input([batch, seq], i32) },
    nodes: [("model", Llama(tokens: "tokens"))],
    outputs: { "logits": "model.logits" },
)"#;

const TRAIN: &str = r#"Train(
    imports: { "CrossEntropy": "blocks/cross_entropy.ron", "AdamW": "optim/adamw.ron" },
    model: "model.ron",
    inputs: { "targets": Input([batch, seq], i32), "step": Input([], f32), "lr": Input([], f32) },
    nodes: [("loss", CrossEntropy(logits: "logits", targets: "targets"))],
    loss: "loss",
    optimizer: AdamW(lr: "lr", step: "step"),
)"#;

/// What the model learns: a rhythm of eight tokens.
const RHYTHM: [i32; 8] = [1, 5, 2, 5, 1, 7, 7, 3];
const SHAPE: [u64; 2] = [4, 24];

fn main() -> Result<(), Box<dyn Error>> {
    // A loader with two files of our own on top of the shipped ones.
    let files = Library::default().with("model.ron", MODEL).with("train.ron", TRAIN);
    let plan = pipeline::plan(&files, "train.ron", &[]).map_err(told)?;
    println!("{} kernels, {} entries", plan.kernels.len(), plan.entries.len());

    // The session owns parameters and optimizer state; entries of the plan work on them.
    let mut session = pipeline::session(plan).map_err(told)?;
    session.run("init", &[("seed", &HostTensor::scalar_i32(1))])?;
    for step in 1..=60 {
        let loss = train(&mut session, step)?;
        if step % 20 == 0 {
            println!("step {step}: loss {loss:.3}");
        }
    }

    let next = predict(&mut session)?;
    println!("after … 7 7 comes {next}");
    assert_eq!(next, 3, "the rhythm was not learnt");
    Ok(())
}

/// One training step on rows that start at different places of the rhythm; gives the loss.
fn train(session: &mut Session, step: usize) -> Result<f32, Box<dyn Error>> {
    let fetches = session.run(
        "train_step",
        &[
            ("tokens", &rows(step)?),
            ("targets", &rows(step + 1)?),
            ("step", &HostTensor::scalar_f32(step as f32)),
            ("lr", &HostTensor::scalar_f32(0.01)),
        ],
    )?;
    Ok(fetches.scalar("loss").ok_or("the step gives no loss")?)
}

/// The most likely token after a row that ends in `7 7`.
fn predict(session: &mut Session) -> Result<usize, Box<dyn Error>> {
    // Row 0 starts at place 7, so its last token, 23 places on, is that of place 30 % 8 = 6.
    let fetches = session.run("forward", &[("tokens", &rows(7)?)])?;
    let logits = fetches.get("logits").ok_or("the forward gives no logits")?.to_f32()?;
    let vocab = 8;
    let last = &logits[23 * vocab..24 * vocab];
    let best = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    Ok(best.map(|(token, _)| token).ok_or("an empty vocabulary")?)
}

/// A batch: row `r` starts at place `start + 3 r` of the rhythm.
fn rows(start: usize) -> Result<HostTensor, Box<dyn Error>> {
    let [batch, seq] = SHAPE.map(|extent| extent as usize);
    let at = |i: usize| RHYTHM[(start + 3 * (i / seq) + i % seq) % RHYTHM.len()];
    let tokens: Vec<i32> = (0..batch * seq).map(at).collect();
    Ok(HostTensor::from_i32(&SHAPE, &tokens)?)
}

/// A refused spec, with its messages as the command line shows them.
fn told(failure: Failure) -> String {
    match failure {
        Failure::Spec { diagnostics, sources } => {
            perilune::render::text(&diagnostics, &sources, false)
        }
        Failure::Plain(problem) => problem.headline,
    }
}
