// SPDX-License-Identifier: GPL-2.0-only

//! `/dev/vireo`: the ioctls that need no VM.

use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};

use crate::{
    caps,
    guest_cpu::GuestCpu,
    model::{
        cpuid::{
            self,
            CpuidEntry, //
        },
        msr, //
    },
    uapi,
    vcpu::MMAP_SIZE,
    vm::Vm, //
};

/// The device node.
pub(crate) struct Device;

/// Entries of a CPUID list, at most.
pub(crate) const MAX_CPUID_ENTRIES: usize = cpuid::MAX_ENTRIES;

/// MSRs in one `KVM_GET_MSRS` or `KVM_SET_MSRS`, at most.
pub(crate) const MAX_MSRS: usize = 256;

#[vtable]
impl MiscDevice for Device {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        KBox::pin(Self, GFP_KERNEL).map_err(Into::into)
    }

    fn ioctl(_device: Pin<&Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::GET_API_VERSION if arg == 0 => return Ok(uapi::API_VERSION),
            uapi::GET_API_VERSION => return Err(EINVAL),
            uapi::CREATE_VM => return Vm::create(arg),
            uapi::CHECK_EXTENSION => return caps::check_extension(arg),
            uapi::GET_VCPU_MMAP_SIZE if arg == 0 => return Ok(MMAP_SIZE as isize),
            uapi::GET_VCPU_MMAP_SIZE => return Err(EINVAL),
            uapi::GET_SUPPORTED_CPUID => put_cpuid(arg, |out| {
                let cpu = GuestCpu::get().ok_or(ENODEV)?;
                Ok(cpuid::supported(&cpu.host, &cpu.caps, out)?)
            })?,
            uapi::GET_EMULATED_CPUID => put_cpuid(arg, |out| {
                let cpu = GuestCpu::get().ok_or(ENODEV)?;
                Ok(cpuid::emulated(&cpu.caps, out)?)
            })?,
            uapi::GET_MSR_INDEX_LIST => {
                let cpu = GuestCpu::get().ok_or(ENODEV)?;
                put_indices(arg, msr::index_list(&cpu.caps))?;
            }
            uapi::GET_MSR_FEATURE_INDEX_LIST => {
                let cpu = GuestCpu::get().ok_or(ENODEV)?;
                put_indices(arg, msr::feature_index_list(&cpu.caps))?;
            }
            uapi::GET_MSRS => return get_feature_msrs(arg),
            uapi::X86_GET_MCE_CAP_SUPPORTED => uapi::put(arg, &msr::MCE_CAP)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

/// Makes a list of CPUID entries and writes it to the `struct kvm_cpuid2` at `arg`.
fn put_cpuid(arg: usize, make: impl FnOnce(&mut [CpuidEntry]) -> Result<usize>) -> Result {
    let room = uapi::get::<u32>(arg)? as usize;
    let room = room.min(MAX_CPUID_ENTRIES);
    let mut entries = KVVec::from_elem(CpuidEntry::default(), room, GFP_KERNEL)?;
    let count = make(&mut entries)?;
    let filled = entries.get(..count).ok_or(E2BIG)?;
    uapi::put_entries(arg, size_of::<uapi::kvm_cpuid2>(), filled)?;
    uapi::put(arg, &(count as u32))
}

fn put_indices(arg: usize, list: impl Iterator<Item = u32>) -> Result {
    let mut indices = KVVec::new();
    for index in list {
        indices.push(index, GFP_KERNEL)?;
    }
    uapi::put_list(arg, &indices)
}

/// `KVM_GET_MSRS` on the device: the values of feature MSRs.
fn get_feature_msrs(arg: usize) -> Result<isize> {
    let count = uapi::get::<u32>(arg)? as usize;
    if count >= MAX_MSRS {
        return Err(E2BIG);
    }
    let cpu = GuestCpu::get().ok_or(ENODEV)?;
    let header = size_of::<uapi::kvm_msrs>();
    let mut entries: KVVec<uapi::kvm_msr_entry> = uapi::get_entries(arg, header, count)?;
    let mut done = 0;
    for entry in entries.iter_mut() {
        match msr::feature_value(entry.index, &cpu.feature_msrs, &cpu.caps) {
            Ok(value) => entry.data = value,
            Err(_) => break,
        }
        done += 1;
    }
    uapi::put_entries(arg, header, &entries)?;
    Ok(done)
}
