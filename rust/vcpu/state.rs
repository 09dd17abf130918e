// SPDX-License-Identifier: GPL-2.0-only

//! The ioctls that save and restore the rest of a vCPU's state: FPU and extended state, XCR0, debug
//! registers, events, and the multiprocessing state.

use kernel::prelude::*;

use super::State;
use crate::{
    backend::{
        BackendVcpu,
        Blocking, //
    },
    host::{
        cpu::IrqOff,
        fpu::XSAVE_SIZE,
        user, //
    },
    model::{
        addr::Hva,
        apic::Mode,
        event::{
            MpState,
            Options,
            Shown,
            VcpuEvents, //
        },
        sregs::DebugRegs,
        xstate::{
            self,
            bit, //
        }, //
    },
    uapi, //
};

/// `KVM_X86_SHADOW_INT_MOV_SS` and `KVM_X86_SHADOW_INT_STI`.
const SHADOW_MOV_SS: u8 = 1;
const SHADOW_STI: u8 = 2;

/// Offsets in the legacy region of an XSAVE image (SDM vol. 1, table 10-2).
const FXSAVE_FCW: usize = 0;
const FXSAVE_FSW: usize = 2;
const FXSAVE_FTW: usize = 4;
const FXSAVE_FOP: usize = 6;
const FXSAVE_RIP: usize = 8;
const FXSAVE_RDP: usize = 16;
const FXSAVE_MXCSR: usize = 24;
const FXSAVE_ST: usize = 32;
const FXSAVE_XMM: usize = 160;

/// Bytes of the eight x87 and of the sixteen XMM registers there.
const ST_BYTES: usize = 128;
const XMM_BYTES: usize = 256;

/// MXCSR bits of every processor with SSE2 and DAZ.
const MXCSR_MASK: u32 = 0xffff;

impl State {
    /// Returns the extended state in XSAVE's standard format.
    fn xsave_image(&mut self) -> Result<KVVec<u8>> {
        let size = self.fpu.uabi_size().max(XSAVE_SIZE);
        let mut image = KVVec::from_elem(0u8, size, GFP_KERNEL_ACCOUNT)?;
        let features = self.guest.xcr0 | bit::LEGACY;
        self.fpu.copy_out(&mut image, features);
        Ok(image)
    }

    fn load_image(&mut self, image: &[u8]) -> Result {
        let allowed = self.guest.xcr0 | bit::LEGACY;
        xstate::check_standard(image, allowed, MXCSR_MASK)?;
        self.fpu.copy_in(image, allowed)
    }

    pub(super) fn get_xsave(&mut self, arg: usize) -> Result {
        let image = self.xsave_image()?;
        let bytes = image.get(..XSAVE_SIZE).ok_or(EINVAL)?;
        user::copy_out(Hva::new(arg as u64), bytes)
    }

    pub(super) fn set_xsave(&mut self, arg: usize) -> Result {
        let size = self.fpu.uabi_size().max(XSAVE_SIZE);
        let mut image = KVVec::from_elem(0u8, size, GFP_KERNEL_ACCOUNT)?;
        user::copy_in(Hva::new(arg as u64), &mut image)?;
        self.load_image(&image)
    }

    pub(super) fn get_fpu(&mut self, arg: usize) -> Result {
        let image = self.xsave_image()?;
        let mut fpu = KBox::new(uapi::kvm_fpu::default(), GFP_KERNEL)?;
        let bytes = |at: usize, count: usize| image.get(at..at + count).unwrap_or(&[]);
        let word = |at: usize, count: usize| {
            bytes(at, count)
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        fpu.fcw = word(FXSAVE_FCW, 2) as u16;
        fpu.fsw = word(FXSAVE_FSW, 2) as u16;
        fpu.ftwx = word(FXSAVE_FTW, 1) as u8;
        fpu.last_opcode = word(FXSAVE_FOP, 2) as u16;
        fpu.last_ip = word(FXSAVE_RIP, 8);
        fpu.last_dp = word(FXSAVE_RDP, 8);
        fpu.mxcsr = word(FXSAVE_MXCSR, 4) as u32;
        let registers = fpu.fpr.as_flattened_mut().iter_mut();
        for (to, from) in registers.zip(bytes(FXSAVE_ST, ST_BYTES)) {
            *to = *from;
        }
        let registers = fpu.xmm.as_flattened_mut().iter_mut();
        for (to, from) in registers.zip(bytes(FXSAVE_XMM, XMM_BYTES)) {
            *to = *from;
        }
        uapi::put(arg, &*fpu)
    }

    pub(super) fn set_fpu(&mut self, arg: usize) -> Result {
        let fpu: KBox<uapi::kvm_fpu> = KBox::new(uapi::get(arg)?, GFP_KERNEL)?;
        let mut image = self.xsave_image()?;
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in image.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        put(FXSAVE_FCW, &fpu.fcw.to_le_bytes());
        put(FXSAVE_FSW, &fpu.fsw.to_le_bytes());
        put(FXSAVE_FTW, &[fpu.ftwx]);
        put(FXSAVE_FOP, &fpu.last_opcode.to_le_bytes());
        put(FXSAVE_RIP, &fpu.last_ip.to_le_bytes());
        put(FXSAVE_RDP, &fpu.last_dp.to_le_bytes());
        put(FXSAVE_MXCSR, &(fpu.mxcsr & MXCSR_MASK).to_le_bytes());
        put(FXSAVE_ST, fpu.fpr.as_flattened());
        put(FXSAVE_XMM, fpu.xmm.as_flattened());
        // The image now has x87 and SSE state, whatever it had before.
        if let Some(header) = image.get_mut(xstate::HEADER_OFFSET) {
            *header |= bit::LEGACY as u8;
        }
        self.load_image(&image)
    }

    pub(super) fn get_xcrs(&self) -> uapi::kvm_xcrs {
        let mut xcrs = uapi::kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = self.xcr0;
        xcrs
    }

    pub(super) fn set_xcrs(&mut self, xcrs: &uapi::kvm_xcrs) -> Result {
        if xcrs.nr_xcrs > uapi::KVM_MAX_XCRS || xcrs.flags != 0 {
            return Err(EINVAL);
        }
        let given = xcrs.xcrs.get(..xcrs.nr_xcrs as usize).unwrap_or(&[]);
        for entry in given {
            if entry.xcr == 0 {
                return self.set_xcr(0, entry.value);
            }
        }
        Ok(())
    }

    pub(super) fn get_debugregs(&self) -> uapi::kvm_debugregs {
        uapi::kvm_debugregs {
            db: self.debug.address,
            dr6: self.debug.dr6,
            dr7: self.debug.dr7,
            ..Default::default()
        }
    }

    pub(super) fn set_debugregs(&mut self, given: &uapi::kvm_debugregs) -> Result {
        let debug = DebugRegs {
            address: given.db,
            dr6: given.dr6,
            dr7: given.dr7,
        };
        debug.check(given.flags)?;
        self.debug = debug;
        self.set_dr7(debug.dr7);
        Ok(())
    }

    pub(super) fn get_events(&mut self) -> VcpuEvents {
        self.collect();
        // Without KVM_CAP_EXCEPTION_PAYLOAD the VMM looks for the payload in CR2 and DR6.
        if let Some(exception) = self.events.pending_exception().copied() {
            self.deliver_payload(&exception);
            self.events.take_payload();
        }
        let irq = IrqOff::new();
        let blocking = self.backend.blocking(&irq);
        drop(irq);
        let mut shadow = 0;
        if blocking.mov_ss {
            shadow |= SHADOW_MOV_SS;
        }
        if blocking.sti {
            shadow |= SHADOW_STI;
        }
        let shown = Shown {
            shadow,
            nmi_masked: blocking.nmi,
            latched_init: false,
        };
        self.events.save(shown, Options::default())
    }

    pub(super) fn set_events(&mut self, events: &VcpuEvents) -> Result {
        let restored = self.events.restore(events, Options::default())?;
        let irq = IrqOff::new();
        let old = self.backend.blocking(&irq);
        drop(irq);
        let (sti, mov_ss) = match restored.shadow {
            Some(shadow) => (shadow & SHADOW_STI != 0, shadow & SHADOW_MOV_SS != 0),
            None => (old.sti, old.mov_ss),
        };
        self.backend.set_blocking(Blocking {
            interrupts_enabled: old.interrupts_enabled,
            sti,
            mov_ss,
            nmi: restored.nmi_masked,
        });
        Ok(())
    }

    pub(super) fn get_mp_state(&mut self) -> uapi::kvm_mp_state {
        self.collect();
        uapi::kvm_mp_state {
            mp_state: self.mp_state.raw(),
        }
    }

    pub(super) fn set_mp_state(&mut self, given: &uapi::kvm_mp_state) -> Result {
        let state = MpState::from_raw(given.mp_state, self.lapic.is_some())?;
        let disabled = self
            .lapic
            .as_ref()
            .is_some_and(|lapic| lapic.mode() == Mode::Disabled);
        match state {
            // No INIT reaches an APIC that is off.
            MpState::InitReceived | MpState::SipiReceived if disabled => return Err(EINVAL),
            MpState::SipiReceived => {
                self.mp_state = MpState::InitReceived;
                let vector = self.shared.inbox().start_vector();
                self.shared.start_up(vector);
            }
            state => self.mp_state = state,
        }
        Ok(())
    }
}
