// SPDX-License-Identifier: GPL-2.0-only

//! The VMX instructions (SDM vol. 3, chapter 31).
//!
//! Each carries an exception-table entry: when a reboot has turned VMX off under a running vCPU they
//! raise #UD, which must not bring the machine down on its way out. Such an instruction does nothing and
//! counts as a success.

use core::arch::asm;

use crate::{
    host::ignore_fault,
    model::addr::Hpa, //
};

/// How a VMX instruction failed (SDM vol. 3, section 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VmFail;

/// What the current-VMCS pointer holds when there is none.
const NO_VMCS: u64 = u64::MAX;

/// Makes the VMCS at `vmcs` current and active.
///
/// # Safety
///
/// Interrupts are off; `vmcs` is a VMCS that is not active on another CPU.
pub(crate) unsafe fn vmptrld(vmcs: Hpa) -> Result<(), VmFail> {
    let operand = vmcs.raw();
    let failed: u8;
    // SAFETY: The operand is memory of this frame; the caller vouches for the VMCS.
    unsafe {
        asm!("2: vmptrld [{p}]", "setna {failed}", ignore_fault!(),
             p = in(reg) &operand, failed = inout(reg_byte) 0u8 => failed, options(nostack));
    }
    result(failed)
}

/// Writes the VMCS at `vmcs` back to memory and makes it neither active nor current.
///
/// # Safety
///
/// Interrupts are off; the VMCS is not active on another CPU.
pub(crate) unsafe fn vmclear(vmcs: Hpa) -> Result<(), VmFail> {
    let operand = vmcs.raw();
    let failed: u8;
    // SAFETY: As `vmptrld`.
    unsafe {
        asm!("2: vmclear [{p}]", "setna {failed}", ignore_fault!(),
             p = in(reg) &operand, failed = inout(reg_byte) 0u8 => failed, options(nostack));
    }
    result(failed)
}

/// Returns the current VMCS, if there is one.
///
/// # Safety
///
/// The CPU is in VMX operation.
pub(crate) unsafe fn vmptrst() -> Option<Hpa> {
    let mut operand = NO_VMCS;
    // SAFETY: Writes 8 bytes to a variable of this frame.
    unsafe {
        asm!("2: vmptrst [{p}]", ignore_fault!(), p = in(reg) &mut operand, options(nostack))
    };
    (operand != NO_VMCS).then_some(Hpa::new(operand))
}

/// Reads a field of the current VMCS; 0 when that fails.
///
/// # Safety
///
/// There is a current VMCS, and the field exists.
#[inline(always)]
pub(crate) unsafe fn vmread(encoding: u32) -> u64 {
    let value;
    // SAFETY: VMREAD touches no memory of Rust's.
    unsafe {
        asm!("2: vmread {v}, {f}", ignore_fault!(), f = in(reg) u64::from(encoding),
             v = inout(reg) 0u64 => value, options(nomem, nostack));
    }
    value
}

/// Reads a field, or says that it does not exist.
///
/// # Safety
///
/// There is a current VMCS.
pub(crate) unsafe fn vmread_checked(encoding: u32) -> Result<u64, VmFail> {
    let (value, failed): (u64, u8);
    // SAFETY: VMREAD touches no memory of Rust's.
    unsafe {
        asm!("2: vmread {v}, {f}", "setna {failed}", ignore_fault!(),
             f = in(reg) u64::from(encoding), v = inout(reg) 0u64 => value,
             failed = inout(reg_byte) 0u8 => failed, options(nomem, nostack));
    }
    result(failed).map(|()| value)
}

/// Writes a field of the current VMCS.
///
/// # Safety
///
/// There is a current VMCS that is the caller's, and the value does not give the guest access to what
/// is not its own.
#[inline(always)]
pub(crate) unsafe fn vmwrite(encoding: u32, value: u64) -> Result<(), VmFail> {
    let failed: u8;
    // SAFETY: VMWRITE touches no memory of Rust's; the caller vouches for the value.
    unsafe {
        asm!("2: vmwrite {f}, {v}", "setna {failed}", ignore_fault!(),
             f = in(reg) u64::from(encoding), v = in(reg) value,
             failed = inout(reg_byte) 0u8 => failed, options(nomem, nostack));
    }
    result(failed)
}

/// Invalidates the translations made through the EPT pointer `eptp`, with every VPID.
///
/// # Safety
///
/// The CPU has single-context INVEPT.
pub(crate) unsafe fn invept_single(eptp: u64) {
    let descriptor = [eptp, 0];
    // SAFETY: Invalidating translations is harmless; the descriptor is memory of this frame.
    unsafe {
        asm!("2: invept {t}, [{d}]", ignore_fault!(), t = in(reg) 1u64, d = in(reg) &descriptor,
             options(nostack));
    }
}

/// Invalidates the translations that are tagged with `vpid`.
///
/// # Safety
///
/// The CPU has single-context INVVPID; `vpid` is not 0.
pub(crate) unsafe fn invvpid_single(vpid: u16) {
    let descriptor = [u64::from(vpid), 0];
    // SAFETY: As `invept_single`.
    unsafe {
        asm!("2: invvpid {t}, [{d}]", ignore_fault!(), t = in(reg) 1u64, d = in(reg) &descriptor,
             options(nostack));
    }
}

fn result(failed: u8) -> Result<(), VmFail> {
    if failed == 0 {
        Ok(())
    } else {
        Err(VmFail)
    }
}
