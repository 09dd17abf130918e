// SPDX-License-Identifier: GPL-2.0-only

//! Which events and instructions leave the guest (APM vol. 2, section 15.9 and table B-1, offsets 000h to 017h).

use super::caps::Features;
use crate::model::x86::vector;

/// Words of intercept bits.
pub const WORDS: usize = 6;

/// An intercept: a bit number, 32 for each word of the VMCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Intercept(u8);

impl Intercept {
    /// Physical interrupts.
    pub const INTR: Self = Self::word(3, 0);
    /// Physical NMIs.
    pub const NMI: Self = Self::word(3, 1);
    /// System-management interrupts.
    pub const SMI: Self = Self::word(3, 2);
    /// INIT signals.
    pub const INIT: Self = Self::word(3, 3);
    /// Virtual interrupts, before one is taken: the interrupt window.
    pub const VINTR: Self = Self::word(3, 4);
    /// Writes of CR0 that change more than TS and MP.
    pub const CR0_SEL_WRITE: Self = Self::word(3, 5);
    /// SIDT.
    pub const IDTR_READ: Self = Self::word(3, 6);
    /// SGDT.
    pub const GDTR_READ: Self = Self::word(3, 7);
    /// SLDT.
    pub const LDTR_READ: Self = Self::word(3, 8);
    /// STR.
    pub const TR_READ: Self = Self::word(3, 9);
    /// LIDT.
    pub const IDTR_WRITE: Self = Self::word(3, 10);
    /// LGDT.
    pub const GDTR_WRITE: Self = Self::word(3, 11);
    /// LLDT.
    pub const LDTR_WRITE: Self = Self::word(3, 12);
    /// LTR.
    pub const TR_WRITE: Self = Self::word(3, 13);
    /// RDTSC.
    pub const RDTSC: Self = Self::word(3, 14);
    /// RDPMC.
    pub const RDPMC: Self = Self::word(3, 15);
    /// PUSHF.
    pub const PUSHF: Self = Self::word(3, 16);
    /// POPF.
    pub const POPF: Self = Self::word(3, 17);
    /// CPUID.
    pub const CPUID: Self = Self::word(3, 18);
    /// RSM.
    pub const RSM: Self = Self::word(3, 19);
    /// IRET: the end of an NMI's handler.
    pub const IRET: Self = Self::word(3, 20);
    /// INT n.
    pub const SWINT: Self = Self::word(3, 21);
    /// INVD.
    pub const INVD: Self = Self::word(3, 22);
    /// PAUSE, or a loop of them with the PAUSE filter.
    pub const PAUSE: Self = Self::word(3, 23);
    /// HLT.
    pub const HLT: Self = Self::word(3, 24);
    /// INVLPG.
    pub const INVLPG: Self = Self::word(3, 25);
    /// INVLPGA.
    pub const INVLPGA: Self = Self::word(3, 26);
    /// I/O instructions, where the I/O permission map says so.
    pub const IOIO_PROT: Self = Self::word(3, 27);
    /// RDMSR and WRMSR, where the MSR permission map says so.
    pub const MSR_PROT: Self = Self::word(3, 28);
    /// Task switches.
    pub const TASK_SWITCH: Self = Self::word(3, 29);
    /// The processor freezes for a legacy floating-point error.
    pub const FERR_FREEZE: Self = Self::word(3, 30);
    /// The guest shuts down.
    pub const SHUTDOWN: Self = Self::word(3, 31);
    /// VMRUN. VMRUN itself refuses a VMCB without this bit.
    pub const VMRUN: Self = Self::word(4, 0);
    /// VMMCALL.
    pub const VMMCALL: Self = Self::word(4, 1);
    /// VMLOAD.
    pub const VMLOAD: Self = Self::word(4, 2);
    /// VMSAVE.
    pub const VMSAVE: Self = Self::word(4, 3);
    /// STGI.
    pub const STGI: Self = Self::word(4, 4);
    /// CLGI.
    pub const CLGI: Self = Self::word(4, 5);
    /// SKINIT.
    pub const SKINIT: Self = Self::word(4, 6);
    /// RDTSCP.
    pub const RDTSCP: Self = Self::word(4, 7);
    /// INT1, also known as ICEBP.
    pub const ICEBP: Self = Self::word(4, 8);
    /// WBINVD and WBNOINVD.
    pub const WBINVD: Self = Self::word(4, 9);
    /// MONITOR and MONITORX.
    pub const MONITOR: Self = Self::word(4, 10);
    /// MWAIT and MWAITX.
    pub const MWAIT: Self = Self::word(4, 11);
    /// MWAIT and MWAITX while the monitor is armed.
    pub const MWAIT_CONDITIONAL: Self = Self::word(4, 12);
    /// XSETBV.
    pub const XSETBV: Self = Self::word(4, 13);
    /// RDPRU.
    pub const RDPRU: Self = Self::word(4, 14);
    /// INVLPGB.
    pub const INVLPGB: Self = Self::word(5, 0);
    /// INVLPGB with operands that are not allowed.
    pub const INVLPGB_ILLEGAL: Self = Self::word(5, 1);
    /// INVPCID.
    pub const INVPCID: Self = Self::word(5, 2);
    /// MCOMMIT.
    pub const MCOMMIT: Self = Self::word(5, 3);
    /// TLBSYNC.
    pub const TLBSYNC: Self = Self::word(5, 4);
    /// Bus locks, after a number of them.
    pub const BUS_LOCK: Self = Self::word(5, 5);
    /// HLT without a virtual interrupt pending.
    pub const IDLE_HLT: Self = Self::word(5, 6);

    const fn word(word: u8, bit: u8) -> Self {
        Self(word * 32 + bit)
    }

    /// MOV from control register `n`, of which bits 3:0 count; for CR0, SMSW too.
    pub const fn cr_read(n: u8) -> Self {
        Self::word(0, n & 0xf)
    }

    /// MOV to control register `n`, of which bits 3:0 count; for CR0, CLTS and LMSW too.
    pub const fn cr_write(n: u8) -> Self {
        Self::word(0, 16 + (n & 0xf))
    }

    /// MOV from debug register `n`, of which bits 3:0 count.
    pub const fn dr_read(n: u8) -> Self {
        Self::word(1, n & 0xf)
    }

    /// MOV to debug register `n`, of which bits 3:0 count.
    pub const fn dr_write(n: u8) -> Self {
        Self::word(1, 16 + (n & 0xf))
    }

    /// The exception with this vector, of which bits 4:0 count.
    pub const fn exception(vector: u8) -> Self {
        Self::word(2, vector & 0x1f)
    }

    /// Returns the index of the word and the bit in it.
    const fn place(self) -> (usize, u32) {
        ((self.0 / 32) as usize, 1 << (self.0 % 32))
    }
}

/// A set of intercepts: the six words of the VMCB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intercepts([u32; WORDS]);

/// Debug registers that exist: 0 to 7, reads in the low half of the word and writes in the high one.
const ALL_DEBUG_REGISTERS: u32 = 0x00ff_00ff;

/// What a guest may do without an exit, beyond what each may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestMay {
    /// Execute INVPCID.
    pub invpcid: bool,
    /// Execute RDTSCP.
    pub rdtscp: bool,
}

/// What leaves every guest. INIT and SMI are the host's. INVD would drop what the host has in its caches;
/// FERR_FREEZE keeps a guest with CR0.NE clear from stopping the processor. #AC and #DB would let a guest
/// hang the processor in endless delivery, and #MC is the host's.
const ALWAYS: [Intercept; 32] = [
    Intercept::INTR,
    Intercept::NMI,
    Intercept::SMI,
    Intercept::INIT,
    Intercept::CR0_SEL_WRITE,
    Intercept::cr_write(4),
    Intercept::RDPMC,
    Intercept::CPUID,
    Intercept::INVD,
    Intercept::HLT,
    Intercept::INVLPGA,
    Intercept::IOIO_PROT,
    Intercept::MSR_PROT,
    Intercept::TASK_SWITCH,
    Intercept::FERR_FREEZE,
    Intercept::SHUTDOWN,
    Intercept::VMRUN,
    Intercept::VMMCALL,
    Intercept::VMLOAD,
    Intercept::VMSAVE,
    Intercept::STGI,
    Intercept::CLGI,
    Intercept::SKINIT,
    Intercept::WBINVD,
    Intercept::MONITOR,
    Intercept::MWAIT,
    Intercept::MWAIT_CONDITIONAL,
    Intercept::XSETBV,
    Intercept::RDPRU,
    Intercept::exception(vector::DB),
    Intercept::exception(vector::AC),
    Intercept::exception(vector::MC),
];

impl Intercepts {
    /// Nothing.
    pub const NONE: Self = Self([0; WORDS]);

    /// Takes the words of a VMCB.
    #[inline]
    pub const fn from_words(words: [u32; WORDS]) -> Self {
        Self(words)
    }

    /// Returns the words for a VMCB.
    #[inline]
    pub const fn words(&self) -> [u32; WORDS] {
        self.0
    }

    /// Adds an intercept.
    #[inline]
    pub const fn set(&mut self, intercept: Intercept) {
        let (word, bit) = intercept.place();
        if word < WORDS {
            self.0[word] |= bit;
        }
    }

    /// Takes an intercept away.
    #[inline]
    pub const fn clear(&mut self, intercept: Intercept) {
        let (word, bit) = intercept.place();
        if word < WORDS {
            self.0[word] &= !bit;
        }
    }

    /// Adds or takes away an intercept, and returns true if that changes the set.
    #[inline]
    pub fn assign(&mut self, intercept: Intercept, on: bool) -> bool {
        let old = self.contains(intercept);
        if on {
            self.set(intercept);
        } else {
            self.clear(intercept);
        }
        old != on
    }

    /// Returns true if the intercept is in the set.
    #[inline]
    pub const fn contains(&self, intercept: Intercept) -> bool {
        let (word, bit) = intercept.place();
        word < WORDS && self.0[word] & bit != 0
    }

    /// Adds the accesses of every debug register, or takes them away while the guest owns the registers.
    #[inline]
    pub const fn set_debug_registers(&mut self, on: bool) {
        self.0[1] = if on { ALL_DEBUG_REGISTERS } else { 0 };
    }

    /// Returns the smallest set that a guest needs.
    ///
    /// It has no RDTSC (the offset and the ratio see to it), no INVLPG and no CR3 (the guest's page tables
    /// are its own), and of CR0 only the writes that change more than TS and MP. What comes and goes while
    /// the guest runs: the interrupt window, IRET, CR8, reads of CR0 and CR4, debug registers, exceptions.
    pub const fn minimal(features: &Features, guest: GuestMay) -> Self {
        let mut set = Self::NONE;
        let mut i = 0;
        while i < ALWAYS.len() {
            set.set(ALWAYS[i]);
            i += 1;
        }
        set.set_debug_registers(true);
        if features.pause_filter {
            set.set(Intercept::PAUSE);
        }
        if !guest.invpcid {
            set.set(Intercept::INVPCID);
        }
        if !guest.rdtscp {
            set.set(Intercept::RDTSCP);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table B-1: words at 000h to 014h.
    #[test]
    fn layout_of_the_manual() {
        for (intercept, word, bit) in [
            (Intercept::cr_read(0), 0, 0),
            (Intercept::cr_read(8), 0, 8),
            (Intercept::cr_write(0), 0, 16),
            (Intercept::cr_write(4), 0, 20),
            (Intercept::cr_write(15), 0, 31),
            (Intercept::dr_read(7), 1, 7),
            (Intercept::dr_write(7), 1, 23),
            (Intercept::exception(14), 2, 14),
            (Intercept::exception(31), 2, 31),
            (Intercept::INTR, 3, 0),
            (Intercept::VINTR, 3, 4),
            (Intercept::CR0_SEL_WRITE, 3, 5),
            (Intercept::CPUID, 3, 18),
            (Intercept::IRET, 3, 20),
            (Intercept::HLT, 3, 24),
            (Intercept::IOIO_PROT, 3, 27),
            (Intercept::MSR_PROT, 3, 28),
            (Intercept::SHUTDOWN, 3, 31),
            (Intercept::VMRUN, 4, 0),
            (Intercept::RDTSCP, 4, 7),
            (Intercept::ICEBP, 4, 8),
            (Intercept::WBINVD, 4, 9),
            (Intercept::XSETBV, 4, 13),
            (Intercept::RDPRU, 4, 14),
            (Intercept::INVPCID, 5, 2),
            (Intercept::IDLE_HLT, 5, 6),
        ] {
            let mut words = [0; WORDS];
            words[word] = 1 << bit;
            let mut set = Intercepts::NONE;
            assert!(set.assign(intercept, true));
            assert!(!set.assign(intercept, true), "no change");
            assert_eq!(set.words(), words, "{intercept:?}");
            assert!(Intercepts::from_words(words).contains(intercept));
            assert!(set.assign(intercept, false));
            assert_eq!(set, Intercepts::NONE);
        }
    }

    #[test]
    fn minimal_set() {
        let may = GuestMay {
            invpcid: true,
            rdtscp: true,
        };
        let set = Intercepts::minimal(&Features::default(), may);
        assert_eq!(
            set.words(),
            [
                1 << 20,
                0x00ff_00ff,
                1 << 1 | 1 << 17 | 1 << 18,
                0xfd44_802f,
                0x7e7f,
                0
            ]
        );
        for intercept in [
            Intercept::RDTSC,
            Intercept::INVLPG,
            Intercept::cr_read(3),
            Intercept::cr_write(3),
            Intercept::cr_read(0),
            Intercept::cr_write(0),
            Intercept::cr_write(8),
            Intercept::PAUSE,
            Intercept::VINTR,
            Intercept::IRET,
            Intercept::exception(vector::PF),
        ] {
            assert!(!set.contains(intercept), "{intercept:?}");
        }
    }

    #[test]
    fn guests_without_an_instruction_exit_by_it() {
        let features = Features {
            pause_filter: true,
            ..Features::default()
        };
        let set = Intercepts::minimal(&features, GuestMay::default());
        for intercept in [Intercept::INVPCID, Intercept::RDTSCP, Intercept::PAUSE] {
            assert!(set.contains(intercept));
        }
    }

    #[test]
    fn debug_registers_are_eight() {
        let mut set = Intercepts::NONE;
        set.set_debug_registers(true);
        for n in 0..16 {
            assert_eq!(set.contains(Intercept::dr_read(n)), n < 8);
            assert_eq!(set.contains(Intercept::dr_write(n)), n < 8);
        }
        set.set_debug_registers(false);
        assert_eq!(set, Intercepts::NONE);
    }
}
