// SPDX-License-Identifier: Apache-2.0

//! The guest's output to a file descriptor that may be slow, non-blocking or closed.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};

/// Unbuffered output. Once nobody reads any more, further output is dropped: the guest runs on.
#[derive(Debug)]
pub struct Output {
    fd: RawFd,
    closed: bool,
}

impl Output {
    /// Output to standard output.
    pub fn stdout() -> Self {
        Output {
            fd: io::stdout().as_raw_fd(),
            closed: false,
        }
    }

    /// Waits until the descriptor takes data again.
    fn wait(&self) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.fd,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: the pointer is to one live `pollfd`, as the count says.
        match unsafe { libc::poll(&mut poll, 1, -1) } {
            -1 => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => Ok(()),
                e => Err(e),
            },
            _ => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Ok(data.len());
        }
        loop {
            // SAFETY: the pointer and length are those of a live slice.
            let n = unsafe { libc::write(self.fd, data.as_ptr().cast(), data.len()) };
            if let Ok(n) = usize::try_from(n) {
                return Ok(n);
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => self.wait()?,
                _ => {
                    tracing::warn!("guest output is lost from here on: {error}");
                    self.closed = true;
                    return Ok(data.len());
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn full_pipes_are_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        let mut output = Output {
            fd: ours.as_raw_fd(),
            closed: false,
        };
        let data = vec![b'x'; 4 << 20];
        output.write_all(&data).unwrap();
        drop(ours);
        assert_eq!(reader.join().unwrap(), data.len());
    }

    #[test]
    fn closed_pipes_swallow_output() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut output = Output {
            fd: ours.as_raw_fd(),
            closed: false,
        };
        output.write_all(b"lost").unwrap();
        assert!(output.closed);
        output.write_all(b"lost too").unwrap();
    }
}
