//! Matrix products: plain, batched, with outer sums, symmetric, and over groups of rows.
//!
//! A block computes one tile of the result. Tiles of the operands go through a ring of stages in
//! shared memory: while one is multiplied, the next ones are on their way (`cp.async`).
//!
//! # Invariants
//! - Any extents and strides: what does not fill a tile is zero in shared memory and is not stored.
//! - Groups are found on the device: the grid depends on the numbers of rows and groups alone.
//! - The sum over `k` runs in one block in ascending order; outer sums in order.

use perilune_plan::{Contract, DType, Loop, Ragged, RaggedForm};

use crate::builder::{Builder, Compare, Ty, Val};
use crate::fragment::{Lane, Operand, Spot, WarpTile, multiply};
use crate::problem::{Problem, Work};
use crate::schedule::{Engine, Schedule};
use crate::tile::{Source, Team, Tile, fill, vector};
use crate::{Body, KernelError};

/// The cut of a product, as its schedule says.
#[derive(Clone, Copy, Debug)]
struct Cut {
    engine: Engine,
    tile: [u32; 3],
    warps: [u32; 2],
    stages: u32,
}

/// An operand with its place in a stage.
#[derive(Clone, Copy, Debug)]
struct Side {
    source: Source,
    tile: Tile,
    along_k: bool,
    /// Bytes from the start of a stage.
    place: u32,
}

/// A product as the block sees it.
struct Product {
    sides: [Side; 2],
    /// First row and column of the block's tile.
    first: [Val; 2],
    /// Trips over tiles along `k`, of all outer sums.
    trips: Val,
    /// The outer sums.
    sum: Vec<Loop>,
    /// Trips of one of them.
    trips_each: Val,
    result: Target,
}

/// The result.
struct Target {
    base: Val,
    ty: Ty,
    origin: Val,
    strides: [i64; 2],
    limits: [Val; 2],
    /// Whether neighbours in a row can be stored as one.
    pairs: bool,
    alpha: f32,
    accumulate: bool,
    /// Where the mirrored tile is to be stored as well.
    mirror: Option<Val>,
}

/// Writes the kernel of a contraction or a ragged contraction.
pub(crate) fn write(problem: &Problem, schedule: &Schedule) -> Result<Body, KernelError> {
    let Schedule::Matrix { engine, tile, warps, stages, .. } = schedule else {
        return Err(KernelError::Schedule("a matrix product takes a matrix schedule"));
    };
    let cut = Cut { engine: *engine, tile: *tile, warps: *warps, stages: *stages };
    check(problem, &cut)?;
    match &problem.work {
        Work::Contract(c) => contract(problem, c, cut),
        Work::Ragged(r) => match r.form {
            RaggedForm::Rows => ragged_rows(problem, r, cut),
            RaggedForm::Outer => ragged_outer(problem, r, cut),
        },
        Work::Attention(_)
        | Work::MaxLogit { .. }
        | Work::GradDelta(_)
        | Work::GradQueries(_)
        | Work::GradKeys(_)
        | Work::Copy { .. } => Err(KernelError::Schedule("not a matrix product")),
    }
}

/// Bytes of shared memory of a product with these operand types.
pub(crate) fn shared_bytes(types: [Ty; 2], tile: [u32; 3], stages: u32) -> u32 {
    // Either way a tile may lie.
    let side = |ty, free| {
        let along = Tile { rows: free, columns: tile[2], ty };
        let across = Tile { rows: tile[2], columns: free, ty };
        along.bytes().max(across.bytes())
    };
    stages * (side(types[0], tile[0]) + side(types[1], tile[1]))
}

fn check(problem: &Problem, cut: &Cut) -> Result<(), KernelError> {
    let [m, n, k] = cut.tile;
    let step = if cut.engine == Engine::Mma { 16 } else { 4 };
    let split = m.is_multiple_of(cut.warps[0] * 16) && n.is_multiple_of(cut.warps[1] * 8);
    if !split || k == 0 || !k.is_multiple_of(step) || cut.stages < 2 {
        return Err(KernelError::Schedule("tiles do not divide among warps and steps"));
    }
    let narrow = |d: DType| matches!(d, DType::bf16 | DType::f16);
    let (a, b) = (problem.dtypes[0], problem.dtypes[1]);
    if cut.engine == Engine::Mma && (a != b || !narrow(a)) {
        return Err(KernelError::Schedule("tensor cores take two operands of one 16-bit type"));
    }
    Ok(())
}

/// The types of the operands and the result.
fn types(problem: &Problem, numbers: [usize; 3]) -> Result<[Ty; 3], KernelError> {
    let mut types = [Ty::F32; 3];
    for (ty, n) in types.iter_mut().zip(numbers) {
        let dtype = problem.dtypes[n];
        *ty = Ty::of(dtype).ok_or(KernelError::DType(dtype))?;
    }
    Ok(types)
}

/// An operand along its free dimension and `k`; `moves` are the other strides of its address.
struct Shape {
    base: Val,
    ty: Ty,
    origin: Val,
    free: (i64, Val, u32),
    k: (i64, Val, u32),
    moves: Vec<i64>,
}

impl Shape {
    /// Lays the operand's tile so that copies follow memory.
    fn side(self, place: u32) -> Side {
        let Shape { base, ty, origin, free, k, mut moves } = self;
        let along_k = k.0 == 1 || free.0 != 1;
        let (row, column) = if along_k { (free, k) } else { (k, free) };
        moves.push(row.0);
        let source = Source {
            base,
            ty,
            origin,
            strides: [row.0, column.0],
            limits: [row.1, column.1],
            vector: vector(ty, column.0, &moves),
        };
        Side { source, tile: Tile { rows: row.2, columns: column.2, ty }, along_k, place }
    }
}

/// Number of tiles that cover an extent.
fn tiles(extent: u64, tile: u32) -> i64 {
    extent.div_ceil(u64::from(tile)) as i64
}

fn contract(problem: &Problem, c: &Contract, cut: Cut) -> Result<Body, KernelError> {
    let [ta, tb, tc] = types(problem, [0, 1, 2])?;
    let mut b = Builder::default();
    let parameters = [b.parameter(), b.parameter(), b.parameter()];
    let batch: u64 = c.batch.iter().map(|l| l.extent).product();
    let grid = [tiles(c.m.extent, cut.tile[0]), tiles(c.n.extent, cut.tile[1])];
    let mirrored = c.symmetric && cut.tile[0] == cut.tile[1] && grid[0] == grid[1];
    let each = if mirrored { grid[0] * (grid[0] + 1) / 2 } else { grid[0] * grid[1] };
    let block = b.block();
    let within = b.rem(block, each.max(1));
    let item = b.div(block, each.max(1));
    let (row, column) = match mirrored {
        true => triangle(&mut b, within, grid[0]),
        false => (b.div(within, grid[1].max(1)), b.rem(within, grid[1].max(1))),
    };
    let mirror = mirrored.then(|| {
        let diagonal = b.compare(Compare::Equal, row, column);
        let (no, yes) = (b.int(Ty::I1, 0), b.int(Ty::I1, 1));
        b.select(diagonal, no, yes)
    });
    let origins = batch_origins(&mut b, c, item);
    let [lm, ln, lk] = [&c.m, &c.n, &c.k].map(|l| l.extent);
    let [vm, vn, vk] = [lm, ln, lk].map(|l| b.i32(l as i64));
    let moves = |stride: fn(&Loop) -> i64, offset: u64| -> Vec<i64> {
        let outer = c.batch.iter().chain(&c.sum).map(stride);
        outer.chain([offset as i64]).collect()
    };
    let [tm, tn, tk] = cut.tile;
    let a = Shape {
        base: parameters[0],
        ty: ta,
        origin: origins[0],
        free: (c.m.a, vm, tm),
        k: (c.k.a, vk, tk),
        moves: moves(|l| l.a, c.a.offset),
    };
    let right = Shape {
        base: parameters[1],
        ty: tb,
        origin: origins[1],
        free: (c.n.b, vn, tn),
        k: (c.k.b, vk, tk),
        moves: moves(|l| l.b, c.b.offset),
    };
    let left = a.side(0);
    let right = right.side(left.tile.bytes());
    let trips_each = tiles(lk, tk);
    let sums: u64 = c.sum.iter().map(|l| l.extent).product();
    let mut outer = c.batch.iter().map(|l| l.c).chain([c.m.c, c.c.offset as i64]);
    let product = Product {
        sides: [left, right],
        first: [b.mul(row, i64::from(tm)), b.mul(column, i64::from(tn))],
        trips: b.i32(trips_each * sums as i64),
        sum: c.sum.clone(),
        trips_each: b.i32(trips_each),
        result: Target {
            base: parameters[2],
            ty: tc,
            origin: origins[2],
            strides: [c.m.c, c.n.c],
            limits: [vm, vn],
            pairs: c.n.c == 1 && outer.all(|m| m % 2 == 0),
            alpha: c.alpha,
            accumulate: c.accumulate,
            mirror,
        },
    };
    let shared = compute(&mut b, &product, cut);
    Ok(Body { text: b.finish(), blocks: batch * each as u64, shared_bytes: shared })
}

/// Where the operands of a batch item start.
fn batch_origins(b: &mut Builder, c: &Contract, item: Val) -> [Val; 3] {
    let mut origins = [c.a.offset, c.b.offset, c.c.offset].map(|o| b.int(Ty::I64, o as i64));
    let mut rest = item;
    for l in c.batch.iter().rev() {
        let extent = (l.extent as i64).max(1);
        let index = b.rem(rest, extent);
        rest = b.div(rest, extent);
        let index = b.wide(index);
        for (origin, stride) in origins.iter_mut().zip([l.a, l.b, l.c]) {
            let moved = b.mul(index, stride);
            *origin = b.add(*origin, moved);
        }
    }
    origins
}

/// The `n`-th tile on or below the diagonal of `size × size` tiles: row `r` from above and row `r`
/// from below have `size + 1` of them together.
fn triangle(b: &mut Builder, n: Val, size: i64) -> (Val, Val) {
    let short = b.div(n, size + 1);
    let place = b.rem(n, size + 1);
    let last = b.i32(size - 1);
    let long = b.sub(last, short);
    let in_long = b.compare(Compare::LessOrEqual, place, long);
    let beyond = b.sub(place, long);
    let beyond = b.add_const(beyond, -1);
    (b.select(in_long, long, short), b.select(in_long, place, beyond))
}

/// An offset from memory, kept within the rows.
fn offset(b: &mut Builder, r: &Ragged, base: Val, group: Val) -> Val {
    let index = b.wide(group);
    let bytes = b.mul(index, 4);
    let bytes = b.add_const(bytes, r.offsets.offset as i64 * 4);
    let from = b.at(base, bytes);
    let raw = b.load(from, Ty::I32);
    let (zero, rows) = (b.i32(0), b.i32(r.rows as i64));
    let low = b.max(raw, zero);
    b.min(low, rows)
}

/// Rows of the group that a slot of the grid belongs to.
struct Group {
    number: Val,
    begin: Val,
    len: Val,
    /// First row of the block's tile, counted from the group's.
    row: Val,
    /// Whether the group has it.
    exists: Val,
}

/// Finds a slot's group. Group `g` owns the slots from `⌊offsets[g] / tile⌋ + g`, which are as many
/// as its tiles or one more; rows after the last offset form one more group.
fn find_group(b: &mut Builder, r: &Ragged, (base, slot): (Val, Val), tile: u32) -> Group {
    let groups = r.groups as i64;
    let start = |b: &mut Builder, g: Val| {
        let begin = offset(b, r, base, g);
        let first = b.div(begin, i64::from(tile));
        b.add(first, g)
    };
    let mut number = b.i32(0);
    let top = 64 - r.groups.leading_zeros();
    for bit in (0..top).rev() {
        let next = b.add_const(number, 1 << bit);
        let last = b.i32(groups);
        let exists = b.compare(Compare::LessOrEqual, next, last);
        let safe = b.min(next, last);
        let begins = start(b, safe);
        let reached = b.compare(Compare::LessOrEqual, begins, slot);
        let take = b.and(exists, reached);
        number = b.select(take, next, number);
    }
    let begin = offset(b, r, base, number);
    let next = b.add_const(number, 1);
    let last = b.i32(groups);
    let safe = b.min(next, last);
    let end = offset(b, r, base, safe);
    let rows = b.i32(r.rows as i64);
    let inner = b.less(number, last);
    let end = b.select(inner, end, rows);
    let len = b.sub(end, begin);
    let first = start(b, number);
    let place = b.sub(slot, first);
    let row = b.mul(place, i64::from(tile));
    let exists = b.less(row, len);
    Group { number, begin, len, row, exists }
}

fn ragged_rows(problem: &Problem, r: &Ragged, cut: Cut) -> Result<Body, KernelError> {
    let [ta, tb, tc] = types(problem, [0, 1, 3])?;
    let mut b = Builder::default();
    let parameters: Vec<Val> = (0..4).map(|_| b.parameter()).collect();
    let [tm, tn, tk] = cut.tile;
    let columns = tiles(r.n, tn);
    let block = b.block();
    let slot = b.div(block, columns.max(1));
    let column = b.rem(block, columns.max(1));
    let group = find_group(&mut b, r, (parameters[2], slot), tm);
    let [begin, number] = [group.begin, group.number].map(|v| b.wide(v));
    let (vn, vk) = (b.i32(r.n as i64), b.i32(r.k as i64));
    let origin = |b: &mut Builder, offset: u64, index: Val, stride: i64| {
        let moved = b.mul(index, stride);
        b.add_const(moved, offset as i64)
    };
    let left = Shape {
        base: parameters[0],
        ty: ta,
        origin: origin(&mut b, r.a.offset, begin, r.a_row),
        free: (r.a_row, group.len, tm),
        k: (1, vk, tk),
        moves: vec![r.a.offset as i64],
    };
    let [by_group, by_k, by_n] = r.b_strides;
    let right = Shape {
        base: parameters[1],
        ty: tb,
        origin: origin(&mut b, r.b.offset, number, by_group),
        free: (by_n, vn, tn),
        k: (by_k, vk, tk),
        moves: vec![r.b.offset as i64, by_group],
    };
    let left = left.side(0);
    let right = right.side(left.tile.bytes());
    // The rows after the last group are a sum of nothing.
    let last = b.i32(r.groups as i64);
    let inner = b.less(group.number, last);
    let (all, none) = (b.i32(tiles(r.k, tk)), b.i32(0));
    let trips = b.select(inner, all, none);
    let width = r.n as i64;
    let product = Product {
        sides: [left, right],
        first: [group.row, b.mul(column, i64::from(tn))],
        trips,
        sum: Vec::new(),
        trips_each: all,
        result: Target {
            base: parameters[3],
            ty: tc,
            origin: origin(&mut b, r.c.offset, begin, width),
            strides: [width, 1],
            limits: [group.len, vn],
            pairs: width % 2 == 0 && r.c.offset.is_multiple_of(2),
            alpha: 1.0,
            accumulate: false,
            mirror: None,
        },
    };
    let mut shared = 0;
    b.when(group.exists, |b| shared = compute(b, &product, cut));
    let slots = r.rows / u64::from(tm) + r.groups + 1;
    Ok(Body { text: b.finish(), blocks: slots * columns as u64, shared_bytes: shared })
}

fn ragged_outer(problem: &Problem, r: &Ragged, cut: Cut) -> Result<Body, KernelError> {
    let [ta, tb, tc] = types(problem, [0, 1, 3])?;
    let mut b = Builder::default();
    let parameters: Vec<Val> = (0..4).map(|_| b.parameter()).collect();
    let [tm, tn, tk] = cut.tile;
    let grid = [tiles(r.k, tm), tiles(r.n, tn)];
    let block = b.block();
    let column = b.rem(block, grid[1].max(1));
    let rest = b.div(block, grid[1].max(1));
    let row = b.rem(rest, grid[0].max(1));
    let group = b.div(rest, grid[0].max(1));
    let next = b.add_const(group, 1);
    let begin = offset(&mut b, r, parameters[2], group);
    let end = offset(&mut b, r, parameters[2], next);
    let len = b.sub(end, begin);
    let zero = b.i32(0);
    let len = b.max(len, zero);
    let covering = b.add_const(len, i64::from(tk) - 1);
    let trips = b.div(covering, i64::from(tk));
    let begin = b.wide(begin);
    let (vm, vn) = (b.i32(r.k as i64), b.i32(r.n as i64));
    let [_, b_row, b_column] = r.b_strides;
    let mut side = |n: usize, ty, (row, column): (i64, i64), offset: u64, free: (Val, u32)| {
        let moved = b.mul(begin, row);
        Shape {
            base: parameters[n],
            ty,
            origin: b.add_const(moved, offset as i64),
            free: (column, free.0, free.1),
            k: (row, len, tk),
            moves: vec![offset as i64],
        }
    };
    let left = side(0, ta, (r.a_row, 1), r.a.offset, (vm, tm)).side(0);
    let right = side(1, tb, (b_row, b_column), r.b.offset, (vn, tn)).side(left.tile.bytes());
    let wide = b.wide(group);
    let moved = b.mul(wide, (r.k * r.n) as i64);
    let product = Product {
        sides: [left, right],
        first: [b.mul(row, i64::from(tm)), b.mul(column, i64::from(tn))],
        trips,
        sum: Vec::new(),
        trips_each: trips,
        result: Target {
            base: parameters[3],
            ty: tc,
            origin: b.add_const(moved, r.c.offset as i64),
            strides: [r.n as i64, 1],
            limits: [vm, vn],
            pairs: r.n.is_multiple_of(2) && r.c.offset.is_multiple_of(2),
            alpha: 1.0,
            accumulate: false,
            mirror: None,
        },
    };
    let shared = compute(&mut b, &product, cut);
    let blocks = r.groups * grid[0] as u64 * grid[1] as u64;
    Ok(Body { text: b.finish(), blocks, shared_bytes: shared })
}

/// The tile's product and its stores; gives the bytes of shared memory.
fn compute(b: &mut Builder, product: &Product, cut: Cut) -> u32 {
    let thread = b.thread();
    let team = Team { thread, threads: cut.warps[0] * cut.warps[1] * 32 };
    let lane = Lane::of(b, thread);
    let warp = warp_tile(b, cut, thread);
    let stage_bytes: u32 = product.sides.iter().map(|s| s.tile.bytes()).sum();
    let shared = b.shared_symbol(crate::SHARED);
    let zero = b.i32(0);
    for s in 0..cut.stages - 1 {
        let trip = b.i32(i64::from(s));
        let exists = b.less(trip, product.trips);
        b.when(exists, |b| {
            let start = b.at_const(shared, i64::from(s * stage_bytes));
            fill_stage(b, product, (team, start), trip);
        });
        b.copy_commit();
    }
    let acc = warp.zeros(b);
    let acc = b.repeat((zero, product.trips), &acc, |b, trip, acc| {
        b.copy_wait(cut.stages - 2);
        b.barrier();
        let next = b.add_const(trip, i64::from(cut.stages - 1));
        let exists = b.less(next, product.trips);
        b.when(exists, |b| {
            let start = stage(b, (shared, stage_bytes, cut.stages), next);
            fill_stage(b, product, (team, start), next);
        });
        b.copy_commit();
        let start = stage(b, (shared, stage_bytes, cut.stages), trip);
        let operands = product.sides.map(|s| Operand {
            tile: s.tile,
            start: b.at_const(start, i64::from(s.place)),
            along_k: s.along_k,
        });
        let work = (&operands[0], &operands[1], cut.tile[2]);
        multiply(b, cut.engine, lane, work, (&warp, acc.to_vec()))
    });
    store(b, product, (&warp, lane, cut), &acc);
    stage_bytes * cut.stages
}

fn warp_tile(b: &mut Builder, cut: Cut, thread: Val) -> WarpTile {
    let warp = b.div(thread, 32);
    let (row, column) =
        (b.div(warp, i64::from(cut.warps[1])), b.rem(warp, i64::from(cut.warps[1])));
    let edges = [cut.tile[0] / cut.warps[0], cut.tile[1] / cut.warps[1]];
    WarpTile {
        blocks: [edges[0] / 16, edges[1] / 8],
        first: [b.mul(row, i64::from(edges[0])), b.mul(column, i64::from(edges[1]))],
    }
}

/// Start of the stage that holds a trip's tiles.
fn stage(b: &mut Builder, (shared, bytes, stages): (Val, u32, u32), trip: Val) -> Val {
    let number = b.rem(trip, i64::from(stages));
    let offset = b.mul(number, i64::from(bytes));
    b.at(shared, offset)
}

/// Starts the copies of a trip's tiles.
fn fill_stage(b: &mut Builder, product: &Product, (team, start): (Team, Val), trip: Val) {
    let (sums, trip) = match product.trips_each.known {
        Some(each) if !product.sum.is_empty() => {
            (Some(b.div(trip, each.max(1))), b.rem(trip, each.max(1)))
        }
        _ => (None, trip),
    };
    for (n, side) in product.sides.iter().enumerate() {
        let mut source = side.source;
        if let Some(sums) = sums {
            let stride = if n == 0 { |l: &Loop| l.a } else { |l: &Loop| l.b };
            source.origin = sum_origin(b, &product.sum, (source.origin, sums), stride);
        }
        let depth = if side.along_k { side.tile.columns } else { side.tile.rows };
        let k = b.mul(trip, i64::from(depth));
        let at = if side.along_k { [product.first[n], k] } else { [k, product.first[n]] };
        let place = b.at_const(start, i64::from(side.place));
        fill(b, team, &source, at, (side.tile, place));
    }
}

fn sum_origin(
    b: &mut Builder,
    sum: &[Loop],
    (mut origin, mut rest): (Val, Val),
    stride: fn(&Loop) -> i64,
) -> Val {
    for l in sum.iter().rev() {
        let extent = (l.extent as i64).max(1);
        let index = b.rem(rest, extent);
        rest = b.div(rest, extent);
        let index = b.wide(index);
        let moved = b.mul(index, stride(l));
        origin = b.add(origin, moved);
    }
    origin
}

/// Stores a warp's part of the tile, and its mirror image.
fn store(
    b: &mut Builder,
    product: &Product,
    (warp, lane, cut): (&WarpTile, Lane, Cut),
    acc: &[Val],
) {
    let result = &product.result;
    let corner = warp.corner(b, lane);
    let corner = [b.add(product.first[0], corner[0]), b.add(product.first[1], corner[1])];
    let inside =
        [0, 1].map(|d| result.limits[d].known.is_some_and(|l| l % i64::from(cut.tile[d]) == 0));
    let whole_pairs = result.limits[1].known.is_some_and(|n| n % 2 == 0);
    for (i, row) in warp.rows().enumerate() {
        let at = b.add_const(corner[0], i64::from(row));
        let exists = below(b, at, result.limits[0], inside[0]);
        b.when(exists, |b| {
            for spot in warp.pairs(i as u32) {
                let column = b.add_const(corner[1], i64::from(spot.column));
                if result.pairs && whole_pairs {
                    let exists = below(b, column, result.limits[1], inside[1]);
                    b.when(exists, |b| store_pair(b, result, [at, column], (acc, spot)));
                    continue;
                }
                for e in 0..2 {
                    let column = b.add_const(column, e);
                    let exists = below(b, column, result.limits[1], inside[1]);
                    let value = acc[spot.index + e as usize];
                    b.when(exists, |b| store_one(b, result, [at, column], value));
                }
            }
        });
    }
}

fn below(b: &mut Builder, at: Val, limit: Val, inside: bool) -> Val {
    match inside {
        true => b.int(Ty::I1, 1),
        false => b.less(at, limit),
    }
}

fn address(b: &mut Builder, result: &Target, at: [Val; 2]) -> Val {
    let mut offset = result.origin;
    for (place, stride) in at.into_iter().zip(result.strides) {
        let wide = b.wide(place);
        let moved = b.mul(wide, stride);
        offset = b.add(offset, moved);
    }
    let bytes = b.mul(offset, i64::from(result.ty.bytes()));
    b.at(result.base, bytes)
}

/// `alpha · sum (+ old)` in the result's type.
fn finished(b: &mut Builder, result: &Target, sum: Val, old: Option<Val>) -> Val {
    let alpha = b.f32(result.alpha);
    let value = match old {
        Some(old) => {
            let old = b.widen(old);
            b.fma(alpha, sum, old)
        }
        None if result.alpha == 1.0 => sum,
        None => b.float("mulf", alpha, sum),
    };
    b.narrow(value, result.ty)
}

fn store_pair(b: &mut Builder, result: &Target, at: [Val; 2], (acc, spot): (&[Val], Spot)) {
    let to = address(b, result, at);
    let old = match result.accumulate {
        true => b.load_vector(to, result.ty, 2).into_iter().map(Some).collect(),
        false => vec![None; 2],
    };
    let values: Vec<Val> = old
        .into_iter()
        .zip(&acc[spot.index..])
        .map(|(old, sum)| finished(b, result, *sum, old))
        .collect();
    b.store_vector(&values, to);
    for (e, value) in values.into_iter().enumerate() {
        let column = b.add_const(at[1], e as i64);
        mirror(b, result, [at[0], column], value);
    }
}

fn store_one(b: &mut Builder, result: &Target, at: [Val; 2], sum: Val) {
    let to = address(b, result, at);
    let old = result.accumulate.then(|| b.load(to, result.ty));
    let value = finished(b, result, sum, old);
    b.store(value, to);
    mirror(b, result, at, value);
}

fn mirror(b: &mut Builder, result: &Target, [row, column]: [Val; 2], value: Val) {
    let Some(off_diagonal) = result.mirror else { return };
    b.when(off_diagonal, |b| {
        let to = address(b, result, [column, row]);
        b.store(value, to);
    });
}
