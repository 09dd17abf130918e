// SPDX-License-Identifier: GPL-2.0-only
//! The device node itself.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use kvm_bindings as kb;

use super::*;

/// An open device node.
pub struct System {
    fd: OwnedFd,
}

impl System {
    /// Opens the node `path`.
    pub fn open(path: &str) -> Result<Self> {
        let error = |errno| IoctlError {
            name: "open of the device",
            errno,
        };
        let path = CString::new(path).map_err(|_| error(Errno(libc::EINVAL)))?;
        // SAFETY: `path` is a C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(error(Errno::last()));
        }
        // SAFETY: `fd` is a new descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The file descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The value of the capability `cap`, 0 when it is not there.
    pub fn check(&self, cap: u32) -> i32 {
        ioctl(self.fd(), KVM_CHECK_EXTENSION, u64::from(cap)).unwrap_or(0)
    }

    /// The size of a vCPU's mapping in bytes.
    pub fn mmap_size(&self) -> Result<usize> {
        ioctl(self.fd(), KVM_GET_VCPU_MMAP_SIZE, 0).map(|size| size as usize)
    }

    /// A new virtual machine of the default type; tried again when a signal gets in its way.
    pub fn create_vm(&self) -> Result<Vm> {
        loop {
            match ioctl(self.fd(), KVM_CREATE_VM, 0) {
                Err(error) if error.errno.0 == libc::EINTR => {}
                result => return Vm::from_fd(result?, self.mmap_size()?),
            }
        }
    }

    /// The CPUID entries that a guest may be given.
    pub fn supported_cpuid(&self) -> Result<Fam<kb::kvm_cpuid_entry2, 8>> {
        let mut list = Fam::new(256);
        ioctl(self.fd(), KVM_GET_SUPPORTED_CPUID, list.addr())?;
        Ok(list)
    }

    /// The MSR indices that `request` (one of the two list ioctls) gives.
    pub fn msr_list(&self, request: Ioctl) -> Result<Vec<u32>> {
        let mut list = Fam::<u32, 4>::new(1024);
        ioctl(self.fd(), request, list.addr())?;
        Ok(list.entries().to_vec())
    }
}
