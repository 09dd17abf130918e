// SPDX-License-Identifier: GPL-2.0-only

//! The state of a vCPU after RESET and INIT (SDM vol. 3, table 10-1).

use super::State;
use crate::{
    backend::{
        BackendVcpu,
        Blocking,
        Hidden,
        Reg, //
    },
    model::{
        apic::{
            Reset as ApicReset,
            Timer, //
        },
        event::MpState,
        msr::Reset as MsrReset,
        sregs::DebugRegs,
        x86::{
            ar,
            cr0,
            msr,
            rflags,
            xcr0,
            Gpr,
            SegReg,
            Segment, //
        }, //
    }, //
};

/// CR0 after RESET: caches off, as the guest sees it.
const CR0_RESET: u64 = cr0::CD | cr0::NW | cr0::ET;

/// RIP after RESET.
const RIP_RESET: u64 = 0xfff0;

/// The base of CS after RESET: 16 bytes below 4 GiB with RIP.
const CS_BASE_RESET: u64 = 0xffff_0000;

/// The selector of CS after RESET.
const CS_SELECTOR_RESET: u16 = 0xf000;

/// RDX after RESET: family 6 until CPUID says otherwise.
const RDX_RESET: u64 = 0x600;

/// The limit of segments and descriptor tables after RESET.
const LIMIT_RESET: u16 = 0xffff;

impl State {
    /// Brings a new vCPU to its state after RESET. `boot` says that it is the boot CPU, which runs.
    pub(super) fn reset(&mut self, boot: bool) {
        self.backend.set_register(Reg::TscOffset, self.tsc_offset);
        self.backend.set_msr(msr::IA32_PAT, self.msrs.pat());
        self.xcr0 = xcr0::X87;
        self.reset_registers();
        if !boot && self.lapic.is_some() {
            self.mp_state = MpState::Uninitialized;
        }
    }

    /// INIT: as RESET, but that the FPU, most MSRs and the APIC's ID and base are kept.
    pub(super) fn reset_by_init(&mut self) {
        self.msrs.reset(MsrReset::Init);
        self.reset_paravirt();
        self.events.reset();
        if let Some(lapic) = self.lapic_mut() {
            lapic.reset(ApicReset::Init);
            self.arm(Timer::Stop);
        }
        self.publish_identity();
        self.reset_registers();
        let is_bsp = self.lapic.as_ref().is_some_and(|lapic| lapic.config().bsp);
        self.mp_state = if is_bsp {
            MpState::Runnable
        } else {
            MpState::InitReceived
        };
    }

    /// A start-up IPI: real mode at page `vector`.
    pub(super) fn start_at(&mut self, vector: u8) {
        let selector = u16::from(vector) << 8;
        let cs = Segment {
            ar: code_rights(),
            ..Segment::real_mode(selector)
        };
        self.backend.set_segment(Hidden::Seg(SegReg::Cs), &cs);
        self.backend.set_register(Reg::Rip, 0);
    }

    fn reset_registers(&mut self) {
        self.regs.gpr = [0; Gpr::COUNT];
        self.regs.gpr[Gpr::Rdx.index()] = RDX_RESET;
        self.regs.cr2 = 0;
        let backend = &mut self.backend;
        backend.set_register(Reg::Rip, RIP_RESET);
        backend.set_register(Reg::Rsp, 0);
        backend.set_register(Reg::Rflags, rflags::FIXED);
        backend.set_register(Reg::Efer, 0);
        backend.set_register(Reg::Cr0, CR0_RESET);
        backend.set_register(Reg::Cr3, 0);
        backend.set_register(Reg::Cr4, 0);
        let cs = Segment {
            selector: CS_SELECTOR_RESET,
            base: CS_BASE_RESET,
            ar: code_rights(),
            ..Segment::real_mode(0)
        };
        backend.set_segment(Hidden::Seg(SegReg::Cs), &cs);
        for reg in [SegReg::Es, SegReg::Ss, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            backend.set_segment(Hidden::Seg(reg), &Segment::real_mode(0));
        }
        let system = |kind| Segment {
            selector: 0,
            base: 0,
            limit: LIMIT_RESET.into(),
            ar: ar::P | kind,
        };
        backend.set_segment(Hidden::Ldtr, &system(ar::TYPE_LDT));
        backend.set_segment(Hidden::Tr, &system(ar::TYPE_TSS_BUSY));
        for reg in [Hidden::Gdtr, Hidden::Idtr] {
            backend.set_segment(reg, &Segment::table(0, LIMIT_RESET));
        }
        backend.set_blocking(Blocking::default());
        self.debug = DebugRegs::RESET;
        self.set_dr7(DebugRegs::RESET.dr7);
        self.set_cr8(0);
    }
}

/// Access rights of CS after RESET: a readable code segment, accessed.
const fn code_rights() -> u32 {
    ar::P | ar::S | ar::CODE | ar::READABLE | ar::ACCESSED
}
