// SPDX-License-Identifier: GPL-2.0-only

//! One-shot timers of the host, and a place where one thread waits to be woken.

use kernel::{
    bindings,
    ffi,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        barrier::smp_mb, //
    },
    types::Opaque, //
};

use super::atomic;
use crate::bindings as b;

/// A timer that wakes a [`Waiter`] when it fires, in hard-interrupt context.
///
/// # Invariants
///
/// `timer` is set up; it is never armed after the value has begun to be dropped.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct WakeTimer {
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    fired: Atomic<u32>,
    #[pin]
    pub(crate) waiter: Waiter,
}

// SAFETY: The kernel's timer functions may be called from any thread; the other fields are `Sync`.
unsafe impl Send for WakeTimer {}
// SAFETY: As above.
unsafe impl Sync for WakeTimer {}

impl WakeTimer {
    /// Makes a timer that is not armed.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            timer <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid; the callback fits the layout of `Self`.
                unsafe {
                    bindings::hrtimer_setup(
                        slot,
                        Some(Self::expired),
                        bindings::CLOCK_MONOTONIC as ffi::c_int,
                        bindings::hrtimer_mode_HRTIMER_MODE_ABS_HARD,
                    )
                }
            }),
            fired: Atomic::new(0),
            waiter <- Waiter::new(),
        })
    }

    /// Arms the timer for `deadline_ns` of the host's monotonic clock, replacing an earlier deadline.
    pub(crate) fn arm(&self, deadline_ns: u64) {
        let deadline = i64::try_from(deadline_ns).unwrap_or(i64::MAX);
        // SAFETY: By the invariant the timer is set up.
        unsafe {
            bindings::hrtimer_start_range_ns(
                self.timer.get(),
                deadline,
                0,
                bindings::hrtimer_mode_HRTIMER_MODE_ABS_HARD,
            )
        };
    }

    /// Disarms the timer and forgets that it fired. Waits for a callback that is running.
    pub(crate) fn cancel(&self) {
        // SAFETY: By the invariant the timer is set up.
        unsafe { bindings::hrtimer_cancel(self.timer.get()) };
        self.fired.store(0, Relaxed);
    }

    /// Whether the timer has fired and nobody has taken note.
    #[inline(always)]
    pub(crate) fn has_fired(&self) -> bool {
        atomic::read(&self.fired) != 0
    }

    /// Takes note that the timer fired; returns whether it had.
    #[inline]
    pub(crate) fn take_fired(&self) -> bool {
        self.has_fired() && self.fired.xchg(0, Full) != 0
    }

    unsafe extern "C" fn expired(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: The timer is the first field of a pinned `Self`, which cancels it when dropped.
        let this = unsafe { &*timer.cast::<Self>() };
        this.fired.store(1, Relaxed);
        this.waiter.wake();
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }
}

#[pinned_drop]
impl PinnedDrop for WakeTimer {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}

/// What happens when an [`Alarm`] goes off.
pub(crate) trait OnAlarm: Send + Sync {
    /// Called in soft-interrupt context, where spinlocks may be taken; it may arm the alarm again.
    fn alarm(&self, alarm: &Alarm<Self>)
    where
        Self: Sized;
}

/// A one-shot timer that calls back in soft-interrupt context.
///
/// # Invariants
///
/// `timer` is set up; it is never armed after the value has begun to be dropped.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Alarm<T: OnAlarm> {
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    #[pin]
    pub(crate) target: T,
}

// SAFETY: The kernel's timer functions may be called from any thread, and `T` is `Send`.
unsafe impl<T: OnAlarm> Send for Alarm<T> {}
// SAFETY: As above, and `T` is `Sync`.
unsafe impl<T: OnAlarm> Sync for Alarm<T> {}

impl<T: OnAlarm> Alarm<T> {
    /// Makes an alarm that is not armed.
    pub(crate) fn new(target: impl PinInit<T>) -> impl PinInit<Self> {
        pin_init!(Self {
            timer <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid; the callback fits the layout of `Self`.
                unsafe {
                    bindings::hrtimer_setup(
                        slot,
                        Some(Self::expired),
                        bindings::CLOCK_MONOTONIC as ffi::c_int,
                        bindings::hrtimer_mode_HRTIMER_MODE_ABS_SOFT,
                    )
                }
            }),
            target <- target,
        })
    }

    /// Arms it for `deadline_ns` of the host's monotonic clock, replacing an earlier deadline; `None` disarms
    /// it. A callback that has begun goes on, so it must look at the clock itself. Any context.
    pub(crate) fn set(&self, deadline_ns: Option<u64>) {
        match deadline_ns {
            // SAFETY: By the invariant the timer is set up.
            Some(ns) => unsafe {
                bindings::hrtimer_start_range_ns(
                    self.timer.get(),
                    i64::try_from(ns).unwrap_or(i64::MAX),
                    0,
                    bindings::hrtimer_mode_HRTIMER_MODE_ABS_SOFT,
                )
            },
            None => {
                // SAFETY: As above.
                unsafe { bindings::hrtimer_try_to_cancel(self.timer.get()) };
            }
        }
    }

    unsafe extern "C" fn expired(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: The timer is the first field of a pinned `Self`, which cancels it when dropped.
        let this = unsafe { &*timer.cast::<Self>() };
        this.target.alarm(this);
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }
}

#[pinned_drop]
impl<T: OnAlarm> PinnedDrop for Alarm<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariant the timer is set up; this waits for a callback that is running.
        unsafe { bindings::hrtimer_cancel(self.timer.get()) };
    }
}

/// Where the thread of a vCPU sleeps, and how others reach it, in the guest or asleep.
///
/// # Invariants
///
/// Only one thread waits at a time (it holds the vCPU's mutex).
#[pin_data]
pub(crate) struct Waiter {
    #[pin]
    wait: Opaque<bindings::rcuwait>,
    /// The CPU whose guest mode the vCPU is in or about to enter, or -1.
    in_guest: Atomic<i32>,
}

// SAFETY: `rcuwait` is made for use from other threads and interrupts.
unsafe impl Send for Waiter {}
// SAFETY: As above.
unsafe impl Sync for Waiter {}

impl Waiter {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            wait <- Opaque::ffi_init(|slot: *mut bindings::rcuwait| {
                // SAFETY: `slot` is valid for writing.
                unsafe { b::vireo_wait_init(slot) }
            }),
            in_guest: Atomic::new(-1),
        })
    }

    /// Says that the vCPU is about to enter the guest on `cpu`. What another thread asks for after
    /// this makes it send an interrupt; what was asked before is seen by the checks that follow.
    #[inline(always)]
    pub(crate) fn entering(&self, cpu: i32) {
        atomic::write(&self.in_guest, cpu);
        smp_mb(Full);
    }

    /// Says that the vCPU has left the guest.
    #[inline(always)]
    pub(crate) fn left(&self) {
        atomic::write(&self.in_guest, -1);
    }

    /// Makes the vCPU look at what is asked of it: wakes it when it sleeps, gets it out of the guest
    /// when it is there. The request must have been stored before. Any context.
    pub(crate) fn wake(&self) {
        // `rcuwait_wake_up` begins with a full barrier, so the request is visible before `in_guest`
        // is read.
        // SAFETY: By the invariants the object is initialised.
        unsafe { b::rcuwait_wake_up(self.wait.get()) };
        let cpu = self.in_guest.load(Relaxed);
        if cpu >= 0 {
            // SAFETY: Any context; the CPU existed when the vCPU ran on it.
            unsafe { b::vireo_kick_cpu(cpu) };
        }
    }

    /// Whether the vCPU is in the guest or about to enter. A hint: the full answer is [`Waiter::notify`].
    #[inline(always)]
    pub(crate) fn is_in_guest(&self) -> bool {
        atomic::read(&self.in_guest) >= 0
    }

    /// Notifies the guest of what has been posted to it, if the vCPU is in the guest or about to enter;
    /// returns whether it is. A full barrier must stand between the posting and the call. Any context.
    pub(crate) fn notify(&self) -> bool {
        let cpu = self.in_guest.load(Relaxed);
        if cpu >= 0 {
            // SAFETY: Any context; the CPU existed when the vCPU ran on it.
            unsafe { b::vireo_notify_posted(cpu) };
        }
        cpu >= 0
    }

    /// Returns when the vCPU is not in the guest, or has left it since the call began.
    pub(crate) fn wait_until_out(&self) {
        smp_mb(Full);
        let cpu = self.in_guest.load(Relaxed);
        if cpu >= 0 {
            // SAFETY: Process context with interrupts on.
            unsafe { b::vireo_call_on_cpu(cpu) };
        }
    }

    /// Sleeps until `ready` says so.
    ///
    /// # Errors
    ///
    /// `EINTR` when a signal is pending.
    pub(crate) fn wait<F: FnMut() -> bool>(&self, mut ready: F) -> Result {
        unsafe extern "C" fn call<F: FnMut() -> bool>(arg: *mut ffi::c_void) -> bool {
            // SAFETY: `arg` is the closure below, used by this thread only.
            unsafe { (*arg.cast::<F>())() }
        }
        // SAFETY: The closure outlives the call; by the invariant no other thread waits.
        kernel::error::to_result(unsafe {
            b::vireo_wait(
                self.wait.get(),
                Some(call::<F>),
                core::ptr::from_mut(&mut ready).cast(),
            )
        })
    }
}
