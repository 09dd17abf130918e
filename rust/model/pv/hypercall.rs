// SPDX-License-Identifier: GPL-2.0-only

//! Hypercalls: VMCALL or VMMCALL with a number in RAX and arguments in RBX, RCX, RDX and RSI.
//! Documentation/virt/kvm/x86/hypercalls.rst.

use super::feature;
use crate::model::msi::{DeliveryMode, DestMode, Message, Trigger};

/// `KVM_HC_VAPIC_POLL_IRQ`.
const VAPIC_POLL_IRQ: u64 = 1;
/// `KVM_HC_KICK_CPU`.
const KICK_CPU: u64 = 5;
/// `KVM_HC_SEND_IPI`.
const SEND_IPI: u64 = 10;
/// `KVM_HC_SCHED_YIELD`.
const SCHED_YIELD: u64 = 11;

/// ICR bits that must be 0: there are no logical destinations and no shorthands.
const ICR_REFUSED: u64 = 1 << 11 | 3 << 18;
/// ICR bits 7:0.
const ICR_VECTOR: u64 = 0xff;
/// ICR bits 10:8.
const ICR_DELIVERY_SHIFT: u32 = 8;

/// Why a hypercall fails; its negative is returned in RAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `KVM_EPERM`: not from privilege level 0.
    NotPermitted,
    /// `KVM_EINVAL`: an argument.
    Invalid,
    /// `KVM_ENOSYS`: no such call here.
    NoSuchCall,
}

impl Failure {
    /// Returns what the guest gets in RAX.
    pub const fn code(self) -> i64 {
        match self {
            Self::NotPermitted => -1,
            Self::Invalid => -22,
            Self::NoSuchCall => -1000,
        }
    }
}

/// The registers of a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// RAX: the number.
    pub number: u64,
    /// RBX, RCX, RDX and RSI.
    pub args: [u64; 4],
    /// The guest is in 64-bit mode; otherwise the low halves count.
    pub long_mode: bool,
    /// The privilege level.
    pub cpl: u8,
}

/// A call to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing; the exit itself was the point.
    Poll,
    /// Wake the vCPU with this APIC ID from its HLT.
    Kick(u32),
    /// Let the vCPU with this APIC ID run on this CPU.
    Yield(u32),
    /// Send an interrupt to many; the number of those that took it is returned.
    SendIpi(ManyIpi),
}

/// An interrupt for the vCPUs of a bit map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManyIpi {
    /// Bit n stands for APIC ID `first` + n.
    bits: [u64; 2],
    /// Bits in use of each word: 64 or 32.
    width: u32,
    first: u32,
    vector: u8,
    delivery: DeliveryMode,
}

impl ManyIpi {
    /// Returns whether the vCPU with `apic_id` is meant.
    pub fn reaches(&self, apic_id: u32) -> bool {
        let Some(distance) = apic_id.checked_sub(self.first) else {
            return false;
        };
        let [low, high] = self.bits;
        let word = if distance < self.width { low } else { high };
        let bit = if distance < self.width {
            distance
        } else {
            distance - self.width
        };
        bit < self.width && word >> bit & 1 != 0
    }

    /// Returns the message for the vCPU with `apic_id`.
    pub const fn message(&self, apic_id: u32) -> Message {
        Message {
            vector: self.vector,
            dest: apic_id,
            dest_mode: DestMode::Physical,
            delivery: self.delivery,
            trigger: Trigger::Edge,
            redirect_hint: false,
        }
    }
}

/// Decodes a hypercall on a host that has `features`. As in KVM, it does not matter whether the guest was
/// told of them.
///
/// # Errors
///
/// What the guest gets instead of a result.
pub const fn decode(registers: &Registers, features: u32) -> Result<Call, Failure> {
    if registers.cpl != 0 {
        return Err(Failure::NotPermitted);
    }
    let width = if registers.long_mode { 64 } else { 32 };
    let mask = if registers.long_mode {
        u64::MAX
    } else {
        u32::MAX as u64
    };
    let [a0, a1, a2, a3] = registers.args;
    let (a0, a1, a2, a3) = (a0 & mask, a1 & mask, a2 & mask, a3 & mask);
    match registers.number & mask {
        VAPIC_POLL_IRQ => Ok(Call::Poll),
        KICK_CPU if features & feature::PV_UNHALT != 0 => Ok(Call::Kick(a1 as u32)),
        SCHED_YIELD if features & feature::PV_SCHED_YIELD != 0 => Ok(Call::Yield(a0 as u32)),
        SEND_IPI if features & feature::PV_SEND_IPI != 0 => {
            if a3 & ICR_REFUSED != 0 {
                return Err(Failure::Invalid);
            }
            Ok(Call::SendIpi(ManyIpi {
                bits: [a0, a1],
                width,
                first: a2 as u32,
                vector: (a3 & ICR_VECTOR) as u8,
                delivery: DeliveryMode::from_bits((a3 >> ICR_DELIVERY_SHIFT) as u32),
            }))
        }
        _ => Err(Failure::NoSuchCall),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = u32::MAX;

    fn call(number: u64, args: [u64; 4]) -> Registers {
        Registers {
            number,
            args,
            long_mode: true,
            cpl: 0,
        }
    }

    #[test]
    fn numbers_and_features() {
        assert_eq!(decode(&call(1, [0; 4]), 0), Ok(Call::Poll));
        assert_eq!(decode(&call(5, [0, 3, 0, 0]), ALL), Ok(Call::Kick(3)));
        assert_eq!(decode(&call(11, [3, 0, 0, 0]), ALL), Ok(Call::Yield(3)));
        for number in (0..20)
            .filter(|n| ![1, 5, 10, 11].contains(n))
            .chain([u64::MAX])
        {
            assert_eq!(decode(&call(number, [0; 4]), ALL), Err(Failure::NoSuchCall));
        }
        for (number, bit) in [(5, 7), (10, 11), (11, 13)] {
            let without = ALL & !(1 << bit);
            assert_eq!(
                decode(&call(number, [0; 4]), without),
                Err(Failure::NoSuchCall)
            );
            assert!(decode(&call(number, [0; 4]), 1 << bit).is_ok());
        }
    }

    #[test]
    fn failures() {
        for cpl in 1..4 {
            let registers = Registers {
                cpl,
                ..call(1, [0; 4])
            };
            assert_eq!(decode(&registers, ALL), Err(Failure::NotPermitted));
        }
        assert_eq!(
            [Failure::NotPermitted, Failure::Invalid, Failure::NoSuchCall].map(Failure::code),
            [-1, -22, -1000]
        );
    }

    #[test]
    fn low_halves_count_outside_64_bit_mode() {
        let registers = Registers {
            long_mode: false,
            ..call(0x1_0000_0005, [0, 0xf_0000_0002, 0, 0])
        };
        assert_eq!(decode(&registers, ALL), Ok(Call::Kick(2)));
    }

    fn many(args: [u64; 4], long_mode: bool) -> ManyIpi {
        let registers = Registers {
            long_mode,
            ..call(10, args)
        };
        match decode(&registers, ALL) {
            Ok(Call::SendIpi(ipi)) => ipi,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ipis_to_many() {
        let reached = |ipi: ManyIpi| (0..400).filter(|&id| ipi.reaches(id)).collect::<Vec<_>>();
        assert_eq!(
            reached(many([0b101, 1 << 63, 10, 0x41], true)),
            [10, 12, 137]
        );
        assert_eq!(
            reached(many([0b101, 1 << 31, 10, 0x41], false)),
            [10, 12, 73]
        );
        assert_eq!(reached(many([0, 0, 0, 0x41], true)), []);
        let top = many([u64::MAX, u64::MAX, u32::MAX as u64, 0x441], true);
        assert!(top.reaches(u32::MAX) && !top.reaches(0));
        assert_eq!(top.message(7).delivery, DeliveryMode::Nmi);
        assert_eq!((top.message(7).vector, top.message(7).dest), (0x41, 7));
        for bit in [11, 18, 19] {
            assert_eq!(
                decode(&call(10, [1, 0, 0, 0x41 | 1 << bit]), ALL),
                Err(Failure::Invalid)
            );
        }
    }
}
