// SPDX-License-Identifier: GPL-2.0-only

//! Branches within and between segments, and loads of segment registers.

use super::system::Effect;
use super::*;
use crate::model::x86::vector;

/// Where the global descriptor table is.
const GDT: u64 = RAM + 0x1000;

/// Selectors of what [`descriptors`] puts there.
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const USER_CODE: u16 = 0x1b;
const USER_DATA: u16 = 0x23;
const READ_ONLY: u16 = 0x28;
const ABSENT: u16 = 0x30;
const CONFORMING: u16 = 0x38;
const GATE: u16 = 0x40;

/// The stack of the tests.
const STACK: u64 = RAM + 0x2000;

/// A pointer in memory.
const POINTER: u64 = RAM + 0x3000;

fn descriptors(pc: &mut Pc) {
    // Bytes 5 and 6: type and rights, flags and upper limit; all others flat.
    let flags = match pc.mode {
        Mode::Long => 0xaf,
        _ => 0xcf,
    };
    let rights = [
        (CODE, 0x9a, flags),
        (DATA, 0x92, 0xcf),
        (USER_CODE, 0xfa, flags),
        (USER_DATA, 0xf2, 0xcf),
        (READ_ONLY, 0x90, 0xcf),
        (ABSENT, 0x1a, flags),
        (CONFORMING, 0x9e, flags),
        (GATE, 0x8c, 0),
    ];
    for (selector, kind, upper) in rights {
        let at = 0x1000 + usize::from(selector & !7);
        pc.ram[at..at + 8].copy_from_slice(&[0xff, 0xff, 0, 0, 0, kind, upper, 0]);
    }
    pc.system.gdt = Table {
        base: GDT,
        limit: 0x47,
    };
}

fn machine(mode: Mode) -> Pc {
    let mut pc = Pc::new(mode).with(Gpr::Rsp, STACK);
    descriptors(&mut pc);
    pc
}

/// Puts a far pointer with a 32-bit offset at [`POINTER`], and RDI there.
fn point(pc: &mut Pc, offset: u32, selector: u16) {
    pc.ram[0x3000..0x3004].copy_from_slice(&offset.to_le_bytes());
    pc.ram[0x3004..0x3006].copy_from_slice(&selector.to_le_bytes());
    pc.gpr[7] = POINTER;
}

fn push_all(pc: &mut Pc, size: usize, values: &[u64]) {
    for (n, value) in values.iter().enumerate() {
        let at = 0x2000 + n * size;
        pc.ram[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

fn fault(vector: u8, code: u16) -> Result<Done, Stop> {
    Err(Stop::Fault(Exception::with_code(vector, code.into())))
}

const RETIRED: Result<Done, Stop> = Ok(Done::Retired);

#[test]
fn far_jumps_check_the_segment() {
    for mode in [Mode::Protected32, Mode::Long] {
        let mut pc = machine(mode);
        point(&mut pc, 0x1234, CODE);
        assert_eq!(pc.run(&[0xff, 0x2f]), RETIRED);
        assert_eq!(pc.rip, 0x1234);
        let cs = pc.segments[SegReg::Cs.index()];
        assert_eq!((cs.selector, cs.ar & 0xff), (CODE, 0x9b));
        assert_eq!(cs.limit, u32::MAX);
        // Accessed, in the table too.
        assert_eq!(pc.ram[0x100d], 0x9b);
        let cases = [
            (0, fault(vector::GP, 0)),
            (DATA, fault(vector::GP, DATA)),
            (USER_CODE, fault(vector::GP, USER_CODE & !3)),
            (CODE | 3, fault(vector::GP, CODE)),
            (ABSENT, fault(vector::NP, ABSENT)),
            (0x48, fault(vector::GP, 0x48)),
            (GATE, Err(Stop::Unhandled)),
        ];
        for (selector, expected) in cases {
            point(&mut pc, 0x1234, selector);
            assert_eq!(pc.run(&[0xff, 0x2f]), expected, "{selector:#x} in {mode:?}");
        }
        // Conforming code keeps the privilege level, which shows in the selector.
        pc.cpl = 3;
        point(&mut pc, 0x5678, CONFORMING);
        assert_eq!(pc.run(&[0xff, 0x2f]), RETIRED);
        assert_eq!(pc.segments[SegReg::Cs.index()].selector, CONFORMING | 3);
    }
}

#[test]
fn far_calls_and_returns() {
    let mut pc = machine(Mode::Protected32);
    point(&mut pc, 0x1234, CODE);
    assert_eq!(pc.run(&[0xff, 0x1f]), RETIRED);
    assert_eq!((pc.rip, pc.gpr[4]), (0x1234, STACK - 8));
    let back = (RAM + 0x8002) as u32;
    assert_eq!(pc.ram(STACK - 8, 4), back.to_le_bytes());
    assert_eq!(pc.ram(STACK - 4, 4), [8, 0, 0, 0]);
    assert_eq!(pc.run(&[0xca, 0x10, 0]), RETIRED);
    assert_eq!((pc.rip, pc.gpr[4]), (back.into(), STACK + 0x10));
    // To an outer level: the stack comes along, and segments that it must not see go.
    let mut pc = machine(Mode::Protected32);
    let (cs, ss) = (u64::from(USER_CODE), u64::from(USER_DATA));
    push_all(&mut pc, 4, &[0x4000, cs, 0, 0, 0x9000, ss]);
    assert_eq!(pc.run(&[0xca, 8, 0]), RETIRED);
    assert_eq!((pc.rip, pc.gpr[4], pc.cpl), (0x4000, 0x9008, 3));
    assert_eq!(pc.segments[SegReg::Ss.index()].selector, USER_DATA);
    assert!(pc.segments[SegReg::Ds.index()].is_unusable());
    // A code segment that is not there.
    let mut pc = machine(Mode::Protected32);
    push_all(&mut pc, 4, &[0x4000, 0]);
    assert_eq!(pc.run(&[0xcb]), fault(vector::GP, 0));
    push_all(&mut pc, 4, &[0x4000, u64::from(GATE)]);
    assert_eq!(pc.run(&[0xcb]), fault(vector::GP, GATE));
    assert_eq!(pc.gpr[4], STACK);
}

#[test]
fn real_mode_branches() {
    let mut pc = Pc::new(Mode::Real);
    // jmp 2000:0010
    assert_eq!(pc.run(&[0xea, 0x10, 0, 0, 0x20]), RETIRED);
    let cs = pc.segments[SegReg::Cs.index()];
    assert_eq!((cs.selector, cs.base, pc.rip), (0x2000, 0x2_0000, 0x10));
    let mut pc = Pc::new(Mode::Real).with(Gpr::Rsp, 0x2000);
    assert_eq!(pc.run(&[0x9a, 0x10, 0, 0, 0x20]), RETIRED);
    assert_eq!(pc.ram(RAM + 0x1ffc, 4), [5, 0x80, 0, 0x10]);
    // iret to 3000:0040 with CF, IF and IOPL
    let mut pc = Pc::new(Mode::Real).with(Gpr::Rsp, 0x2000);
    push_all(&mut pc, 2, &[0x40, 0x3000, 0x3201]);
    assert_eq!(pc.run(&[0xcf]), RETIRED);
    assert_eq!((pc.rip, pc.gpr[4]), (0x40, 0x2006));
    assert_eq!(pc.rflags, 0x3203);
    assert_eq!(pc.system.done, [Effect::NmiEnded]);
    // Beyond the limit, which has no error code here.
    let gp = Err(Stop::Fault(Exception::new(vector::GP)));
    let mut pc = Pc::new(Mode::Real);
    assert_eq!(pc.run(&[0x66, 0xea, 0, 0, 1, 0, 0, 0x30]), gp);
}

#[test]
fn interrupts_are_the_machines() {
    let mut pc = machine(Mode::Long);
    let at = RAM + 0x8000;
    assert_eq!(pc.run(&[0xcd, 0x80]), RETIRED);
    assert_eq!(pc.run(&[0xcc]), RETIRED);
    let expected = [
        Effect::Interrupted(Interrupt::Int(0x80), at + 2),
        Effect::Interrupted(Interrupt::Int3, at + 1),
    ];
    assert_eq!(pc.system.done, expected);
    assert_eq!(pc.rip, at);
    let mut pc = machine(Mode::Protected32);
    assert_eq!(pc.run(&[0xce]), RETIRED);
    assert_eq!(pc.system.done, []);
    pc.rflags |= rflags::OF;
    assert_eq!(pc.run(&[0xce]), RETIRED);
    assert_eq!(
        pc.system.done,
        [Effect::Interrupted(Interrupt::Into, at + 1)]
    );
}

#[test]
fn iret_from_64_bit_code() {
    let flags = rflags::IF | rflags::RF | rflags::FIXED;
    let (cs, ss) = (u64::from(USER_CODE), u64::from(USER_DATA));
    let mut pc = machine(Mode::Long);
    push_all(&mut pc, 8, &[0x4000, cs, flags, 0x7fff_0000, ss]);
    assert_eq!(pc.run(&[0x48, 0xcf]), RETIRED);
    assert_eq!((pc.rip, pc.gpr[4], pc.cpl), (0x4000, 0x7fff_0000, 3));
    assert_eq!(pc.rflags, flags);
    // To itself, with a null stack segment.
    let mut pc = machine(Mode::Long);
    push_all(&mut pc, 8, &[0x4000, u64::from(CODE), 2, STACK, 0]);
    assert_eq!(pc.run(&[0x48, 0xcf]), RETIRED);
    assert!(pc.segments[SegReg::Ss.index()].is_unusable());
    // A null stack segment for user mode; an address that is not canonical; a nested task.
    push_all(&mut pc, 8, &[0x4000, cs, 2, STACK, 0]);
    pc.gpr[4] = STACK;
    assert_eq!(pc.run(&[0x48, 0xcf]), fault(vector::GP, 0));
    push_all(&mut pc, 8, &[1 << 63, cs, 2, STACK, ss]);
    assert_eq!(pc.run(&[0x48, 0xcf]), fault(vector::GP, 0));
    pc.rflags |= rflags::NT;
    assert_eq!(pc.run(&[0x48, 0xcf]), fault(vector::GP, 0));
    assert_eq!(pc.gpr[4], STACK);
}

#[test]
fn iret_from_32_bit_code() {
    let mut pc = machine(Mode::Protected32);
    push_all(&mut pc, 4, &[0x4000, u64::from(CODE), 0x3602]);
    assert_eq!(pc.run(&[0xcf]), RETIRED);
    assert_eq!((pc.rip, pc.gpr[4], pc.rflags), (0x4000, STACK + 12, 0x3602));
    // User mode changes neither IOPL nor IF.
    let mut pc = machine(Mode::Protected32);
    pc.cpl = 3;
    push_all(&mut pc, 4, &[0x4000, u64::from(USER_CODE), 0x3602]);
    assert_eq!(pc.run(&[0xcf]), RETIRED);
    assert_eq!(pc.rflags, 0x402);
    // Virtual-8086 mode and another task are refused.
    let mut pc = machine(Mode::Protected32);
    push_all(&mut pc, 4, &[0x4000, u64::from(CODE), rflags::VM]);
    assert_eq!(pc.run(&[0xcf]), Err(Stop::Unhandled));
    pc.rflags |= rflags::NT;
    assert_eq!(pc.run(&[0xcf]), Err(Stop::Unhandled));
}

#[test]
fn segment_loads() {
    let mut pc = machine(Mode::Protected32).with(Gpr::Rax, DATA.into());
    assert_eq!(pc.run(&[0x8e, 0xd8]), RETIRED);
    assert_eq!(pc.segments[SegReg::Ds.index()].ar & 0xff, 0x93);
    assert_eq!(pc.system.done, []);
    assert_eq!(pc.run(&[0x8e, 0xd0]), RETIRED);
    assert_eq!(pc.system.done, [Effect::Shadowed(Shadow::MovSs)]);
    let (gp, np) = (vector::GP, vector::NP);
    let cases = [
        (SegReg::Ds, 0u16, None),
        (SegReg::Ds, USER_DATA, None),
        (SegReg::Es, CODE, None),
        (SegReg::Es, DATA | 3, Some((gp, DATA))),
        (SegReg::Fs, GATE, Some((gp, GATE))),
        (SegReg::Gs, ABSENT, Some((np, ABSENT))),
        (SegReg::Ss, 0, Some((gp, 0))),
        (SegReg::Ss, CODE, Some((gp, CODE))),
        (SegReg::Ss, READ_ONLY, Some((gp, READ_ONLY))),
        (SegReg::Ss, USER_DATA, Some((gp, USER_DATA & !3))),
    ];
    for (reg, selector, expected) in cases {
        pc.gpr[0] = selector.into();
        let expected = match expected {
            None => RETIRED,
            Some((vector, code)) => fault(vector, code),
        };
        let found = pc.run(&[0x8e, 0xc0 | (reg as u8) << 3]);
        assert_eq!(found, expected, "{reg:?} {selector:#x}");
    }
    // CS, and registers that do not exist.
    for modrm in [0xc8, 0xf0, 0xf8] {
        let ud = Err(Stop::Fault(Exception::ud()));
        assert_eq!(pc.run(&[0x8e, modrm]), ud);
    }
    // In 64-bit mode SS may be null below privilege level 3, with that level.
    let mut pc = machine(Mode::Long);
    assert_eq!(pc.run(&[0x8e, 0xd0]), RETIRED);
    pc.gpr[0] = 1;
    assert_eq!(pc.run(&[0x8e, 0xd0]), fault(vector::GP, 0));
}

#[test]
fn far_pointers_and_the_stack() {
    let mut pc = machine(Mode::Protected32);
    point(&mut pc, 0xaabb_ccdd, DATA);
    // les eax, [edi]; lss; lfs
    for (code, reg) in [
        (&[0xc4u8, 0x07][..], SegReg::Es),
        (&[0x0f, 0xb2, 0x07], SegReg::Ss),
        (&[0x0f, 0xb4, 0x07], SegReg::Fs),
    ] {
        pc.gpr[0] = 0;
        assert_eq!(pc.run(code), RETIRED);
        assert_eq!(pc.gpr[0], 0xaabb_ccdd);
        assert_eq!(pc.segments[reg.index()].selector, DATA);
    }
    // push ds; pop es: 2 of the 4 bytes are written.
    pc.ram[0x1ffc..0x2000].fill(0xee);
    assert_eq!(pc.run(&[0x1e]), RETIRED);
    assert_eq!(pc.ram(STACK - 4, 4), [DATA as u8, 0, 0xee, 0xee]);
    assert_eq!(pc.run(&[0x07]), RETIRED);
    assert_eq!(pc.gpr[4], STACK);
    // Big real mode: the limit stays.
    let mut pc = Pc::new(Mode::Real).with(Gpr::Rax, 0x1800);
    pc.segments[SegReg::Ds.index()].limit = u32::MAX;
    assert_eq!(pc.run(&[0x8e, 0xd8]), RETIRED);
    let ds = pc.segments[SegReg::Ds.index()];
    assert_eq!((ds.base, ds.limit), (0x1_8000, u32::MAX));
}

#[test]
fn flags_from_the_stack() {
    let all = rflags::ALL | rflags::FIXED;
    let mut pc = machine(Mode::Long);
    push_all(&mut pc, 8, &[all]);
    assert_eq!(pc.run(&[0x9d]), RETIRED);
    let expected = all & !(rflags::RF | rflags::VM | rflags::VIF | rflags::VIP);
    assert_eq!(pc.rflags, expected);
    // User mode keeps IF and IOPL.
    let mut pc = machine(Mode::Long);
    pc.cpl = 3;
    push_all(&mut pc, 8, &[all]);
    assert_eq!(pc.run(&[0x9d]), RETIRED);
    assert_eq!(pc.rflags, expected & !(rflags::IF | rflags::IOPL));
    // What is pushed has neither VM nor RF.
    pc.rflags |= rflags::RF;
    pc.gpr[4] = STACK;
    assert_eq!(pc.run(&[0x9c]), RETIRED);
    let pushed = u64::from_le_bytes(pc.ram(STACK - 8, 8).try_into().unwrap());
    assert_eq!(pushed, pc.rflags & !rflags::RF);
}

/// Puts a data descriptor with a 16-bit limit in place of [`READ_ONLY`]'s.
fn limit_data(pc: &mut Pc, limit: u16, kind: u8, upper: u8) {
    let at = 0x1000 + usize::from(READ_ONLY);
    let [low, high] = limit.to_le_bytes();
    pc.ram[at..at + 8].copy_from_slice(&[low, high, 0, 0, 0, kind, upper, 0]);
}

#[test]
fn a_far_call_checks_the_offset_after_the_stack() {
    let mut pc = machine(Mode::Protected32);
    limit_data(&mut pc, 0xfff, 0x9a, 0x40);
    // An offset beyond the limit, and no room on the stack, or a stack that cannot be written.
    let call = [0x9a, 0, 0x10, 0, 0, READ_ONLY as u8, 0];
    assert_eq!(pc.run(&call), fault(vector::GP, 0));
    pc.read_only_from = STACK - 8;
    let page_fault = Stop::Fault(Exception::page_fault(STACK - 4, pf::W));
    assert_eq!(pc.run(&call), Err(page_fault));
    pc.segments[SegReg::Ss.index()].limit = 0xfff;
    assert_eq!(pc.run(&call), fault(vector::SS, 0));
}

#[test]
fn a_far_call_to_another_mode_uses_that_modes_stack() {
    // From 64-bit code to 32-bit code, whose stack segment has a base.
    let mut pc = machine(Mode::Long);
    limit_data(&mut pc, 0xffff, 0x9a, 0xcf);
    pc.segments[SegReg::Ss.index()].base = 0x100;
    point(&mut pc, 0x1234, READ_ONLY);
    assert_eq!(pc.run(&[0xff, 0x1f]), RETIRED);
    assert_eq!((pc.rip, pc.gpr[4]), (0x1234, STACK - 8));
    assert_eq!(pc.ram(STACK + 0x100 - 4, 2), [CODE as u8, 0]);
}

#[test]
fn returns_read_the_selector_first_and_no_more_than_it() {
    let mut pc = machine(Mode::Protected32);
    push_all(&mut pc, 4, &[0x1234, CODE.into(), 0x202]);
    // The selector's slot ends beyond the limit, the selector does not.
    pc.segments[SegReg::Ss.index()].limit = STACK as u32 + 5;
    assert_eq!(pc.run(&[0xcb]), RETIRED);
    assert_eq!(pc.rip, 0x1234);
    // The same with POP.
    pc.gpr[4] = STACK;
    push_all(&mut pc, 4, &[DATA.into()]);
    pc.segments[SegReg::Ss.index()].limit = STACK as u32 + 1;
    assert_eq!(pc.run(&[0x1f]), RETIRED);
    assert_eq!(pc.gpr[4], STACK + 4);
    // A misaligned frame that has no end is a fault of the stack: RFLAGS comes before the others.
    let mut pc = machine(Mode::Protected32).with(Gpr::Rsp, STACK + 1);
    (pc.cpl, pc.cr0) = (3, pc.cr0 | cr0::AM);
    pc.rflags |= rflags::AC;
    pc.segments[SegReg::Ss.index()].limit = STACK as u32 + 10;
    assert_eq!(pc.run(&[0xcf]), fault(vector::SS, 0));
}

#[test]
fn a_return_checks_the_offset_last_and_cuts_it() {
    // The stack segment's fault comes before that of the offset.
    let mut pc = machine(Mode::Long);
    push_all(
        &mut pc,
        8,
        &[1 << 50, CODE.into(), 0x202, STACK, READ_ONLY.into()],
    );
    assert_eq!(pc.run(&[0x48, 0xcf]), fault(vector::GP, READ_ONLY));
    push_all(
        &mut pc,
        8,
        &[1 << 50, CODE.into(), 0x202, STACK, DATA.into()],
    );
    assert_eq!(pc.run(&[0x48, 0xcf]), fault(vector::GP, 0));
    // 32-bit code has 32 bits of it.
    limit_data(&mut pc, 0xffff, 0x9a, 0xcf);
    push_all(&mut pc, 8, &[1 << 50 | 0x1234, READ_ONLY.into()]);
    assert_eq!(pc.run(&[0x48, 0xcb]), RETIRED);
    assert_eq!(pc.rip, 0x1234);
    // A bad selector is found before the stack pointer is read.
    let mut pc = machine(Mode::Long).with(Gpr::Rsp, RAM + RAM_LEN as u64 - 24);
    let at = RAM_LEN - 24;
    pc.ram[at..].fill(0);
    assert_eq!(pc.run(&[0x48, 0xcf]), fault(vector::GP, 0));
}

#[test]
fn a_short_iret_clears_rf() {
    let mut pc = machine(Mode::Protected32);
    pc.rflags |= rflags::RF;
    push_all(&mut pc, 2, &[0x1234, CODE.into(), 2]);
    assert_eq!(pc.run(&[0x66, 0xcf]), RETIRED);
    assert_eq!(pc.rflags & rflags::RF, 0);
}

#[test]
fn a_far_pointer_is_two_accesses() {
    let mut pc = machine(Mode::Protected16).with(Gpr::Rbx, 0xfffe);
    // Offset at the end of the segment, selector at its start.
    pc.segments[SegReg::Ds.index()].base = RAM;
    pc.ram[0xfffe..].copy_from_slice(&[0x34, 0x12]);
    pc.ram[..2].copy_from_slice(&DATA.to_le_bytes());
    assert_eq!(pc.run(&[0xc4, 0x07]), RETIRED);
    assert_eq!(pc.gpr[0], 0x1234);
    assert_eq!(pc.segments[SegReg::Es.index()].selector, DATA);
}

#[test]
fn bound_looks_at_the_upper_limit_last() {
    // Below the lower limit, which is the last value in memory.
    let mut pc = machine(Mode::Protected32).with(Gpr::Rdi, RAM + RAM_LEN as u64 - 4);
    pc.ram[RAM_LEN - 4..].copy_from_slice(&1u32.to_le_bytes());
    let out_of_range = Err(Stop::Fault(Exception::new(vector::BR)));
    assert_eq!(pc.run(&[0x62, 0x07]), out_of_range);
}

#[test]
fn an_outer_return_leaves_null_selectors_without_level() {
    let mut pc = machine(Mode::Protected32);
    let none = Segment {
        selector: 2,
        ar: ar::UNUSABLE,
        ..Segment::default()
    };
    pc.segments[SegReg::Fs.index()] = none;
    let frame = [0x1234, USER_CODE.into(), STACK, USER_DATA.into()];
    push_all(&mut pc, 4, &frame);
    assert_eq!(pc.run(&[0xcb]), RETIRED);
    assert_eq!(pc.segments[SegReg::Fs.index()].selector, 0);
}
