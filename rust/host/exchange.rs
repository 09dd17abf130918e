// SPDX-License-Identifier: GPL-2.0-only

//! MSRs that a vCPU and the host both use, and that the world switch leaves alone.
//!
//! They hold the guest's values while the vCPU's thread is on the CPU, and the host's again when it leaves the
//! CPU or returns to userspace. The host's are read when they are displaced, not remembered: KVM switches some
//! of the same MSRs lazily and may have left its guest's values, and believes them to be there when its thread
//! goes on.

use super::cpu::{
    self,
    IrqOff, //
};

/// MSRs to exchange. They must exist, and the host must not need them but on its way to and from userspace or
/// other guests.
pub(crate) struct ExchangedMsrs<const N: usize> {
    numbers: [u32; N],
    guest: [u64; N],
    host: [u64; N],
    /// How many of the list exist.
    count: usize,
    loaded: bool,
}

impl<const N: usize> ExchangedMsrs<N> {
    /// Takes the first `count` of `numbers`, which exist on this machine, with the guest's `values`.
    pub(crate) const fn new(numbers: [u32; N], count: usize, values: [u64; N]) -> Self {
        Self {
            numbers,
            guest: values,
            host: [0; N],
            count,
            loaded: false,
        }
    }

    /// Returns the guest's value of the MSR `number`, if it is on the list.
    pub(crate) fn get(&self, number: u32) -> Option<u64> {
        let index = self.numbers.iter().position(|&n| n == number)?;
        self.guest.get(index).copied()
    }

    /// Sets the guest's value, which must be valid for the MSR (canonical where it is an address). Returns
    /// whether the MSR is on the list.
    pub(crate) fn set(&mut self, number: u32, value: u64, _irq: &IrqOff) -> bool {
        let Some(index) = self.numbers.iter().position(|&n| n == number) else {
            return false;
        };
        if let Some(guest) = self.guest.get_mut(index) {
            *guest = value;
        }
        if self.loaded && index < self.count {
            // SAFETY: The caller vouches for the value; `put` restores the host's.
            unsafe { cpu::wrmsr(number, value) };
        }
        true
    }

    /// Puts the guest's values into the CPU.
    pub(crate) fn load(&mut self, _irq: &IrqOff) {
        let pairs = self.numbers.iter().zip(&self.guest).zip(&mut self.host);
        for ((&number, &guest), host) in pairs.take(self.count) {
            // SAFETY: The first `count` exist.
            *host = unsafe { cpu::rdmsr(number) };
            if *host != guest {
                // SAFETY: The guest's value was checked when it was set; the host does not use the MSR
                // before `put`.
                unsafe { cpu::wrmsr(number, guest) };
            }
        }
        self.loaded = true;
    }

    /// Puts the host's values back.
    pub(crate) fn put(&mut self, _irq: &IrqOff) {
        self.loaded = false;
        let pairs = self.numbers.iter().zip(&self.guest).zip(&self.host);
        for ((&number, guest), &host) in pairs.take(self.count) {
            if host != *guest {
                // SAFETY: This is the value that `load` displaced.
                unsafe { cpu::wrmsr(number, host) };
            }
        }
    }
}
