// SPDX-License-Identifier: GPL-2.0-only

//! The MSR bitmap of VMX, and which registers a guest may access without an exit.

use crate::model::x86::msr;

/// Bytes of an MSR bitmap.
pub const MSR_BITMAP_SIZE: usize = 4096;

/// MSRs in each of the two ranges that a bitmap covers.
const RANGE: u32 = 0x2000;

/// The first MSR of the upper range.
const HIGH_BASE: u32 = 0xc000_0000;

/// Offset of the upper range's bits from the lower one's, in bytes.
const HIGH_OFFSET: usize = 1024;

/// Offset of the write bits from the read bits, in bytes.
const WRITE_OFFSET: usize = 2048;

/// Kinds of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    const fn reads(self) -> bool {
        matches!(self, Access::Read | Access::ReadWrite)
    }

    const fn writes(self) -> bool {
        matches!(self, Access::Write | Access::ReadWrite)
    }
}

/// Lets the guest access `msr` without an exit. MSRs outside the two ranges always exit.
///
/// ```
/// use vireo_model::model::msr::{allow, is_intercepted, Access, MSR_BITMAP_SIZE};
///
/// let mut bitmap = [0xff; MSR_BITMAP_SIZE];
/// allow(&mut bitmap, 0xc000_0100, Access::Read);
/// assert!(!is_intercepted(&bitmap, 0xc000_0100, Access::Read));
/// assert!(is_intercepted(&bitmap, 0xc000_0100, Access::Write));
/// ```
pub fn allow(bitmap: &mut [u8; MSR_BITMAP_SIZE], msr: u32, access: Access) {
    change(bitmap, msr, access, |byte, mask| *byte &= !mask);
}

/// Makes accesses to `msr` exit.
pub fn intercept(bitmap: &mut [u8; MSR_BITMAP_SIZE], msr: u32, access: Access) {
    change(bitmap, msr, access, |byte, mask| *byte |= mask);
}

/// Says whether any of the accesses named exits.
pub fn is_intercepted(bitmap: &[u8; MSR_BITMAP_SIZE], msr: u32, access: Access) -> bool {
    let Some((offset, mask)) = place(msr) else {
        return true;
    };
    let (reads, writes) = bitmap.split_at(WRITE_OFFSET);
    let set = |bits: &[u8]| bits.get(offset).is_none_or(|byte| byte & mask != 0);
    access.reads() && set(reads) || access.writes() && set(writes)
}

fn change(
    bitmap: &mut [u8; MSR_BITMAP_SIZE],
    msr: u32,
    access: Access,
    apply: impl Fn(&mut u8, u8),
) {
    let Some((offset, mask)) = place(msr) else {
        return;
    };
    let (reads, writes) = bitmap.split_at_mut(WRITE_OFFSET);
    for (wanted, bits) in [(access.reads(), reads), (access.writes(), writes)] {
        if let (true, Some(byte)) = (wanted, bits.get_mut(offset)) {
            apply(byte, mask);
        }
    }
}

/// Returns the byte, below [`WRITE_OFFSET`], and the bit of an MSR's reads (SDM vol. 3 section 25.6.9).
const fn place(msr: u32) -> Option<(usize, u8)> {
    let (number, base) = if msr < RANGE {
        (msr, 0)
    } else if msr >= HIGH_BASE && msr - HIGH_BASE < RANGE {
        (msr - HIGH_BASE, HIGH_OFFSET)
    } else {
        return None;
    };
    Some((base + (number / 8) as usize, 1 << (number % 8)))
}

/// What decides, beyond the basics, which MSRs a guest may access directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direct {
    /// The world switch saves the SYSCALL MSRs as the guest left them.
    pub syscall: bool,
    /// The guest has RDTSCP or RDPID, and the world switch saves IA32_TSC_AUX as the guest left it.
    pub tsc_aux: bool,
    /// The guest has IA32_SPEC_CTRL, and the world switch saves it as the guest left it.
    pub spec_ctrl: bool,
    /// The guest has IBPB.
    pub pred_cmd: bool,
    /// The guest has the L1D flush command.
    pub flush_cmd: bool,
}

/// MSRs that VM entries and exits, or the fields of the VMCS, switch by themselves.
///
/// IA32_TIME_STAMP_COUNTER may be read because the processor adds the VMCS's TSC offset to it (SDM vol. 3
/// section 26.3). IA32_KERNEL_GS_BASE is no VMCS field, but nothing in the kernel uses it while a vCPU is
/// loaded, and the world switch has to exchange it anyway.
const ALWAYS: [(u32, Access); 7] = [
    (msr::IA32_TIME_STAMP_COUNTER, Access::Read),
    (msr::IA32_FS_BASE, Access::ReadWrite),
    (msr::IA32_GS_BASE, Access::ReadWrite),
    (msr::IA32_KERNEL_GS_BASE, Access::ReadWrite),
    (msr::IA32_SYSENTER_CS, Access::ReadWrite),
    (msr::IA32_SYSENTER_ESP, Access::ReadWrite),
    (msr::IA32_SYSENTER_EIP, Access::ReadWrite),
];

const SYSCALL: [(u32, Access); 4] = [
    (msr::IA32_STAR, Access::ReadWrite),
    (msr::IA32_LSTAR, Access::ReadWrite),
    (msr::IA32_CSTAR, Access::ReadWrite),
    (msr::IA32_FMASK, Access::ReadWrite),
];

const TSC_AUX: [(u32, Access); 1] = [(msr::IA32_TSC_AUX, Access::ReadWrite)];
const SPEC_CTRL: [(u32, Access); 1] = [(msr::IA32_SPEC_CTRL, Access::ReadWrite)];
const PRED_CMD: [(u32, Access); 1] = [(msr::IA32_PRED_CMD, Access::Write)];
const FLUSH_CMD: [(u32, Access); 1] = [(msr::IA32_FLUSH_CMD, Access::Write)];

/// Returns the MSRs that the guest may access without an exit.
pub fn direct(which: Direct) -> impl Iterator<Item = (u32, Access)> {
    let when = |on: bool, list: &'static [(u32, Access)]| if on { list } else { &[] };
    ALWAYS
        .iter()
        .chain(when(which.syscall, &SYSCALL))
        .chain(when(which.tsc_aux, &TSC_AUX))
        .chain(when(which.spec_ctrl, &SPEC_CTRL))
        .chain(when(which.pred_cmd, &PRED_CMD))
        .chain(when(which.flush_cmd, &FLUSH_CMD))
        .copied()
}

/// The first MSR of the x2APIC: its registers follow each other.
const X2APIC: u32 = crate::model::apic::X2APIC_MSR_FIRST;

/// Registers of the x2APIC that the guest may read without an exit, as first and last: those that exist
/// whatever the guest's CPUID offers, and whose copy in the virtual-APIC page is right at any time. The ICR's
/// two halves lie elsewhere in the page, and the timer's current count is nowhere.
const X2APIC_READS: [(u32, u32); 9] = [
    // ID and version.
    (0x02, 0x03),
    // TPR.
    (0x08, 0x08),
    // LDR.
    (0x0d, 0x0d),
    // SVR.
    (0x0f, 0x0f),
    // ISR, TMR and IRR.
    (0x10, 0x27),
    // ESR.
    (0x28, 0x28),
    // The LVT, but for corrected machine checks.
    (0x32, 0x37),
    // The timer's initial count.
    (0x38, 0x38),
    // The timer's divider.
    (0x3e, 0x3e),
];

/// The TPR, whose writes the processor virtualises always.
const X2APIC_TPR: u32 = X2APIC + 0x08;

/// Registers that it keeps or acts upon where it delivers the interrupts: PPR, EOI and SELF IPI.
const X2APIC_DELIVERY: [(u32, Access); 3] = [
    (X2APIC + 0x0a, Access::Read),
    (X2APIC + 0x0b, Access::Write),
    (X2APIC + 0x3f, Access::Write),
];

/// Returns the MSRs of the x2APIC that a guest may access without an exit where the processor virtualises
/// them, and `delivers` the interrupts or not (SDM vol. 3, "Virtualizing MSR-Based APIC Accesses").
///
/// Reads of others exit, because the processor would serve any from the virtual-APIC page, also where there is
/// no register or none that can be read.
pub fn virtual_x2apic(delivers: bool) -> impl Iterator<Item = (u32, Access)> {
    let reads = X2APIC_READS
        .into_iter()
        .flat_map(|(first, last)| first..=last)
        .map(|reg| (X2APIC + reg, Access::Read));
    let delivery = X2APIC_DELIVERY.into_iter().filter(move |_| delivers);
    reads.chain([(X2APIC_TPR, Access::Write)]).chain(delivery)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_x2apic_has_what_exists_and_is_right() {
        for delivers in [false, true] {
            let mut bitmap = [0xff; MSR_BITMAP_SIZE];
            for (index, access) in virtual_x2apic(delivers) {
                allow(&mut bitmap, index, access);
            }
            let exits = |reg: u32, access| is_intercepted(&bitmap, 0x800 + reg, access);
            for reg in 0..0x100 {
                let written = reg == 0x08 || delivers && (reg == 0x0b || reg == 0x3f);
                assert_eq!(exits(reg, Access::Write), !written, "{reg:#x}");
                let exists = matches!(reg, 2 | 3 | 8 | 0x0d | 0x0f..=0x28 | 0x32..=0x38 | 0x3e);
                let read = exists || delivers && reg == 0x0a;
                assert_eq!(exits(reg, Access::Read), !read, "{reg:#x}");
            }
        }
    }

    #[test]
    fn layout_of_the_manual() {
        let mut bitmap = [0u8; MSR_BITMAP_SIZE];
        intercept(&mut bitmap, 0, Access::Read);
        assert_eq!(bitmap[0], 1, "read bitmap for low MSRs starts at 0");
        intercept(&mut bitmap, 0x1fff, Access::Read);
        assert_eq!(bitmap[1023], 0x80);
        intercept(&mut bitmap, 0xc000_0000, Access::Read);
        assert_eq!(bitmap[1024], 1, "read bitmap for high MSRs at 1024");
        intercept(&mut bitmap, 0xc000_1fff, Access::Read);
        assert_eq!(bitmap[2047], 0x80);
        intercept(&mut bitmap, 9, Access::Write);
        assert_eq!(bitmap[2049], 2, "write bitmap for low MSRs at 2048");
        intercept(&mut bitmap, 0xc000_0081, Access::Write);
        assert_eq!(bitmap[3072 + 16], 2, "write bitmap for high MSRs at 3072");
        assert_eq!(bitmap.iter().map(|b| b.count_ones()).sum::<u32>(), 6);
    }

    #[test]
    fn allow_and_intercept_are_inverse() {
        let mut bitmap = [0xff; MSR_BITMAP_SIZE];
        for (msr, access) in direct(Direct {
            syscall: true,
            tsc_aux: true,
            ..Direct::default()
        }) {
            assert!(is_intercepted(&bitmap, msr, access));
            allow(&mut bitmap, msr, access);
            assert!(!is_intercepted(&bitmap, msr, access));
        }
        assert!(is_intercepted(&bitmap, 0x10, Access::Write));
        assert!(is_intercepted(&bitmap, 0x10, Access::ReadWrite));
        assert!(is_intercepted(&bitmap, 0x48, Access::Read), "not asked for");
        allow(&mut bitmap, 0x4000_0000, Access::ReadWrite);
        assert!(
            is_intercepted(&bitmap, 0x4000_0000, Access::Read),
            "outside both ranges"
        );
        allow(&mut bitmap, 0xc000_2000, Access::ReadWrite);
        assert!(is_intercepted(&bitmap, 0xc000_2000, Access::Read));
        allow(&mut bitmap, 0x2000, Access::ReadWrite);
        let zeros: u32 = bitmap.iter().map(|b| b.count_zeros()).sum();
        assert_eq!(zeros, 1 + 6 * 2 + 4 * 2 + 2);
    }
}
