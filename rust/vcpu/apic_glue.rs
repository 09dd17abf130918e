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
    backend::BackendVcpu,
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
        event::MpState,
        ioevent::Bus,
        x86::apic_base, //
    },
    uapi, //
};

/// The clocks of a vCPU.
pub(crate) struct VcpuClock {
    tsc_offset: u64,
}

impl Clock for VcpuClock {
    fn now_ns(&self) -> u64 {
        cpu::now_ns()
    }

    fn guest_tsc(&self) -> u64 {
        cpu::rdtsc().wrapping_add(self.tsc_offset)
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
            tsc_offset: self.tsc_offset,
        }
    }

    /// Moves what others have sent into the vCPU.
    pub(crate) fn collect(&mut self) {
        let passed = self
            .deadline
            .is_some_and(|deadline| cpu::rdtsc() >= deadline);
        if passed || self.shared.timer.take_fired() {
            let clock = self.clock();
            if let Some(lapic) = &mut self.lapic {
                let timer = lapic.timer_expired(&clock);
                self.arm(timer);
            }
        }
        let inbox = self.shared.inbox();
        if inbox.is_empty() {
            return;
        }
        let bits = inbox.take();
        if bits & news::INTERRUPT != 0 {
            if let Some(lapic) = &mut self.lapic {
                for word in 0..Inbox::WORDS {
                    let (requests, level) = inbox.take_word(word);
                    if requests != 0 {
                        lapic.accept_word(word, requests, level);
                    }
                }
            }
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
            Timer::TscDeadline(deadline) => Some(deadline.wrapping_sub(self.tsc_offset)),
            Timer::Stop | Timer::OneShotNs(_) => None,
        }
    }

    /// Has the APIC timer fire if it is due within `early` TSC ticks.
    pub(super) fn expire_timer_early(&mut self, early: u64) {
        let clock = VcpuClock {
            tsc_offset: self.tsc_offset.wrapping_add(early),
        };
        if let Some(lapic) = &mut self.lapic {
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
        let khz = u64::from(self.vm.tsc_khz()).max(1);
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

    /// Returns how many TSC ticks it takes until `timer` is due, [`MAX_TICKS`] at most: one that is further
    /// away is looked at again then.
    fn ticks_until(&self, timer: Timer) -> Option<u64> {
        match timer {
            Timer::Stop => None,
            Timer::OneShotNs(deadline) => {
                let ns = deadline.saturating_sub(cpu::now_ns()).min(MAX_TICKS);
                // A TSC ticks less than 2^23 times in a millisecond, so the product fits.
                let khz = u64::from(self.vm.tsc_khz()).min(MAX_KHZ);
                Some((ns * khz).div_ceil(NS_PER_MS).min(MAX_TICKS))
            }
            Timer::TscDeadline(deadline) => {
                let ticks = deadline.wrapping_sub(self.clock().guest_tsc());
                Some(if ticks as i64 <= 0 {
                    0
                } else {
                    ticks.min(MAX_TICKS)
                })
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

    /// Lets senders know of a new ID or mode.
    pub(crate) fn publish_identity(&mut self) {
        if let Some(lapic) = &self.lapic {
            self.shared.set_identity(lapic.identity());
        }
        self.note_extint();
    }

    /// Lets the PICs know whether their interrupts reach this vCPU, which LINT0 decides.
    fn note_extint(&mut self) {
        if let Some(lapic) = &self.lapic {
            if self.shared.set_takes_extint(lapic.accepts_extint()) {
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
            return self.vm.doorbells().ring(Bus::Memory, gpa, data);
        }
        true
    }

    fn apic_page(&mut self, gpa: u64) -> Option<(&mut Lapic, u32)> {
        let lapic = self.lapic.as_mut()?;
        let offset = lapic.mmio_offset(Gpa::new(gpa))?;
        Some((lapic, offset))
    }

    /// Whether the processor virtualises accesses of this vCPU's APIC page: it is an xAPIC at its address
    /// after reset.
    fn apic_in_place(&self) -> bool {
        self.lapic.as_ref().is_some_and(|lapic| {
            lapic.mode() == Mode::Xapic && lapic.address().raw() == apic_base::DEFAULT_ADDR
        })
    }

    /// Brings the virtualisation of the APIC's page in line with the APIC's mode and address.
    pub(super) fn update_apic_mode(&mut self) {
        if self.backend.apic_page().is_none() {
            return;
        }
        let in_place = self.apic_in_place();
        self.apic_virtualized = in_place;
        self.backend.set_apic_mode(in_place);
        if !in_place {
            self.vm
                .memory()
                .unmap_apic_page(Gpa::new(apic_base::DEFAULT_ADDR).gfn());
        }
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
        gpa.gfn() == Gpa::new(apic_base::DEFAULT_ADDR).gfn() && self.apic_virtualized
    }

    /// Brings the copy of the APIC's registers that the guest reads up to date.
    #[inline]
    pub(super) fn mirror_apic(&mut self) {
        if !self.apic_virtualized {
            return;
        }
        if let Some(lapic) = &mut self.lapic {
            if !lapic.has_unmirrored() {
                return;
            }
            if let Some(page) = self.backend.apic_page() {
                lapic.mirror(|offset, value| page.write(offset as u16, value));
            }
        }
    }

    /// Takes over what the guest has written without an exit.
    fn take_silent_writes(&mut self) {
        if !self.apic_virtualized {
            return;
        }
        let clock = self.clock();
        if let (Some(page), Some(lapic)) = (self.backend.apic_page(), &mut self.lapic) {
            let high = page.read(ICR_HIGH);
            let _none = lapic.mmio_write(ICR_HIGH.into(), 4, high.into(), &clock);
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
        if change.mode || change.address {
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
        let lapic = self.lapic.as_mut().ok_or(EINVAL)?;
        let timer = lapic.set_state(&image, &clock)?;
        self.arm(timer);
        self.publish_identity();
        Ok(())
    }
}
