// SPDX-License-Identifier: GPL-2.0-only

//! Asynchronous page faults: the guest runs another task while the host fetches a page, and an interrupt
//! says when it is there. Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_ASYNC_PF_EN`, `_INT` and `_ACK`.

use super::{Area, Gp, ENABLE};

/// Bytes of the area.
pub const BYTES: usize = 64;
/// Offset of the flags, 4 bytes: [`PAGE_NOT_PRESENT`] or 0.
pub const FLAGS_OFFSET: u64 = 0;
/// Offset of the token of a page that has come, 4 bytes; the guest writes 0 when it has taken it.
pub const TOKEN_OFFSET: u64 = 4;
/// The reason of a #PF that means "wait".
pub const PAGE_NOT_PRESENT: u32 = 1;
/// The token that wakes all tasks which wait.
pub const TOKEN_ALL: u32 = u32::MAX;

/// Bit 1: faults of kernel mode may wait, too.
const SEND_ALWAYS: u64 = 1 << 1;
/// Bit 3: the arrival of a page is told by an interrupt.
const BY_INTERRUPT: u64 = 1 << 3;
/// Bits 5:4, and bit 2 that nested guests would need.
const RESERVED: u64 = 0b11_0100;
/// Bits 5:0 are flags; the area is aligned to 64 bytes.
const FLAGS: u64 = BYTES as u64 - 1;
/// Bits of the vector register that are not reserved.
const VECTOR: u64 = 0xff;

/// What the guest has enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// Where the area is.
    pub area: Area,
    /// Faults at privilege level 0 may be made asynchronous.
    pub kernel_mode: bool,
}

/// Decodes the enable register. Only the arrival by interrupt is there, so without bit 3 nothing is on.
///
/// # Errors
///
/// [`Gp`] for a reserved bit.
pub const fn enabled(value: u64) -> Result<Enabled, Gp> {
    if value & RESERVED != 0 {
        return Err(Gp);
    }
    let on = value & ENABLE != 0 && value & BY_INTERRUPT != 0;
    Ok(Enabled {
        area: if on {
            Area::At(value & !FLAGS)
        } else {
            Area::Off
        },
        kernel_mode: value & SEND_ALWAYS != 0,
    })
}

/// Decodes the vector register.
///
/// # Errors
///
/// [`Gp`] for a reserved bit.
pub const fn vector(value: u64) -> Result<u8, Gp> {
    if value & !VECTOR != 0 {
        return Err(Gp);
    }
    Ok(value as u8)
}

/// Whether a fault may be made asynchronous: the guest can schedule, and it takes interrupts.
pub const fn may_wait(
    enabled: &Enabled,
    cpl: u8,
    interrupts_enabled: bool,
    event_pending: bool,
) -> bool {
    matches!(enabled.area, Area::At(_))
        && interrupts_enabled
        && !event_pending
        && (cpl != 0 || enabled.kernel_mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers() {
        let on = enabled(0x1049).unwrap();
        assert_eq!(on.area, Area::At(0x1040));
        assert!(!on.kernel_mode && enabled(0x104b).unwrap().kernel_mode);
        assert_eq!(enabled(0x1041).unwrap().area, Area::Off);
        assert_eq!(enabled(0x1048).unwrap().area, Area::Off);
        for bit in [2, 4, 5] {
            assert_eq!(enabled(9 | 1 << bit), Err(Gp));
        }
        assert_eq!((vector(0xf3), vector(0x100)), (Ok(0xf3), Err(Gp)));
    }

    #[test]
    fn when_a_fault_may_wait() {
        let user = enabled(9).unwrap();
        let all = enabled(0xb).unwrap();
        assert!(may_wait(&user, 3, true, false) && !may_wait(&user, 0, true, false));
        assert!(may_wait(&all, 0, true, false));
        assert!(!may_wait(&all, 3, false, false) && !may_wait(&all, 3, true, true));
        assert!(!may_wait(&enabled(0).unwrap(), 3, true, false));
    }
}
