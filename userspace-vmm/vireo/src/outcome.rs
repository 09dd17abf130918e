// SPDX-License-Identifier: Apache-2.0

//! How a guest's run ends, the exit status that stands for it, and who may end it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// Added to a signal's number for the exit status, as shells do.
const SIGNAL_STATUS_BASE: u8 = 128;

/// Why the guest no longer runs.
///
/// The debug exit's statuses are all odd, so the statuses of failures are even.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset, which ends the run too.
    Reset,
    /// The user asked to quit.
    Quit,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// A signal asked this process to end.
    Signal(i32),
    /// The guest's CPU shut down: a triple fault.
    TripleFault(String),
    /// The hypervisor gave up on an instruction or an event.
    InternalError(String),
    /// The processor refused to enter the guest.
    EntryFailure(String),
    /// Anything else that the guest cannot go on from.
    Failure(String),
}

impl Outcome {
    /// The process's exit status.
    pub fn status(&self) -> u8 {
        match self {
            Outcome::PowerOff | Outcome::Reset | Outcome::Quit => 0,
            Outcome::DebugExit(value) => ((value << 1) | 1) as u8,
            Outcome::TripleFault(_) => 4,
            Outcome::InternalError(_) => 6,
            Outcome::EntryFailure(_) => 8,
            Outcome::Failure(_) => 10,
            Outcome::Signal(n) => SIGNAL_STATUS_BASE.saturating_add(*n as u8),
        }
    }

    /// Whether somebody wants the end now, whatever the guest still has to say.
    pub fn is_hurried(&self) -> bool {
        matches!(self, Outcome::Quit | Outcome::Signal(_))
    }

    /// Whether the user should be told: a plain power-off needs no words.
    pub fn is_worth_a_message(&self) -> bool {
        !matches!(
            self,
            Outcome::PowerOff | Outcome::Quit | Outcome::DebugExit(_)
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::PowerOff => write!(f, "guest powered off"),
            Outcome::Reset => write!(f, "guest reset (restarting a guest is not supported)"),
            Outcome::Quit => write!(f, "quit"),
            Outcome::DebugExit(value) => write!(f, "guest wrote {value} to the debug-exit port"),
            Outcome::Signal(n) => write!(f, "ended by signal {n}"),
            Outcome::TripleFault(at) => write!(f, "guest shut down by a triple fault{at}"),
            Outcome::InternalError(what) => write!(f, "internal error of the hypervisor: {what}"),
            Outcome::EntryFailure(what) => write!(f, "the CPU cannot enter the guest: {what}"),
            Outcome::Failure(what) => write!(f, "{what}"),
        }
    }
}

/// Where devices, vCPUs and the terminal ask for the run to end. The first to ask decides.
#[derive(Debug)]
pub struct Stop {
    asked: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    event: EventFd,
}

impl Stop {
    /// A run that nobody has ended yet.
    pub fn new() -> io::Result<Self> {
        Ok(Stop {
            asked: AtomicBool::new(false),
            outcome: Mutex::new(None),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Asks for the end; later calls change nothing.
    pub fn request(&self, outcome: Outcome) {
        let mut slot = self.outcome.lock().unwrap_or_else(|e| e.into_inner());
        if slot.is_none() {
            *slot = Some(outcome);
            self.asked.store(true, Ordering::Release);
            // The counter cannot overflow with one write, and nothing else can fail here.
            let _ = self.event.write(1);
        }
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Whether the end was asked for by somebody who does not wait.
    pub fn is_hurried(&self) -> bool {
        self.is_requested() && self.outcome().is_some_and(|o| o.is_hurried())
    }

    /// The outcome, once there is one.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }

    /// Readable from the first request on.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(Outcome::PowerOff.status(), 0);
        assert_eq!(Outcome::Reset.status(), 0);
        assert_eq!(Outcome::DebugExit(0).status(), 1);
        assert_eq!(Outcome::DebugExit(0x10).status(), 33);
        assert_eq!(Outcome::DebugExit(u32::MAX).status(), 0xff);
        assert_eq!(Outcome::Signal(15).status(), 143);
        let failures = [
            Outcome::TripleFault(String::new()),
            Outcome::InternalError(String::new()),
            Outcome::EntryFailure(String::new()),
            Outcome::Failure(String::new()),
        ];
        let mut seen: Vec<u8> = failures.iter().map(Outcome::status).collect();
        assert!(seen.iter().all(|s| *s != 0 && s % 2 == 0));
        seen.dedup();
        assert_eq!(seen.len(), failures.len());
    }

    #[test]
    fn first_request_decides() {
        let stop = Stop::new().unwrap();
        assert!(!stop.is_requested());
        assert_eq!(stop.outcome(), None);
        stop.request(Outcome::PowerOff);
        stop.request(Outcome::Reset);
        assert!(stop.is_requested());
        assert_eq!(stop.outcome(), Some(Outcome::PowerOff));
        assert_eq!(stop.event().read().unwrap(), 1);
    }
}
