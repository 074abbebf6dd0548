//! Ops that are loops over iteration dimensions: maps, reductions, einsums.
//!
//! A cut of an operand's dimension is a cut of the iteration dimension behind it. A rank runs its
//! part of the iterations: what it keeps is cut the same way, what it reduces is yet to be combined
//! with the others.
//!
//! # Invariants
//! - Operands that share a cut iteration dimension are cut there in the same way, or become so.
//! - A mean over a cut dimension is a sum of parts, each already divided by the whole count.

use std::collections::BTreeMap;

use super::experts::Dispatch;
use super::layout::{DispatchId, Form, Partial, State, split};
use super::rewrite::{Done, Sharder};
use super::rules::Ruled;
use crate::graph::{Node, Origin};
use crate::ops::{Einsum, Map, Op, Reduce, Reduction, Slice, Value, generic};
use crate::program::{Combine, Generic, Reason};
use crate::scalar::{Binary, Body, ScalarOp, Unary};
use crate::types::{DType, Type};

/// What is known of an op's loops.
struct Space {
    extents: Vec<u64>,
    /// Per operand, the iteration dimension behind each of its dimensions.
    maps: Vec<Vec<Option<u32>>>,
    /// Iteration dimension behind each result dimension.
    out: Vec<u32>,
    /// How what is reduced combines.
    combine: Combine,
    /// Iteration dimensions whose index is asked for.
    indexed: Vec<u32>,
}

/// How an iteration dimension is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cut {
    /// Over a group of ranks.
    Axes(Vec<u32>),
    /// To the rows at this rank's experts.
    Rows(DispatchId),
}

impl Space {
    fn of_generic(g: &Generic) -> Space {
        let indexed = g.body.ops.iter().filter_map(|op| match op {
            ScalarOp::Index(d) => Some(*d),
            _ => None,
        });
        Space {
            extents: g.extents.clone(),
            maps: g.maps.clone(),
            out: g.out.clone(),
            combine: g.combine.unwrap_or(Combine::Sum),
            indexed: indexed.collect(),
        }
    }

    fn of_einsum(einsum: &Einsum, operands: &[&Type]) -> Space {
        let ids = einsum.operands.iter().flatten().chain(&einsum.out);
        let mut extents = vec![0; ids.max().map_or(0, |d| *d as usize + 1)];
        for (ids, ty) in einsum.operands.iter().zip(operands) {
            ids.iter().zip(&ty.shape).for_each(|(d, extent)| extents[*d as usize] = *extent);
        }
        let maps = einsum.operands.iter().map(|ids| generic::dims(ids.iter().copied())).collect();
        Space { extents, maps, out: einsum.out.clone(), combine: Combine::Sum, indexed: Vec::new() }
    }
}

/// The rule of a map.
pub(super) fn map(cx: &mut Sharder<'_>, node: &Node, map: &Map) -> Done<Ruled> {
    over(cx, node, Space::of_generic(&map.generic), &|cx, extents, operands| {
        let generic = Generic { extents: extents.to_vec(), ..map.generic.clone() };
        cx.push_one(Map { generic }.into(), operands, &node.origin)
    })
}

/// The rule of an einsum.
pub(super) fn einsum(cx: &mut Sharder<'_>, node: &Node, einsum: &Einsum) -> Done<Ruled> {
    let types: Vec<&Type> = node.operands.iter().map(|v| cx.old.ty(*v)).collect();
    let space = Space::of_einsum(einsum, &types);
    over(cx, node, space, &|cx, _, operands| {
        cx.push_one(einsum.clone().into(), operands, &node.origin)
    })
}

/// The rule of a reduction.
pub(super) fn reduce(cx: &mut Sharder<'_>, node: &Node, reduce: &Reduce) -> Done<Ruled> {
    let g = &reduce.generic;
    let reduced = |d: u32| !g.out.contains(&d);
    over(cx, node, Space::of_generic(g), &|cx, extents, operands| {
        let local = Generic { extents: extents.to_vec(), ..g.clone() };
        let dims = 0..g.extents.len() as u32;
        let cut = dims.clone().any(|d| reduced(d) && extents[d as usize] != g.extents[d as usize]);
        if reduce.reduction != Reduction::Mean || !cut {
            let op = Reduce { reduction: reduce.reduction, generic: local };
            return cx.push_one(op.into(), operands, &node.origin);
        }
        let op = Reduce { reduction: Reduction::Sum, generic: local };
        let sum = cx.push_one(op.into(), operands, &node.origin)?;
        let count: u64 = dims.filter(|d| reduced(*d)).map(|d| g.extents[d as usize]).product();
        let ty = cx.new.ty(sum).clone();
        let body = generic::body_of(1, |b, a| {
            let factor = b.number(1.0 / count as f64, ty.dtype);
            b.mul(a[0], factor)
        });
        let generic = generic::elementwise(&ty.shape, 1, body);
        cx.push_one(Map { generic }.into(), &[sum], &node.origin)
    })
}

/// Makes the op of a rank from its extents and operands.
type Make<'m> = dyn Fn(&mut Sharder<'_>, &[u64], &[Value]) -> Done<Value> + 'm;

fn over(cx: &mut Sharder<'_>, node: &Node, space: Space, make: &Make<'_>) -> Done<Ruled> {
    let cuts = match cuts(cx, node, &space)? {
        Ok(cuts) => cuts,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut operands = Vec::with_capacity(node.operands.len());
    for (value, map) in node.operands.iter().zip(&space.maps) {
        match operand(cx, *value, map, &cuts)? {
            Ok(value) => operands.push(value),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    let mut extents = space.extents.clone();
    for (d, cut) in &cuts {
        let extent = &mut extents[*d as usize];
        *extent = match cut {
            Cut::Axes(axes) => *extent / cx.mesh.group_size(axes),
            Cut::Rows(id) => cx.dispatch(*id).capacity,
        };
    }
    let float = cx.old.ty(node.results[0]).dtype.is_float() && space.combine == Combine::Sum;
    let reduced = cuts.iter().find(|(d, _)| float && !space.out.contains(d));
    let value = match reduced {
        Some((d, Cut::Axes(axes))) => {
            let parts = cx.parts_of(space.extents[*d as usize], axes);
            extents[*d as usize] /= parts;
            let dims: Vec<Option<usize>> =
                space.maps.iter().map(|map| map.iter().position(|m| m == &Some(*d))).collect();
            let make = |cx: &mut Sharder<'_>, part: &[Value]| make(cx, &extents, part);
            cx.summed_in_parts((parts, &dims), &operands, &make, &node.origin)?
        }
        _ => make(cx, &extents, &operands)?,
    };
    Ok(Ok(vec![result(&space, &cuts, value)]))
}

/// Makes a sum over a part of the operands.
pub(super) type MakePart<'m> = dyn Fn(&mut Sharder<'_>, &[Value]) -> Done<Value> + 'm;

impl Sharder<'_> {
    /// How many parts a rank's sums over a dimension of this extent are taken in: its share of the
    /// slices of the whole, as many as divide it.
    pub(super) fn parts_of(&self, extent: u64, axes: &[u32]) -> u64 {
        let (mut a, mut b) = (extent, self.slices);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        match self.slices {
            0 => 1,
            _ => (a / self.mesh.group_size(axes)).max(1),
        }
    }

    /// A sum over consecutive parts of the operands' dimensions, added up by a pairwise tree.
    pub(super) fn summed_in_parts(
        &mut self,
        (parts, dims): (u64, &[Option<usize>]),
        operands: &[Value],
        make: &MakePart<'_>,
        origin: &Origin,
    ) -> Done<Value> {
        let mut sums = Vec::with_capacity(parts as usize);
        for n in 0..parts {
            let mut part = operands.to_vec();
            for (value, dim) in part.iter_mut().zip(dims) {
                let Some(dim) = dim.filter(|_| parts > 1) else { continue };
                let len = self.new.ty(*value).shape[dim] / parts;
                let slice = Slice { dim: dim as u64, start: n * len, len };
                *value = self.push_one(slice.into(), &[*value], &origin.derived("slice"))?;
            }
            sums.push(make(self, &part)?);
        }
        while sums.len() > 1 {
            let mut next = Vec::with_capacity(sums.len().div_ceil(2));
            for pair in sums.chunks(2) {
                next.push(match *pair {
                    [a, b] => self.added(a, b, origin)?,
                    _ => pair[0],
                });
            }
            sums = next;
        }
        Ok(sums[0])
    }

    fn added(&mut self, a: Value, b: Value, origin: &Origin) -> Done<Value> {
        let shape = self.new.ty(a).shape.clone();
        let generic =
            generic::elementwise(&shape, 2, generic::body_of(2, |f, x| f.add(x[0], x[1])));
        self.push_one(Map { generic }.into(), &[a, b], &origin.derived("slices"))
    }
}

/// What the result is.
fn result(space: &Space, cuts: &BTreeMap<u32, Cut>, value: Value) -> State {
    let mut state = State::whole(value);
    for (d, cut) in cuts {
        match (space.out.iter().position(|o| o == d), cut) {
            (Some(at), Cut::Axes(axes)) => state.form = Form::Split(split(at, axes)),
            (Some(_), Cut::Rows(id)) => state.form = Form::Routed(*id),
            (None, Cut::Axes(axes)) => {
                let known = state
                    .partial
                    .get_or_insert_with(|| Partial { combine: space.combine, axes: Vec::new() });
                known.axes.extend(axes);
                known.axes.sort_unstable();
            }
            // Refused before.
            (None, Cut::Rows(_)) => {}
        }
    }
    state
}

/// The cut iteration dimensions, if the operands' cuts go together.
fn cuts(cx: &Sharder<'_>, node: &Node, space: &Space) -> Done<Result<BTreeMap<u32, Cut>, Reason>> {
    let mut cuts: BTreeMap<u32, Cut> = BTreeMap::new();
    for (value, map) in node.operands.iter().zip(&space.maps) {
        let (dim, cut) = match &cx.state(*value)?.form {
            Form::Whole => continue,
            Form::Split(shard) if shard.blocks == 1 => {
                (shard.dim as usize, Cut::Axes(shard.axes.clone()))
            }
            Form::Split(_) => return Ok(Err(Reason::AcrossCut)),
            Form::Routed(id) => (0, Cut::Rows(*id)),
            Form::Order(_) | Form::Inverse(_) | Form::Offsets(_) => {
                return Ok(Err(Reason::OutsideExperts));
            }
        };
        let Some(Some(d)) = map.get(dim) else { return Ok(Err(Reason::AcrossCut)) };
        match cuts.get(d) {
            None => drop(cuts.insert(*d, cut)),
            Some(known) if *known == cut => {}
            Some(_) => return Ok(Err(Reason::CutsDiffer)),
        }
    }
    Ok(go_together(space, &cuts).map(|()| cuts))
}

fn go_together(space: &Space, cuts: &BTreeMap<u32, Cut>) -> Result<(), Reason> {
    let mut axes: Vec<u32> = Vec::new();
    let mut kept = 0;
    for (d, cut) in cuts {
        let stays = space.out.contains(d);
        kept += usize::from(stays);
        match cut {
            Cut::Axes(_) if space.indexed.contains(d) => return Err(Reason::IndexOfCut),
            Cut::Axes(own) if own.iter().any(|a| axes.contains(a)) => {
                return Err(Reason::CutsDiffer);
            }
            Cut::Axes(own) => axes.extend(own),
            Cut::Rows(_) if !stays || space.indexed.contains(d) || cuts.len() > 1 => {
                return Err(Reason::OutsideExperts);
            }
            Cut::Rows(_) => {}
        }
    }
    if kept > 1 { Err(Reason::CutsDiffer) } else { Ok(()) }
}

/// An operand as the rank's iterations read it.
fn operand(
    cx: &mut Sharder<'_>,
    value: Value,
    map: &[Option<u32>],
    cuts: &BTreeMap<u32, Cut>,
) -> Done<Result<Value, Reason>> {
    let cut_dims: Vec<(usize, &Cut)> =
        map.iter().enumerate().filter_map(|(dim, d)| Some((dim, cuts.get(&(*d)?)?))).collect();
    let whole = cx.state(value)?.form == Form::Whole;
    let found = match cut_dims[..] {
        [] => Some(cx.settled(value)?),
        [(dim, Cut::Axes(axes))] => cx.cut(value, &split(dim, axes))?,
        [(_, Cut::Rows(_))] if !whole => Some(cx.settled(value)?),
        _ => None,
    };
    Ok(found.ok_or(Reason::CutsDiffer))
}

/// A map that is linear in sums which are still to be taken: the sum of its results is its result
/// of the sums, so it can wait.
pub(super) fn linear(cx: &mut Sharder<'_>, node: &Node) -> Done<Option<State>> {
    let Op::Map(Map { generic: g }) = &node.op else { return Ok(None) };
    let mut common: Option<State> = None;
    let mut waits = Vec::with_capacity(node.operands.len());
    for value in &node.operands {
        let state = cx.state(*value)?;
        let whole = state.form == Form::Whole && state.owner.is_none();
        if cx.new.ty(state.value).dtype != DType::f32 || !whole {
            return Ok(None);
        }
        waits.push(state.partial.is_some());
        match (&common, &state.partial) {
            (_, None) => {}
            (None, Some(_)) => common = Some(state.clone()),
            (Some(first), partial) if first.partial == *partial => {}
            (Some(_), Some(_)) => return Ok(None),
        }
    }
    let Some(partial) = common.and_then(|state| state.partial) else { return Ok(None) };
    if partial.combine != Combine::Sum || !is_linear(&g.body, &waits) {
        return Ok(None);
    }
    let operands: Vec<Value> =
        node.operands.iter().map(|v| Ok(cx.state(*v)?.value)).collect::<Done<_>>()?;
    let value = cx.push_one(Map { generic: g.clone() }.into(), &operands, &node.origin)?;
    Ok(Some(State { partial: Some(partial), ..State::whole(value) }))
}

/// Whether the body is a linear function of the arguments that wait; the others count as constants.
fn is_linear(body: &Body, waits: &[bool]) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum Degree {
        Constant,
        Linear,
        Other,
    }
    use Degree::{Constant, Linear, Other};
    let mut known: Vec<Degree> = Vec::with_capacity(body.ops.len());
    for op in &body.ops {
        let of = |s: &crate::scalar::S| known[s.0 as usize];
        let mut all_constant = true;
        op.operands(&mut |s| all_constant &= known[s.0 as usize] == Constant);
        known.push(match op {
            ScalarOp::Arg(n) if waits[*n as usize] => Linear,
            _ if all_constant => Constant,
            ScalarOp::Unary(Unary::Neg, x) => of(x),
            ScalarOp::Binary(Binary::Add | Binary::Sub, x, y) if of(x) == of(y) => of(x),
            ScalarOp::Binary(Binary::Mul, x, y) => match (of(x), of(y)) {
                (Linear, Constant) | (Constant, Linear) => Linear,
                _ => Other,
            },
            ScalarOp::Binary(Binary::Div, x, y) if (of(x), of(y)) == (Linear, Constant) => Linear,
            _ => Other,
        });
    }
    body.results.iter().all(|s| known[s.0 as usize] == Linear)
}

impl Sharder<'_> {
    /// What is known of rows at their experts.
    pub(super) fn dispatch(&self, id: DispatchId) -> &Dispatch {
        &self.dispatches[id.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::S;

    fn body(f: impl FnOnce(&mut Body, &[S]) -> S) -> Body {
        generic::body_of(2, f)
    }

    #[test]
    fn sums_and_multiples_of_sums_wait() {
        let half = |b: &mut Body, x| {
            let half = b.number(0.5, DType::f32);
            b.mul(x, half)
        };
        let sum = body(|b, a| {
            let sum = b.add(a[0], a[1]);
            half(b, sum)
        });
        assert!(is_linear(&sum, &[true, true]) && !is_linear(&sum, &[true, false]));
        let product = body(|b, a| b.mul(a[0], a[1]));
        assert!(is_linear(&product, &[true, false]) && !is_linear(&product, &[true, true]));
        let quotient = body(|b, a| b.div(a[0], a[1]));
        assert!(is_linear(&quotient, &[true, false]) && !is_linear(&quotient, &[false, true]));
        let shifted = body(|b, a| {
            let one = b.number(1.0, DType::f32);
            let shifted = b.add(a[0], one);
            b.mul(shifted, a[1])
        });
        assert!(!is_linear(&shifted, &[true, false]));
    }
}
