//! Whether the order in which CTAs run can show in a result.

use super::setup::Setup;
use crate::module::{Op, Order, Space};

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
        _ => false,
    })
}
