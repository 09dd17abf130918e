// SPDX-License-Identifier: GPL-2.0-only

//! What Linux guests use of a hypervisor that says "KVMKVMKVM": feature bits, MSRs, pages shared with the
//! guest, and hypercalls. Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst of the kernel describe them.
//!
//! The paravirtual clock is in [`crate::model::clock::pvclock`].

pub mod async_pf;
pub mod eoi;
pub mod hypercall;
pub mod steal;

/// Bits of CPUID leaf 0x40000001, register EAX.
pub mod feature {
    /// The clock of `msr::WALL_CLOCK` and `msr::SYSTEM_TIME`.
    pub const CLOCKSOURCE: u32 = 1 << 0;
    /// Delays after port accesses are not needed.
    pub const NOP_IO_DELAY: u32 = 1 << 1;
    /// The clock of `msr::WALL_CLOCK_NEW` and `msr::SYSTEM_TIME_NEW`.
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

/// Model-specific registers.
pub mod msr {
    /// `MSR_KVM_WALL_CLOCK`.
    pub const WALL_CLOCK: u32 = 0x11;
    /// `MSR_KVM_SYSTEM_TIME`.
    pub const SYSTEM_TIME: u32 = 0x12;
    /// `MSR_KVM_WALL_CLOCK_NEW`.
    pub const WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
    /// `MSR_KVM_SYSTEM_TIME_NEW`.
    pub const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    /// `MSR_KVM_ASYNC_PF_EN`.
    pub const ASYNC_PF_EN: u32 = 0x4b56_4d02;
    /// `MSR_KVM_STEAL_TIME`.
    pub const STEAL_TIME: u32 = 0x4b56_4d03;
    /// `MSR_KVM_PV_EOI_EN`.
    pub const PV_EOI_EN: u32 = 0x4b56_4d04;
    /// `MSR_KVM_POLL_CONTROL`.
    pub const POLL_CONTROL: u32 = 0x4b56_4d05;
    /// `MSR_KVM_ASYNC_PF_INT`.
    pub const ASYNC_PF_INT: u32 = 0x4b56_4d06;
    /// `MSR_KVM_ASYNC_PF_ACK`.
    pub const ASYNC_PF_ACK: u32 = 0x4b56_4d07;

    /// Returns the feature that brings `msr`, or `None` when it is no register of this interface.
    pub const fn feature(msr: u32) -> Option<u32> {
        use super::feature;
        Some(match msr {
            WALL_CLOCK | SYSTEM_TIME => feature::CLOCKSOURCE,
            WALL_CLOCK_NEW | SYSTEM_TIME_NEW => feature::CLOCKSOURCE2,
            ASYNC_PF_EN => feature::ASYNC_PF,
            STEAL_TIME => feature::STEAL_TIME,
            PV_EOI_EN => feature::PV_EOI,
            POLL_CONTROL => feature::POLL_CONTROL,
            ASYNC_PF_INT | ASYNC_PF_ACK => feature::ASYNC_PF_INT,
            _ => return None,
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_come_with_features() {
        assert_eq!(msr::feature(0x11), Some(1));
        assert_eq!(msr::feature(0x4b56_4d00), Some(1 << 3));
        assert_eq!(msr::feature(0x4b56_4d07), Some(1 << 14));
        assert_eq!(msr::feature(0x4b56_4d08), None);
        let registers: Vec<u32> = (0x4b56_4d00..0x4b56_4e00)
            .filter(|&m| msr::feature(m).is_some())
            .collect();
        assert_eq!(registers, (0x4b56_4d00..=0x4b56_4d07).collect::<Vec<_>>());
    }
}
