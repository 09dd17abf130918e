// SPDX-License-Identifier: GPL-2.0-only

//! The guest's FPU and extended state, held in the kernel's own format.
//!
//! While a vCPU runs, its state is the current task's: the scheduler saves and restores it like any
//! other, so nothing has to be done at a context switch.

use kernel::prelude::*;

use crate::bindings as b;

/// Bytes of `struct kvm_xsave`.
pub(crate) const XSAVE_SIZE: usize = 4096;

/// A guest's extended state.
///
/// # Invariants
///
/// `inner` holds an fpstate that `fpu_alloc_guest_fpstate` made.
pub(crate) struct GuestFpu {
    inner: b::fpu_guest,
}

// SAFETY: The state is plain memory; `swap_in` and `swap_out` are called by the owner's current task.
unsafe impl Send for GuestFpu {}

impl GuestFpu {
    /// Allocates state in its initial configuration. May sleep.
    pub(crate) fn new() -> Result<Self> {
        let mut inner = b::fpu_guest::default();
        // SAFETY: `inner` is valid; the call initialises it.
        if !unsafe { b::fpu_alloc_guest_fpstate(&mut inner) } {
            return Err(ENOMEM);
        }
        // INVARIANT: Just allocated.
        Ok(Self { inner })
    }

    /// Makes the guest's state the current task's.
    pub(crate) fn swap_in(&mut self) {
        // SAFETY: By the invariant the fpstate is valid; process context.
        unsafe { b::fpu_swap_kvm_fpstate(&mut self.inner, true) };
    }

    /// Gives the current task its own state back.
    pub(crate) fn swap_out(&mut self) {
        // SAFETY: As `swap_in`, which has been called by this task before.
        unsafe { b::fpu_swap_kvm_fpstate(&mut self.inner, false) };
    }

    /// Bytes that [`GuestFpu::copy_out`] may need: the size that `KVM_CAP_XSAVE2` reports.
    pub(crate) fn uabi_size(&self) -> usize {
        self.inner.uabi_size as usize
    }

    /// Writes the state in XSAVE's standard format to `buf`, for the features in `xfeatures`.
    pub(crate) fn copy_out(&mut self, buf: &mut [u8], xfeatures: u64) {
        // SAFETY: The function writes at most `size` bytes; the fpstate is valid and not loaded (the
        // vCPU's mutex is held and it is not running).
        unsafe {
            b::fpu_copy_guest_fpstate_to_uabi(
                &mut self.inner,
                buf.as_mut_ptr().cast(),
                buf.len() as u32,
                xfeatures,
                0,
            )
        };
    }

    /// Replaces the state by an image in XSAVE's standard format of at least [`XSAVE_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL` for features outside `xcr0`, reserved bits of MXCSR or a bad header.
    pub(crate) fn copy_in(&mut self, buf: &[u8], xcr0: u64) -> Result {
        if buf.len() < XSAVE_SIZE || buf.len() < self.uabi_size() {
            return Err(EINVAL);
        }
        let mut pkru = 0;
        // SAFETY: The buffer holds at least `uabi_size` bytes; `pkru` is valid for writing.
        kernel::error::to_result(unsafe {
            b::fpu_copy_uabi_to_guest_fpstate(&mut self.inner, buf.as_ptr().cast(), xcr0, &mut pkru)
        })
    }
}

impl Drop for GuestFpu {
    fn drop(&mut self) {
        // SAFETY: By the invariant the fpstate is allocated; it is not in use, for the vCPU that owned
        // it has left `KVM_RUN`.
        unsafe { b::fpu_free_guest_fpstate(&mut self.inner) };
    }
}

/// Makes the registers those of the current task's state, for as long as interrupts are off.
#[inline(always)]
pub(crate) fn sync(_irq: &super::cpu::IrqOff) {
    // SAFETY: Interrupts are off.
    unsafe { b::vireo_fpu_sync() };
}

/// Bytes of an XMM register.
const XMM: usize = 16;

/// Bytes of a YMM register.
const YMM: usize = 32;

/// Expands `$insn` for the register with number `$n`.
macro_rules! each_register {
    ($n:expr, $insn:ident) => {
        each_register!($n, $insn; 0 => "0" 1 => "1" 2 => "2" 3 => "3" 4 => "4" 5 => "5" 6 => "6" 7 => "7"
            8 => "8" 9 => "9" 10 => "10" 11 => "11" 12 => "12" 13 => "13" 14 => "14" 15 => "15")
    };
    ($n:expr, $insn:ident; $($number:literal => $name:literal)*) => {
        match $n {
            $($number => $insn!($name),)*
            _ => return None,
        }
    };
}

/// Reads vector register `n` into 16 or 32 bytes of `buf`; `None` for another register or length. The guest's
/// state must be the current task's, and have AVX for 32 bytes.
pub(crate) fn read_vector(n: u8, buf: &mut [u8]) -> Option<()> {
    let (pointer, wide) = match buf.len() {
        XMM => (buf.as_mut_ptr(), false),
        YMM => (buf.as_mut_ptr(), true),
        _ => return None,
    };
    let irq = super::cpu::IrqOff::new();
    sync(&irq);
    macro_rules! store {
        ($name:literal) => {
            // SAFETY: Stores 16 bytes to the buffer; SSE is there on every 64-bit CPU.
            unsafe {
                core::arch::asm!(concat!("movdqu [{}], xmm", $name), in(reg) pointer, options(nostack))
            }
        };
    }
    macro_rules! store_wide {
        ($name:literal) => {
            // SAFETY: Stores 32 bytes to the buffer; by the contract the CPU has AVX, and the host uses it.
            unsafe {
                core::arch::asm!(concat!("vmovdqu [{}], ymm", $name), in(reg) pointer, options(nostack))
            }
        };
    }
    if wide {
        each_register!(n, store_wide);
    } else {
        each_register!(n, store);
    }
    Some(())
}

/// Sets the low 16 or 32 bytes of vector register `n`, and clears the rest if `clear` is set; `None` for another
/// register or length. The guest's state must be the current task's, and have AVX for 32 bytes or to clear.
pub(crate) fn write_vector(n: u8, value: &[u8], clear: bool) -> Option<()> {
    let pointer = value.as_ptr();
    if !matches!(value.len(), XMM | YMM) {
        return None;
    }
    let irq = super::cpu::IrqOff::new();
    sync(&irq);
    macro_rules! load {
        ($name:literal) => {
            // SAFETY: Reads 16 bytes of the buffer into a register that the guest owns.
            unsafe {
                core::arch::asm!(concat!("movdqu xmm", $name, ", [{}]"), in(reg) pointer, options(nostack))
            }
        };
    }
    macro_rules! load_and_clear {
        ($name:literal) => {
            // SAFETY: As above; by the contract the CPU has AVX, and the host uses it.
            unsafe {
                core::arch::asm!(concat!("vmovdqu xmm", $name, ", [{}]"), in(reg) pointer, options(nostack))
            }
        };
    }
    macro_rules! load_wide {
        ($name:literal) => {
            // SAFETY: Reads 32 bytes; else as above.
            unsafe {
                core::arch::asm!(concat!("vmovdqu ymm", $name, ", [{}]"), in(reg) pointer, options(nostack))
            }
        };
    }
    match (value.len(), clear) {
        (YMM, _) => each_register!(n, load_wide),
        (_, true) => each_register!(n, load_and_clear),
        (_, false) => each_register!(n, load),
    }
    Some(())
}
