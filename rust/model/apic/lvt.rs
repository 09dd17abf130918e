// SPDX-License-Identifier: GPL-2.0-only

//! The local vector table. SDM vol. 3, "Handling Local Interrupts".

use super::regs::{
    Reg, DELIVERY_MASK, DELIVERY_SHIFT, LVT_MASKED, LVT_POLARITY, LVT_REMOTE_IRR,
    LVT_TIMER_PERIODIC, LVT_TIMER_TSC_DEADLINE, TRIGGER_LEVEL, VECTOR_MASK,
};
use super::{Accepted, Lapic, Mode};
use crate::model::msi::{DeliveryMode, Trigger};

/// Index of the highest LVT entry without the CMCI entry.
pub(super) const MAX_LVT: u32 = 5;
/// Index of the highest LVT entry with the CMCI entry.
pub(super) const MAX_LVT_WITH_CMCI: u32 = 6;

/// An entry that hands the pin to an external 8259.
pub(super) const EXTINT_UNMASKED: u32 = (DeliveryMode::ExtInt as u32) << DELIVERY_SHIFT;

/// An entry of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lvt {
    /// Corrected machine check.
    Cmci,
    /// The APIC timer.
    Timer,
    /// The thermal sensor.
    Thermal,
    /// Performance-counter overflow.
    Perf,
    /// Pin LINT0, where a PC has its 8259.
    Lint0,
    /// Pin LINT1, where a PC has its NMI.
    Lint1,
    /// An error that the APIC detected.
    Error,
}

/// What the processor gets from a local source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LvtEvent {
    /// Nothing: masked, disabled or reserved.
    None,
    /// A vector is pending in IRR.
    Interrupt,
    /// An NMI.
    Nmi,
    /// An SMI.
    Smi,
    /// An INIT.
    Init,
    /// An interrupt whose vector the external 8259 knows.
    ExtInt,
}

/// What a processor takes from LINT0, which leads to all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Lint0 {
    /// Nothing.
    #[default]
    Nothing,
    /// The 8259's interrupts.
    ExtInt,
    /// The ticks of the PIT as NMIs, for a watchdog.
    Nmi,
}

impl Lvt {
    /// All entries.
    pub const ALL: [Self; 7] = [
        Self::Cmci,
        Self::Timer,
        Self::Thermal,
        Self::Perf,
        Self::Lint0,
        Self::Lint1,
        Self::Error,
    ];

    /// Returns the entry's register.
    pub const fn reg(self) -> Reg {
        match self {
            Self::Cmci => Reg::LVT_CMCI,
            Self::Timer => Reg::LVT_TIMER,
            Self::Thermal => Reg::LVT_THERMAL,
            Self::Perf => Reg::LVT_PERF,
            Self::Lint0 => Reg::LVT_LINT0,
            Self::Lint1 => Reg::LVT_LINT1,
            Self::Error => Reg::LVT_ERROR,
        }
    }

    /// Returns the entry whose register is `reg`.
    pub fn from_reg(reg: Reg) -> Option<Self> {
        Self::ALL.into_iter().find(|lvt| lvt.reg() == reg)
    }

    /// Returns the bits that a write may change. SDM vol. 3, figure "Local Vector Table (LVT)".
    const fn writable(self, tsc_deadline: bool) -> u32 {
        let common = VECTOR_MASK | LVT_MASKED;
        match self {
            Self::Timer if tsc_deadline => common | LVT_TIMER_PERIODIC | LVT_TIMER_TSC_DEADLINE,
            Self::Timer => common | LVT_TIMER_PERIODIC,
            Self::Cmci | Self::Thermal | Self::Perf => common | DELIVERY_MASK,
            Self::Lint0 | Self::Lint1 => common | DELIVERY_MASK | LVT_POLARITY | TRIGGER_LEVEL,
            Self::Error => common,
        }
    }

    /// Returns the entry's read-only bits that are not reserved, besides the delivery status.
    pub(super) const fn read_only(self) -> u32 {
        match self {
            Self::Lint0 | Self::Lint1 => LVT_REMOTE_IRR,
            _ => 0,
        }
    }

    /// Returns whether the entry has a delivery-mode field; the others are always fixed.
    const fn has_delivery_mode(self) -> bool {
        !matches!(self, Self::Timer | Self::Error)
    }
}

impl Lapic {
    /// Returns whether this APIC has the entry.
    pub(super) fn has_lvt(&self, lvt: Lvt) -> bool {
        lvt != Lvt::Cmci || self.config.cmci
    }

    /// Returns the bits of `lvt` that a write may change.
    pub(super) fn lvt_writable(&self, lvt: Lvt) -> u32 {
        lvt.writable(self.config.tsc_deadline)
    }

    /// Writes an entry; a software-disabled APIC keeps it masked.
    pub(super) fn write_lvt(&mut self, lvt: Lvt, value: u32) {
        let reg = lvt.reg();
        let kept = self.regs.get(reg) & lvt.read_only();
        let mut entry = (value & self.lvt_writable(lvt)) | kept;
        if !self.software_enabled() {
            entry |= LVT_MASKED;
        }
        if entry & TRIGGER_LEVEL == 0 {
            entry &= !LVT_REMOTE_IRR;
        }
        self.regs.set(reg, entry);
    }

    /// Masks all entries, as disabling the APIC by software does.
    pub(super) fn mask_all_lvts(&mut self) {
        for lvt in Lvt::ALL {
            if self.has_lvt(lvt) {
                self.regs
                    .set(lvt.reg(), self.regs.get(lvt.reg()) | LVT_MASKED);
            }
        }
    }

    /// Signals a local source once: an edge, or a level that has become active.
    ///
    /// A level-triggered pin whose last interrupt has not seen its EOI says nothing. With the APIC
    /// disabled by IA32_APIC_BASE the pins are the processor's INTR and NMI.
    pub fn accept_lvt(&mut self, lvt: Lvt) -> LvtEvent {
        if self.mode == Mode::Disabled {
            return match lvt {
                Lvt::Lint0 => LvtEvent::ExtInt,
                Lvt::Lint1 => LvtEvent::Nmi,
                _ => LvtEvent::None,
            };
        }
        let entry = self.regs.get(lvt.reg());
        if !self.has_lvt(lvt) || entry & LVT_MASKED != 0 {
            return LvtEvent::None;
        }
        let delivery = if lvt.has_delivery_mode() {
            DeliveryMode::from_bits(entry >> DELIVERY_SHIFT)
        } else {
            DeliveryMode::Fixed
        };
        let event = match delivery {
            DeliveryMode::Fixed => self.accept_fixed_lvt(lvt, entry),
            DeliveryMode::Nmi => LvtEvent::Nmi,
            DeliveryMode::Smi => LvtEvent::Smi,
            DeliveryMode::Init => LvtEvent::Init,
            DeliveryMode::ExtInt if matches!(lvt, Lvt::Lint0 | Lvt::Lint1) => LvtEvent::ExtInt,
            _ => LvtEvent::None,
        };
        if lvt == Lvt::Perf && event != LvtEvent::None {
            // SDM vol. 3, "Generating an Interrupt on Overflow": the handler has to unmask it.
            self.regs.set(Reg::LVT_PERF, entry | LVT_MASKED);
        }
        event
    }

    /// Delivers an unmasked entry in fixed mode.
    fn accept_fixed_lvt(&mut self, lvt: Lvt, entry: u32) -> LvtEvent {
        let level = lvt.read_only() & LVT_REMOTE_IRR != 0 && entry & TRIGGER_LEVEL != 0;
        if level && entry & LVT_REMOTE_IRR != 0 {
            return LvtEvent::None;
        }
        let vector = (entry & VECTOR_MASK) as u8;
        if self.accept_fixed(vector, Trigger::from_bit(level)) == Accepted::Refused {
            return LvtEvent::None;
        }
        if level {
            self.regs.set(lvt.reg(), entry | LVT_REMOTE_IRR);
        }
        LvtEvent::Interrupt
    }

    /// Ends the wait of the pins whose level interrupt was `vector`.
    pub(super) fn clear_remote_irr(&mut self, vector: u8) {
        for lvt in [Lvt::Lint0, Lvt::Lint1] {
            let entry = self.regs.get(lvt.reg());
            if entry & VECTOR_MASK == u32::from(vector) {
                self.regs.set(lvt.reg(), entry & !LVT_REMOTE_IRR);
            }
        }
    }

    /// Returns what comes in by LINT0, or by INTR when the APIC is disabled.
    pub fn lint0(&self) -> Lint0 {
        if self.mode == Mode::Disabled {
            return Lint0::ExtInt;
        }
        let entry = self.regs.get(Reg::LVT_LINT0);
        match DeliveryMode::from_bits(entry >> DELIVERY_SHIFT) {
            _ if entry & LVT_MASKED != 0 => Lint0::Nothing,
            DeliveryMode::ExtInt => Lint0::ExtInt,
            DeliveryMode::Nmi => Lint0::Nmi,
            _ => Lint0::Nothing,
        }
    }

    /// Returns whether an interrupt of the 8259 reaches this processor.
    pub fn accepts_extint(&self) -> bool {
        self.lint0() == Lint0::ExtInt
    }
}
