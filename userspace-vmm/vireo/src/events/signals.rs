// SPDX-License-Identifier: Apache-2.0

//! Signals that ask the process to end.
//!
//! They are blocked in every thread and read from a descriptor, so that the terminal is put
//! back in the ordinary way. SIGTERM presses the guest's power button first and gives the
//! guest some time; a second one, or any of the others, ends the run at once.

use std::io;
use std::mem::{size_of, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::timerfd::TimerFd;

use crate::outcome::{Outcome, Stop};

/// How long a guest may take from its power button to its power-off.
const GRACE: Duration = Duration::from_secs(10);

/// The signals that end the run.
const SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The subscriber for signals.
pub struct Signals<B: FnMut()> {
    fd: OwnedFd,
    timer: TimerFd,
    term_seen: bool,
    press_power_button: B,
    stop: Arc<Stop>,
}

/// The signals as a set.
fn set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, and the other calls get this live set; the
    // signal numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Changes this thread's mask by the signals, as `how` says.
fn mask(how: i32) -> io::Result<()> {
    // SAFETY: the set is live, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, &set(), std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Lets the signals end the process at once, as they do by default.
pub fn unblock() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK)
}

/// Blocks the signals for this thread and those that it starts; they can then be read from the
/// returned descriptor.
pub fn block() -> io::Result<OwnedFd> {
    mask(libc::SIG_BLOCK)?;
    // SAFETY: the set is live.
    let fd = unsafe { libc::signalfd(-1, &set(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, valid, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl<B: FnMut()> Signals<B> {
    /// Serves the signals that come from `fd`.
    pub fn new(fd: OwnedFd, press_power_button: B, stop: Arc<Stop>) -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Signals {
            fd,
            timer,
            term_seen: false,
            press_power_button,
            stop,
        })
    }

    /// The next signal that came, if any.
    fn next(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has room for one structure, the size that is asked for.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        // SAFETY: the kernel filled the whole structure.
        (n == size as isize).then(|| unsafe { info.assume_init() }.ssi_signo as i32)
    }

    /// Acts on one signal.
    fn receive(&mut self, signal: i32) {
        if signal != libc::SIGTERM || self.term_seen {
            self.stop.request(Outcome::Signal(signal));
            return;
        }
        self.term_seen = true;
        (self.press_power_button)();
        if let Err(e) = self.timer.reset(GRACE, None) {
            tracing::warn!("no timer for the guest's power-off: {e}");
            self.stop.request(Outcome::Signal(signal));
        }
    }
}

impl<B: FnMut()> MutEventSubscriber for Signals<B> {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.timer.as_raw_fd() {
            self.stop.request(Outcome::Signal(libc::SIGTERM));
            return;
        }
        while let Some(signal) = self.next() {
            self.receive(signal);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let added = ops
            .add(Events::new(&self.fd, EventSet::IN))
            .and_then(|()| ops.add(Events::new(&self.timer, EventSet::IN)));
        if let Err(e) = added {
            self.stop
                .request(Outcome::Failure(format!("cannot watch signals: {e:?}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn signals(presses: &Cell<u32>) -> (Signals<impl FnMut() + '_>, Arc<Stop>) {
        let stop = Arc::new(Stop::new().unwrap());
        let press = move || presses.set(presses.get() + 1);
        (
            Signals::new(block().unwrap(), press, stop.clone()).unwrap(),
            stop,
        )
    }

    #[test]
    fn first_term_presses_the_button() {
        let presses = Cell::new(0);
        let (mut signals, stop) = signals(&presses);
        signals.receive(libc::SIGTERM);
        assert_eq!((presses.get(), stop.outcome()), (1, None));
        signals.receive(libc::SIGTERM);
        assert_eq!(stop.outcome(), Some(Outcome::Signal(libc::SIGTERM)));
        assert_eq!(presses.get(), 1);
    }

    #[test]
    fn others_end_at_once() {
        let presses = Cell::new(0);
        let (mut signals, stop) = signals(&presses);
        signals.receive(libc::SIGHUP);
        assert_eq!(
            (presses.get(), stop.outcome()),
            (0, Some(Outcome::Signal(libc::SIGHUP)))
        );
    }

    #[test]
    fn signals_are_read_from_the_descriptor() {
        let presses = Cell::new(0);
        let (signals, _) = signals(&presses);
        assert_eq!(signals.next(), None);
        // SAFETY: the signal is blocked in this thread, so it only becomes readable.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGINT) };
        assert_eq!(signals.next(), Some(libc::SIGINT));
    }
}
