// SPDX-License-Identifier: GPL-2.0-only

//! KVM's ioctl numbers and the helpers that copy its structs from and to userspace.
//!
//! Sizes and directions are part of an ioctl's number, so a caller with another struct does not match.

use kernel::{
    ioctl::{
        _IO,
        _IOR,
        _IOW,
        _IOWR, //
    },
    prelude::*,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

pub(crate) use crate::bindings::uapi::*;

/// The version of the API, as `KVM_GET_API_VERSION` returns it.
pub(crate) const API_VERSION: isize = 12;

const KVMIO: u32 = 0xAE;

macro_rules! ioctls {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: u32 = $value;)*
    };
}

ioctls! {
    // On /dev/vireo.
    GET_API_VERSION = _IO(KVMIO, 0x00);
    CREATE_VM = _IO(KVMIO, 0x01);
    GET_MSR_INDEX_LIST = _IOWR::<kvm_msr_list>(KVMIO, 0x02);
    CHECK_EXTENSION = _IO(KVMIO, 0x03);
    GET_VCPU_MMAP_SIZE = _IO(KVMIO, 0x04);
    GET_SUPPORTED_CPUID = _IOWR::<kvm_cpuid2>(KVMIO, 0x05);
    GET_EMULATED_CPUID = _IOWR::<kvm_cpuid2>(KVMIO, 0x09);
    GET_MSR_FEATURE_INDEX_LIST = _IOWR::<kvm_msr_list>(KVMIO, 0x0a);
    X86_GET_MCE_CAP_SUPPORTED = _IOR::<u64>(KVMIO, 0x9d);

    // On a VM.
    CREATE_VCPU = _IO(KVMIO, 0x41);
    SET_NR_MMU_PAGES = _IO(KVMIO, 0x44);
    SET_USER_MEMORY_REGION = _IOW::<kvm_userspace_memory_region>(KVMIO, 0x46);
    SET_TSS_ADDR = _IO(KVMIO, 0x47);
    SET_IDENTITY_MAP_ADDR = _IOW::<u64>(KVMIO, 0x48);
    SET_USER_MEMORY_REGION2 = _IOW::<kvm_userspace_memory_region2>(KVMIO, 0x49);
    CREATE_IRQCHIP = _IO(KVMIO, 0x60);
    IRQ_LINE = _IOW::<kvm_irq_level>(KVMIO, 0x61);
    GET_IRQCHIP = _IOWR::<kvm_irqchip>(KVMIO, 0x62);
    SET_IRQCHIP = _IOR::<kvm_irqchip>(KVMIO, 0x63);
    CREATE_PIT = _IO(KVMIO, 0x64);
    GET_PIT = _IOWR::<kvm_pit_state>(KVMIO, 0x65);
    SET_PIT = _IOR::<kvm_pit_state>(KVMIO, 0x66);
    IRQ_LINE_STATUS = _IOWR::<kvm_irq_level>(KVMIO, 0x67);
    SET_GSI_ROUTING = _IOW::<kvm_irq_routing>(KVMIO, 0x6a);
    REINJECT_CONTROL = _IO(KVMIO, 0x71);
    IRQFD = _IOW::<kvm_irqfd>(KVMIO, 0x76);
    CREATE_PIT2 = _IOW::<kvm_pit_config>(KVMIO, 0x77);
    SET_BOOT_CPU_ID = _IO(KVMIO, 0x78);
    IOEVENTFD = _IOW::<kvm_ioeventfd>(KVMIO, 0x79);
    SET_CLOCK = _IOW::<kvm_clock_data>(KVMIO, 0x7b);
    GET_CLOCK = _IOR::<kvm_clock_data>(KVMIO, 0x7c);
    GET_PIT2 = _IOR::<kvm_pit_state2>(KVMIO, 0x9f);
    SET_PIT2 = _IOW::<kvm_pit_state2>(KVMIO, 0xa0);
    ENABLE_CAP = _IOW::<kvm_enable_cap>(KVMIO, 0xa3);
    REGISTER_COALESCED_MMIO = _IOW::<kvm_coalesced_mmio_zone>(KVMIO, 0x67);
    UNREGISTER_COALESCED_MMIO = _IOW::<kvm_coalesced_mmio_zone>(KVMIO, 0x68);
    SIGNAL_MSI = _IOW::<kvm_msi>(KVMIO, 0xa5);

    // On a vCPU (SET_TSC_KHZ and GET_TSC_KHZ on a VM too).
    RUN = _IO(KVMIO, 0x80);
    GET_REGS = _IOR::<kvm_regs>(KVMIO, 0x81);
    SET_REGS = _IOW::<kvm_regs>(KVMIO, 0x82);
    GET_SREGS = _IOR::<kvm_sregs>(KVMIO, 0x83);
    SET_SREGS = _IOW::<kvm_sregs>(KVMIO, 0x84);
    TRANSLATE = _IOWR::<kvm_translation>(KVMIO, 0x85);
    INTERRUPT = _IOW::<kvm_interrupt>(KVMIO, 0x86);
    GET_MSRS = _IOWR::<kvm_msrs>(KVMIO, 0x88);
    SET_MSRS = _IOW::<kvm_msrs>(KVMIO, 0x89);
    SET_SIGNAL_MASK = _IOW::<kvm_signal_mask>(KVMIO, 0x8b);
    GET_FPU = _IOR::<kvm_fpu>(KVMIO, 0x8c);
    SET_FPU = _IOW::<kvm_fpu>(KVMIO, 0x8d);
    GET_LAPIC = _IOR::<kvm_lapic_state>(KVMIO, 0x8e);
    SET_LAPIC = _IOW::<kvm_lapic_state>(KVMIO, 0x8f);
    SET_CPUID2 = _IOW::<kvm_cpuid2>(KVMIO, 0x90);
    GET_CPUID2 = _IOWR::<kvm_cpuid2>(KVMIO, 0x91);
    GET_MP_STATE = _IOR::<kvm_mp_state>(KVMIO, 0x98);
    SET_MP_STATE = _IOW::<kvm_mp_state>(KVMIO, 0x99);
    NMI = _IO(KVMIO, 0x9a);
    X86_SETUP_MCE = _IOW::<u64>(KVMIO, 0x9c);
    GET_VCPU_EVENTS = _IOR::<kvm_vcpu_events>(KVMIO, 0x9f);
    SET_VCPU_EVENTS = _IOW::<kvm_vcpu_events>(KVMIO, 0xa0);
    GET_DEBUGREGS = _IOR::<kvm_debugregs>(KVMIO, 0xa1);
    SET_DEBUGREGS = _IOW::<kvm_debugregs>(KVMIO, 0xa2);
    SET_TSC_KHZ = _IO(KVMIO, 0xa2);
    GET_TSC_KHZ = _IO(KVMIO, 0xa3);
    GET_XSAVE = _IOR::<kvm_xsave>(KVMIO, 0xa4);
    SET_XSAVE = _IOW::<kvm_xsave>(KVMIO, 0xa5);
    GET_XCRS = _IOR::<kvm_xcrs>(KVMIO, 0xa6);
    SET_XCRS = _IOW::<kvm_xcrs>(KVMIO, 0xa7);
    KVMCLOCK_CTRL = _IO(KVMIO, 0xad);
    SET_DEVICE_ATTR = _IOW::<kvm_device_attr>(KVMIO, 0xe1);
    GET_DEVICE_ATTR = _IOW::<kvm_device_attr>(KVMIO, 0xe2);
    HAS_DEVICE_ATTR = _IOW::<kvm_device_attr>(KVMIO, 0xe3);
    GET_XSAVE2 = _IOR::<kvm_xsave>(KVMIO, 0xcf);
}

/// Structs that are plain integers without padding, so every bit pattern is a value and no byte of the
/// kernel's memory leaks with them.
macro_rules! plain {
    ($($name:ty),* $(,)?) => {
        $(
            // SAFETY: Only integers and arrays of them; the API pads its structs with named fields.
            unsafe impl FromBytes for $name {}
            // SAFETY: As above.
            unsafe impl AsBytes for $name {}
        )*
    };
}

plain!(
    kvm_regs,
    kvm_sregs,
    kvm_fpu,
    kvm_debugregs,
    crate::model::event::VcpuEvents,
    crate::model::cpuid::CpuidEntry,
    kvm_irq_level,
    kvm_mp_state,
    kvm_xcrs,
    kvm_translation,
    kvm_interrupt,
    kvm_msr_entry,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
    kvm_msi,
    kvm_irqchip,
    kvm_ioeventfd,
    kvm_ioapic_state,
    kvm_lapic_state,
    kvm_clock_data,
    kvm_irq_routing,
    kvm_irqfd,
    kvm_pit_config,
    kvm_reinject_control,
    kvm_enable_cap,
    kvm_device_attr,
    kvm_coalesced_mmio_zone,
    crate::model::pit::PitState2,
    crate::model::pit::PitChannelState,
    crate::model::route::RawRoute,
);

/// Reads a value at the address `arg` of the caller's.
pub(crate) fn get<T: FromBytes>(arg: usize) -> Result<T> {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .reader()
        .read()
}

/// Writes a value to the address `arg` of the caller's.
pub(crate) fn put<T: AsBytes>(arg: usize, value: &T) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .writer()
        .write(value)
}

/// Reads `count` entries that follow a header of `header` bytes at `arg`.
pub(crate) fn get_entries<T: FromBytes>(
    arg: usize,
    header: usize,
    count: usize,
) -> Result<KVVec<T>> {
    let size = count.checked_mul(size_of::<T>()).ok_or(E2BIG)?;
    let start = arg.checked_add(header).ok_or(EFAULT)?;
    let mut reader = UserSlice::new(UserPtr::from_addr(start), size).reader();
    let mut entries = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
    for _ in 0..count {
        entries.push(reader.read()?, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(entries)
}

/// Writes entries behind a header of `header` bytes at `arg`.
pub(crate) fn put_entries<T: AsBytes>(arg: usize, header: usize, entries: &[T]) -> Result {
    let start = arg.checked_add(header).ok_or(EFAULT)?;
    let mut writer = UserSlice::new(UserPtr::from_addr(start), size_of_val(entries)).writer();
    for entry in entries {
        writer.write(entry)?;
    }
    Ok(())
}

/// The offset of the field `nent` or `nmsrs`, the count at the start of a list.
const COUNT_SIZE: usize = size_of::<u32>();

/// Writes the list of 32-bit numbers that the caller at `arg` asks for: its count first, the numbers only
/// if there is room.
///
/// # Errors
///
/// `E2BIG` when there is too little room; the count has been written then.
pub(crate) fn put_list(arg: usize, list: &[u32]) -> Result {
    let room: u32 = get(arg)?;
    let count = u32::try_from(list.len()).map_err(|_| EINVAL)?;
    put(arg, &count)?;
    if room < count {
        return Err(E2BIG);
    }
    put_entries(arg, COUNT_SIZE, list)
}
