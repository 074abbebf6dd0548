//! The rows of tensor-core and asynchronous instructions that may be constants.

use super::super::op::Op;
use super::super::tensor::{
    BulkCopy, BulkOp, Completion, Direction, Left, MatrixOp, MbarrierAction, MbarrierOp, Multiply,
    Phase, WgmmaOp,
};
use super::declare::{OnList, OnRow};

/// Shows every row and list that the instruction reads.
pub(super) fn visit(op: &mut Op, row: OnRow<'_>, list: OnList<'_>) {
    match op {
        Op::Matrix(op) => matrix(op, row, list),
        Op::Wgmma(WgmmaOp::Multiply(multiply)) => product(multiply, row, list),
        Op::Mbarrier(op) => mbarrier(op, row),
        Op::Bulk(op) => bulk(op, row, list),
        _ => {}
    }
}

fn matrix(op: &mut MatrixOp, row: OnRow<'_>, list: OnList<'_>) {
    match op {
        MatrixOp::Mma { a, b, c, .. } => [*a, *b, *c].into_iter().for_each(list),
        MatrixOp::Load { at, .. } => row(&mut at.base),
        MatrixOp::Store { at, a, .. } => {
            row(&mut at.base);
            list(*a);
        }
        MatrixOp::Transpose { a, .. } => row(a),
    }
}

fn product(multiply: &mut Multiply, row: OnRow<'_>, list: OnList<'_>) {
    row(&mut multiply.b);
    match &mut multiply.a {
        Left::Registers(registers) => list(*registers),
        Left::Descriptor(descriptor, _) => row(descriptor),
    }
}

fn mbarrier(op: &mut MbarrierOp, row: OnRow<'_>) {
    row(&mut op.at.base);
    match &mut op.what {
        MbarrierAction::Init { count } => row(count),
        MbarrierAction::Arrive { count, expect, .. } => {
            row(count);
            expect.iter_mut().for_each(row);
        }
        MbarrierAction::Expect { bytes } | MbarrierAction::Complete { bytes } => row(bytes),
        MbarrierAction::Wait { phase: Phase::Token(phase) | Phase::Parity(phase), .. } => {
            row(phase)
        }
        MbarrierAction::Invalidate | MbarrierAction::ArriveAfterCopies { .. } => {}
    }
}

fn bulk(op: &mut BulkOp, row: OnRow<'_>, list: OnList<'_>) {
    match op {
        BulkOp::Copy(copy) => bulk_copy(copy, row),
        BulkOp::Tensor(copy) => {
            row(&mut copy.map.base);
            row(&mut copy.shared.base);
            list(copy.coordinates);
            if let Direction::Load { mbarrier, multicast } = &mut copy.direction {
                row(&mut mbarrier.base);
                multicast.iter_mut().for_each(row);
            }
        }
        BulkOp::Commit | BulkOp::Wait { .. } => {}
        BulkOp::Store(store) => {
            row(&mut store.to.base);
            row(&mut store.mbarrier.base);
            list(store.values);
        }
        BulkOp::Replace { at, value, .. } => [&mut at.base, value].into_iter().for_each(row),
        BulkOp::Publish { to, from } => {
            [&mut to.base, &mut from.base].into_iter().for_each(row);
        }
    }
}

fn bulk_copy(copy: &mut BulkCopy, row: OnRow<'_>) {
    [&mut copy.to.base, &mut copy.from.base, &mut copy.bytes].into_iter().for_each(&mut *row);
    if let Completion::Mbarrier(mbarrier) = &mut copy.completion {
        row(&mut mbarrier.base);
    }
    copy.multicast.iter_mut().chain(&mut copy.byte_mask).for_each(row);
}
