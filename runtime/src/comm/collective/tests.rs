//! Properties of the collectives over ranks that are threads.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{InProcess, in_process};
use super::*;
use crate::tensor::{round_bf16, widen_bf16};

/// Runs the same function on every rank of a job; gives what each one gives.
fn on_ranks<T: Send>(size: u32, run: impl Fn(InProcess) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let ranks = in_process::ranks(size).into_iter();
        let run = &run;
        let threads: Vec<_> = ranks
            .map(|rank| scope.spawn(move || run(rank.with_timeout(Duration::from_secs(20)))))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

fn site(name: &str) -> Site<'_> {
    Site { entry: "train_step", step: 3, name, node: "layers.0.moe" }
}

/// Bytes that tell rank, receiver and place apart.
fn piece(from: u32, to: u32, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32 * 7 + from * 31 + to * 57) as u8).collect()
}

/// Ascending ranks from the bits of a mask, at least one.
fn members(size: u32, mask: u32) -> Vec<u32> {
    let group: Vec<u32> = (0..size).filter(|rank| mask >> rank & 1 == 1).collect();
    if group.is_empty() { vec![0] } else { group }
}

/// The tree written as recursion over levels.
fn tree<T: Copy>(values: &[T], combine: &dyn Fn(T, T) -> T) -> T {
    if let [one] = values {
        return *one;
    }
    let level = |pair: &[T]| if let [a, b] = pair { combine(*a, *b) } else { pair[0] };
    tree(&values.chunks(2).map(level).collect::<Vec<T>>(), combine)
}

fn expected(combine: Combine, dtype: DType, columns: &[Vec<u8>]) -> Vec<u8> {
    let elem = dtype.bytes() as usize;
    let elems = columns[0].len() / elem;
    let at = |i: usize| columns.iter().map(move |c| &c[i * elem..(i + 1) * elem]);
    let float = move |a: f64, b: f64| match combine {
        Combine::Sum => a + b,
        Combine::Max => a.max(b),
        Combine::Min => a.min(b),
    };
    let single = move |a: f32, b: f32| match combine {
        Combine::Sum => a + b,
        Combine::Max | Combine::Min => float(a.into(), b.into()) as f32,
    };
    let word = |b: &[u8]| u32::from_le_bytes(b.try_into().expect("4 bytes"));
    let half = |b: &[u8]| widen_bf16(u16::from_le_bytes(b.try_into().expect("2 bytes")));
    let one = |i: usize| -> Vec<u8> {
        match dtype {
            DType::f32 => {
                let v: Vec<f32> = at(i).map(|b| f32::from_bits(word(b))).collect();
                tree(&v, &single).to_le_bytes().to_vec()
            }
            DType::bf16 => {
                let v: Vec<f32> = at(i).map(half).collect();
                round_bf16(tree(&v, &single)).to_le_bytes().to_vec()
            }
            DType::f64 => {
                let v: Vec<f64> =
                    at(i).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect();
                tree(&v, &float).to_le_bytes().to_vec()
            }
            _ => {
                let v: Vec<i32> = at(i).map(|b| word(b) as i32).collect();
                let combine = |a: i32, b: i32| match combine {
                    Combine::Sum => a.wrapping_add(b),
                    Combine::Max => a.max(b),
                    Combine::Min => a.min(b),
                };
                tree(&v, &combine).to_le_bytes().to_vec()
            }
        }
    };
    (0..elems).flat_map(one).collect()
}

/// Finite values of a type, of very different size, from a seed.
fn values(dtype: DType, elems: usize, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) as u32
    };
    let one = |_| -> Vec<u8> {
        let bits = next();
        let float = (f64::from(bits) / f64::from(u32::MAX) - 0.25) * 10f64.powi(bits as i32 % 9);
        match dtype {
            DType::f64 => float.to_le_bytes().to_vec(),
            DType::f32 => (float as f32).to_le_bytes().to_vec(),
            DType::bf16 => round_bf16(float as f32).to_le_bytes().to_vec(),
            _ => (bits as i32).wrapping_mul(3).to_le_bytes().to_vec(),
        }
    };
    (0..elems).flat_map(one).collect()
}

const TYPES: [DType; 4] = [DType::f32, DType::f64, DType::bf16, DType::i32];
const COMBINES: [Combine; 3] = [Combine::Sum, Combine::Max, Combine::Min];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_reduction_is_the_pairwise_tree_in_rank_order_whoever_is_late(
        size in 1u32..7, mask in any::<u32>(), elems in 0usize..40, seed in any::<u32>(),
        (dtype, combine) in (0usize..4, 0usize..3), late in 0u32..7,
    ) {
        let (dtype, combine) = (TYPES[dtype], COMBINES[combine]);
        let group = members(size, mask);
        let data: Vec<Vec<u8>> =
            group.iter().map(|r| values(dtype, elems, seed.wrapping_add(*r))).collect();
        let whole = expected(combine, dtype, &data);
        let results = on_ranks(size, |mut comm| {
            let place = group.iter().position(|r| *r == comm.rank())?;
            if comm.rank() == late {
                std::thread::sleep(Duration::from_millis(2));
            }
            let mut all = data[place].clone();
            let how = (combine, dtype);
            all_reduce(&mut comm, &site("all_reduce"), &group, how, &mut all).expect("all");
            Some((all, comm.traffic().of("all_reduce")))
        });
        let p = group.len() as u64;
        let elem = dtype.bytes();
        for (rank, result) in results.into_iter().enumerate() {
            let Some(place) = group.iter().position(|r| *r as usize == rank) else { continue };
            let (all, sent) = result.expect("a member");
            prop_assert_eq!(&all, &whole);
            let n = elems as u64;
            let slice = n / p + u64::from((place as u64) < n % p);
            prop_assert_eq!(sent.bytes, (n - slice + (p - 1) * slice) * elem);
        }
    }

    #[test]
    fn every_rank_gets_every_piece(
        size in 1u32..7, mask in any::<u32>(),
        lens in prop::collection::vec(0usize..50, 7), root in any::<u32>(),
    ) {
        let group = members(size, mask);
        let root = group[root as usize % group.len()];
        let len = |rank: u32| lens[rank as usize];
        let results = on_ranks(size, |mut comm| {
            let me = comm.rank();
            if !group.contains(&me) {
                return None;
            }
            let mut gathered: Vec<Vec<u8>> = group.iter().map(|r| vec![0; len(*r)]).collect();
            let mut places: Vec<&mut [u8]> = gathered.iter_mut().map(Vec::as_mut_slice).collect();
            let mine = piece(me, 0, len(me));
            all_gather(&mut comm, &site("all_gather"), &group, &mine, &mut places).expect("all");
            barrier(&mut comm, &site("barrier"), &group).expect("all are there");
            let mut data = piece(me, 9, len(root));
            broadcast(&mut comm, &site("broadcast"), (&group, root), &mut data).expect("sent");
            let send: Vec<Vec<u8>> = group.iter().map(|to| piece(me, *to, len(me) + *to as usize)).collect();
            let mut got: Vec<Vec<u8>> = group.iter().map(|from| vec![0; len(*from) + me as usize]).collect();
            let send: Vec<&[u8]> = send.iter().map(Vec::as_slice).collect();
            let mut receive: Vec<&mut [u8]> = got.iter_mut().map(Vec::as_mut_slice).collect();
            comm.exchange(&site("exchange"), &group, &send, &mut receive).expect("exchanged");
            Some((gathered, data, got, comm.traffic().clone()))
        });
        let others = group.len() as u64 - 1;
        for &me in &group {
            let (gathered, data, got, traffic) = results[me as usize].as_ref().expect("a member");
            for (i, &from) in group.iter().enumerate() {
                prop_assert_eq!(&gathered[i], &piece(from, 0, len(from)));
                prop_assert_eq!(&got[i], &piece(from, me, len(from) + me as usize));
            }
            prop_assert_eq!(data, &piece(root, 9, len(root)));
            prop_assert_eq!(traffic.of("all_gather").bytes, others * len(me) as u64);
            prop_assert_eq!(traffic.of("barrier").bytes, 0);
            let sent = if me == root { others * len(root) as u64 } else { 0 };
            prop_assert_eq!(traffic.of("broadcast").bytes, sent);
            let rest = group.iter().filter(|to| **to != me);
            let sent: u64 = rest.map(|to| len(me) as u64 + u64::from(*to)).sum();
            prop_assert_eq!(traffic.of("exchange").bytes, sent);
        }
    }
}

#[test]
fn a_group_that_cannot_be_is_refused_before_anything_is_sent() {
    let mut ranks = in_process::ranks(3);
    let comm = &mut ranks[1];
    for group in [&[0u32, 2][..], &[1, 0], &[1, 1], &[1, 3], &[]] {
        let refused = barrier(comm, &site("barrier"), group);
        assert!(matches!(refused, Err(CommError::Use { .. })), "{group:?}: {refused:?}");
    }
    let (short, mut long) = ([0u8; 3], [0u8; 4]);
    let refused = comm.exchange(&site("exchange"), &[1], &[&short], &mut [&mut long]);
    assert!(matches!(refused, Err(CommError::Use { .. })), "{refused:?}");
    let sum = (Combine::Sum, DType::f32);
    let refused = all_reduce(comm, &site("all_reduce"), &[0, 1], sum, &mut [0u8; 6]);
    assert!(matches!(refused, Err(CommError::Use { .. })), "{refused:?}");
    let refused = broadcast(comm, &site("broadcast"), (&[0, 1], 2), &mut [0u8; 6]);
    assert!(matches!(refused, Err(CommError::Use { .. })), "{refused:?}");
    assert_eq!(comm.traffic().iter().count(), 0);
}
