//! Whether the order in which CTAs run can show in a result.

use super::setup::Setup;
use crate::module::{BulkOp, Direction, Op, Order, Space};
use crate::tensor_map::{Reduction, TensorType};

/// Whether CTAs of this module must run one after the other, in the order of the grid.
///
/// They may run at once when no thread can learn what another CTA did: no atomic on global memory
/// gives back a value, the sums of those that do not are independent of their order, and no load asks
/// for what others wrote.
pub(super) fn shows(setup: &Setup<'_>) -> bool {
    let global = |space: Space| matches!(space, Space::Global | Space::Generic);
    setup.module.code.iter().any(|inst| match &inst.op {
        Op::Atomic(atomic) => global(atomic.at.space) && (atomic.dst.len > 0 || !atomic.commutes),
        Op::Load(transfer) => global(transfer.at.space) && transfer.order != Order::Weak,
        Op::Bulk(op) => match &**op {
            BulkOp::Copy(copy) => copy.reduce.is_some_and(|(how, of)| rounds(how, of)),
            // The type stands in the map, and may be a float.
            BulkOp::Tensor(copy) => match copy.direction {
                Direction::Store { reduce: Some(how) } => rounds(how, TensorType::F32),
                Direction::Store { reduce: None } | Direction::Load { .. } => false,
            },
            _ => false,
        },
        _ => false,
    })
}

/// Whether the order of reductions shows in their rounding, or in a wrap-around.
fn rounds(how: Reduction, of: TensorType) -> bool {
    of.is_float() && how == Reduction::Add || matches!(how, Reduction::Inc | Reduction::Dec)
}
