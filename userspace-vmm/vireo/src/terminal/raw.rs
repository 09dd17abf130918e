// SPDX-License-Identifier: Apache-2.0

//! Raw mode, undone on every way out: when the guard is dropped, and before a panic's message.
//!
//! Signals that end the process are not handled here: the event loop receives them as events
//! and leaves in the ordinary way.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, Once};

/// What to put back: the terminal and its settings. At most one terminal is raw at a time.
static SAVED: Mutex<Option<(RawFd, libc::termios)>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: RawFd) -> bool {
    // SAFETY: the call only looks at a number.
    unsafe { libc::isatty(fd) == 1 }
}

fn get(fd: RawFd) -> io::Result<libc::termios> {
    let mut settings = std::mem::MaybeUninit::uninit();
    // SAFETY: the pointer is to memory of the right type, which the call fills on success.
    match unsafe { libc::tcgetattr(fd, settings.as_mut_ptr()) } {
        // SAFETY: just filled.
        0 => Ok(unsafe { settings.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(fd: RawFd, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: the pointer is to live settings.
    match unsafe { libc::tcsetattr(fd, libc::TCSANOW, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts the terminal back, if it is raw.
fn restore() {
    let saved = SAVED.lock().unwrap_or_else(|e| e.into_inner()).take();
    if let Some((fd, settings)) = saved {
        // A terminal that is gone needs no settings.
        let _ = set(fd, &settings);
    }
}

/// The terminal is raw while this lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes `fd` raw: every key reaches the guest, none is echoed. Output keeps its
    /// processing, so that the VMM's own lines still start at the left.
    pub fn enter(fd: RawFd) -> io::Result<Self> {
        let old = get(fd)?;
        let mut raw = old;
        // SAFETY: the pointer is to live settings.
        unsafe { libc::cfmakeraw(&mut raw) };
        raw.c_oflag = old.c_oflag;
        PANIC_HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                previous(info);
            }));
        });
        *SAVED.lock().unwrap_or_else(|e| e.into_inner()) = Some((fd, old));
        let guard = RawMode(());
        set(fd, &raw)?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pseudo-terminal's two ends.
    fn pty() -> (RawFd, RawFd) {
        let (mut ours, mut theirs) = (-1, -1);
        let null = std::ptr::null_mut();
        // SAFETY: two live integers to fill, and null for everything optional.
        let result =
            unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) };
        assert_eq!(result, 0);
        (ours, theirs)
    }

    // One test, because there is one terminal per process.
    #[test]
    fn settings_come_back() {
        let (_, fd) = pty();
        assert!(is_terminal(fd));
        let flags = |fd| {
            let s = get(fd).unwrap();
            (s.c_lflag, s.c_iflag, s.c_oflag)
        };
        let before = flags(fd);
        {
            let _raw = RawMode::enter(fd).unwrap();
            let raw = flags(fd);
            assert_eq!(raw.0 & (libc::ICANON | libc::ECHO | libc::ISIG), 0);
            assert_eq!(raw.2, before.2);
        }
        assert_eq!(flags(fd), before);
        let result = std::panic::catch_unwind(|| {
            let raw = RawMode::enter(fd).unwrap();
            std::mem::forget(raw);
            panic!("on purpose");
        });
        assert!(result.is_err());
        assert_eq!(flags(fd), before);
        assert!(RawMode::enter(-1).is_err());
        assert!(!is_terminal(-1));
    }
}
