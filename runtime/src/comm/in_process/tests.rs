//! Faults among ranks that are threads: nobody hangs, and the right one is named.

use super::super::{barrier, in_process};
use super::*;

const ALL: [u32; 4] = [0, 1, 2, 3];

fn site(step: usize) -> Site<'static> {
    Site { entry: "train_step", step, name: "barrier", node: "layers.1.moe" }
}

/// Runs four ranks; gives whom each one blames, for those that fail.
fn blamed(run: impl Fn(&mut InProcess) -> Result<(), CommError> + Sync) -> Vec<Option<Lost>> {
    std::thread::scope(|scope| {
        let run = &run;
        let ranks = in_process::ranks(4).into_iter();
        let threads: Vec<_> = ranks
            .map(|rank| {
                let mut rank = rank.with_timeout(Duration::from_millis(300));
                scope.spawn(move || match run(&mut rank) {
                    Ok(()) => None,
                    Err(CommError::Lost(lost)) => Some(*lost),
                    Err(other) => panic!("{other}"),
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(None)).collect()
    })
}

#[test]
fn a_rank_that_panics_is_named_at_once_by_all() {
    let begin = Instant::now();
    let lost = blamed(|comm| {
        let slow = Duration::from_secs(30);
        comm.timeout = slow;
        barrier(comm, &site(1), &ALL)?;
        assert!(comm.rank() != 2, "rank 2 falls");
        barrier(comm, &site(2), &ALL)
    });
    assert!(begin.elapsed() < Duration::from_secs(20));
    for rank in [0, 1, 3] {
        let lost = lost[rank].as_ref().expect("survivors notice");
        assert_eq!((lost.rank, &lost.cause, lost.site.step), (2, &Cause::Gone, 2));
        let text = lost.to_string();
        assert!(text.contains("rank 2 on `"), "{text}");
        assert!(text.contains("`barrier` of `train_step`, step 2 (`layers.1.moe`)"), "{text}");
    }
}

#[test]
fn a_rank_that_stays_away_is_named_after_the_timeout() {
    let lost = blamed(|comm| {
        if comm.rank() == 1 {
            std::thread::sleep(Duration::from_millis(900));
            return Ok(());
        }
        barrier(comm, &site(1), &ALL)
    });
    for rank in [0, 2, 3] {
        let lost = lost[rank].as_ref().expect("survivors notice");
        assert_eq!((lost.rank, &lost.cause), (1, &Cause::Late));
    }
}

#[test]
fn a_rank_that_skips_a_collective_is_named_by_all() {
    let lost = blamed(|comm| {
        if comm.rank() != 3 {
            barrier(comm, &site(1), &ALL)?;
        }
        barrier(comm, &site(2), &ALL)
    });
    let entered = site(2).to_string();
    for lost in lost {
        let lost = lost.expect("all notice");
        assert_eq!((lost.rank, lost.cause), (3, Cause::Elsewhere { entered: entered.clone() }));
    }
}

#[test]
fn a_wait_for_one_who_waits_is_followed_to_the_one_who_is_late() {
    // 3 is late for 2, so 2 is late for 1, so 1 is late for 0.
    let lost = blamed(|comm| match comm.rank() {
        0 => barrier(comm, &site(9), &[0, 1]),
        1 => barrier(comm, &site(8), &[1, 2]),
        2 => barrier(comm, &site(7), &[2, 3]),
        _ => {
            std::thread::sleep(Duration::from_millis(900));
            Ok(())
        }
    });
    for rank in 0..3 {
        assert_eq!(lost[rank].as_ref().map(|lost| lost.rank), Some(3), "{rank}");
    }
}

#[test]
fn a_piece_of_another_length_is_named() {
    let lost = blamed(|comm| {
        let piece = vec![1u8; if comm.rank() == 2 { 5 } else { 4 }];
        let mut places = [[0u8; 4], [0; 4], [0; 4], [0; 4]];
        let send: Vec<&[u8]> =
            ALL.iter().map(|to| if *to == comm.rank() { &[0; 4][..] } else { &piece }).collect();
        let mut receive: Vec<&mut [u8]> = places.iter_mut().map(|p| p.as_mut_slice()).collect();
        comm.exchange(&site(1), &ALL, &send, &mut receive)
    });
    let cause = Cause::Length { expected: 4, found: 5 };
    for rank in [0, 1, 3] {
        let lost = lost[rank].as_ref().expect("the others see it");
        assert_eq!((lost.rank, &lost.cause), (2, &cause));
    }
}

#[test]
fn a_rank_that_leaves_says_with_which_exit_code() {
    let lost = blamed(|comm| {
        if comm.rank() == 0 {
            comm.leave(12);
            return Ok(());
        }
        barrier(comm, &site(1), &ALL)
    });
    for lost in &lost[1..] {
        let lost = lost.as_ref().expect("the others notice");
        assert_eq!((lost.rank, &lost.cause), (0, &Cause::Ended { exit: 12 }));
    }
}
