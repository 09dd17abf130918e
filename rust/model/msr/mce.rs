// SPDX-License-Identifier: GPL-2.0-only

//! Machine-check banks (SDM vol. 3 chapter 16; `KVM_X86_SETUP_MCE`).

use super::{MsrError, Origin};
use crate::model::cpuid::Vendor;
use crate::model::errno::Errno;
use crate::model::x86::msr;

/// The most machine-check banks of a vCPU.
pub const MCE_BANKS: usize = 32;

/// IA32_MCG_CAP bits that `KVM_X86_GET_MCE_CAP_SUPPORTED` offers: IA32_MCG_CTL (bit 8) and software error
/// recovery (bit 24).
pub const MCE_CAP: u64 = CTL_P | SER_P;

const CTL_P: u64 = 1 << 8;
const SER_P: u64 = 1 << 24;

/// IA32_MCG_CAP: the number of banks.
const BANK_COUNT: u64 = 0xff;

/// IA32_MCG_CAP: the number of extended state registers, which userspace may set at will.
const EXTENDED_COUNT: u64 = 0xff_0000;

/// Registers of a bank: CTL, STATUS, ADDR, MISC.
const PER_BANK: usize = 4;

/// The first IA32_MCi_CTL2.
const MC0_CTL2: u32 = 0x280;

/// Bits of IA32_MCi_CTL that operating systems leave clear to work around old hardware: bit 10 (K8's GART
/// errors) and bit 0 (correctable errors).
const CTL_MAY_BE_CLEAR: u64 = 1 << 10 | 1;

/// HWCR: IA32_MCi_STATUS may be written with values other than 0 (APM vol. 2 section 9.3.2.1).
pub(super) const HWCR_MC_STATUS_WRITE: u64 = 1 << 18;

/// The registers of one vCPU.
#[derive(Clone, Debug)]
pub(super) struct Mce {
    cap: u64,
    status: u64,
    ctl: u64,
    banks: [u64; MCE_BANKS * PER_BANK],
}

enum Register {
    Cap,
    Status,
    Ctl,
    Bank(usize),
    Ctl2,
    Pentium,
}

impl Mce {
    pub(super) const RESET: Self = Self {
        cap: MCE_BANKS as u64,
        status: 0,
        ctl: 0,
        banks: [0; MCE_BANKS * PER_BANK],
    };

    /// Says whether `index` is one of the machine-check registers.
    pub(super) const fn owns(index: u32) -> bool {
        matches!(
            index,
            msr::IA32_MCG_CAP..=msr::IA32_MCG_CTL
                | msr::IA32_P5_MC_ADDR..=msr::IA32_P5_MC_TYPE
                | MC0_CTL2..=MC0_CTL2_LAST
                | msr::IA32_MC0_CTL..=MC_LAST
        )
    }

    /// Sets IA32_MCG_CAP to what `KVM_X86_SETUP_MCE` asks for, and enables every bank.
    pub(super) fn setup(&mut self, cap: u64) -> Result<(), Errno> {
        let banks = cap & BANK_COUNT;
        let known = MCE_CAP | BANK_COUNT | EXTENDED_COUNT;
        if banks == 0 || banks > MCE_BANKS as u64 || cap & !known != 0 {
            return Err(Errno::Invalid);
        }
        self.cap = cap;
        if cap & CTL_P != 0 {
            self.ctl = u64::MAX;
        }
        let used = self.used();
        for ctl in self.banks.iter_mut().take(used).step_by(PER_BANK) {
            *ctl = u64::MAX;
        }
        Ok(())
    }

    /// Clears what a reset clears; the banks' contents survive one, so that errors can be read after it.
    pub(super) fn reset(&mut self) {
        self.status = 0;
    }

    pub(super) fn read(&self, index: u32, origin: Origin) -> Result<u64, MsrError> {
        match self.register(index).ok_or(MsrError::Gp)? {
            Register::Cap => Ok(self.cap),
            Register::Status => Ok(self.status),
            Register::Ctl if self.cap & CTL_P == 0 && origin == Origin::Guest => Err(MsrError::Gp),
            Register::Ctl => Ok(self.ctl),
            Register::Bank(number) => self.banks.get(number).copied().ok_or(MsrError::Gp),
            Register::Ctl2 if origin == Origin::Guest => Err(MsrError::Gp),
            Register::Ctl2 | Register::Pentium => Ok(0),
        }
    }

    pub(super) fn write(
        &mut self,
        index: u32,
        value: u64,
        origin: Origin,
        vendor: Vendor,
        hwcr: u64,
    ) -> Result<(), MsrError> {
        let whole = value == 0 || value == u64::MAX;
        match self.register(index).ok_or(MsrError::Gp)? {
            Register::Status => self.status = value,
            Register::Ctl => {
                let absent = self.cap & CTL_P == 0;
                if !whole || absent && (value != 0 || origin == Origin::Guest) {
                    return Err(MsrError::Gp);
                }
                self.ctl = value;
            }
            Register::Bank(number) => {
                let status_writable = vendor == Vendor::Amd && hwcr & HWCR_MC_STATUS_WRITE != 0;
                let valid = match number % PER_BANK {
                    0 => value == 0 || value | CTL_MAY_BE_CLEAR == u64::MAX,
                    1 => value == 0 || origin == Origin::Host || status_writable,
                    _ => true,
                };
                match self.banks.get_mut(number) {
                    Some(slot) if valid => *slot = value,
                    _ => return Err(MsrError::Gp),
                }
            }
            // Corrected-error interrupts are not offered (IA32_MCG_CAP bit 10).
            Register::Ctl2 if value == 0 && origin == Origin::Host => {}
            Register::Cap | Register::Ctl2 | Register::Pentium => return Err(MsrError::Gp),
        }
        Ok(())
    }

    fn used(&self) -> usize {
        (self.cap & BANK_COUNT) as usize * PER_BANK
    }

    fn register(&self, index: u32) -> Option<Register> {
        match index {
            msr::IA32_P5_MC_ADDR | msr::IA32_P5_MC_TYPE => Some(Register::Pentium),
            msr::IA32_MCG_CAP => Some(Register::Cap),
            msr::IA32_MCG_STATUS => Some(Register::Status),
            msr::IA32_MCG_CTL => Some(Register::Ctl),
            MC0_CTL2..=MC0_CTL2_LAST => {
                let bank = (index - MC0_CTL2) as usize;
                (bank * PER_BANK < self.used()).then_some(Register::Ctl2)
            }
            _ => {
                let number = index.checked_sub(msr::IA32_MC0_CTL)? as usize;
                (number < self.used()).then_some(Register::Bank(number))
            }
        }
    }
}

const MC0_CTL2_LAST: u32 = MC0_CTL2 + MCE_BANKS as u32 - 1;
const MC_LAST: u32 = msr::IA32_MC0_CTL + (MCE_BANKS * PER_BANK) as u32 - 1;
