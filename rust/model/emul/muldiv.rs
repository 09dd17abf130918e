// SPDX-License-Identifier: GPL-2.0-only

//! Multiplication and division. Operands have `size` bytes: 1, 2, 4 or 8.

use super::addr::truncate;
use super::alu::sign_extend;

/// A product's two halves, and whether the high one carries information (CF and OF).
pub(super) struct Product {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) overflow: bool,
}

/// The unsigned product.
pub(super) fn mul(a: u64, b: u64, size: u8) -> Product {
    let wide = u128::from(truncate(a, size)).wrapping_mul(u128::from(truncate(b, size)));
    let product = halves(wide, size);
    Product {
        overflow: product.high != 0,
        ..product
    }
}

/// The signed product.
pub(super) fn imul(a: u64, b: u64, size: u8) -> Product {
    let (a, b) = (sign_extend(a, size) as i64, sign_extend(b, size) as i64);
    let wide = i128::from(a).wrapping_mul(i128::from(b));
    let product = halves(wide as u128, size);
    let fits = i128::from(sign_extend(product.low, size) as i64) == wide;
    Product {
        overflow: !fits,
        ..product
    }
}

fn halves(wide: u128, size: u8) -> Product {
    Product {
        low: truncate(wide as u64, size),
        high: truncate(wide.wrapping_shr(u32::from(size) * 8) as u64, size),
        overflow: false,
    }
}

/// Quotient and remainder of the unsigned `high:low / divisor`, or `None` for #DE.
///
/// The kernel has no 128-bit division, so this one is by hand: one round per bit.
pub(super) fn div(high: u64, low: u64, divisor: u64, size: u8) -> Option<(u64, u64)> {
    let divisor = truncate(divisor, size);
    let (mut rest, low) = (truncate(high, size), truncate(low, size));
    // This includes division by zero.
    if rest >= divisor {
        return None;
    }
    let mut quotient = 0u64;
    for bit in (0..u32::from(size) * 8).rev() {
        let out = rest >> 63;
        rest = rest << 1 | low.wrapping_shr(bit) & 1;
        quotient <<= 1;
        if out != 0 || rest >= divisor {
            rest = rest.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    Some((quotient, rest))
}

/// Quotient and remainder of the signed `high:low / divisor`, or `None` for #DE.
pub(super) fn idiv(high: u64, low: u64, divisor: u64, size: u8) -> Option<(u64, u64)> {
    let negative = sign_extend(high, size) >> 63 != 0;
    let divisor = sign_extend(divisor, size);
    let divisor_negative = divisor >> 63 != 0;
    let (high, low) = if negative {
        negate(high, low, size)
    } else {
        (high, low)
    };
    let magnitude = if divisor_negative {
        divisor.wrapping_neg()
    } else {
        divisor
    };
    let (quotient, rest) = div(high, low, magnitude, size)?;
    let quotient_negative = negative != divisor_negative;
    let limit = 1u64 << ((u32::from(size) * 8).wrapping_sub(1) & 63);
    if quotient > limit || quotient == limit && !quotient_negative {
        return None;
    }
    let signed = |value: u64, negative: bool| {
        let value = if negative {
            value.wrapping_neg()
        } else {
            value
        };
        truncate(value, size)
    };
    Some((signed(quotient, quotient_negative), signed(rest, negative)))
}

/// The two's complement of `high:low`.
fn negate(high: u64, low: u64, size: u8) -> (u64, u64) {
    let low = truncate(low.wrapping_neg(), size);
    let borrow = u64::from(low != 0);
    (
        truncate((!high).wrapping_add(1).wrapping_sub(borrow), size),
        low,
    )
}
