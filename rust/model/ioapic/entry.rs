// SPDX-License-Identifier: GPL-2.0-only

//! A redirection table entry. Data sheet, "I/O Redirection Table Registers".

use crate::model::msi::{DeliveryMode, DestMode, Message, Trigger};

/// Bits 7:0: the vector.
const VECTOR: u64 = 0xff;
/// Bits 10:8: the delivery mode.
const DELIVERY_SHIFT: u32 = 8;
/// Bits 10:8 in place.
const DELIVERY: u64 = 7 << DELIVERY_SHIFT;
/// Bit 11: logical destination.
const DEST_LOGICAL: u64 = 1 << 11;
/// Bit 13: the line is active low. Lines here carry logical levels, so it is kept without effect.
const POLARITY: u64 = 1 << 13;
/// Bit 14: a level interrupt waits for its EOI; read-only.
const REMOTE_IRR: u64 = 1 << 14;
/// Bit 15: level triggered.
const TRIGGER_LEVEL: u64 = 1 << 15;
/// Bit 16: masked.
const MASKED: u64 = 1 << 16;
/// Bits 63:56: the destination.
const DEST_SHIFT: u32 = 56;
/// Bits 63:56 in place.
const DEST: u64 = 0xff << DEST_SHIFT;
/// Bits that software may write. Bit 12, the delivery status, always reads 0: messages leave at once.
const WRITABLE: u64 = VECTOR | DELIVERY | DEST_LOGICAL | POLARITY | TRIGGER_LEVEL | MASKED | DEST;
/// The low half of an entry.
const LOW_HALF: u64 = 0xffff_ffff;

/// An entry.
///
/// # Invariants
///
/// Reserved bits and the delivery status are 0, and so is the remote IRR in edge mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// The state after reset: masked.
    pub(super) const RESET: Self = Self(MASKED);

    /// Takes over what is not reserved in `bits`, the remote IRR included.
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits & (WRITABLE | REMOTE_IRR)).without_stale_irr()
    }

    /// Returns the 64 bits of the entry.
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the entry after a write of one half. Changing it to edge mode clears the remote IRR:
    /// that is how systems without an EOI register end a level interrupt by hand.
    pub(super) const fn with_half(self, high: bool, value: u32) -> Self {
        let (half, value) = if high {
            (!LOW_HALF, (value as u64) << 32)
        } else {
            (LOW_HALF, value as u64)
        };
        let written = WRITABLE & half;
        Self((self.0 & !written) | (value & written)).without_stale_irr()
    }

    const fn without_stale_irr(self) -> Self {
        if self.is_level() {
            self
        } else {
            Self(self.0 & !REMOTE_IRR)
        }
    }

    /// Returns the entry with this remote IRR, which edge mode does not have.
    pub(super) const fn with_remote_irr(self, set: bool) -> Self {
        let bits = if set {
            self.0 | REMOTE_IRR
        } else {
            self.0 & !REMOTE_IRR
        };
        Self(bits).without_stale_irr()
    }

    pub(super) const fn vector(self) -> u8 {
        (self.0 & VECTOR) as u8
    }

    pub(super) const fn is_level(self) -> bool {
        self.0 & TRIGGER_LEVEL != 0
    }

    pub(super) const fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    pub(super) const fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    /// Returns what the entry sends.
    pub(super) const fn message(self) -> Message {
        Message {
            vector: self.vector(),
            dest: (self.0 >> DEST_SHIFT) as u32,
            dest_mode: DestMode::from_bit(self.0 & DEST_LOGICAL != 0),
            delivery: DeliveryMode::from_bits((self.0 >> DELIVERY_SHIFT) as u32),
            trigger: Trigger::from_bit(self.is_level()),
            redirect_hint: false,
        }
    }
}
