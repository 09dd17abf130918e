// SPDX-License-Identifier: GPL-2.0-only

//! What the shared code asks of a vCPU, on VMX.

use super::{
    after_instruction,
    in_64bit_code,
    segments::{
        fields,
        Fields, //
    },
    VmxVcpu,
    BLOCKING_BY_MOV_SS,
    BLOCKING_BY_NMI,
    BLOCKING_BY_STI, //
};
use crate::{
    backend::{
        ApicHelp,
        BackendVcpu,
        Blocking,
        CodeBytes,
        EmulationContext,
        Entry,
        Hidden,
        Left,
        Reg, //
    },
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        page::ApicPage, //
    },
    model::{
        apic::Mode,
        cpuid::Guest,
        vmx::{
            cr,
            ctls::{
                self,
                pin,
                primary,
                ApicMode, //
            },
            event::InterruptionInfo,
            field::{
                self,
                Field, //
            }, //
        },
        x86::{
            ar,
            cr4,
            efer,
            msr,
            rflags,
            Segment, //
        }, //
    },
    vmx::vmcs::CurrentVmcs, //
};

/// The words of the EOI-exit bitmap.
pub(super) const EOI_EXIT_BITMAP: [Field<u64>; 4] = [
    field::EOI_EXIT_BITMAP_0,
    field::EOI_EXIT_BITMAP_1,
    field::EOI_EXIT_BITMAP_2,
    field::EOI_EXIT_BITMAP_3,
];

/// The current privilege level is that of SS (SDM vol. 3, section 26.3.1.2).
#[inline(always)]
fn privilege_level(vmcs: &CurrentVmcs<'_>) -> u8 {
    ((vmcs.read(field::GUEST_SS_ACCESS_RIGHTS) & ar::DPL) >> ar::DPL_SHIFT) as u8
}

impl VmxVcpu {
    fn set_cr0(&mut self, value: u64) {
        let hw = self.vmx.fixed.hw_cr0(value);
        self.with(|vmcs| {
            vmcs.write(field::GUEST_CR0, hw);
            vmcs.write(field::CR0_READ_SHADOW, value);
        });
        self.flush_guest_tlb = true;
    }

    fn set_cr4(&mut self, value: u64) {
        let hw = self.vmx.fixed.hw_cr4(value, cpu::read_cr4() & cr4::MCE);
        self.with(|vmcs| {
            vmcs.write(field::GUEST_CR4, hw);
            vmcs.write(field::CR4_READ_SHADOW, value);
        });
        self.flush_guest_tlb = true;
    }

    fn set_efer(&mut self, value: u64) {
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
}

impl BackendVcpu for VmxVcpu {
    fn load(&mut self) {
        self.state.as_mut().load();
    }

    fn put(&mut self) {
        self.state.as_mut().put();
    }

    #[inline]
    fn enter(&mut self, irq: &IrqOff, regs: &mut b::vireo_regs, entry: &Entry<'_>) -> Left {
        self.run(irq, regs, entry)
    }

    #[inline(always)]
    fn register(&mut self, reg: Reg) -> u64 {
        let (cr0_mask, cr4_mask, efer) = (self.cr0_mask, self.cr4_mask, self.efer);
        if reg == Reg::Efer {
            return efer;
        }
        self.with(|vmcs| match reg {
            Reg::Rip => vmcs.read(field::GUEST_RIP),
            Reg::Rsp => vmcs.read(field::GUEST_RSP),
            Reg::Rflags => vmcs.read(field::GUEST_RFLAGS),
            Reg::Cr0 => {
                let shadow = vmcs.read(field::CR0_READ_SHADOW);
                cr::guest_view(vmcs.read(field::GUEST_CR0), shadow, cr0_mask)
            }
            Reg::Cr3 => vmcs.read(field::GUEST_CR3),
            Reg::Cr4 => {
                let shadow = vmcs.read(field::CR4_READ_SHADOW);
                cr::guest_view(vmcs.read(field::GUEST_CR4), shadow, cr4_mask)
            }
            Reg::Efer => efer,
            Reg::Dr7 => vmcs.read(field::GUEST_DR7),
            Reg::TscOffset => vmcs.read(field::TSC_OFFSET),
            Reg::TscMultiplier => vmcs.read(field::TSC_MULTIPLIER),
            Reg::Cpl => {
                let rights = vmcs.read(field::GUEST_SS_ACCESS_RIGHTS);
                u64::from((rights & ar::DPL) >> ar::DPL_SHIFT)
            }
        })
    }

    #[inline(always)]
    fn set_register(&mut self, reg: Reg, value: u64) {
        match reg {
            Reg::Cr0 => return self.set_cr0(value),
            Reg::Cr4 => return self.set_cr4(value),
            Reg::Efer => return self.set_efer(value),
            Reg::Cr3 => self.flush_guest_tlb = true,
            _ => {}
        }
        self.with(|vmcs| match reg {
            Reg::Rip => vmcs.write(field::GUEST_RIP, value),
            Reg::Rsp => vmcs.write(field::GUEST_RSP, value),
            Reg::Rflags => vmcs.write(field::GUEST_RFLAGS, value | rflags::FIXED),
            Reg::Cr3 => vmcs.write(field::GUEST_CR3, value),
            Reg::Dr7 => vmcs.write(field::GUEST_DR7, value),
            Reg::TscOffset => vmcs.write(field::TSC_OFFSET, value),
            Reg::TscMultiplier => vmcs.write(field::TSC_MULTIPLIER, value),
            Reg::Cr0 | Reg::Cr4 | Reg::Efer | Reg::Cpl => {}
        });
    }

    fn segment(&mut self, reg: Hidden) -> Segment {
        self.with(|vmcs| match fields(reg) {
            Fields::Segment(selector, base, limit, rights) => Segment {
                selector: vmcs.read(selector),
                base: vmcs.read(base),
                limit: vmcs.read(limit),
                ar: vmcs.read(rights),
            },
            Fields::Table(base, limit) => Segment {
                base: vmcs.read(base),
                limit: vmcs.read(limit),
                ..Segment::default()
            },
        })
    }

    fn set_segment(&mut self, reg: Hidden, segment: &Segment) {
        self.with(|vmcs| match fields(reg) {
            Fields::Segment(selector, base, limit, rights) => {
                vmcs.write(selector, segment.selector);
                vmcs.write(base, segment.base);
                vmcs.write(limit, segment.limit);
                vmcs.write(rights, segment.ar);
            }
            Fields::Table(base, limit) => {
                vmcs.write(base, segment.base);
                vmcs.write(limit, segment.limit);
            }
        });
    }

    fn set_pdptes(&mut self, value: [u64; 4]) {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_PDPTE0, value[0]);
            vmcs.write(field::GUEST_PDPTE1, value[1]);
            vmcs.write(field::GUEST_PDPTE2, value[2]);
            vmcs.write(field::GUEST_PDPTE3, value[3]);
        });
    }

    fn msr(&mut self, number: u32) -> Option<u64> {
        let irq = IrqOff::new();
        let exchanged = self.state.as_mut().with(&irq, |s, _| s.msrs.get(number));
        drop(irq);
        if exchanged.is_some() {
            return exchanged;
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

    fn set_msr(&mut self, number: u32, value: u64) -> bool {
        let irq = IrqOff::new();
        let is_exchanged = self
            .state
            .as_mut()
            .with(&irq, |s, irq| s.msrs.set(number, value, irq));
        drop(irq);
        if is_exchanged {
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

    fn set_cpuid(&mut self, guest: &Guest) {
        let mask = self.vmx.fixed.cr4_guest_host_mask(!guest.cr4_reserved());
        let old = self.register(Reg::Cr4);
        self.cr4_mask = mask;
        self.with(|vmcs| vmcs.write(field::CR4_GUEST_HOST_MASK, mask));
        // Bits whose owner has changed.
        self.set_cr4(old);
    }

    fn blocking(&mut self, irq: &IrqOff) -> Blocking {
        self.state.as_mut().with(irq, |state, irq| {
            let vmcs = state.vmcs(irq);
            let state = vmcs.read(field::GUEST_INTERRUPTIBILITY);
            Blocking {
                interrupts_enabled: vmcs.read(field::GUEST_RFLAGS) & rflags::IF != 0,
                sti: state & BLOCKING_BY_STI != 0,
                mov_ss: state & BLOCKING_BY_MOV_SS != 0,
                nmi: state & BLOCKING_BY_NMI != 0,
            }
        })
    }

    fn set_blocking(&mut self, blocking: Blocking) {
        let mut state = 0;
        if blocking.sti {
            state |= BLOCKING_BY_STI;
        }
        if blocking.mov_ss {
            state |= BLOCKING_BY_MOV_SS;
        }
        if blocking.nmi {
            state |= BLOCKING_BY_NMI;
        }
        self.with(|vmcs| vmcs.write(field::GUEST_INTERRUPTIBILITY, state));
    }

    #[inline]
    fn request_windows(&mut self, irq: &IrqOff, interrupt: bool, nmi: bool) {
        let mut wanted =
            self.primary & !(primary::INTERRUPT_WINDOW_EXITING | primary::NMI_WINDOW_EXITING);
        if interrupt {
            wanted |= primary::INTERRUPT_WINDOW_EXITING;
        }
        if nmi {
            wanted |= primary::NMI_WINDOW_EXITING;
        }
        if wanted != self.primary {
            self.primary = wanted;
            self.state.as_mut().with(irq, |state, irq| {
                state.vmcs(irq).write(field::PRIMARY_CONTROLS, wanted);
            });
        }
    }

    // The VMCS has it.
    fn set_instruction_length(&mut self, _length: u8) {}

    #[inline]
    fn skip_instruction(&mut self) -> bool {
        self.with(|vmcs| {
            let length = u64::from(vmcs.read(field::EXIT_INSTRUCTION_LENGTH));
            let rip = vmcs.read(field::GUEST_RIP);
            let mut next = rip.wrapping_add(length);
            if next >> 32 != rip >> 32 && !in_64bit_code(vmcs) {
                // Without 64-bit code the instruction pointer wraps at 4 GiB.
                next = u64::from(next as u32);
            }
            vmcs.write(field::GUEST_RIP, next);
            after_instruction(vmcs)
        })
    }

    fn retire(&mut self, rip: u64, rsp: u64, flags: u64) -> bool {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_RIP, rip);
            vmcs.write(field::GUEST_RSP, rsp);
            let stepping = after_instruction(vmcs);
            vmcs.write(field::GUEST_RFLAGS, flags | rflags::FIXED);
            stepping
        })
    }

    #[inline]
    fn retire_move(&mut self, length: u8) -> bool {
        self.with(|vmcs| {
            let next = vmcs.read(field::GUEST_RIP).wrapping_add(length.into());
            vmcs.write(field::GUEST_RIP, next);
            let flags = vmcs.read(field::GUEST_RFLAGS);
            if flags & rflags::RF != 0 {
                vmcs.write(field::GUEST_RFLAGS, flags & !rflags::RF);
            }
            after_instruction(vmcs)
        })
    }

    #[inline(always)]
    fn emulation_context(&mut self) -> EmulationContext {
        let (cr0_mask, cr4_mask, efer) = (self.cr0_mask, self.cr4_mask, self.efer);
        self.with(|vmcs| {
            let cr0 = vmcs.read(field::CR0_READ_SHADOW);
            let cr4 = vmcs.read(field::CR4_READ_SHADOW);
            EmulationContext {
                rip: vmcs.read(field::GUEST_RIP),
                rsp: vmcs.read(field::GUEST_RSP),
                rflags: vmcs.read(field::GUEST_RFLAGS),
                cs_rights: vmcs.read(field::GUEST_CS_ACCESS_RIGHTS),
                cpl: privilege_level(vmcs),
                cr0: cr::guest_view(vmcs.read(field::GUEST_CR0), cr0, cr0_mask),
                cr3: vmcs.read(field::GUEST_CR3),
                cr4: cr::guest_view(vmcs.read(field::GUEST_CR4), cr4, cr4_mask),
                efer,
                linear: Some(vmcs.read(field::GUEST_LINEAR_ADDRESS)),
            }
        })
    }

    fn fetched_code(&mut self) -> CodeBytes {
        CodeBytes::default()
    }

    fn apic_page(&mut self) -> Option<&mut ApicPage> {
        self.virtualizes_apic().then_some(&mut self.vapic)
    }

    fn set_apic_mode(&mut self, mode: Mode, enabled: bool) -> ApicHelp {
        let vmx = self.vmx;
        let features = &vmx.controls.features;
        let delivers = enabled && features.virtual_interrupts;
        let (mode, help) = match mode {
            _ if !self.virtualizes_apic() => return ApicHelp::None,
            Mode::Xapic if delivers => (ApicMode::XApic { delivers }, ApicHelp::Interrupts),
            Mode::Xapic => (ApicMode::XApic { delivers }, ApicHelp::Registers),
            Mode::X2apic if delivers && features.x2apic => (ApicMode::X2Apic, ApicHelp::Interrupts),
            Mode::X2apic | Mode::Disabled => (ApicMode::Disabled, ApicHelp::None),
        };
        let bitmap = if mode == ApicMode::X2Apic {
            &vmx.x2apic_msr_bitmap
        } else {
            &vmx.msr_bitmap
        };
        let (secondary, bitmap) = (vmx.controls.secondary_for(mode), bitmap.hpa().raw());
        self.pin = vmx.controls.pin_for(mode);
        let timer = if self.timer_on {
            pin::PREEMPTION_TIMER
        } else {
            0
        };
        let pin = self.pin | timer;
        self.with(|vmcs| {
            vmcs.write(field::PIN_BASED_CONTROLS, pin);
            vmcs.write(field::SECONDARY_CONTROLS, secondary);
            vmcs.write(field::MSR_BITMAPS, bitmap);
        });
        help
    }

    fn hand_over_interrupts(&mut self, irq: &IrqOff, status: u16, exits: Option<[u64; 4]>) {
        let old = self.eoi_exits;
        self.eoi_exits = exits.unwrap_or(old);
        let new = self.eoi_exits;
        self.state.as_mut().with(irq, |state, irq| {
            let mut vmcs = state.vmcs(irq);
            vmcs.write(field::GUEST_INTERRUPT_STATUS, status);
            for (index, field) in EOI_EXIT_BITMAP.into_iter().enumerate() {
                if new.get(index) != old.get(index) {
                    vmcs.write(field, new.get(index).copied().unwrap_or(u64::MAX));
                }
            }
        });
    }

    fn acknowledged_interrupt(&mut self, irq: &IrqOff) -> Option<u8> {
        if !self.vmx.controls.features.acknowledge_interrupt {
            return None;
        }
        self.state.as_mut().with(irq, |state, irq| {
            let info = state.vmcs(irq).read(field::EXIT_INTERRUPTION_INFO);
            InterruptionInfo::new(info).external_interrupt()
        })
    }

    fn dump(&mut self) {
        self.with(|vmcs| vmcs.dump());
    }
}
