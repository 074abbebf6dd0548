//! Memory of the ranks of a run: what the plan promises of each, and what the system says it was.
//!
//! # Invariants
//! - The promise stands before the first step; nothing in it is measured but the length of the
//!   machine code.
//! - What is measured is resident memory of the whole process, less what it was when the plan was
//!   compiled; where the system does not tell it, nothing is said.

use std::fs;

use perilune_plan::{Entry, Plan, RankMemory};
use perilune_runtime::Session;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::number::bytes;
use crate::ranks;
use crate::training::{EVAL, INIT, TRAIN_STEP};

/// What a rank held and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankUse {
    /// The rank.
    pub rank: u32,
    /// Parameters and buffers, its own or its part, bytes.
    pub weight_bytes: u64,
    /// Optimizer state that it holds.
    pub state_bytes: u64,
    /// Temporaries.
    pub arena_bytes: u64,
    /// The most that a collective, a fetch or a checkpoint takes for a while.
    pub staging_bytes: u64,
    /// Machine code.
    pub code_bytes: u64,
    /// All that and feeds.
    pub promised_bytes: u64,
    /// The most that the run added to the memory of the process; absent where the system does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_bytes: Option<u64>,
    /// Payload that it sent to other ranks.
    pub sent_bytes: u64,
}

/// What a rank of a plan holds while it trains.
pub fn of_training(plan: &Plan, rank: u32) -> RankMemory {
    let runs = |entry: &Entry| [INIT, TRAIN_STEP, EVAL].contains(&entry.name.as_str());
    plan.memory(rank, &runs)
}

/// A process's memory from some point on.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    before: Option<u64>,
}

impl Watch {
    /// Begins: the peak so far is forgotten.
    pub fn start() -> Watch {
        // Linux: `5` sets the peak to what is resident now.
        let forgotten = fs::write("/proc/self/clear_refs", "5");
        Watch { before: forgotten.ok().and_then(|()| resident("VmRSS:")) }
    }

    /// The most that was resident since, beyond what was resident then, bytes.
    pub fn peak(&self) -> Option<u64> {
        Some(resident("VmHWM:")?.saturating_sub(self.before?))
    }
}

/// A line of this process's status, bytes.
fn resident(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The most memory this process ever had resident since it was last forgotten; 0 where the system does
/// not say.
pub fn peak_rss_bytes() -> u64 {
    resident("VmHWM:").unwrap_or(0)
}

/// What every rank held and sent; every rank calls it. `copied`: bytes that checkpoints
/// take while they are saved or read.
///
/// # Errors
/// A lost rank.
pub fn of_ranks(
    session: &mut Session,
    watch: &Watch,
    copied: u64,
) -> Result<Vec<RankUse>, Failure> {
    let own = own(session, watch, copied);
    let measured = own.measured_bytes.unwrap_or(u64::MAX);
    let numbers = [
        own.weight_bytes,
        own.state_bytes,
        own.arena_bytes,
        own.staging_bytes,
        own.code_bytes,
        own.promised_bytes,
        measured,
        own.sent_bytes,
    ];
    let all = ranks::gather(session.communicator(), "memory", &numbers)?;
    let used =
        (0..).zip(all).map(|(rank, [weights, state, arena, staging, code, all, most, sent])| {
            RankUse {
                rank,
                weight_bytes: weights,
                state_bytes: state,
                arena_bytes: arena,
                staging_bytes: staging,
                code_bytes: code,
                promised_bytes: all,
                measured_bytes: Some(most).filter(|bytes| *bytes != u64::MAX),
                sent_bytes: sent,
            }
        });
    Ok(used.collect())
}

fn own(session: &mut Session, watch: &Watch, copied: u64) -> RankUse {
    let rank = session.rank();
    let mut memory = of_training(session.plan(), rank);
    memory.staging = memory.staging.max(copied);
    let code_bytes = session.code_bytes();
    RankUse {
        rank,
        weight_bytes: memory.params + memory.buffers,
        state_bytes: memory.state,
        arena_bytes: memory.arena,
        staging_bytes: memory.staging,
        code_bytes,
        promised_bytes: memory.total() + code_bytes,
        measured_bytes: watch.peak(),
        sent_bytes: session.communicator().traffic().bytes(),
    }
}

/// What each rank of a plan holds while it trains; ranks that hold the same stand together.
#[derive(Clone, Debug)]
pub struct Promise {
    /// First and last of some consecutive ranks.
    pub ranks: (u32, u32),
    /// What each of them holds.
    pub memory: RankMemory,
}

/// The promises of a plan, in the order of ranks. The machine code is not in them: it is made where
/// the plan runs.
pub fn promises(plan: &Plan) -> Vec<Promise> {
    let mut all: Vec<Promise> = Vec::new();
    for rank in 0..plan.mesh.ranks() as u32 {
        let memory = of_training(plan, rank);
        match all.last_mut().filter(|last| last.memory == memory) {
            Some(last) => last.ranks.1 = rank,
            None => all.push(Promise { ranks: (rank, rank), memory }),
        }
    }
    all
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RankMemory { params, buffers, state, feeds, arena, staging } = self.memory;
        let who = match self.ranks {
            (first, last) if first == last => format!("rank {first}"),
            (first, last) => format!("ranks {first} to {last}"),
        };
        let [all, weights, state, feeds, arena, staging] =
            [self.memory.total(), params + buffers, state, feeds, arena, staging].map(bytes);
        write!(
            f,
            "{who}: {all}: weights {weights}, state {state}, arena {arena}, feeds {feeds}, \
             exchanges {staging}"
        )
    }
}

impl Promise {
    /// The same as data.
    pub fn json(&self) -> Value {
        let RankMemory { params, buffers, state, feeds, arena, staging } = self.memory;
        json!({
            "first_rank": self.ranks.0, "last_rank": self.ranks.1, "param_bytes": params,
            "buffer_bytes": buffers, "state_bytes": state, "feed_bytes": feeds,
            "arena_bytes": arena, "staging_bytes": staging, "bytes": self.memory.total(),
        })
    }
}

/// A line for each rank.
pub fn lines(used: &[RankUse]) -> Vec<String> {
    let line = |one: &RankUse| {
        let RankUse { rank, promised_bytes, measured_bytes, .. } = one;
        let measured = measured_bytes.map_or_else(|| "not measured".to_owned(), bytes);
        format!("memory of rank {rank:<3}{measured} of {} promised", bytes(*promised_bytes))
    };
    used.iter().map(line).collect()
}
