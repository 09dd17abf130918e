// SPDX-License-Identifier: Apache-2.0

//! COM1: a 16550A between the guest and the terminal.

use std::io::Write;
use std::sync::Arc;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::bus::Device;
use crate::events::input::Receiver;
use crate::terminal::output::Output;

/// Offset of the interrupt enable register.
const IER: u64 = 1;
/// Interrupt enable: received data available.
const IER_RECEIVED_DATA: u8 = 1 << 0;

/// Tells the terminal's side, through an event, that the receive FIFO can take more.
#[derive(Clone)]
pub struct RoomEvent(Arc<EventFd>);

impl RoomEvent {
    /// Signals `event`, which must be non-blocking.
    pub fn new(event: Arc<EventFd>) -> Self {
        RoomEvent(event)
    }

    fn signal(&self) {
        // The only failure is a counter that is full, and then the reader wakes up anyway.
        let _ = self.0.write(1);
    }
}

impl SerialEvents for RoomEvent {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.signal();
    }
}

/// The UART and the terminal's way into it.
pub struct Com<T: Trigger, W: Write> {
    uart: Serial<T, RoomEvent, W>,
    room: RoomEvent,
    receiving: bool,
}

impl<T: Trigger, W: Write> Com<T, W> {
    /// A UART that interrupts through `line`, writes to `out` and signals `room`.
    pub fn new(line: T, room: RoomEvent, out: W) -> Self {
        Com {
            uart: Serial::with_events(line, room.clone(), out),
            room,
            receiving: false,
        }
    }
}

impl<T: Trigger> Com<T, Output> {
    /// Writes output that was gathered.
    pub fn drain(&mut self) {
        self.uart.writer_mut().drain();
    }
}

impl<T: Trigger + Send, W: Write + Send> Receiver for Com<T, W> {
    fn is_receiving(&self) -> bool {
        self.receiving
    }

    fn receive(&mut self, input: &[u8]) -> usize {
        let fits = input.len().min(self.uart.fifo_capacity());
        match self.uart.enqueue_raw_bytes(&input[..fits]) {
            Ok(taken) => taken,
            Err(e) => {
                // The bytes are in the FIFO; only the interrupt is missing.
                tracing::warn!("COM1: {e:?}");
                fits
            }
        }
    }
}

impl<T: Trigger + Send, W: Write + Send> Device for Com<T, W> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = self.uart.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            if let Err(e) = self.uart.write(offset as u8, *byte) {
                tracing::warn!("COM1: {e:?}");
            }
            // The same offset is the divisor latch when LCR says so; the register tells.
            if offset == IER {
                let receiving = self.uart.state().interrupt_enable & IER_RECEIVED_DATA != 0;
                if receiving && !self.receiving {
                    self.room.signal();
                }
                self.receiving = receiving;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[derive(Default)]
    struct Count(Cell<u32>);

    impl Trigger for Count {
        type E = Infallible;
        fn trigger(&self) -> Result<(), Infallible> {
            self.0.set(self.0.get() + 1);
            Ok(())
        }
    }

    fn com() -> (Com<Count, Vec<u8>>, Arc<EventFd>) {
        let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        (
            Com::new(Count::default(), RoomEvent::new(event.clone()), Vec::new()),
            event,
        )
    }

    #[test]
    fn output_reaches_the_writer() {
        let (mut com, _) = com();
        for byte in b"hi" {
            com.write(0, &[*byte]);
        }
        assert_eq!(com.uart.writer(), b"hi");
    }

    #[test]
    fn input_interrupts_and_signals_room() {
        let (mut com, event) = com();
        assert!(!com.is_receiving());
        com.write(IER, &[IER_RECEIVED_DATA]);
        assert!(com.is_receiving());
        assert_eq!(event.read().unwrap(), 1);
        assert_eq!(com.receive(b"ab"), 2);
        assert_eq!(com.uart.interrupt_evt().0.get(), 1);
        let mut byte = [0];
        com.read(0, &mut byte);
        assert_eq!(byte, *b"a");
        assert!(event.read().is_err());
        com.read(0, &mut byte);
        assert_eq!(byte, *b"b");
        assert_eq!(event.read().unwrap(), 1);
    }

    #[test]
    fn fifo_takes_what_fits() {
        let (mut com, _) = com();
        assert_eq!(com.receive(&[b'x'; 100]), 64);
        assert_eq!(com.receive(b"x"), 0);
        assert_eq!(com.receive(b""), 0);
    }

    #[test]
    fn divisor_latch_is_not_the_interrupt_enable() {
        let (mut com, _) = com();
        com.write(3, &[0x80]);
        com.write(IER, &[1]);
        assert!(!com.is_receiving());
    }

    #[test]
    fn wide_accesses_are_byte_accesses() {
        let (mut com, _) = com();
        com.write(7, &[0xa5]);
        let mut two = [0; 2];
        com.read(6, &mut two);
        assert_eq!(two[1], 0xa5);
    }
}
