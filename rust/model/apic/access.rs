// SPDX-License-Identifier: GPL-2.0-only

//! Register accesses: the page of xAPIC mode and the MSRs of x2APIC mode, over one read and one write.
//! SDM vol. 3, "Local APIC Register Address Map", "x2APIC Register Address Space" and "Reserved Bit
//! Checking".

use super::lvt::Lvt;
use super::regs::{
    Reg, DELIVERY_STATUS, DFR_ONES, DIVIDE_MASK, ESR_ILLEGAL_REGISTER, ICR_SHORTHAND_SHIFT,
    ICR_WRITABLE, REG_SHIFT, SVR_ENABLE, SVR_FOCUS, SVR_SUPPRESS_BROADCAST, VECTOR_MASK,
    XAPIC_ID_MASK, XAPIC_ID_SHIFT,
};
use super::timer::{Clock, Timer};
use super::{Effect, Gp, Lapic, Mode};

/// Bytes of a register.
const REG_BYTES: u32 = 4;
/// TPR bits that are not reserved.
const TPR_MASK: u32 = 0xff;
/// The self shorthand in an ICR.
const ICR_SELF: u32 = 1 << ICR_SHORTHAND_SHIFT;
/// The number of bytes in the widest access.
const WIDEST: u32 = 8;

/// The register doesn't exist in this mode, or not for this direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NoRegister;

impl From<Option<Timer>> for Effect {
    fn from(timer: Option<Timer>) -> Self {
        timer.map_or(Self::None, Self::Timer)
    }
}

impl Lapic {
    /// Reads `len` bytes (1, 2, 4 or 8) at `offset` of the register page.
    ///
    /// A narrow read gives the bytes of the register, as far as they lie in it; 0 elsewhere. A register
    /// that does not exist reads as 0 and is recorded in ESR. Meant for xAPIC mode, see [`Lapic::mmio_offset`].
    pub fn mmio_read<C: Clock>(&mut self, offset: u32, len: u32, clock: &C) -> u64 {
        let value = match Reg::from_offset(offset).map(|reg| self.read(reg, clock)) {
            Some(Ok(value)) => u64::from(value),
            _ => {
                self.report_error(ESR_ILLEGAL_REGISTER);
                0
            }
        };
        let byte = offset & ((1 << REG_SHIFT) - 1);
        if byte >= REG_BYTES || len == 0 {
            return 0;
        }
        let shifted = value >> (byte << 3);
        if len >= WIDEST {
            return shifted;
        }
        shifted & ((1u64 << (len << 3)) - 1)
    }

    /// Writes `len` bytes at `offset` of the register page.
    ///
    /// Only aligned 4-byte writes count; the architecture leaves others undefined and here they do
    /// nothing. A write to a register that does not exist is recorded in ESR.
    pub fn mmio_write<C: Clock>(&mut self, offset: u32, len: u32, value: u64, clock: &C) -> Effect {
        if len != REG_BYTES || offset & ((1 << REG_SHIFT) - 1) != 0 {
            return Effect::None;
        }
        let result = match Reg::from_offset(offset) {
            Some(reg) => self.write(reg, value as u32, clock),
            None => Err(NoRegister),
        };
        result.unwrap_or_else(|NoRegister| {
            self.report_error(ESR_ILLEGAL_REGISTER);
            Effect::None
        })
    }

    /// Reads MSR `msr`, 0x800 to 0x8ff.
    ///
    /// # Errors
    ///
    /// [`Gp`] outside x2APIC mode, for registers that don't exist in it and for write-only ones.
    pub fn x2apic_read<C: Clock>(&self, msr: u32, clock: &C) -> Result<u64, Gp> {
        let reg = self.x2apic_reg(msr)?;
        let value = self.read(reg, clock).map_err(|NoRegister| Gp)?;
        if reg == Reg::ICR {
            let dest = u64::from(self.regs.get(Reg::ICR_HIGH));
            return Ok(u64::from(value) | dest << 32);
        }
        Ok(u64::from(value))
    }

    /// Writes MSR `msr`, 0x800 to 0x8ff.
    ///
    /// # Errors
    ///
    /// [`Gp`] outside x2APIC mode, for registers that don't exist in it, for read-only ones and for a
    /// reserved bit that is set.
    pub fn x2apic_write<C: Clock>(
        &mut self,
        msr: u32,
        value: u64,
        clock: &C,
    ) -> Result<Effect, Gp> {
        let reg = self.x2apic_reg(msr)?;
        let low = value as u32;
        let high = (value >> 32) as u32;
        let writable = self.writable(reg).ok_or(Gp)?;
        if low & !(writable | self.read_only(reg)) != 0 {
            return Err(Gp);
        }
        if reg == Reg::ICR {
            self.regs.set(Reg::ICR_HIGH, high);
        } else if high != 0 {
            return Err(Gp);
        }
        self.write(reg, low, clock).map_err(|NoRegister| Gp)
    }

    fn x2apic_reg(&self, msr: u32) -> Result<Reg, Gp> {
        if self.mode != Mode::X2apic {
            return Err(Gp);
        }
        Reg::from_msr(msr).ok_or(Gp)
    }

    /// Returns the bits of `reg` that a write may set, or `None` when it can't be written.
    pub(super) fn writable(&self, reg: Reg) -> Option<u32> {
        let xapic = self.mode != Mode::X2apic;
        let bits = match reg {
            Reg::ID | Reg::LDR | Reg::ICR_HIGH if xapic => XAPIC_ID_MASK,
            Reg::DFR if xapic => !DFR_ONES,
            Reg::EOI | Reg::ESR if xapic => u32::MAX,
            Reg::EOI | Reg::ESR => 0,
            Reg::SELF_IPI if !xapic => VECTOR_MASK,
            Reg::TPR => TPR_MASK,
            Reg::SVR if self.config.directed_eoi => {
                VECTOR_MASK | SVR_ENABLE | SVR_FOCUS | SVR_SUPPRESS_BROADCAST
            }
            Reg::SVR => VECTOR_MASK | SVR_ENABLE | SVR_FOCUS,
            Reg::ICR => ICR_WRITABLE,
            Reg::TIMER_INITIAL => u32::MAX,
            Reg::TIMER_DIVIDE => DIVIDE_MASK,
            _ => {
                let lvt = Lvt::from_reg(reg).filter(|&lvt| self.has_lvt(lvt))?;
                self.lvt_writable(lvt)
            }
        };
        Some(bits)
    }

    /// Returns the bits of `reg` that a write ignores instead of faulting.
    fn read_only(&self, reg: Reg) -> u32 {
        if reg == Reg::ICR {
            return DELIVERY_STATUS;
        }
        Lvt::from_reg(reg).map_or(0, |lvt| DELIVERY_STATUS | lvt.read_only())
    }

    /// Reads `reg`.
    fn read<C: Clock>(&self, reg: Reg, clock: &C) -> Result<u32, NoRegister> {
        let xapic = self.mode != Mode::X2apic;
        let banks = [
            (Reg::ISR, &self.isr),
            (Reg::TMR, &self.tmr),
            (Reg::IRR, &self.irr),
        ];
        for (first, set) in banks {
            if let Some(index) = reg.index_in_bank(first) {
                return Ok(set.register(index));
            }
        }
        match reg {
            Reg::VERSION => Ok(self.version()),
            Reg::PPR => Ok(u32::from(self.ppr())),
            Reg::TIMER_CURRENT => Ok(self.current_count(clock)),
            Reg::APR | Reg::EOI if xapic => Ok(0),
            Reg::DFR | Reg::ICR_HIGH if xapic => Ok(self.regs.get(reg)),
            Reg::ID
            | Reg::TPR
            | Reg::LDR
            | Reg::SVR
            | Reg::ESR
            | Reg::ICR
            | Reg::TIMER_INITIAL
            | Reg::TIMER_DIVIDE => Ok(self.regs.get(reg)),
            _ => match Lvt::from_reg(reg) {
                Some(lvt) if self.has_lvt(lvt) => Ok(self.regs.get(reg)),
                _ => Err(NoRegister),
            },
        }
    }

    /// Writes `reg`; reserved bits and writes to read-only registers are dropped.
    fn write<C: Clock>(&mut self, reg: Reg, value: u32, clock: &C) -> Result<Effect, NoRegister> {
        let value = match self.writable(reg) {
            Some(bits) => value & bits,
            // A read-only register exists all the same.
            None => return self.read(reg, clock).map(|_| Effect::None),
        };
        let effect = match reg {
            Reg::EOI => self.eoi().map_or(Effect::None, Effect::Eoi),
            Reg::TPR => {
                self.set_tpr(value as u8);
                Effect::None
            }
            Reg::ICR => {
                self.regs.set(Reg::ICR, value);
                let high = self.regs.get(Reg::ICR_HIGH);
                let shift = if self.mode == Mode::X2apic {
                    0
                } else {
                    XAPIC_ID_SHIFT
                };
                self.send_ipi(value, high >> shift)
            }
            Reg::SELF_IPI => self.send_ipi(ICR_SELF | value, 0),
            Reg::ESR => {
                self.latch_errors();
                Effect::None
            }
            Reg::ID | Reg::LDR => self.set_identity(reg, value),
            Reg::DFR => self.set_identity(reg, value | DFR_ONES),
            Reg::SVR => self.write_svr(value),
            Reg::TIMER_INITIAL => self.write_initial_count(value, clock).into(),
            Reg::TIMER_DIVIDE => self.write_divide(value, clock).into(),
            Reg::LVT_TIMER => {
                self.write_lvt(Lvt::Timer, value);
                if self.update_timer_mode() {
                    Effect::Timer(Timer::Stop)
                } else {
                    Effect::None
                }
            }
            _ => {
                match Lvt::from_reg(reg) {
                    Some(lvt) => self.write_lvt(lvt, value),
                    None => self.regs.set(reg, value),
                }
                Effect::None
            }
        };
        Ok(effect)
    }

    /// Sets a register that others see in [`Lapic::identity`].
    fn set_identity(&mut self, reg: Reg, value: u32) -> Effect {
        if self.regs.get(reg) == value {
            return Effect::None;
        }
        self.regs.set(reg, value);
        Effect::Identity
    }

    /// Writes SVR; disabling masks all LVT entries. SDM vol. 3, "Local APIC State After It Has Been
    /// Software Disabled".
    fn write_svr(&mut self, value: u32) -> Effect {
        let changed = (self.regs.get(Reg::SVR) ^ value) & SVR_ENABLE != 0;
        self.regs.set(Reg::SVR, value);
        if value & SVR_ENABLE == 0 {
            self.mask_all_lvts();
        }
        if changed {
            Effect::Identity
        } else {
            Effect::None
        }
    }
}
