// SPDX-License-Identifier: GPL-2.0-only

//! The CPU that runs this code: interrupts, MSRs, control and debug registers.

use core::{
    arch::asm,
    marker::PhantomData, //
};

use crate::bindings as b;

/// Proof that interrupts are off on this CPU, and with them preemption and migration.
///
/// # Invariants
///
/// Interrupts are off on the current CPU as long as the value lives; it cannot leave the thread.
pub(crate) struct IrqOff {
    flags: usize,
    _not_send: PhantomData<*mut ()>,
}

impl IrqOff {
    /// Turns interrupts off until the value is dropped, which restores what was before.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        let flags;
        // SAFETY: Saving and clearing the interrupt flag touches no memory of Rust's.
        flags = unsafe { b::vireo_irq_save() };
        // INVARIANT: Interrupts have just been turned off, and only `drop` restores them.
        Self {
            flags,
            _not_send: PhantomData,
        }
    }
}

impl IrqOff {
    /// Turns interrupts on, after a run of the guest: those that arrived in the guest are taken here, on
    /// its account. To be called where interrupts were on before [`IrqOff::new`].
    #[inline(always)]
    pub(crate) fn open(self) {
        core::mem::forget(self);
        // SAFETY: Interrupts are off and were on before.
        unsafe { b::vireo_irq_window() };
    }
}

impl Drop for IrqOff {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `flags` is what the matching save returned, on this CPU (it cannot have changed
        // with interrupts off).
        unsafe { b::vireo_irq_restore(self.flags) };
    }
}

/// Delivers an interrupt to the host that the guest's exit has acknowledged. Soft interrupts may follow, in which
/// interrupts are on: everything on the CPU must be the host's again.
pub(crate) fn deliver_interrupt(_irq: &IrqOff, vector: u8) {
    // SAFETY: Interrupts are off, and the CPU has no other way left to hear of this one.
    unsafe { b::vireo_deliver_interrupt(vector) };
}

/// Returns the number of the CPU that runs this code; stable under `_irq`.
#[inline(always)]
pub(crate) fn this_cpu(_irq: &IrqOff) -> i32 {
    // SAFETY: Reads a per-CPU variable.
    unsafe { b::vireo_this_cpu() }
}

/// Sends an interrupt to this very CPU: a guest that is entered now is left again at once.
pub(crate) fn kick_self(irq: &IrqOff) {
    // SAFETY: Sends an interrupt that does nothing but come.
    unsafe { b::vireo_kick_cpu(this_cpu(irq)) };
}

/// Reads an MSR that is known to exist.
///
/// # Safety
///
/// The MSR must exist on this CPU: a fault would be a host bug (the kernel logs it and returns 0).
#[inline(always)]
pub(crate) unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The caller guarantees that the MSR exists; reading changes no state.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
///
/// The MSR must exist, the value must be valid for it, and the host must not depend on the old value
/// before it is put back.
#[inline(always)]
pub(crate) unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: As this function's contract says.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// Reads an MSR, or `None` where the CPU does not have it.
pub(crate) fn rdmsr_safe(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: `value` is valid for writing; the function catches the fault of an MSR that is missing.
    let failed = unsafe { b::vireo_rdmsr_safe(msr, &mut value) };
    (failed == 0).then_some(value)
}

/// Reads CR0.
#[inline(always)]
pub(crate) fn read_cr0() -> u64 {
    let value;
    // SAFETY: Reading CR0 at ring 0 has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CR3.
#[inline(always)]
pub(crate) fn read_cr3() -> u64 {
    let value;
    // SAFETY: Reading CR3 at ring 0 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CR4.
#[inline(always)]
pub(crate) fn read_cr4() -> u64 {
    let value;
    // SAFETY: Reading CR4 at ring 0 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads the time-stamp counter.
#[inline(always)]
pub(crate) fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC has no side effect.
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Spins until the time-stamp counter has reached `tsc`, which must not be far away.
#[inline(always)]
pub(crate) fn wait_for_tsc(tsc: u64) {
    if tsc != 0 {
        while rdtsc() < tsc {
            core::hint::spin_loop();
        }
    }
}

/// Executes CPUID on this CPU.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Writes XCR0.
///
/// # Safety
///
/// `value` must be valid for this CPU, interrupts must be off, and the host's value must be back before
/// anything of the host uses XSAVE state.
pub(crate) unsafe fn xsetbv(value: u64) {
    // SAFETY: As this function's contract says.
    unsafe {
        asm!("xsetbv", in("ecx") 0u32, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// Loads the guest's breakpoint addresses and DR6; DR7 is the VMCS's or VMCB's affair.
///
/// # Safety
///
/// Interrupts must be off, and [`b::vireo_restore_host_debug`] must follow before they are on again.
pub(crate) unsafe fn load_debug_registers(dr: &[u64; 4], dr6: u64) {
    // SAFETY: DR7 is cleared first, so the host takes no breakpoint from the guest's addresses.
    unsafe {
        asm!("mov dr7, {}", in(reg) 0x400u64, options(nomem, nostack));
        asm!("mov dr0, {}", in(reg) dr[0], options(nomem, nostack));
        asm!("mov dr1, {}", in(reg) dr[1], options(nomem, nostack));
        asm!("mov dr2, {}", in(reg) dr[2], options(nomem, nostack));
        asm!("mov dr3, {}", in(reg) dr[3], options(nomem, nostack));
        asm!("mov dr6, {}", in(reg) dr6, options(nomem, nostack));
    }
}

/// Says that data of the host's have gone through the level-1 cache, which a guest on some CPUs can read:
/// it is flushed before the next entry then.
#[inline]
pub(crate) fn data_cache_used() {
    // SAFETY: Sets a per-CPU flag; on which CPU it lands after a migration does not matter, since being
    // put on a CPU sets it there.
    unsafe { b::vireo_l1d_used() };
}

/// The buffers that clearing the level-1 data cache may need.
pub(crate) struct Mitigations(());

impl Mitigations {
    /// Finds out what the CPU needs, and allocates it.
    pub(crate) fn new() -> kernel::error::Result<Self> {
        // SAFETY: Process context, once.
        kernel::error::to_result(unsafe { b::vireo_mitigation_setup() })?;
        Ok(Self(()))
    }
}

impl Drop for Mitigations {
    fn drop(&mut self) {
        // SAFETY: No guest is left.
        unsafe { b::vireo_mitigation_cleanup() };
    }
}

/// Gives the host its breakpoints back, after a run of a guest.
#[inline(always)]
pub(crate) fn restore_debug_registers(_irq: &IrqOff) {
    // SAFETY: Interrupts are off.
    unsafe { b::vireo_restore_host_debug() };
}

/// Has the host handle a machine check that ended the guest's run just now.
pub(crate) fn machine_check(_irq: &IrqOff) {
    // SAFETY: Interrupts are off, on the CPU that the check hit.
    unsafe { b::vireo_machine_check() };
}

/// Returns XCR0 and IA32_XSS as the host keeps them; 0 where the CPU does not have the register.
pub(crate) fn host_xstate() -> (u64, u64) {
    // SAFETY: Both only read registers, where they exist.
    unsafe { (b::vireo_host_xcr0(), b::vireo_host_xss()) }
}

/// Returns the frequency of the host's time-stamp counter in kHz.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: Reads a variable that no longer changes after boot.
    let khz = unsafe { b::vireo_tsc_khz() };
    u32::try_from(khz).unwrap_or(u32::MAX)
}

/// Returns the host's clock in nanoseconds since boot (`CLOCK_MONOTONIC`).
#[inline]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: May be called in any context.
    let now = unsafe { kernel::bindings::ktime_get() };
    now.max(0) as u64
}

/// Returns how long the current thread has been ready to run without running, in nanoseconds.
#[inline]
pub(crate) fn run_delay_ns() -> u64 {
    // SAFETY: Reads a field of the current thread.
    unsafe { b::vireo_run_delay() }
}
