// SPDX-License-Identifier: GPL-2.0-only

//! Interrupt messages: what an MSI, an I/O APIC entry or a route says to the local APICs.
//!
//! SDM vol. 3, "Message Signalled Interrupts" (message address and data register formats).

use super::errno::Errno;

/// How the `dest` field names local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestMode {
    /// `dest` is an APIC ID, or the broadcast ID.
    Physical,
    /// `dest` is compared with each APIC's logical ID (LDR, DFR).
    Logical,
}

impl DestMode {
    /// Decodes the one-bit field: set means logical.
    pub const fn from_bit(logical: bool) -> Self {
        if logical {
            Self::Logical
        } else {
            Self::Physical
        }
    }
}

/// How an interrupt stays asserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// One interrupt for each message.
    Edge,
    /// The EOI is broadcast to the I/O APICs.
    Level,
}

impl Trigger {
    /// Decodes the one-bit field: set means level.
    pub const fn from_bit(level: bool) -> Self {
        if level {
            Self::Level
        } else {
            Self::Edge
        }
    }

    /// Returns whether this is [`Trigger::Level`].
    pub const fn is_level(self) -> bool {
        matches!(self, Self::Level)
    }
}

/// The three-bit delivery mode of ICR, LVT, I/O APIC entries and MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// 0: the vector, to every destination.
    Fixed,
    /// 1: the vector, to the one destination that runs at the lowest priority.
    LowestPriority,
    /// 2: system management interrupt.
    Smi,
    /// 3: reserved (remote read on the first APICs).
    Reserved,
    /// 4: non-maskable interrupt; the vector is ignored.
    Nmi,
    /// 5: INIT.
    Init,
    /// 6: start-up IPI; the vector is the page number of the real-mode entry. Reserved outside the ICR.
    StartUp,
    /// 7: the vector comes from an external 8259. Reserved in the ICR.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the low three bits of `bits`.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }

    /// Returns whether the vector goes through IRR and ISR.
    pub const fn uses_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// One interrupt message from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The vector; 0 to 15 are illegal and refused by the local APIC.
    pub vector: u8,
    /// The destination in the form that `dest_mode` says.
    pub dest: u32,
    /// How to read `dest`.
    pub dest_mode: DestMode,
    /// What to deliver.
    pub delivery: DeliveryMode,
    /// What the local APIC records in its TMR.
    pub trigger: Trigger,
    /// The MSI redirection hint: deliver to one of the destinations.
    pub redirect_hint: bool,
}

impl Message {
    /// Returns whether only one of the matching APICs gets the interrupt.
    pub const fn to_one(&self) -> bool {
        self.redirect_hint || matches!(self.delivery, DeliveryMode::LowestPriority)
    }
}

/// Address bit 2: logical destination.
const ADDR_DEST_LOGICAL: u32 = 1 << 2;
/// Address bit 3: redirection hint.
const ADDR_REDIRECT_HINT: u32 = 1 << 3;
/// Address bits 19:12: destination ID bits 7:0.
const ADDR_DEST_SHIFT: u32 = 12;
/// Destination ID bits 7:0.
const ADDR_DEST_MASK: u32 = 0xff;
/// High address bits 31:8: destination ID bits 31:8, with `KVM_X2APIC_API_USE_32BIT_IDS`.
const ADDR_HI_DEST_MASK: u32 = 0xffff_ff00;
/// Data bits 7:0: the vector.
const DATA_VECTOR_MASK: u32 = 0xff;
/// Data bits 10:8: the delivery mode.
const DATA_DELIVERY_SHIFT: u32 = 8;
/// Data bit 15: level triggered.
const DATA_TRIGGER_LEVEL: u32 = 1 << 15;

/// Decodes an MSI's address and data.
///
/// With `wide_ids` (`KVM_X2APIC_API_USE_32BIT_IDS`) bits 31:8 of `address_hi` are bits 31:8 of the
/// destination; without it `address_hi` is ignored. As in KVM, bits 31:20 of the address are not
/// compared with 0xfee (the caller routed the write here), and the assert bit of the data is taken
/// as set: there is no de-assert message.
///
/// # Errors
///
/// [`Errno::Invalid`] when `wide_ids` and the low byte of `address_hi` is not 0.
///
/// # Examples
///
/// ```
/// use vireo_model::model::msi;
/// let message = msi::decode(0xfee0_1000, 0, 0x4041, false).unwrap();
/// assert_eq!((message.dest, message.vector), (1, 0x41));
/// ```
pub const fn decode(
    address_lo: u32,
    address_hi: u32,
    data: u32,
    wide_ids: bool,
) -> Result<Message, Errno> {
    let mut dest = (address_lo >> ADDR_DEST_SHIFT) & ADDR_DEST_MASK;
    if wide_ids {
        if address_hi & !ADDR_HI_DEST_MASK != 0 {
            return Err(Errno::Invalid);
        }
        dest |= address_hi & ADDR_HI_DEST_MASK;
    }
    Ok(Message {
        vector: (data & DATA_VECTOR_MASK) as u8,
        dest,
        dest_mode: DestMode::from_bit(address_lo & ADDR_DEST_LOGICAL != 0),
        delivery: DeliveryMode::from_bits(data >> DATA_DELIVERY_SHIFT),
        trigger: Trigger::from_bit(data & DATA_TRIGGER_LEVEL != 0),
        redirect_hint: address_lo & ADDR_REDIRECT_HINT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SDM vol. 3, "Message Address Register Format" and "Message Data Register Format".
    #[test]
    fn fields_of_address_and_data() {
        let message = decode(0xfee5_a00c, 0, 0xc9ab, false).unwrap();
        assert_eq!(
            message,
            Message {
                vector: 0xab,
                dest: 0x5a,
                dest_mode: DestMode::Logical,
                delivery: DeliveryMode::LowestPriority,
                trigger: Trigger::Level,
                redirect_hint: true,
            }
        );
        assert!(message.to_one());
        let plain = decode(0xfee0_0000, 0, 0x0030, false).unwrap();
        assert_eq!(plain.dest_mode, DestMode::Physical);
        assert_eq!(plain.trigger, Trigger::Edge);
        assert!(!plain.to_one());
    }

    #[test]
    fn wide_ids_use_the_high_address() {
        let message = decode(0xfee7_8000, 0x1234_5600, 0x41, true).unwrap();
        assert_eq!(message.dest, 0x1234_5678);
        assert_eq!(
            decode(0xfee7_8000, 0x1234_5600, 0x41, false).unwrap().dest,
            0x78
        );
        assert_eq!(
            decode(0xfee7_8000, 0x1234_5601, 0x41, true),
            Err(Errno::Invalid)
        );
    }

    #[test]
    fn every_delivery_mode() {
        use DeliveryMode::*;
        let all = [
            Fixed,
            LowestPriority,
            Smi,
            Reserved,
            Nmi,
            Init,
            StartUp,
            ExtInt,
        ];
        for (bits, mode) in all.into_iter().enumerate() {
            assert_eq!(
                decode(0, 0, (bits as u32) << 8, false).unwrap().delivery,
                mode
            );
        }
    }
}
