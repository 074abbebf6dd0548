//! Integer instructions that need more than one machine operation.
//!
//! A value is the low bits of a `u64`; an [`IntType`] says how many and whether the top one is a sign.
//! Results carry zeros above their width.

/// An integer type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum IntType {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
}

impl IntType {
    /// Width in bits.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u32 {
        match self {
            Self::U8 | Self::S8 => 8,
            Self::U16 | Self::S16 => 16,
            Self::U32 | Self::S32 => 32,
            Self::U64 | Self::S64 => 64,
        }
    }

    /// Whether the type is signed.
    #[must_use]
    #[inline]
    pub const fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Ones in the bits that a value uses.
    #[must_use]
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The smallest and the largest value.
    #[must_use]
    #[inline]
    pub const fn range(self) -> (i128, i128) {
        if self.signed() {
            (-(1 << (self.bits() - 1)), (1 << (self.bits() - 1)) - 1)
        } else {
            (0, self.mask() as i128)
        }
    }

    /// The value that the low bits of `bits` stand for.
    #[must_use]
    #[inline]
    pub const fn value(self, bits: u64) -> i128 {
        let up = 64 - self.bits();
        if self.signed() {
            ((bits << up) as i64 >> up) as i128
        } else {
            (bits & self.mask()) as i128
        }
    }

    /// The low bits of `value`.
    #[must_use]
    #[inline]
    pub const fn wrap(self, value: i128) -> u64 {
        value as u64 & self.mask()
    }

    /// The nearest value of the type.
    #[must_use]
    #[inline]
    pub fn clamp(self, value: i128) -> u64 {
        let (low, high) = self.range();
        self.wrap(value.clamp(low, high))
    }
}

/// The upper half of the product (`mul.hi`).
#[must_use]
#[inline]
pub fn mul_hi(of: IntType, a: u64, b: u64) -> u64 {
    let product = if of == IntType::U64 {
        (u128::from(a) * u128::from(b)) as i128
    } else {
        of.value(a) * of.value(b)
    };
    of.wrap(product >> of.bits())
}

/// The whole product of 16- or 32-bit values (`mul.wide`), in twice the width.
#[must_use]
#[inline]
pub fn mul_wide(of: IntType, a: u64, b: u64) -> u64 {
    (of.value(a) * of.value(b)) as u64 & (u64::MAX >> (64 - 2 * of.bits()))
}

/// `mul24`: the product of the low 24 bits, its low 32 bits or (`hi`) bits 16 to 47.
#[must_use]
#[inline]
pub fn mul24(signed: bool, hi: bool, a: u32, b: u32) -> u32 {
    let low = |x: u32| {
        if signed { i64::from((x << 8) as i32 >> 8) } else { i64::from(x & 0x00ff_ffff) }
    };
    let product = low(a) * low(b);
    if hi { (product >> 16) as u32 } else { product as u32 }
}

/// `add.sat.s32`.
#[must_use]
#[inline]
pub fn add_sat(a: u32, b: u32) -> u32 {
    (a as i32).saturating_add(b as i32) as u32
}

/// `sub.sat.s32`.
#[must_use]
#[inline]
pub fn sub_sat(a: u32, b: u32) -> u32 {
    (a as i32).saturating_sub(b as i32) as u32
}

/// `mad.hi.sat.s32`.
#[must_use]
#[inline]
pub fn mad_hi_sat(a: u32, b: u32, c: u32) -> u32 {
    add_sat(mul_hi(IntType::S32, a.into(), b.into()) as u32, c)
}

/// The quotient, towards zero. PTX leaves division by zero open: all ones, as the hardware's routine yields.
/// The one overflow (smallest / -1) wraps.
#[must_use]
#[inline]
pub fn div(of: IntType, a: u64, b: u64) -> u64 {
    let (a, b) = (of.value(a), of.value(b));
    if b == 0 { of.mask() } else { of.wrap(a / b) }
}

/// The remainder with the sign of the dividend. PTX leaves a zero divisor open: the dividend.
#[must_use]
#[inline]
pub fn rem(of: IntType, a: u64, b: u64) -> u64 {
    let (a, b) = (of.value(a), of.value(b));
    of.wrap(if b == 0 { a } else { a % b })
}

/// `c + |a - b|` (`sad`).
#[must_use]
#[inline]
pub fn sad(of: IntType, a: u64, b: u64, c: u64) -> u64 {
    of.wrap(of.value(c) + (of.value(a) - of.value(b)).abs())
}

/// The sum of two values and a carry of 0 or 1, and the carry out (`add.cc`, `addc`).
#[must_use]
#[inline]
pub fn add_carry(of: IntType, a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = u128::from(a & of.mask()) + u128::from(b & of.mask()) + u128::from(carry);
    (sum as u64 & of.mask(), sum >> of.bits() & 1 == 1)
}

/// `a - (b + borrow)` and the borrow out (`sub.cc`, `subc`).
/// PTX stores the borrow in the carry flag as it is, not inverted.
#[must_use]
#[inline]
pub fn sub_borrow(of: IntType, a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let difference = (a & of.mask()) as i128 - (b & of.mask()) as i128 - i128::from(borrow);
    (of.wrap(difference), difference < 0)
}

/// The position of the most significant bit that is not a copy of the sign, or -1; with `shift_amount`,
/// how far left it would have to move to the top (`bfind`).
#[must_use]
pub fn bfind(of: IntType, a: u64, shift_amount: bool) -> u32 {
    let value = of.value(a);
    let digits = if value < 0 { !value } else { value } as u64;
    if digits == 0 {
        return u32::MAX;
    }
    let top = of.bits() - 1;
    let position = 63 - digits.leading_zeros();
    if shift_amount { top - position } else { position }
}

/// Zeros above the first one in the low `bits` (32 or 64) bits (`clz`).
#[must_use]
#[inline]
pub fn clz(bits: u32, a: u64) -> u32 {
    (a << (64 - bits)).leading_zeros().min(bits)
}

/// The low `bits` (32 or 64) bits reversed (`brev`).
#[must_use]
#[inline]
pub fn brev(bits: u32, a: u64) -> u64 {
    a.reverse_bits() >> (64 - bits)
}

/// The position of the `offset`-th one (counted from 1) at or above `base`, or, for a negative offset,
/// at or below it; `u32::MAX` if there is none; offset 0 asks for `base` itself (`fns`).
#[must_use]
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let set = |position: &u32| *position < 32 && mask >> position & 1 == 1;
    let wanted = offset.unsigned_abs() as usize;
    let found = match offset {
        0 => Some(base).filter(set),
        1.. => (base..32).filter(set).nth(wanted - 1),
        _ => (0..=base.min(31)).rev().filter(set).nth(wanted - 1),
    };
    found.unwrap_or(u32::MAX)
}

/// The field of `length` bits from `position`, extended by its sign in signed types (`bfe`).
/// Both arguments are taken from their low 8 bits.
#[must_use]
pub fn bfe(of: IntType, a: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let top = of.bits() - 1;
    let bit = |at: u32| a >> at & 1 == 1;
    let sign = of.signed() && length != 0 && bit((position + length - 1).min(top));
    let field = if position > top { 0 } else { (a & of.mask()) >> position };
    let kept = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    // Above the value's own top the field reads as its sign.
    let available = of.bits().saturating_sub(position);
    let present = if available >= 64 { u64::MAX } else { (1 << available) - 1 };
    let filled = field & kept & present;
    let extension = if sign { !(kept & present) } else { 0 };
    (filled | extension) & of.mask()
}

/// `b` with the low `length` bits of `a` at `position`, of values of `bits` (32 or 64) bits (`bfi`).
#[must_use]
pub fn bfi(bits: u32, a: u64, b: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let width = u64::MAX >> (64 - bits);
    if position >= bits {
        return b & width;
    }
    let field = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let mask = field << position;
    (b & !mask | a << position & mask) & width
}

/// Ones in `width` bits from `position` (`bmsk`); `clamp` limits both arguments to 32, else they wrap at 32.
#[must_use]
pub fn bmsk(clamp: bool, position: u32, width: u32) -> u32 {
    let limit = |x: u32| if clamp { x.min(32) } else { x & 31 };
    let (position, width) = (limit(position), limit(width));
    (((1u64 << width) - 1) << position) as u32
}

/// The low `bits` bits of `a`, extended by zero or by their sign (`szext`);
/// `clamp` limits the count to 32, else it wraps at 32.
#[must_use]
pub fn szext(clamp: bool, signed: bool, a: u32, bits: u32) -> u32 {
    let bits = if clamp { bits.min(32) } else { bits & 31 };
    if bits == 0 {
        return 0;
    }
    let up = 32 - bits;
    if signed { ((a << up) as i32 >> up) as u32 } else { a << up >> up }
}

/// `a << amount`; amounts beyond the width give 0 (`shl`).
#[must_use]
#[inline]
pub fn shl(bits: u32, a: u64, amount: u32) -> u64 {
    if amount >= bits { 0 } else { a << amount & (u64::MAX >> (64 - bits)) }
}

/// `a >> amount`, filling with the sign of a signed type; amounts are limited to the width (`shr`).
#[must_use]
#[inline]
pub fn shr(of: IntType, a: u64, amount: u32) -> u64 {
    of.wrap(of.value(a) >> amount.min(of.bits()))
}

/// The upper word of `b:a` shifted left (`shf.l`); the amount is limited to 32 or wraps at 32.
#[must_use]
#[inline]
pub fn shf_left(clamp: bool, a: u32, b: u32, amount: u32) -> u32 {
    let amount = if clamp { amount.min(32) } else { amount & 31 };
    let joined = u64::from(b) << 32 | u64::from(a);
    (joined << amount >> 32) as u32
}

/// The lower word of `b:a` shifted right (`shf.r`); the amount is limited to 32 or wraps at 32.
#[must_use]
#[inline]
pub fn shf_right(clamp: bool, a: u32, b: u32, amount: u32) -> u32 {
    let amount = if clamp { amount.min(32) } else { amount & 31 };
    let joined = u64::from(b) << 32 | u64::from(a);
    (joined >> amount) as u32
}

/// The bitwise function whose truth table is `table`, indexed by the bits `abc` (`lop3`).
#[must_use]
#[inline]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut result = 0;
    for row in 0..8u32 {
        let pick = |x: u32, bit: u32| if row >> bit & 1 == 1 { x } else { !x };
        let selected = if table >> row & 1 == 1 { u32::MAX } else { 0 };
        result |= selected & pick(a, 2) & pick(b, 1) & pick(c, 0);
    }
    result
}

/// The modes of `prmt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX; the code below defines them")]
pub enum Permute {
    /// Four selectors of four bits; the top bit of each replicates the byte's sign.
    Bytes,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// Four bytes chosen from the eight of `b:a` (`prmt`).
#[must_use]
#[inline]
pub fn prmt(mode: Permute, a: u32, b: u32, selector: u32) -> u32 {
    let joined = u64::from(b) << 32 | u64::from(a);
    let byte = |index: u32| (joined >> (8 * (index & 7))) as u8;
    let s = selector & 3;
    let result: [u8; 4] = std::array::from_fn(|i| {
        let i = i as u32;
        match mode {
            Permute::Bytes => {
                let control = selector >> (4 * i) & 0xf;
                let chosen = byte(control);
                if control & 8 != 0 { ((chosen as i8) >> 7) as u8 } else { chosen }
            }
            Permute::F4e => byte(s + i),
            Permute::B4e => byte(s.wrapping_sub(i)),
            Permute::Rc8 => byte(s),
            Permute::Ecl => byte(s.max(i)),
            Permute::Ecr => byte(s.min(i)),
            Permute::Rc16 => byte((s & 1) * 2 + (i & 1)),
        }
    });
    u32::from_le_bytes(result)
}

/// `c` plus the products of four bytes (`dp4a`), each side signed or not; wraps.
#[must_use]
#[inline]
pub fn dp4a(a_signed: bool, b_signed: bool, a: u32, b: u32, c: u32) -> u32 {
    let part = |x: u32, signed: bool, i: u32| {
        let byte = (x >> (8 * i)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).fold(c, |sum, i| sum.wrapping_add((part(a, a_signed, i) * part(b, b_signed, i)) as u32))
}

/// `c` plus the products of the halves of `a` with the lower or (`hi`) upper two bytes of `b` (`dp2a`); wraps.
#[must_use]
#[inline]
pub fn dp2a(hi: bool, signs: (bool, bool), a: u32, b: u32, c: u32) -> u32 {
    let half = |i: u32| {
        let half = (a >> (16 * i)) as u16;
        if signs.0 { i32::from(half as i16) } else { i32::from(half) }
    };
    let byte = |i: u32| {
        let byte = (b >> (8 * (i + 2 * u32::from(hi)))) as u8;
        if signs.1 { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..2).fold(c, |sum, i| sum.wrapping_add(half(i).wrapping_mul(byte(i)) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn products_split_into_halves(a in any::<u64>(), b in any::<u64>()) {
            let whole = u128::from(a) * u128::from(b);
            prop_assert_eq!(mul_hi(IntType::U64, a, b), (whole >> 64) as u64);
            let whole = i128::from(a as i64) * i128::from(b as i64);
            prop_assert_eq!(mul_hi(IntType::S64, a, b), (whole >> 64) as u64);
            let (a, b) = (a & 0xffff_ffff, b & 0xffff_ffff);
            prop_assert_eq!(mul_wide(IntType::U32, a, b), a * b);
            let signed = i64::from(a as i32) * i64::from(b as i32);
            prop_assert_eq!(mul_wide(IntType::S32, a, b), signed as u64);
            prop_assert_eq!(mul_hi(IntType::S32, a, b), (signed >> 32) as u64 & 0xffff_ffff);
        }

        #[test]
        fn lop3_is_its_truth_table(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
            // The constants of the three arguments are 0xf0, 0xcc and 0xaa.
            prop_assert_eq!(lop3(a, b, c, 0xf0 & 0xcc & 0xaa), a & b & c);
            prop_assert_eq!(lop3(a, b, c, 0xf0 ^ 0xcc ^ 0xaa), a ^ b ^ c);
            prop_assert_eq!(lop3(a, b, c, 0xf0 & 0xcc | !0xf0 & 0xaa), a & b | !a & c);
            prop_assert_eq!(lop3(a, b, c, 0), 0);
        }

        #[test]
        fn carries_chain_to_wide_sums(a in any::<u64>(), b in any::<u64>()) {
            let (low, carry) = add_carry(IntType::U32, a & 0xffff_ffff, b & 0xffff_ffff, false);
            let (high, _) = add_carry(IntType::U32, a >> 32, b >> 32, carry);
            prop_assert_eq!(high << 32 | low, a.wrapping_add(b));
            let (low, borrow) = sub_borrow(IntType::U32, a & 0xffff_ffff, b & 0xffff_ffff, false);
            let (high, _) = sub_borrow(IntType::U32, a >> 32, b >> 32, borrow);
            prop_assert_eq!(high << 32 | low, a.wrapping_sub(b));
        }

        /// The loop by which the PTX manual defines `bfe`.
        #[test]
        fn fields_are_those_of_the_manuals_loop(a in any::<u64>(), pos in 0u32..80, len in 0u32..80) {
            for of in [IntType::U32, IntType::S32, IntType::U64, IntType::S64] {
                let top = of.bits() - 1;
                let bit = |x: u64, at: u32| x >> at & 1;
                let sign = if !of.signed() || len == 0 { 0 } else { bit(a, (pos + len - 1).min(top)) };
                let mut expected = 0;
                for i in 0..=top {
                    let from_a = i < len && pos + i <= top;
                    expected |= (if from_a { bit(a, pos + i) } else { sign }) << i;
                }
                prop_assert_eq!(bfe(of, a & of.mask(), pos, len), expected, "{:?}", of);
                let mut expected = !a & of.mask();
                for i in 0..len {
                    if pos + i <= top {
                        expected = expected & !(1 << (pos + i)) | bit(a, i.min(63)) << (pos + i);
                    }
                }
                if len <= 64 {
                    prop_assert_eq!(bfi(of.bits(), a, !a & of.mask(), pos, len), expected);
                }
            }
        }
    }

    #[test]
    fn permutations_select_bytes_of_both_words() {
        let (a, b) = (0x3322_1100, 0x7766_5544);
        assert_eq!(prmt(Permute::Bytes, a, b, 0x7531), 0x7755_3311);
        assert_eq!(prmt(Permute::Bytes, 0x0000_0080, 0, 0x0008), 0x8080_80ff);
        assert_eq!(prmt(Permute::F4e, a, b, 1), 0x4433_2211);
        assert_eq!(prmt(Permute::B4e, a, b, 1), 0x6677_0011);
        assert_eq!(prmt(Permute::Rc8, a, b, 2), 0x2222_2222);
        assert_eq!(prmt(Permute::Ecl, a, b, 2), 0x3322_2222);
        assert_eq!(prmt(Permute::Ecr, a, b, 1), 0x1111_1100);
        assert_eq!(prmt(Permute::Rc16, a, b, 1), 0x3322_3322);
    }

    #[test]
    fn shifts_are_limited_or_wrap_as_their_mode_says() {
        assert_eq!(shl(32, 1, 32), 0);
        assert_eq!(shr(IntType::S32, 0x8000_0000, 99), 0xffff_ffff);
        assert_eq!(shr(IntType::U32, 0x8000_0000, 99), 0);
        assert_eq!(shr(IntType::S16, 0x8000, 4), 0xf800);
        assert_eq!(shf_left(true, 0x8000_0000, 1, 1), 3);
        assert_eq!(shf_left(true, 7, 1, 40), 7);
        assert_eq!(shf_left(false, 7, 1, 32), 1);
        assert_eq!(shf_right(true, 7, 1, 32), 1);
        assert_eq!(shf_right(false, 2, 1, 1), 0x8000_0001);
    }

    #[test]
    fn bits_are_found_counted_and_reversed() {
        assert_eq!(bfind(IntType::U32, 0, false), u32::MAX);
        assert_eq!(bfind(IntType::U32, 0x100, false), 8);
        assert_eq!(bfind(IntType::U32, 0x100, true), 23);
        assert_eq!(bfind(IntType::S32, 0xffff_ffff, false), u32::MAX);
        assert_eq!(bfind(IntType::S32, 0xffff_fff0, false), 3);
        assert_eq!(bfind(IntType::S64, u64::MAX << 40, false), 39);
        assert_eq!(clz(32, 0), 32);
        assert_eq!(clz(32, 1), 31);
        assert_eq!(clz(64, 1), 63);
        assert_eq!(brev(32, 1), 0x8000_0000);
        assert_eq!(brev(64, 1), 1 << 63);
        assert_eq!(fns(0b1011_0000, 0, 2), 5);
        assert_eq!(fns(0b1011_0000, 6, -1), 5);
        assert_eq!(fns(0b1011_0000, 4, 0), 4);
        assert_eq!(fns(0b1011_0000, 0, 4), u32::MAX);
        assert_eq!(bmsk(true, 4, 8), 0xff0);
        assert_eq!(bmsk(true, 0, 99), u32::MAX);
        assert_eq!(bmsk(false, 33, 33), 2);
        assert_eq!(szext(true, true, 0x80, 8), 0xffff_ff80);
        assert_eq!(szext(false, false, 0xffff, 8), 0xff);
    }

    #[test]
    fn saturating_dot_and_division_keep_their_signs() {
        assert_eq!(add_sat(i32::MAX as u32, 1), i32::MAX as u32);
        assert_eq!(sub_sat(i32::MIN as u32, 1), i32::MIN as u32);
        assert_eq!(dp4a(true, true, 0xff02_0304, 0x0201_0101, 10), 17);
        assert_eq!(dp4a(false, true, 0xff00_0000, 0xff00_0000, 0), -255i32 as u32);
        assert_eq!(dp2a(false, (true, true), 0xffff_0002, 0x0000_0305, 0), 7);
        assert_eq!(dp2a(true, (false, false), 0x0001_0002, 0x0305_0000, 0), 13);
        assert_eq!(div(IntType::S32, 0x8000_0000, 0xffff_ffff), 0x8000_0000);
        assert_eq!(div(IntType::S32, -7i32 as u32 as u64, 2), -3i32 as u32 as u64);
        assert_eq!(rem(IntType::S32, -7i32 as u32 as u64, 2), -1i32 as u32 as u64);
        assert_eq!(div(IntType::U32, 5, 0), 0xffff_ffff);
        assert_eq!(sad(IntType::S32, 1, 4, 10), 13);
        assert_eq!(mul24(true, false, 0x00ff_ffff, 2), -2i32 as u32);
        assert_eq!(mul24(false, true, 0x00ff_ffff, 0x00ff_ffff), 0xffff_fe00);
    }
}
