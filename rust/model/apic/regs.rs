// SPDX-License-Identifier: GPL-2.0-only

//! The local APIC's registers: numbers and bits. SDM vol. 3, "Local APIC Register Address Map".

/// Registers in the page, each at a multiple of 16 bytes.
pub const REG_COUNT: usize = 64;

/// Bytes between two registers in the page, as a shift.
pub const REG_SHIFT: u32 = 4;

/// The first x2APIC MSR: MSR `0x800 + reg` is the register at page offset `reg << 4`.
pub const X2APIC_MSR_FIRST: u32 = 0x800;

/// The last x2APIC MSR that can name a register (0x83f, SELF IPI).
pub const X2APIC_MSR_LAST: u32 = X2APIC_MSR_FIRST + REG_COUNT as u32 - 1;

/// The number of a register: its page offset divided by 16, 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(u8);

impl Reg {
    /// Local APIC ID.
    pub const ID: Self = Self(0x02);
    /// Version.
    pub const VERSION: Self = Self(0x03);
    /// Task priority (TPR).
    pub const TPR: Self = Self(0x08);
    /// Arbitration priority (APR).
    pub const APR: Self = Self(0x09);
    /// Processor priority (PPR).
    pub const PPR: Self = Self(0x0a);
    /// End of interrupt.
    pub const EOI: Self = Self(0x0b);
    /// Logical destination (LDR).
    pub const LDR: Self = Self(0x0d);
    /// Destination format (DFR).
    pub const DFR: Self = Self(0x0e);
    /// Spurious-interrupt vector (SVR).
    pub const SVR: Self = Self(0x0f);
    /// First of the eight in-service registers.
    pub const ISR: Self = Self(0x10);
    /// First of the eight trigger-mode registers.
    pub const TMR: Self = Self(0x18);
    /// First of the eight interrupt-request registers.
    pub const IRR: Self = Self(0x20);
    /// Error status (ESR).
    pub const ESR: Self = Self(0x28);
    /// LVT entry of the corrected machine-check interrupt.
    pub const LVT_CMCI: Self = Self(0x2f);
    /// Interrupt command (ICR), bits 31:0; all 64 bits in x2APIC mode.
    pub const ICR: Self = Self(0x30);
    /// Interrupt command, bits 63:32 (xAPIC only).
    pub const ICR_HIGH: Self = Self(0x31);
    /// LVT entry of the timer.
    pub const LVT_TIMER: Self = Self(0x32);
    /// LVT entry of the thermal sensor.
    pub const LVT_THERMAL: Self = Self(0x33);
    /// LVT entry of the performance counters.
    pub const LVT_PERF: Self = Self(0x34);
    /// LVT entry of pin LINT0.
    pub const LVT_LINT0: Self = Self(0x35);
    /// LVT entry of pin LINT1.
    pub const LVT_LINT1: Self = Self(0x36);
    /// LVT entry of the APIC's own errors.
    pub const LVT_ERROR: Self = Self(0x37);
    /// Timer initial count.
    pub const TIMER_INITIAL: Self = Self(0x38);
    /// Timer current count.
    pub const TIMER_CURRENT: Self = Self(0x39);
    /// Timer divide configuration.
    pub const TIMER_DIVIDE: Self = Self(0x3e);
    /// Self IPI (x2APIC only).
    pub const SELF_IPI: Self = Self(0x3f);

    /// Returns the register at page offset `offset` (rounded down to 16), or `None` past the last.
    pub const fn from_offset(offset: u32) -> Option<Self> {
        let number = offset >> REG_SHIFT;
        if number < REG_COUNT as u32 {
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// Returns the register that MSR `msr` names, or `None` outside 0x800 to 0x83f.
    pub const fn from_msr(msr: u32) -> Option<Self> {
        if msr >= X2APIC_MSR_FIRST && msr <= X2APIC_MSR_LAST {
            Some(Self((msr - X2APIC_MSR_FIRST) as u8))
        } else {
            None
        }
    }

    /// Returns the register's number, 0 to 63.
    pub const fn number(self) -> usize {
        (self.0 as usize) & (REG_COUNT - 1)
    }

    /// Returns the register's offset in the page, in bytes.
    pub const fn offset(self) -> usize {
        self.number() << REG_SHIFT
    }

    /// Returns this register's place in the bank of eight that starts at `first`.
    pub const fn index_in_bank(self, first: Self) -> Option<usize> {
        let index = self.0.wrapping_sub(first.0);
        if index < BANK_LEN {
            Some(index as usize)
        } else {
            None
        }
    }

    /// Returns the register `index` places after this one, wrapping at 64.
    pub const fn nth(self, index: usize) -> Self {
        Self((self.number().wrapping_add(index) & (REG_COUNT - 1)) as u8)
    }
}

/// Registers in each of the ISR, TMR and IRR banks.
pub const BANK_LEN: u8 = 8;

/// The plain registers' values, by [`Reg`]; ISR, TMR, IRR and the computed ones are kept elsewhere.
#[derive(Clone, Debug)]
pub struct Registers {
    values: [u32; REG_COUNT],
    /// One bit for each register that has been set since [`Registers::take_changed`].
    changed: u64,
}

impl Registers {
    /// Returns all registers zero.
    pub const fn new() -> Self {
        Self {
            values: [0; REG_COUNT],
            changed: u64::MAX,
        }
    }

    /// Returns the value of `reg`.
    pub const fn get(&self, reg: Reg) -> u32 {
        self.values[reg.number()]
    }

    /// Returns the value of register `number`, 0 for one that does not exist.
    pub fn by_number(&self, number: u8) -> u32 {
        self.values.get(usize::from(number)).copied().unwrap_or(0)
    }

    /// Sets `reg` to `value`.
    pub fn set(&mut self, reg: Reg, value: u32) {
        self.values[reg.number()] = value;
        self.changed |= 1 << reg.number();
    }

    /// Says that register `number` has changed.
    pub fn mark(&mut self, number: u8) {
        self.changed |= 1u64.checked_shl(number.into()).unwrap_or(0);
    }

    /// Returns the registers that have been set, one bit each.
    #[inline]
    pub const fn changed(&self) -> u64 {
        self.changed
    }

    /// Returns them and forgets them.
    pub fn take_changed(&mut self) -> u64 {
        core::mem::take(&mut self.changed)
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

/// Version number of an integrated APIC, as KVM reports it.
pub const VERSION: u32 = 0x14;
/// Version register: the shift of the highest LVT entry's index.
pub const VERSION_MAX_LVT_SHIFT: u32 = 16;
/// Version register: EOI broadcasts can be suppressed.
pub const VERSION_DIRECTED_EOI: u32 = 1 << 24;

/// Shift of the 8-bit ID in the xAPIC ID, LDR and ICR-high registers.
pub const XAPIC_ID_SHIFT: u32 = 24;
/// The 8-bit ID field of those registers.
pub const XAPIC_ID_MASK: u32 = 0xff << XAPIC_ID_SHIFT;

/// The priority class of a vector, TPR or PPR.
pub const CLASS_MASK: u8 = 0xf0;
/// Shift of the priority class; CR8 holds the class alone.
pub const CLASS_SHIFT: u32 = 4;
/// The lowest legal vector. SDM vol. 3, "Valid Interrupt Vectors".
pub const FIRST_VECTOR: u8 = 16;

/// SVR bits 7:0 after reset: the spurious vector.
pub const SVR_RESET: u32 = 0xff;
/// SVR bit 8: the APIC is enabled by software.
pub const SVR_ENABLE: u32 = 1 << 8;
/// SVR bit 9: focus processor checking (kept, without effect).
pub const SVR_FOCUS: u32 = 1 << 9;
/// SVR bit 12: no EOI broadcast for level interrupts.
pub const SVR_SUPPRESS_BROADCAST: u32 = 1 << 12;

/// DFR bits that read as ones.
pub const DFR_ONES: u32 = 0x0fff_ffff;
/// DFR: flat model, also the reset value.
pub const DFR_FLAT: u32 = 0xffff_ffff;
/// DFR: cluster model.
pub const DFR_CLUSTER: u32 = DFR_ONES;

/// Vector field of ICR and LVT entries.
pub const VECTOR_MASK: u32 = 0xff;
/// Shift of the delivery mode in ICR and LVT entries.
pub const DELIVERY_SHIFT: u32 = 8;
/// Delivery-mode field of ICR and LVT entries.
pub const DELIVERY_MASK: u32 = 7 << DELIVERY_SHIFT;
/// Delivery status of ICR and LVT entries, read-only; messages leave at once, so it reads 0.
pub const DELIVERY_STATUS: u32 = 1 << 12;
/// Trigger mode of ICR and LVT entries: level.
pub const TRIGGER_LEVEL: u32 = 1 << 15;

/// ICR bit 11: logical destination.
pub const ICR_LOGICAL: u32 = 1 << 11;
/// ICR bit 14: assert.
pub const ICR_ASSERT: u32 = 1 << 14;
/// ICR bits 19:18: destination shorthand.
pub const ICR_SHORTHAND_SHIFT: u32 = 18;
/// ICR bits 31:0 that are not reserved (the delivery status is ignored on a write).
pub const ICR_WRITABLE: u32 = VECTOR_MASK
    | DELIVERY_MASK
    | ICR_LOGICAL
    | ICR_ASSERT
    | TRIGGER_LEVEL
    | (3 << ICR_SHORTHAND_SHIFT);

/// LVT bit 13: input polarity of a LINT pin.
pub const LVT_POLARITY: u32 = 1 << 13;
/// LVT bit 14: a level interrupt from a LINT pin waits for its EOI; read-only.
pub const LVT_REMOTE_IRR: u32 = 1 << 14;
/// LVT bit 16: masked.
pub const LVT_MASKED: u32 = 1 << 16;
/// LVT timer bit 17: periodic.
pub const LVT_TIMER_PERIODIC: u32 = 1 << 17;
/// LVT timer bit 18: TSC deadline.
pub const LVT_TIMER_TSC_DEADLINE: u32 = 1 << 18;

/// Divide-configuration bits 3, 1 and 0.
pub const DIVIDE_MASK: u32 = 0b1011;

/// ESR bit 5: an IPI with an illegal vector was not sent.
pub const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// ESR bit 6: an interrupt with an illegal vector was not accepted.
pub const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
/// ESR bit 7: an access in xAPIC mode to a register that does not exist.
pub const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;
