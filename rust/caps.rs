// SPDX-License-Identifier: GPL-2.0-only

//! `KVM_CHECK_EXTENSION`: what is there, and nothing that is not.

use kernel::prelude::*;

use crate::{
    backend::Hardware,
    clock,
    irqchip,
    model::{
        memslot,
        route, //
    },
    uapi,
    vcpu::{
        run_page::COALESCED_PAGE,
        table::MAX_VCPUS, //
    },
    vm::MAX_VCPU_ID, //
};

/// Bytes of an extended-state image in `KVM_GET_XSAVE2`: without dynamic features, the classic size.
const XSAVE2_SIZE: isize = crate::host::fpu::XSAVE_SIZE as isize;

/// Answers for one capability: 0 means that it is not there.
pub(crate) fn check_extension(cap: usize) -> Result<isize> {
    let Ok(cap) = u32::try_from(cap) else {
        return Ok(0);
    };
    Ok(match cap {
        uapi::KVM_CAP_IRQCHIP
        | uapi::KVM_CAP_HLT
        | uapi::KVM_CAP_USER_MEMORY
        | uapi::KVM_CAP_USER_MEMORY2
        | uapi::KVM_CAP_SET_TSS_ADDR
        | uapi::KVM_CAP_EXT_CPUID
        | uapi::KVM_CAP_EXT_EMUL_CPUID
        | uapi::KVM_CAP_NOP_IO_DELAY
        | uapi::KVM_CAP_MP_STATE
        | uapi::KVM_CAP_SYNC_MMU
        | uapi::KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | uapi::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | uapi::KVM_CAP_USER_NMI
        | uapi::KVM_CAP_IRQ_INJECT_STATUS
        | uapi::KVM_CAP_SET_IDENTITY_MAP_ADDR
        | uapi::KVM_CAP_VCPU_EVENTS
        | uapi::KVM_CAP_INTERNAL_ERROR_DATA
        | uapi::KVM_CAP_DEBUGREGS
        | uapi::KVM_CAP_XSAVE
        | uapi::KVM_CAP_XCRS
        | uapi::KVM_CAP_GET_TSC_KHZ
        | uapi::KVM_CAP_TSC_DEADLINE_TIMER
        | uapi::KVM_CAP_VCPU_ATTRIBUTES
        | uapi::KVM_CAP_COALESCED_PIO
        | uapi::KVM_CAP_IOEVENTFD
        | uapi::KVM_CAP_IOEVENTFD_NO_LENGTH
        | uapi::KVM_CAP_IOEVENTFD_ANY_LENGTH
        | uapi::KVM_CAP_SIGNAL_MSI
        | uapi::KVM_CAP_MSI_DEVID
        | uapi::KVM_CAP_HALT_POLL
        | uapi::KVM_CAP_KVMCLOCK_CTRL
        | uapi::KVM_CAP_ASYNC_PF
        | uapi::KVM_CAP_ASYNC_PF_INT
        | uapi::KVM_CAP_STEAL_TIME
        | uapi::KVM_CAP_ENFORCE_PV_FEATURE_CPUID
        | uapi::KVM_CAP_ENABLE_CAP
        | uapi::KVM_CAP_IRQFD
        | uapi::KVM_CAP_IRQFD_RESAMPLE
        | uapi::KVM_CAP_PIT2
        | uapi::KVM_CAP_PIT_STATE2
        | uapi::KVM_CAP_REINJECT_CONTROL
        | uapi::KVM_CAP_SPLIT_IRQCHIP
        | uapi::KVM_CAP_SET_BOOT_CPU_ID
        | uapi::KVM_CAP_ENABLE_CAP_VM
        | uapi::KVM_CAP_EXIT_ON_EMULATION_FAILURE
        | uapi::KVM_CAP_READONLY_MEM
        | uapi::KVM_CAP_IOAPIC_POLARITY_IGNORED
        | uapi::KVM_CAP_CHECK_EXTENSION_VM
        | uapi::KVM_CAP_IMMEDIATE_EXIT
        | uapi::KVM_CAP_GET_MSR_FEATURES => 1,
        uapi::KVM_CAP_COALESCED_MMIO => COALESCED_PAGE as isize,
        uapi::KVM_CAP_TSC_CONTROL | uapi::KVM_CAP_VM_TSC_CONTROL => scales_tsc().into(),
        uapi::KVM_CAP_ADJUST_CLOCK => clock::FLAGS as isize,
        uapi::KVM_CAP_IRQ_ROUTING => route::MAX_ROUTES as isize,
        uapi::KVM_CAP_X2APIC_API => irqchip::lines::APIC_API_FLAGS as isize,
        uapi::KVM_CAP_NR_VCPUS => online_cpus().min(MAX_VCPUS) as isize,
        uapi::KVM_CAP_MAX_VCPUS => MAX_VCPUS as isize,
        uapi::KVM_CAP_MAX_VCPU_ID => MAX_VCPU_ID as isize,
        uapi::KVM_CAP_NR_MEMSLOTS => memslot::USER_SLOTS as isize,
        uapi::KVM_CAP_XSAVE2 => XSAVE2_SIZE,
        _ => 0,
    })
}

fn scales_tsc() -> bool {
    Hardware::get().is_some_and(|hardware| hardware.tsc_format().is_some())
}

fn online_cpus() -> usize {
    kernel::cpu::nr_cpu_ids() as usize
}
