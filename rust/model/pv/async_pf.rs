// SPDX-License-Identifier: GPL-2.0-only

//! Asynchronous page faults: the guest runs another task while the host fetches a page, and an interrupt
//! says when it is there. Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_ASYNC_PF_EN`, `_INT` and `_ACK`.

use super::{feature, Area, Gp, ENABLE};

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

/// Nothing is enabled.
pub const OFF: Enabled = Enabled {
    area: Area::Off,
    kernel_mode: false,
};

/// Pages of a vCPU that are waited for, at most.
pub const MAX_WAITING: usize = 64;

/// Decodes the enable register for a guest with `features`. Only the arrival by interrupt is there, so without
/// bit 3 nothing is on.
///
/// # Errors
///
/// [`Gp`] for a reserved bit.
pub const fn enabled(value: u64, features: u32) -> Result<Enabled, Gp> {
    let unknown = features & feature::ASYNC_PF_INT == 0 && value & BY_INTERRUPT != 0;
    if value & RESERVED != 0 || unknown {
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

/// Whether the guest may do something else while a page is fetched: it takes interrupts, and nothing is on its
/// way into it.
pub const fn may_put_off(enabled: &Enabled, interrupts: bool, event_pending: bool) -> bool {
    matches!(enabled.area, Area::At(_)) && interrupts && !event_pending
}

/// Whether the guest may be told of that, by a #PF: paging is on, and it has said that it can schedule at this
/// privilege level. If not, its vCPU waits for the page or an interrupt.
pub const fn may_tell(enabled: &Enabled, cpl: u8, paging: bool) -> bool {
    paging && (cpl != 0 || enabled.kernel_mode)
}

/// Bits of a token that hold the number of the vCPU.
const TOKEN_SHIFT: u32 = 12;

/// Returns the token for the page that is the `count`th to be waited for by vCPU `id`, below 4096. It is neither
/// 0 nor [`TOKEN_ALL`], and differs from the others that a guest can have at a time.
pub const fn token(count: u32, id: u32) -> u32 {
    const COUNTS: u32 = u32::MAX >> TOKEN_SHIFT;
    (1 + count % (COUNTS - 1)) << TOKEN_SHIFT | id & ((1 << TOKEN_SHIFT) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = feature::ASYNC_PF | feature::ASYNC_PF_INT;

    #[test]
    fn registers() {
        let on = enabled(0x1049, ALL).unwrap();
        assert_eq!(on.area, Area::At(0x1040));
        assert!(!on.kernel_mode && enabled(0x104b, ALL).unwrap().kernel_mode);
        assert_eq!(enabled(0x1041, ALL).unwrap().area, Area::Off);
        assert_eq!(enabled(0x1048, ALL).unwrap().area, Area::Off);
        assert_eq!(enabled(0x1049, feature::ASYNC_PF), Err(Gp));
        assert_eq!(
            enabled(0x1041, feature::ASYNC_PF).map(|on| on.area),
            Ok(Area::Off)
        );
        for bit in [2, 4, 5] {
            assert_eq!(enabled(9 | 1 << bit, ALL), Err(Gp));
        }
        assert_eq!((vector(0xf3), vector(0x100)), (Ok(0xf3), Err(Gp)));
    }

    #[test]
    fn when_a_fault_may_wait() {
        let user = enabled(9, ALL).unwrap();
        assert!(may_put_off(&user, true, false));
        assert!(!may_put_off(&user, false, false) && !may_put_off(&user, true, true));
        assert!(!may_put_off(&OFF, true, false));
    }

    #[test]
    fn when_the_guest_is_told() {
        let (user, all) = (enabled(9, ALL).unwrap(), enabled(0xb, ALL).unwrap());
        assert!(may_tell(&user, 3, true) && !may_tell(&user, 0, true));
        assert!(may_tell(&all, 0, true) && !may_tell(&all, 3, false));
    }

    #[test]
    fn tokens_differ() {
        let mut seen = std::collections::HashSet::new();
        for count in (0..200).chain(0xf_fff0..0xf_fffd) {
            for id in [0, 1, 4095] {
                let token = token(count, id);
                assert!(token != 0 && token != TOKEN_ALL && token & 0xfff == id);
                assert!(seen.insert(token), "count {count:#x}");
            }
        }
        assert_eq!(token(u32::MAX, 4095) & 0xfff, 4095);
    }
}
