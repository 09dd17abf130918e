// SPDX-License-Identifier: GPL-2.0-only

//! Arithmetic with flags. Operands and results have `size` bytes: 1, 2, 4 or 8; bits above are ignored
//! in operands and clear in results.

use super::addr::truncate;
use super::insn::Op;
use crate::model::x86::rflags::{AF, CF, OF, PF, SF, STATUS, ZF};

/// A result and all of RFLAGS' status bits, in their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flagged {
    /// The result.
    pub value: u64,
    /// The status flags; bits outside [`STATUS`] are clear.
    pub flags: u64,
}

const fn bits(size: u8) -> u32 {
    size as u32 * 8
}

const fn sign_bit(size: u8) -> u64 {
    1 << (bits(size).wrapping_sub(1) & 63)
}

/// `bit` if `condition` holds.
const fn when(condition: bool, bit: u64) -> u64 {
    if condition {
        bit
    } else {
        0
    }
}

/// PF, ZF and SF of a result.
fn result_flags(value: u64, size: u8) -> u64 {
    let even = (value as u8).count_ones() & 1 == 0;
    let value = truncate(value, size);
    when(even, PF) | when(value == 0, ZF) | when(value & sign_bit(size) != 0, SF)
}

/// `a` sign-extended from `size` bytes.
pub const fn sign_extend(a: u64, size: u8) -> u64 {
    let shift = 64u32.wrapping_sub(bits(size)) & 63;
    ((a << shift) as i64 >> shift) as u64
}

/// `a + b + carry`.
pub fn add(a: u64, b: u64, carry: bool, size: u8) -> Flagged {
    let r = a.wrapping_add(b).wrapping_add(u64::from(carry));
    let sign = sign_bit(size);
    let carries = a & b | (a | b) & !r;
    Flagged {
        value: truncate(r, size),
        flags: result_flags(r, size)
            | when(carries & sign != 0, CF)
            | (a ^ b ^ r) & AF
            | when((a ^ r) & (b ^ r) & sign != 0, OF),
    }
}

/// `a - b - borrow`.
pub fn sub(a: u64, b: u64, borrow: bool, size: u8) -> Flagged {
    let r = a.wrapping_sub(b).wrapping_sub(u64::from(borrow));
    let sign = sign_bit(size);
    let borrows = !a & b | (!a | b) & r;
    Flagged {
        value: truncate(r, size),
        flags: result_flags(r, size)
            | when(borrows & sign != 0, CF)
            | (a ^ b ^ r) & AF
            | when((a ^ b) & (a ^ r) & sign != 0, OF),
    }
}

/// The flags of a logical operation with result `value`.
pub fn logic(value: u64, size: u8) -> Flagged {
    Flagged {
        value: truncate(value, size),
        flags: result_flags(value, size),
    }
}

/// One of the eight operations with two operands, or TEST; `flags` are the old ones.
/// CMP and TEST return a value too, which nobody stores.
pub fn binary(op: Op, a: u64, b: u64, flags: u64, size: u8) -> Flagged {
    let carry = flags & CF != 0;
    match op {
        Op::Add => add(a, b, false, size),
        Op::Adc => add(a, b, carry, size),
        Op::Sub | Op::Cmp => sub(a, b, false, size),
        Op::Sbb => sub(a, b, carry, size),
        Op::Or => logic(a | b, size),
        Op::Xor => logic(a ^ b, size),
        _ => logic(a & b, size),
    }
}

/// NOT, NEG, INC or DEC; `flags` are the old ones.
pub fn unary(op: Op, a: u64, flags: u64, size: u8) -> Flagged {
    let keep_carry = |r: Flagged| Flagged {
        value: r.value,
        flags: r.flags & !CF | flags & CF,
    };
    match op {
        Op::Neg => sub(0, a, false, size),
        Op::Inc => keep_carry(add(a, 1, false, size)),
        Op::Dec => keep_carry(sub(a, 1, false, size)),
        _ => Flagged {
            value: truncate(!a, size),
            flags: flags & STATUS,
        },
    }
}

/// A shift count as the processor masks it.
const fn masked(count: u64, size: u8) -> u32 {
    (count & if size == 8 { 63 } else { 31 }) as u32
}

/// A rotate or shift of group 2; `flags` are the old ones.
pub fn shift(op: Op, a: u64, count: u64, flags: u64, size: u8) -> Flagged {
    let a = truncate(a, size);
    let count = masked(count, size);
    if count == 0 {
        return Flagged {
            value: a,
            flags: flags & STATUS,
        };
    }
    match op {
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr => rotate(op, a, count, flags, size),
        _ => plain_shift(op, a, count, size),
    }
}

/// SHL, SHR, SAR; `count` is 1 to 63.
fn plain_shift(op: Op, a: u64, count: u32, size: u8) -> Flagged {
    let before = count.wrapping_sub(1);
    // The operand shifted by one less: the bit that falls out next becomes CF.
    let (value, carry, overflow) = match op {
        Op::Shl => {
            let out = a.wrapping_shl(before);
            let carry = out & sign_bit(size) != 0;
            let value = out << 1;
            (value, carry, (value & sign_bit(size) != 0) != carry)
        }
        Op::Shr => {
            let out = a.wrapping_shr(before);
            (out >> 1, out & 1 != 0, a & sign_bit(size) != 0)
        }
        _ => {
            let out = (sign_extend(a, size) as i64).wrapping_shr(before);
            ((out >> 1) as u64, out & 1 != 0, false)
        }
    };
    Flagged {
        value: truncate(value, size),
        flags: result_flags(value, size) | when(carry, CF) | when(overflow, OF),
    }
}

/// Rotates; `count` is 1 to 63. Only CF and OF change.
fn rotate(op: Op, a: u64, count: u32, flags: u64, size: u8) -> Flagged {
    let sign = sign_bit(size);
    let mut value = a;
    let mut carry = flags & CF != 0;
    for _ in 0..count {
        let out;
        (value, out) = match op {
            Op::Rol | Op::Rcl => (value << 1, value & sign != 0),
            _ => (value >> 1, value & 1 != 0),
        };
        value = truncate(value, size);
        value |= match op {
            Op::Rol => u64::from(out),
            Op::Ror => when(out, sign),
            Op::Rcl => u64::from(carry),
            _ => when(carry, sign),
        };
        carry = out;
    }
    let top = value & sign != 0;
    let overflow = match op {
        Op::Rol | Op::Rcl => top != carry,
        _ => top != (value & sign >> 1 != 0),
    };
    Flagged {
        value,
        flags: flags & (STATUS & !(CF | OF)) | when(carry, CF) | when(overflow, OF),
    }
}

/// SHLD and SHRD: shifts `a` and fills from `b`. With a 16-bit operand and a count above 16 the
/// architecture leaves everything undefined; here nothing changes.
pub fn double_shift(op: Op, a: u64, b: u64, count: u64, flags: u64, size: u8) -> Flagged {
    let (a, b) = (truncate(a, size), truncate(b, size));
    let count = masked(count, size);
    let width = bits(size);
    if count == 0 || count > width {
        return Flagged {
            value: a,
            flags: flags & STATUS,
        };
    }
    let rest = width.wrapping_sub(count);
    let before = count.wrapping_sub(1);
    let (value, carry) = match op {
        // `before` and then one more, as a shift by all 64 bits does not exist.
        Op::Shld => (
            a.wrapping_shl(before) << 1 | b.wrapping_shr(rest),
            a.wrapping_shr(rest) & 1 != 0,
        ),
        _ => (
            a.wrapping_shr(before) >> 1 | b.wrapping_shl(rest),
            a.wrapping_shr(before) & 1 != 0,
        ),
    };
    let overflow = (value ^ a) & sign_bit(size) != 0;
    Flagged {
        value: truncate(value, size),
        flags: result_flags(value, size) | when(carry, CF) | when(overflow, OF),
    }
}

/// BT, BTS, BTR, BTC on bit `n` of `a`, which is below the operand's width. Only CF changes.
pub fn bit_test(op: Op, a: u64, n: u64, flags: u64, size: u8) -> Flagged {
    let bit = 1u64.wrapping_shl(n as u32);
    let value = match op {
        Op::Bts => a | bit,
        Op::Btr => a & !bit,
        Op::Btc => a ^ bit,
        _ => a,
    };
    Flagged {
        value: truncate(value, size),
        flags: flags & (STATUS & !CF) | when(a & bit != 0, CF),
    }
}

/// Whether condition `cond`, as Jcc, SETcc and CMOVcc encode it, holds (SDM vol. 1, appendix B).
pub const fn condition(cond: u8, flags: u64) -> bool {
    let less = (flags & SF != 0) != (flags & OF != 0);
    let holds = match cond >> 1 & 7 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => less,
        _ => less || flags & ZF != 0,
    };
    // Odd conditions are the negations.
    holds != (cond & 1 != 0)
}
