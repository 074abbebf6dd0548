//! Video instructions on two or four integers in a register.

use super::super::op::{Op, lanes3};
use super::super::types::Type;
use super::context::Context;
use super::integer::three;
use super::modifiers::Modifiers;
use crate::parse::ast::Instruction;
use crate::source::LoadError;

/// `vadd4.s32.u32.u32{.sat}{.add} d, a, b, c` and its like, with `bits` per part.
///
/// The types say how the parts of `a` and `b` are extended and how `.sat` clamps the result's; without
/// `.add` every part is taken from the result, so `c` is read and does not count.
pub(super) fn simd<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    bits: u32,
) -> Result<Op, LoadError> {
    let (sat, sum) = (mods.flag("sat"), mods.flag("add"));
    let (Some(to), Some(a), Some(b)) = (mods.ty(), mods.ty(), mods.ty()) else {
        return Err(cx.unknown("a video instruction names three types"));
    };
    if [to, a, b].iter().any(|ty| !matches!(ty, Type::U32 | Type::S32)) {
        return Err(cx.unknown("a video instruction takes `.u32` and `.s32`"));
    }
    let part = move |value: u64, at: u32, ty: Type| {
        let low = (value >> at) as u32 & (u32::MAX >> (32 - bits));
        let up = 32 - bits;
        i64::from(if ty.is_signed() { (low << up) as i32 >> up } else { low as i32 })
    };
    let one: fn(i64, i64) -> i64 = match inst.name.trim_end_matches(['2', '4']) {
        "vadd" => |a, b| a + b,
        "vsub" => |a, b| a - b,
        "vabsdiff" => |a, b| (a - b).abs(),
        "vmin" => i64::min,
        _ => i64::max,
    };
    let (low, high) = match to.is_signed() {
        true => (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1),
        false => (0, (1i64 << bits) - 1),
    };
    let f = lanes3(move |x, y, c| {
        let (mut packed, mut total) = (0u32, c as u32);
        for at in (0..32).step_by(bits as usize) {
            let found = one(part(x, at, a), part(y, at, b));
            let found = if sat { found.clamp(low, high) } else { found };
            packed |= (found as u32 & (u32::MAX >> (32 - bits))) << at;
            total = total.wrapping_add(found as u32);
        }
        if sum { total.into() } else { packed.into() }
    });
    three(cx, inst, [to, a, b, Type::U32], f)
}
