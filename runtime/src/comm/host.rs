//! The machine a rank runs on, and the processes on it.
//!
//! # Invariants
//! - A process is known by its id and the time it started, so an id that is used again does not
//!   pass for the old process.
//! - What cannot be read is taken for alive: nobody is blamed for what is not seen.

use std::fs;

use super::blame::Life;

/// A process, as others on the same machine can find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// The machine's name.
    pub(crate) host: String,
    /// Its namespace of process ids: containers on one machine do not see each other's.
    pub(crate) namespace: String,
    /// Process id in that namespace.
    pub(crate) id: u32,
    /// Start, in clock ticks since the machine started.
    pub(crate) started: u64,
}

/// This machine's name.
pub(crate) fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

impl Process {
    /// This process.
    pub(crate) fn this() -> Self {
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let id = std::process::id();
        let started = Stat::of(id).map_or(0, |stat| stat.started);
        Process { host: name(), namespace: namespace.to_string_lossy().into_owned(), id, started }
    }

    /// What it does, as far as `observer` can see.
    pub(crate) fn life(&self, observer: &Process) -> Life {
        let near = self.host == observer.host && self.namespace == observer.namespace;
        if !near || observer.started == 0 {
            return Life::Alive;
        }
        match Stat::of(self.id) {
            Some(stat) if stat.started == self.started => match stat.state {
                'Z' | 'X' => Life::Gone,
                'T' | 't' => Life::Stopped,
                _ => Life::Alive,
            },
            _ => Life::Gone,
        }
    }
}

/// Two fields of `/proc/ID/stat`.
struct Stat {
    state: char,
    started: u64,
}

impl Stat {
    /// `None` where there is no such process.
    fn of(id: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The program's name stands in parentheses and may hold anything.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        // `state` is field 3, the start is field 22.
        let started = fields.nth(18)?.parse().ok()?;
        Some(Stat { state, started })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends() {
        let observer = Process::this();
        assert_eq!(observer.life(&observer), Life::Alive);
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).spawn().expect("`cat` is everywhere");
        let started = Stat::of(child.id()).expect("it runs").started;
        let process = Process { id: child.id(), started, ..observer.clone() };
        assert_eq!(process.life(&observer), Life::Alive);
        let reused = Process { started: started + 1, ..process.clone() };
        assert_eq!(reused.life(&observer), Life::Gone);
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        assert_eq!(process.life(&observer), Life::Gone);
        let elsewhere = Process { host: "elsewhere".to_owned(), ..process };
        assert_eq!(elsewhere.life(&observer), Life::Alive);
    }
}
