//! Several calls as one: their kernels' bodies in one body, values between them internal.
//!
//! # Invariants
//! - Members come in dependency order; the result does what they do, in that order.
//! - Equal ops of the merged body exist once; ops that nothing reads are dropped.

use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;

use crate::program::{Call, Kernel, KernelOp, Slot, V};
use crate::types::Type;

/// A call to merge, and which of its results are needed outside.
pub(super) struct Member<'a> {
    pub(super) call: &'a Call,
    pub(super) kernel: &'a Kernel,
    pub(super) kept: &'a [Slot],
}

/// Members as one.
pub(super) struct Merged {
    pub(super) kernel: Kernel,
    /// Argument slots, in order of parameters.
    pub(super) args: Vec<Slot>,
    /// The kept slots, in order of results.
    pub(super) results: Vec<Slot>,
}

/// Merges calls.
pub(super) fn merge(members: &[Member]) -> Merged {
    let mut args: IndexMap<Slot, Type> = IndexMap::new();
    let mut made: HashMap<Slot, ()> = HashMap::new();
    for m in members {
        for (slot, ty) in m.call.args.iter().zip(&m.kernel.params) {
            if !made.contains_key(slot) {
                args.entry(*slot).or_insert_with(|| ty.clone());
            }
        }
        made.extend(results(m).map(|(slot, _)| (slot, ())));
    }
    let mut body = Body { ops: Vec::new(), next: args.len() as u32, known: HashMap::new() };
    let mut values: HashMap<Slot, V> =
        args.keys().enumerate().map(|(i, slot)| (*slot, V(i as u32))).collect();
    for m in members {
        let inner = body.append(m, &values);
        values.extend(results(m).map(|(slot, v)| (slot, inner[v.0 as usize])));
    }
    let kept: Vec<Slot> = members.iter().flat_map(|m| m.kept.iter().copied()).collect();
    let kernel = Kernel {
        name: String::new(),
        params: args.values().cloned().collect(),
        ops: body.ops,
        results: kept.iter().map(|s| values[s]).collect(),
    };
    tidy(kernel, args.into_keys().collect(), kept)
}

fn results<'a>(m: &'a Member) -> impl Iterator<Item = (Slot, V)> + 'a {
    let first = m.call.first_result.0;
    m.kernel.results.iter().enumerate().map(move |(i, v)| (Slot(first + i as u32), *v))
}

/// A body under construction.
struct Body {
    ops: Vec<KernelOp>,
    next: u32,
    known: HashMap<KernelOp, V>,
}

impl Body {
    /// Appends a member's ops; gives the new value of each of its values.
    fn append(&mut self, m: &Member, values: &HashMap<Slot, V>) -> Vec<V> {
        let mut inner: Vec<V> = m.call.args.iter().map(|s| values[s]).collect();
        for op in &m.kernel.ops {
            let operands = op.operands.iter().map(|v| inner[v.0 as usize]).collect();
            let op = KernelOp { operands, ..op.clone() };
            let count = op.results.len() as u32;
            let first = match self.known.get(&op) {
                Some(v) => *v,
                None => {
                    let v = V(self.next);
                    self.next += count;
                    self.known.insert(op.clone(), v);
                    self.ops.push(op);
                    v
                }
            };
            inner.extend((first.0..first.0 + count).map(V));
        }
        inner
    }
}

/// Drops what nothing reads: ops, then parameters.
fn tidy(kernel: Kernel, args: Vec<Slot>, results: Vec<Slot>) -> Merged {
    let params = kernel.params.len();
    let total = params + kernel.ops.iter().map(|o| o.results.len()).sum::<usize>();
    let mut live = vec![false; total];
    kernel.results.iter().for_each(|v| live[v.0 as usize] = true);
    let mut end = total;
    for op in kernel.ops.iter().rev() {
        let start = end - op.results.len();
        if live[start..end].contains(&true) {
            op.operands.iter().for_each(|v| live[v.0 as usize] = true);
        }
        end = start;
    }
    let mut new: BTreeMap<V, V> = BTreeMap::new();
    let keep: Vec<usize> = (0..params).filter(|p| live[*p]).collect();
    for p in &keep {
        new.insert(V(*p as u32), V(new.len() as u32));
    }
    let (mut at, mut next) = (params, keep.len());
    let mut ops = Vec::with_capacity(kernel.ops.len());
    for op in kernel.ops {
        let count = op.results.len();
        if live[at..at + count].contains(&true) {
            (0..count).for_each(|i| {
                new.insert(V((at + i) as u32), V((next + i) as u32));
            });
            next += count;
            let operands = op.operands.iter().map(|v| new[v]).collect();
            ops.push(KernelOp { operands, ..op });
        }
        at += count;
    }
    Merged {
        args: keep.iter().map(|p| args[*p]).collect(),
        results,
        kernel: Kernel {
            name: kernel.name,
            params: keep.iter().map(|p| kernel.params[*p].clone()).collect(),
            ops,
            results: kernel.results.iter().map(|v| new[v]).collect(),
        },
    }
}

/// How new kernels are named until `outline` says what they do.
const NEW: &str = "fused_";

/// Kernels by structure while a pass makes new ones.
pub(super) struct Interner {
    /// Kernels without their names.
    known: IndexMap<Kernel, String>,
    /// Number of the next new name; an earlier pass may have made some.
    next: usize,
}

impl Interner {
    pub(super) fn new(kernels: Vec<Kernel>) -> Self {
        let nameless = |k: Kernel| (Kernel { name: String::new(), ..k.clone() }, k.name);
        let number = |k: &Kernel| k.name.strip_prefix(NEW)?.parse::<usize>().ok();
        let next = kernels.iter().filter_map(number).max().map_or(0, |n| n + 1);
        Interner { known: kernels.into_iter().map(nameless).collect(), next }
    }

    /// The kernel of a number, nameless.
    pub(super) fn get(&self, number: u32) -> &Kernel {
        let (kernel, _) =
            self.known.get_index(number as usize).expect("a number this interner gave");
        kernel
    }

    /// Number of a nameless kernel, known or new.
    pub(super) fn intern(&mut self, kernel: Kernel) -> u32 {
        if let Some(index) = self.known.get_index_of(&kernel) {
            return index as u32;
        }
        let name = format!("{NEW}{}", self.next);
        self.next += 1;
        self.known.insert(kernel, name);
        self.known.len() as u32 - 1
    }

    pub(super) fn finish(self) -> Vec<Kernel> {
        self.known.into_iter().map(|(kernel, name)| Kernel { name, ..kernel }).collect()
    }
}
