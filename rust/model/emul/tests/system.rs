// SPDX-License-Identifier: GPL-2.0-only

//! System instructions, and what the machine keeps for them.

use super::*;
use crate::model::x86::vector;
use std::collections::BTreeMap;

/// System registers; what was done to the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Registers {
    pub(super) gdt: Table,
    pub(super) idt: Table,
    pub(super) ldt: Segment,
    pub(super) tr: Segment,
    pub(super) ia32e: bool,
    control: BTreeMap<u8, u64>,
    debug: BTreeMap<u8, u64>,
    msr: BTreeMap<u32, u64>,
    pub(super) done: Vec<Effect>,
}

/// What a system instruction did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Effect {
    Invalidated(u64),
    Flushed,
    Halted,
    Interrupted(Interrupt, u64),
    Shadowed(Shadow),
    NmiEnded,
}

impl System for Pc {
    fn efer(&self) -> u64 {
        match self.mode == Mode::Long || self.system.ia32e {
            true => efer::LMA,
            false => 0,
        }
    }

    fn control(&mut self, n: u8) -> Result<u64, Stop> {
        self.system
            .control
            .get(&n)
            .copied()
            .ok_or(Stop::Fault(Exception::gp(0)))
    }

    fn set_control(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        self.system.control.insert(n, value);
        Ok(())
    }

    fn debug(&mut self, n: u8) -> Result<u64, Stop> {
        self.system
            .debug
            .get(&n)
            .copied()
            .ok_or(Stop::Fault(Exception::ud()))
    }

    fn set_debug(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        self.system.debug.insert(n, value);
        Ok(())
    }

    fn msr(&mut self, index: u32) -> Result<u64, Stop> {
        let value = self.system.msr.get(&index).copied();
        value.ok_or(Stop::Fault(Exception::gp(0)))
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        self.system.msr.insert(index, value);
        Ok(())
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        Ok([leaf, subleaf, 3, 4])
    }

    fn table(&mut self, reg: TableReg) -> Result<Table, Stop> {
        Ok(match reg {
            TableReg::Gdtr => self.system.gdt,
            TableReg::Idtr => self.system.idt,
        })
    }

    fn set_table(&mut self, reg: TableReg, table: Table) -> Result<(), Stop> {
        match reg {
            TableReg::Gdtr => self.system.gdt = table,
            TableReg::Idtr => self.system.idt = table,
        }
        Ok(())
    }

    fn system_segment(&mut self, reg: SystemReg) -> Result<Segment, Stop> {
        Ok(match reg {
            SystemReg::Ldtr => self.system.ldt,
            SystemReg::Tr => self.system.tr,
        })
    }

    fn set_system_segment(&mut self, reg: SystemReg, segment: Segment) -> Result<(), Stop> {
        match reg {
            SystemReg::Ldtr => self.system.ldt = segment,
            SystemReg::Tr => self.system.tr = segment,
        }
        Ok(())
    }

    fn set_segment(&mut self, reg: SegReg, segment: Segment) -> Result<(), Stop> {
        if reg == SegReg::Ss {
            self.cpl = segment.dpl();
        }
        self.segments[reg.index()] = segment;
        Ok(())
    }

    fn read_implicit(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        let fault = Stop::Fault(Exception::page_fault(linear, 0));
        let at = self.place(linear, buf.len()).ok_or(fault)?;
        buf.copy_from_slice(&self.ram[at..at + buf.len()]);
        Ok(())
    }

    fn cmpxchg_implicit(&mut self, linear: u64, old: u8, new: u8) -> Result<bool, Stop> {
        if self.races > 0 {
            self.races -= 1;
            return Ok(false);
        }
        let at = self.place(linear, 1).unwrap();
        assert_eq!(self.ram[at], old);
        self.ram[at] = new;
        Ok(true)
    }

    fn invalidate_page(&mut self, linear: u64) -> Result<(), Stop> {
        self.system.done.push(Effect::Invalidated(linear));
        Ok(())
    }

    fn flush_caches(&mut self) -> Result<(), Stop> {
        self.system.done.push(Effect::Flushed);
        Ok(())
    }

    fn halt(&mut self) -> Result<(), Stop> {
        self.system.done.push(Effect::Halted);
        Ok(())
    }

    fn interrupt(&mut self, interrupt: Interrupt, next_rip: u64) -> Result<(), Stop> {
        let effect = Effect::Interrupted(interrupt, next_rip);
        self.system.done.push(effect);
        Ok(())
    }

    fn set_shadow(&mut self, shadow: Shadow) -> Result<(), Stop> {
        self.system.done.push(Effect::Shadowed(shadow));
        Ok(())
    }

    fn end_nmi(&mut self) -> Result<(), Stop> {
        self.system.done.push(Effect::NmiEnded);
        Ok(())
    }
}

/// Where the tests keep data.
const DATA: u64 = RAM + 0x4000;

fn gp() -> Result<Done, Stop> {
    Err(Stop::Fault(Exception::gp(0)))
}

#[test]
fn control_and_debug_registers() {
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rax, 0x1234);
    assert_eq!(pc.run(&[0x0f, 0x22, 0xd8]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0x41, 0x0f, 0x20, 0xd8]), Ok(Done::Retired));
    assert_eq!(pc.gpr[8], 0x1234);
    assert_eq!(pc.run(&[0x44, 0x0f, 0x22, 0xc0]), Ok(Done::Retired));
    assert_eq!(pc.system.control[&8], 0x1234);
    assert_eq!(pc.run(&[0x0f, 0x23, 0xf8]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0x0f, 0x21, 0xfb]), Ok(Done::Retired));
    assert_eq!(pc.gpr[3], 0x1234);
    // The machine's own fault.
    let ud = Err(Stop::Fault(Exception::ud()));
    assert_eq!(pc.run(&[0x0f, 0x21, 0xe3]), ud);
    pc.cpl = 3;
    assert_eq!(pc.run(&[0x0f, 0x20, 0xd8]), gp());
}

#[test]
fn machine_status_word() {
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rax, 0xfff0);
    pc.cr0 = cr0::PE | cr0::TS | cr0::WP;
    // PE stays, TS and the rest follow the low four bits.
    assert_eq!(pc.run(&[0x0f, 0x01, 0xf0]), Ok(Done::Retired));
    assert_eq!(pc.system.control[&0], cr0::PE | cr0::WP);
    assert_eq!(pc.run(&[0x0f, 0x06]), Ok(Done::Retired));
    assert_eq!(pc.system.control[&0], cr0::PE | cr0::WP);
    assert_eq!(pc.run(&[0x0f, 0x01, 0xe3]), Ok(Done::Retired));
    assert_eq!(pc.gpr[3], pc.cr0);
    // Memory gets two bytes.
    pc.gpr[7] = DATA;
    pc.ram[0x4000..0x4004].fill(0xee);
    assert_eq!(pc.run(&[0x0f, 0x01, 0x27]), Ok(Done::Retired));
    assert_eq!(pc.ram(DATA, 4), [9, 0, 0xee, 0xee]);
    pc.cpl = 3;
    assert_eq!(pc.run(&[0x0f, 0x01, 0x27]), Ok(Done::Retired));
    pc.cr4 |= cr4::UMIP;
    assert_eq!(pc.run(&[0x0f, 0x01, 0x27]), gp());
    assert_eq!(pc.run(&[0x0f, 0x06]), gp());
}

#[test]
fn descriptor_tables() {
    for (mode, len) in [(Mode::Long, 10), (Mode::Protected32, 6)] {
        let mut pc = Pc::new(mode).with(Gpr::Rdi, DATA);
        pc.ram[0x4000..0x400a].copy_from_slice(&[0x7f, 0, 1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(pc.run(&[0x0f, 0x01, 0x17]), Ok(Done::Retired));
        let table = Table {
            base: 0x0403_0201,
            limit: 0x7f,
        };
        assert_eq!(pc.system.gdt, table);
        pc.gpr[7] = DATA + 0x100;
        assert_eq!(pc.run(&[0x0f, 0x01, 0x07]), Ok(Done::Retired));
        let stored = pc.ram(DATA + 0x100, len).to_vec();
        assert_eq!(stored, pc.ram(DATA, len));
    }
    // A 16-bit operand loads 24 bits.
    let mut pc = Pc::new(Mode::Protected16).with(Gpr::Rdi, DATA);
    pc.segments = [Segment::flat(0x10, pc.segments[3].ar & !ar::DB); 6];
    pc.ram[0x4000..0x4006].copy_from_slice(&[0x7f, 0, 1, 2, 3, 4]);
    assert_eq!(pc.run(&[0x67, 0x0f, 0x01, 0x1f]), Ok(Done::Retired));
    assert_eq!(pc.system.idt.base, 0x03_0201);
    // Not canonical.
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rdi, DATA);
    pc.ram[0x4000..0x400a].fill(0x80);
    assert_eq!(pc.run(&[0x0f, 0x01, 0x1f]), gp());
}

/// A task-state segment or local table at 0x1_2345_6000 in the table at [`DATA`].
fn system_descriptor(pc: &mut Pc, selector: usize, kind: u8) {
    let low = [0x67, 0, 0, 0x60, 0x45, kind, 0, 0x23];
    let at = 0x4000 + selector;
    pc.ram[at..at + 8].copy_from_slice(&low);
    pc.ram[at + 8..at + 16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    pc.system.gdt = Table {
        base: DATA,
        limit: 0xff,
    };
}

#[test]
fn task_register_and_local_table() {
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rax, 0x20);
    system_descriptor(&mut pc, 0x20, 0x89);
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd8]), Ok(Done::Retired));
    let expected = Segment {
        selector: 0x20,
        ar: 0x8b,
        base: 0x1_2345_6000,
        limit: 0x67,
    };
    assert_eq!(pc.system.tr, expected);
    // It is busy now.
    assert_eq!(pc.ram[0x4025], 0x8b);
    let busy = Err(Stop::Fault(Exception::gp(0x20)));
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd8]), busy);
    assert_eq!(pc.run(&[0x0f, 0x00, 0xcb]), Ok(Done::Retired));
    assert_eq!(pc.gpr[3], 0x20);

    pc.gpr[0] = 0x30;
    system_descriptor(&mut pc, 0x30, 0x02);
    let absent = Err(Stop::Fault(Exception::with_code(vector::NP, 0x30)));
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd0]), absent);
    system_descriptor(&mut pc, 0x30, 0x82);
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd0]), Ok(Done::Retired));
    assert_eq!(pc.system.ldt.base, 0x1_2345_6000);
    pc.gpr[0] = 0;
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd0]), Ok(Done::Retired));
    assert!(pc.system.ldt.is_unusable());
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd8]), gp());
    // Beyond the table, in the local table.
    for selector in [0xf8, 0x24] {
        pc.gpr[0] = selector;
        let fault = Err(Stop::Fault(Exception::gp(selector as u32)));
        assert_eq!(pc.run(&[0x0f, 0x00, 0xd8]), fault);
    }
    let mut pc = Pc::new(Mode::Real);
    let ud = Err(Stop::Fault(Exception::ud()));
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd8]), ud);
    assert_eq!(pc.run(&[0x0f, 0x00, 0xcb]), ud);
}

#[test]
fn a_lost_race_for_a_descriptor_is_tried_again() {
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rax, 0x20);
    system_descriptor(&mut pc, 0x20, 0x89);
    pc.races = 1;
    assert_eq!(pc.run(&[0x0f, 0x00, 0xd8]), Err(Stop::Retry));
    assert_eq!(pc.again(), Ok(Done::Retired));
}

#[test]
fn the_rest() {
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rdi, 0x5000);
    pc.segments[SegReg::Gs.index()].base = 0x100;
    assert_eq!(pc.run(&[0x65, 0x0f, 0x01, 0x3f]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0x0f, 0x09]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0xf4]), Ok(Done::Retired));
    let expected = [Effect::Invalidated(0x5100), Effect::Flushed, Effect::Halted];
    assert_eq!(pc.system.done, expected);
    pc.gpr[..4].copy_from_slice(&[!0 << 32 | 7, 0x1b, 8, 9]);
    assert_eq!(pc.run(&[0x0f, 0x30]), Ok(Done::Retired));
    assert_eq!(pc.system.msr[&0x1b], 8 << 32 | 7);
    assert_eq!(pc.run(&[0x0f, 0x32]), Ok(Done::Retired));
    assert_eq!((pc.gpr[0], pc.gpr[2]), (7, 8));
    pc.gpr[1] = 0x1c;
    assert_eq!(pc.run(&[0x0f, 0x32]), gp());
    assert_eq!(pc.run(&[0x0f, 0xa2]), Ok(Done::Retired));
    assert_eq!(pc.gpr[..4], [7, 3, 4, 0x1c]);
}

#[test]
fn interrupt_flag() {
    let mut pc = Pc::new(Mode::Long);
    assert_eq!(pc.run(&[0xfb]), Ok(Done::Retired));
    assert_eq!(pc.rflags & rflags::IF, rflags::IF);
    assert_eq!(pc.system.done, [Effect::Shadowed(Shadow::Sti)]);
    // Only the first STI has a shadow.
    assert_eq!(pc.run(&[0xfb]), Ok(Done::Retired));
    assert_eq!(pc.system.done.len(), 1);
    pc.cpl = 3;
    assert_eq!(pc.run(&[0xfa]), gp());
    pc.cr4 |= cr4::PVI;
    assert_eq!(pc.run(&[0xfa]), Err(Stop::Unhandled));
    pc.rflags |= rflags::IOPL;
    assert_eq!(pc.run(&[0xfa]), Ok(Done::Retired));
    assert_eq!(pc.rflags & rflags::IF, 0);
}
