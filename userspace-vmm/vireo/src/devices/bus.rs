// SPDX-License-Identifier: Apache-2.0

//! Address dispatch for port I/O and memory-mapped I/O.
//!
//! What no device claims behaves as on a PC without pull-downs: reads give all ones, writes go
//! nowhere.

use std::sync::{Arc, Mutex};

/// A device on a bus. Accesses never straddle the end of the device's range.
pub trait Device: Send {
    /// Fills `data` (1, 2, 4 or 8 bytes) from the register at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data` (1, 2, 4 or 8 bytes) into the register at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that several buses or threads hold.
pub type SharedDevice = Arc<Mutex<dyn Device>>;

/// Two devices asked for the same address.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlap;

/// Devices by address, sorted and without overlaps.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<Range>,
}

struct Range {
    start: u64,
    len: u64,
    device: SharedDevice,
}

impl Bus {
    /// A bus with no device.
    pub fn new() -> Self {
        Bus::default()
    }

    /// Puts `device` at the `len` addresses from `start`. Fails when the range is empty, wraps,
    /// or meets another device's.
    pub fn insert(&mut self, start: u64, len: u64, device: SharedDevice) -> Result<(), Overlap> {
        let end = start.checked_add(len).filter(|_| len > 0).ok_or(Overlap)?;
        let at = self.ranges.partition_point(|r| r.start < start);
        let after_previous = at.checked_sub(1).and_then(|i| self.ranges.get(i));
        if after_previous.is_some_and(|r| r.start + r.len > start)
            || self.ranges.get(at).is_some_and(|r| r.start < end)
        {
            return Err(Overlap);
        }
        self.ranges.insert(at, Range { start, len, device });
        Ok(())
    }

    /// The device that owns all of `len` addresses from `addr`, and the offset into its range.
    fn find(&self, addr: u64, len: usize) -> Option<(&SharedDevice, u64)> {
        let at = self
            .ranges
            .partition_point(|r| r.start <= addr)
            .checked_sub(1)?;
        let range = self.ranges.get(at)?;
        let offset = addr - range.start;
        let end = offset.checked_add(len as u64)?;
        (end <= range.len).then_some((&range.device, offset))
    }

    /// Reads `data.len()` bytes at `addr`; all ones where there is no device.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        match self.find(addr, data.len()) {
            Some((device, offset)) => lock(device).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes `data` at `addr`; nothing happens where there is no device.
    pub fn write(&self, addr: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(addr, data.len()) {
            lock(device).write(offset, data);
        }
    }
}

/// A device's state stays usable when another thread panicked: the process is on its way out.
fn lock(device: &SharedDevice) -> std::sync::MutexGuard<'_, dyn Device + 'static> {
    device.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Probe {
        writes: Vec<(u64, Vec<u8>)>,
    }

    impl Device for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
        }
    }

    fn probe() -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe::default()))
    }

    #[test]
    fn dispatches_by_address() {
        let (a, b) = (probe(), probe());
        let mut bus = Bus::new();
        bus.insert(0x3f8, 8, b.clone()).unwrap();
        bus.insert(0x70, 2, a.clone()).unwrap();
        let mut data = [0; 2];
        bus.read(0x3fa, &mut data[..1]);
        assert_eq!(data[0], 2);
        bus.write(0x71, &[9]);
        assert_eq!(a.lock().unwrap().writes, [(1, vec![9])]);
        assert!(b.lock().unwrap().writes.is_empty());
    }

    #[test]
    fn unclaimed_addresses_read_ones() {
        let mut bus = Bus::new();
        bus.insert(0x10, 2, probe()).unwrap();
        for addr in [0, 0xf, 0x12, u64::MAX] {
            let mut data = [0; 4];
            bus.read(addr, &mut data);
            assert_eq!(data, [0xff; 4]);
            bus.write(addr, &data);
        }
    }

    #[test]
    fn accesses_do_not_straddle() {
        let device = probe();
        let mut bus = Bus::new();
        bus.insert(0x10, 2, device.clone()).unwrap();
        bus.write(0x11, &[1, 2]);
        assert!(device.lock().unwrap().writes.is_empty());
        bus.write(0x10, &[1, 2]);
        assert_eq!(device.lock().unwrap().writes, [(0, vec![1, 2])]);
    }

    #[test]
    fn overlaps_are_refused() {
        let mut bus = Bus::new();
        bus.insert(0x10, 4, probe()).unwrap();
        for (start, len) in [
            (0x10, 1),
            (0x13, 1),
            (0xe, 3),
            (0x8, 0x20),
            (0x20, 0),
            (u64::MAX, 2),
        ] {
            assert_eq!(
                bus.insert(start, len, probe()),
                Err(Overlap),
                "{start:#x}+{len:#x}"
            );
        }
        bus.insert(0x14, 1, probe()).unwrap();
        bus.insert(0xf, 1, probe()).unwrap();
    }
}
