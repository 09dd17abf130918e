// SPDX-License-Identifier: GPL-2.0-only

//! The I/O APIC: Intel's 82093AA with 24 pins. Section names are those of its data sheet (290566).
//!
//! [`Ioapic`] is told line changes, EOIs and register accesses and answers with the [`Message`]s to
//! send; it knows no local APIC. One lock in the glue protects it. Several sources may share a pin:
//! its level is the OR of theirs.
//!
//! An entry in level mode sets its remote IRR with the message and sends no other one until the EOI.
//! When the line is still asserted then, the interrupt is sent again at once. A guest that does not
//! silence its device would get no further than its handler, so that after [`STORM`] EOIs in a row the
//! interrupt is held back for [`PAUSE_NS`]: real messages take their time, too, and let such a guest go
//! on, however slowly.

mod entry;
mod state;
#[cfg(test)]
mod tests;

pub use state::IoapicState;

use super::msi::Message;
use entry::Entry;

/// Input pins.
pub const PINS: usize = 24;
/// Address of the register window after reset.
pub const DEFAULT_ADDRESS: u64 = 0xfec0_0000;
/// Bytes of the register window.
pub const WINDOW_BYTES: u64 = 0x100;
/// The version of the 82093AA, which has no EOI register.
pub const VERSION_82093AA: u8 = 0x11;
/// The first version with an EOI register.
pub const VERSION_WITH_EOI: u8 = 0x20;
/// EOIs in a row that find the line still asserted until the interrupt is held back.
pub const STORM: u16 = 10_000;
/// How long it is held back, in ns.
pub const PAUSE_NS: u64 = 10_000_000;
/// Sources that can share a pin.
pub const SOURCES: u32 = 32;

/// Window offset of IOREGSEL.
const SELECT: u32 = 0x00;
/// Window offset of IOWIN.
const WINDOW: u32 = 0x10;
/// Window offset of the EOI register.
const EOI: u32 = 0x40;
/// The window repeats above this mask.
const WINDOW_MASK: u32 = 0xff;

/// Index of the identification register.
const REG_ID: u8 = 0x00;
/// Index of the version register.
const REG_VERSION: u8 = 0x01;
/// Index of the arbitration register.
const REG_ARBITRATION: u8 = 0x02;
/// Index of the first redirection entry's low half; entries take two registers each.
const REG_TABLE: u8 = 0x10;

/// Shift of the ID in the identification and arbitration registers.
const ID_SHIFT: u32 = 24;
/// The four bits of the ID.
const ID_MASK: u32 = 0xf;
/// Shift of the highest entry's index in the version register.
const VERSION_MAX_ENTRY_SHIFT: u32 = 16;

/// What happened to a line.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It is low; nothing to send.
    Low,
    /// Send this; when no local APIC accepts it, call [`Ioapic::not_accepted`].
    Deliver(Message),
    /// An edge on a line that was high already.
    Coalesced,
    /// The entry is masked, waits for an EOI, or does not exist.
    Ignored,
}

impl Line {
    /// Returns what `KVM_IRQ_LINE_STATUS` reports when no message had to be sent: 1 for a low line, 0
    /// for coalesced, -1 for ignored. For [`Line::Deliver`] it is the number of processors that
    /// accepted, which only the sender knows: `accepted`.
    pub const fn status(self, accepted: i32) -> i32 {
        match self {
            Self::Low => 1,
            Self::Deliver(_) => accepted,
            Self::Coalesced => 0,
            Self::Ignored => -1,
        }
    }
}

/// What the glue must do after a register write.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A redirection entry was written.
    Entry(EntryWrite),
    /// The EOI register was written: call [`Ioapic::eoi`] with this vector.
    Eoi(u8),
}

/// A write to a redirection entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryWrite {
    /// The pin, 0 to 23.
    pub pin: u8,
    /// The new mask bit, if it changed.
    pub mask: Option<bool>,
    /// Whether the vector, destination or trigger mode changed, on which EOI intercepts depend.
    pub route: bool,
    /// Send this: a level that was waiting.
    pub deliver: Option<Message>,
}

/// The I/O APIC.
#[derive(Clone, Debug)]
pub struct Ioapic {
    version: u8,
    base_address: u64,
    select: u8,
    id: u32,
    /// Pins whose line is high.
    high: u32,
    /// Pins in edge mode whose last edge was sent.
    sent: u32,
    /// The sources that drive each pin.
    sources: [u32; PINS],
    table: [Entry; PINS],
    /// EOIs in a row that found the pin's line still asserted.
    eois: [u16; PINS],
}

impl Ioapic {
    /// Returns the I/O APIC as after reset, reporting `version`.
    pub const fn new(version: u8) -> Self {
        Self {
            version,
            base_address: DEFAULT_ADDRESS,
            select: 0,
            id: 0,
            high: 0,
            sent: 0,
            sources: [0; PINS],
            table: [Entry::RESET; PINS],
            eois: [0; PINS],
        }
    }

    /// Resets all registers and forgets the levels of all lines.
    pub fn reset(&mut self) {
        *self = Self::new(self.version);
    }

    /// Returns the address of the register window.
    pub const fn base_address(&self) -> u64 {
        self.base_address
    }

    /// Sets what `source` (0 to 31) drives onto `pin`.
    pub fn set_irq(&mut self, pin: u8, source: u8, level: bool) -> Line {
        let Some(sources) = self.sources.get_mut(usize::from(pin)) else {
            return Line::Ignored;
        };
        let bit = 1u32.checked_shl(u32::from(source)).unwrap_or(0);
        if level {
            *sources |= bit;
        } else {
            *sources &= !bit;
        }
        let high = *sources != 0;
        self.set_line(pin, high)
    }

    /// Sets the level of `pin`, which exists.
    fn set_line(&mut self, pin: u8, high: bool) -> Line {
        let bit = Self::bit(pin);
        let was_high = self.high & bit != 0;
        if !high {
            self.high &= !bit;
            self.sent &= !bit;
            return Line::Low;
        }
        self.high |= bit;
        let entry = self.entry(pin);
        if was_high && !entry.is_level() {
            return Line::Coalesced;
        }
        self.service(pin).map_or(Line::Ignored, Line::Deliver)
    }

    /// Takes the message of `pin` if its entry lets it through now.
    fn service(&mut self, pin: u8) -> Option<Message> {
        let slot = self.table.get_mut(usize::from(pin))?;
        if slot.is_masked() || slot.remote_irr() {
            return None;
        }
        if slot.is_level() {
            *slot = slot.with_remote_irr(true);
        } else {
            self.sent |= Self::bit(pin);
        }
        Some(slot.message())
    }

    /// Says that no local APIC took the message of `pin`: the entry waits for no EOI, and the next
    /// change of the line or of the entry tries again.
    pub fn not_accepted(&mut self, pin: u8) {
        if let Some(slot) = self.table.get_mut(usize::from(pin)) {
            *slot = slot.with_remote_irr(false);
        }
    }

    /// Returns the pins that send `vector`, as a bit mask: those whose resamplers an EOI concerns.
    ///
    /// A resampler lowers its line before the glue calls [`Ioapic::eoi`].
    pub fn pins_with_vector(&self, vector: u8) -> u32 {
        let mut pins = 0;
        for (pin, entry) in (0u8..).zip(&self.table) {
            if entry.vector() == vector {
                pins |= Self::bit(pin);
            }
        }
        pins
    }

    /// Ends the wait of the level entries with `vector`, which a local APIC has broadcast, and passes
    /// the messages of those whose line is still high to `deliver`, with their pins. `deliver` says
    /// whether a local APIC took the message, as in [`Ioapic::not_accepted`].
    ///
    /// Returns whether a message was held back: call [`Ioapic::resume`] in [`PAUSE_NS`].
    pub fn eoi<F: FnMut(u8, Message) -> bool>(&mut self, vector: u8, mut deliver: F) -> bool {
        let mut held = false;
        for (pin, index) in (0u8..).zip(0..PINS) {
            let (Some(slot), Some(eois)) = (self.table.get_mut(index), self.eois.get_mut(index))
            else {
                continue;
            };
            if slot.vector() != vector || !slot.remote_irr() {
                continue;
            }
            *slot = slot.with_remote_irr(false);
            if slot.is_masked() || self.high & Self::bit(pin) == 0 {
                *eois = 0;
                continue;
            }
            *eois = eois.saturating_add(1);
            if *eois >= STORM {
                *eois = 0;
                held = true;
                continue;
            }
            self.send(pin, &mut deliver);
        }
        held
    }

    /// Sends the interrupts that were held back, if their lines are still asserted; `deliver` as in
    /// [`Ioapic::eoi`].
    pub fn resume<F: FnMut(u8, Message) -> bool>(&mut self, mut deliver: F) {
        for pin in (0u8..).take(PINS) {
            if self.entry(pin).is_level() && self.high & Self::bit(pin) != 0 {
                self.send(pin, &mut deliver);
            }
        }
    }

    /// Sends the message of `pin` if its entry lets it through now.
    fn send<F: FnMut(u8, Message) -> bool>(&mut self, pin: u8, deliver: &mut F) {
        if let Some(message) = self.service(pin) {
            if !deliver(pin, message) {
                self.not_accepted(pin);
            }
        }
    }

    /// Returns what `pin` sends, masked or not, or `None` when there is no such pin.
    pub fn message(&self, pin: u8) -> Option<Message> {
        self.table
            .get(usize::from(pin))
            .map(|entry| entry.message())
    }

    /// Reads `len` bytes (1, 2, 4 or 8) at `offset` of the window; other registers read 0.
    pub fn mmio_read(&self, offset: u32, len: u32) -> u64 {
        let value = match offset & WINDOW_MASK {
            SELECT => u32::from(self.select),
            WINDOW => self.read_selected(),
            _ => 0,
        };
        match len {
            1 => u64::from(value as u8),
            2 => u64::from(value as u16),
            _ => u64::from(value),
        }
    }

    /// Writes `len` bytes (1, 2, 4 or 8) at `offset` of the window; a narrow write clears the rest of
    /// the register.
    pub fn mmio_write(&mut self, offset: u32, len: u32, value: u64) -> Effect {
        let value = match len {
            1 => u32::from(value as u8),
            2 => u32::from(value as u16),
            _ => value as u32,
        };
        match offset & WINDOW_MASK {
            SELECT => {
                self.select = value as u8;
                Effect::None
            }
            WINDOW => self.write_selected(value),
            EOI if self.version >= VERSION_WITH_EOI => Effect::Eoi(value as u8),
            _ => Effect::None,
        }
    }

    /// Reads the register that IOREGSEL names; those that do not exist read as ones.
    fn read_selected(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => self.id << ID_SHIFT,
            REG_VERSION => u32::from(self.version) | ((PINS as u32 - 1) << VERSION_MAX_ENTRY_SHIFT),
            _ => match self.selected_entry() {
                Some((pin, true)) => (self.entry(pin).bits() >> 32) as u32,
                Some((pin, false)) => self.entry(pin).bits() as u32,
                None => u32::MAX,
            },
        }
    }

    /// Writes the register that IOREGSEL names.
    fn write_selected(&mut self, value: u32) -> Effect {
        if self.select == REG_ID {
            self.id = (value >> ID_SHIFT) & ID_MASK;
            return Effect::None;
        }
        match self.selected_entry() {
            Some((pin, high_half)) => self.write_entry(pin, high_half, value),
            None => Effect::None,
        }
    }

    /// Returns the pin of the entry that IOREGSEL names and whether its high half is meant.
    fn selected_entry(&self) -> Option<(u8, bool)> {
        let index = self.select.checked_sub(REG_TABLE)?;
        let pin = index >> 1;
        if usize::from(pin) < PINS {
            Some((pin, index & 1 != 0))
        } else {
            None
        }
    }

    /// Writes half of an entry. A level that is waiting is sent when it is unmasked; an edge that came
    /// while masked is lost ("Interrupt Mask").
    fn write_entry(&mut self, pin: u8, high_half: bool, value: u32) -> Effect {
        let old = self.entry(pin);
        let new = old.with_half(high_half, value);
        if let Some(slot) = self.table.get_mut(usize::from(pin)) {
            *slot = new;
        }
        if new.is_level() {
            self.sent &= !Self::bit(pin);
        }
        let waiting = new.is_level() && self.high & Self::bit(pin) != 0;
        let deliver = if waiting { self.service(pin) } else { None };
        let mask = if old.is_masked() != new.is_masked() {
            Some(new.is_masked())
        } else {
            None
        };
        let route = old.message() != new.message();
        Effect::Entry(EntryWrite {
            pin,
            mask,
            route,
            deliver,
        })
    }

    /// Returns the entry of `pin`, or a masked one when there is none.
    fn entry(&self, pin: u8) -> Entry {
        self.table
            .get(usize::from(pin))
            .copied()
            .unwrap_or(Entry::RESET)
    }

    /// Returns the bit of `pin` (0 to 31) in a mask of pins.
    const fn bit(pin: u8) -> u32 {
        1 << (pin & 31)
    }
}
