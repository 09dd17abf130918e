// SPDX-License-Identifier: GPL-2.0-only
//! Things of the host that tests need: memory mappings, signals, timers, time.

use std::time::Duration;

use crate::kvm::PAGE;

/// Anonymous memory of this process, given back when dropped.
pub struct Mapping {
    base: *mut u8,
    size: usize,
}

// SAFETY: the memory belongs to the process; all access to it is volatile or by copy, and what
// threads or guests do to it at the same time only changes the values read.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `size` bytes of private memory, zero.
    pub fn anonymous(size: usize) -> Self {
        Self::with_flags(size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }

    /// `size` bytes of memory that child processes share, zero.
    pub fn shared(size: usize) -> Self {
        Self::with_flags(size, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
    }

    /// `size` bytes of private memory whose address is a multiple of 2 MiB.
    pub fn huge_aligned(size: usize) -> Self {
        const HUGE: usize = 2 << 20;
        let whole = Self::anonymous(size + HUGE);
        let base = whole.addr().next_multiple_of(HUGE as u64);
        let (head, all) = (base - whole.addr(), whole.addr());
        std::mem::forget(whole);
        // SAFETY: both pieces lie outside of the part that is kept.
        unsafe {
            libc::munmap(all as *mut _, head as usize);
            libc::munmap((base + size as u64) as *mut _, HUGE - head as usize);
        }
        Self {
            base: base as *mut u8,
            size,
        }
    }

    /// The first `size` bytes of the file `fd`, shared.
    pub fn of_file(fd: i32, size: usize) -> Self {
        Self::map(size, libc::MAP_SHARED, fd)
    }

    fn with_flags(size: usize, flags: i32) -> Self {
        Self::map(size, flags, -1)
    }

    fn map(size: usize, flags: i32, fd: i32) -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, flags, fd, 0) };
        assert!(
            base != libc::MAP_FAILED,
            "no memory for a mapping of {size} bytes"
        );
        Self {
            base: base.cast(),
            size,
        }
    }

    /// The address.
    pub fn addr(&self) -> u64 {
        self.base as u64
    }

    /// The size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        assert!(
            offset as usize + size_of::<T>() <= self.size,
            "offset {offset:#x} out of range"
        );
        // SAFETY: inside of the mapping, as just checked.
        unsafe { self.base.add(offset as usize).cast() }
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.size);
        // SAFETY: inside of the mapping, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) }
    }

    /// The 64-bit value at `offset`.
    pub fn get(&self, offset: u64) -> u64 {
        // SAFETY: `at` checks the range.
        unsafe { self.at::<u64>(offset).read_unaligned_volatile() }
    }

    /// Sets the 64-bit value at `offset`.
    pub fn set(&self, offset: u64, value: u64) {
        // SAFETY: `at` checks the range.
        unsafe { self.at::<u64>(offset).write_unaligned_volatile(value) }
    }

    /// The 32-bit value at `offset`.
    pub fn get32(&self, offset: u64) -> u32 {
        self.get(offset) as u32
    }

    /// `madvise(2)` on `len` bytes from `offset`; whether it worked.
    pub fn advise(&self, offset: u64, len: usize, advice: i32) -> bool {
        assert!(offset as usize + len <= self.size);
        // SAFETY: the range belongs to this mapping; callers know what the advice does to it.
        unsafe { libc::madvise(self.at(offset), len, advice) == 0 }
    }

    /// `mprotect(2)` on `len` bytes from `offset`; whether it worked.
    pub fn protect(&self, offset: u64, len: usize, prot: i32) -> bool {
        assert!(offset as usize + len <= self.size);
        // SAFETY: as for `advise`.
        unsafe { libc::mprotect(self.at(offset), len, prot) == 0 }
    }

    /// Replaces `len` bytes from `offset` by fresh zero pages.
    pub fn replace(&self, offset: u64, len: usize) -> bool {
        assert!(offset as usize + len <= self.size && len.is_multiple_of(PAGE));
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: MAP_FIXED inside of the mapping that `self` owns.
        let new = unsafe { libc::mmap(self.at(offset), len, prot, flags, -1, 0) };
        new != libc::MAP_FAILED
    }

    /// Unmaps `len` bytes from `offset`, which must not be used again before [`Self::replace`].
    pub fn punch(&self, offset: u64, len: usize) -> bool {
        assert!(offset as usize + len <= self.size);
        // SAFETY: inside of the mapping that `self` owns.
        unsafe { libc::munmap(self.at(offset), len) == 0 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `self` owns the range.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

/// Volatile access without a demand on the alignment (x86 has none).
trait UnalignedVolatile<T> {
    unsafe fn read_unaligned_volatile(self) -> T;
    unsafe fn write_unaligned_volatile(self, value: T);
}

impl UnalignedVolatile<u64> for *mut u64 {
    unsafe fn read_unaligned_volatile(self) -> u64 {
        if self.is_aligned() {
            // SAFETY: the caller vouches for the range; aligned as just checked.
            return unsafe { self.read_volatile() };
        }
        // SAFETY: the caller vouches for the range.
        unsafe { self.read_unaligned() }
    }

    unsafe fn write_unaligned_volatile(self, value: u64) {
        if self.is_aligned() {
            // SAFETY: the caller vouches for the range; aligned as just checked.
            unsafe { self.write_volatile(value) }
        } else {
            // SAFETY: the caller vouches for the range.
            unsafe { self.write_unaligned(value) }
        }
    }
}

extern "C" fn ignore_signal(_: i32) {}

/// Installs a handler for `signal` that does nothing and does not restart system calls.
pub fn catch_signal(signal: i32) {
    // SAFETY: a zero sigaction with a handler that touches nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore_signal as *const () as usize;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

/// Blocks or unblocks `signal` in this thread.
pub fn block_signal(signal: i32, block: bool) {
    let how = if block {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    // SAFETY: works on a local set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    }
}

/// Sends SIGALRM to this process after `first` and then every `every` (not again when zero).
pub fn alarm(first: Duration, every: Duration) {
    let value = |time: Duration| libc::timeval {
        tv_sec: time.as_secs() as i64,
        tv_usec: i64::from(time.subsec_micros()),
    };
    let timer = libc::itimerval {
        it_interval: value(every),
        it_value: value(first),
    };
    // SAFETY: reads a local structure.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// Whether the processor is one of AMD's (or compatible).
pub fn is_amd() -> bool {
    // The letters "Auth" of AuthenticAMD and "Hygo" of HygonGenuine, in EBX.
    let vendor = std::arch::x86_64::__cpuid(0).ebx;
    vendor == u32::from_le_bytes(*b"Auth") || vendor == u32::from_le_bytes(*b"Hygo")
}

/// Whether this runs on QEMU's TCG, whose processor differs from AMD's in a few points.
pub fn is_tcg() -> bool {
    const HYPERVISOR: u32 = 1 << 31;
    let (features, id) = (
        std::arch::x86_64::__cpuid(1),
        std::arch::x86_64::__cpuid(0x4000_0000),
    );
    features.ecx & HYPERVISOR != 0 && id.ebx == u32::from_le_bytes(*b"TCGT")
}

/// A small pseudo-random number generator (xorshift), the same sequence for the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number, below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}
