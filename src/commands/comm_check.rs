//! `perilune comm-check`: do the ranks of a job reach each other, do collectives give what they
//! must, and how long do they take?
//!
//! Every rank runs the same rounds and checks its own results; rank 0 writes the table.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use perilune_plan::DType;
use perilune_runtime::comm::{
    Combine, CommError, Communicator, Site, all_gather, all_reduce, barrier, broadcast,
};
use serde_json::{Value, json};

use super::comm_args::CommArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::number::{bytes, duration, rate};
use crate::pipeline;

/// Arguments of `comm-check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    comm: CommArgs,
    /// How often every collective is run
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Elements (f32) that each rank gives
    #[arg(long, value_name = "N", default_value_t = 65536)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    elems: u32,
    /// Folder of the flight recorders
    #[arg(long, value_name = "DIR", default_value = "runs/comm-check/flight")]
    flight: PathBuf,
    /// A fault to commit: KIND:RANK:ROUND, KIND one of skip, mismatch, length, leave, sleep
    #[arg(long, hide = true)]
    fault: Option<Fault>,
}

/// A fault that a rank commits in a round, for tests of how the others notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    rank: u32,
    round: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Skip,
    Mismatch,
    Length,
    Leave,
    Sleep,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let refused = || format!("`{text}` is not KIND:RANK:ROUND");
        let [kind, rank, round] = parts.as_slice() else { return Err(refused()) };
        let kind = match *kind {
            "skip" => Kind::Skip,
            "mismatch" => Kind::Mismatch,
            "length" => Kind::Length,
            "leave" => Kind::Leave,
            "sleep" => Kind::Sleep,
            _ => return Err(refused()),
        };
        let number = |text: &str| text.parse().map_err(|_| refused());
        Ok(Fault { kind, rank: number(rank)?, round: number(round)? })
    }
}

/// What a rank that is to go astray adds to its step.
const FAR: usize = 100;
/// The collectives that are checked, in the order in which they run.
const NAMES: [&str; 5] = ["all_reduce", "all_gather", "broadcast", "exchange", "barrier"];

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let mut comm = args.comm.connect(&args.flight)?;
    let mut check = Check { comm: &mut *comm, args, times: vec![Vec::new(); NAMES.len()] };
    let checked = check.run();
    let times = std::mem::take(&mut check.times);
    // Said before it leaves: a launcher may end this rank as soon as another one has left.
    let exit = checked.unwrap_or_else(|failure| console.failure(&failure));
    if exit == Exit::Ok && comm.rank() == 0 {
        report(console, &*comm, args, &times);
    }
    comm.leave(exit as u8);
    Ok(exit)
}

struct Check<'a> {
    comm: &'a mut dyn Communicator,
    args: &'a Args,
    /// By collective, then round.
    times: Vec<Vec<Duration>>,
}

impl Check<'_> {
    fn run(&mut self) -> Result<Exit, Failure> {
        for round in 0..self.args.rounds {
            for (step, name) in NAMES.into_iter().enumerate() {
                let fault = self.args.fault.filter(|fault| {
                    (fault.rank, fault.round, name) == (self.comm.rank(), round, "all_gather")
                });
                match fault.map(|fault| fault.kind) {
                    Some(Kind::Skip) => continue,
                    Some(Kind::Leave) => return Ok(Exit::NonFinite),
                    Some(Kind::Sleep) => std::thread::sleep(Duration::from_secs(3600)),
                    Some(Kind::Mismatch | Kind::Length) | None => {}
                }
                let step =
                    step + 100 * usize::from(fault.is_some_and(|f| f.kind == Kind::Mismatch));
                let site = Site { entry: "comm_check", step, name, node: "rounds" };
                let short = fault.is_some_and(|fault| fault.kind == Kind::Length);
                let right = self.one(&site, (round, short)).map_err(|e| pipeline::comm(&e))?;
                if !right {
                    let headline = format!("`{name}` gives wrong values in round {round}");
                    return Err(Failure::internal(headline));
                }
            }
        }
        Ok(Exit::Ok)
    }

    /// Runs one collective and notes its time.
    fn timed(
        &mut self,
        site: &Site<'_>,
        run: impl FnOnce(&mut dyn Communicator) -> Result<(), CommError>,
    ) -> Result<(), CommError> {
        let begin = Instant::now();
        run(&mut *self.comm)?;
        self.times[site.step % FAR].push(begin.elapsed());
        Ok(())
    }

    /// Runs one collective; whether its result is right.
    fn one(&mut self, site: &Site<'_>, (round, short): (u32, bool)) -> Result<bool, CommError> {
        let (me, size) = (self.comm.rank(), self.comm.size());
        let all: Vec<u32> = (0..size).collect();
        let elems = self.args.elems;
        match site.name {
            "all_reduce" => {
                // Half of the ranks each, in odd rounds; sums of small numbers are exact.
                let half: Vec<u32> = all.iter().copied().filter(|r| r % 2 == me % 2).collect();
                let group = if round % 2 == 1 { &half } else { &all };
                let mut data = values(me, elems);
                let how = (Combine::Sum, DType::f32);
                self.timed(site, |comm| all_reduce(comm, site, group, how, &mut data))?;
                let sums: Vec<f32> = group.iter().map(|rank| *rank as f32).collect();
                let (ranks, count) = (sums.iter().sum::<f32>(), group.len() as f32);
                Ok(floats(&data).zip(0u32..).all(|(sum, i)| sum == ranks + count * place(i)))
            }
            "all_gather" => {
                let mine = values(me, elems - u32::from(short));
                let mut pieces = vec![vec![0; 4 * elems as usize]; size as usize];
                if short {
                    pieces[me as usize].truncate(mine.len());
                }
                let mut places: Vec<&mut [u8]> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
                self.timed(site, |comm| all_gather(comm, site, &all, &mine, &mut places))?;
                let right = |rank: u32| if rank == me { mine.clone() } else { values(rank, elems) };
                Ok(all.iter().zip(&pieces).all(|(rank, piece)| *piece == right(*rank)))
            }
            "broadcast" => {
                let root = round % size;
                let mut data = values(me, elems);
                self.timed(site, |comm| broadcast(comm, site, (&all, root), &mut data))?;
                Ok(data == values(root, elems))
            }
            "exchange" => {
                let pieces: Vec<Vec<u8>> = all.iter().map(|to| values(me + to, elems)).collect();
                let send: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
                let mut got = vec![vec![0; 4 * elems as usize]; size as usize];
                let mut receive: Vec<&mut [u8]> = got.iter_mut().map(Vec::as_mut_slice).collect();
                self.timed(site, |comm| comm.exchange(site, &all, &send, &mut receive))?;
                Ok(got == pieces)
            }
            _ => self.timed(site, |comm| barrier(comm, site, &all)).map(|()| true),
        }
    }
}

/// A small number for each place.
fn place(index: u32) -> f32 {
    (index % 7) as f32
}

/// What a rank gives.
fn values(rank: u32, elems: u32) -> Vec<u8> {
    (0..elems).flat_map(|i| (rank as f32 + place(i)).to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// A collective's median time, and the bytes that rank 0 sends in it.
struct Row {
    name: &'static str,
    seconds: f64,
    bytes: u64,
}

fn report(console: &Console, comm: &dyn Communicator, args: &Args, times: &[Vec<Duration>]) {
    let row = |(name, times): (&'static str, &Vec<Duration>)| {
        let mut times = times.clone();
        times.sort();
        let seconds = times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64);
        Row { name, seconds, bytes: comm.traffic().of(name).bytes / u64::from(args.rounds) }
    };
    let rows: Vec<Row> = NAMES.into_iter().zip(times).map(row).collect();
    let size = comm.size();
    if console.json {
        let row =
            |row: &Row| json!({"name": row.name, "median_s": row.seconds, "sent_bytes": row.bytes});
        let rows: Vec<Value> = rows.iter().map(row).collect();
        console.json(&json!({"version": 1, "ok": true, "ranks": size, "collectives": rows}));
        return;
    }
    let mut lines = vec![format!("{size} ranks, {} rounds, every result right", args.rounds)];
    for Row { name, seconds, bytes: sent } in rows {
        let speed = rate(sent as f64 / seconds.max(1e-9));
        let (sent, time) = (bytes(sent), duration(seconds));
        lines.push(format!("{name:<12} {time:>10}  sends {sent:>10}  {speed:>7}B/s"));
    }
    console.data(&lines.join("\n"));
}
