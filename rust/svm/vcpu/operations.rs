// SPDX-License-Identifier: GPL-2.0-only

//! What the shared code asks of a vCPU, on SVM.

use kernel::prelude::*;

use super::SvmVcpu;
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
        cpuid::{
            Feature,
            Guest, //
        },
        svm::{
            clean::Clean,
            cr,
            intercept::Intercept,
            vmcb::{
                interrupt_state::INTERRUPT_SHADOW,
                v_intr,
                SaveArea,
                Vmcb,
                VmcbSegment, //
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
    }, //
};

/// A virtual interrupt of the highest priority, whatever V_TPR says: it exits as soon as the guest can take
/// an interrupt.
const WINDOW: u64 = v_intr::V_IRQ | v_intr::V_INTR_PRIO | v_intr::V_IGN_TPR;

/// The register's place in the VMCB.
fn place(save: &mut SaveArea, reg: Hidden) -> &mut VmcbSegment {
    match reg {
        Hidden::Seg(SegReg::Es) => &mut save.es,
        Hidden::Seg(SegReg::Cs) => &mut save.cs,
        Hidden::Seg(SegReg::Ss) => &mut save.ss,
        Hidden::Seg(SegReg::Ds) => &mut save.ds,
        Hidden::Seg(SegReg::Fs) => &mut save.fs,
        Hidden::Seg(SegReg::Gs) => &mut save.gs,
        Hidden::Ldtr => &mut save.ldtr,
        Hidden::Tr => &mut save.tr,
        Hidden::Gdtr => &mut save.gdtr,
        Hidden::Idtr => &mut save.idtr,
    }
}

/// The place of an MSR that the VMCB holds.
fn msr_place(save: &mut SaveArea, number: u32) -> Option<&mut u64> {
    Some(match number {
        msr::IA32_FS_BASE => &mut save.fs.base,
        msr::IA32_GS_BASE => &mut save.gs.base,
        msr::IA32_KERNEL_GS_BASE => &mut save.kernel_gs_base,
        msr::IA32_STAR => &mut save.star,
        msr::IA32_LSTAR => &mut save.lstar,
        msr::IA32_CSTAR => &mut save.cstar,
        msr::IA32_FMASK => &mut save.sfmask,
        msr::IA32_SYSENTER_CS => &mut save.sysenter_cs,
        msr::IA32_SYSENTER_ESP => &mut save.sysenter_esp,
        msr::IA32_SYSENTER_EIP => &mut save.sysenter_eip,
        msr::IA32_PAT => &mut save.g_pat,
        _ => return None,
    })
}

/// Whether the guest runs 64-bit code.
fn in_64bit_code(save: &SaveArea) -> bool {
    save.efer & efer::LMA != 0 && Segment::from(&save.cs).ar & ar::L != 0
}

/// Returns the address `length` bytes behind RIP, which wraps at 4 GiB outside 64-bit code.
#[inline]
fn next_rip(save: &SaveArea, length: u64) -> u64 {
    let next = save.rip.wrapping_add(length);
    if next >> 32 != save.rip >> 32 && !in_64bit_code(save) {
        u64::from(next as u32)
    } else {
        next
    }
}

impl SvmVcpu {
    fn set_cr0(&mut self, value: u64) {
        self.cr0 = value;
        let hw = cr::hw_cr0(value);
        self.vmcb.vmcb_mut().save.cr0 = hw;
        let differs = cr::cr0_differs(hw, value);
        self.intercept(Intercept::cr_read(0), differs);
        self.intercept(Intercept::cr_write(0), differs);
        self.control_register_changed();
    }

    fn set_cr4(&mut self, value: u64) {
        self.cr4 = value;
        let hw = cr::hw_cr4(value, cpu::read_cr4() & cr4::MCE);
        self.vmcb.vmcb_mut().save.cr4 = hw;
        self.intercept(Intercept::cr_read(4), cr::cr4_differs(hw, value));
        self.control_register_changed();
    }

    fn control_register_changed(&mut self) {
        self.vmcb.vmcb_mut().control.mark_dirty(Clean::CR);
        self.flush = true;
    }

    /// The end of an instruction: the shadow of STI and MOV SS ends. Returns whether RFLAGS.TF is set.
    #[inline]
    fn after_instruction(&mut self) -> bool {
        let Vmcb { control, save } = self.vmcb.vmcb_mut();
        control.interrupt_state &= !INTERRUPT_SHADOW;
        save.rflags & rflags::TF != 0 && !self.nmis.hides_trap_flag()
    }
}

impl BackendVcpu for SvmVcpu {
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
        let Vmcb { control, save } = self.vmcb.vmcb();
        match reg {
            Reg::Rip => save.rip,
            Reg::Rsp => save.rsp,
            Reg::Rflags if self.nmis.hides_trap_flag() => save.rflags & !rflags::TF,
            Reg::Rflags => save.rflags,
            Reg::Cr0 => cr::guest_cr0(save.cr0, self.cr0),
            Reg::Cr3 => save.cr3,
            Reg::Cr4 => self.cr4,
            Reg::Efer => self.efer,
            Reg::Dr7 => save.dr7,
            Reg::TscOffset => control.tsc_offset,
            Reg::TscMultiplier => self.msr(msr::AMD64_TSC_RATIO).unwrap_or(0),
            Reg::Cpl => save.cpl.into(),
        }
    }

    #[inline(always)]
    fn set_register(&mut self, reg: Reg, value: u64) {
        if reg == Reg::Rflags {
            self.stop_step();
        }
        let Vmcb { control, save } = self.vmcb.vmcb_mut();
        match reg {
            Reg::Rip => save.rip = value,
            Reg::Rsp => save.rsp = value,
            Reg::Rflags => save.rflags = value | rflags::FIXED,
            Reg::Cr0 => self.set_cr0(value),
            Reg::Cr3 => {
                save.cr3 = value;
                self.control_register_changed();
            }
            Reg::Cr4 => self.set_cr4(value),
            Reg::Efer => {
                save.efer = value | efer::SVME;
                self.efer = value;
                self.control_register_changed();
            }
            Reg::Dr7 => {
                save.dr7 = value;
                control.mark_dirty(Clean::DR);
            }
            Reg::TscOffset => {
                control.tsc_offset = value;
                control.mark_dirty(Clean::INTERCEPTS);
            }
            Reg::TscMultiplier => {
                self.set_msr(msr::AMD64_TSC_RATIO, value);
            }
            Reg::Cpl => {}
        }
    }

    fn segment(&mut self, reg: Hidden) -> Segment {
        let save = &mut self.vmcb.vmcb_mut().save;
        let cpl = save.cpl;
        let held = place(save, reg);
        match reg {
            Hidden::Seg(SegReg::Ss) => held.stack_segment(cpl),
            Hidden::Gdtr | Hidden::Idtr => Segment {
                base: held.base,
                limit: held.limit,
                ..Segment::default()
            },
            _ => Segment::from(&*held),
        }
    }

    fn set_segment(&mut self, reg: Hidden, segment: &Segment) {
        let Vmcb { control, save } = self.vmcb.vmcb_mut();
        *place(save, reg) = VmcbSegment::from(segment);
        match reg {
            Hidden::Seg(SegReg::Ss) => {
                save.cpl = segment.dpl();
                control.mark_dirty(Clean::SEG);
            }
            Hidden::Gdtr | Hidden::Idtr => control.mark_dirty(Clean::DT),
            Hidden::Seg(_) => control.mark_dirty(Clean::SEG),
            Hidden::Ldtr | Hidden::Tr => {}
        }
    }

    // With nested paging the processor reads the entries when it needs them (section 15.25.10).
    fn set_pdptes(&mut self, _value: [u64; 4]) {}

    fn msr(&mut self, number: u32) -> Option<u64> {
        if let Some(value) = msr_place(&mut self.vmcb.vmcb_mut().save, number) {
            return Some(*value);
        }
        let irq = IrqOff::new();
        self.state.as_mut().with(&irq, |s, _| s.msrs.get(number))
    }

    fn set_msr(&mut self, number: u32, value: u64) -> bool {
        let Vmcb { control, save } = self.vmcb.vmcb_mut();
        if let Some(held) = msr_place(save, number) {
            *held = value;
            if number == msr::IA32_PAT {
                control.mark_dirty(Clean::NESTED_PAGING);
            }
            return true;
        }
        let irq = IrqOff::new();
        self.state
            .as_mut()
            .with(&irq, |s, irq| s.msrs.set(number, value, irq))
    }

    fn set_cpuid(&mut self, guest: &Guest) {
        self.intercept(Intercept::INVPCID, !guest.has(Feature::INVPCID));
        let rdtscp = guest.has(Feature::RDTSCP) && self.svm.rdtscp;
        self.intercept(Intercept::RDTSCP, !rdtscp);
    }

    fn blocking(&mut self, _irq: &IrqOff) -> Blocking {
        let Vmcb { control, save } = self.vmcb.vmcb();
        // There is one shadow for both instructions.
        let shadow = control.interrupt_state & INTERRUPT_SHADOW != 0;
        Blocking {
            interrupts_enabled: save.rflags & rflags::IF != 0,
            sti: shadow,
            mov_ss: shadow,
            nmi: self.nmis.blocked,
        }
    }

    fn set_blocking(&mut self, blocking: Blocking) {
        let control = &mut self.vmcb.vmcb_mut().control;
        control.interrupt_state &= !INTERRUPT_SHADOW;
        if blocking.sti || blocking.mov_ss {
            control.interrupt_state |= INTERRUPT_SHADOW;
        }
        if blocking.nmi != self.nmis.blocked {
            self.set_nmi_blocked(blocking.nmi);
        }
    }

    #[inline]
    fn request_windows(&mut self, _irq: &IrqOff, interrupt: bool, nmi: bool) {
        self.vmcb
            .vmcb_mut()
            .control
            .set_v_intr(WINDOW, if interrupt { WINDOW } else { 0 });
        self.intercept(Intercept::VINTR, interrupt);
        if nmi {
            self.request_nmi_window();
        }
    }

    fn set_instruction_length(&mut self, length: u8) {
        self.exit_length = length.into();
    }

    #[inline]
    fn skip_instruction(&mut self) -> bool {
        let save = &mut self.vmcb.vmcb_mut().save;
        save.rip = next_rip(save, self.exit_length);
        self.after_instruction()
    }

    fn retire(&mut self, rip: u64, rsp: u64, flags: u64) -> bool {
        let stepping = self.after_instruction();
        self.stop_step();
        let save = &mut self.vmcb.vmcb_mut().save;
        save.rip = rip;
        save.rsp = rsp;
        save.rflags = flags | rflags::FIXED;
        stepping
    }

    #[inline]
    fn retire_move(&mut self, length: u8) -> bool {
        let stepping = self.after_instruction();
        self.stop_step();
        let save = &mut self.vmcb.vmcb_mut().save;
        save.rip = save.rip.wrapping_add(length.into());
        save.rflags &= !rflags::RF;
        stepping
    }

    #[inline(always)]
    fn emulation_context(&mut self) -> EmulationContext {
        let (rflags, efer) = (self.register(Reg::Rflags), self.efer);
        let save = &self.vmcb.vmcb().save;
        let cr0 = cr::guest_cr0(save.cr0, self.cr0);
        EmulationContext {
            rip: save.rip,
            rsp: save.rsp,
            rflags,
            cs_rights: Segment::from(&save.cs).ar,
            cpl: save.cpl,
            cr0,
            cr3: save.cr3,
            cr4: self.cr4,
            efer,
            linear: None,
        }
    }

    fn fetched_code(&mut self) -> CodeBytes {
        CodeBytes::new(self.vmcb.vmcb().control.fetched())
    }

    fn apic_page(&mut self) -> Option<&mut ApicPage> {
        None
    }

    fn set_apic_mode(&mut self, _mode: Mode, _enabled: bool) -> ApicHelp {
        ApicHelp::None
    }

    fn hand_over_interrupts(&mut self, _irq: &IrqOff, _status: u16, _exits: Option<[u64; 4]>) {}

    // The interrupt is pending still.
    fn acknowledged_interrupt(&mut self, _irq: &IrqOff) -> Option<u8> {
        None
    }

    #[cold]
    fn dump(&mut self) {
        let Vmcb { control, save } = self.vmcb.vmcb();
        pr_info!("VMCB at {:#x}: {control:x?}\n", self.vmcb.hpa().raw());
        pr_info!("{save:x?}\n");
    }
}
