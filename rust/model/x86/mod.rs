// SPDX-License-Identifier: GPL-2.0-only

//! Architectural constants and small types of x86: definitions, no logic.
//!
//! Register bits sit in one module per register (`cr0::PE`), exception vectors in [`vector`], MSR
//! indices in [`msr`]. Names are the manuals'.

pub mod bits;
pub mod exception;
pub mod msr;
pub mod reg;
pub mod segment;

pub use bits::{apic_base, cr0, cr3, cr4, dr6, dr7, efer, misc_enable, pf, rflags, xcr0};
pub use exception::{vector, Exception};
pub use reg::Gpr;
pub use segment::{ar, SegReg, Segment};

/// Whether `addr` is canonical for linear addresses of `width` bits (48 with 4-level paging, 57 with
/// 5-level; SDM vol. 1, 3.3.7.1): bits 63 to `width - 1` are all equal.
pub const fn is_canonical(addr: u64, width: u32) -> bool {
    let shift = 64u32.saturating_sub(width) & 63;
    ((addr << shift) as i64 >> shift) as u64 == addr
}

/// The width of linear addresses in 64-bit mode, by CR4: 48, or 57 with 5-level paging.
pub const fn linear_width(cr4: u64) -> u32 {
    if cr4 & cr4::LA57 != 0 {
        57
    } else {
        48
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical() {
        assert!(is_canonical(0x0000_7fff_ffff_ffff, 48));
        assert!(!is_canonical(0x0000_8000_0000_0000, 48));
        assert!(is_canonical(0xffff_8000_0000_0000, 48));
        assert!(!is_canonical(0xffff_7fff_ffff_ffff, 48));
        assert!(is_canonical(0x0000_8000_0000_0000, 57));
        assert!(!is_canonical(0x0100_0000_0000_0000, 57));
    }
}
