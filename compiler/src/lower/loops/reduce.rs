//! Reductions: one loop nest each, in a declared order.
//!
//! # Invariants
//! - A reduction whose index has no lanes runs its innermost extent in lanes: element `i` goes to
//!   accumulator `i / 4 mod unroll`, lane `i mod 4`; accumulators combine in pairs, then lanes
//!   `(0 + 2) + (1 + 3)`, then the scalar tail.
//! - A reduction whose index has lanes keeps one accumulator per lane and runs in ascending order.
//! - The nest is written where its index is known, so what depends on it finds it done.

use super::emit::{Elem, Ty, Val};
use super::index::{Index, Lin, Source, Var, VarInfo};
use super::pull::{LANES, Pull};
use crate::diagnostic::InternalError;
use crate::program::{Combine, Generic, V};
use crate::scalar::Binary;
use crate::types::DType;

/// A reduction on its way through its loops.
struct Nest<'a> {
    g: &'a Generic,
    operands: &'a [V],
    /// Reduced dimensions run one index at a time, outermost first.
    sequential: Vec<usize>,
    /// The reduced dimension run in lanes.
    lane: Option<usize>,
    unroll: u32,
}

impl Pull<'_> {
    /// The element of a reduction at an index.
    pub(crate) fn reduce(
        &mut self,
        v: V,
        g: &Generic,
        operands: &[V],
        at: &Index,
    ) -> Result<Val, InternalError> {
        let lanes = at.iter().any(|l| l.has_lanes(&self.emit.vars));
        let depth = self.emit.index_depth(at);
        let points = if lanes { self.side_by_side(v, at) } else { vec![at.clone()] };
        let aside = self.emit.set_aside(depth);
        let (groups, team) = (self.groups, self.team);
        if depth >= self.alone_from {
            self.team = None;
        }
        let vals = if lanes || self.scalar_only {
            self.reduce_in_order(g, operands, &points)
        } else {
            self.reduce_in_lanes(g, operands, at).map(|v| vec![v])
        };
        (self.groups, self.team) = (groups, team);
        let dtype = self.ty(v).dtype;
        let vals = vals.map(|vals| {
            vals.into_iter().map(|val| self.emit.round(val, dtype)).collect::<Vec<_>>()
        });
        self.emit.restore(aside);
        let vals = vals?;
        for (point, val) in points.iter().zip(&vals) {
            self.emit.remember(v, point, *val);
        }
        Ok(vals[0])
    }

    /// The indices of the lane groups computed together with this one, itself first.
    fn side_by_side(&self, v: V, at: &Index) -> Vec<Index> {
        let mut points = vec![at.clone()];
        let Some((var, groups, 0)) = self.groups else { return points };
        let shape = &self.ty(v).shape;
        for u in 1..i64::from(groups) {
            let by = |l: &Lin| l.offset(l.coefficient(var) * u * i64::from(LANES));
            let point: Index = at.iter().map(by).collect();
            let inside = point.iter().zip(shape).all(|(l, n)| {
                let (lo, hi) = l.range(&self.emit.vars);
                lo >= 0 && hi < *n as i64
            });
            if !inside || points.contains(&point) {
                return vec![at.clone()];
            }
            points.push(point);
        }
        points
    }

    fn reduced_dims(g: &Generic) -> Vec<usize> {
        (0..g.extents.len()).filter(|d| !g.out.contains(&(*d as u32))).collect()
    }

    fn start(g: &Generic, at: &Index) -> Vec<Lin> {
        let mut iter = vec![Lin::default(); g.extents.len()];
        for (d, lin) in g.out.iter().zip(at) {
            iter[*d as usize] = lin.clone();
        }
        iter
    }

    fn reduce_in_order(
        &mut self,
        g: &Generic,
        operands: &[V],
        points: &[Index],
    ) -> Result<Vec<Val>, InternalError> {
        let nest = Nest { g, operands, sequential: Self::reduced_dims(g), lane: None, unroll: 1 };
        let lanes = points[0].iter().any(|l| l.has_lanes(&self.emit.vars));
        let ty = Ty { elem: self.accumulator(g, operands)?, lanes: if lanes { LANES } else { 1 } };
        let init = self.identity(g, ty);
        let iters: Vec<Vec<Lin>> = points.iter().map(|p| Self::start(g, p)).collect();
        self.run(&nest, 0, iters, vec![init; points.len()])
    }

    fn reduce_in_lanes(
        &mut self,
        g: &Generic,
        operands: &[V],
        at: &Index,
    ) -> Result<Val, InternalError> {
        let lane = lane_dim(g);
        let mut sequential = Self::reduced_dims(g);
        sequential.retain(|d| *d != lane);
        let elem = self.accumulator(g, operands)?;
        let unroll = self.unroll_for(g.extents[lane]);
        let nest = Nest { g, operands, sequential, lane: Some(lane), unroll };
        let vector = self.identity(g, Ty { elem, lanes: LANES });
        let scalar = self.identity(g, Ty { elem, lanes: 1 });
        let mut accs = vec![vector; unroll as usize];
        accs.push(scalar);
        let mut accs = self.run(&nest, 0, vec![Self::start(g, at)], accs)?;
        let tail = accs.pop().ok_or_else(|| InternalError::new("loops", "no accumulator"))?;
        let combine = combiner(g);
        while accs.len() > 1 {
            accs = accs
                .chunks(2)
                .map(|p| if p.len() == 2 { self.emit.binary(combine, p[0], p[1]) } else { p[0] })
                .collect();
        }
        let l: Vec<Val> = (0..LANES).map(|k| self.emit.lane(accs[0], k)).collect();
        let even = self.emit.binary(combine, l[0], l[2]);
        let odd = self.emit.binary(combine, l[1], l[3]);
        let both = self.emit.binary(combine, even, odd);
        let all = self.emit.binary(combine, both, tail);
        Ok(self.across_team(combine, all))
    }

    /// Vector accumulators for a reduction over an extent: enough to hide the latency of the
    /// combiner, few enough that the tail stays short.
    fn unroll_for(&self, extent: u64) -> u32 {
        if self.team.is_some() {
            return 1;
        }
        match extent {
            0..16 => 1,
            16..64 => 2,
            _ => 4,
        }
    }

    /// The loops from the `k`-th sequential dimension inwards.
    fn run(
        &mut self,
        nest: &Nest<'_>,
        k: usize,
        iters: Vec<Vec<Lin>>,
        accs: Vec<Val>,
    ) -> Result<Vec<Val>, InternalError> {
        let Some(&dim) = nest.sequential.get(k) else {
            return match nest.lane {
                Some(lane) => self.run_lanes(nest, lane, &iters[0], accs),
                None => self.accumulate(nest, &iters, accs),
            };
        };
        let extent = nest.g.extents[dim];
        match extent {
            0 => return Ok(accs),
            1 => return self.run(nest, k + 1, iters, accs),
            _ => {}
        }
        let bounds = [0, extent as i64, 1].map(|b| self.emit.index_const(b));
        let (iv, inner) = self.emit.open_for(bounds, &accs);
        let var = self.loop_var(Source::Uniform(iv.to_string()), 0, extent as i64 - 1, 1);
        let mut iters = iters;
        for iter in &mut iters {
            iter[dim] = Lin::var(var);
        }
        let out = self.run(nest, k + 1, iters, inner)?;
        Ok(self.emit.close(&out))
    }

    fn accumulate(
        &mut self,
        nest: &Nest<'_>,
        iters: &[Vec<Lin>],
        accs: Vec<Val>,
    ) -> Result<Vec<Val>, InternalError> {
        let groups = self.groups;
        let mut out = Vec::with_capacity(accs.len());
        for (u, (iter, acc)) in iters.iter().zip(accs).enumerate() {
            if iters.len() > 1 {
                self.groups = groups.map(|(var, n, _)| (var, n, u as u32));
            }
            out.push(self.step(nest, iter, acc)?);
        }
        self.groups = groups;
        Ok(out)
    }

    fn step(&mut self, nest: &Nest<'_>, iter: &[Lin], acc: Val) -> Result<Val, InternalError> {
        let val = self.body(nest.g, nest.operands, iter)?;
        let val = self.emit.widen(val, acc.ty.lanes);
        Ok(self.emit.binary(combiner(nest.g), acc, val))
    }

    /// The innermost, reduced dimension: a main loop of whole vectors and a scalar tail.
    fn run_lanes(
        &mut self,
        nest: &Nest<'_>,
        lane: usize,
        iter: &[Lin],
        mut accs: Vec<Val>,
    ) -> Result<Vec<Val>, InternalError> {
        let extent = nest.g.extents[lane] as i64;
        let width = i64::from(LANES * nest.unroll);
        let main = extent - extent % width;
        let mut tail =
            accs.pop().ok_or_else(|| InternalError::new("loops", "no tail accumulator"))?;
        let mut iter = iter.to_vec();
        if main > 0 {
            let bounds = self.team_bounds(main, width);
            let (iv, inner) = self.emit.open_for(bounds, &accs);
            let source = Source::Lanes(iv.to_string());
            let last = main - 1 - (width - i64::from(LANES));
            let var = self.loop_var(source, 0, last, i64::from(LANES));
            let mut out = Vec::with_capacity(inner.len());
            for (u, acc) in inner.into_iter().enumerate() {
                self.groups = Some((var, nest.unroll, u as u32));
                iter[lane] = Lin::var(var).offset(u as i64 * i64::from(LANES));
                out.push(self.on_their_own(|pull| pull.step(nest, &iter, acc))?);
            }
            self.groups = None;
            accs = self.emit.close(&out);
        }
        if main < extent {
            let mut bounds = self.team_bounds(extent - main, 1);
            bounds = self.shifted(bounds, main);
            let (iv, inner) = self.emit.open_for(bounds, &[tail]);
            let var = self.loop_var(Source::Uniform(iv.to_string()), main, extent - 1, 1);
            iter[lane] = Lin::var(var);
            let out = self.on_their_own(|pull| pull.step(nest, &iter, inner[0]))?;
            tail = self.emit.close(&[out])[0];
        }
        accs.push(tail);
        Ok(accs)
    }

    /// A variable of the loop just opened.
    pub(crate) fn loop_var(&mut self, source: Source, lo: i64, hi: i64, align: i64) -> Var {
        let depth = self.emit.depth();
        self.emit.var(VarInfo { source, depth, lo, hi, align })
    }

    /// Type a reduction accumulates in.
    fn accumulator(&self, g: &Generic, operands: &[V]) -> Result<Elem, InternalError> {
        let dtypes: Vec<DType> = operands.iter().map(|v| self.ty(*v).dtype).collect();
        let (args, loads) = dtypes.split_at(g.maps.len());
        let dtype = g.body.dtypes(args, loads)[g.body.results[0].0 as usize];
        match (dtype, g.combine) {
            (DType::i1, Some(Combine::Sum)) => {
                Err(InternalError::new("loops", "a sum of truth values"))
            }
            _ => Ok(Elem::compute(dtype)),
        }
    }

    /// Identity of the combiner.
    fn identity(&mut self, g: &Generic, ty: Ty) -> Val {
        let sign = match g.combine {
            Some(Combine::Max) => -1,
            Some(Combine::Min) => 1,
            Some(Combine::Sum) | None => 0,
        };
        match ty.elem {
            Elem::I1 => self.emit.int(i64::from(sign > 0), ty),
            e if e.is_float() => {
                let value = if sign == 0 { 0.0 } else { f64::from(sign) * f64::INFINITY };
                self.emit.float(value, ty)
            }
            _ => {
                let value = [i64::from(i32::MIN), 0, i64::from(i32::MAX)][(sign + 1) as usize];
                self.emit.int(value, ty)
            }
        }
    }
}

/// The scalar function that combines.
fn combiner(g: &Generic) -> Binary {
    match g.combine {
        Some(Combine::Max) => Binary::Max,
        Some(Combine::Min) => Binary::Min,
        Some(Combine::Sum) | None => Binary::Add,
    }
}

/// The reduced dimension to run in lanes: the one most operands are contiguous along.
fn lane_dim(g: &Generic) -> usize {
    let reduced = Pull::reduced_dims(g);
    let votes = |d: usize| g.maps.iter().filter(|m| m.last() == Some(&Some(d as u32))).count();
    reduced.iter().copied().max_by_key(|d| (votes(*d), *d)).unwrap_or(0)
}
