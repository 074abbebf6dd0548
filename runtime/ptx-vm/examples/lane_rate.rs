//! Measures how fast a launch runs: lane-instructions and seconds, as JSON.
//!
//! `lane_rate FILE.ptx LAUNCH.ron CHECKS THREADS SECONDS` prepares the launch once and runs it, on the
//! memory that it left behind, until the seconds are over. `benches/vm.py` calls it.

use perilune_ptx_vm::{Checks, Extents, Launch, Machine, Module, Options};
use std::error::Error;
use std::time::Instant;

/// Seconds that this thread has been running, where the system says so.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(|nanoseconds: f64| nanoseconds / 1e9)
}

#[allow(clippy::print_stdout, reason = "a measurement is for reading")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [ptx, launch, checks, threads, seconds] = args.as_slice() else {
        return Err("FILE.ptx LAUNCH.ron CHECKS THREADS SECONDS".into());
    };
    let module = Module::parse_named(ptx, &std::fs::read_to_string(ptx)?)?;
    let launch = Launch::read(launch)?;
    let checks = Checks::named(checks).ok_or("no such checks")?;
    let options = Options { checks, threads: threads.parse()?, ..Options::default() };
    let (least, extents) = (seconds.parse::<f64>()?, Extents::from(&launch));
    let (params, mut memory) = Machine::prepare(&module, &launch)?;
    let (begin, before) = (Instant::now(), processor_seconds());
    let (mut lanes, mut runs) = (0u64, 0u64);
    while begin.elapsed().as_secs_f64() < least {
        let prepared = (params.clone(), memory);
        let outcome = Machine::run_with(&module, &launch.entry, extents, prepared, &options)?;
        if let Some(finding) = outcome.findings.first() {
            return Err(finding.to_string().into());
        }
        lanes += outcome.counters.total().lanes;
        runs += 1;
        memory = outcome.memory;
    }
    // The caller's thread does all the work only where it is the only one.
    let busy = processor_seconds().zip(before).filter(|_| options.threads == 1);
    let report = serde_json::json!({
        "lanes": lanes, "runs": runs, "seconds": begin.elapsed().as_secs_f64(),
        "processor_seconds": busy.map(|(after, before)| after - before),
    });
    println!("{report}");
    Ok(())
}
