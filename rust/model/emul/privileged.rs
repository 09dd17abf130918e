// SPDX-License-Identifier: GPL-2.0-only

//! What only system instructions, and transfers between segments, ask of the machine.

use super::Stop;
use crate::model::x86::{SegReg, Segment};

/// A register that holds the place of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableReg {
    /// The global descriptor table's.
    Gdtr,
    /// The interrupt descriptor table's.
    Idtr,
}

/// What such a register holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The linear address of the table.
    pub base: u64,
    /// The offset of its last byte.
    pub limit: u16,
}

/// A segment register that only system instructions name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemReg {
    /// The local descriptor table's.
    Ldtr,
    /// The task register.
    Tr,
}

/// What keeps interrupts away for one more instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadow {
    /// STI set RFLAGS.IF.
    Sti,
    /// SS was loaded: no single-step trap either.
    MovSs,
}

/// The instruction that raises an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// INT n.
    Int(u8),
    /// INT3.
    Int3,
    /// INTO.
    Into,
}

/// The part of a [`Machine`](super::Machine) that system instructions need.
///
/// What a machine does not have is refused, which is what the methods do that it does not define. Their
/// effects come after all accesses of memory, so that nothing has to be undone.
#[allow(
    unused_variables,
    reason = "the names say what a machine that has it gets"
)]
pub trait System {
    /// IA32_EFER.
    fn efer(&self) -> u64;

    /// Reads control register `n`.
    fn control(&mut self, n: u8) -> Result<u64, Stop> {
        Err(Stop::Unhandled)
    }

    /// Writes control register `n`; the machine checks `value`.
    fn set_control(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Reads debug register `n`. The machine checks whether it may be accessed.
    fn debug(&mut self, n: u8) -> Result<u64, Stop> {
        Err(Stop::Unhandled)
    }

    /// Writes debug register `n`; the machine checks that and `value`.
    fn set_debug(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Reads an MSR.
    fn msr(&mut self, index: u32) -> Result<u64, Stop> {
        Err(Stop::Unhandled)
    }

    /// Writes an MSR.
    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// CPUID: EAX, EBX, ECX and EDX.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        Err(Stop::Unhandled)
    }

    /// Reads a descriptor-table register.
    fn table(&mut self, reg: TableReg) -> Result<Table, Stop> {
        Err(Stop::Unhandled)
    }

    /// Writes a descriptor-table register.
    fn set_table(&mut self, reg: TableReg, table: Table) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Reads LDTR or TR.
    fn system_segment(&mut self, reg: SystemReg) -> Result<Segment, Stop> {
        Err(Stop::Unhandled)
    }

    /// Writes LDTR or TR.
    fn set_system_segment(&mut self, reg: SystemReg, segment: Segment) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Writes a segment register. The privilege level is that of SS.
    fn set_segment(&mut self, reg: SegReg, segment: Segment) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Reads memory for the processor itself, with the rights of privilege level 0 (a descriptor).
    fn read_implicit(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Replaces a byte of a descriptor atomically; `false` if it no longer was `old`.
    fn cmpxchg_implicit(&mut self, linear: u64, old: u8, new: u8) -> Result<bool, Stop> {
        Err(Stop::Unhandled)
    }

    /// INVLPG: forgets how `linear` translates.
    fn invalidate_page(&mut self, linear: u64) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// INVD or WBINVD.
    fn flush_caches(&mut self) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// HLT: stops after the instruction.
    fn halt(&mut self) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Delivers a software interrupt whose instruction ends at `next_rip`; the instruction is not
    /// retired, and the machine checks the gate.
    fn interrupt(&mut self, interrupt: Interrupt, next_rip: u64) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// Keeps interrupts away until after the next instruction; called after the present one was
    /// retired.
    fn set_shadow(&mut self, shadow: Shadow) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    /// IRET: NMIs are no longer blocked.
    fn end_nmi(&mut self) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }
}
