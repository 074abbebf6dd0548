//! Products on fragments against plain matrix products, for every shape and type.

#![expect(clippy::needless_range_loop, reason = "lanes are numbers here, as in the manual")]

use super::*;
use Accumulator::F16;

/// A deterministic stream of bits.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Bits of a small value in the element's format, so that every sum below is exact.
fn small(element: Element, bits: &mut Bits) -> u64 {
    let value = (bits.next() % 15) as f64 - 7.0;
    let format = match element {
        Element::F64 => return value.to_bits(),
        Element::S8 => return value as i8 as u8 as u64,
        Element::U8 => return value.abs() as u64,
        Element::Tf32 => FloatFormat::Tf32,
        Element::F16 => FloatFormat::F16,
        Element::Bf16 => FloatFormat::Bf16,
        Element::E4m3 => FloatFormat::E4m3,
        Element::E5m2 => {
            return encode(
                FloatFormat::E5m2,
                (value / 2.0).trunc(),
                Rounding::NearestEven,
                Overflow::Ieee,
            );
        }
    };
    encode(format, value, Rounding::NearestEven, Overflow::Ieee)
}

fn every_mma() -> Vec<(usize, usize, MmaTypes)> {
    use Accumulator::{F16, F32, S32};
    let mut all = Vec::new();
    let mut push = |m, ks: &[usize], a, b, cs: &[(Accumulator, Accumulator)]| {
        for &k in ks {
            for &(c, d) in cs {
                all.push((m, k, MmaTypes { d, a, b, c }));
            }
        }
    };
    push(8, &[4], Element::F64, Element::F64, &[(Accumulator::F64, Accumulator::F64)]);
    push(16, &[4, 8, 16], Element::F64, Element::F64, &[(Accumulator::F64, Accumulator::F64)]);
    push(16, &[4, 8], Element::Tf32, Element::Tf32, &[(F32, F32)]);
    push(16, &[8, 16], Element::Bf16, Element::Bf16, &[(F32, F32)]);
    push(
        16,
        &[8, 16],
        Element::F16,
        Element::F16,
        &[(F32, F32), (F16, F16), (F16, F32), (F32, F16)],
    );
    for (a, b) in [
        (Element::E4m3, Element::E4m3),
        (Element::E4m3, Element::E5m2),
        (Element::E5m2, Element::E4m3),
        (Element::E5m2, Element::E5m2),
    ] {
        push(16, &[16, 32], a, b, &[(F32, F32), (F16, F16)]);
    }
    for (a, b) in [
        (Element::S8, Element::S8),
        (Element::S8, Element::U8),
        (Element::U8, Element::S8),
        (Element::U8, Element::U8),
    ] {
        push(16, &[16, 32], a, b, &[(S32, S32)]);
        push(8, &[16], a, b, &[(S32, S32)]);
    }
    all
}

/// Fills fragments element by element with the manual's index formulas and keeps the plain matrices.
fn check_mma(m: usize, k: usize, types: MmaTypes) {
    let mma = Mma::new((m, 8, k), types, false).expect("an existing shape");
    let mut bits = Bits(7);
    let mut fill = |count: usize, element: Element| -> Vec<u64> {
        (0..count).map(|_| small(element, &mut bits)).collect()
    };
    let (a, b) = (fill(m * k, types.a), fill(k * 8, types.b));
    let c: Vec<f64> = (0..m * 8).map(|i| i as f64 % 11.0 - 5.0).collect();
    let (group, thread) = (|lane: usize| lane >> 2, |lane: usize| lane & 3);
    let registers = mma.registers();
    let (ea, eb) = (types.a.per_register(), types.b.per_register());
    let mut fa = vec![[0u64; LANES]; registers[0]];
    let mut fb = vec![[0u64; LANES]; registers[1]];
    let mut fc = vec![[0u64; LANES]; registers[2]];
    for lane in 0..LANES {
        for i in 0..registers[0] * ea {
            // Along a row: four lanes' elements, then the next eight rows, then the next columns.
            let block = i / ea;
            let row = group(lane) + if m == 16 { 8 * (block & 1) } else { 0 };
            let column =
                thread(lane) * ea + i % ea + 4 * ea * if m == 16 { block >> 1 } else { block };
            fa[block][lane] |= a[row * k + column] << (types.a.bits() as usize * (i % ea) % 64);
        }
        for i in 0..registers[1] * eb {
            let row = thread(lane) * eb + i % eb + 4 * eb * (i / eb);
            fb[i / eb][lane] |=
                b[row * 8 + group(lane)] << (types.b.bits() as usize * (i % eb) % 64);
        }
        for i in 0..m * 8 / LANES {
            let row = group(lane) + 8 * (i / 2);
            let value = c[row * 8 + 2 * thread(lane) + i % 2];
            let held = match types.c {
                Accumulator::F64 => value.to_bits(),
                Accumulator::F32 => (value as f32).to_bits().into(),
                Accumulator::F16 => half::f32_to_f16(value as f32).into(),
                Accumulator::S32 => (value as i32) as u32 as u64,
            };
            let per = types.c.per_register();
            fc[i / per][lane] |= held << (16 * (i % per));
        }
    }
    let result = if mma.is_double() {
        mma.execute(&fa, &fb, &fc)
    } else {
        let cut = |f: &[[u64; LANES]]| f.iter().map(|r| r.map(|x| x as u32)).collect::<Vec<_>>();
        let wide = mma.execute(&cut(&fa), &cut(&fb), &cut(&fc));
        wide.iter().map(|r| r.map(u64::from)).collect()
    };
    for lane in 0..LANES {
        for i in 0..m * 8 / LANES {
            let (row, column) = (group(lane) + 8 * (i / 2), 2 * thread(lane) + i % 2);
            let exact = (0..k).fold(c[row * 8 + column], |sum, at| {
                sum + types.a.value(a[row * k + at]) * types.b.value(b[at * 8 + column])
            });
            let per = types.d.per_register();
            let held = result[i / per][lane] >> (16 * (i % per));
            assert_eq!(types.d.value(held), exact, "{types:?} m{m}k{k} lane {lane} value {i}");
        }
    }
}

#[test]
fn every_shape_of_mma_is_the_plain_matrix_product() {
    let all = every_mma();
    assert_eq!(all.len(), 44);
    for (m, k, types) in all {
        check_mma(m, k, types);
    }
}

#[test]
fn shapes_and_types_that_do_not_exist_are_refused() {
    let types = |a, c| MmaTypes { d: c, a, b: a, c };
    let shape = |shape, types| Mma::new(shape, types, false).is_err();
    assert!(shape((16, 8, 32), types(Element::F16, Accumulator::F32)));
    assert!(shape((8, 8, 4), types(Element::F16, Accumulator::F32)));
    assert!(shape((16, 8, 16), types(Element::Bf16, Accumulator::F16)));
    assert!(shape((16, 8, 16), types(Element::S8, Accumulator::F32)));
    let mixed = MmaTypes { b: Element::Bf16, ..types(Element::F16, Accumulator::F32) };
    assert!(shape((16, 8, 16), mixed));
    let f32 = Accumulator::F32;
    assert!(Wgmma::new(264, 16, (f32, Element::Bf16, Element::Bf16), false).is_err());
    assert!(Wgmma::new(20, 16, (f32, Element::Bf16, Element::Bf16), false).is_err());
    assert!(Wgmma::new(64, 8, (f32, Element::Bf16, Element::Bf16), false).is_err());
    assert!(Wgmma::new(40, 32, (Accumulator::S32, Element::S8, Element::S8), false).is_err());
}

#[test]
fn integer_sums_wrap_or_clamp() {
    let types =
        MmaTypes { d: Accumulator::S32, a: Element::S8, b: Element::S8, c: Accumulator::S32 };
    let ones = [0x0101_0101u32; LANES];
    let c = [i32::MAX as u32; LANES];
    for (saturate, expected) in [(false, (i32::MAX).wrapping_add(16)), (true, i32::MAX)] {
        let mma = Mma::new((8, 8, 16), types, saturate).expect("an existing shape");
        let d = mma.execute(&[ones], &[ones], &[c, c]);
        assert_eq!(d, vec![[expected as u32; LANES]; 2]);
    }
}

#[test]
fn sums_are_rounded_once_after_the_whole_depth() {
    // 2^24 + 1 + 1 + … in f32 would stay at 2^24 if each addition were rounded.
    let types =
        MmaTypes { d: Accumulator::F32, a: Element::Bf16, b: Element::Bf16, c: Accumulator::F32 };
    let mma = Mma::new((16, 8, 16), types, false).expect("an existing shape");
    let ones = [0x3f80_3f80u32; LANES];
    let c = [16_777_216f32.to_bits(); LANES];
    let d = mma.execute(&[ones; 4], &[ones; 2], &[c; 4]);
    assert_eq!(d, vec![[16_777_232f32.to_bits(); LANES]; 4]);
}

#[test]
fn wgmma_is_the_plain_matrix_product_for_every_type_and_width() {
    use Accumulator::{F16, F32, S32};
    for (d, a, b) in [
        (F32, Element::Tf32, Element::Tf32),
        (F32, Element::Bf16, Element::Bf16),
        (F32, Element::F16, Element::F16),
        (F16, Element::F16, Element::F16),
        (F32, Element::E4m3, Element::E5m2),
        (F16, Element::E5m2, Element::E4m3),
        (S32, Element::U8, Element::S8),
    ] {
        for n in [8, 16, 64, 96, 256] {
            check_wgmma(n, d, a, b);
        }
    }
}

fn check_wgmma(n: usize, d: Accumulator, a: Element, b: Element) {
    let k = a.wgmma_depth();
    let wgmma = Wgmma::new(n, k, (d, a, b), false).expect("an existing shape");
    let mut bits = Bits(3);
    let left: Vec<u64> = (0..64 * k).map(|_| small(a, &mut bits)).collect();
    let right: Vec<f64> = (0..k * n).map(|_| b.value(small(b, &mut bits))).collect();
    let e = a.per_register();
    // A in registers, as the manual places it.
    let mut held = [[[0u32; LANES]; 4]; 4];
    for (warp, registers) in held.iter_mut().enumerate() {
        for (register, lanes) in registers.iter_mut().enumerate() {
            for (lane, out) in lanes.iter_mut().enumerate() {
                for j in 0..e {
                    let row = 16 * warp + lane / 4 + 8 * (register % 2);
                    let column = e * (lane % 4) + j + 4 * e * (register / 2);
                    *out |= (left[row * k + column] as u32) << (a.bits() as usize * j);
                }
            }
        }
    }
    let dense: Vec<f64> = held.iter().flat_map(|warp| wgmma.operand_of_warp(warp)).collect();
    let plain: Vec<f64> = left.iter().map(|bits| a.value(*bits)).collect();
    assert_eq!(dense, plain);
    for scale in [(false, false), (true, false), (true, true)] {
        let scale = Scale { accumulate: scale.0, negate_a: scale.1, negate_b: false };
        for warp in 0..4 {
            let mut registers = vec![[0u32; LANES]; wgmma.accumulator_registers()];
            let three = match d {
                F16 => 0x4200_4200,
                Accumulator::F32 => 3f32.to_bits(),
                _ => 3,
            };
            registers.fill([three; LANES]);
            wgmma.execute_warp(&dense[16 * warp * k..][..16 * k], &right, scale, &mut registers);
            for lane in 0..LANES {
                for i in 0..n / 2 {
                    let row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
                    let column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
                    let start = if scale.accumulate { 3.0 } else { 0.0 };
                    let sign = if scale.negate_a { -1.0 } else { 1.0 };
                    let exact = (0..k).fold(start, |sum, at| {
                        sum + sign * plain[row * k + at] * right[at * n + column]
                    });
                    let per = d.per_register();
                    let held = u64::from(registers[i / per][lane]) >> (16 * (i % per));
                    assert_eq!(d.value(held), exact, "n{n} {a:?} lane {lane} value {i}");
                }
            }
        }
    }
}
