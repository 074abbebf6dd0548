//! Rings written and read, and what they tell.

use super::super::OwnedSite;
use super::super::rendezvous::{Client, Meeting, Server};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(4);

const NODES: [&str; 3] = ["layers.0.attn", "layers.0.moe", "layers.1.moe"];

fn site(step: usize) -> Site<'static> {
    Site { entry: "train_step", step, name: "all_reduce", node: NODES[step % 3] }
}

fn rings(size: u32) -> (tempfile::TempDir, Vec<Flight>) {
    let folder = tempfile::tempdir().expect("temp dir");
    let start = |rank| Flight::start(folder.path(), "job", (rank, size)).expect("a ring");
    let ranks = (0..size).map(start).collect();
    (folder, ranks)
}

fn hosts(size: u32) -> Vec<String> {
    (0..size).map(|rank| format!("host-{rank}")).collect()
}

/// The same, each connected with the others.
fn watched(size: u32) -> (tempfile::TempDir, Server, Vec<Flight>) {
    let (folder, mut flights) = rings(size);
    let server = Server::start("127.0.0.1:0", "word", (None, size)).expect("a free port");
    let meeting = Meeting { address: server.address().to_string(), token: "word".to_owned() };
    for (rank, flight) in (0..size).zip(&mut flights) {
        let client = Client::join(&meeting, (rank, size), TIMEOUT).expect("let in");
        let hosts = hosts(size);
        flight.attach(Met { client, server: None, hosts }, TIMEOUT).expect("a thread");
    }
    (folder, server, flights)
}

/// Looks until a rank is lost.
fn look(flight: &mut Flight, missing: &[u32]) -> Lost {
    let begin = Instant::now();
    loop {
        if let Some(lost) = flight.look(missing) {
            return lost;
        }
        assert!(begin.elapsed() < TIMEOUT, "nobody is lost");
        std::thread::sleep(LOOK_EVERY / 10);
    }
}

fn pass(flights: &mut [Flight], ranks: &[u32], step: usize, group: &[u32]) {
    for &rank in ranks {
        let flight = &mut flights[rank as usize];
        flight.begin(&site(step), group, 8);
        flight.end();
    }
}

#[test]
fn what_is_written_is_read_again() {
    let (folder, mut flights) = rings(1);
    for step in 0..SLOTS as usize + 10 {
        pass(&mut flights, &[0], step, &[0]);
    }
    let site = Site { entry: "eval", step: 7, name: "exchange_rows", node: "tab\there" };
    flights[0].begin(&site, &[0], 1 << 40);
    let path = ring_path(folder.path(), 0);
    let ring = Ring::head(&path).expect("a ring");
    assert_eq!((ring.rank, ring.size, ring.begun), (0, 1, SLOTS + 11));
    assert_eq!((ring.state, ring.process_id()), (State::Running, std::process::id()));
    let records = ring.records(&path);
    assert_eq!(records.len() as u64, SLOTS);
    assert_eq!(records[0].number, 12);
    let last = ring.last(&path).expect("a record");
    assert_eq!(Some(&last), records.last());
    assert_eq!((last.bytes, last.end_ns, last.number_in_group), (1 << 40, 0, SLOTS + 10));
    assert_eq!(last.site.node, "tab here");
    assert!(records[0].end_ns >= records[0].begin_ns && records[0].begin_ns > 0);
}

#[test]
fn verdicts_of_every_kind_survive() {
    let (folder, _server, mut flights) = watched(2);
    let site = site(4);
    flights[0].begin(&site, &[0, 1], 0);
    let causes = [
        Cause::Gone,
        Cause::Ended { exit: 12 },
        Cause::Stopped,
        Cause::Elsewhere { entered: site.to_string() },
        Cause::Length { expected: 4, found: 9 },
        Cause::Late,
        Cause::Silent,
    ];
    for cause in causes {
        let lost = flights[0].lost(1, cause);
        flights[0].give_up(&lost);
        let ring = Ring::head(&ring_path(folder.path(), 0)).expect("a ring");
        assert_eq!((ring.state, ring.verdict.as_ref()), (State::Lost, Some(&lost)));
        // The one who is waited for adopts what the first has found.
        flights[1].begin(&site, &[0, 1], 0);
        assert_eq!(flights[1].judge(&[0]), lost);
    }
}

#[test]
fn a_rank_that_has_left_is_noticed_while_it_is_waited_for() {
    let (_folder, _server, mut flights) = watched(2);
    flights[0].begin(&site(1), &[0, 1], 0);
    assert_eq!(flights[0].look(&[1]), None, "not before it is time to look");
    std::thread::sleep(LOOK_EVERY);
    assert_eq!(flights[0].look(&[1]), None, "rank 1 is alive");
    flights[1].leave(12);
    let lost = look(&mut flights[0], &[1]);
    assert_eq!((lost.rank, lost.cause), (1, Cause::Ended { exit: 12 }));
}

#[test]
fn a_rank_whose_connection_ends_without_a_word_is_gone() {
    let (_folder, _server, mut flights) = watched(3);
    for rank in [0, 1] {
        flights[rank].begin(&site(1), &[0, 1, 2], 0);
    }
    flights.pop();
    for rank in [0, 1] {
        let lost = look(&mut flights[rank], &[2]);
        assert_eq!((lost.rank, lost.cause, lost.host.as_str()), (2, Cause::Gone, "host-2"));
    }
}

#[test]
fn a_rank_that_is_lost_before_it_has_told_anything_is_gone() {
    let (_folder, mut flights) = rings(2);
    let server = Server::start("127.0.0.1:0", "word", (None, 2)).expect("a free port");
    let meeting = Meeting { address: server.address().to_string(), token: "word".to_owned() };
    let join = |rank| Client::join(&meeting, (rank, 2), TIMEOUT).expect("let in");
    let (client, other) = (join(0), join(1));
    let met = Met { client, server: None, hosts: hosts(2) };
    flights[0].attach(met, TIMEOUT).expect("a thread");
    flights[0].begin(&site(1), &[0, 1], 0);
    drop(other);
    let lost = look(&mut flights[0], &[1]);
    assert_eq!((lost.rank, lost.cause, lost.host.as_str()), (1, Cause::Gone, "host-1"));
}

#[test]
fn the_one_that_others_wait_for_is_found_through_what_they_tell() {
    let (_folder, _server, mut flights) = watched(4);
    flights[0].begin(&site(3), &[0, 1], 0);
    flights[1].begin(&site(2), &[1, 2], 0);
    flights[2].begin(&site(1), &[2, 3], 0);
    let lost = flights[0].judge(&[1]);
    assert_eq!((lost.rank, lost.cause, lost.site), (3, Cause::Late, site(3).to_owned()));
    flights[3].begin(&site(7), &[2, 3], 0);
    assert_eq!(flights[0].entered(3), site(7).to_string());
}

#[test]
fn who_gives_up_stays_until_the_others_have_too_but_not_for_ever() {
    let (_folder, _server, mut flights) = watched(3);
    let begin = Instant::now();
    flights[2].leave(12);
    assert!(begin.elapsed() < LINGER, "who ends for its own reasons does not stay");
    let mut second = flights.remove(1);
    let first = &mut flights[0];
    for flight in [&mut second, &mut *first] {
        flight.begin(&site(1), &[0, 1, 2], 0);
    }
    let begin = Instant::now();
    let leaving = std::thread::spawn(move || {
        let lost = look(&mut second, &[2]);
        second.give_up(&lost);
        second.leave(11);
        begin.elapsed()
    });
    std::thread::sleep(LINGER / 4);
    let lost = look(first, &[2]);
    first.give_up(&lost);
    let stayed = leaving.join().expect("no panic");
    assert!(stayed >= LINGER / 4 && stayed < LINGER, "until rank 0 gave up: {stayed:?}");
    for (size, waits) in [(2, false), (3, true)] {
        let (_folder, _server, mut flights) = watched(size);
        flights[0].begin(&site(1), &[0, 1], 0);
        let lost = flights[0].lost(1, Cause::Late);
        flights[0].give_up(&lost);
        let begin = Instant::now();
        flights[0].leave(11);
        assert_eq!(begin.elapsed() >= LINGER, waits, "for rank 2, not for the one it blames");
    }
}

#[test]
fn a_rank_alone_blames_whom_it_waits_for() {
    let (_folder, mut flights) = rings(2);
    flights[0].begin(&site(1), &[0, 1], 0);
    let lost = flights[0].judge(&[1]);
    assert_eq!((lost.rank, lost.cause, lost.host.as_str()), (1, Cause::Late, "unknown host"));
}

#[test]
fn the_first_collective_that_is_not_entered_alike_is_found() {
    let (folder, mut flights) = rings(4);
    let all = [0, 1, 2, 3];
    pass(&mut flights, &all, 0, &all);
    pass(&mut flights, &[0, 1], 1, &[0, 1]);
    pass(&mut flights, &[2, 3], 1, &[2, 3]);
    assert_eq!(Report::read(folder.path()).expect("rings").divergence, None);
    // Rank 2 skips a step and is one ahead.
    for (rank, step) in [(0, 2), (1, 2), (2, 3), (3, 2)] {
        flights[rank].begin(&site(step), &all, 0);
    }
    let report = Report::read(folder.path()).expect("rings");
    let divergence = report.divergence.expect("rank 2 is elsewhere");
    assert_eq!((divergence.group, divergence.number), (all.to_vec(), 1));
    let entered: Vec<(usize, Vec<u32>)> =
        divergence.entered.into_iter().map(|(site, ranks)| (site.step, ranks)).collect();
    assert_eq!(entered, [(2, vec![0, 1, 3]), (3, vec![2])]);
    assert_eq!(report.suspect.map(|(rank, _)| rank), Some(2));
}

#[test]
fn who_has_not_entered_is_absent_and_suspected() {
    let (folder, mut flights) = rings(3);
    let all = [0, 1, 2];
    pass(&mut flights, &all, 0, &all);
    flights[0].begin(&site(1), &all, 0);
    flights[2].begin(&site(1), &all, 0);
    let report = Report::read(folder.path()).expect("rings");
    assert_eq!(report.divergence.map(|d| d.absent), Some(vec![1]));
    assert_eq!(report.suspect, Some((1, Cause::Late.to_string())));
}

#[test]
fn a_damaged_ring_is_no_ring() {
    let (folder, flights) = rings(2);
    drop(flights);
    let path = ring_path(folder.path(), 1);
    for bytes in [&b""[..], b"perilune-flight\t1\n", &[0xff; 2048], &[b'\n'; 4096]] {
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(Ring::head(&path), None);
        let report = Report::read(folder.path()).expect("the other ring is whole");
        assert_eq!(report.ranks.len(), 2);
        assert!(report.ranks[0].is_some() && report.ranks[1].is_none());
    }
    assert_eq!(Report::read(&folder.path().join("nowhere")), None);
}

#[test]
fn the_site_of_a_loss_is_that_of_the_collective_under_way() {
    let (_folder, mut flights) = rings(2);
    flights[0].begin(&site(5), &[0, 1], 0);
    let expected: OwnedSite = site(5).to_owned();
    assert_eq!(flights[0].lost(1, Cause::Late).site, expected);
    assert_eq!(flights[0].entered(1), "another collective");
}
