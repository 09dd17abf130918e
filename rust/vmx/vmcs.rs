// SPDX-License-Identifier: GPL-2.0-only

//! The VMCS region, and the proof that it is the CPU's current one.
//!
//! # Beside KVM
//!
//! KVM remembers for each CPU which VMCS it made current, and does not look again. So whenever KVM's code
//! can run, that VMCS must be current. KVM's code runs here in two ways: as another thread (ours has been
//! switched out then, and its VMCS cleared) and in interrupts. In an interrupt KVM may VMCLEAR and free its
//! VMCS, so it would be wrong to remember it over a time with interrupts on and make it current again.
//!
//! Therefore: if there is no current VMCS when a vCPU is put on a CPU, ours becomes current and stays (KVM
//! cannot make one current but by another thread). If there is one, it *remains* current; ours is made
//! current only for stretches with interrupts off ([`Vmcs::current`]), at the end of which the other one is
//! put back. That costs a VMPTRST and two VMPTRLDs for each exit, only on a CPU where a KVM guest has run.

use kernel::prelude::*;

use super::insn::{
    self,
    VmFail, //
};
use crate::{
    host::{
        cpu::IrqOff,
        page::HostPage, //
    },
    model::{
        addr::Hpa,
        vmx::field::{
            self,
            Access,
            Field,
            FieldType, //
        }, //
    }, //
};

/// A VMCS region.
///
/// # Invariants
///
/// `_page` has the processor's VMCS revision. The VMCS is active on no CPU unless `loaded` (then on the
/// one where [`Vmcs::load`] was called, and the thread has not left it since).
pub(crate) struct Vmcs {
    _page: HostPage,
    hpa: Hpa,
    loaded: bool,
    /// The VMCS stays current between uses.
    stays_current: bool,
}

impl Vmcs {
    /// Makes a cleared VMCS of the given revision.
    pub(crate) fn new(revision: u32, _irq: &IrqOff, mut page: HostPage) -> Result<Self> {
        let (head, _) = page.bytes_mut().split_at_mut(4);
        head.copy_from_slice(&revision.to_le_bytes());
        let hpa = page.hpa();
        // SAFETY: A fresh page with the right revision; interrupts are off.
        unsafe { insn::vmclear(hpa) }.map_err(|VmFail| EIO)?;
        // INVARIANT: It has just been cleared.
        Ok(Self {
            _page: page,
            hpa,
            loaded: false,
            stays_current: false,
        })
    }

    /// Puts the VMCS on the current CPU.
    pub(crate) fn load(&mut self, _irq: &IrqOff) {
        // SAFETY: The module holds VMX operation on every CPU.
        self.stays_current = unsafe { insn::vmptrst() }.is_none();
        if self.stays_current {
            // SAFETY: By the invariant it is active on no other CPU; interrupts are off.
            let _ = unsafe { insn::vmptrld(self.hpa) };
        }
        // INVARIANT: Active at most on this CPU from now on.
        self.loaded = true;
    }

    /// Takes the VMCS off the current CPU: its data are in memory afterwards, and another VMCS that was
    /// current when it was loaded still is.
    pub(crate) fn put(&mut self, _irq: &IrqOff) {
        // SAFETY: By the invariant it is active on this CPU only; interrupts are off.
        let _ = unsafe { insn::vmclear(self.hpa) };
        self.loaded = false;
    }

    /// Makes the VMCS current for as long as the result lives, which is with interrupts off. Loads it
    /// for that time only when it is not loaded.
    #[inline(always)]
    pub(crate) fn current<'a>(&'a mut self, irq: &'a IrqOff) -> CurrentVmcs<'a> {
        let mut restore = None;
        let transient = !self.loaded;
        if !self.stays_current || transient {
            // SAFETY: The module holds VMX operation on every CPU.
            restore = unsafe { insn::vmptrst() };
            // SAFETY: By the invariant it is active on no other CPU; interrupts are off.
            let _ = unsafe { insn::vmptrld(self.hpa) };
            if !transient && restore.is_none() {
                // The other one has gone meanwhile.
                self.stays_current = true;
            }
        }
        CurrentVmcs {
            vmcs: self,
            _irq: irq,
            restore,
            transient,
        }
    }
}

impl Drop for Vmcs {
    fn drop(&mut self) {
        if self.loaded {
            let irq = IrqOff::new();
            self.put(&irq);
        }
    }
}

/// Proof that a VMCS is the current one on this CPU.
///
/// # Invariants
///
/// While it lives the VMCS is current and interrupts are off.
pub(crate) struct CurrentVmcs<'a> {
    vmcs: &'a mut Vmcs,
    _irq: &'a IrqOff,
    restore: Option<Hpa>,
    transient: bool,
}

impl CurrentVmcs<'_> {
    /// Reads a field.
    #[inline(always)]
    pub(crate) fn read<T: FieldType, A: Access>(&self, field: Field<T, A>) -> T::Value {
        // SAFETY: By the invariant there is a current VMCS.
        T::from_operand(unsafe { insn::vmread(field.encoding()) })
    }

    /// Writes a field. A failure is a bug of this module's; it is logged with the instruction error.
    #[inline(always)]
    pub(crate) fn write<T: FieldType>(&mut self, field: Field<T>, value: T::Value) {
        // SAFETY: By the invariant the VMCS is ours. Its values come from the model, whose control
        // fields confine the guest.
        if unsafe { insn::vmwrite(field.encoding(), T::to_operand(value)) }.is_err() {
            self.write_failed(field.encoding());
        }
    }

    #[cold]
    fn write_failed(&self, encoding: u32) {
        let error = self.instruction_error();
        pr_err!("VMWRITE of field {encoding:#x} failed with error {error}\n");
    }

    /// Returns the VM-instruction error number of the last failure.
    pub(crate) fn instruction_error(&self) -> u32 {
        self.read(field::INSTRUCTION_ERROR)
    }

    /// Writes every field that exists to the kernel log.
    #[cold]
    pub(crate) fn dump(&self) {
        pr_info!("VMCS at {:#x}\n", self.vmcs.hpa.raw());
        for &(name, encoding) in field::ALL {
            // SAFETY: By the invariant there is a current VMCS.
            if let Ok(value) = unsafe { insn::vmread_checked(encoding) } {
                pr_info!("  {encoding:#06x} {name} = {value:#x}\n");
            }
        }
    }
}

impl Drop for CurrentVmcs<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.transient {
            // SAFETY: The VMCS was made active here by `current`.
            let _ = unsafe { insn::vmclear(self.vmcs.hpa) };
        }
        if let Some(other) = self.restore {
            // SAFETY: `other` was current when interrupts went off, and nothing else has run since.
            let _ = unsafe { insn::vmptrld(other) };
        }
    }
}
