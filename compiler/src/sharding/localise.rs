//! Parts of values that every rank holds: computed in parts where that can be, else cut out.
//!
//! # Invariants
//! - No communication: a rank finds its part by its coordinate.

use perilune_plan::Shard;

use super::layout::{Form, reshaped_dim, split};
use super::rewrite::{Done, Sharder, part_of};
use crate::graph::{Node, Origin};
use crate::ops::{Fill, Gather, Map, Op, Random, Reshape, Value, generic};
use crate::program::Generic;
use crate::scalar::ScalarOp;
use crate::types::Type;

impl Sharder<'_> {
    /// A rank's part of a value, for a plain cut; `None` if what it holds is cut in another way.
    pub(super) fn cut(&mut self, value: Value, shard: &Shard) -> Done<Option<Value>> {
        match self.state(value)?.form.clone() {
            Form::Split(own) if own == *shard => self.settled(value).map(Some),
            Form::Whole => self.part(value, shard),
            _ => Ok(None),
        }
    }

    /// A rank's part of a value that it holds all of; `None` where the ranks do not divide it.
    fn part(&mut self, value: Value, shard: &Shard) -> Done<Option<Value>> {
        let key = (value, shard.clone());
        if let Some(known) = self.parts.get(&key) {
            return Ok(Some(*known));
        }
        let shared = self.state(value)?.owner.is_none();
        let part = self.for_ranks_of(value, |cx| cx.part_of_whole(value, shard))?;
        if let (Some(part), true) = (part, shared) {
            self.parts.insert(key, part);
        }
        Ok(part)
    }

    fn part_of_whole(&mut self, value: Value, shard: &Shard) -> Done<Option<Value>> {
        let ty = self.old.ty(value).clone();
        let ranks = self.mesh.group_size(&shard.axes);
        if ranks == 1 && shard.blocks == 1 {
            return self.settled(value).map(Some);
        }
        let extent = ty.shape.get(shard.dim as usize);
        if shard.blocks != 1 || !extent.is_some_and(|e| e.is_multiple_of(ranks)) {
            return Ok(None);
        }
        let maker = self.old.maker(value).map(|id| self.old.nodes[id].clone());
        let mut plain = self.state(value)?.partial.is_none();
        for operand in maker.iter().flat_map(|node| &node.operands) {
            plain &= self.state(*operand)?.owner.is_none();
        }
        let made = match maker.filter(|_| plain) {
            Some(node) => self.computed_in_parts(&node, &ty, shard)?,
            None => None,
        };
        let part = match made {
            Some(part) => part,
            None => {
                let whole = self.settled(value)?;
                let origin = self.origin(value).derived("part");
                self.slice(whole, shard, &origin)?
            }
        };
        Ok(Some(part))
    }

    /// A part of a node's only result from parts of its operands.
    fn computed_in_parts(&mut self, node: &Node, ty: &Type, shard: &Shard) -> Done<Option<Value>> {
        let shape = part_of(ty, shard, self.mesh)?.shape;
        let origin = &node.origin;
        match &node.op {
            Op::Fill(fill) => {
                let op = Fill { shape, ..fill.clone() };
                self.push_one(op.into(), &[], origin).map(Some)
            }
            Op::Random(random) if shard.dim == 0 && node.operands.len() == 1 => {
                let seed = self.settled(node.operands[0])?;
                let first = self.start(&shard.axes, shape[0], origin)?;
                let op = Random { shape, ..random.clone() };
                self.push_one(op.into(), &[seed, first], origin).map(Some)
            }
            Op::Map(map) => self.map_in_parts(&map.generic, (node, shard)),
            Op::Cast(_) | Op::StopGradient(_) => match self.cut(node.operands[0], shard)? {
                Some(x) => self.push_one(node.op.clone(), &[x], origin).map(Some),
                None => Ok(None),
            },
            Op::Reshape(_) => {
                let from = self.old.ty(node.operands[0]).shape.clone();
                let ranks = self.mesh.group_size(&shard.axes);
                let dim = reshaped_dim(&ty.shape, &from, shard.dim as usize, ranks);
                let Some(dim) = dim else { return Ok(None) };
                match self.cut(node.operands[0], &split(dim, &shard.axes))? {
                    Some(x) => self.push_one(Reshape { shape }.into(), &[x], origin).map(Some),
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn map_in_parts(&mut self, g: &Generic, (node, shard): (&Node, &Shard)) -> Done<Option<Value>> {
        let iteration = g.out[shard.dim as usize];
        if g.body.ops.contains(&ScalarOp::Index(iteration)) {
            return Ok(None);
        }
        let mut operands = Vec::with_capacity(node.operands.len());
        for (operand, map) in node.operands.iter().zip(&g.maps) {
            let dims: Vec<usize> =
                (0..map.len()).filter(|dim| map[*dim] == Some(iteration)).collect();
            let part = match dims[..] {
                [dim] => self.cut(*operand, &split(dim, &shard.axes))?,
                [_, _, ..] => None,
                [] => match self.state(*operand)?.form {
                    Form::Whole => Some(self.settled(*operand)?),
                    _ => None,
                },
            };
            let Some(part) = part else { return Ok(None) };
            operands.push(part);
        }
        let mut generic = g.clone();
        generic.extents[iteration as usize] /= self.mesh.group_size(&shard.axes);
        self.push_one(Map { generic }.into(), &operands, &node.origin).map(Some)
    }

    /// A rank's part of a value of its graph that is whole, for a plain cut.
    pub(super) fn slice(&mut self, whole: Value, shard: &Shard, origin: &Origin) -> Done<Value> {
        let dim = shard.dim as usize;
        let ndim = self.new.ty(whole).ndim();
        let leading: Vec<u32> = std::iter::once(dim as u32)
            .chain((0..ndim as u32).filter(|d| *d != dim as u32))
            .collect();
        let front = self.permuted(whole, &leading, origin)?;
        let extent = part_of(self.new.ty(whole), shard, self.mesh)?.shape[dim];
        let start = self.start(&shard.axes, extent, origin)?;
        let body = generic::body_of(1, |b, a| {
            let index = b.index(0);
            b.add(a[0], index)
        });
        let (extents, maps, out) = (vec![extent], vec![Vec::new()], vec![0]);
        let generic = Generic { extents, maps, out, combine: None, body };
        let rows = self.push_one(Map { generic }.into(), &[start], origin)?;
        let part = self.push_one(Gather.into(), &[front, rows], origin)?;
        let mut back = vec![0u32; ndim];
        leading.iter().enumerate().for_each(|(at, d)| back[*d as usize] = at as u32);
        self.permuted(part, &back, origin)
    }

    /// A value with its dimensions in another order: result dimension `i` is dimension `order[i]`.
    fn permuted(&mut self, value: Value, order: &[u32], origin: &Origin) -> Done<Value> {
        if order.iter().enumerate().all(|(i, d)| i as u32 == *d) {
            return Ok(value);
        }
        let ty = self.new.ty(value).clone();
        let g = Generic {
            extents: ty.shape.clone(),
            maps: vec![generic::dims(0..ty.ndim() as u32)],
            out: order.to_vec(),
            combine: None,
            body: generic::body_of(1, |_, a| a[0]),
        };
        let (generic, _) = generic::canonical(g);
        self.push_one(Map { generic }.into(), &[value], origin)
    }
}
