// SPDX-License-Identifier: GPL-2.0-only
//! Raw ioctls of the KVM ABI: request numbers, the call itself and its errors.

use std::fmt;
use std::mem::size_of;
use std::os::fd::RawFd;

use kvm_bindings as kb;

mod fam;
mod system;
mod vcpu;
mod vm;

pub use fam::Fam;
pub use system::System;
pub use vcpu::{Exit, Vcpu};
pub use vm::{msi_route, msi_route_to, Vm};

/// The size of a page in bytes.
pub const PAGE: usize = 4096;

/// The ioctl type byte of KVM.
const KVMIO: u64 = 0xae;

/// One ioctl request: its number and its name for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl {
    /// The request number as passed to `ioctl(2)`.
    pub nr: u64,
    /// The name in the kernel's headers.
    pub name: &'static str,
}

const fn encode(dir: u64, nr: u64, size: usize, name: &'static str) -> Ioctl {
    Ioctl {
        nr: dir << 30 | (size as u64) << 16 | KVMIO << 8 | nr,
        name,
    }
}
/// A request without an argument structure.
pub const fn io(nr: u64, name: &'static str) -> Ioctl {
    encode(0, nr, 0, name)
}
/// A request that reads a `T` from its caller.
pub const fn iow<T>(nr: u64, name: &'static str) -> Ioctl {
    encode(1, nr, size_of::<T>(), name)
}
/// A request that writes a `T` to its caller.
pub const fn ior<T>(nr: u64, name: &'static str) -> Ioctl {
    encode(2, nr, size_of::<T>(), name)
}
/// A request that reads and writes a `T`.
pub const fn iowr<T>(nr: u64, name: &'static str) -> Ioctl {
    encode(3, nr, size_of::<T>(), name)
}

/// Declares requests: `NAME = direction(number, Type);`.
macro_rules! requests {
    ($($name:ident = $dir:ident($nr:literal $(, $ty:ty)?);)+) => {
        $(#[doc = concat!("`", stringify!($name), "`")]
        pub const $name: Ioctl = $dir$(::<$ty>)?($nr, stringify!($name));)+
        /// Every request that this file knows.
        pub const ALL: &[Ioctl] = &[$($name),+];
    };
}

requests! {
    KVM_GET_API_VERSION = io(0x00);
    KVM_CREATE_VM = io(0x01);
    KVM_GET_MSR_INDEX_LIST = iowr(0x02, kb::kvm_msr_list);
    KVM_CHECK_EXTENSION = io(0x03);
    KVM_GET_VCPU_MMAP_SIZE = io(0x04);
    KVM_GET_SUPPORTED_CPUID = iowr(0x05, kb::kvm_cpuid2);
    KVM_GET_MSR_FEATURE_INDEX_LIST = iowr(0x0a, kb::kvm_msr_list);
    KVM_CREATE_VCPU = io(0x41);
    KVM_SET_USER_MEMORY_REGION = iow(0x46, kb::kvm_userspace_memory_region);
    KVM_SET_TSS_ADDR = io(0x47);
    KVM_SET_IDENTITY_MAP_ADDR = iow(0x48, u64);
    KVM_SET_USER_MEMORY_REGION2 = iow(0x49, kb::kvm_userspace_memory_region2);
    KVM_CREATE_IRQCHIP = io(0x60);
    KVM_IRQ_LINE = iow(0x61, kb::kvm_irq_level);
    KVM_GET_IRQCHIP = iowr(0x62, kb::kvm_irqchip);
    KVM_SET_IRQCHIP = ior(0x63, kb::kvm_irqchip);
    KVM_IRQ_LINE_STATUS = iowr(0x67, kb::kvm_irq_level);
    KVM_SET_GSI_ROUTING = iow(0x6a, kb::kvm_irq_routing);
    KVM_REINJECT_CONTROL = io(0x71);
    KVM_IRQFD = iow(0x76, kb::kvm_irqfd);
    KVM_CREATE_PIT2 = iow(0x77, kb::kvm_pit_config);
    KVM_SET_BOOT_CPU_ID = io(0x78);
    KVM_IOEVENTFD = iow(0x79, kb::kvm_ioeventfd);
    KVM_SET_CLOCK = iow(0x7b, kb::kvm_clock_data);
    KVM_GET_CLOCK = ior(0x7c, kb::kvm_clock_data);
    KVM_RUN = io(0x80);
    KVM_GET_REGS = ior(0x81, kb::kvm_regs);
    KVM_SET_REGS = iow(0x82, kb::kvm_regs);
    KVM_GET_SREGS = ior(0x83, kb::kvm_sregs);
    KVM_SET_SREGS = iow(0x84, kb::kvm_sregs);
    KVM_INTERRUPT = iow(0x86, kb::kvm_interrupt);
    KVM_GET_MSRS = iowr(0x88, kb::kvm_msrs);
    KVM_SET_MSRS = iow(0x89, kb::kvm_msrs);
    KVM_SET_SIGNAL_MASK = iow(0x8b, kb::kvm_signal_mask);
    KVM_GET_FPU = ior(0x8c, kb::kvm_fpu);
    KVM_SET_FPU = iow(0x8d, kb::kvm_fpu);
    KVM_GET_LAPIC = ior(0x8e, kb::kvm_lapic_state);
    KVM_SET_LAPIC = iow(0x8f, kb::kvm_lapic_state);
    KVM_SET_CPUID2 = iow(0x90, kb::kvm_cpuid2);
    KVM_GET_CPUID2 = iowr(0x91, kb::kvm_cpuid2);
    KVM_GET_MP_STATE = ior(0x98, kb::kvm_mp_state);
    KVM_SET_MP_STATE = iow(0x99, kb::kvm_mp_state);
    KVM_NMI = io(0x9a);
    KVM_GET_VCPU_EVENTS = ior(0x9f, kb::kvm_vcpu_events);
    KVM_SET_VCPU_EVENTS = iow(0xa0, kb::kvm_vcpu_events);
    KVM_GET_DEBUGREGS = ior(0xa1, kb::kvm_debugregs);
    KVM_SET_DEBUGREGS = iow(0xa2, kb::kvm_debugregs);
    KVM_GET_PIT2 = ior(0x9f, kb::kvm_pit_state2);
    KVM_SET_PIT2 = iow(0xa0, kb::kvm_pit_state2);
    KVM_ENABLE_CAP = iow(0xa3, kb::kvm_enable_cap);
    KVM_SET_TSC_KHZ = io(0xa2);
    KVM_GET_TSC_KHZ = io(0xa3);
    KVM_GET_XSAVE = ior(0xa4, kb::kvm_xsave);
    KVM_SET_XSAVE = iow(0xa5, kb::kvm_xsave);
    KVM_REGISTER_COALESCED_MMIO = iow(0x67, kb::kvm_coalesced_mmio_zone);
    KVM_UNREGISTER_COALESCED_MMIO = iow(0x68, kb::kvm_coalesced_mmio_zone);
    KVM_SIGNAL_MSI = iow(0xa5, kb::kvm_msi);
    KVM_GET_XCRS = ior(0xa6, kb::kvm_xcrs);
    KVM_SET_XCRS = iow(0xa7, kb::kvm_xcrs);
    KVM_KVMCLOCK_CTRL = io(0xad);
    KVM_SET_DEVICE_ATTR = iow(0xe1, kb::kvm_device_attr);
    KVM_GET_DEVICE_ATTR = iow(0xe2, kb::kvm_device_attr);
    KVM_HAS_DEVICE_ATTR = iow(0xe3, kb::kvm_device_attr);
    KVM_GET_XSAVE2 = ior(0xcf, kb::kvm_xsave);
}

/// An errno value as an ioctl returned it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The errno of the last failed call of this thread.
    pub fn last() -> Self {
        Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EINTR => "EINTR",
            libc::EIO => "EIO",
            libc::ENXIO => "ENXIO",
            libc::E2BIG => "E2BIG",
            libc::EBADF => "EBADF",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EACCES => "EACCES",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENOTTY => "ENOTTY",
            libc::ENOSPC => "ENOSPC",
            libc::ENOSYS => "ENOSYS",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            other => return write!(f, "errno {other}"),
        };
        f.write_str(name)
    }
}

/// A failed ioctl: which one, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IoctlError {
    /// The request that failed.
    pub name: &'static str,
    /// Why.
    pub errno: Errno,
}

impl fmt::Debug for IoctlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name, self.errno)
    }
}

/// The result of an ioctl.
pub type Result<T> = std::result::Result<T, IoctlError>;

/// Issues `request` on `fd` with the bare argument `arg`.
pub fn ioctl(fd: RawFd, request: Ioctl, arg: u64) -> Result<i32> {
    // SAFETY: the tests pass wrong arguments on purpose; the kernel must cope with each. An
    // argument that is an address points to memory that the caller owns or to no memory.
    let value = unsafe { libc::ioctl(fd, request.nr as _, arg) };
    if value < 0 {
        return Err(IoctlError {
            name: request.name,
            errno: Errno::last(),
        });
    }
    Ok(value)
}

/// Issues `request` with the address of `arg`, which the kernel only reads.
pub fn ioctl_in<T>(fd: RawFd, request: Ioctl, arg: &T) -> Result<i32> {
    ioctl(fd, request, std::ptr::from_ref(arg) as u64)
}

/// Issues `request` with the address of `arg`, which the kernel may write.
pub fn ioctl_out<T>(fd: RawFd, request: Ioctl, arg: &mut T) -> Result<i32> {
    ioctl(fd, request, std::ptr::from_mut(arg) as u64)
}
