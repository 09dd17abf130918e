// SPDX-License-Identifier: GPL-2.0-only

//! `KVM_IRQFD`: eventfds that raise interrupts, and eventfds that are signalled when those are handled.

use kernel::{
    new_mutex,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SpinLockIrq, //
    }, //
};

use super::{
    lines::{
        source,
        Lines, //
    },
    Interrupts, //
};
use crate::{
    host::eventfd::{
        EventFd,
        EventWatch,
        OnEvent, //
    },
    uapi, //
};

/// What an eventfd raises.
struct Trigger {
    lines: Arc<Lines>,
    gsi: u32,
    /// The line stays high until the guest has handled the interrupt, and this is signalled then.
    resample: Option<Arc<EventFd>>,
}

impl OnEvent for Trigger {
    fn event(&self) {
        if self.resample.is_some() {
            let _status = self.lines.set_gsi(self.gsi, source::RESAMPLE, true);
        } else {
            self.lines.pulse_gsi(self.gsi, source::USER);
        }
    }
}

/// An eventfd that is signalled when the interrupt of a GSI has been handled.
struct Resampler {
    gsi: u32,
    event: Arc<EventFd>,
}

/// The eventfds of a VM.
#[pin_data]
pub(super) struct Irqfds {
    #[pin]
    watches: Mutex<KVVec<EventWatch<Trigger>>>,
    #[pin]
    resamplers: SpinLockIrq<KVVec<Resampler>>,
    resampling: Atomic<usize>,
}

impl Irqfds {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            watches <- new_mutex!(KVVec::new()),
            resamplers <- new_spinlock_irq!(KVVec::new()),
            resampling: Atomic::new(0),
        })
    }

    /// Whether an eventfd waits for the interrupt of `gsi` to be handled.
    pub(super) fn resamples(&self, gsi: u32) -> bool {
        self.resampling.load(Relaxed) != 0
            && self.resamplers.lock().iter().any(|one| one.gsi == gsi)
    }

    /// The interrupt of `gsi` has been handled: lowers the line and tells who can raise it again.
    pub(super) fn resample(&self, lines: &Lines, gsi: u32) {
        if !self.resamples(gsi) {
            return;
        }
        let _status = lines.set_gsi(gsi, source::RESAMPLE, false);
        for one in self.resamplers.lock().iter() {
            if one.gsi == gsi {
                one.event.signal();
            }
        }
    }

    /// Replaces the resamplers by those of `watches` and `new`.
    fn set_resamplers(&self, watches: &[EventWatch<Trigger>], new: Option<Resampler>) -> Result {
        let mut list = KVVec::with_capacity(watches.len().saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        for trigger in watches.iter().map(EventWatch::target) {
            if let Some(event) = &trigger.resample {
                let one = Resampler {
                    gsi: trigger.gsi,
                    event: event.clone(),
                };
                list.push_within_capacity(one).map_err(|_| ENOMEM)?;
            }
        }
        if let Some(one) = new {
            list.push_within_capacity(one).map_err(|_| ENOMEM)?;
        }
        let mut resamplers = self.resamplers.lock();
        self.resampling.store(list.len(), Relaxed);
        core::mem::swap(&mut *resamplers, &mut list);
        // The references are given back without the lock.
        drop(resamplers);
        Ok(())
    }
}

impl Interrupts {
    /// Carries out a `KVM_IRQFD`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for unknown flags, without controllers, or where resampling needs the I/O APIC in the
    /// kernel, `EBADF` for a bad descriptor, `EBUSY` when the eventfd raises an interrupt already.
    pub(super) fn irqfd(&self, request: &uapi::kvm_irqfd) -> Result {
        let fd = i32::try_from(request.fd).map_err(|_| EBADF)?;
        let (deassign, resample) = (uapi::KVM_IRQFD_FLAG_DEASSIGN, uapi::KVM_IRQFD_FLAG_RESAMPLE);
        if request.flags & !(deassign | resample) != 0 {
            return Err(EINVAL);
        }
        if request.flags & deassign != 0 {
            return self.remove_irqfd(fd, request.gsi);
        }
        let mut resamplefd = None;
        if request.flags & resample != 0 {
            resamplefd = Some(i32::try_from(request.resamplefd).map_err(|_| EBADF)?);
        }
        self.add_irqfd(fd, request.gsi, resamplefd)
    }

    fn add_irqfd(&self, fd: i32, gsi: u32, resamplefd: Option<i32>) -> Result {
        if !self.has_apics() {
            return Err(EINVAL);
        }
        if resamplefd.is_some() && !self.has_chips() {
            return Err(EINVAL);
        }
        let event = EventFd::get(fd)?;
        let mut watches = self.irqfds.watches.lock();
        watches.retain(|watch| !watch.is_closed());
        watches.reserve(1, GFP_KERNEL_ACCOUNT)?;
        if watches.iter().any(|watch| watch.is_on(&event)) {
            return Err(EBUSY);
        }
        let mut trigger = Trigger {
            lines: self.lines.clone(),
            gsi,
            resample: None,
        };
        if let Some(resamplefd) = resamplefd {
            let event = Arc::new(EventFd::get(resamplefd)?, GFP_KERNEL_ACCOUNT)?;
            trigger.resample = Some(event.clone());
            self.irqfds
                .set_resamplers(&watches, Some(Resampler { gsi, event }))?;
            self.update_watched();
        }
        match EventWatch::new(fd, trigger) {
            Ok(watch) => watches.push_within_capacity(watch).map_err(|_| ENOMEM),
            Err(error) => {
                self.update_resamplers(&watches, gsi)?;
                Err(error)
            }
        }
    }

    fn remove_irqfd(&self, fd: i32, gsi: u32) -> Result {
        let event = EventFd::get(fd)?;
        let mut watches = self.irqfds.watches.lock();
        watches.retain(|watch| {
            let gone = watch.is_on(&event) && watch.target().gsi == gsi;
            !gone && !watch.is_closed()
        });
        self.update_resamplers(&watches, gsi)
    }

    /// Forgets the resamplers whose eventfds are gone; the line `gsi` falls with its last one.
    fn update_resamplers(&self, watches: &[EventWatch<Trigger>], gsi: u32) -> Result {
        if self.irqfds.resampling.load(Relaxed) == 0 {
            return Ok(());
        }
        let had = self.irqfds.resamples(gsi);
        self.irqfds.set_resamplers(watches, None)?;
        if had && !self.irqfds.resamples(gsi) {
            let _status = self.lines.set_gsi(gsi, source::RESAMPLE, false);
        }
        self.update_watched();
        Ok(())
    }
}
