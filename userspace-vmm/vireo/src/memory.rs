// SPDX-License-Identifier: Apache-2.0

//! Guest memory: how much, where it lies, and the memory file behind it.
//!
//! One sealed memfd backs all of it, mapped in one piece below the device hole and, when the
//! guest is larger, in a second one from 4 GiB on. A file can be shared with other processes,
//! which vhost-user back ends need.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::str::FromStr;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::error::{Error, Result};
use crate::layout::{
    GIB, HIGH_RAM_START, KIB, LOW_RAM_END, MIB, MMIO_HOLE_END, MMIO_HOLE_START, PAGE_SIZE,
    RSDP_ADDR,
};

/// Guest memory as the VMM maps it.
pub type GuestMemory = GuestMemoryMmap<()>;

/// A number of bytes, parsed from and printed with the units K, M and G (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    /// A number with an optional unit; a bare number counts MiB. The result is a positive
    /// multiple of the page size.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "K" | "KB" | "KIB" => KIB,
            "" | "M" | "MB" | "MIB" => MIB,
            "G" | "GB" | "GIB" => GIB,
            _ => return Err("expected a size such as 256M or 2G".into()),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| "expected a size such as 256M or 2G".to_string())?;
        let bytes = number.checked_mul(unit).ok_or("too large")?;
        if bytes == 0 {
            return Err("must be larger than 0".into());
        }
        if bytes % PAGE_SIZE != 0 {
            return Err("must be a multiple of 4K".into());
        }
        Ok(Size(bytes))
    }
}

impl fmt::Display for Size {
    /// In the largest unit that is exact, or in MiB rounded up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= GIB && n % GIB == 0 => write!(f, "{} GiB", n / GIB),
            n if n >= MIB => write!(f, "{} MiB", n.div_ceil(MIB)),
            n => write!(f, "{} KiB", n.div_ceil(KIB)),
        }
    }
}

/// The guest-physical ranges that `size` bytes of memory occupy: (start, length).
pub fn ranges(size: u64) -> Vec<(GuestAddress, usize)> {
    let low = size.min(MMIO_HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if size > low {
        ranges.push((GuestAddress(MMIO_HOLE_END), (size - low) as usize));
    }
    ranges
}

/// End of the memory below the device hole, exclusive.
pub fn low_end(size: u64) -> u64 {
    size.min(MMIO_HOLE_START)
}

/// What a range of the memory map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Usable memory.
    Ram,
    /// Not for the guest's allocator: the firmware's tables.
    Reserved,
}

impl RangeKind {
    /// The type number that the E820 map and PVH's memory map share.
    pub fn e820_type(self) -> u32 {
        match self {
            RangeKind::Ram => 1,
            RangeKind::Reserved => 2,
        }
    }
}

/// One range of the memory map that the guest is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
    /// Its use.
    pub kind: RangeKind,
}

/// The memory map for a guest of `size` bytes, in ascending order without overlaps.
pub fn map(size: u64) -> Vec<MapEntry> {
    let mut map = vec![
        MapEntry {
            start: 0,
            len: LOW_RAM_END,
            kind: RangeKind::Ram,
        },
        MapEntry {
            start: RSDP_ADDR,
            len: HIGH_RAM_START - RSDP_ADDR,
            kind: RangeKind::Reserved,
        },
    ];
    if let Some(len) = low_end(size)
        .checked_sub(HIGH_RAM_START)
        .filter(|len| *len > 0)
    {
        map.push(MapEntry {
            start: HIGH_RAM_START,
            len,
            kind: RangeKind::Ram,
        });
    }
    if size > MMIO_HOLE_START {
        let len = size - MMIO_HOLE_START;
        map.push(MapEntry {
            start: MMIO_HOLE_END,
            len,
            kind: RangeKind::Ram,
        });
    }
    map
}

/// Allocates `size` bytes of guest memory.
pub fn allocate(size: Size) -> Result<GuestMemory> {
    let failed = |reason: String| Error::Memory { size, reason };
    let file = memory_file(size.bytes()).map_err(|e| failed(crate::error::reason(&e)))?;
    let mut offset = 0;
    let mut parts = Vec::new();
    for (start, len) in ranges(size.bytes()) {
        let part = file
            .try_clone()
            .map_err(|e| failed(crate::error::reason(&e)))?;
        parts.push((start, len, Some(FileOffset::new(part, offset))));
        offset += len as u64;
    }
    GuestMemory::from_ranges_with_files(parts).map_err(|e| failed(e.to_string()))
}

/// An anonymous file of `size` bytes whose size can no longer change.
fn memory_file(size: u64) -> io::Result<File> {
    let len = libc::off_t::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the name is a NUL-terminated constant, and the call has no other pointer.
    let fd = unsafe {
        libc::memfd_create(
            c"vireo-guest".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, valid, and owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    // SAFETY: plain integers, and the descriptor is open.
    if unsafe { libc::ftruncate(file.as_raw_fd(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: plain integers, and the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Gives the memory to the virtual machine, one slot per range.
pub fn register(vm: &VmFd, memory: &GuestMemory) -> Result<()> {
    for (slot, region) in memory.iter().enumerate() {
        let slot_region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a live mapping of exactly this length, it outlives the virtual
        // machine (both belong to the `Machine`, which drops the memory last), and Rust holds
        // no references into it: vm-memory accesses it as volatile memory only.
        unsafe { vm.set_user_memory_region(slot_region) }
            .map_err(Error::hypervisor("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn sizes_parse() {
        assert_eq!("256M".parse(), Ok(Size(256 * MIB)));
        assert_eq!("2g".parse(), Ok(Size(2 * GIB)));
        assert_eq!("8192K".parse(), Ok(Size(8 * MIB)));
        assert_eq!("64MiB".parse(), Ok(Size(64 * MIB)));
        assert_eq!("64".parse(), Ok(Size(64 * MIB)));
        for bad in [
            "",
            "M",
            "0",
            "-1M",
            "1.5G",
            "12X",
            "3K",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_print() {
        assert_eq!(Size(2 * GIB).to_string(), "2 GiB");
        assert_eq!(Size(256 * MIB).to_string(), "256 MiB");
        assert_eq!(Size(256 * MIB + 1).to_string(), "257 MiB");
        assert_eq!(Size(5000).to_string(), "5 KiB");
    }

    #[test]
    fn small_guests_have_one_range() {
        assert_eq!(ranges(256 * MIB), [(GuestAddress(0), (256 * MIB) as usize)]);
        assert_eq!(ranges(3 * GIB), [(GuestAddress(0), (3 * GIB) as usize)]);
    }

    #[test]
    fn large_guests_leave_the_hole() {
        assert_eq!(
            ranges(5 * GIB),
            [
                (GuestAddress(0), (3 * GIB) as usize),
                (GuestAddress(4 * GIB), (2 * GIB) as usize)
            ]
        );
    }

    #[test]
    fn map_is_sorted_and_complete() {
        for size in [
            512 * KIB,
            MIB,
            2 * MIB,
            256 * MIB,
            3 * GIB,
            3 * GIB + MIB,
            16 * GIB,
        ] {
            let map = map(size);
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].len <= pair[1].start);
            }
            let ram: u64 = map
                .iter()
                .filter(|e| e.kind == RangeKind::Ram)
                .map(|e| e.len)
                .sum();
            let expected = LOW_RAM_END + size.saturating_sub(HIGH_RAM_START);
            assert_eq!(ram, expected, "{size:#x}");
        }
    }

    #[test]
    fn memory_is_zero_and_writable() {
        let memory = allocate(Size(4 * MIB)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 0);
        memory.write_obj(7u64, GuestAddress(4 * MIB - 8)).unwrap();
        assert!(memory.write_obj(7u64, GuestAddress(4 * MIB - 7)).is_err());
    }

    #[test]
    fn size_of_the_memory_file_is_fixed() {
        let file = memory_file(MIB).unwrap();
        assert_eq!(file.metadata().unwrap().len(), MIB);
        assert!(file.set_len(2 * MIB).is_err());
        assert!(file.set_len(0).is_err());
    }
}
