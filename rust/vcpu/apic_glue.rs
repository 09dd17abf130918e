// SPDX-License-Identifier: GPL-2.0-only

//! The local APIC of a vCPU: what reaches it, what it sends, and its timer.

use kernel::prelude::*;

use super::{
    table::{
        news,
        Inbox, //
    },
    State, //
};
use crate::{
    backend::{
        ApicHelp,
        BackendVcpu, //
    },
    host::cpu::{
        self,
        IrqOff, //
    },
    irqchip::deliver,
    model::{
        addr::Gpa,
        apic::{
            self,
            Clock,
            Effect,
            Gp,
            Initiator,
            Lapic,
            Mode,
            Timer, //
        },
        clock::guest::GuestTsc,
        event::MpState,
        ioevent::Bus,
        x86::apic_base, //
    },
    uapi, //
};

/// The clocks of a vCPU.
pub(crate) struct VcpuClock {
    tsc: GuestTsc,
    /// TSC ticks of the host's that this clock is ahead.
    ahead: u64,
}

impl Clock for VcpuClock {
    fn now_ns(&self) -> u64 {
        cpu::now_ns()
    }

    fn guest_tsc(&self) -> u64 {
        self.tsc.read(cpu::rdtsc().wrapping_add(self.ahead))
    }
}

/// TSC ticks that a deadline may be ahead when it is turned into time; a longer wait is cut into pieces.
const MAX_TICKS: u64 = 1 << 40;

/// The highest TSC frequency that is reckoned with, in kHz.
const MAX_KHZ: u64 = 1 << 23;

/// Bits of IA32_APIC_BASE that are reserved whatever the width of addresses: 7:0 and 9.
const APIC_BASE_RESERVED: u64 = 0x2ff;

/// The register that holds the destination of an inter-processor interrupt; the processor lets the guest
/// write it without an exit.
const ICR_HIGH: u16 = 0x310;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

impl State {
    pub(crate) fn clock(&self) -> VcpuClock {
        VcpuClock {
            tsc: self.tsc,
            ahead: 0,
        }
    }

    /// Moves what others have sent into the vCPU.
    pub(crate) fn collect(&mut self) {
        let passed = self
            .deadline
            .is_some_and(|deadline| cpu::rdtsc() >= deadline);
        if passed || self.shared.timer.take_fired() {
            self.expire_timer_early(0);
        }
        if self.shared.inbox().is_empty() {
            return;
        }
        let bits = self.shared.inbox().take();
        if bits & (news::INTERRUPT | news::WATCHED) != 0 {
            self.take_apic_back();
            self.exits_stale |= bits & news::WATCHED != 0;
        }
        if bits & news::INTERRUPT != 0 {
            let inbox = self.shared.inbox();
            if let Some(lapic) = &mut self.lapic {
                for word in 0..Inbox::WORDS {
                    let (requests, level) = inbox.take_word(word);
                    if requests != 0 {
                        lapic.accept_word(word, requests, level);
                    }
                }
            }
            self.take_posted();
        }
        if bits & news::EXTINT != 0 {
            self.extint = true;
        }
        self.take_paravirt_news(bits);
        if bits & news::NMI != 0 {
            let irq = IrqOff::new();
            let in_service = self.backend.blocking(&irq).nmi;
            drop(irq);
            self.events.pend_nmi(in_service);
        }
        if bits & (news::INIT | news::STARTUP) != 0 {
            self.start_signals(bits);
        }
    }

    /// INIT and start-up IPIs (SDM vol. 3, section 9.4).
    fn start_signals(&mut self, bits: u32) {
        if bits & news::INIT != 0 {
            self.reset_by_init();
        }
        if bits & news::STARTUP != 0 && self.mp_state == MpState::InitReceived {
            let vector = self.shared.inbox().start_vector();
            self.start_at(vector);
            self.mp_state = MpState::Runnable;
        }
    }

    /// Returns the host's TSC at which the APIC timer is due, if it waits for a TSC value.
    pub(super) fn timer_due(&self) -> Option<u64> {
        match self.timer {
            Timer::TscDeadline(_) => {
                let ticks = self.ticks_until(self.timer)?;
                Some(cpu::rdtsc().wrapping_add(ticks))
            }
            Timer::Stop | Timer::OneShotNs(_) => None,
        }
    }

    /// Has the APIC timer fire if it is due within `early` TSC ticks.
    pub(super) fn expire_timer_early(&mut self, early: u64) {
        let clock = VcpuClock {
            tsc: self.tsc,
            ahead: early,
        };
        if let Some(lapic) = self.lapic_mut() {
            let timer = lapic.timer_expired(&clock);
            self.arm(timer);
        }
    }

    /// Programs the APIC timer's next interrupt.
    ///
    /// While the guest runs, a timer of the processor's ends its run in time, if there is one: that costs a
    /// register write for each entry, and the host's timer, which takes hundreds of instructions to program,
    /// is needed only while the vCPU sleeps.
    pub(crate) fn arm(&mut self, timer: Timer) {
        self.timer = timer;
        if self.hardware.has_deadline() {
            self.deadline = self
                .ticks_until(timer)
                .map(|ticks| cpu::rdtsc().saturating_add(ticks));
        } else {
            self.arm_host_timer();
        }
    }

    /// Programs the host's timer for the APIC timer's next interrupt.
    pub(super) fn arm_host_timer(&self) {
        let khz = u64::from(cpu::tsc_khz()).max(1);
        let host = &self.shared.timer;
        match (self.timer, self.ticks_until(self.timer)) {
            (Timer::OneShotNs(deadline), _) => host.arm(deadline),
            // The product of 2^40 and 10^6 fits; rounding up keeps the timer from firing early.
            (_, Some(ticks)) => {
                let ns = (ticks * NS_PER_MS).div_ceil(khz);
                host.arm(cpu::now_ns().saturating_add(ns));
            }
            (_, None) => host.cancel(),
        }
    }

    /// Returns how many of the host's TSC ticks it takes until `timer` is due, [`MAX_TICKS`] at most: one that is further
    /// away is looked at again then.
    fn ticks_until(&self, timer: Timer) -> Option<u64> {
        match timer {
            Timer::Stop => None,
            Timer::OneShotNs(deadline) => {
                let ns = deadline.saturating_sub(cpu::now_ns()).min(MAX_TICKS);
                // A TSC ticks less than 2^23 times in a millisecond, so the product fits.
                let khz = u64::from(cpu::tsc_khz()).min(MAX_KHZ);
                Some((ns * khz).div_ceil(NS_PER_MS).min(MAX_TICKS))
            }
            Timer::TscDeadline(deadline) => {
                Some(self.tsc.ticks_until(deadline, cpu::rdtsc(), MAX_TICKS))
            }
        }
    }

    /// Carries out what the APIC asks for after a register access.
    pub(crate) fn apply_apic(&mut self, effect: Effect) {
        match effect {
            Effect::None => self.note_extint(),
            Effect::Ipi(ipi) => {
                deliver::send_ipi(&self.vm.memory().vcpus, self.shared.id, &ipi);
            }
            Effect::Eoi(eoi) => {
                if self.vm.interrupts().eoi(&eoi) {
                    self.completed = Some(eoi.vector);
                }
            }
            Effect::Timer(timer) => self.arm(timer),
            Effect::Identity => self.publish_identity(),
        }
    }

    /// Lets senders know of a new ID or mode, or that software has turned the APIC on or off.
    pub(crate) fn publish_identity(&mut self) {
        if let Some(lapic) = &self.lapic {
            self.shared.set_identity(lapic.identity());
        }
        self.update_apic_mode();
        self.note_extint();
    }

    /// Lets the PICs and the PIT know whether their interrupts reach this vCPU, which LINT0 decides.
    fn note_extint(&mut self) {
        if let Some(lapic) = &self.lapic {
            if self.shared.set_lint0(lapic.lint0()) {
                self.extint = true;
            }
        }
    }

    /// Reads a device of the kernel's. `false` when there is none at the address.
    pub(crate) fn device_read(&mut self, gpa: u64, data: &mut [u8]) -> bool {
        let clock = self.clock();
        let length = data.len() as u32;
        let value = if let Some((lapic, offset)) = self.apic_page(gpa) {
            lapic.mmio_read(offset, length, &clock)
        } else if let Some(offset) = self.vm.interrupts().ioapic_offset(gpa) {
            self.vm.interrupts().lines().ioapic_read(offset, length)
        } else {
            return false;
        };
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
        true
    }

    /// Writes the low `length` bytes of `value`, at most 8, to a device of the kernel's; what lies above them is 0.
    /// `false` when there is none at the address.
    pub(crate) fn device_write(&mut self, gpa: u64, value: u64, length: u32) -> bool {
        let clock = self.clock();
        if let Some((lapic, offset)) = self.apic_page(gpa) {
            let effect = lapic.mmio_write(offset, length, value, &clock);
            self.apply_apic(effect);
        } else if let Some(offset) = self.vm.interrupts().ioapic_offset(gpa) {
            self.vm.interrupts().ioapic_write(offset, length, value);
        } else {
            let bytes = value.to_le_bytes();
            let data = bytes.get(..length as usize).unwrap_or(&bytes);
            return self.vm.absorb(Bus::Memory, gpa, data);
        }
        true
    }

    fn apic_page(&mut self, gpa: u64) -> Option<(&mut Lapic, u32)> {
        let offset = self.lapic.as_ref()?.mmio_offset(Gpa::new(gpa))?;
        Some((self.lapic_mut()?, offset))
    }

    /// Returns how the processor may virtualise this vCPU's APIC: in x2APIC mode, and as an xAPIC at its
    /// address after reset.
    fn virtual_mode(&self) -> Mode {
        self.lapic.as_ref().map_or(Mode::Disabled, |lapic| {
            if lapic.address().raw() == apic_base::DEFAULT_ADDR || lapic.mode() == Mode::X2apic {
                lapic.mode()
            } else {
                Mode::Disabled
            }
        })
    }

    /// Brings the virtualisation of the APIC in line with its mode and address.
    pub(super) fn update_apic_mode(&mut self) {
        if self.backend.apic_page().is_none() {
            return;
        }
        let mode = self.virtual_mode();
        // What is pending when software turns the APIC off is delivered still, and what the guest then sends
        // to itself is not accepted: the processor does not know that.
        let enabled = (self.lapic.as_ref()).is_some_and(|lapic| lapic.software_enabled());
        if self.apic_mode == (mode, enabled) {
            return;
        }
        self.shared.posted.set_active(false);
        self.take_apic_back();
        self.take_posted();
        self.apic_help = self.backend.set_apic_mode(mode, enabled);
        let posts = self.apic_help == ApicHelp::Interrupts;
        self.shared.posted.set_active(posts);
        if mode != Mode::Xapic {
            self.vm
                .memory()
                .unmap_apic_page(Gpa::new(apic_base::DEFAULT_ADDR).gfn());
        }
        self.apic_mode = (mode, enabled);
        self.exits_stale = true;
    }

    /// Maps the APIC's page for a guest that has accessed it. Returns whether that helps.
    pub(crate) fn map_apic_page(&mut self, gpa: Gpa) -> Result<bool> {
        if !self.may_map_apic_page(gpa) {
            return Ok(false);
        }
        (self.vm.memory()).map_apic_page(&mut self.spare, gpa.gfn())
    }

    /// Whether accesses of the page of `gpa` may be left to the processor.
    #[inline(always)]
    pub(crate) fn may_map_apic_page(&self, gpa: Gpa) -> bool {
        gpa.gfn() == Gpa::new(apic_base::DEFAULT_ADDR).gfn()
            && self.apic_help != ApicHelp::None
            && self.virtual_mode() == Mode::Xapic
    }

    /// Brings the copy of the APIC's registers that the processor uses up to date, before an entry. Returns
    /// the task priority and the class below which a write of CR8 must exit.
    #[inline]
    pub(super) fn hand_over_apic(&mut self, irq: &IrqOff) -> (u8, u8) {
        let Some(lapic) = &mut self.lapic else {
            return (0, 0);
        };
        let tpr = lapic.tpr();
        if self.apic_help == ApicHelp::Interrupts {
            if self.shared.posted.is_outstanding() {
                self.take_apic_back();
                self.take_posted();
            }
            if !self.apic_away {
                self.hand_over_interrupts(irq);
            }
            return (tpr, 0);
        }
        let threshold = lapic.tpr_threshold();
        if self.apic_help == ApicHelp::Registers && lapic.has_unmirrored() {
            if let Some(page) = self.backend.apic_page() {
                lapic.mirror(|offset, value| page.write(offset as u16, value));
            }
        }
        (tpr, threshold)
    }

    /// Hands the interrupts over to the processor, which delivers them from here on.
    fn hand_over_interrupts(&mut self, irq: &IrqOff) {
        let Some(lapic) = &mut self.lapic else {
            return;
        };
        let stale = core::mem::take(&mut self.exits_stale) || lapic.has_new_triggers();
        let exits = stale.then(|| {
            let interrupts = self.vm.interrupts();
            core::array::from_fn(|word| lapic.level_vectors(word) | interrupts.watched(word))
        });
        if let Some(page) = self.backend.apic_page() {
            lapic.mirror(|offset, value| page.write(offset as u16, value));
        }
        let status = lapic.interrupt_status();
        self.backend.hand_over_interrupts(irq, status, exits);
        self.apic_away = true;
    }

    /// Takes the interrupts back from the processor, if it has them.
    #[inline]
    pub(super) fn take_apic_back(&mut self) {
        if self.apic_away {
            self.take_interrupts_back();
        }
    }

    fn take_interrupts_back(&mut self) {
        self.apic_away = false;
        if let (Some(page), Some(lapic)) = (self.backend.apic_page(), &mut self.lapic) {
            lapic.adopt(|offset| page.read(offset as u16));
        }
        if self.shared.posted.is_active() {
            self.shared.posted.before_taking();
            self.take_posted();
        }
    }

    /// Moves what others have posted to the processor, and it has not taken, into the APIC, which must be here.
    fn take_posted(&mut self) {
        let (Some(posted), Some(lapic)) = (self.shared.posted.take(), &mut self.lapic) else {
            return;
        };
        for (word, requests) in posted.into_iter().enumerate() {
            lapic.accept_word(word, requests, 0);
        }
    }

    /// Returns the local APIC for uses that its interrupts and priorities matter to. All others may look at
    /// the field.
    #[inline]
    pub(super) fn lapic_mut(&mut self) -> Option<&mut Lapic> {
        self.take_apic_back();
        self.lapic.as_deref_mut()
    }

    /// Takes over what the guest has written without an exit.
    fn take_silent_writes(&mut self) {
        self.take_apic_back();
        if self.apic_help != ApicHelp::Registers || self.apic_mode.0 != Mode::Xapic {
            return;
        }
        let clock = self.clock();
        if let (Some(page), Some(lapic)) = (self.backend.apic_page(), &mut self.lapic) {
            let high = page.read(ICR_HIGH);
            let _none = lapic.mmio_write(ICR_HIGH.into(), 4, high.into(), &clock);
        }
    }

    /// The processor has completed the interrupt `vector`, and someone must hear of it.
    pub(crate) fn apic_completed(&mut self, vector: u8) {
        if let Some(lapic) = self.lapic_mut() {
            let eoi = lapic.completed(vector);
            self.apply_apic(Effect::Eoi(eoi));
        }
    }

    /// The guest has written the register at `offset` of the copy, and the instruction is complete.
    pub(crate) fn apic_written(&mut self, offset: u16) {
        self.take_silent_writes();
        let clock = self.clock();
        let (Some(page), Some(lapic)) = (self.backend.apic_page(), &mut self.lapic) else {
            return;
        };
        let value = page.read(offset);
        let offset = u32::from(offset & 0xff0);
        lapic.mark_unmirrored(offset);
        let effect = lapic.mmio_write(offset, 4, value.into(), &clock);
        self.apply_apic(effect);
    }

    /// Returns IA32_APIC_BASE.
    pub(crate) fn apic_base(&self) -> u64 {
        self.lapic
            .as_ref()
            .map_or(self.apic_base, |lapic| lapic.base())
    }

    /// Sets IA32_APIC_BASE.
    pub(crate) fn set_apic_base(&mut self, value: u64, initiator: Initiator) -> Result<(), Gp> {
        self.take_apic_back();
        let Some(lapic) = &mut self.lapic else {
            if value & (self.guest.reserved_gpa_bits() | APIC_BASE_RESERVED) != 0 {
                return Err(Gp);
            }
            self.apic_base = value;
            return Ok(());
        };
        let change = lapic.write_base(value, initiator)?;
        if change.stop_timer {
            self.arm(Timer::Stop);
        }
        if change.mode {
            self.publish_identity();
            self.refresh_cpuid();
        }
        if change.address {
            self.update_apic_mode();
        }
        Ok(())
    }

    /// Returns CR8, the task-priority class.
    pub(crate) fn cr8(&self) -> u64 {
        self.lapic
            .as_ref()
            .map_or(self.cr8, |lapic| lapic.cr8().into())
    }

    /// Sets CR8, 0 to 15.
    pub(crate) fn set_cr8(&mut self, value: u64) {
        match &mut self.lapic {
            Some(lapic) => lapic.set_cr8(value as u8),
            None => self.cr8 = value,
        }
    }

    /// Takes over how the VMM wants APIC IDs.
    fn update_id_width(&mut self) {
        let wide_ids = self.vm.interrupts().lines().wide_ids();
        if let Some(lapic) = &mut self.lapic {
            let config = apic::Config {
                wide_ids,
                ..*lapic.config()
            };
            lapic.set_config(config);
        }
    }

    /// `KVM_GET_LAPIC`.
    pub(super) fn get_lapic(&mut self, arg: usize) -> Result {
        self.collect();
        self.take_silent_writes();
        let clock = self.clock();
        self.update_id_width();
        let lapic = self.lapic.as_mut().ok_or(EINVAL)?;
        let mut image = KBox::new([0u8; apic::STATE_BYTES], GFP_KERNEL)?;
        let timer = lapic.get_state(&mut image, &clock);
        self.arm(timer);
        uapi::put(arg, &*image)
    }

    /// `KVM_SET_LAPIC`.
    pub(super) fn set_lapic(&mut self, arg: usize) -> Result {
        let clock = self.clock();
        if self.lapic.is_none() {
            return Err(EINVAL);
        }
        let image: KBox<[u8; apic::STATE_BYTES]> = KBox::new(uapi::get(arg)?, GFP_KERNEL)?;
        self.update_id_width();
        let lapic = self.lapic_mut().ok_or(EINVAL)?;
        let timer = lapic.set_state(&image, &clock)?;
        self.arm(timer);
        self.publish_identity();
        Ok(())
    }
}
