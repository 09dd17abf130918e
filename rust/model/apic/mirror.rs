// SPDX-License-Identifier: GPL-2.0-only

//! The copy of the registers that a processor serves a guest's reads from: the virtual-APIC page of VMX,
//! the backing page of AVIC. SDM vol. 3, "Virtualizing Memory-Mapped APIC Accesses".
//!
//! The model stays the original. It notes which registers have changed, so that bringing the copy up to
//! date before an entry costs something only after a change.
//!
//! Where the processor delivers the interrupts by itself, the copy is the original of IRR, ISR and ICR from an
//! entry on, until [`Lapic::adopt`] takes them back. In between nobody may ask the model for an interrupt or a
//! priority; the glue sees to that. TMR is the model's always: from it follow the completions that must exit.

use super::regs::{Reg, BANK_LEN, ICR_WRITABLE, REG_COUNT, XAPIC_ID_MASK};
use super::{Lapic, Mode};

/// Offset of a register in the page, in bytes, from its number.
const REG_SHIFT: u32 = 4;

impl Lapic {
    /// Returns true if the copy is out of date.
    #[inline]
    pub fn has_unmirrored(&self) -> bool {
        self.regs.changed() != 0
            || self.irr.changed() != 0
            || self.isr.changed() != 0
            || self.tmr.changed() != 0
    }

    /// Calls `store` with the offset, in bytes, and the value of each register that has changed since the
    /// last call. TPR is left out: the processor writes it by itself.
    pub fn mirror(&mut self, mut store: impl FnMut(u32, u32)) {
        let changed = self.regs.take_changed();
        for number in 0..REG_COUNT as u8 {
            if changed >> number & 1 != 0 && number != Reg::TPR.number() as u8 {
                let value = if number == Reg::VERSION.number() as u8 {
                    self.version()
                } else {
                    self.regs.by_number(number)
                };
                store(u32::from(number) << REG_SHIFT, value);
            }
        }
        for (first, set) in [
            (Reg::ISR, &mut self.isr),
            (Reg::TMR, &mut self.tmr),
            (Reg::IRR, &mut self.irr),
        ] {
            let changed = set.take_changed();
            for index in 0..BANK_LEN {
                if changed >> index & 1 != 0 {
                    let number = first.number() as u32 + u32::from(index);
                    store(number << REG_SHIFT, set.register(usize::from(index)));
                }
            }
        }
    }

    /// Returns whether TMR has changed since the last [`Lapic::mirror`].
    #[inline]
    pub const fn has_new_triggers(&self) -> bool {
        self.tmr.changed() != 0
    }

    /// Returns word `index`, 0 to 3, of the vectors whose last interrupt was level triggered, so that
    /// their completion must be heard of. SDM vol. 3, "EOI Virtualization".
    pub fn level_vectors(&self, index: usize) -> u64 {
        self.tmr.word(index)
    }

    /// Returns the guest interrupt status: the highest requested vector (RVI) in bits 7:0 and the highest
    /// in service (SVI) in bits 15:8, 0 for none. SDM vol. 3, "Guest Non-Register State".
    #[inline]
    pub const fn interrupt_status(&self) -> u16 {
        (self.isr_top as u16) << 8 | self.irr_top as u16
    }

    /// Takes over what a processor that delivers interrupts has changed in the copy, whose registers `load`
    /// returns by their offset in bytes: IRR, ISR, and the ICR of an interrupt that the guest has sent to
    /// itself.
    pub fn adopt(&mut self, load: impl Fn(u32) -> u32) {
        let offset =
            |first: Reg, index: usize| first.offset() as u32 + ((index as u32) << REG_SHIFT);
        self.irr.adopt(|index| load(offset(Reg::IRR, index)));
        self.isr.adopt(|index| load(offset(Reg::ISR, index)));
        // In x2APIC mode every write of ICR exits.
        if self.mode == Mode::Xapic {
            for (reg, bits) in [(Reg::ICR, ICR_WRITABLE), (Reg::ICR_HIGH, XAPIC_ID_MASK)] {
                let value = load(offset(reg, 0)) & bits;
                if value != self.regs.get(reg) {
                    self.regs.set(reg, value);
                }
            }
        }
        self.update_tops();
    }

    /// Says that the guest has changed the copy at `offset`, so that it is written again.
    pub fn mark_unmirrored(&mut self, offset: u32) {
        self.regs.mark((offset >> REG_SHIFT) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::apic::{Clock, Config};
    use crate::model::msi::Trigger;

    struct Still;

    impl Clock for Still {
        fn now_ns(&self) -> u64 {
            0
        }
        fn guest_tsc(&self) -> u64 {
            0
        }
    }

    /// Offsets that a processor serves by itself (SDM vol. 3 section 30.4.2), but for TPR.
    fn served() -> impl Iterator<Item = u32> {
        [0x20, 0x30, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x300, 0x310]
            .into_iter()
            .chain((0x100..0x280).step_by(16))
            .chain((0x320..0x390).step_by(16))
            .chain([0x3e0])
    }

    fn check(lapic: &mut Lapic, page: &mut [u32; 256]) {
        lapic.mirror(|offset, value| page[offset as usize / 4] = value);
        assert!(!lapic.has_unmirrored());
        for offset in served() {
            assert_eq!(
                u64::from(page[offset as usize / 4]),
                lapic.mmio_read(offset, 4, &Still),
                "offset {offset:#x}"
            );
        }
    }

    #[test]
    fn copy_follows_every_change() {
        let mut lapic = Lapic::new(Config::new(3, false));
        let mut page = [0xdead_beef; 256];
        check(&mut lapic, &mut page);
        for (offset, value) in [
            (0xf0, 0x1ff),
            (0xd0, 0x0200_0000),
            (0x320, 0x2_0041),
            (0x3e0, 0xb),
            (0x310, 0x0500_0000),
            (0x300, 0x4_0033),
            (0x280, 1),
        ] {
            let _ = lapic.mmio_write(offset, 4, value, &Still);
            assert!(lapic.has_unmirrored() || offset == 0x280);
            check(&mut lapic, &mut page);
        }
        let _ = lapic.accept_fixed(0x41, Trigger::Level);
        check(&mut lapic, &mut page);
        lapic.accept_word(2, 1 << 5 | 1 << 63, 1 << 5);
        check(&mut lapic, &mut page);
        assert_eq!(lapic.acknowledge(), Some(0xbf));
        check(&mut lapic, &mut page);
        let _ = lapic.eoi();
        check(&mut lapic, &mut page);
        assert!(!lapic.has_unmirrored());
    }

    #[test]
    fn what_the_guest_changed_is_written_again() {
        let mut lapic = Lapic::new(Config::new(0, true));
        let mut page = [0; 256];
        check(&mut lapic, &mut page);
        // The version is read-only, whatever the guest left in the copy.
        page[0x30 / 4] = 7;
        lapic.mark_unmirrored(0x30);
        check(&mut lapic, &mut page);
    }
}
