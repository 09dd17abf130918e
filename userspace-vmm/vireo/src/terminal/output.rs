// SPDX-License-Identifier: Apache-2.0

//! The guest's output to a file descriptor that may be slow, non-blocking or closed.
//!
//! A UART gives one byte at a time, and a system call for each would cost more than all the
//! rest of the byte's way. So bytes are gathered to lines; a line that does not end is written
//! a few milliseconds after its start, when the event loop serves the [`FlushTimer`].

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use crate::outcome::Stop;

/// How long a byte may wait for the end of its line.
const DELAY: Duration = Duration::from_millis(4);
/// Bytes that are written even without an end of line.
const GATHER: usize = 1024;

/// Expires when gathered output should be written.
#[derive(Debug)]
pub struct FlushTimer {
    timer: Mutex<TimerFd>,
    fd: RawFd,
}

impl FlushTimer {
    /// A timer that does not run yet.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        let fd = timer.as_raw_fd();
        Ok(FlushTimer {
            timer: Mutex::new(timer),
            fd,
        })
    }

    /// Lets it expire after the delay.
    pub fn arm(&self) -> io::Result<()> {
        let mut timer = self.timer.lock().unwrap_or_else(|e| e.into_inner());
        timer.reset(DELAY, None).map_err(io::Error::from)
    }

    /// Takes note of an expiry, so that the descriptor is no longer readable.
    pub fn acknowledge(&self) {
        let mut timer = self.timer.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(e) = timer.wait() {
            tracing::debug!("flush timer: {e}");
        }
    }
}

impl AsRawFd for FlushTimer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

/// Gathered output. Once nobody reads any more, further output is dropped: the guest runs on.
#[derive(Debug)]
pub struct Output {
    fd: RawFd,
    gathered: Vec<u8>,
    timer: Arc<FlushTimer>,
    stop: Arc<Stop>,
    closed: bool,
}

impl Output {
    /// Output to `fd`, gathered until `timer` expires. A reader that takes nothing does not
    /// keep the run from ending through `stop`.
    pub fn new(fd: RawFd, timer: Arc<FlushTimer>, stop: Arc<Stop>) -> Self {
        Output {
            fd,
            gathered: Vec::with_capacity(GATHER),
            timer,
            stop,
            closed: false,
        }
    }

    /// Writes what is gathered.
    pub fn drain(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        let mut rest = gathered.as_slice();
        while !rest.is_empty() && !self.closed {
            // SAFETY: the pointer and length are those of a live slice.
            let n = unsafe { libc::write(self.fd, rest.as_ptr().cast(), rest.len()) };
            let result = match usize::try_from(n) {
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    Ok(())
                }
                Err(_) => self.recover(io::Error::last_os_error()),
            };
            if let Err(e) = result {
                tracing::warn!(
                    "guest output is lost from here on: {}",
                    crate::error::reason(&e)
                );
                self.closed = true;
            }
        }
        self.gathered = gathered;
        self.gathered.clear();
    }

    /// Decides whether to try again after `error`, and waits where that takes time.
    fn recover(&self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
            _ => return Err(error),
        }
        if self.stop.is_hurried() {
            return Err(io::Error::other("its reader is too slow"));
        }
        if error.kind() == io::ErrorKind::WouldBlock {
            let mut poll = libc::pollfd {
                fd: self.fd,
                events: libc::POLLOUT,
                revents: 0,
            };
            // SAFETY: the pointer is to one live `pollfd`, as the count says. An interrupted or
            // failed wait only makes the next write come early.
            unsafe { libc::poll(&mut poll, 1, -1) };
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Ok(data.len());
        }
        let is_first = self.gathered.is_empty();
        self.gathered.extend_from_slice(data);
        let is_due = self.gathered.len() >= GATHER || data.contains(&b'\n');
        if is_due || (is_first && self.timer.arm().is_err()) {
            self.drain();
        }
        Ok(data.len())
    }

    /// Does nothing: the UART flushes after each byte, and the timer sees to the rest.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn output(stream: &UnixStream) -> Output {
        let timer = Arc::new(FlushTimer::new().unwrap());
        Output::new(stream.as_raw_fd(), timer, Arc::new(Stop::new().unwrap()))
    }

    /// What can be read at once.
    fn arrived(stream: &mut UnixStream) -> Vec<u8> {
        stream.set_nonblocking(true).unwrap();
        let mut all = vec![0; 1 << 16];
        let n = stream.read(&mut all).unwrap_or(0);
        all.truncate(n);
        all
    }

    #[test]
    fn lines_are_written_whole() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut output = output(&ours);
        output.write_all(b"prom").unwrap();
        assert_eq!(arrived(&mut theirs), b"");
        output.write_all(b"pt\n").unwrap();
        assert_eq!(arrived(&mut theirs), b"prompt\n");
        output.write_all(&[b'x'; GATHER]).unwrap();
        assert_eq!(arrived(&mut theirs).len(), GATHER);
    }

    #[test]
    fn a_line_without_end_is_due_soon() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut output = output(&ours);
        output.write_all(b"# ").unwrap();
        output.timer.acknowledge();
        output.drain();
        assert_eq!(arrived(&mut theirs), b"# ");
        output.drain();
        assert_eq!(arrived(&mut theirs), b"");
    }

    #[test]
    fn full_pipes_are_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        let mut output = output(&ours);
        let data = vec![b'x'; 4 << 20];
        output.write_all(&data).unwrap();
        drop(ours);
        assert_eq!(reader.join().unwrap(), data.len());
    }

    #[test]
    fn full_pipes_do_not_delay_the_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut output = output(&ours);
        output.stop.request(Outcome::Quit);
        output.write_all(&vec![b'x'; 4 << 20]).unwrap();
        assert!(output.closed);
    }

    #[test]
    fn closed_pipes_swallow_output() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut output = output(&ours);
        output.write_all(b"lost\n").unwrap();
        assert!(output.closed);
        output.write_all(b"lost too\n").unwrap();
    }
}
