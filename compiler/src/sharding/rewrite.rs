//! The rewrite of one graph: what each value became, and how it gets another layout.
//!
//! # Invariants
//! - Nodes are visited in order, so what an operand became is known.
//! - A value is put together, summed or cut at most once in each way.

use std::collections::BTreeMap;

use cranelift_entity::SecondaryMap;
use perilune_plan::{Mesh, Only, Shard};

use super::experts::Dispatch;
use super::layout::{Form, Partial, State};
use super::{iterate, rules};
use crate::diagnostic::InternalError;
use crate::graph::{Graph, Node, NodeId, Origin};
use crate::ops::{Cast, Exchange, Op, Reshape, Value, generic};
use crate::program::{
    ArgKind, Collective, CollectiveKind, Combine, Decision, Reason, ResultTarget, Rule,
};
use crate::types::{DType, Type};

/// Something that only a bug of ours prevents.
pub(super) type Done<T> = Result<T, InternalError>;

/// What a rank holds of an input, from its name, kind and number of dimensions.
pub(super) type Holds<'a> = dyn Fn(&str, ArgKind, usize) -> Held + 'a;

/// What a rank holds of an input.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// Which part; all of it, if absent.
    pub(super) shard: Option<Shard>,
    /// Which ranks hold anything; all of them, if absent.
    pub(super) owner: Option<Only>,
}

/// A graph on its way to one rank.
pub(super) struct Sharder<'a> {
    pub(super) old: &'a Graph,
    pub(super) new: Graph,
    pub(super) mesh: &'a Mesh,
    pub(super) states: SecondaryMap<Value, Option<State>>,
    /// Values put together.
    whole: BTreeMap<Value, Value>,
    /// Values cut, or computed in parts.
    pub(super) parts: BTreeMap<(Value, Shard), Value>,
    /// Feeds of coordinates, by axes.
    coordinates: BTreeMap<Vec<u32>, Value>,
    pub(super) dispatches: Vec<Dispatch>,
    /// Ranks that sums are to be taken on, where not all need them.
    pub(super) wishes: BTreeMap<Value, Only>,
    /// Parts that sums are taken over before they are added up; 0: one for each rank.
    pub(super) slices: u64,
    /// The ranks that run what is added now; all of them, if absent.
    guard: Option<Only>,
}

impl<'a> Sharder<'a> {
    /// The inputs as a rank holds them.
    pub(super) fn new(old: &'a Graph, mesh: &'a Mesh, holds: &Holds<'_>) -> Done<Self> {
        let mut new = Graph::new(old.name.clone());
        new.placement.mesh = mesh.clone();
        let mut states: SecondaryMap<Value, Option<State>> = SecondaryMap::new();
        for input in &old.inputs {
            let ty = old.ty(input.value);
            let Held { shard, owner } = holds(&input.name, input.kind, ty.ndim());
            if let Some(owner) = &owner {
                new.placement.owners.insert(input.name.clone(), owner.clone());
            }
            let form = match &shard {
                None => Form::Whole,
                Some(shard) => {
                    if !shard.axes.is_empty() {
                        new.placement.inputs.insert(input.name.clone(), shard.clone());
                    }
                    Form::Split(shard.clone())
                }
            };
            let local = match &shard {
                None => ty.clone(),
                Some(shard) => part_of(ty, shard, mesh)?,
            };
            let value = new.input(input.name.clone(), input.kind, local);
            states[input.value] = Some(State { owner, ..State::of(value, form) });
        }
        Ok(Sharder {
            old,
            new,
            mesh,
            states,
            whole: BTreeMap::new(),
            parts: BTreeMap::new(),
            coordinates: BTreeMap::new(),
            dispatches: Vec::new(),
            wishes: BTreeMap::new(),
            slices: 0,
            guard: None,
        })
    }

    /// Visits every node, then gives the outputs.
    pub(super) fn run(mut self) -> Done<Graph> {
        for id in self.old.nodes.keys() {
            let states = self.visit(id)?;
            let results = &self.old.nodes[id].results;
            if states.len() != results.len() {
                return Err(self.broken(id, "a rule gives another number of results"));
            }
            for (result, state) in results.iter().zip(states) {
                self.states[*result] = Some(state);
            }
        }
        let outputs = &self.old.outputs;
        for (value, target) in outputs {
            let given = match target {
                ResultTarget::Update(name) => self.update(*value, name)?,
                ResultTarget::Fetch(name) => self.fetch(*value, name)?,
            };
            self.new.outputs.push((given, target.clone()));
        }
        Ok(self.new)
    }

    /// What a node's results become.
    fn visit(&mut self, id: NodeId) -> Done<Vec<State>> {
        let node = &self.old.nodes[id];
        // Slices are added up in their own order, so nothing is added to a sum that waits.
        if self.slices == 0
            && let Some(state) = iterate::linear(self, node)?
        {
            return Ok(vec![state]);
        }
        for value in &node.operands {
            self.sum_on_owner(*value)?;
        }
        let owner = self.common_owner(&node.operands)?;
        self.guard.clone_from(&owner);
        let states = match rules::apply(self, id)? {
            Ok(states) => states,
            Err(reason) => self.replicate(id, reason)?,
        };
        self.guard = None;
        Ok(states.into_iter().map(|state| State { owner: owner.clone(), ..state }).collect())
    }

    /// The new value of a tensor, on the ranks that hold it.
    fn update(&mut self, value: Value, name: &str) -> Done<Value> {
        let Some(owner) = self.new.placement.owners.get(name).cloned() else {
            self.share(value)?;
            return self.update_part(value, name);
        };
        if self.state(value)?.owner.as_ref() != Some(&owner) {
            self.share(value)?;
        }
        let own = self.state(value)?.owner.is_some();
        self.guard = Some(owner.clone()).filter(|_| own);
        let part = self.update_part(value, name)?;
        self.guard = Some(owner);
        let kept = if own { Ok(part) } else { self.copied(part, &self.origin(value)) };
        self.guard = None;
        kept
    }

    /// A value of its own, made by a node of this moment.
    fn copied(&mut self, value: Value, origin: &Origin) -> Done<Value> {
        let shape = self.new.ty(value).shape.clone();
        let generic = generic::elementwise(&shape, 1, generic::body_of(1, |_, a| a[0]));
        self.push_one(crate::ops::Map { generic }.into(), &[value], &origin.derived("kept"))
    }

    /// The new value of a tensor, cut as the tensor is.
    fn update_part(&mut self, value: Value, name: &str) -> Done<Value> {
        match self.new.placement.inputs.get(name).cloned() {
            None => self.put_together(value, (Reason::WholeResult, name)),
            Some(shard) => match self.cut(value, &shard)? {
                Some(part) => Ok(part),
                None => {
                    let whole = self.put_together(value, (Reason::WholeResult, name))?;
                    self.slice(whole, &shard, &self.origin(value).derived("part"))
                }
            },
        }
    }

    /// What a rank gives: its part where the value is cut plainly, else all of it.
    fn fetch(&mut self, value: Value, name: &str) -> Done<Value> {
        self.share(value)?;
        match self.state(value)?.form.split().cloned() {
            Some(shard) => {
                let part = self.settled(value)?;
                if !shard.axes.is_empty() {
                    self.new.placement.fetches.insert(name.to_owned(), shard);
                }
                Ok(part)
            }
            None => self.put_together(value, (Reason::WholeResult, name)),
        }
    }

    /// Adds a node to the rank's graph.
    pub(super) fn push(&mut self, op: Op, operands: &[Value], origin: &Origin) -> Done<Vec<Value>> {
        let name = op.name();
        let results = self.new.push(op, operands, origin.clone()).map_err(|e| {
            let message = format!("`{}` ({name}) of a rank: {}", origin.path, e.headline);
            InternalError::new("sharding", message)
        })?;
        if let (Some(only), Some(first)) = (&self.guard, results.first()) {
            self.new.placement.only.insert(*first, only.clone());
        }
        Ok(results)
    }

    /// Adds a node of one result.
    pub(super) fn push_one(&mut self, op: Op, operands: &[Value], origin: &Origin) -> Done<Value> {
        let values = self.push(op, operands, origin)?;
        values.first().copied().ok_or_else(|| InternalError::new("sharding", "no result"))
    }

    /// Adds a collective of one result.
    pub(super) fn exchange(
        &mut self,
        (kind, axes): (CollectiveKind, &[u32]),
        operands: &[Value],
        origin: &Origin,
    ) -> Done<Value> {
        self.exchange_rooted((kind, axes, &[]), operands, origin)
    }

    /// Adds a collective of one result, with its root where it has one. All ranks of its group run
    /// it.
    fn exchange_rooted(
        &mut self,
        (kind, axes, roots): (CollectiveKind, &[u32], &[u64]),
        operands: &[Value],
        origin: &Origin,
    ) -> Done<Value> {
        let (ranks, roots) = (self.mesh.group_size(axes), roots.to_vec());
        let collective = Collective { kind, axes: axes.to_vec(), ranks, roots };
        let origin = origin.derived(collective.name());
        let apart = |only: &Only| !axes.iter().any(|axis| only.axes.contains(axis));
        let guard = self.guard.clone();
        self.guard = guard.clone().filter(apart);
        let result = self.push_one(Exchange(collective).into(), operands, &origin);
        self.guard = guard;
        result
    }

    pub(super) fn broken(&self, id: NodeId, what: &str) -> InternalError {
        let path = &self.old.nodes[id].origin.path;
        InternalError::new("sharding", format!("`{path}`: {what}"))
    }

    /// What became of a value.
    pub(super) fn state(&self, value: Value) -> Done<&State> {
        self.states[value].as_ref().ok_or_else(|| {
            InternalError::new("sharding", format!("{value} is read before it is made"))
        })
    }

    /// The place of a value in the spec.
    pub(super) fn origin(&self, value: Value) -> Origin {
        match self.old.maker(value) {
            Some(id) => self.old.nodes[id].origin.clone(),
            None => {
                let input = self.old.inputs.iter().find(|input| input.value == value);
                Origin::new(input.map_or(String::new(), |input| input.name.clone()), None)
            }
        }
    }

    /// A rank's value with everything summed that was to be.
    pub(super) fn settled(&mut self, value: Value) -> Done<Value> {
        let State { value: held, partial, .. } = self.state(value)?.clone();
        let Some(partial) = partial else { return Ok(held) };
        let origin = self.origin(value);
        let settled = match self.mesh.group_size(&partial.axes) {
            1 => held,
            _ => self.for_ranks_of(value, |cx| cx.all_reduce(held, &partial, &origin))?,
        };
        if let Some(state) = &mut self.states[value] {
            (state.value, state.partial) = (settled, None);
        }
        Ok(settled)
    }

    /// Adds something about a value for the ranks that have it.
    pub(super) fn for_ranks_of<T>(
        &mut self,
        value: Value,
        add: impl FnOnce(&mut Self) -> Done<T>,
    ) -> Done<T> {
        let owner = self.state(value)?.owner.clone();
        let guard = std::mem::replace(&mut self.guard, owner);
        let added = add(self);
        self.guard = guard;
        added
    }

    /// A sum that only some ranks wish for, taken on them.
    fn sum_on_owner(&mut self, value: Value) -> Done<()> {
        let State { value: held, partial, owner, .. } = self.state(value)?.clone();
        let (Some(partial), Some(wish), None) = (partial, self.wishes.get(&value).cloned(), owner)
        else {
            return Ok(());
        };
        if partial.combine != Combine::Sum || partial.axes != wish.axes {
            return Ok(());
        }
        let kind = CollectiveKind::Reduce(Combine::Sum);
        let origin = self.origin(value);
        let sum = self.exchange_rooted((kind, &wish.axes, &[wish.at]), &[held], &origin)?;
        if let Some(state) = &mut self.states[value] {
            (state.value, state.partial, state.owner) = (sum, None, Some(wish));
        }
        Ok(())
    }

    /// The ranks that have all of these values; values of different ranks are given to all.
    fn common_owner(&mut self, values: &[Value]) -> Done<Option<Only>> {
        let mut common: Option<Only> = None;
        for value in values {
            let Some(owner) = self.state(*value)?.owner.clone() else { continue };
            if common.get_or_insert_with(|| owner.clone()) != &owner {
                for value in values {
                    self.share(*value)?;
                }
                return Ok(None);
            }
        }
        Ok(common)
    }

    /// Gives a value to all ranks that some of them have.
    fn share(&mut self, value: Value) -> Done<()> {
        let Some(owner) = self.state(value)?.owner.clone() else { return Ok(()) };
        let held = self.settled(value)?;
        let origin = self.origin(value);
        let kind = CollectiveKind::Broadcast;
        let shared = self.exchange_rooted((kind, &owner.axes, &[owner.at]), &[held], &origin)?;
        if let Some(state) = &mut self.states[value] {
            (state.value, state.owner) = (shared, None);
        }
        Ok(())
    }

    /// Combined over ranks, in a type that ranks combine.
    fn all_reduce(&mut self, value: Value, partial: &Partial, origin: &Origin) -> Done<Value> {
        let own = self.new.ty(value).dtype;
        let wide = match own {
            DType::i1 => DType::i32,
            DType::f16 => DType::f32,
            other => other,
        };
        let cast = |cx: &mut Self, value, to| match cx.new.ty(value).dtype == to {
            true => Ok(value),
            false => cx.push_one(Cast { to }.into(), &[value], origin),
        };
        let value = cast(self, value, wide)?;
        let kind = CollectiveKind::AllReduce(partial.combine);
        let combined = self.exchange((kind, &partial.axes), &[value], origin)?;
        cast(self, combined, own)
    }

    /// All of a value; `why` it is put together is kept where that takes an exchange of parts.
    pub(super) fn put_together(&mut self, value: Value, why: (Reason, &str)) -> Done<Value> {
        if let Some(known) = self.whole.get(&value) {
            return Ok(*known);
        }
        if self.state(value)?.owner.is_none() {
            let guard = self.guard.take();
            let whole = self.all_of(value, why);
            self.guard = guard;
            self.whole.insert(value, whole.clone()?);
            return whole;
        }
        self.for_ranks_of(value, |cx| cx.all_of(value, why))
    }

    fn all_of(&mut self, value: Value, why: (Reason, &str)) -> Done<Value> {
        Ok(match self.state(value)?.form.clone() {
            Form::Whole => self.settled(value)?,
            Form::Split(shard) if shard.axes.is_empty() => self.settled(value)?,
            Form::Split(shard) => {
                let part = self.settled(value)?;
                let whole = self.gather(part, &shard, &self.origin(value))?;
                self.note(whole, value, why);
                whole
            }
            // There is no short way back from here: it is computed again from what is whole.
            Form::Routed(_) | Form::Order(_) | Form::Inverse(_) | Form::Offsets(_) => {
                let Some(id) = self.old.maker(value) else {
                    return Err(InternalError::new("sharding", "an input at experts"));
                };
                let results = self.computed_whole(id, why)?;
                let place = self.old.nodes[id].results.iter().position(|r| *r == value);
                place
                    .and_then(|n| results.get(n).copied())
                    .ok_or_else(|| self.broken(id, "no result"))?
            }
        })
    }

    /// A node on all of its operands.
    fn computed_whole(&mut self, id: NodeId, why: (Reason, &str)) -> Done<Vec<Value>> {
        let Node { op, operands, origin, .. } = self.old.nodes[id].clone();
        let operands: Vec<Value> =
            operands.iter().map(|v| self.put_together(*v, why)).collect::<Done<_>>()?;
        self.push(op, &operands, &origin)
    }

    /// A node that no rule takes: computed by every rank on all of its operands.
    fn replicate(&mut self, id: NodeId, reason: Reason) -> Done<Vec<State>> {
        let path = self.old.nodes[id].origin.path.clone();
        let results = self.computed_whole(id, (reason, &path))?;
        Ok(results.into_iter().map(State::whole).collect())
    }

    /// Keeps why a value was put together.
    fn note(&mut self, whole: Value, of: Value, (reason, to): (Reason, &str)) {
        let (bytes, rows) = (self.new.ty(whole).bytes(), self.mesh.ranks());
        let (rule, from, to) = (Rule::Sharding, self.origin(of).path, to.to_owned());
        let decision = Decision { rule, reason, from, to, bytes, rows };
        self.new.placement.decisions.insert(whole, decision);
    }

    /// The parts of a group put together.
    fn gather(&mut self, part: Value, shard: &Shard, origin: &Origin) -> Done<Value> {
        let dim = shard.dim as usize;
        let shape = self.new.ty(part).shape.clone();
        if shard.blocks == 1 {
            let kind = CollectiveKind::AllGather { dim: dim as u64 };
            return self.exchange((kind, &shard.axes), &[part], origin);
        }
        let mut blocks = shape.clone();
        blocks.splice(dim..=dim, [shard.blocks, shape[dim] / shard.blocks]);
        let blocks = self.push_one(Reshape { shape: blocks }.into(), &[part], origin)?;
        let kind = CollectiveKind::AllGather { dim: dim as u64 + 1 };
        let whole = self.exchange((kind, &shard.axes), &[blocks], origin)?;
        let shape = shard.whole(self.mesh, &shape);
        self.push_one(Reshape { shape }.into(), &[whole], origin)
    }

    /// The first index of this rank's part along axes, i32, for parts of `extent`.
    pub(super) fn start(&mut self, axes: &[u32], extent: u64, origin: &Origin) -> Done<Value> {
        let coordinate = match self.coordinates.get(axes) {
            Some(known) => *known,
            None => {
                let name = self.mesh.feed(axes);
                let value = self.new.input(name, ArgKind::Feed, Type::new(DType::i32, []));
                self.coordinates.insert(axes.to_vec(), value);
                value
            }
        };
        let body = generic::body_of(1, |b, a| {
            let extent = b.int(extent as i64);
            b.mul(a[0], extent)
        });
        let generic = generic::elementwise(&[], 1, body);
        self.push_one(crate::ops::Map { generic }.into(), &[coordinate], origin)
    }

    /// A sum that is still to be taken over ranks.
    pub(super) fn sum_over(axes: &[u32]) -> Option<Partial> {
        (!axes.is_empty()).then(|| Partial { combine: Combine::Sum, axes: axes.to_vec() })
    }
}

/// The type of a part.
pub(super) fn part_of(ty: &Type, shard: &Shard, mesh: &Mesh) -> Done<Type> {
    let ranks = mesh.group_size(&shard.axes);
    let mut part = ty.clone();
    let extent = part.shape.get_mut(shard.dim as usize);
    match extent.filter(|e| e.is_multiple_of(ranks.saturating_mul(shard.blocks))) {
        Some(extent) => *extent /= ranks,
        None => {
            let message = format!("{ty} is cut as `{shard}` over {ranks} ranks");
            return Err(InternalError::new("sharding", message));
        }
    }
    Ok(part)
}
