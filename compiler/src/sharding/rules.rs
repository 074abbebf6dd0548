//! One rule per op: how it computes a rank's part from parts of its operands.
//!
//! # Invariants
//! - A rule gives a state for each result, or the reason why the operands must be put together.
//! - An op without a rule of its own is computed by every rank on all of its operands.

use super::layout::{DispatchId, Form, Partial, State, reshaped_dim, split};
use super::rewrite::{Done, Sharder, part_of};
use super::{experts, iterate};
use crate::graph::{Node, NodeId};
use crate::ops::{Op, Reshape, Slice, Value};
use crate::program::{Combine, Reason};
use perilune_plan::Shard;

/// States of the results, or why operands must be put together.
pub(super) type Ruled = Result<Vec<State>, Reason>;

/// Applies the rule of a node's op.
pub(super) fn apply(cx: &mut Sharder<'_>, id: NodeId) -> Done<Ruled> {
    let node = cx.old.nodes[id].clone();
    let forms = forms(cx, &node)?;
    match &node.op {
        Op::Map(op) => iterate::map(cx, &node, op),
        Op::Reduce(op) => iterate::reduce(cx, &node, op),
        Op::Einsum(op) => iterate::einsum(cx, &node, op),
        Op::Histogram(_) => experts::histogram(cx, &node),
        Op::CumSum(op) if op.exclusive => match experts::offsets(cx, &node)? {
            Some(state) => Ok(Ok(vec![state])),
            None => rowwise(cx, &node),
        },
        _ if forms.iter().all(|form| *form == Form::Whole) => same(cx, &node),
        Op::Cast(_) | Op::StopGradient(_) => elementwise(cx, &node, &forms[0]),
        Op::Softmax(_) | Op::LogSumExp(_) | Op::TopK(_) | Op::CumSum(_) | Op::TakeAlong(_) => {
            rowwise(cx, &node)
        }
        Op::Slice(op) => slice(cx, &node, op, &forms[0]),
        Op::Pad(op) => along(cx, &node, op.dim),
        Op::Concat(op) => along(cx, &node, op.dim),
        Op::Reshape(op) => reshape(cx, &node, op, &forms[0]),
        Op::Gather(_) => gather(cx, &node, &forms),
        Op::ScatterAdd(_) => scatter_add(cx, &node),
        Op::ArgSort(_) => experts::arg_sort(cx, &node, &forms[0]),
        Op::RaggedEinsum(op) => experts::ragged(cx, &node, op, &forms),
        Op::Attention(_) => attention(cx, &node),
        Op::AttentionGrad(_) => by_batch(cx, &node).map(|found| found.map(|(states, _)| states)),
        Op::Fill(_) | Op::Table(_) | Op::Random(_) | Op::Exchange(_) => Ok(Err(Reason::AcrossCut)),
    }
}

fn forms(cx: &Sharder<'_>, node: &Node) -> Done<Vec<Form>> {
    node.operands.iter().map(|v| Ok(cx.state(*v)?.form.clone())).collect()
}

/// Why a value of this form cannot be read here.
pub(super) fn refusal(form: &Form) -> Reason {
    match form {
        Form::Whole | Form::Split(_) => Reason::AcrossCut,
        Form::Routed(_) | Form::Order(_) | Form::Inverse(_) | Form::Offsets(_) => {
            Reason::OutsideExperts
        }
    }
}

/// All operands are whole: so are the results.
fn same(cx: &mut Sharder<'_>, node: &Node) -> Done<Ruled> {
    let operands = node.operands.iter().map(|v| cx.settled(*v)).collect::<Done<Vec<_>>>()?;
    let results = cx.push(node.op.clone(), &operands, &node.origin)?;
    Ok(Ok(results.into_iter().map(State::whole).collect()))
}

/// One operand, element by element.
fn elementwise(cx: &mut Sharder<'_>, node: &Node, form: &Form) -> Done<Ruled> {
    if !matches!(form, Form::Split(_) | Form::Routed(_)) {
        return Ok(Err(refusal(form)));
    }
    let x = cx.settled(node.operands[0])?;
    let y = cx.push_one(node.op.clone(), &[x], &node.origin)?;
    Ok(Ok(vec![State::of(y, form.clone())]))
}

/// What operands have in common: one way of being cut, in front of the dimensions in `free`.
enum Common {
    Split(Shard),
    Routed(DispatchId),
}

/// The operands in the one way in which those that are cut are cut; `crosses` says whether the op
/// works across a dimension.
fn alike(
    cx: &mut Sharder<'_>,
    node: &Node,
    crosses: &dyn Fn(usize, usize) -> bool,
) -> Done<Result<(Vec<Value>, Common), Reason>> {
    let mut common = None;
    for (i, value) in node.operands.iter().enumerate() {
        let form = &cx.state(*value)?.form;
        let own = match form {
            Form::Whole => continue,
            Form::Split(shard) if shard.blocks == 1 => Common::Split(shard.clone()),
            Form::Routed(id) => Common::Routed(*id),
            _ => return Ok(Err(refusal(form))),
        };
        let dim = if let Common::Split(shard) = &own { shard.dim as usize } else { 0 };
        if crosses(i, dim) {
            return Ok(Err(refusal(form)));
        }
        match (&common, &own) {
            (None, _) => common = Some(own),
            (Some(Common::Split(a)), Common::Split(b)) if a == b => {}
            (Some(Common::Routed(a)), Common::Routed(b)) if a == b => {}
            (Some(_), _) => return Ok(Err(Reason::CutsDiffer)),
        }
    }
    let Some(common) = common else { return Ok(Err(Reason::CutsDiffer)) };
    let mut operands = Vec::with_capacity(node.operands.len());
    for value in &node.operands {
        let whole = cx.state(*value)?.form == Form::Whole;
        let found = match &common {
            Common::Split(shard) => cx.cut(*value, shard)?,
            Common::Routed(_) if whole => None,
            Common::Routed(_) => Some(cx.settled(*value)?),
        };
        match found {
            Some(value) => operands.push(value),
            None => return Ok(Err(Reason::CutsDiffer)),
        }
    }
    Ok(Ok((operands, common)))
}

fn made(
    cx: &mut Sharder<'_>,
    node: &Node,
    (operands, common): (Vec<Value>, Common),
) -> Done<Vec<State>> {
    let form = match common {
        Common::Split(shard) => Form::Split(shard),
        Common::Routed(id) => Form::Routed(id),
    };
    let results = cx.push(node.op.clone(), &operands, &node.origin)?;
    Ok(results.into_iter().map(|v| State::of(v, form.clone())).collect())
}

/// Works along the last dimension: any other may be cut.
fn rowwise(cx: &mut Sharder<'_>, node: &Node) -> Done<Ruled> {
    if forms(cx, node)?.iter().all(|form| *form == Form::Whole) {
        return same(cx, node);
    }
    let last: Vec<usize> =
        node.operands.iter().map(|v| cx.old.ty(*v).ndim().saturating_sub(1)).collect();
    match alike(cx, node, &|i, dim| dim >= last[i])? {
        Ok(found) => made(cx, node, found).map(Ok),
        Err(reason) => Ok(Err(reason)),
    }
}

/// Works along one dimension: any other may be cut.
fn along(cx: &mut Sharder<'_>, node: &Node, across: u64) -> Done<Ruled> {
    match alike(cx, node, &|_, dim| dim as u64 == across)? {
        Ok(found) => made(cx, node, found).map(Ok),
        Err(reason) => Ok(Err(reason)),
    }
}

/// A slice of other dimensions, or one block of a dimension of which each is cut by itself.
fn slice(cx: &mut Sharder<'_>, node: &Node, op: &Slice, form: &Form) -> Done<Ruled> {
    let Form::Split(shard) = form else { return along(cx, node, op.dim) };
    if u64::from(shard.dim) != op.dim && shard.blocks == 1 {
        return along(cx, node, op.dim);
    }
    let extent = cx.old.ty(node.operands[0]).shape[op.dim as usize];
    let one_block =
        op.len * shard.blocks == extent && op.len > 0 && op.start.is_multiple_of(op.len);
    if u64::from(shard.dim) != op.dim || shard.blocks == 1 || !one_block {
        return Ok(Err(Reason::AcrossCut));
    }
    let ranks = cx.mesh.group_size(&shard.axes);
    let local = Slice { dim: op.dim, start: op.start / ranks, len: op.len / ranks };
    let x = cx.settled(node.operands[0])?;
    let y = cx.push_one(local.into(), &[x], &node.origin)?;
    Ok(Ok(vec![State::of(y, Form::Split(Shard { blocks: 1, ..shard.clone() }))]))
}

fn reshape(cx: &mut Sharder<'_>, node: &Node, op: &Reshape, form: &Form) -> Done<Ruled> {
    let x = node.operands[0];
    let from = cx.old.ty(x).shape.clone();
    let (shape, form) = match form {
        Form::Split(shard) if shard.blocks == 1 => {
            let ranks = cx.mesh.group_size(&shard.axes);
            match reshaped_dim(&from, &op.shape, shard.dim as usize, ranks) {
                Some(dim) => {
                    let shard = split(dim, &shard.axes);
                    let ty = part_of(&cx.old.ty(node.results[0]).clone(), &shard, cx.mesh)?;
                    (ty.shape, Form::Split(shard))
                }
                None => return Ok(Err(Reason::AcrossCut)),
            }
        }
        Form::Routed(id) if op.shape.first() == from.first() => {
            let mut shape = op.shape.clone();
            shape[0] = cx.dispatch(*id).capacity;
            (shape, form.clone())
        }
        Form::Order(_) | Form::Inverse(_) if op.shape == from => {
            let value = cx.settled(x)?;
            return Ok(Ok(vec![State::of(value, form.clone())]));
        }
        form => return Ok(Err(refusal(form))),
    };
    let x = cx.settled(x)?;
    let y = cx.push_one(Reshape { shape }.into(), &[x], &node.origin)?;
    Ok(Ok(vec![State::of(y, form)]))
}

/// Rows by index. The readers of each row, which a gather may name, matter to its gradient alone.
fn gather(cx: &mut Sharder<'_>, node: &Node, forms: &[Form]) -> Done<Ruled> {
    let (x, indices) = (node.operands[0], node.operands[1]);
    let n_index = cx.old.ty(indices).ndim();
    let form = match (&forms[0], &forms[1]) {
        (_, Form::Order(id)) => return experts::to_experts(cx, node, *id),
        (_, Form::Inverse(id)) => return experts::from_experts(cx, node, *id),
        (Form::Whole, Form::Split(shard)) if shard.blocks == 1 => Form::Split(shard.clone()),
        (Form::Split(shard), Form::Whole) if shard.blocks == 1 && shard.dim > 0 => {
            Form::Split(split(n_index + shard.dim as usize - 1, &shard.axes))
        }
        // Only the readers of the rows are cut.
        (Form::Whole, Form::Whole) => Form::Whole,
        (Form::Whole, form) | (form, _) => return Ok(Err(refusal(form))),
    };
    let (x, indices) = (cx.settled(x)?, cx.settled(indices)?);
    let y = cx.push_one(node.op.clone(), &[x, indices], &node.origin)?;
    Ok(Ok(vec![State::of(y, form)]))
}

/// Rows added up: parts of the rows give parts of the sums.
fn scatter_add(cx: &mut Sharder<'_>, node: &Node) -> Done<Ruled> {
    let leading = |_: usize, dim: usize| dim > 0;
    match alike(cx, node, &leading)? {
        Ok((operands, Common::Split(shard))) => {
            let parts = cx.parts_of(cx.old.ty(node.operands[0]).shape[0], &shard.axes);
            let dims = vec![Some(0); operands.len()];
            let make = |cx: &mut Sharder<'_>, part: &[Value]| {
                cx.push_one(node.op.clone(), part, &node.origin)
            };
            let value = cx.summed_in_parts((parts, &dims), &operands, &make, &node.origin)?;
            let partial = Some(Partial { combine: Combine::Sum, axes: shard.axes });
            Ok(Ok(vec![State { partial, ..State::whole(value) }]))
        }
        Ok((_, Common::Routed(_))) => Ok(Err(Reason::OutsideExperts)),
        Err(reason) => Ok(Err(reason)),
    }
}

/// An op whose operands and results are all cut along the leading dimension; gives that cut too.
fn by_batch(cx: &mut Sharder<'_>, node: &Node) -> Done<Result<(Vec<State>, Shard), Reason>> {
    match alike(cx, node, &|_, dim| dim > 0)? {
        Ok((operands, Common::Split(shard))) => {
            let common = Common::Split(shard.clone());
            Ok(Ok((made(cx, node, (operands, common))?, shard)))
        }
        Ok((_, Common::Routed(_))) => Ok(Err(Reason::OutsideExperts)),
        Err(reason) => Ok(Err(reason)),
    }
}

/// Attention over a part of the sequences; each head's maximum logit is one over all of them.
fn attention(cx: &mut Sharder<'_>, node: &Node) -> Done<Ruled> {
    Ok(by_batch(cx, node)?.map(|(mut states, shard)| {
        if let Some(max_logit) = states.get_mut(2) {
            max_logit.form = Form::Whole;
            max_logit.partial = Some(Partial { combine: Combine::Max, axes: shard.axes });
        }
        states
    }))
}
