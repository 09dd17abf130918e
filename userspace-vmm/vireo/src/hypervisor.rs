// SPDX-License-Identifier: Apache-2.0

//! Opens the hypervisor's device node and checks that it can carry this machine.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use kvm_bindings::{
    kvm_enable_cap, CpuId, KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use crate::devices::ioapic::PINS;
use crate::error::{Error, Result};
use crate::layout::{IDENTITY_MAP_ADDR, TSS_ADDR};

/// What the machine cannot do without.
const REQUIRED: [(Cap, &str); 4] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Where a machine's I/O APIC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Irqchip {
    /// In the kernel, like the local APICs.
    Kernel,
    /// In this program.
    Split,
}

/// An open device that speaks the right version of the interface.
pub struct Hypervisor {
    kvm: Kvm,
    path: PathBuf,
}

impl Hypervisor {
    /// Opens `path` and asks for its version.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Error::NoDevice(path.into()),
            Some(libc::EACCES | libc::EPERM) => Error::NoPermission(path.into()),
            _ => Error::OpenDevice {
                path: path.into(),
                source,
            },
        };
        // Another kind of file could be opened as well, and would only fail later.
        let kind = fs::metadata(path).map_err(opening)?.file_type();
        if !kind.is_char_device() {
            return Err(Error::NotAHypervisor(path.into()));
        }
        let name =
            CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::NoDevice(path.into()))?;
        let fd = Kvm::open_with_cloexec_at(name, true)
            .map_err(|e| opening(io::Error::from_raw_os_error(e.errno())))?;
        // SAFETY: the descriptor is new, valid, and owned by nobody else. Ioctls on another
        // kind of device fail; the version is checked before anything else is done.
        let kvm = unsafe { Kvm::from_raw_fd(fd) };
        let version = kvm.get_api_version();
        if version < 0 {
            return Err(Error::NotAHypervisor(path.into()));
        }
        if version != KVM_API_VERSION as i32 {
            return Err(Error::ApiVersion {
                path: path.into(),
                version,
                expected: KVM_API_VERSION as i32,
            });
        }
        Ok(Hypervisor {
            kvm,
            path: path.into(),
        })
    }

    /// The device.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// Fails unless the machine's needs are met and `cpus` CPUs are allowed.
    pub fn check(&self, cpus: u8, irqchip: Irqchip) -> Result<()> {
        let split = (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP");
        let more = (irqchip == Irqchip::Split).then_some(split);
        for (cap, capability) in REQUIRED.into_iter().chain(more) {
            if !self.kvm.check_extension(cap) {
                return Err(Error::MissingCapability {
                    path: self.path.clone(),
                    capability,
                });
            }
        }
        let max = self.kvm.get_max_vcpus();
        if usize::from(cpus) > max {
            return Err(Error::TooManyCpus {
                asked: cpus,
                max,
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// The CPUID that guests may have.
    pub fn supported_cpuid(&self) -> Result<CpuId> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::hypervisor("KVM_GET_SUPPORTED_CPUID"))
    }

    /// A virtual machine with interrupt controllers and no memory yet.
    pub fn create_vm(&self, irqchip: Irqchip) -> Result<VmFd> {
        let vm = self
            .kvm
            .create_vm()
            .map_err(Error::hypervisor("KVM_CREATE_VM"))?;
        // Only KVM on VT-x without unrestricted guests uses these pages.
        if vm.check_extension(Cap::SetIdentityMapAddr) {
            vm.set_identity_map_address(IDENTITY_MAP_ADDR)
                .map_err(Error::hypervisor("KVM_SET_IDENTITY_MAP_ADDR"))?;
        }
        if vm.check_extension(Cap::SetTssAddr) {
            vm.set_tss_address(TSS_ADDR as usize)
                .map_err(Error::hypervisor("KVM_SET_TSS_ADDR"))?;
        }
        match irqchip {
            Irqchip::Kernel => vm
                .create_irq_chip()
                .map_err(Error::hypervisor("KVM_CREATE_IRQCHIP"))?,
            Irqchip::Split => {
                let mut cap = kvm_enable_cap {
                    cap: KVM_CAP_SPLIT_IRQCHIP,
                    ..Default::default()
                };
                cap.args[0] = PINS as u64;
                vm.enable_cap(&cap)
                    .map_err(Error::hypervisor("KVM_ENABLE_CAP"))?;
            }
        }
        Ok(vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &str) -> Error {
        Hypervisor::open(Path::new(path)).map(|_| ()).unwrap_err()
    }

    #[test]
    fn other_nodes_are_refused() {
        assert!(matches!(error("/nonexistent/kvm"), Error::NoDevice(_)));
        assert!(matches!(error("/"), Error::NotAHypervisor(_)));
        assert!(matches!(error("/dev/null"), Error::NotAHypervisor(_)));
        assert!(matches!(error("/etc/passwd"), Error::NotAHypervisor(_)));
    }
}
