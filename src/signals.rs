//! Requests to leave: from the keyboard, or from a scheduler that needs the machine.
//!
//! # Invariants
//! - The first request is remembered until the run asks for it between steps; a second one from the
//!   keyboard ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
