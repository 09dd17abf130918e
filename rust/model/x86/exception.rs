// SPDX-License-Identifier: GPL-2.0-only

//! Exceptions: their vectors, error codes and payloads (SDM vol. 3, ch. 6).

use super::pf;

/// Exception vectors.
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// BOUND range exceeded.
    pub const BR: u8 = 5;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// Device not available.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack-segment fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 floating-point error.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// SIMD floating-point exception.
    pub const XM: u8 = 19;
    /// Virtualization exception.
    pub const VE: u8 = 20;
    /// Control protection.
    pub const CP: u8 = 21;
    /// Hypervisor injection (AMD).
    pub const HV: u8 = 28;
    /// VMM communication (AMD).
    pub const VC: u8 = 29;
    /// Security exception (AMD).
    pub const SX: u8 = 30;

    /// The lowest vector that is not reserved for exceptions.
    pub const FIRST_INTERRUPT: u8 = 32;

    /// The vectors that push an error code outside real mode, as a bit mask.
    pub const WITH_ERROR_CODE: u32 = (1 << DF)
        | (1 << TS)
        | (1 << NP)
        | (1 << SS)
        | (1 << GP)
        | (1 << PF)
        | (1 << AC)
        | (1 << CP)
        | (1 << VC)
        | (1 << SX);

    /// Whether an exception with this vector pushes an error code.
    pub const fn has_error_code(vector: u8) -> bool {
        vector < 32 && WITH_ERROR_CODE & (1 << (vector & 31)) != 0
    }
}

/// An exception to be delivered to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector, below 32.
    pub vector: u8,
    /// The error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// What the exception leaves in another register: CR2 for #PF, the new DR6 bits for #DB.
    pub payload: Option<u64>,
}

impl Exception {
    /// An exception without error code or payload.
    pub const fn new(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            payload: None,
        }
    }

    /// An exception with an error code.
    pub const fn with_code(vector: u8, error_code: u32) -> Self {
        Self {
            vector,
            error_code: Some(error_code),
            payload: None,
        }
    }

    /// Divide error.
    pub const fn de() -> Self {
        Self::new(vector::DE)
    }

    /// Debug exception with the bits to set in DR6.
    pub const fn db(dr6_bits: u64) -> Self {
        Self {
            vector: vector::DB,
            error_code: None,
            payload: Some(dr6_bits),
        }
    }

    /// Invalid opcode.
    pub const fn ud() -> Self {
        Self::new(vector::UD)
    }

    /// Device not available.
    pub const fn nm() -> Self {
        Self::new(vector::NM)
    }

    /// General protection with the error code.
    pub const fn gp(error_code: u32) -> Self {
        Self::with_code(vector::GP, error_code)
    }

    /// Stack-segment fault with the error code.
    pub const fn ss(error_code: u32) -> Self {
        Self::with_code(vector::SS, error_code)
    }

    /// Alignment check; its error code is always 0.
    pub const fn ac() -> Self {
        Self::with_code(vector::AC, 0)
    }

    /// Page fault at linear address `gva`; `error_code` is made of the bits in [`pf`].
    pub const fn page_fault(gva: u64, error_code: u32) -> Self {
        Self {
            vector: vector::PF,
            error_code: Some(error_code),
            payload: Some(gva),
        }
    }

    /// Whether this is a page fault for a page that is present.
    pub const fn is_protection_fault(&self) -> bool {
        match self.error_code {
            Some(code) => self.vector == vector::PF && code & pf::P != 0,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes() {
        assert!(vector::has_error_code(vector::GP));
        assert!(vector::has_error_code(vector::AC));
        assert!(!vector::has_error_code(vector::UD));
        assert!(!vector::has_error_code(vector::MC));
        assert!(!vector::has_error_code(13 + 32));
        assert_eq!(Exception::gp(8).error_code, Some(8));
        assert!(Exception::page_fault(0x1000, pf::P | pf::W).is_protection_fault());
        assert!(!Exception::page_fault(0x1000, pf::W).is_protection_fault());
    }
}
