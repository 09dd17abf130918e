// SPDX-License-Identifier: GPL-2.0-only

//! The posted-interrupt descriptor: 64 bytes by which a processor, or an interrupt-remapping unit, hands
//! vectors to a vCPU without an exit. SDM vol. 3, "Posted-Interrupt Processing"; Intel VT-d specification,
//! "Posted Interrupt Descriptor (PID)".
//!
//! The descriptor lives in memory that others write at any time, so the glue keeps its words in atomics. What
//! a word becomes is decided here: [`Control`] for the control word, [`word_and_bit`] for the requests. The
//! glue puts each step into a compare-and-exchange loop.
//!
//! The order that loses nothing: a sender sets the request and then posts to the control word; the receiver
//! clears the notification and then takes the requests.

use super::vectors::WORDS;
use crate::model::msi::Trigger;

/// Bytes of a descriptor, and its alignment.
pub const DESCRIPTOR_BYTES: usize = 64;
/// Index of the control word among the descriptor's 64-bit words; the requests come before it.
pub const CONTROL_WORD: usize = WORDS;

/// Bit 0 (256 of the descriptor): a notification is on its way (ON).
const OUTSTANDING: u64 = 1 << 0;
/// Bit 1: devices' interrupts that are not urgent notify nobody (SN).
const SUPPRESS: u64 = 1 << 1;
/// Bits 23:16: the notification vector (NV).
const VECTOR_SHIFT: u32 = 16;
/// Bits 23:16 in place.
const VECTOR: u64 = 0xff << VECTOR_SHIFT;
/// Bits 63:32: the destination (NDST).
const DEST_SHIFT: u32 = 32;
/// Bits 63:32 in place.
const DEST: u64 = 0xffff_ffff << DEST_SHIFT;
/// In xAPIC mode the 8-bit ID is in bits 15:8 of the destination.
const XAPIC_DEST_SHIFT: u32 = 8;

/// Vectors 0 to 15 are illegal.
const FIRST_LEGAL: u8 = 16;

/// Returns the word of the requests (PIR), 0 to 3, and the bit in it that stand for `vector`.
pub const fn word_and_bit(vector: u8) -> (usize, u64) {
    ((vector >> 6) as usize, 1 << (vector & 63))
}

/// Returns whether an interrupt may go by the descriptor, which holds no more than vectors.
///
/// The processor turns a request into a pending bit of IRR and leaves TMR as it is: what is level triggered, or
/// follows an interrupt that was (`was_level`), changes TMR, and an illegal vector is reported. The APIC does
/// that, SDM vol. 3, "Posted-Interrupt Processing" and "Error Handling".
pub const fn may_carry(vector: u8, trigger: Trigger, was_level: bool) -> bool {
    vector >= FIRST_LEGAL && !trigger.is_level() && !was_level
}

/// Where notifications go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host's vector.
    pub vector: u8,
    /// The APIC ID of the CPU.
    pub apic_id: u32,
    /// The host's APICs are in x2APIC mode.
    pub x2apic: bool,
}

/// Who posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A vCPU, or a device whose interrupts are urgent.
    Urgent,
    /// A device whose interrupts wait while the vCPU is not running.
    Device,
}

/// The control word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control(u64);

impl Control {
    /// Takes a word as it is in memory.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the word for the memory.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns whether a notification is on its way.
    pub const fn is_outstanding(self) -> bool {
        self.0 & OUTSTANDING != 0
    }

    /// Returns whether devices notify nobody.
    pub const fn is_suppressed(self) -> bool {
        self.0 & SUPPRESS != 0
    }

    /// Returns the vector of notifications.
    pub const fn vector(self) -> u8 {
        ((self.0 & VECTOR) >> VECTOR_SHIFT) as u8
    }

    /// Returns the destination field.
    pub const fn destination(self) -> u32 {
        (self.0 >> DEST_SHIFT) as u32
    }

    /// A request has been set. Returns the new word and whether the notification must be sent: not when
    /// one is on its way, or when it is suppressed.
    pub const fn post(self, urgency: Urgency) -> (Self, bool) {
        let held_back = self.is_suppressed() && matches!(urgency, Urgency::Device);
        if self.is_outstanding() || held_back {
            return (self, false);
        }
        (Self(self.0 | OUTSTANDING), true)
    }

    /// The vCPU, about to take its requests, says so.
    pub const fn acknowledge(self) -> Self {
        Self(self.0 & !OUTSTANDING)
    }

    /// The vCPU's thread has been preempted: it will look at its requests when it goes on.
    pub const fn suspend(self) -> Self {
        Self(self.0 | SUPPRESS)
    }

    /// The vCPU's thread is on a CPU, or sleeps and is woken by a vector of the host's: notifications go
    /// there.
    ///
    /// What was posted while they were suppressed has notified nobody: with `requests` there is something,
    /// and the word says that a notification is outstanding, so that the entry path looks.
    pub const fn resume(self, target: Target, requests: bool) -> Self {
        let dest = if target.x2apic {
            target.apic_id
        } else {
            target.apic_id << XAPIC_DEST_SHIFT
        };
        let kept = self.0 & !(SUPPRESS | VECTOR | DEST);
        let fields = (target.vector as u64) << VECTOR_SHIFT | (dest as u64) << DEST_SHIFT;
        let outstanding = if requests { OUTSTANDING } else { 0 };
        Self(kept | fields | outstanding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Target = Target {
        vector: 0xf2,
        apic_id: 0x1_0203,
        x2apic: true,
    };

    /// VT-d specification, "Posted Interrupt Descriptor (PID)".
    #[test]
    fn layout() {
        let word = Control::default().resume(CPU, false);
        assert_eq!(word.bits(), 0x0001_0203_00f2_0000);
        let narrow = Target {
            apic_id: 7,
            x2apic: false,
            ..CPU
        };
        assert_eq!(word.resume(narrow, false).destination(), 0x700);
        assert_eq!(word.suspend().bits() ^ word.bits(), 2);
        assert_eq!((word.vector(), word.destination()), (0xf2, 0x1_0203));
        assert_eq!(word_and_bit(0xff), (3, 1 << 63));
        assert_eq!(CONTROL_WORD * 8, 32);
    }

    #[test]
    fn what_changes_more_than_irr_goes_another_way() {
        assert!(may_carry(16, Trigger::Edge, false) && may_carry(255, Trigger::Edge, false));
        assert!(!may_carry(15, Trigger::Edge, false));
        assert!(!may_carry(16, Trigger::Level, false) && !may_carry(16, Trigger::Edge, true));
    }

    #[test]
    fn one_notification_at_a_time() {
        let word = Control::default().resume(CPU, false);
        let (posted, notify) = word.post(Urgency::Urgent);
        assert!(notify && posted.is_outstanding());
        assert_eq!(posted.post(Urgency::Urgent), (posted, false));
        assert_eq!(posted.acknowledge(), word);
    }

    #[test]
    fn suppressed_notifications() {
        let word = Control::default().resume(CPU, false).suspend();
        assert_eq!(word.post(Urgency::Device), (word, false));
        assert!(word.post(Urgency::Urgent).1);
        assert!(word.resume(CPU, true).is_outstanding());
        assert!(!word.resume(CPU, false).is_suppressed());
    }

    /// Every order of a sender's two steps and a receiver's two steps leaves the vector taken or a
    /// notification outstanding.
    #[test]
    fn nothing_is_lost_between_two_threads() {
        // Bit n of the order: step n is the sender's.
        for order in (0u8..16).filter(|order| order.count_ones() == 2) {
            let mut word = Control::default().resume(CPU, false);
            let (mut requests, mut taken) = (0u64, 0u64);
            let (mut sent, mut received) = (0, 0);
            for step in 0..4 {
                if order >> step & 1 != 0 {
                    match sent {
                        0 => requests |= 1,
                        _ => word = word.post(Urgency::Urgent).0,
                    }
                    sent += 1;
                } else {
                    match received {
                        0 => word = word.acknowledge(),
                        _ => taken |= core::mem::take(&mut requests),
                    }
                    received += 1;
                }
            }
            assert!(taken == 1 || word.is_outstanding(), "order {order:04b}");
        }
    }
}
