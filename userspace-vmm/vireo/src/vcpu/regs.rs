// SPDX-License-Identifier: Apache-2.0

//! The state in which a kernel expects its first CPU.

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, Msrs};
use kvm_ioctls::VcpuFd;

use crate::boot::long_mode::{CODE_SELECTOR, DATA_SELECTOR, GDT_LIMIT, TASK_SELECTOR};
use crate::boot::Entry;
use crate::error::{Error, Result};
use crate::layout::{
    BOOT_STACK_ADDR, GDT_ADDR, IDT_ADDR, PML4_ADDR, PVH_START_INFO_ADDR, ZERO_PAGE_ADDR,
};

/// RFLAGS: the bit that is always one.
const RFLAGS_FIXED: u64 = 1 << 1;
/// CR0: protection enable.
const CR0_PE: u64 = 1 << 0;
/// CR0: extension type, always one.
const CR0_ET: u64 = 1 << 4;
/// CR0: paging.
const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enable and active.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The x87 control word after FNINIT and the default MXCSR: all exceptions masked.
const FCW_DEFAULT: u16 = 0x37f;
const MXCSR_DEFAULT: u32 = 0x1f80;
/// The default memory type register, with MTRRs on and write-back as default.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;
/// Miscellaneous features: fast strings.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1 << 0;
/// Segment types: code that can be read, data that can be written, busy TSS; all accessed.
const TYPE_CODE: u8 = 0xb;
const TYPE_DATA: u8 = 0x3;
const TYPE_TSS: u8 = 0xb;
/// Limit of a flat segment in bytes.
const FLAT_LIMIT: u32 = u32::MAX;
/// Limit of a TSS, the least that a processor accepts.
const TSS_LIMIT: u32 = 0x67;

/// A flat segment.
fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: FLAT_LIMIT,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// General registers for `entry`.
pub fn regs(entry: Entry) -> kvm_regs {
    match entry {
        Entry::Pvh { rip } => kvm_regs {
            rip,
            rbx: PVH_START_INFO_ADDR,
            rflags: RFLAGS_FIXED,
            ..Default::default()
        },
        Entry::Linux64 { rip } => kvm_regs {
            rip,
            rsi: ZERO_PAGE_ADDR,
            rsp: BOOT_STACK_ADDR,
            rbp: BOOT_STACK_ADDR,
            rflags: RFLAGS_FIXED,
            ..Default::default()
        },
    }
}

/// System registers for `entry`, starting from those after reset.
pub fn sregs(reset: kvm_sregs, entry: Entry) -> kvm_sregs {
    let long = matches!(entry, Entry::Linux64 { .. });
    let data = flat(DATA_SELECTOR, TYPE_DATA, false);
    let mut sregs = kvm_sregs {
        cs: flat(CODE_SELECTOR, TYPE_CODE, long),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            limit: TSS_LIMIT,
            s: 0,
            g: 0,
            db: 0,
            ..flat(TASK_SELECTOR, TYPE_TSS, false)
        },
        cr0: CR0_PE | CR0_ET,
        cr4: 0,
        efer: 0,
        ..reset
    };
    if long {
        sregs.gdt = kvm_dtable {
            base: GDT_ADDR,
            limit: GDT_LIMIT,
            ..Default::default()
        };
        sregs.idt = kvm_dtable {
            base: IDT_ADDR,
            limit: 0,
            ..Default::default()
        };
        sregs.cr3 = PML4_ADDR;
        sregs.cr4 = CR4_PAE;
        sregs.cr0 |= CR0_PG;
        sregs.efer = EFER_LME | EFER_LMA;
    }
    sregs
}

/// Puts the first CPU at the kernel's entry.
pub fn set_boot_state(vcpu: &VcpuFd, entry: Entry) -> Result<()> {
    let reset = vcpu
        .get_sregs()
        .map_err(Error::hypervisor("KVM_GET_SREGS"))?;
    vcpu.set_sregs(&sregs(reset, entry))
        .map_err(Error::hypervisor("KVM_SET_SREGS"))?;
    vcpu.set_regs(&regs(entry))
        .map_err(Error::hypervisor("KVM_SET_REGS"))
}

/// State that every CPU starts with: FPU and the MSRs that firmware would set.
pub fn set_common_state(vcpu: &VcpuFd) -> Result<()> {
    let fpu = kvm_fpu {
        fcw: FCW_DEFAULT,
        mxcsr: MXCSR_DEFAULT,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(Error::hypervisor("KVM_SET_FPU"))?;
    for (index, data) in [
        (MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
        (MSR_MISC_ENABLE, FAST_STRINGS),
    ] {
        let entry = kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs =
            Msrs::from_entries(&[entry]).map_err(|e| Error::Setup(format!("MSR list: {e:?}")))?;
        // A guest boots without these, so a hypervisor that lacks one is still good enough.
        match vcpu.set_msrs(&msrs) {
            Ok(1) => {}
            result => tracing::info!("MSR {index:#x} not set: {result:?}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pvh_enters_without_paging() {
        let entry = Entry::Pvh { rip: 0x100_0000 };
        let sregs = sregs(kvm_sregs::default(), entry);
        assert_eq!(sregs.cr0 & CR0_PG, 0);
        assert_eq!((sregs.cr0 & CR0_PE, sregs.efer, sregs.cr4), (1, 0, 0));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, u32::MAX));
        assert_eq!((sregs.tr.limit, sregs.tr.s), (0x67, 0));
        assert_eq!(regs(entry).rbx, PVH_START_INFO_ADDR);
        assert_eq!(regs(entry).rflags, 2);
    }

    #[test]
    fn linux_enters_in_long_mode() {
        let entry = Entry::Linux64 { rip: 0x10_0200 };
        let reset = kvm_sregs {
            apic_base: 0xfee0_0900,
            ..Default::default()
        };
        let sregs = sregs(reset, entry);
        assert_ne!(sregs.cr0 & CR0_PG, 0);
        assert_eq!(sregs.efer, EFER_LME | EFER_LMA);
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ds.selector, sregs.cr3), (0x18, PML4_ADDR));
        assert_eq!(sregs.apic_base, 0xfee0_0900);
        assert_eq!(regs(entry).rsi, ZERO_PAGE_ADDR);
    }
}
