// SPDX-License-Identifier: GPL-2.0-only

//! The advanced virtual interrupt controller: its tables, its part of the VMCB, and its exits
//! (APM vol. 2, section 15.29).
//!
//! AVIC serves a guest's local APIC from a backing page per vCPU, and delivers IPIs between vCPUs that run: it sets
//! IRR in the targets' pages and rings doorbells. It finds the pages in two tables per VM, indexed by physical
//! and by logical APIC ID.
//!
//! # What the shared code sees
//!
//! The same as of APIC virtualisation on VMX. A write that AVIC has stored in the page, and leaves the rest of
//! to software, is a trap: [`Exit::ApicWrite`], with RIP behind the instruction. An access that it has not
//! carried out is a fault: [`Exit::ApicAccess`], with RIP at the instruction. An IPI that was not sent is a
//! write of the ICR. Only one kind of exit is this backend's own: an IPI that is in the targets' pages already,
//! of which some did not run ([`IncompleteIpi::NotRunning`]): sending it again would be one interrupt too many,
//! so they are only to be woken up.

use super::vmcb::v_intr;
use crate::model::addr::Hpa;
use crate::model::apic::Reg;
use crate::model::exit::{ApicAccess, ApicAccessKind, Exit};

/// What AVIC does with an access of a register (section 15.29, "guest vAPIC register access behavior").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The page is read or written, and that is all.
    Memory,
    /// AVIC does what the register is there for; where it cannot, the exit is a trap.
    Accelerated,
    /// The page is written, and then the guest is left.
    Trap,
    /// The guest is left before the access.
    Fault,
}

/// Returns what AVIC does with a write of the register at `offset` of the page.
pub const fn write_service(offset: u16) -> Service {
    let Some(reg) = Reg::from_offset(offset as u32) else {
        return Service::Fault;
    };
    match reg {
        Reg::TPR | Reg::EOI | Reg::ICR => Service::Accelerated,
        Reg::ICR_HIGH => Service::Memory,
        Reg::ID
        | REMOTE_READ
        | Reg::LDR
        | Reg::DFR
        | Reg::SVR
        | Reg::ESR
        | Reg::LVT_TIMER
        | Reg::LVT_THERMAL
        | Reg::LVT_PERF
        | Reg::LVT_LINT0
        | Reg::LVT_LINT1
        | Reg::LVT_ERROR
        | Reg::TIMER_INITIAL
        | Reg::TIMER_DIVIDE => Service::Trap,
        _ => Service::Fault,
    }
}

/// The remote-read register, which newer APICs do not have.
const REMOTE_READ: Reg = Reg::EOI.nth(1);

/// EXITINFO1 of an access that is not accelerated: the offset in bits 11:4, and bit 32 for a write.
const NOACCEL_OFFSET: u64 = 0xff0;
const NOACCEL_WRITE: u64 = 1 << 32;

/// Decodes an exit by an access that AVIC does not serve (AVIC_NOACCEL).
///
/// A write of EOI traps when the interrupt was level-triggered. Nothing has been done for it but the store, so
/// it is a write like others.
#[inline]
pub const fn no_acceleration(exitinfo1: u64) -> Exit {
    let offset = (exitinfo1 & NOACCEL_OFFSET) as u16;
    let write = exitinfo1 & NOACCEL_WRITE != 0;
    if write && matches!(write_service(offset), Service::Trap | Service::Accelerated) {
        return Exit::ApicWrite(offset);
    }
    Exit::ApicAccess(ApicAccess {
        offset,
        kind: if write {
            ApicAccessKind::Write
        } else {
            ApicAccessKind::Read
        },
    })
}

/// EXITINFO2 of an IPI that was not delivered to all: why, in bits 63:32.
const FAILURE_SHIFT: u32 = 32;
/// A target does not run.
const FAILURE_NOT_RUNNING: u32 = 1;
/// EXITINFO1: the high half of the ICR.
const ICR_HIGH_SHIFT: u32 = 32;

/// An IPI that AVIC has not delivered to every target (AVIC_INCOMPLETE_IPI). The write of the
/// ICR is done, and RIP is behind the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncompleteIpi {
    /// Its interrupt is in the pages of all targets. Those that are not running must be woken up.
    NotRunning {
        /// The low half of the ICR.
        icr: u32,
        /// The high half.
        icr_high: u32,
    },
    /// It has reached nobody: AVIC sends only fixed, edge-triggered interrupts with a valid vector to APICs that
    /// are all in its tables. Software sends it.
    NotSent,
}

impl IncompleteIpi {
    /// Takes the exit information apart.
    #[inline]
    pub const fn new(exitinfo1: u64, exitinfo2: u64) -> Self {
        match (exitinfo2 >> FAILURE_SHIFT) as u32 {
            FAILURE_NOT_RUNNING => Self::NotRunning {
                icr: exitinfo1 as u32,
                icr_high: (exitinfo1 >> ICR_HIGH_SHIFT) as u32,
            },
            _ => Self::NotSent,
        }
    }

    /// Returns the exit for the shared code, or `None` if there is nothing left to do for it but to wake the
    /// targets.
    #[inline]
    pub const fn exit(&self) -> Option<Exit> {
        match self {
            Self::NotRunning { .. } => None,
            Self::NotSent => Some(Exit::ApicWrite(Reg::ICR.offset() as u16)),
        }
    }
}

/// The last index of a physical APIC ID table that AVIC looks at: 255 stands for all.
pub const LAST_PHYSICAL_ID: u16 = 0xfe;

/// The last index with x2AVIC.
pub const LAST_X2_PHYSICAL_ID: u16 = 0x1ff;

/// Entries of a physical APIC ID table: one page.
pub const PHYSICAL_ENTRIES: usize = 512;

/// Entries of a logical APIC ID table: one page.
pub const LOGICAL_ENTRIES: usize = 1024;

/// Bits 51:12 of table entries and VMCB fields: the address of a page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An entry of the physical APIC ID table: where a vCPU's backing page is and on which CPU it
/// runs.
///
/// The processors read it at any time; it is changed by one 64-bit store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct PhysicalEntry(u64);

impl PhysicalEntry {
    /// Bits 11:0: the APIC ID of the CPU that the vCPU runs on.
    const HOST_APIC_ID: u64 = 0xfff;
    /// Bit 62: the vCPU is running.
    const IS_RUNNING: u64 = 1 << 62;
    /// Bit 63: the entry is valid.
    const VALID: u64 = 1 << 63;

    /// Nobody has this APIC ID.
    pub const NONE: Self = Self(0);

    /// Makes the entry of a vCPU that does not run.
    pub const fn stopped(backing_page: Hpa) -> Self {
        Self(Self::VALID | backing_page.raw() & ADDRESS)
    }

    /// Takes a raw entry.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the raw entry.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Returns the entry while the vCPU is on the CPU whose APIC ID is `host_apic_id`, or `None` if that does
    /// not fit: then the vCPU counts as not running, and is reached by an ordinary IPI of the host's.
    pub const fn running_on(self, host_apic_id: u32) -> Option<Self> {
        if host_apic_id as u64 > Self::HOST_APIC_ID {
            return None;
        }
        let page = self.0 & (Self::VALID | ADDRESS);
        Some(Self(page | Self::IS_RUNNING | host_apic_id as u64))
    }

    /// Returns the entry after the vCPU has left its CPU.
    pub const fn not_running(self) -> Self {
        Self(self.0 & (Self::VALID | ADDRESS))
    }

    /// Returns true if the entry is in use.
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Returns the APIC ID of the CPU that the vCPU runs on, if it does: where the doorbell is to ring.
    pub const fn host_apic_id(self) -> Option<u32> {
        if self.0 & Self::IS_RUNNING != 0 {
            Some((self.0 & Self::HOST_APIC_ID) as u32)
        } else {
            None
        }
    }

    /// Returns the address of the backing page.
    pub const fn backing_page(self) -> Hpa {
        Hpa::new(self.0 & ADDRESS)
    }
}

/// An entry of the logical APIC ID table: which APIC has a logical ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct LogicalEntry(u32);

impl LogicalEntry {
    /// Bit 31: the entry is valid.
    const VALID: u32 = 1 << 31;

    /// Nobody has this logical ID.
    pub const NONE: Self = Self(0);

    /// Makes the entry of the APIC with this physical ID.
    pub const fn new(apic_id: u8) -> Self {
        Self(Self::VALID | apic_id as u32)
    }

    /// Returns the raw entry.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// The logical APIC ID in LDR: bits 31:24.
const LDR_SHIFT: u32 = 24;
/// With the cluster model, its upper half is the cluster; 15 stands for all of them.
const CLUSTER_SHIFT: u32 = 4;
const CLUSTER_BROADCAST: u32 = 15;
/// Bits 31:28 of DFR: the model.
const DFR_MODEL_SHIFT: u32 = 28;
const DFR_MODEL_FLAT: u32 = 15;
/// Members of a cluster.
const CLUSTER_MEMBERS: u32 = 4;
const MEMBER_MASK: u32 = 0xf;

/// Returns the index in the logical APIC ID table of an APIC with these LDR and DFR, or `None` if the table has
/// no place for it: it has no logical ID, or several. An APIC of the second sort is reached by software only.
pub const fn logical_index(ldr: u32, dfr: u32) -> Option<usize> {
    let id = ldr >> LDR_SHIFT;
    let (first, member) = if dfr >> DFR_MODEL_SHIFT == DFR_MODEL_FLAT {
        (0, id)
    } else {
        let cluster = id >> CLUSTER_SHIFT;
        if cluster == CLUSTER_BROADCAST {
            return None;
        }
        (cluster * CLUSTER_MEMBERS, id & MEMBER_MASK)
    };
    if !member.is_power_of_two() {
        return None;
    }
    Some((first + member.trailing_zeros()) as usize)
}

/// How AVIC is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is not.
    Off,
    /// For memory accesses of the APIC's page.
    XApic,
    /// For MSRs.
    X2Apic,
}

impl Mode {
    /// The bits of V_INTR that this is about.
    pub const V_INTR_MASK: u64 = v_intr::AVIC_ENABLE | v_intr::X2AVIC_ENABLE;

    /// Returns what these bits must be.
    pub const fn v_intr(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::XApic => v_intr::AVIC_ENABLE,
            Self::X2Apic => v_intr::AVIC_ENABLE | v_intr::X2AVIC_ENABLE,
        }
    }
}

/// Returns the VMCB's field for the physical APIC ID table at `table`, of which entries up to `last` are valid.
/// `last` is at most [`LAST_PHYSICAL_ID`], with x2AVIC [`LAST_X2_PHYSICAL_ID`].
pub const fn physical_table(table: Hpa, last: u16, mode: Mode) -> u64 {
    let limit = match mode {
        Mode::X2Apic => LAST_X2_PHYSICAL_ID,
        _ => LAST_PHYSICAL_ID,
    };
    let last = if last < limit { last } else { limit };
    table.raw() & ADDRESS | last as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DFR_FLAT: u32 = u32::MAX;
    const DFR_CLUSTER: u32 = 0x0fff_ffff;

    /// Writes that AVIC serves by itself, stores and then leaves, or does not store.
    #[test]
    fn register_accesses_of_the_manual() {
        for (offset, service) in [
            (0x20, Service::Trap),
            (0x30, Service::Fault),
            (0x80, Service::Accelerated),
            (0x90, Service::Fault),
            (0xa0, Service::Fault),
            (0xb0, Service::Accelerated),
            (0xc0, Service::Trap),
            (0xd0, Service::Trap),
            (0xe0, Service::Trap),
            (0xf0, Service::Trap),
            (0x100, Service::Fault),
            (0x170, Service::Fault),
            (0x180, Service::Fault),
            (0x200, Service::Fault),
            (0x270, Service::Fault),
            (0x280, Service::Trap),
            (0x2f0, Service::Fault),
            (0x300, Service::Accelerated),
            (0x310, Service::Memory),
            (0x320, Service::Trap),
            (0x330, Service::Trap),
            (0x340, Service::Trap),
            (0x350, Service::Trap),
            (0x360, Service::Trap),
            (0x370, Service::Trap),
            (0x380, Service::Trap),
            (0x390, Service::Fault),
            (0x3e0, Service::Trap),
            (0x400, Service::Fault),
            (0xff0, Service::Fault),
        ] {
            assert_eq!(write_service(offset), service, "{offset:#x}");
        }
    }

    #[test]
    fn unserved_accesses_look_like_vmxs() {
        let write = 1 << 32;
        assert_eq!(no_acceleration(write | 0x380), Exit::ApicWrite(0x380));
        assert_eq!(no_acceleration(write | 0xb0), Exit::ApicWrite(0xb0));
        let access = |offset, kind| Exit::ApicAccess(ApicAccess { offset, kind });
        assert_eq!(
            no_acceleration(write | 0x30),
            access(0x30, ApicAccessKind::Write)
        );
        assert_eq!(no_acceleration(0x390), access(0x390, ApicAccessKind::Read));
        assert_eq!(no_acceleration(0x20), access(0x20, ApicAccessKind::Read));
        assert_eq!(
            no_acceleration(u64::MAX),
            access(0xff0, ApicAccessKind::Write)
        );
    }

    /// Reasons 0 to 4.
    #[test]
    fn incomplete_ipis() {
        let icr = 0x0300_0000_0000_40fb;
        let ipi = IncompleteIpi::new(icr, 1 << 32 | 3);
        assert_eq!(
            ipi,
            IncompleteIpi::NotRunning {
                icr: 0x40fb,
                icr_high: 0x0300_0000,
            }
        );
        assert_eq!(ipi.exit(), None, "it has been delivered");
        for reason in [0u64, 2, 3, 4] {
            let ipi = IncompleteIpi::new(icr, reason << 32 | 3);
            assert_eq!(ipi, IncompleteIpi::NotSent);
            assert_eq!(ipi.exit(), Some(Exit::ApicWrite(0x300)));
        }
    }

    #[test]
    fn physical_entries() {
        let stopped = PhysicalEntry::stopped(Hpa::new(0x1234_5000));
        assert_eq!(stopped.raw(), 0x8000_0000_1234_5000);
        assert!(stopped.is_valid());
        assert_eq!(stopped.host_apic_id(), None);
        let running = stopped.running_on(0xfff).unwrap();
        assert_eq!(running.raw(), 0xc000_0000_1234_5fff);
        assert_eq!(running.host_apic_id(), Some(0xfff));
        assert_eq!(running.backing_page(), Hpa::new(0x1234_5000));
        assert_eq!(running.running_on(1).unwrap().host_apic_id(), Some(1));
        assert_eq!(running.not_running(), stopped);
        assert_eq!(stopped.running_on(0x1000), None);
        assert!(!PhysicalEntry::NONE.is_valid());
        assert_eq!(PhysicalEntry::from_raw(running.raw()), running);
    }

    #[test]
    fn logical_entries() {
        assert_eq!(LogicalEntry::NONE.raw(), 0);
        assert_eq!(LogicalEntry::new(0xfe).raw(), 0x8000_00fe);
        assert_eq!(logical_index(0x0100_0000, DFR_FLAT), Some(0));
        assert_eq!(logical_index(0x8000_0000, DFR_FLAT), Some(7));
        assert_eq!(logical_index(0, DFR_FLAT), None);
        assert_eq!(logical_index(0x0300_0000, DFR_FLAT), None);
        assert_eq!(logical_index(0x0100_0000, DFR_CLUSTER), Some(0));
        assert_eq!(logical_index(0x1800_0000, DFR_CLUSTER), Some(7));
        assert_eq!(logical_index(0xe800_0000, DFR_CLUSTER), Some(59));
        assert_eq!(logical_index(0xf100_0000, DFR_CLUSTER), None);
        assert_eq!(logical_index(0x1000_0000, DFR_CLUSTER), None);
        assert_eq!(logical_index(0x1300_0000, DFR_CLUSTER), None);
    }

    /// No APIC has an index outside the table, and no two logical IDs share one.
    #[test]
    fn logical_indices_are_unique() {
        for dfr in [DFR_FLAT, DFR_CLUSTER] {
            let mut seen = [false; LOGICAL_ENTRIES];
            for id in 0..=0xff {
                if let Some(index) = logical_index(id << 24, dfr) {
                    assert!(!seen[index]);
                    seen[index] = true;
                }
            }
        }
    }

    #[test]
    fn fields_of_the_vmcb() {
        assert_eq!(Mode::Off.v_intr(), 0);
        assert_eq!(Mode::XApic.v_intr(), 1 << 31);
        assert_eq!(Mode::X2Apic.v_intr(), 3 << 30);
        assert_eq!(Mode::V_INTR_MASK, 3 << 30);
        let table = Hpa::new(0xabc_d000);
        assert_eq!(physical_table(table, 3, Mode::XApic), 0xabc_d003);
        assert_eq!(physical_table(table, 0x1ff, Mode::XApic), 0xabc_d0fe);
        assert_eq!(physical_table(table, 0xfff, Mode::X2Apic), 0xabc_d1ff);
    }
}
