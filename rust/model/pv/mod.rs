// SPDX-License-Identifier: GPL-2.0-only

//! What Linux guests use of a hypervisor that says "KVMKVMKVM": feature bits, MSRs, pages shared with the
//! guest, and hypercalls. Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst of the kernel describe them.
//!
//! The paravirtual clock is in [`crate::model::clock::pvclock`]; which MSRs come with which feature is in
//! [`crate::model::msr`].

pub mod async_pf;
pub mod eoi;
pub mod hypercall;
pub mod poll;
pub mod spin;
pub mod steal;

use crate::model::x86::msr;

/// Bits of CPUID leaf 0x40000001, register EAX.
pub mod feature {
    /// The clock by the first pair of MSRs, 0x11 and 0x12.
    pub const CLOCKSOURCE: u32 = 1 << 0;
    /// Delays after port accesses are not needed.
    pub const NOP_IO_DELAY: u32 = 1 << 1;
    /// The clock by the second pair of MSRs, 0x4b564d00 and 0x4b564d01.
    pub const CLOCKSOURCE2: u32 = 1 << 3;
    /// Asynchronous page faults.
    pub const ASYNC_PF: u32 = 1 << 4;
    /// Steal time.
    pub const STEAL_TIME: u32 = 1 << 5;
    /// Ends of interrupts without an exit.
    pub const PV_EOI: u32 = 1 << 6;
    /// The hypercall that wakes a halted vCPU.
    pub const PV_UNHALT: u32 = 1 << 7;
    /// TLB flushes by the steal-time page.
    pub const PV_TLB_FLUSH: u32 = 1 << 9;
    /// Asynchronous page faults as VM exits of a nested guest.
    pub const ASYNC_PF_VMEXIT: u32 = 1 << 10;
    /// The hypercall that sends an interrupt to many.
    pub const PV_SEND_IPI: u32 = 1 << 11;
    /// The guest can switch off the host's polling at HLT.
    pub const POLL_CONTROL: u32 = 1 << 12;
    /// The hypercall that yields to a vCPU.
    pub const PV_SCHED_YIELD: u32 = 1 << 13;
    /// The end of an asynchronous page fault is told by an interrupt.
    pub const ASYNC_PF_INT: u32 = 1 << 14;
    /// Message addresses have 15-bit destinations.
    pub const MSI_EXT_DEST_ID: u32 = 1 << 15;
    /// The clock can be the same on all vCPUs.
    pub const CLOCKSOURCE_STABLE: u32 = 1 << 24;
}

/// Bits of CPUID leaf 0x40000001, register EDX.
pub mod hint {
    /// vCPUs are never preempted for long.
    pub const REALTIME: u32 = 1 << 0;
}

/// The registers, and the features that bring them.
const REGISTERS: [(u32, u32); 10] = [
    (msr::KVM_WALL_CLOCK, feature::CLOCKSOURCE),
    (msr::KVM_SYSTEM_TIME, feature::CLOCKSOURCE),
    (msr::KVM_WALL_CLOCK_NEW, feature::CLOCKSOURCE2),
    (msr::KVM_SYSTEM_TIME_NEW, feature::CLOCKSOURCE2),
    (msr::KVM_ASYNC_PF_EN, feature::ASYNC_PF),
    (msr::KVM_STEAL_TIME, feature::STEAL_TIME),
    (msr::KVM_PV_EOI_EN, feature::PV_EOI),
    (msr::KVM_POLL_CONTROL, feature::POLL_CONTROL),
    (msr::KVM_ASYNC_PF_INT, feature::ASYNC_PF_INT),
    (msr::KVM_ASYNC_PF_ACK, feature::ASYNC_PF_INT),
];

/// Says whether MSR `index` is one of these services', and there with `features`.
pub fn has_register(index: u32, features: u32) -> bool {
    REGISTERS
        .iter()
        .any(|(known, bit)| *known == index && features & bit != 0)
}

/// A fault of the guest's: the value of an MSR that it can't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// Bit 0 of the registers that hold an address: the facility is on.
const ENABLE: u64 = 1 << 0;

/// A page or part of one that the guest shares with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// None: the facility is off.
    Off,
    /// At this guest-physical address.
    At(u64),
}
