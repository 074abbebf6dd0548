//! How a command ends: its exit code, and the message of a failure.
//!
//! # Invariants
//! - The numbers are an interface (scripts and schedulers read them); they never change meaning.

use perilune_compiler::diagnostic::{Code, Diagnostics};
use perilune_compiler::source::SourceMap;

/// Exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// What the user gave is wrong: a spec, data, a check that does not hold.
    Spec = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The machine lacks something: a tool, a right, space.
    Environment = 3,
    /// A bug in Perilune.
    Internal = 4,
    /// Asked to leave (SIGTERM, SIGUSR1): a checkpoint is saved, start again with `--resume`.
    Preempted = 10,
    /// A rank of the job was lost or hangs: start again with `--resume`.
    RankLost = 11,
    /// A loss or a gradient is not finite.
    NonFinite = 12,
    /// A file is corrupt: a plan or weights whose hash or layout is wrong.
    Integrity = 13,
    /// Interrupted from the keyboard: 128 + SIGINT, as shells report it.
    Interrupted = 130,
}

impl Exit {
    /// The exit code with a number; `None` for numbers that are not ours.
    pub fn from_code(code: u8) -> Option<Exit> {
        let all = [
            Exit::Ok,
            Exit::Spec,
            Exit::Usage,
            Exit::Environment,
            Exit::Internal,
            Exit::Preempted,
            Exit::RankLost,
            Exit::NonFinite,
            Exit::Integrity,
            Exit::Interrupted,
        ];
        all.into_iter().find(|exit| *exit as u8 == code)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// A spec was refused.
    Spec {
        /// What was found.
        diagnostics: Diagnostics,
        /// The files it was found in.
        sources: SourceMap,
    },
    /// Anything else.
    Plain(Problem),
}

/// A failure that has no place in a spec.
#[derive(Debug)]
pub struct Problem {
    /// Exit code.
    pub exit: Exit,
    /// Error code, where `perilune explain` has one.
    pub code: Option<Code>,
    /// One line: what is wrong.
    pub headline: String,
    /// What to do.
    pub help: Option<String>,
}

impl Failure {
    /// A failure with an exit code and a line.
    pub fn new(exit: Exit, headline: impl Into<String>) -> Self {
        Failure::Plain(Problem { exit, code: None, headline: headline.into(), help: None })
    }

    /// What the user gave is wrong.
    pub fn input(headline: impl Into<String>) -> Self {
        Failure::new(Exit::Spec, headline)
    }

    /// The machine lacks something.
    pub fn environment(headline: impl Into<String>) -> Self {
        Failure::new(Exit::Environment, headline)
    }

    /// A bug.
    pub fn internal(headline: impl Into<String>) -> Self {
        Failure::new(Exit::Internal, headline)
    }

    /// Says what to do; a refused spec says it in its diagnostics.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        if let Failure::Plain(problem) = &mut self {
            problem.help = Some(text.into());
        }
        self
    }

    /// Names the error code.
    pub fn code(mut self, code: Code) -> Self {
        if let Failure::Plain(problem) = &mut self {
            problem.code = Some(code);
        }
        self
    }

    /// The exit code of this failure.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Spec { .. } => Exit::Spec,
            Failure::Plain(problem) => problem.exit,
        }
    }
}
