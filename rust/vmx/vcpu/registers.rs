// SPDX-License-Identifier: GPL-2.0-only

//! The guest's registers that the VMCS holds.

use super::{
    after_instruction,
    in_64bit_code,
    VmxVcpu, //
};
use crate::{
    backend::{
        EmulationContext,
        Hidden,
        TableReg, //
    },
    host::cpu::{
        self,
        IrqOff, //
    },
    model::{
        vmx::{
            cr,
            ctls,
            field::{
                self,
                Field,
                Natural, //
            }, //
        },
        x86::{
            ar,
            cr4,
            efer,
            msr,
            rflags,
            SegReg,
            Segment, //
        }, //
    },
    vmx::state::SYSCALL_MSRS, //
};

/// The four fields of a segment register.
type SegmentFields = (Field<u16>, Field<Natural>, Field<u32>, Field<u32>);

fn segment_fields(reg: Hidden) -> SegmentFields {
    macro_rules! fields {
        ($selector:ident, $base:ident, $limit:ident, $rights:ident) => {
            (
                field::$selector,
                field::$base,
                field::$limit,
                field::$rights,
            )
        };
    }
    match reg {
        Hidden::Seg(SegReg::Es) => {
            fields!(
                GUEST_ES_SELECTOR,
                GUEST_ES_BASE,
                GUEST_ES_LIMIT,
                GUEST_ES_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Cs) => {
            fields!(
                GUEST_CS_SELECTOR,
                GUEST_CS_BASE,
                GUEST_CS_LIMIT,
                GUEST_CS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Ss) => {
            fields!(
                GUEST_SS_SELECTOR,
                GUEST_SS_BASE,
                GUEST_SS_LIMIT,
                GUEST_SS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Ds) => {
            fields!(
                GUEST_DS_SELECTOR,
                GUEST_DS_BASE,
                GUEST_DS_LIMIT,
                GUEST_DS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Fs) => {
            fields!(
                GUEST_FS_SELECTOR,
                GUEST_FS_BASE,
                GUEST_FS_LIMIT,
                GUEST_FS_ACCESS_RIGHTS
            )
        }
        Hidden::Seg(SegReg::Gs) => {
            fields!(
                GUEST_GS_SELECTOR,
                GUEST_GS_BASE,
                GUEST_GS_LIMIT,
                GUEST_GS_ACCESS_RIGHTS
            )
        }
        Hidden::Ldtr => {
            fields!(
                GUEST_LDTR_SELECTOR,
                GUEST_LDTR_BASE,
                GUEST_LDTR_LIMIT,
                GUEST_LDTR_ACCESS_RIGHTS
            )
        }
        Hidden::Tr => {
            fields!(
                GUEST_TR_SELECTOR,
                GUEST_TR_BASE,
                GUEST_TR_LIMIT,
                GUEST_TR_ACCESS_RIGHTS
            )
        }
    }
}

impl VmxVcpu {
    /// Returns RIP.
    pub(crate) fn rip(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_RIP))
    }

    /// Returns RSP.
    pub(crate) fn rsp(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_RSP))
    }

    /// Sets RSP.
    pub(crate) fn set_rsp(&mut self, value: u64) {
        self.with(|vmcs| vmcs.write(field::GUEST_RSP, value));
    }

    /// Returns what the instruction emulator begins with.
    pub(crate) fn emulation_context(&mut self) -> EmulationContext {
        const ALL: [SegReg; SegReg::COUNT] = [
            SegReg::Es,
            SegReg::Cs,
            SegReg::Ss,
            SegReg::Ds,
            SegReg::Fs,
            SegReg::Gs,
        ];
        let (cr0_mask, cr4_mask) = (self.cr0_mask, self.cr4_mask);
        self.with(|vmcs| {
            let cr0 = vmcs.read(field::CR0_READ_SHADOW);
            let cr4 = vmcs.read(field::CR4_READ_SHADOW);
            let long = in_64bit_code(vmcs);
            EmulationContext {
                rip: vmcs.read(field::GUEST_RIP),
                rsp: vmcs.read(field::GUEST_RSP),
                rflags: vmcs.read(field::GUEST_RFLAGS),
                segments: ALL.map(|reg| {
                    let (selector, base, limit, rights) = segment_fields(Hidden::Seg(reg));
                    // 64-bit code has the bases of FS and GS, the mode in CS and the privilege level in SS;
                    // the rest of the segments does not matter, but for instructions that store a selector.
                    match reg {
                        SegReg::Es | SegReg::Ds if long => Segment::default(),
                        SegReg::Fs | SegReg::Gs if long => Segment {
                            base: vmcs.read(base),
                            ..Segment::default()
                        },
                        SegReg::Cs | SegReg::Ss if long => Segment {
                            ar: vmcs.read(rights),
                            ..Segment::default()
                        },
                        _ => Segment {
                            selector: vmcs.read(selector),
                            base: vmcs.read(base),
                            limit: vmcs.read(limit),
                            ar: vmcs.read(rights),
                        },
                    }
                }),
                cr0: cr::guest_view(vmcs.read(field::GUEST_CR0), cr0, cr0_mask),
                cr3: vmcs.read(field::GUEST_CR3),
                cr4: cr::guest_view(vmcs.read(field::GUEST_CR4), cr4, cr4_mask),
                linear: Some(vmcs.read(field::GUEST_LINEAR_ADDRESS)),
            }
        })
    }

    /// Returns RFLAGS.
    pub(crate) fn rflags(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_RFLAGS))
    }

    /// Sets RIP, RSP and RFLAGS; the fixed bit of RFLAGS is added.
    pub(crate) fn set_rip_rsp_rflags(&mut self, rip: u64, rsp: u64, flags: u64) {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_RIP, rip);
            vmcs.write(field::GUEST_RSP, rsp);
            vmcs.write(field::GUEST_RFLAGS, flags | rflags::FIXED);
        });
    }

    /// Ends an emulated instruction: sets RIP, RSP and RFLAGS. Returns whether the guest is being
    /// single-stepped.
    pub(crate) fn retire(&mut self, rip: u64, rsp: u64, flags: u64) -> bool {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_RIP, rip);
            vmcs.write(field::GUEST_RSP, rsp);
            let stepping = after_instruction(vmcs);
            vmcs.write(field::GUEST_RFLAGS, flags | rflags::FIXED);
            stepping
        })
    }

    /// Returns a segment register.
    pub(crate) fn segment(&mut self, reg: Hidden) -> Segment {
        let (selector, base, limit, rights) = segment_fields(reg);
        self.with(|vmcs| Segment {
            selector: vmcs.read(selector),
            base: vmcs.read(base),
            limit: vmcs.read(limit),
            ar: vmcs.read(rights),
        })
    }

    /// Sets a segment register.
    pub(crate) fn set_segment(&mut self, reg: Hidden, segment: &Segment) {
        let (selector, base, limit, rights) = segment_fields(reg);
        self.with(|vmcs| {
            vmcs.write(selector, segment.selector);
            vmcs.write(base, segment.base);
            vmcs.write(limit, segment.limit);
            vmcs.write(rights, segment.ar);
        });
    }

    /// Returns the base and limit of a descriptor table.
    pub(crate) fn table(&mut self, reg: TableReg) -> (u64, u16) {
        self.with(|vmcs| match reg {
            TableReg::Gdtr => (
                vmcs.read(field::GUEST_GDTR_BASE),
                vmcs.read(field::GUEST_GDTR_LIMIT) as u16,
            ),
            TableReg::Idtr => (
                vmcs.read(field::GUEST_IDTR_BASE),
                vmcs.read(field::GUEST_IDTR_LIMIT) as u16,
            ),
        })
    }

    /// Sets the base and limit of a descriptor table.
    pub(crate) fn set_table(&mut self, reg: TableReg, base: u64, limit: u16) {
        self.with(|vmcs| match reg {
            TableReg::Gdtr => {
                vmcs.write(field::GUEST_GDTR_BASE, base);
                vmcs.write(field::GUEST_GDTR_LIMIT, limit.into());
            }
            TableReg::Idtr => {
                vmcs.write(field::GUEST_IDTR_BASE, base);
                vmcs.write(field::GUEST_IDTR_LIMIT, limit.into());
            }
        });
    }

    /// Returns the current privilege level.
    pub(crate) fn cpl(&mut self) -> u8 {
        let rights = self.with(|vmcs| vmcs.read(field::GUEST_SS_ACCESS_RIGHTS));
        ((rights & ar::DPL) >> ar::DPL_SHIFT) as u8
    }

    /// Returns CR0 as the guest sees it.
    pub(crate) fn cr0(&mut self) -> u64 {
        let mask = self.cr0_mask;
        self.with(|vmcs| {
            let shadow = vmcs.read(field::CR0_READ_SHADOW);
            cr::guest_view(vmcs.read(field::GUEST_CR0), shadow, mask)
        })
    }

    /// Sets CR0.
    pub(crate) fn set_cr0(&mut self, value: u64) {
        let hw = self.vmx.fixed.hw_cr0(value);
        self.with(|vmcs| {
            vmcs.write(field::GUEST_CR0, hw);
            vmcs.write(field::CR0_READ_SHADOW, value);
        });
        self.flush_guest_tlb = true;
    }

    /// Returns CR3.
    pub(crate) fn cr3(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_CR3))
    }

    /// Sets CR3.
    pub(crate) fn set_cr3(&mut self, value: u64) {
        self.with(|vmcs| vmcs.write(field::GUEST_CR3, value));
        self.flush_guest_tlb = true;
    }

    /// Returns CR4 as the guest sees it.
    pub(crate) fn cr4(&mut self) -> u64 {
        let mask = self.cr4_mask;
        self.with(|vmcs| {
            let shadow = vmcs.read(field::CR4_READ_SHADOW);
            cr::guest_view(vmcs.read(field::GUEST_CR4), shadow, mask)
        })
    }

    /// Sets CR4; `offered` are the bits that the guest's CPUID lets it set.
    pub(crate) fn set_cr4(&mut self, value: u64, offered: u64) {
        let hw = self.vmx.fixed.hw_cr4(value, cpu::read_cr4() & cr4::MCE);
        self.cr4_mask = self.vmx.fixed.cr4_guest_host_mask(offered);
        let mask = self.cr4_mask;
        self.with(|vmcs| {
            vmcs.write(field::CR4_GUEST_HOST_MASK, mask);
            vmcs.write(field::GUEST_CR4, hw);
            vmcs.write(field::CR4_READ_SHADOW, value);
        });
        self.flush_guest_tlb = true;
    }

    /// Returns EFER.
    pub(crate) fn efer(&self) -> u64 {
        self.efer
    }

    /// Sets EFER; LMA must agree with CR0.PG and LME.
    pub(crate) fn set_efer(&mut self, value: u64) {
        self.efer = value;
        let mut controls = self.entry_controls & !ctls::entry::IA32E_MODE_GUEST;
        if value & efer::LMA != 0 {
            controls |= ctls::entry::IA32E_MODE_GUEST;
        }
        self.entry_controls = controls;
        self.with(|vmcs| {
            vmcs.write(field::GUEST_EFER, value);
            vmcs.write(field::ENTRY_CONTROLS, controls);
        });
        self.flush_guest_tlb = true;
    }

    /// Sets the page-directory-pointer entries that PAE paging uses.
    pub(crate) fn set_pdptes(&mut self, value: [u64; 4]) {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_PDPTE0, value[0]);
            vmcs.write(field::GUEST_PDPTE1, value[1]);
            vmcs.write(field::GUEST_PDPTE2, value[2]);
            vmcs.write(field::GUEST_PDPTE3, value[3]);
        });
    }

    /// Sets DR7.
    pub(crate) fn set_dr7(&mut self, value: u64) {
        self.with(|vmcs| vmcs.write(field::GUEST_DR7, value));
    }

    /// Returns an MSR that the VMCS or this backend's registers hold, or `None` for another.
    pub(crate) fn msr(&mut self, number: u32) -> Option<u64> {
        if let Some(index) = SYSCALL_MSRS.iter().position(|&n| n == number) {
            let irq = IrqOff::new();
            return Some(self.state.as_mut().with(&irq, |s, _| s.syscall_msr(index)));
        }
        if number == msr::IA32_KERNEL_GS_BASE {
            let irq = IrqOff::new();
            return Some(
                self.state
                    .as_mut()
                    .with(&irq, |s, irq| s.kernel_gs_base(irq)),
            );
        }
        self.with(|vmcs| {
            Some(match number {
                msr::IA32_FS_BASE => vmcs.read(field::GUEST_FS_BASE),
                msr::IA32_GS_BASE => vmcs.read(field::GUEST_GS_BASE),
                msr::IA32_SYSENTER_CS => vmcs.read(field::GUEST_SYSENTER_CS).into(),
                msr::IA32_SYSENTER_ESP => vmcs.read(field::GUEST_SYSENTER_ESP),
                msr::IA32_SYSENTER_EIP => vmcs.read(field::GUEST_SYSENTER_EIP),
                msr::IA32_PAT => vmcs.read(field::GUEST_PAT),
                _ => return None,
            })
        })
    }

    /// Sets such an MSR to a value that is valid for it; `false` for another MSR.
    pub(crate) fn set_msr(&mut self, number: u32, value: u64) -> bool {
        if let Some(index) = SYSCALL_MSRS.iter().position(|&n| n == number) {
            let irq = IrqOff::new();
            self.state
                .as_mut()
                .with(&irq, |s, irq| s.set_syscall_msr(index, value, irq));
            return true;
        }
        if number == msr::IA32_KERNEL_GS_BASE {
            let irq = IrqOff::new();
            self.state
                .as_mut()
                .with(&irq, |s, irq| s.set_kernel_gs_base(value, irq));
            return true;
        }
        self.with(|vmcs| {
            match number {
                msr::IA32_FS_BASE => vmcs.write(field::GUEST_FS_BASE, value),
                msr::IA32_GS_BASE => vmcs.write(field::GUEST_GS_BASE, value),
                msr::IA32_SYSENTER_CS => vmcs.write(field::GUEST_SYSENTER_CS, value as u32),
                msr::IA32_SYSENTER_ESP => vmcs.write(field::GUEST_SYSENTER_ESP, value),
                msr::IA32_SYSENTER_EIP => vmcs.write(field::GUEST_SYSENTER_EIP, value),
                msr::IA32_PAT => vmcs.write(field::GUEST_PAT, value),
                _ => return false,
            }
            true
        })
    }
}
