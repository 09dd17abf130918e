// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine's file descriptor.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use kvm_bindings as kb;

use super::*;

/// A virtual machine.
pub struct Vm {
    fd: OwnedFd,
    mmap_size: usize,
}

impl Vm {
    /// Takes `fd`, which `KVM_CREATE_VM` returned; vCPUs map `mmap_size` bytes.
    pub fn from_fd(fd: RawFd, mmap_size: usize) -> Result<Self> {
        // SAFETY: `fd` came from the kernel just now and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, mmap_size })
    }

    /// The file descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The value of the capability `cap` for this machine, 0 when it is not there.
    pub fn check(&self, cap: u32) -> i32 {
        ioctl(self.fd(), KVM_CHECK_EXTENSION, u64::from(cap)).unwrap_or(0)
    }

    /// A new vCPU with the number `id`.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu> {
        Vcpu::from_fd(ioctl(self.fd(), KVM_CREATE_VCPU, id)?, self.mmap_size)
    }

    /// Creates the in-kernel interrupt controllers.
    pub fn create_irqchip(&self) -> Result<()> {
        ioctl(self.fd(), KVM_CREATE_IRQCHIP, 0).map(drop)
    }

    /// Sets, changes or (with `size` 0) deletes a memory slot; sizes and addresses in bytes.
    pub fn set_slot(&self, slot: u32, flags: u32, gpa: u64, size: u64, hva: u64) -> Result<()> {
        let region = kb::kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: hva,
        };
        ioctl_in(self.fd(), KVM_SET_USER_MEMORY_REGION, &region).map(drop)
    }

    /// Drives the input `irq` of the interrupt controllers to `level`.
    pub fn irq_line(&self, irq: u32, level: u32) -> Result<()> {
        let line = kb::kvm_irq_level {
            __bindgen_anon_1: kb::kvm_irq_level__bindgen_ty_1 { irq },
            level,
        };
        ioctl_in(self.fd(), KVM_IRQ_LINE, &line).map(drop)
    }

    /// Sends the message `data` to the address `addr`; 1 when it was delivered, 0 when blocked.
    pub fn signal_msi(&self, addr: u32, data: u32) -> Result<i32> {
        let msi = kb::kvm_msi {
            address_lo: addr,
            data,
            ..Default::default()
        };
        ioctl_in(self.fd(), KVM_SIGNAL_MSI, &msi)
    }
}
