// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's file descriptor and its shared page.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use kvm_bindings as kb;

use super::*;

/// Why `KVM_RUN` returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest wrote `data` (`size` bytes for each element) to `port`.
    Out { port: u16, size: u8, data: Vec<u8> },
    /// The guest reads `count` elements of `size` bytes from `port`; see [`Vcpu::set_in_data`].
    In { port: u16, size: u8, count: u32 },
    /// The guest reads `len` bytes at `gpa`; see [`Vcpu::set_mmio_data`].
    MmioRead { gpa: u64, len: u32 },
    /// The guest wrote the low `len` bytes of `data` to `gpa`.
    MmioWrite { gpa: u64, len: u32, data: u64 },
    /// HLT without in-kernel interrupt controller.
    Hlt,
    /// Triple fault.
    Shutdown,
    /// VM entry failed for the given hardware reason.
    FailEntry(u64),
    /// The kernel could not continue; the suberror.
    InternalError(u32),
    /// An interrupt can be injected now.
    IrqWindow,
    /// Another exit reason.
    Other(u32),
}

/// A vCPU and its mapped `kvm_run`.
pub struct Vcpu {
    fd: OwnedFd,
    run: *mut kb::kvm_run,
    mmap_size: usize,
}

// SAFETY: the descriptor and the mapping belong to the process, not to a thread; the tests that
// share a vCPU between threads touch `kvm_run` from one of them at a time or by volatile access.
unsafe impl Send for Vcpu {}

macro_rules! get_set {
    ($($get:ident $set:ident $ty:ty, $get_nr:ident $set_nr:ident;)+) => {$(
        #[doc = concat!("`", stringify!($get_nr), "`")]
        pub fn $get(&self) -> Result<$ty> {
            // SAFETY: the structure is plain data, valid when zero.
            let mut value: $ty = unsafe { std::mem::zeroed() };
            ioctl_out(self.fd(), $get_nr, &mut value)?;
            Ok(value)
        }
        #[doc = concat!("`", stringify!($set_nr), "`")]
        pub fn $set(&self, value: &$ty) -> Result<()> {
            ioctl_in(self.fd(), $set_nr, value).map(drop)
        }
    )+};
}

impl Vcpu {
    /// Takes `fd`, which `KVM_CREATE_VCPU` returned, and maps `mmap_size` bytes of it.
    pub fn from_fd(fd: RawFd, mmap_size: usize) -> Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let run = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mmap_size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        // SAFETY: `fd` came from the kernel just now and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if run == libc::MAP_FAILED {
            return Err(IoctlError {
                name: "mmap of the vCPU",
                errno: Errno::last(),
            });
        }
        Ok(Self {
            fd,
            run: run.cast(),
            mmap_size,
        })
    }

    /// The file descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The shared page.
    pub fn kvm_run(&mut self) -> &mut kb::kvm_run {
        // SAFETY: mapped for as long as `self` lives; exclusive by the borrow.
        unsafe { &mut *self.run }
    }

    /// Splits the vCPU into its descriptor and the address of the mapping, neither closed.
    pub fn into_parts(self) -> (OwnedFd, *mut u8, usize) {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never used or dropped again, so the descriptor is moved out once.
        (
            unsafe { std::ptr::read(&this.fd) },
            this.run.cast(),
            this.mmap_size,
        )
    }

    /// The 32-bit word at byte `offset` of the mapping, which others may change at any time.
    pub fn word(&self, offset: usize) -> u32 {
        // SAFETY: inside of the mapping, and volatile.
        unsafe { self.word_at(offset).read_volatile() }
    }

    /// Sets it.
    pub fn set_word(&self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.word_at(offset).write_volatile(value) }
    }

    fn word_at(&self, offset: usize) -> *mut u32 {
        assert!(offset + 4 <= self.mmap_size && offset.is_multiple_of(4));
        // SAFETY: inside of the mapping, as just checked.
        unsafe { self.run.cast::<u8>().add(offset).cast() }
    }

    /// Sets `kvm_run.immediate_exit`; may be called while another thread runs the vCPU.
    pub fn set_immediate_exit(&self, value: u8) {
        // SAFETY: the mapping lives as long as `self`; a byte is written in one piece.
        unsafe { (&raw mut (*self.run).immediate_exit).write_volatile(value) }
    }

    /// `KVM_RUN`, without looking at the exit.
    pub fn run_raw(&self) -> Result<i32> {
        ioctl(self.fd(), KVM_RUN, 0)
    }

    /// `KVM_RUN` until the next exit to userspace.
    pub fn run(&mut self) -> Result<Exit> {
        self.run_raw()?;
        Ok(self.exit())
    }

    /// The exit that `kvm_run` describes now.
    pub fn exit(&mut self) -> Exit {
        let run = self.kvm_run();
        let exit = &run.__bindgen_anon_1;
        // SAFETY: `exit_reason` says which member of the union the kernel filled; all are plain
        // integers, so a wrong one would be a wrong value, not undefined behaviour.
        unsafe {
            match run.exit_reason {
                kb::KVM_EXIT_IO => {
                    let io = exit.io;
                    let (port, size) = (io.port, io.size);
                    if u32::from(io.direction) == kb::KVM_EXIT_IO_IN {
                        Exit::In {
                            port,
                            size,
                            count: io.count,
                        }
                    } else {
                        let data = self.io_bytes().to_vec();
                        Exit::Out { port, size, data }
                    }
                }
                kb::KVM_EXIT_MMIO if exit.mmio.is_write != 0 => Exit::MmioWrite {
                    gpa: exit.mmio.phys_addr,
                    len: exit.mmio.len,
                    data: low_bytes(u64::from_le_bytes(exit.mmio.data), exit.mmio.len),
                },
                kb::KVM_EXIT_MMIO => Exit::MmioRead {
                    gpa: exit.mmio.phys_addr,
                    len: exit.mmio.len,
                },
                kb::KVM_EXIT_HLT => Exit::Hlt,
                kb::KVM_EXIT_SHUTDOWN => Exit::Shutdown,
                kb::KVM_EXIT_FAIL_ENTRY => {
                    Exit::FailEntry(exit.fail_entry.hardware_entry_failure_reason)
                }
                kb::KVM_EXIT_INTERNAL_ERROR => Exit::InternalError(exit.internal.suberror),
                kb::KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindow,
                other => Exit::Other(other),
            }
        }
    }

    fn io_bytes(&mut self) -> &mut [u8] {
        let mmap_size = self.mmap_size;
        // SAFETY: called for KVM_EXIT_IO only, where `io` is the member that is set.
        let io = unsafe { self.kvm_run().__bindgen_anon_1.io };
        let len = io.count as usize * usize::from(io.size);
        let offset = io.data_offset as usize;
        assert!(offset + len <= mmap_size, "I/O data outside of the mapping");
        // SAFETY: inside of the mapping, as just checked.
        unsafe { std::slice::from_raw_parts_mut(self.run.cast::<u8>().add(offset), len) }
    }

    /// Answers an [`Exit::In`]: the elements' bytes in order.
    pub fn set_in_data(&mut self, bytes: &[u8]) {
        let target = self.io_bytes();
        let len = bytes.len().min(target.len());
        target[..len].copy_from_slice(&bytes[..len]);
    }

    /// Answers an [`Exit::MmioRead`].
    pub fn set_mmio_data(&mut self, value: u64) {
        self.kvm_run().__bindgen_anon_1.mmio.data = value.to_le_bytes();
    }

    /// After an [`Exit::InternalError`]: how many numbers come with it, and the numbers.
    pub fn internal_data(&mut self) -> (u32, [u64; 16]) {
        // SAFETY: Plain integers, as in `exit`.
        let internal = unsafe { self.kvm_run().__bindgen_anon_1.internal };
        (internal.ndata, internal.data)
    }

    get_set! {
        regs set_regs kb::kvm_regs, KVM_GET_REGS KVM_SET_REGS;
        sregs set_sregs kb::kvm_sregs, KVM_GET_SREGS KVM_SET_SREGS;
        fpu set_fpu kb::kvm_fpu, KVM_GET_FPU KVM_SET_FPU;
        xsave set_xsave kb::kvm_xsave, KVM_GET_XSAVE KVM_SET_XSAVE;
        xcrs set_xcrs kb::kvm_xcrs, KVM_GET_XCRS KVM_SET_XCRS;
        debugregs set_debugregs kb::kvm_debugregs, KVM_GET_DEBUGREGS KVM_SET_DEBUGREGS;
        events set_events kb::kvm_vcpu_events, KVM_GET_VCPU_EVENTS KVM_SET_VCPU_EVENTS;
        mp_state set_mp_state kb::kvm_mp_state, KVM_GET_MP_STATE KVM_SET_MP_STATE;
        lapic set_lapic kb::kvm_lapic_state, KVM_GET_LAPIC KVM_SET_LAPIC;
    }

    /// Sets the guest's CPUID.
    pub fn set_cpuid(&self, entries: &[kb::kvm_cpuid_entry2]) -> Result<()> {
        let mut list = Fam::<kb::kvm_cpuid_entry2, 8>::from_slice(entries);
        ioctl(self.fd(), KVM_SET_CPUID2, list.addr()).map(drop)
    }

    /// The guest's CPUID.
    pub fn cpuid(&self) -> Result<Vec<kb::kvm_cpuid_entry2>> {
        let mut list = Fam::<kb::kvm_cpuid_entry2, 8>::new(256);
        ioctl(self.fd(), KVM_GET_CPUID2, list.addr())?;
        Ok(list.entries().to_vec())
    }

    /// Reads one MSR; `None` when the kernel does not know it.
    pub fn msr(&self, index: u32) -> Result<Option<u64>> {
        let entry = kb::kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut list = Fam::<_, 8>::from_slice(&[entry]);
        let done = ioctl(self.fd(), KVM_GET_MSRS, list.addr())?;
        Ok((done == 1).then(|| list.entries()[0].data))
    }

    /// Writes one MSR; whether the kernel took it.
    pub fn set_msr(&self, index: u32, data: u64) -> Result<bool> {
        let entry = kb::kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let mut list = Fam::<_, 8>::from_slice(&[entry]);
        Ok(ioctl(self.fd(), KVM_SET_MSRS, list.addr())? == 1)
    }

    /// Queues the external interrupt `irq` (without in-kernel interrupt controller).
    pub fn interrupt(&self, irq: u32) -> Result<()> {
        ioctl_in(self.fd(), KVM_INTERRUPT, &kb::kvm_interrupt { irq }).map(drop)
    }

    /// Queues a non-maskable interrupt.
    pub fn nmi(&self) -> Result<()> {
        ioctl(self.fd(), KVM_NMI, 0).map(drop)
    }

    /// Sets the signals that are blocked while the vCPU runs (bit n-1 for signal n), or none.
    pub fn set_signal_mask(&self, mask: Option<u64>) -> Result<()> {
        let arg = mask.map(|mask| {
            let mut bytes = [0u8; 12];
            bytes[..4].copy_from_slice(&8u32.to_ne_bytes());
            bytes[4..].copy_from_slice(&mask.to_ne_bytes());
            bytes
        });
        let addr = arg.as_ref().map_or(0, |bytes| bytes.as_ptr() as u64);
        ioctl(self.fd(), KVM_SET_SIGNAL_MASK, addr).map(drop)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // SAFETY: `self` owns the mapping.
        unsafe { libc::munmap(self.run.cast(), self.mmap_size) };
    }
}

/// The low `len` bytes of `value`.
fn low_bytes(value: u64, len: u32) -> u64 {
    if len >= 8 {
        value
    } else {
        value & ((1 << (len * 8)) - 1)
    }
}
