//! The communicator's calls, recorded by a fabric that carries bytes between threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::super::rendezvous::{Client, Meeting, Met, Server};
use super::super::{Combine, all_reduce, barrier, host};
use super::*;

/// Messages under way, by sender and receiver.
type Wire = Arc<Mutex<BTreeMap<(u32, u32), VecDeque<Vec<u8>>>>>;

/// A fabric that writes down what it is asked.
struct Recording {
    rank: u32,
    wire: Wire,
    memory: Vec<u8>,
    pending: Vec<(u64, u64, u32)>,
    calls: Vec<String>,
}

impl Fabric for Recording {
    fn reserve(&mut self, bytes: u64) -> Result<(), String> {
        self.memory = vec![0xaa; bytes as usize];
        Ok(())
    }

    fn upload(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.memory[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), String> {
        bytes.copy_from_slice(&self.memory[at as usize..][..bytes.len()]);
        Ok(())
    }

    fn group_start(&mut self) -> Result<(), String> {
        self.calls.push("group_start".to_owned());
        Ok(())
    }

    fn group_end(&mut self) -> Result<(), String> {
        self.calls.push("group_end".to_owned());
        Ok(())
    }

    fn send(&mut self, at: u64, bytes: u64, peer: u32) -> Result<(), String> {
        self.calls.push(format!("send {bytes} to {peer}"));
        let message = self.memory[at as usize..][..bytes as usize].to_vec();
        let mut wire = self.wire.lock().map_err(|_| "a rank panicked")?;
        wire.entry((self.rank, peer)).or_default().push_back(message);
        Ok(())
    }

    fn receive(&mut self, at: u64, bytes: u64, peer: u32) -> Result<(), String> {
        self.calls.push(format!("receive {bytes} from {peer}"));
        self.pending.push((at, bytes, peer));
        Ok(())
    }

    fn done(&mut self) -> Result<bool, String> {
        let mut wire = self.wire.lock().map_err(|_| "a rank panicked")?;
        let (memory, rank) = (&mut self.memory, self.rank);
        self.pending.retain(|(at, bytes, peer)| {
            let message = wire.get_mut(&(*peer, rank)).and_then(VecDeque::pop_front);
            let Some(message) = message else { return true };
            assert_eq!(message.len() as u64, *bytes, "NCCL does not check lengths");
            memory[*at as usize..][..message.len()].copy_from_slice(&message);
            false
        });
        Ok(self.pending.is_empty())
    }

    fn abort(&mut self) {
        self.calls.push("abort".to_owned());
    }
}

fn site(step: usize) -> Site<'static> {
    Site { entry: "train_step", step, name: "all_reduce", node: "head" }
}

/// Runs ranks; gives what each one gives, and what it asked of its fabric.
fn on_ranks<T: Send>(
    size: u32,
    timeout: Duration,
    run: impl Fn(&mut Nccl<Recording>) -> T + Sync,
) -> Vec<(T, Vec<String>)> {
    let folder = tempfile::tempdir().expect("temp dir");
    let wire = Wire::default();
    let server = Server::start("127.0.0.1:0", "word", (None, size)).expect("a free port");
    let meeting = Meeting { address: server.address().to_string(), token: "word".to_owned() };
    std::thread::scope(|scope| {
        let (run, folder) = (&run, folder.path());
        let rank = |rank| {
            let (wire, pending, calls) = (Arc::clone(&wire), Vec::new(), Vec::new());
            let fabric = Recording { rank, wire, memory: Vec::new(), pending, calls };
            let mut flight = Flight::start(folder, "job", (rank, size)).expect("a ring");
            let client = Client::join(&meeting, (rank, size), timeout).expect("let in");
            let hosts = vec![host::name(); size as usize];
            flight.attach(Met { client, server: None, hosts }, timeout).expect("a thread");
            scope.spawn(move || {
                let mut comm = Nccl::new((rank, size), fabric, flight, timeout);
                (run(&mut comm), comm.fabric.calls)
            })
        };
        let threads: Vec<_> = (0..size).map(rank).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

#[test]
fn a_sum_is_two_groups_for_each_exchange() {
    let results = on_ranks(2, Duration::from_secs(20), |comm| {
        let mut data: Vec<u8> = [1.5f32, 2.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let how = (Combine::Sum, perilune_plan::DType::f32);
        all_reduce(comm, &site(1), &[0, 1], how, &mut data).expect("summed");
        (data, comm.traffic().of("all_reduce").bytes)
    });
    let sums: Vec<u8> = [3.0f32, 4.0, 8.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(results.iter().all(|((data, _), _)| *data == sums));
    // Rank 0 sums two elements, rank 1 the third.
    assert_eq!((results[0].0.1, results[1].0.1), (4 + 8, 8 + 4));
    let group = |send: &str, receive: &str| {
        let calls = ["group_start", send, receive, "group_end"];
        calls.map(str::to_owned).to_vec()
    };
    let envelopes = group("send 16 to 1", "receive 16 from 1");
    let parts = group("send 4 to 1", "receive 8 from 1");
    let sums = group("send 8 to 1", "receive 4 from 1");
    let expected = [envelopes.clone(), parts, envelopes, sums].concat();
    assert_eq!(results[0].1, expected);
}

#[test]
fn a_rank_elsewhere_is_named_before_any_bytes_move() {
    let results = on_ranks(3, Duration::from_secs(20), |comm| {
        let step = if comm.rank() == 1 { 5 } else { 4 };
        barrier(comm, &site(step), &[0, 1, 2]).expect_err("rank 1 is elsewhere").to_string()
    });
    for (said, calls) in results {
        assert!(said.starts_with("rank 1 on `"), "{said}");
        assert!(said.contains("has entered `all_reduce` of `train_step`, step 5"), "{said}");
        assert_eq!(calls.iter().filter(|call| *call == "group_start").count(), 1);
        assert_eq!(calls.last().map(String::as_str), Some("abort"));
    }
}

#[test]
fn who_does_not_come_is_named_and_the_communicator_aborted() {
    let results = on_ranks(3, Duration::from_millis(300), |comm| {
        if comm.rank() == 2 {
            std::thread::sleep(Duration::from_millis(600));
            return String::new();
        }
        let lost = barrier(comm, &site(4), &[0, 1, 2]).expect_err("rank 2 does not come");
        let again = barrier(comm, &site(4), &[0, 1, 2]).expect_err("aborted");
        assert!(matches!(again, CommError::Carrier { .. }));
        lost.to_string()
    });
    for (said, calls) in &results[..2] {
        assert!(said.starts_with("rank 2 on `"), "{said}");
        assert_eq!(calls.iter().filter(|call| *call == "abort").count(), 1);
    }
}
