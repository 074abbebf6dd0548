//! Parity: a checkpoint of the DeepSeek-V3 / Kimi-K2 family, compiled and run against an oracle.
//!
//! The model is derived from `config.json` by a name table (`models/hf`), compiled like any other
//! spec, and every quantity the oracle folder holds is compared: forward, gradients, long
//! positions, greedy decoding, and the MuonClip trajectory.
//!
//! # Invariants
//! - Bounds are fixed here, with their reason; nothing is skipped silently.
//! - The compiled path is the only path: no quantity is recomputed on the side.

mod compare;
mod config;
mod forward;
mod oracle;
mod runner;
mod spec;
mod trajectory;

use std::path::Path;

use perilune_runtime::DeviceKind;
use serde::Serialize;

pub use compare::{Check, Measure};

use crate::exit::Failure;
use oracle::Oracle;
use runner::Family;

/// How parity is checked.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What runs the model.
    pub device: DeviceKind,
    /// Steps of a trajectory to compare at most; all when absent.
    pub steps: Option<usize>,
}

/// What parity found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Every check holds.
    pub ok: bool,
    /// The checks, in the order made.
    pub checks: Vec<Check>,
    /// What the folder holds that is not compared, and why.
    pub skipped: Vec<String>,
}

/// Checks one oracle folder.
///
/// # Errors
/// When the folder is incomplete or damaged, or the model cannot be compiled or run.
pub fn run(dir: &Path, settings: &Settings) -> Result<Report, Failure> {
    let oracle = Oracle::open(dir)?;
    let family = Family::of(&oracle, settings.device)?;
    let mut report = Report::default();
    forward::check(&oracle, &family, &mut report)?;
    forward::check_long_positions(&oracle, &family, &mut report)?;
    forward::check_decoding(&oracle, &family, &mut report)?;
    trajectory::check(&oracle, &family, settings.steps, &mut report)?;
    report.ok = report.checks.iter().all(|c| c.ok) && !report.checks.is_empty();
    Ok(report)
}
