// SPDX-License-Identifier: GPL-2.0-only

//! State that a vCPU keeps on a CPU while its thread runs there.
//!
//! The scheduler's preempt notifiers take it off the CPU when the thread is switched out and put it on
//! the next one when the thread goes on. So code between [`Loaded::load`] and [`Loaded::put`] may be
//! preempted and migrated; only with interrupts off does it see one CPU.

use core::cell::UnsafeCell;

use kernel::{
    bindings,
    ffi,
    prelude::*,
    sync::Arc,
    task::Task,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use super::cpu::IrqOff;
use crate::bindings as b;

/// State that can be put on a CPU and taken off again.
pub(crate) trait Switch {
    /// Puts the state on the current CPU.
    fn load(&mut self, irq: &IrqOff);

    /// Takes it off the current CPU, where [`Switch::load`] put it.
    fn put(&mut self, irq: &IrqOff);
}

/// Who wants to know when the thread of a loaded [`Switch`] loses its CPU and gets one again. The scheduler
/// calls with interrupts off and locks of its own held: no method may wait, or wake a thread.
pub(crate) trait Watch: Send + Sync {
    /// The thread loses the CPU. `wants_cpu`: not because it sleeps.
    fn switched_out(&self, wants_cpu: bool);

    /// The thread has a CPU again.
    fn switched_in(&self);
}

/// A [`Switch`] that follows its thread.
///
/// # Invariants
///
/// `notifier` is registered with the current task from `load` to `put`. `state` is accessed only with
/// interrupts off, by the thread that loaded it, or by the owner while it is not loaded.
#[repr(C)]
#[pin_data]
pub(crate) struct Loaded<T: Switch, W: Watch> {
    #[pin]
    notifier: Opaque<bindings::preempt_notifier>,
    state: UnsafeCell<T>,
    watch: Arc<W>,
}

// SAFETY: The state moves between CPUs by design; `T: Send` makes it movable between threads, and `W` is `Sync`.
unsafe impl<T: Switch + Send, W: Watch> Send for Loaded<T, W> {}

impl<T: Switch, W: Watch> Loaded<T, W> {
    const OPS: bindings::preempt_ops = bindings::preempt_ops {
        sched_in: Some(Self::sched_in),
        sched_out: Some(Self::sched_out),
    };

    /// Makes an unloaded one.
    pub(crate) fn new(state: T, watch: Arc<W>) -> impl PinInit<Self> {
        pin_init!(Self {
            notifier <- Opaque::ffi_init(|slot: *mut bindings::preempt_notifier| {
                let ops: &'static bindings::preempt_ops = &Self::OPS;
                // SAFETY: `slot` is valid for writing.
                unsafe {
                    slot.write(pin_init::zeroed());
                    (*slot).ops = core::ptr::from_ref(ops).cast_mut();
                }
            }),
            state: UnsafeCell::new(state),
            watch,
        })
    }

    /// Puts the state on the CPU and ties it to the current thread.
    pub(crate) fn load(self: Pin<&mut Self>) {
        let irq = IrqOff::new();
        // SAFETY: The notifier is pinned and not registered yet; interrupts are off, so the task
        // is not switched meanwhile.
        unsafe { bindings::preempt_notifier_register(self.notifier.get()) };
        // SAFETY: Interrupts are off, and `&mut self` excludes another user.
        unsafe { (*self.state.get()).load(&irq) };
    }

    /// Takes the state off the CPU. The thread must be the one that loaded it.
    pub(crate) fn put(self: Pin<&mut Self>) {
        let irq = IrqOff::new();
        // SAFETY: As in `load`.
        unsafe { (*self.state.get()).put(&irq) };
        // SAFETY: `load` registered the notifier.
        unsafe { b::preempt_notifier_unregister(self.notifier.get()) };
    }

    /// Gives access to the state with interrupts off.
    #[inline(always)]
    pub(crate) fn with<R>(
        self: Pin<&mut Self>,
        irq: &IrqOff,
        f: impl FnOnce(&mut T, &IrqOff) -> R,
    ) -> R {
        // SAFETY: With interrupts off no notifier runs; `&mut self` excludes another user.
        f(unsafe { &mut *self.state.get() }, irq)
    }

    unsafe extern "C" fn sched_in(notifier: *mut bindings::preempt_notifier, _cpu: ffi::c_int) {
        let irq = IrqOff::new();
        let this: *mut Self = notifier.cast();
        // SAFETY: The notifier is the first field of a pinned, loaded `Self`; interrupts are off, and
        // the thread is in the scheduler, so nothing else holds the state.
        unsafe { (*(*this).state.get()).load(&irq) };
        // SAFETY: As above; the field is never changed.
        unsafe { (*this).watch.switched_in() };
    }

    unsafe extern "C" fn sched_out(
        notifier: *mut bindings::preempt_notifier,
        _next: *mut bindings::task_struct,
    ) {
        let irq = IrqOff::new();
        let this: *mut Self = notifier.cast();
        // SAFETY: As `sched_in`.
        unsafe { (*(*this).state.get()).put(&irq) };
        // SAFETY: Reads the state of the current thread.
        let wants_cpu = unsafe { b::vireo_wants_cpu() };
        // SAFETY: As `sched_in`.
        unsafe { (*this).watch.switched_out(wants_cpu) };
    }
}

/// Keeps the scheduler's preempt notifiers switched on.
pub(crate) struct NotifiersOn(());

impl NotifiersOn {
    /// Switches them on; may sleep.
    pub(crate) fn new() -> Self {
        // SAFETY: Process context.
        unsafe { b::preempt_notifier_inc() };
        Self(())
    }
}

impl Drop for NotifiersOn {
    fn drop(&mut self) {
        // SAFETY: Paired with `new`.
        unsafe { b::preempt_notifier_dec() };
    }
}

/// A signal mask in force instead of the thread's own, until it is dropped.
///
/// # Invariants
///
/// Made and dropped by the same thread, in which the thread's own mask is kept.
pub(crate) struct SignalMask(NotThreadSafe);

impl SignalMask {
    /// Puts `mask` in force.
    pub(crate) fn new(mask: &bindings::sigset_t) -> Self {
        // SAFETY: The mask is valid; process context.
        unsafe { b::vireo_sigmask_enter(mask) };
        Self(NotThreadSafe)
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: Paired with the call in `new`, by the same thread.
        unsafe { b::vireo_sigmask_leave() };
    }
}

/// Lets other threads run, if any wants to.
pub(crate) fn yield_now() {
    // SAFETY: Process context, no lock held.
    unsafe { b::vireo_cond_resched() };
}

/// What became of [`yield_to`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yielded {
    /// The other thread runs, or will soon; this one has waited for its turn.
    Done,
    /// The other thread can't be favoured: it runs already, sleeps, or is of another class.
    Refused,
    /// There is nothing to be won: either CPU has one thread only.
    Pointless,
}

/// Gives what is left of this thread's turn to `task`. May sleep.
pub(crate) fn yield_to(task: &Task) -> Yielded {
    // SAFETY: The task is valid; process context, no lock held.
    match unsafe { bindings::yield_to(task.as_ptr(), true) } {
        1.. => Yielded::Done,
        0 => Yielded::Refused,
        _ => Yielded::Pointless,
    }
}

/// Whether no other thread waits for this CPU.
pub(crate) fn is_alone() -> bool {
    // SAFETY: Reads the state of the CPU's queue; a stale answer does no harm.
    unsafe { b::vireo_alone() }
}

/// Whether the current thread must leave the guest: a signal, a rescheduling or task work is pending.
#[inline(always)]
pub(crate) fn exit_work_pending() -> bool {
    // SAFETY: Reads the current thread's flags.
    unsafe { b::vireo_exit_work_pending() }
}

/// Does that work; may sleep.
///
/// # Errors
///
/// `EINTR` when a signal is pending, which the caller must return to userspace for.
pub(crate) fn handle_exit_work() -> Result {
    // SAFETY: Process context with interrupts on.
    kernel::error::to_result(unsafe { b::vireo_handle_exit_work() })
}
