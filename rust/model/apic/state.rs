// SPDX-License-Identifier: GPL-2.0-only

//! The register image of `KVM_GET_LAPIC` and `KVM_SET_LAPIC`.
//!
//! The image is the first 1024 bytes of the register page, 4 bytes little-endian at every multiple of
//! 16. In x2APIC mode the ID is in bits 31:24 unless the VMM asked for 32-bit IDs, and the ICR is split
//! into its two xAPIC halves. IA32_APIC_BASE and IA32_TSC_DEADLINE travel as MSRs.

use super::lvt::Lvt;
use super::regs::{
    Reg, BANK_LEN, DFR_ONES, FIRST_VECTOR, REG_COUNT, REG_SHIFT, XAPIC_ID_MASK, XAPIC_ID_SHIFT,
};
use super::timer::{Clock, Timer};
use super::vectors::VectorSet;
use super::{ipi, Lapic, Mode};
use crate::model::errno::Errno;

/// Bytes of the image (`KVM_APIC_REG_SIZE`).
pub const STATE_BYTES: usize = REG_COUNT << REG_SHIFT;

/// Bytes of a register in the image.
const REG_BYTES: usize = 4;

/// Registers that are taken over as they are, but for reserved bits.
const PLAIN: [Reg; 8] = [
    Reg::TPR,
    Reg::LDR,
    Reg::DFR,
    Reg::SVR,
    Reg::ICR,
    Reg::ICR_HIGH,
    Reg::TIMER_INITIAL,
    Reg::TIMER_DIVIDE,
];

fn image_get(image: &[u8; STATE_BYTES], reg: Reg) -> u32 {
    let bytes = image
        .get(reg.offset()..)
        .and_then(|tail| tail.first_chunk::<REG_BYTES>());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn image_set(image: &mut [u8; STATE_BYTES], reg: Reg, value: u32) {
    let tail = image.get_mut(reg.offset()..);
    if let Some(bytes) = tail.and_then(|tail| tail.first_chunk_mut::<REG_BYTES>()) {
        *bytes = value.to_le_bytes();
    }
}

fn image_get_set(image: &[u8; STATE_BYTES], first: Reg) -> VectorSet {
    let mut set = VectorSet::new();
    for index in 0..usize::from(BANK_LEN) {
        set.set_register(index, image_get(image, first.nth(index)));
    }
    set
}

impl Lapic {
    /// Writes the image into `image`.
    ///
    /// A timer whose time has come is fired first, so that its interrupt is in the image; the glue arms
    /// the host timer as the answer says.
    pub fn get_state<C: Clock>(&mut self, image: &mut [u8; STATE_BYTES], clock: &C) -> Timer {
        let timer = self.timer_expired(clock);
        image.fill(0);
        for reg in PLAIN {
            image_set(image, reg, self.regs.get(reg));
        }
        for lvt in Lvt::ALL {
            image_set(image, lvt.reg(), self.regs.get(lvt.reg()));
        }
        for (first, set) in [
            (Reg::ISR, &self.isr),
            (Reg::TMR, &self.tmr),
            (Reg::IRR, &self.irr),
        ] {
            for index in 0..usize::from(BANK_LEN) {
                image_set(image, first.nth(index), set.register(index));
            }
        }
        image_set(image, Reg::ID, self.image_id());
        image_set(image, Reg::VERSION, self.version());
        image_set(image, Reg::PPR, u32::from(self.ppr()));
        image_set(image, Reg::ESR, self.regs.get(Reg::ESR));
        image_set(image, Reg::TIMER_CURRENT, self.current_count(clock));
        timer
    }

    /// Returns the ID register in the image's format.
    fn image_id(&self) -> u32 {
        match self.mode {
            Mode::X2apic if !self.config.wide_ids => self.config.apic_id << XAPIC_ID_SHIFT,
            Mode::X2apic => self.config.apic_id,
            _ => self.regs.get(Reg::ID),
        }
    }

    /// Takes over the state in `image` for the current mode and restarts the timer; the glue arms the
    /// host timer as the answer says and publishes the identity.
    ///
    /// Reserved bits, vectors below 16 and the read-only version and PPR are ignored.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`], with nothing changed, when IDs are 32 bits wide and the image's x2APIC ID is
    /// another vCPU's. With 8-bit IDs the image's x2APIC ID is ignored, as KVM does.
    pub fn set_state<C: Clock>(
        &mut self,
        image: &[u8; STATE_BYTES],
        clock: &C,
    ) -> Result<Timer, Errno> {
        let id = image_get(image, Reg::ID);
        let x2apic = self.mode == Mode::X2apic;
        if x2apic && self.config.wide_ids && id != self.config.apic_id {
            return Err(Errno::Invalid);
        }
        self.irr = image_get_set(image, Reg::IRR);
        self.isr = image_get_set(image, Reg::ISR);
        self.tmr = image_get_set(image, Reg::TMR);
        for vector in 0..FIRST_VECTOR {
            self.irr.remove(vector);
            self.isr.remove(vector);
        }
        self.errors = 0;
        self.regs.set(Reg::ESR, image_get(image, Reg::ESR));
        for lvt in Lvt::ALL {
            if self.has_lvt(lvt) {
                let bits = self.lvt_writable(lvt) | lvt.read_only();
                self.regs.set(lvt.reg(), image_get(image, lvt.reg()) & bits);
            }
        }
        // A change of mode clears the initial count, so it comes before the plain registers.
        self.update_timer_mode();
        for reg in PLAIN {
            if let Some(bits) = self.image_bits(reg) {
                self.regs.set(reg, image_get(image, reg) & bits);
            }
        }
        self.set_image_id(id);
        self.update_tops();
        Ok(self.restart_at(image_get(image, Reg::TIMER_CURRENT), clock))
    }

    /// Returns the bits of a plain register that an image may set.
    fn image_bits(&self, reg: Reg) -> Option<u32> {
        match reg {
            Reg::ICR_HIGH | Reg::DFR if self.mode == Mode::X2apic => Some(u32::MAX),
            _ => self.writable(reg),
        }
    }

    /// Sets the ID and what depends on it.
    fn set_image_id(&mut self, id: u32) {
        if self.mode == Mode::X2apic {
            self.regs.set(Reg::ID, self.config.apic_id);
            self.regs
                .set(Reg::LDR, ipi::x2apic_ldr(self.config.apic_id));
        } else {
            self.regs.set(Reg::ID, id & XAPIC_ID_MASK);
        }
        self.regs.set(Reg::DFR, self.regs.get(Reg::DFR) | DFR_ONES);
    }
}
