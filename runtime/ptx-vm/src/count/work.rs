//! Floating-point and tensor operations of an instruction, and the pipe that does them.

use crate::matrix::Element;
use crate::module::{MatrixOp, Op, WgmmaOp};
use serde::Serialize;

/// Where operations are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Pipe {
    /// f32 outside the tensor cores.
    F32,
    /// f64 outside the tensor cores.
    F64,
    /// f16 and bf16 outside the tensor cores.
    F16,
    /// Tensor cores on f64.
    TensorF64,
    /// Tensor cores on tf32.
    TensorTf32,
    /// Tensor cores on f16 and bf16.
    TensorF16,
    /// Tensor cores on operands of 8 bits.
    Tensor8,
}

/// The operations of one execution: by each active lane and by the warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) pipe: Pipe,
    pub(super) by_lane: u64,
    pub(super) by_warp: u64,
}

/// What an instruction computes; a product and a sum are two operations.
pub(super) fn work(op: &Op, opcode: &str) -> Option<Work> {
    let tensor = |element: Element, products: u64| {
        let pipe = match element {
            Element::F64 => Pipe::TensorF64,
            Element::Tf32 => Pipe::TensorTf32,
            Element::F16 | Element::Bf16 => Pipe::TensorF16,
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => Pipe::Tensor8,
        };
        Some(Work { pipe, by_lane: 0, by_warp: 2 * products })
    };
    match op {
        Op::Matrix(matrix) => match &**matrix {
            MatrixOp::Mma { mma, .. } => tensor(mma.element(), mma.products()),
            _ => None,
        },
        // Each of four warps does its part.
        Op::Wgmma(WgmmaOp::Multiply(multiply)) => {
            tensor(multiply.wgmma.elements().0, multiply.wgmma.products() / 4)
        }
        _ => scalar(opcode),
    }
}

fn scalar(opcode: &str) -> Option<Work> {
    let mut words = opcode.split('.');
    let operations = match words.next()? {
        "fma" | "mad" => 2,
        "add" | "sub" | "mul" | "div" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin"
        | "cos" | "tanh" => 1,
        _ => return None,
    };
    let (pipe, values) = words.rev().find_map(|word| {
        Some(match word {
            "f32" => (Pipe::F32, 1),
            "f32x2" => (Pipe::F32, 2),
            "f64" => (Pipe::F64, 1),
            "f16" | "bf16" => (Pipe::F16, 1),
            "f16x2" | "bf16x2" => (Pipe::F16, 2),
            _ => return None,
        })
    })?;
    Some(Work { pipe, by_lane: operations * values, by_warp: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_say_what_they_compute() {
        let of = |opcode| scalar(opcode).map(|work| (work.pipe, work.by_lane));
        assert_eq!(of("fma.rn.f32"), Some((Pipe::F32, 2)));
        assert_eq!(of("add.rn.ftz.f16x2"), Some((Pipe::F16, 2)));
        assert_eq!(of("ex2.approx.ftz.f32"), Some((Pipe::F32, 1)));
        assert_eq!(of("mul.f64"), Some((Pipe::F64, 1)));
        assert_eq!(of("mad.lo.s32"), None);
        assert_eq!(of("ld.global.f32"), None);
    }
}
