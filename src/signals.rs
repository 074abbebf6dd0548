//! Requests to leave: from the keyboard, or from a scheduler that needs the machine.
//!
//! # Invariants
//! - The first request is remembered until the run asks for it between steps; a second one from the
//!   keyboard ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::exit::Exit;

/// Requests so far.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    interrupted: Arc<AtomicBool>,
    preempted: Arc<AtomicBool>,
}

impl Signals {
    /// Watches for requests from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn watch() -> std::io::Result<Self> {
        let signals = Signals::default();
        let code = i32::from(Exit::Interrupted as u8);
        // Runs before the flag is set by the same signal, so it acts on the second one.
        flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&signals.interrupted))?;
        flag::register(SIGINT, Arc::clone(&signals.interrupted))?;
        for signal in [SIGTERM, SIGUSR1] {
            flag::register(signal, Arc::clone(&signals.preempted))?;
        }
        Ok(signals)
    }

    /// How to leave, once that was asked for.
    pub fn pending(&self) -> Option<Exit> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Some(Exit::Interrupted);
        }
        self.preempted.load(Ordering::Relaxed).then_some(Exit::Preempted)
    }
}

/// Signals that a process passes on to those it watches, instead of ending.
#[derive(Clone, Debug, Default)]
pub struct Forwarded {
    pending: [Arc<AtomicBool>; FORWARDED.len()],
}

/// What is passed on: the keyboard's interrupt, and a scheduler's requests.
const FORWARDED: [(i32, Signal); 3] =
    [(SIGINT, Signal::INT), (SIGTERM, Signal::TERM), (SIGUSR1, Signal::USR1)];

impl Forwarded {
    /// Watches for signals from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn watch() -> std::io::Result<Self> {
        let forwarded = Forwarded::default();
        for ((number, _), pending) in FORWARDED.iter().zip(&forwarded.pending) {
            flag::register(*number, Arc::clone(pending))?;
        }
        Ok(forwarded)
    }

    /// The signals that came since it was asked last.
    pub fn take(&self) -> Vec<Signal> {
        let all = FORWARDED.iter().zip(&self.pending);
        let came = all.filter(|(_, pending)| pending.swap(false, Ordering::Relaxed));
        came.map(|((_, signal), _)| *signal).collect()
    }
}
