// SPDX-License-Identifier: GPL-2.0-only

//! What the shared code and a backend say to each other.

use crate::model::{
    exit::{
        Event,
        Exit, //
    },
    x86::{
        SegReg,
        Segment, //
    }, //
};

/// A segment register, those of the system included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// One that instructions name.
    Seg(SegReg),
    /// The local descriptor table's.
    Ldtr,
    /// The task's.
    Tr,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableReg {
    /// The global table's.
    Gdtr,
    /// The interrupt table's.
    Idtr,
}

/// What keeps events from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocking {
    /// RFLAGS.IF is set.
    pub(crate) interrupts_enabled: bool,
    /// The instruction after STI has not been executed.
    pub(crate) sti: bool,
    /// The instruction after MOV SS or POP SS has not been executed.
    pub(crate) mov_ss: bool,
    /// An NMI is being handled.
    pub(crate) nmi: bool,
}

/// What an entry needs besides the guest's registers.
pub(crate) struct Entry<'a> {
    /// An event to deliver first.
    pub(crate) inject: Option<&'a Event>,
    /// The generation of the VM's memory: another one than at the last entry makes old translations of
    /// guest-physical addresses invalid.
    pub(crate) tlb_generation: u64,
    /// The host's TSC at which the guest must be left, where the backend has such a timer.
    pub(crate) deadline: Option<u64>,
    /// The local APIC's task priority.
    pub(crate) tpr: u8,
    /// The priority class below which a write of CR8 must exit, for a pending interrupt.
    pub(crate) tpr_threshold: u8,
}

/// How the guest was left.
pub(crate) struct Left {
    /// Why.
    pub(crate) exit: Exit,
    /// The event whose delivery the exit cut short.
    pub(crate) vectored: Option<Event>,
}

/// What the instruction emulator begins with.
pub(crate) struct EmulationContext {
    pub(crate) rip: u64,
    pub(crate) rsp: u64,
    pub(crate) rflags: u64,
    pub(crate) segments: [Segment; SegReg::COUNT],
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    /// The linear address of the access that led to the exit, if there was one.
    pub(crate) linear: Option<u64>,
}
