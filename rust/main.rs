// SPDX-License-Identifier: GPL-2.0-only

//! Vireo: a type-2 hypervisor that speaks KVM's ioctl ABI on `/dev/vireo`.
//!
//! The way through the code, once, without going back: an ioctl arrives in [`vcpu`], `run` enters the guest
//! through the backend ([`vmx`]), the exit is decoded by the pure [`model`], and one `match` in [`exit`]
//! decides. README.md says where `unsafe` code is.

#![crate_name = "vireo"]

use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};

mod backend;
mod bindings;
mod caps;
mod clock;
mod coalesced;
mod dev;
mod errno;
mod eventfd;
mod exit;
mod guest_cpu;
mod host;
mod irqchip;
mod memory;
#[allow(dead_code, unreachable_pub, unused_imports)]
mod model;
mod svm;
mod uapi;
mod vcpu;
mod vm;
mod vmx;

module! {
    type: Vireo,
    name: "vireo",
    authors: ["The Vireo authors"],
    description: "A type-2 hypervisor that speaks KVM's ioctl ABI",
    license: "GPL v2",
    params: {
        dump_vmcs: u8 {
            default: 0,
            description: "Write the VMCS or VMCB to the kernel log when an entry fails or an exit is unknown",
        },
        vpid: u8 {
            default: 1,
            description: "Tag the guests' translations (VPID), where the CPU can (VMX)",
        },
        large_pages: u8 {
            default: 1,
            description: "Map guest memory with 2-MiB and 1-GiB pages, where the CPU can",
        },
        ept_ad: u8 {
            default: 1,
            description: "Use accessed and dirty flags in EPT, where the CPU can (VMX)",
        },
        apic_registers: u8 {
            default: 1,
            description: "Let the CPU virtualise the xAPIC's registers, where it can (VMX)",
        },
        virtual_interrupts: u8 {
            default: 0,
            description: "Let the CPU deliver the local APIC's interrupts, where it can and apic_registers is on (VMX)",
        },
        x2apic_registers: u8 {
            default: 1,
            description: "Let the CPU virtualise the x2APIC's registers, where it can and virtual_interrupts is on (VMX)",
        },
        posted_interrupts: u8 {
            default: 0,
            description: "Post interrupts to running vCPUs without an exit, where the CPU can and virtual_interrupts is on (VMX)",
        },
        preemption_timer: u8 {
            default: 1,
            description: "Use the VMX-preemption timer for the guests' APIC timers, where the CPU can (VMX)",
        },
        halt_poll_ns: u32 {
            default: 200000,
            description: "The longest that a halted vCPU's thread polls before it sleeps, in ns; 0 never polls",
        },
        tpr_shadow: u8 {
            default: 1,
            description: "Let the CPU handle CR8, where it can",
        },
        nrips: u8 {
            default: 1,
            description: "Use the CPU's next-RIP saving, where it has it (SVM)",
        },
        decode_assists: u8 {
            default: 1,
            description: "Use the CPU's decode assists, where it has them (SVM)",
        },
        flush_by_asid: u8 {
            default: 1,
            description: "Flush the TLB by ASID, where the CPU can (SVM)",
        },
        vmcb_clean: u8 {
            default: 1,
            description: "Use the VMCB's clean bits, where the CPU has them (SVM)",
        },
        pause_filter: u8 {
            default: 1,
            description: "Exit on a loop of PAUSEs, where the CPU can (SVM)",
        },
    },
}

/// The module. Fields are dropped in this order: first no new callers, then the hardware.
#[pin_data]
struct Vireo {
    #[pin]
    device: MiscDeviceRegistration<dev::Device>,
    fetchers: host::global::GlobalOwner<host::work::WorkQueue>,
    clock: host::clock::Watch,
    virtualization: host::hotplug::VirtualizationOn,
    mitigations: host::cpu::Mitigations,
    hardware: backend::HardwareOwner,
}

impl kernel::InPlaceModule for Vireo {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            hardware: backend::Hardware::probe()?,
            mitigations: host::cpu::Mitigations::new()?,
            virtualization: enable()?,
            clock: host::clock::Watch::new()?,
            fetchers: vcpu::paravirt::start_fetchers()?,
            device <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"vireo" }),
        })
    }
}

/// The longest that a halted vCPU's thread polls before it sleeps, in ns.
fn halt_poll_ns() -> u32 {
    module_parameters::halt_poll_ns.value()
}

/// Whether the user asked for VMCS dumps.
fn dump_requested() -> bool {
    module_parameters::dump_vmcs.value() != 0
}

/// Finds out what guests can have and turns virtualisation on.
fn enable() -> Result<host::hotplug::VirtualizationOn> {
    let hardware = backend::Hardware::get().ok_or(ENODEV)?;
    guest_cpu::GuestCpu::probe(&hardware);
    host::hotplug::VirtualizationOn::new(hardware.extension())
}
