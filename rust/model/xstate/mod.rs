// SPDX-License-Identifier: GPL-2.0-only

//! Extended processor state: XCR0 and IA32_XSS rules, the layout of XSAVE areas, and the checks on the
//! image that `KVM_SET_XSAVE` brings (SDM vol. 1 chapter 13).

mod image;
mod layout;
mod xcr0;

pub use image::{check_standard, Header, HEADER_OFFSET, HEADER_SIZE, MXCSR_OFFSET};
pub(crate) use layout::component_bit;
pub use layout::{Component, Layout, COMPONENTS, LEGACY_SIZE, MIN_AREA};
pub use xcr0::{xcr0_valid, xsetbv, XsetbvFault};

/// Component bits of XCR0 and IA32_XSS (SDM vol. 1 section 13.1), and the groups they come in.
pub mod bit {
    pub use crate::model::x86::xcr0::*;

    /// The MPX components, which XCR0 enables together.
    pub const MPX: u64 = BNDREGS | BNDCSR;
    /// The AMX components, which XCR0 enables together.
    pub const XTILE: u64 = TILECFG | TILEDATA;
    /// The components of the legacy region.
    pub const LEGACY: u64 = X87 | SSE;
    /// The components that the CET features use (IA32_XSS).
    pub const CET: u64 = CET_U | CET_S;
}
