//! A rank's pulse: a thread that tells the rendezvous that the rank lives and where it stands, and
//! hears the same of all others, whatever the rank itself is busy with.
//!
//! A process that ends closes its connection; one that is stopped, or whose machine is cut off, is
//! silent. Both are known to all ranks, on whatever machine they are.
//!
//! # Invariants
//! - Nothing here waits for the rendezvous longer than [`SETTLE`] and [`ANSWER`] say, except the
//!   thread.
//! - What the rendezvous does not know is not made up: where it is lost, no rank is taken for gone
//!   but the one that served it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::rendezvous::{Client, Heard, Server};

/// Time between beats.
const BEAT: Duration = Duration::from_millis(100);
/// How old a view must not be, at the least, to hold what all ranks did just now: every rank beats
/// twice in it.
const SETTLE: Duration = Duration::from_millis(250);
/// How long an answer of the rendezvous is waited for.
const ANSWER: Duration = Duration::from_secs(1);

/// The pulse of a rank; it stops with its drop.
#[derive(Debug)]
pub(crate) struct Pulse {
    shared: Arc<Shared>,
    /// The rendezvous itself, in the rank that serves it.
    server: Option<Server>,
    host: Option<u32>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    told: Vec<u8>,
    /// Times that something urgent was told, and how often it has arrived.
    urgent: u64,
    arrived: u64,
    /// A view is wanted that is not older.
    wanted: Option<Instant>,
    /// What was heard of every rank, when.
    view: Vec<Heard>,
    viewed: Instant,
    /// The last answer of the rendezvous.
    answered: Instant,
    /// The connection has ended.
    lost: bool,
    over: bool,
}

impl Pulse {
    /// Starts the pulse of a rank that has joined, with a first beat; `server` is the rendezvous
    /// where this rank serves it.
    ///
    /// # Errors
    /// A rendezvous that is lost already; when no thread can be started.
    pub(crate) fn start(
        mut client: Client,
        server: Option<Server>,
        told: Vec<u8>,
    ) -> std::io::Result<Pulse> {
        client.beat(false, &told)?;
        let now = Instant::now();
        let state = State {
            told,
            urgent: 0,
            arrived: 0,
            wanted: None,
            view: Vec::new(),
            viewed: now,
            answered: now,
            lost: false,
            over: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (host, beating) = (client.host(), Arc::clone(&shared));
        std::thread::Builder::new().name("pulse".to_owned()).spawn(move || beating.beat(client))?;
        Ok(Pulse { shared, server, host })
    }

    /// What the next beat says.
    pub(crate) fn tell(&self, told: Vec<u8>) {
        self.shared.lock().told = told;
    }

    /// Says something that all ranks should hear, and waits a little until the rendezvous has it.
    pub(crate) fn tell_now(&self, told: Vec<u8>) {
        let mut state = self.shared.lock();
        state.told = told;
        state.urgent += 1;
        let urgent = state.urgent;
        self.shared.changed.notify_all();
        self.shared.until(state, ANSWER, |state| state.arrived >= urgent);
    }

    /// Waits until what was told by any rank until now is seen here; false where the rendezvous does
    /// not answer.
    pub(crate) fn settle(&self) -> bool {
        let due = Instant::now() + SETTLE;
        let mut state = self.shared.lock();
        state.wanted = Some(due);
        self.shared.changed.notify_all();
        self.shared.until(state, SETTLE + ANSWER, |state| state.viewed >= due)
    }

    /// Whether this rank serves the rendezvous.
    pub(crate) fn serves(&self) -> bool {
        self.server.is_some()
    }

    /// What was heard of a rank; `None` before it has come.
    pub(crate) fn heard(&self, rank: u32) -> Option<Heard> {
        let state = self.shared.lock();
        let mut heard = state.view.iter().find(|heard| heard.rank == rank)?.clone();
        if self.host == Some(rank) {
            // Its silence is that of the rendezvous in it.
            heard.here &= !state.lost;
            heard.silent = state.answered.elapsed();
        }
        Some(heard)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
    }
}

/// What the thread is to do next.
struct Beat {
    told: Vec<u8>,
    urgent: u64,
    is_urgent: bool,
    look: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something, or until the connection or the time is over; whether it has come. Where
    /// the rendezvous has not answered for long, nothing is waited for.
    fn until(
        &self,
        state: MutexGuard<'_, State>,
        most: Duration,
        done: impl Fn(&State) -> bool,
    ) -> bool {
        let open = |state: &mut State| !state.lost && !done(state);
        let answers = state.answered.elapsed() < ANSWER;
        let most = if answers { most } else { Duration::ZERO };
        let waited = self.changed.wait_timeout_while(state, most, open);
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn beat(&self, mut client: Client) {
        let mut known = None;
        let mut next = Instant::now();
        while let Some(beat) = self.next(next) {
            let begin = Instant::now();
            next = begin + BEAT;
            let news = client.beat(beat.is_urgent, &beat.told);
            let look = beat.look || news.as_ref().is_ok_and(|news| known != Some(*news));
            let view = match &news {
                Ok(_) if look => client.look().map(Some),
                Ok(_) => Ok(None),
                Err(error) => Err(std::io::Error::from(error.kind())),
            };
            let mut state = self.lock();
            match view {
                Ok(view) => {
                    state.answered = Instant::now();
                    state.arrived = beat.urgent;
                    if let Some(view) = view {
                        (state.view, state.viewed) = (view, begin);
                        known = news.ok();
                    }
                }
                Err(_) => state.lost = true,
            }
            let lost = state.lost;
            drop(state);
            self.changed.notify_all();
            if lost {
                return;
            }
        }
    }

    /// Waits for the next beat; `None` when there is none any more.
    fn next(&self, next: Instant) -> Option<Beat> {
        let mut state = self.lock();
        loop {
            if state.over {
                return None;
            }
            let now = Instant::now();
            let is_urgent = state.urgent > state.arrived;
            let look = state.wanted.is_some_and(|wanted| wanted <= now);
            if is_urgent || look || next <= now {
                if look {
                    state.wanted = None;
                }
                return Some(Beat {
                    told: state.told.clone(),
                    urgent: state.urgent,
                    is_urgent,
                    look,
                });
            }
            let due = state.wanted.map_or(next, |wanted| wanted.min(next));
            let woken = self.changed.wait_timeout(state, due - now);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rendezvous::Meeting;
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn pulses(size: u32, host: Option<u32>) -> (Option<Server>, Vec<Pulse>) {
        let server = Server::start("127.0.0.1:0", "secret", (host, size)).expect("a free port");
        let meeting = Meeting { address: server.address().to_string(), token: "secret".to_owned() };
        let mut server = Some(server);
        let start = |rank| {
            let client = Client::join(&meeting, (rank, size), LONG).expect("let in");
            let own = if host == Some(rank) { server.take() } else { None };
            Pulse::start(client, own, vec![]).expect("a thread")
        };
        let pulses = (0..size).map(start).collect();
        (server, pulses)
    }

    fn until(done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < LONG);
            std::thread::sleep(BEAT / 10);
        }
    }

    #[test]
    fn what_was_told_is_heard_once_it_has_settled() {
        let (_server, pulses) = pulses(3, None);
        for round in 0..3u8 {
            pulses[1].tell(vec![round; 3]);
            pulses[0].settle();
            let heard = pulses[0].heard(1).expect("it has come");
            assert_eq!((heard.here, heard.told), (true, vec![round; 3]));
        }
        assert_eq!(pulses[0].heard(3), None);
    }

    #[test]
    fn an_end_and_what_is_urgent_are_heard_without_asking() {
        let (_server, mut pulses) = pulses(3, None);
        pulses[1].tell_now(b"rank 2 is late".to_vec());
        until(|| pulses[0].heard(1).is_some_and(|heard| heard.told == b"rank 2 is late"));
        pulses.pop();
        until(|| pulses[0].heard(2).is_some_and(|heard| !heard.here));
        assert!(pulses[0].heard(1).is_some_and(|heard| heard.here));
    }

    #[test]
    fn the_rank_that_served_is_gone_with_the_rendezvous_and_no_other() {
        let (server, mut pulses) = pulses(3, Some(0));
        assert!(server.is_none(), "rank 0 has it");
        pulses[0].tell_now(b"rank 1 is late".to_vec());
        pulses[1].settle();
        drop(pulses.remove(0));
        // Its connections end with the process, of which this is none.
        let kept = |rank| pulses[0].heard(rank);
        until(|| kept(0).is_some_and(|heard| heard.told == b"rank 1 is late"));
        pulses[0].shared.lock().lost = true;
        assert!(
            kept(0).is_some_and(|heard| !heard.here) && kept(2).is_some_and(|heard| heard.here)
        );
    }

    #[test]
    fn a_rank_that_does_not_beat_is_silent() {
        let server = Server::start("127.0.0.1:0", "secret", (None, 2)).expect("a free port");
        let meeting = Meeting { address: server.address().to_string(), token: "secret".to_owned() };
        let join = |rank| Client::join(&meeting, (rank, 2), LONG).expect("let in");
        let (client, mut stopped) = (join(0), join(1));
        stopped.beat(false, b"last").expect("a count");
        let pulse = Pulse::start(client, None, vec![]).expect("a thread");
        let silence = || {
            pulse.settle();
            pulse.heard(1).map_or(Duration::ZERO, |heard| heard.silent)
        };
        until(|| silence() > 5 * BEAT);
        assert!(pulse.heard(0).is_some_and(|heard| heard.here && heard.silent < 5 * BEAT));
    }
}
