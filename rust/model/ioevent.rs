// SPDX-License-Identifier: GPL-2.0-only

//! Writes that only ring a bell: which write belongs to which eventfd (`KVM_IOEVENTFD`).

use super::errno::Errno;

/// `KVM_IOEVENTFD_FLAG_*`.
pub mod flag {
    /// Only a write of this value counts.
    pub const DATAMATCH: u32 = 1 << 0;
    /// The address is a port.
    pub const PIO: u32 = 1 << 1;
    /// Take the registration back.
    pub const DEASSIGN: u32 = 1 << 2;

    /// The flags that there are.
    pub const ALL: u32 = DATAMATCH | PIO | DEASSIGN;
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bus {
    /// A port.
    Port,
    /// Device memory.
    Memory,
}

/// Which writes ring a bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Where.
    pub bus: Bus,
    /// The address of the write's first byte.
    pub address: u64,
    /// Bytes of the write: 1, 2, 4 or 8, or 0 for a write of any length.
    pub length: u8,
    /// The value that must be written, `None` for any.
    pub value: Option<u64>,
}

impl Doorbell {
    /// Makes one of the arguments of `KVM_IOEVENTFD`.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] for a length or flag that does not exist, a range that wraps, or a value to be
    /// compared in a write of any length.
    pub fn new(address: u64, length: u32, value: u64, flags: u32) -> Result<Self, Errno> {
        let length = match length {
            0 | 1 | 2 | 4 | 8 => length as u8,
            _ => return Err(Errno::Invalid),
        };
        let wraps = address.checked_add(u64::from(length)).is_none();
        let compares = flags & flag::DATAMATCH != 0;
        if flags & !flag::ALL != 0 || wraps || compares && length == 0 {
            return Err(Errno::Invalid);
        }
        Ok(Self {
            bus: if flags & flag::PIO != 0 {
                Bus::Port
            } else {
                Bus::Memory
            },
            address,
            length,
            value: compares.then_some(value),
        })
    }

    /// Returns true if some write would ring both.
    pub fn collides(&self, other: &Self) -> bool {
        let lengths = self.length == 0 || other.length == 0 || self.length == other.length;
        let values = match (self.value, other.value) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        (self.bus, self.address) == (other.bus, other.address) && lengths && values
    }

    /// Returns true if a write of `data` at its address rings it.
    pub fn matches(&self, data: &[u8]) -> bool {
        if self.length == 0 {
            return true;
        }
        if data.len() != usize::from(self.length) {
            return false;
        }
        match self.value {
            None => true,
            Some(value) => value.to_le_bytes().get(..data.len()) == Some(data),
        }
    }

    /// Returns what a table is sorted by.
    pub const fn place(&self) -> (Bus, u64) {
        (self.bus, self.address)
    }
}

/// Returns the first and the last position, excluded, of the bells at one address in a table that is sorted
/// by [`Doorbell::place`].
pub fn at<T>(
    table: &[T],
    bus: Bus,
    address: u64,
    bell: impl Fn(&T) -> &Doorbell,
) -> (usize, usize) {
    let place = (bus, address);
    let start = table.partition_point(|entry| bell(entry).place() < place);
    let rest = table.get(start..).unwrap_or(&[]);
    let count = rest.partition_point(|entry| bell(entry).place() == place);
    (start, start.saturating_add(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bell(address: u64, length: u32, value: Option<u64>) -> Doorbell {
        let flags = if value.is_some() { flag::DATAMATCH } else { 0 };
        Doorbell::new(address, length, value.unwrap_or(0), flags).unwrap()
    }

    #[test]
    fn arguments() {
        assert_eq!(Doorbell::new(0, 3, 0, 0), Err(Errno::Invalid));
        assert_eq!(Doorbell::new(0, 16, 0, 0), Err(Errno::Invalid));
        assert_eq!(Doorbell::new(u64::MAX, 1, 0, 0), Err(Errno::Invalid));
        assert_eq!(Doorbell::new(0, 4, 0, 1 << 3), Err(Errno::Invalid));
        assert_eq!(Doorbell::new(0, 0, 0, flag::DATAMATCH), Err(Errno::Invalid));
        assert_eq!(Doorbell::new(0x80, 1, 0, flag::PIO).unwrap().bus, Bus::Port);
    }

    #[test]
    fn a_value_is_compared_in_its_length() {
        let two = bell(0x1000, 2, Some(0x1234_5678));
        assert!(two.matches(&[0x78, 0x56]));
        assert!(!two.matches(&[0x78, 0x57]));
        assert!(!two.matches(&[0x78, 0x56, 0x34, 0x12]));
        assert!(bell(0x1000, 0, None).matches(&[1, 2, 3]));
        assert!(!bell(0x1000, 4, None).matches(&[1]));
    }

    #[test]
    fn collisions() {
        let any = bell(0x10, 0, None);
        let four = bell(0x10, 4, Some(1));
        assert!(any.collides(&four) && four.collides(&any));
        assert!(!four.collides(&bell(0x10, 4, Some(2))));
        assert!(four.collides(&bell(0x10, 4, None)));
        assert!(!four.collides(&bell(0x10, 2, None)));
        assert!(!four.collides(&bell(0x14, 4, Some(1))));
        let port = Doorbell::new(0x10, 4, 1, flag::PIO | flag::DATAMATCH).unwrap();
        assert!(!four.collides(&port));
    }

    #[test]
    fn a_sorted_table_is_searched() {
        let mut table = [bell(8, 4, None), bell(4, 2, Some(1)), bell(4, 2, Some(2))];
        table.sort_by_key(Doorbell::place);
        assert_eq!(at(&table, Bus::Memory, 4, |entry| entry), (0, 2));
        assert_eq!(at(&table, Bus::Memory, 8, |entry| entry), (2, 3));
        assert_eq!(at(&table, Bus::Memory, 5, |entry| entry), (2, 2));
        assert_eq!(at(&table, Bus::Port, 4, |entry| entry), (0, 0));
    }
}
