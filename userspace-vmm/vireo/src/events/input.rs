// SPDX-License-Identifier: Apache-2.0

//! Standard input to the guest's serial port.
//!
//! A terminal is always read, so that the escape keys work even when the guest takes no input.
//! A pipe or a file is read only as fast as the guest takes it, and only once a driver has
//! enabled receive interrupts: what comes earlier would be lost when the driver starts.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::sleep;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use crate::outcome::{Outcome, Stop};
use crate::terminal::escape::{Command, Escape, HELP};

/// Bytes to read at once.
const CHUNK: usize = 256;
/// Typed-ahead bytes to keep for a guest that takes none.
const TYPE_AHEAD: usize = 64 << 10;

/// Pause before the serial port is tried again when a CPU is using it.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// The serial port's receiving side.
pub trait Receiver: Send {
    /// Whether a driver waits for input.
    fn is_receiving(&self) -> bool;
    /// Takes as much of `input` as there is room for, and says how much.
    fn receive(&mut self, input: &[u8]) -> usize;
}

/// Where input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A terminal in raw mode.
    Terminal,
    /// A pipe or socket.
    Stream,
    /// A file, which is always readable and cannot be waited for.
    File,
    /// Nothing comes any more.
    Ended,
}

/// The subscriber that moves input.
pub struct Input<R: Receiver + ?Sized, B: FnMut()> {
    fd: RawFd,
    source: Source,
    escape: Escape,
    pending: VecDeque<u8>,
    serial: Arc<Mutex<R>>,
    room: Arc<EventFd>,
    press_power_button: B,
    stop: Arc<Stop>,
}

impl<R: Receiver + ?Sized, B: FnMut()> Input<R, B> {
    /// Input from `fd`, which is a terminal in raw mode if `terminal` says so. `room` is
    /// signalled by the serial port when it can take more.
    pub fn new(
        fd: RawFd,
        terminal: bool,
        serial: Arc<Mutex<R>>,
        room: Arc<EventFd>,
        press_power_button: B,
        stop: Arc<Stop>,
    ) -> Self {
        Input {
            fd,
            source: if terminal {
                Source::Terminal
            } else {
                Source::Stream
            },
            escape: Escape::default(),
            pending: VecDeque::new(),
            serial,
            room,
            press_power_button,
            stop,
        }
    }

    /// Reads once. Returns whether something came.
    fn read(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        // SAFETY: the pointer and length are those of a live array.
        let n = unsafe { libc::read(self.fd, chunk.as_mut_ptr().cast(), chunk.len()) };
        let Ok(n) = usize::try_from(n) else {
            let error = io::Error::last_os_error();
            if !matches!(
                error.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
            ) {
                tracing::info!("standard input: {error}");
                self.source = Source::Ended;
            }
            return false;
        };
        if n == 0 {
            self.source = Source::Ended;
            return false;
        }
        self.accept(&chunk[..n]);
        true
    }

    /// Sorts new input into the guest's and the VMM's.
    fn accept(&mut self, input: &[u8]) {
        if self.source != Source::Terminal {
            self.pending.extend(input);
            return;
        }
        for command in self.escape.filter(input, &mut self.pending) {
            match command {
                Command::Quit => self.stop.request(Outcome::Quit),
                Command::PowerButton => (self.press_power_button)(),
                Command::Help => eprintln!("\n{HELP}"),
            }
        }
        self.pending.truncate(TYPE_AHEAD);
    }

    /// Moves pending input to the guest as far as it goes.
    fn feed(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        // Never wait here: a CPU may hold the port until a slow reader takes its output, and
        // the escape keys must work meanwhile.
        let mut serial = match self.serial.try_lock() {
            Ok(serial) => serial,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => {
                sleep(BUSY_PAUSE);
                // The counter cannot be full, as it was read just before.
                let _ = self.room.write(1);
                return;
            }
        };
        if self.source != Source::Terminal && !serial.is_receiving() {
            return;
        }
        while !self.pending.is_empty() {
            let taken = serial.receive(self.pending.as_slices().0);
            if taken == 0 {
                break;
            }
            self.pending.drain(..taken);
        }
    }

    /// Whether more should be read now.
    fn wants_more(&self) -> bool {
        match self.source {
            Source::Terminal => true,
            Source::Stream | Source::File => self.pending.is_empty(),
            Source::Ended => false,
        }
    }

    /// Feeds, and reads on where that needs no waiting.
    fn advance(&mut self) {
        self.feed();
        while self.source == Source::File && self.pending.is_empty() && self.read() {
            self.feed();
        }
    }

    /// Watches the descriptor exactly while more is wanted.
    fn watch(&self, ops: &EventOps) {
        if self.source == Source::File {
            return;
        }
        let set = if self.wants_more() {
            EventSet::IN
        } else {
            EventSet::empty()
        };
        if let Err(e) = ops.modify(Events::new_raw(self.fd, set)) {
            tracing::warn!("cannot watch standard input: {e:?}");
        }
    }
}

impl<R: Receiver + ?Sized, B: FnMut()> MutEventSubscriber for Input<R, B> {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() != self.fd {
            // Room in the serial port; the counter itself says nothing.
            let _ = self.room.read();
            self.advance();
            if self.source != Source::Ended {
                self.watch(ops);
            }
            return;
        }
        self.read();
        self.feed();
        if self.source == Source::Ended {
            // A hung-up descriptor would report that for ever.
            let _ = ops.remove(Events::empty_raw(self.fd));
        } else {
            self.watch(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(&*self.room, EventSet::IN)) {
            self.stop.request(Outcome::Failure(format!(
                "cannot watch the serial port: {e:?}"
            )));
            return;
        }
        if ops.add(Events::new_raw(self.fd, EventSet::IN)).is_err() {
            // Files, and /dev/null, cannot be waited for. A closed descriptor ends at the
            // first read.
            self.source = Source::File;
            self.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_manager::{EventManager, SubscriberOps};
    use std::fs::File;
    use std::io::{Seek, Write};
    use std::os::fd::AsRawFd;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    /// A port with room for `room` bytes.
    struct Port {
        receiving: bool,
        room: usize,
        got: Vec<u8>,
    }

    impl Receiver for Port {
        fn is_receiving(&self) -> bool {
            self.receiving
        }
        fn receive(&mut self, input: &[u8]) -> usize {
            let n = input.len().min(self.room);
            self.room -= n;
            self.got.extend(&input[..n]);
            n
        }
    }

    struct Setup {
        port: Arc<Mutex<Port>>,
        room: Arc<EventFd>,
        stop: Arc<Stop>,
        presses: Arc<Mutex<u32>>,
        manager: EventManager<Box<dyn MutEventSubscriber>>,
    }

    fn setup(fd: RawFd, terminal: bool, receiving: bool) -> Setup {
        let port = Arc::new(Mutex::new(Port {
            receiving,
            room: 4,
            got: vec![],
        }));
        let room = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let stop = Arc::new(Stop::new().unwrap());
        let presses = Arc::new(Mutex::new(0));
        let counter = presses.clone();
        let press = move || *counter.lock().unwrap() += 1;
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        manager.add_subscriber(Box::new(Input::new(
            fd,
            terminal,
            port.clone(),
            room.clone(),
            press,
            stop.clone(),
        )));
        Setup {
            port,
            room,
            stop,
            presses,
            manager,
        }
    }

    impl Setup {
        fn settle(&mut self) {
            while self.manager.run_with_timeout(20).unwrap() > 0 {}
        }
        fn make_room(&mut self, bytes: usize) {
            self.port.lock().unwrap().room = bytes;
            self.room.write(1).unwrap();
            self.settle();
        }
        fn got(&self) -> Vec<u8> {
            self.port.lock().unwrap().got.clone()
        }
    }

    #[test]
    fn a_pipe_is_read_as_the_guest_takes_it() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut s = setup(reader.as_raw_fd(), false, true);
        writer.write_all(b"\x01xabcdef").unwrap();
        s.settle();
        assert_eq!(s.got(), b"\x01xab");
        s.make_room(100);
        assert_eq!(s.got(), b"\x01xabcdef");
        drop(writer);
        s.settle();
        assert_eq!(s.stop.outcome(), None);
    }

    #[test]
    fn a_pipe_waits_for_the_driver() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut s = setup(reader.as_raw_fd(), false, false);
        writer.write_all(b"early").unwrap();
        drop(writer);
        s.settle();
        assert_eq!(s.got(), b"");
        s.port.lock().unwrap().receiving = true;
        s.make_room(100);
        assert_eq!(s.got(), b"early");
    }

    #[test]
    fn a_terminal_has_escapes_even_when_nothing_is_taken() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut s = setup(reader.as_raw_fd(), true, true);
        writer.write_all(b"abcdef\x01p").unwrap();
        s.settle();
        assert_eq!((s.got(), *s.presses.lock().unwrap()), (b"abcd".to_vec(), 1));
        writer.write_all(b"\x01x").unwrap();
        s.settle();
        assert_eq!(s.stop.outcome(), Some(Outcome::Quit));
    }

    #[test]
    fn a_file_is_read_to_its_end() {
        let path = std::env::temp_dir().join(format!("vireo-input-{}", std::process::id()));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(&[b'x'; 1000]).unwrap();
        file.rewind().unwrap();
        let mut s = setup(file.as_raw_fd(), false, true);
        assert_eq!(s.got().len(), 4);
        s.make_room(10_000);
        assert_eq!(s.got().len(), 1000);
    }

    #[test]
    fn an_empty_source_is_no_problem() {
        let null = File::open("/dev/null").unwrap();
        let mut s = setup(null.as_raw_fd(), false, true);
        s.make_room(4);
        assert_eq!(s.got(), b"");
    }
}
