// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine's file descriptor.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use kvm_bindings as kb;

use super::*;

/// 64-bit words in a route.
const ROUTE_WORDS: usize = size_of::<kb::kvm_irq_routing_entry>() / 8;

/// A route of `gsi` to `vector` on the vCPU whose APIC ID is 0.
pub fn msi_route(gsi: u32, vector: u32) -> kb::kvm_irq_routing_entry {
    msi_route_to(0, gsi, vector)
}

/// A route of `gsi` to `vector` on the vCPU whose APIC ID is `id`.
pub fn msi_route_to(id: u32, gsi: u32, vector: u32) -> kb::kvm_irq_routing_entry {
    let msi = kb::kvm_irq_routing_msi {
        address_lo: 0xfee0_0000 | id << 12,
        data: vector,
        ..Default::default()
    };
    kb::kvm_irq_routing_entry {
        gsi,
        type_: kb::KVM_IRQ_ROUTING_MSI,
        u: kb::kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

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

    /// Enables the capability `cap` with one argument.
    pub fn enable_cap(&self, cap: u32, arg: u64) -> Result<()> {
        let mut enable = kb::kvm_enable_cap {
            cap,
            ..Default::default()
        };
        enable.args[0] = arg;
        ioctl_in(self.fd(), KVM_ENABLE_CAP, &enable).map(drop)
    }

    /// Creates the in-kernel PIT, with the speaker's port.
    pub fn create_pit(&self) -> Result<()> {
        let config = kb::kvm_pit_config {
            flags: kb::KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        ioctl_in(self.fd(), KVM_CREATE_PIT2, &config).map(drop)
    }

    /// Replaces the table of interrupt routes.
    pub fn set_routes(&self, routes: &[kb::kvm_irq_routing_entry]) -> Result<()> {
        let mut table = vec![0u64; 1 + routes.len() * ROUTE_WORDS];
        table[0] = routes.len() as u64;
        for (i, route) in routes.iter().enumerate() {
            // SAFETY: the entry is plain data of this many words, and the table has room for it.
            unsafe {
                let to = table.as_mut_ptr().add(1 + i * ROUTE_WORDS);
                to.cast::<kb::kvm_irq_routing_entry>().write(*route);
            }
        }
        ioctl(self.fd(), KVM_SET_GSI_ROUTING, table.as_ptr() as u64).map(drop)
    }

    /// Lets `fd` raise `gsi`, or not any more; `flags` and `resamplefd` as in `kvm_irqfd`.
    pub fn irqfd(&self, fd: RawFd, gsi: u32, flags: u32, resamplefd: RawFd) -> Result<()> {
        let arg = kb::kvm_irqfd {
            fd: fd as u32,
            gsi,
            flags,
            resamplefd: resamplefd as u32,
            ..Default::default()
        };
        ioctl_in(self.fd(), KVM_IRQFD, &arg).map(drop)
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
