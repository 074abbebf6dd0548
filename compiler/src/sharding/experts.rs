//! Rows at their experts: a mixture of experts whose experts lie on different ranks.
//!
//! ```text
//! load = Histogram(keys)        counts of a rank's own rows, and by exchange those that come to it
//! offsets = CumSum(load)        where the rows of its own experts begin and end
//! order = ArgSort(keys)         groups a rank's own rows by expert
//! Gather(x, order)              ... and sends them to their experts: dispatch
//! RaggedEinsum(rows, w, offsets)
//! Gather(y, ArgSort(order))     sends rows back and puts them in their places: combine
//! ```
//!
//! The pattern is what it says on one rank, and its gradient is of the same pattern.
//!
//! # Invariants
//! - Rows at an expert are ordered as on one rank: by expert, then by their place in the batch.
//! - There is room for every row that could come: routing is dropless.

use super::layout::{DispatchId, Form, Partial, State, split};
use super::rewrite::{Done, Sharder};
use super::rules::{Ruled, refusal};
use crate::diagnostic::InternalError;
use crate::graph::{Node, Origin};
use crate::ops::{
    ArgSort, CumSum, Gather, Histogram, Map, Op, Ragged, RaggedEinsum, Reduce, Reshape, Value,
    generic,
};
use crate::program::{CollectiveKind, Combine, Generic, Reason};
use crate::scalar::ScalarOp;

/// The mesh axis that experts are cut over.
const EXPERTS: &str = "ep";

/// The exchange of rows that some keys ask for.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    /// The keys in the whole graph, and their bound.
    keys: (Value, u64),
    /// Axes that the experts are cut over; none if every rank has all of them.
    axes: Vec<u32>,
    /// Axes that the rows are cut over beside.
    others: Vec<u32>,
    /// A rank's own rows.
    rows: u64,
    /// Rows that can be at a rank's experts.
    pub(super) capacity: u64,
    /// Values of the rank's graph: the order of its own rows, counts that it sends and gets.
    order: Value,
    inverse: Option<Value>,
    sent: Value,
    received: Value,
    offsets: Value,
}

/// The value that a chain of reshapes renames.
fn root(cx: &Sharder<'_>, value: Value) -> Value {
    let mut value = value;
    while let Some(id) = cx.old.maker(value) {
        match &cx.old.nodes[id] {
            Node { op: Op::Reshape(_), operands, .. } => value = operands[0],
            _ => break,
        }
    }
    value
}

/// The most rows that one of `ranks` ranks can get of `rows` from each of them: keys of one token
/// differ if they are the positions of its largest scores.
fn capacity(cx: &Sharder<'_>, keys: Value, rows: u64, (ranks, experts): (u64, u64)) -> u64 {
    let of_top_k = cx.old.maker(keys).and_then(|id| match &cx.old.nodes[id] {
        Node { op: Op::TopK(op), results, .. } if results.get(1) == Some(&keys) => Some(op.k),
        _ => None,
    });
    let all = rows.saturating_mul(ranks);
    match of_top_k.filter(|k| *k > 0 && rows.is_multiple_of(*k)) {
        Some(k) => (rows / k).saturating_mul(k.min(experts)).saturating_mul(ranks),
        None => all,
    }
}

impl Sharder<'_> {
    /// The exchange for keys, if they are cut over the batch and the experts over their axis.
    fn dispatch_of(
        &mut self,
        keys: Value,
        bound: u64,
        origin: &Origin,
    ) -> Done<Option<DispatchId>> {
        let root = root(self, keys);
        if let Some(at) = self.dispatches.iter().position(|d| d.keys == (root, bound)) {
            return Ok(Some(DispatchId(at)));
        }
        let Some(shard) = self.state(keys)?.form.split().cloned() else { return Ok(None) };
        let is_expert = |axis: &u32| self.mesh.axes[*axis as usize].name == EXPERTS;
        let (axes, others): (Vec<u32>, Vec<u32>) = shard.axes.iter().copied().partition(is_expert);
        let ranks = self.mesh.group_size(&axes);
        if shard.dim != 0 || !bound.is_multiple_of(ranks) {
            return Ok(None);
        }
        let local = self.settled(keys)?;
        let rows = self.new.ty(local).shape[0];
        let order = self.push_one(ArgSort { bound }.into(), &[local], origin)?;
        let sent = self.push_one(Histogram { bound }.into(), &[local], origin)?;
        let received = match ranks {
            1 => sent,
            _ => self.exchange((CollectiveKind::ExchangeCounts, &axes), &[sent], origin)?,
        };
        let load = self.load(received, (ranks, bound / ranks), origin)?;
        let offsets = self.push_one(CumSum { exclusive: true }.into(), &[load], origin)?;
        let capacity = capacity(self, root, rows, (ranks, bound / ranks));
        let keys = (root, bound);
        let inverse = None;
        self.dispatches.push(Dispatch {
            keys,
            axes,
            others,
            rows,
            capacity,
            order,
            inverse,
            sent,
            received,
            offsets,
        });
        Ok(Some(DispatchId(self.dispatches.len() - 1)))
    }

    /// Rows of each expert, from counts by rank and expert.
    fn load(
        &mut self,
        counts: Value,
        (ranks, experts): (u64, u64),
        origin: &Origin,
    ) -> Done<Value> {
        if ranks == 1 {
            return Ok(counts);
        }
        let shape = vec![ranks, experts];
        let table = self.push_one(Reshape { shape }.into(), &[counts], origin)?;
        let generic = Generic {
            extents: vec![experts, ranks],
            maps: vec![vec![Some(1), Some(0)]],
            out: vec![0],
            combine: Some(Combine::Sum),
            body: generic::body_of(1, |_, a| a[0]),
        };
        self.push_one(Reduce::plain(generic).into(), &[table], origin)
    }

    /// The inverse of the order of a rank's own rows.
    fn inverse(&mut self, id: DispatchId, origin: &Origin) -> Done<Value> {
        let Dispatch { order, inverse, rows, .. } = self.dispatches[id.0].clone();
        if let Some(known) = inverse {
            return Ok(known);
        }
        let value = self.push_one(ArgSort { bound: rows }.into(), &[order], origin)?;
        self.dispatches[id.0].inverse = Some(value);
        Ok(value)
    }

    /// Rows through an exchange, which takes rows of one dimension.
    fn move_rows(
        &mut self,
        id: DispatchId,
        (kind, rows): (CollectiveKind, u64),
        value: Value,
        origin: &Origin,
    ) -> Done<Value> {
        let Dispatch { axes, sent, received, .. } = self.dispatches[id.0].clone();
        let mut shape = self.new.ty(value).shape.clone();
        let flat = vec![shape[0], shape[1..].iter().product()];
        let x = match shape.len() {
            2 => value,
            _ => self.push_one(Reshape { shape: flat }.into(), &[value], origin)?,
        };
        let y = self.exchange((kind, &axes), &[x, sent, received], origin)?;
        shape[0] = rows;
        match shape.len() {
            2 => Ok(y),
            _ => self.push_one(Reshape { shape }.into(), &[y], origin),
        }
    }
}

impl Sharder<'_> {
    /// The tokens that rows are made of, and how many rows each has in a row, if rows are nothing
    /// but tokens repeated and a rank may get several of one.
    fn repeated(&self, id: DispatchId, rows: Value) -> Option<(Value, u64)> {
        let made = |value: Value| Some(&self.old.nodes[self.old.maker(value)?]);
        let Node { op: Op::Reshape(_), operands, .. } = made(rows)? else { return None };
        let Node { op: Op::Map(Map { generic: g }), operands: tokens, .. } = made(operands[0])?
        else {
            return None;
        };
        let ([map], [ScalarOp::Arg(0)]) = (&g.maps[..], &g.body.ops[..]) else { return None };
        let repeats = g.out.iter().position(|d| !map.contains(&Some(*d)))?;
        let others = g.out.iter().filter(|d| **d != g.out[repeats]).map(|d| Some(*d));
        let extents: Vec<u64> = g.out.iter().map(|d| g.extents[*d as usize]).collect();
        let shape = &self.old.ty(rows).shape;
        let aligned = extents[..=repeats].iter().product::<u64>() == shape[0];
        let in_order = others.eq(map.iter().copied());
        let Dispatch { keys, axes, .. } = self.dispatch(id);
        let experts = keys.1 / self.mesh.group_size(axes);
        let several = extents[repeats] > 1 && experts > 1;
        (aligned && in_order && several).then_some((tokens[0], extents[repeats]))
    }

    /// Tokens to the ranks of their rows, each once to each rank.
    fn send_tokens(
        &mut self,
        id: DispatchId,
        (tokens, per_token): (Value, u64),
        node: &Node,
        batch: &[u32],
    ) -> Done<Value> {
        let Dispatch { axes, rows, capacity, order, sent, received, .. } =
            self.dispatch(id).clone();
        let part = self.cut(tokens, &split(0, batch))?;
        let part = part.ok_or_else(|| InternalError::new("sharding", "tokens cut across"))?;
        let width = self.old.ty(node.results[0]).shape[1..].iter().product();
        let shape = vec![rows / per_token, width];
        let flat = self.push_one(Reshape { shape }.into(), &[part], &node.origin)?;
        let kind = CollectiveKind::DispatchTokens { rows: capacity, per_token };
        let operands = [flat, order, sent, received];
        let routed = self.exchange((kind, &axes), &operands, &node.origin)?;
        let mut shape = self.old.ty(node.results[0]).shape.clone();
        shape[0] = capacity;
        match shape.len() {
            2 => Ok(routed),
            _ => self.push_one(Reshape { shape }.into(), &[routed], &node.origin),
        }
    }
}

/// Counts of a rank's own keys, to be summed where all are asked for.
pub(super) fn histogram(cx: &mut Sharder<'_>, node: &Node) -> Done<Ruled> {
    let form = cx.state(node.operands[0])?.form.clone();
    let partial = match &form {
        Form::Whole => None,
        Form::Split(shard) => Some(Partial { combine: Combine::Sum, axes: shard.axes.clone() }),
        form => return Ok(Err(refusal(form))),
    };
    let keys = cx.settled(node.operands[0])?;
    let value = cx.push_one(node.op.clone(), &[keys], &node.origin)?;
    Ok(Ok(vec![State { partial, ..State::whole(value) }]))
}

/// Running sums of counts of keys: where the rows of each expert begin.
pub(super) fn offsets(cx: &mut Sharder<'_>, node: &Node) -> Done<Option<State>> {
    let maker = cx.old.maker(node.operands[0]).map(|id| &cx.old.nodes[id]);
    let Some(Node { op: Op::Histogram(op), operands, .. }) = maker else { return Ok(None) };
    let (bound, keys) = (op.bound, operands[0]);
    let found = cx.dispatch_of(keys, bound, &node.origin)?;
    Ok(found.map(|id| State::of(cx.dispatch(id).offsets, Form::Offsets(id))))
}

/// The order of keys, or its inverse.
pub(super) fn arg_sort(cx: &mut Sharder<'_>, node: &Node, form: &Form) -> Done<Ruled> {
    let Op::ArgSort(op) = &node.op else { return Ok(Err(Reason::AcrossCut)) };
    match form {
        Form::Split(_) => {
            let found = cx.dispatch_of(node.operands[0], op.bound, &node.origin)?;
            let state = |id| State::of(cx.dispatch(id).order, Form::Order(id));
            Ok(found.map(|id| vec![state(id)]).ok_or(Reason::AcrossCut))
        }
        Form::Order(id) => {
            let inverse = cx.inverse(*id, &node.origin)?;
            Ok(Ok(vec![State::of(inverse, Form::Inverse(*id))]))
        }
        form => Ok(Err(refusal(form))),
    }
}

/// A rank's rows, grouped by expert and sent there.
pub(super) fn to_experts(cx: &mut Sharder<'_>, node: &Node, id: DispatchId) -> Done<Ruled> {
    let Dispatch { axes, others, order, capacity, .. } = cx.dispatch(id).clone();
    let mut batch: Vec<u32> = axes.iter().chain(&others).copied().collect();
    batch.sort_unstable();
    let Some(x) = cx.cut(node.operands[0], &split(0, &batch))? else {
        return Ok(Err(Reason::OutsideExperts));
    };
    let value = match (axes.is_empty(), cx.repeated(id, node.operands[0])) {
        (true, _) => cx.push_one(Gather.into(), &[x, order], &node.origin)?,
        (false, Some((tokens, per_token))) => {
            cx.send_tokens(id, (tokens, per_token), node, &batch)?
        }
        (false, None) => {
            let grouped = cx.push_one(Gather.into(), &[x, order], &node.origin)?;
            let kind = CollectiveKind::Dispatch { rows: capacity };
            cx.move_rows(id, (kind, capacity), grouped, &node.origin)?
        }
    };
    Ok(Ok(vec![State::of(value, Form::Routed(id))]))
}

/// Rows sent back from their experts, each to its place.
pub(super) fn from_experts(cx: &mut Sharder<'_>, node: &Node, id: DispatchId) -> Done<Ruled> {
    if cx.state(node.operands[0])?.form != Form::Routed(id) {
        return Ok(Err(Reason::OutsideExperts));
    }
    let Dispatch { axes, others, rows, .. } = cx.dispatch(id).clone();
    let routed = cx.settled(node.operands[0])?;
    let inverse = cx.inverse(id, &node.origin)?;
    let home = match axes.is_empty() {
        true => routed,
        false => {
            let kind = CollectiveKind::Combine { rows };
            cx.move_rows(id, (kind, rows), routed, &node.origin)?
        }
    };
    let value = cx.push_one(Gather.into(), &[home, inverse], &node.origin)?;
    let mut batch: Vec<u32> = axes.iter().chain(&others).copied().collect();
    batch.sort_unstable();
    Ok(Ok(vec![State::of(value, Form::Split(split(0, &batch)))]))
}

/// Products of rows with their experts' matrices, by the rank that has both.
pub(super) fn ragged(
    cx: &mut Sharder<'_>,
    node: &Node,
    op: &RaggedEinsum,
    forms: &[Form],
) -> Done<Ruled> {
    let (Form::Routed(id), Form::Offsets(by)) = (&forms[0], &forms[2]) else {
        return Ok(Err(Reason::OutsideExperts));
    };
    if id != by || (op.form == Ragged::Outer && forms[1] != forms[0]) {
        return Ok(Err(Reason::OutsideExperts));
    }
    let Dispatch { axes, others, .. } = cx.dispatch(*id).clone();
    let rows = cx.settled(node.operands[0])?;
    let second = match op.form {
        Ragged::Outer => Some(cx.settled(node.operands[1])?),
        Ragged::Rows { .. } => cx.cut(node.operands[1], &split(0, &axes))?,
    };
    let Some(second) = second else { return Ok(Err(Reason::CutsDiffer)) };
    let offsets = cx.dispatch(*id).offsets;
    let value = cx.push_one(node.op.clone(), &[rows, second, offsets], &node.origin)?;
    Ok(Ok(vec![match op.form {
        Ragged::Rows { .. } => State::of(value, Form::Routed(*id)),
        Ragged::Outer => {
            // With slices it is cut, over no axes if need be, so that sums over experts are taken in
            // the same parts on every mesh.
            let form = match axes.is_empty() && cx.slices == 0 {
                true => Form::Whole,
                false => Form::Split(split(0, &axes)),
            };
            State { partial: Sharder::sum_over(&others), ..State::of(value, form) }
        }
    }]))
}
