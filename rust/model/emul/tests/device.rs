// SPDX-License-Identifier: GPL-2.0-only

//! Device memory and ports: what userspace is asked for and told, and that nothing else happens twice.

use super::*;

const LONG: Mode = Mode::Long;

#[test]
fn a_read_asks_once_and_then_completes() {
    let mut pc = Pc::new(LONG)
        .with(Gpr::Rdi, DEVICE + 0x10)
        .with(Gpr::Rax, u64::MAX);
    assert_eq!(pc.run(&[0x8b, 0x07]), Err(Stop::NeedUser));
    assert_eq!(pc.events, [Event::Read(DEVICE + 0x10, 4)]);
    assert_eq!((pc.gpr[0], pc.rip), (u64::MAX, RAM + 0x8000));
    pc.answers.push(0x8765_4321);
    assert_eq!(pc.again(), Ok(Done::Retired));
    assert_eq!(pc.events.len(), 1);
    assert_eq!((pc.gpr[0], pc.rip), (0x8765_4321, RAM + 0x8002));
}

#[test]
fn a_write_is_posted() {
    let mut pc = Pc::new(LONG)
        .with(Gpr::Rdi, DEVICE)
        .with(Gpr::Rax, 0x1122_3344_5566_7788);
    assert_eq!(pc.run(&[0x66, 0x89, 0x07]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0x88, 0x67, 0x01]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0x48, 0x89, 0x07]), Ok(Done::Retired));
    let eight = 0x1122_3344_5566_7788u64.to_le_bytes().to_vec();
    let expected = [
        Event::Write(DEVICE, vec![0x88, 0x77]),
        Event::Write(DEVICE + 1, vec![0x77]),
        Event::Write(DEVICE, eight),
    ];
    assert_eq!(pc.events, expected);
}

#[test]
fn read_modify_write_reads_then_writes() {
    let mut pc = Pc::new(LONG).with(Gpr::Rdi, DEVICE);
    let or = [0x83, 0x0f, 0x40];
    assert_eq!(pc.run(&or), Err(Stop::NeedUser));
    pc.answers.push(0x8000_0001);
    assert_eq!(pc.again(), Ok(Done::Retired));
    let expected = [
        Event::Read(DEVICE, 4),
        Event::Write(DEVICE, vec![0x41, 0, 0, 0x80]),
    ];
    assert_eq!(pc.events, expected);
    assert_eq!(pc.rflags & rflags::SF, rflags::SF);
}

#[test]
fn two_reads_are_asked_in_order() {
    let mut pc = Pc::new(LONG)
        .with(Gpr::Rsi, DEVICE)
        .with(Gpr::Rdi, DEVICE + 0x100);
    let cmps = [0xa7];
    assert_eq!(pc.run(&cmps), Err(Stop::NeedUser));
    pc.answers.push(5);
    assert_eq!(pc.again(), Err(Stop::NeedUser));
    assert_eq!(pc.gpr[Gpr::Rsi.index()], DEVICE);
    pc.answers.push(5);
    assert_eq!(pc.again(), Ok(Done::Retired));
    let expected = [Event::Read(DEVICE + 0x100, 4), Event::Read(DEVICE, 4)];
    assert_eq!(pc.events, expected);
    assert_eq!(pc.rflags & rflags::ZF, rflags::ZF);
    assert_eq!(pc.gpr[Gpr::Rdi.index()], DEVICE + 0x104);
}

#[test]
fn locked_instructions_repeat_when_the_race_is_lost() {
    for code in [
        &[0xf0, 0xff, 0x07][..],
        &[0x87, 0x07],
        &[0xf0, 0x0f, 0xc1, 0x07],
    ] {
        let mut pc = Pc::new(LONG).with(Gpr::Rdi, RAM).with(Gpr::Rax, 9);
        pc.ram[0] = 7;
        pc.races = 1;
        let before = pc.rflags;
        assert_eq!(pc.run(code), Ok(Done::Repeat));
        assert_eq!((pc.gpr[0], pc.ram[0], pc.rflags), (9, 7, before));
        assert_eq!(pc.rip, RAM + 0x8000);
        assert_eq!(pc.again(), Ok(Done::Retired));
        assert_ne!(pc.ram[0], 7);
    }
}

#[test]
fn a_fault_on_the_write_leaves_registers_and_flags() {
    let mut pc = Pc::new(LONG).with(Gpr::Rdi, RAM + 0x2000).with(Gpr::Rax, 1);
    pc.read_only_from = RAM + 0x2000;
    let before = (pc.gpr, pc.rflags);
    let fault = Stop::Fault(Exception::page_fault(RAM + 0x2000, pf::W));
    // ADD, XCHG, STOS, PUSH to a read-only place, CMPXCHG whose comparison fails.
    let codes: [&[u8]; 4] = [&[0x01, 0x07], &[0x87, 0x07], &[0xab], &[0x0f, 0xb1, 0x0f]];
    for code in codes {
        pc.read_only_from = u64::MAX;
        pc.run(&[0x90]).unwrap();
        pc.ram[0x8000..0x8000 + code.len()].copy_from_slice(code);
        pc.rip = RAM + 0x8000;
        pc.read_only_from = RAM + 0x2000;
        assert_eq!(pc.again(), Err(fault), "{code:02x?}");
        assert_eq!(
            (pc.gpr, pc.rflags, pc.rip),
            (before.0, before.1, RAM + 0x8000)
        );
    }
}

#[test]
fn ports() {
    let mut pc = Pc::new(LONG)
        .with(Gpr::Rdx, 0x1_03f8)
        .with(Gpr::Rax, 0xaabb_ccdd_1122_3344);
    assert_eq!(pc.run(&[0xee]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0x66, 0xe7, 0x80]), Ok(Done::Retired));
    assert_eq!(pc.run(&[0xec]), Err(Stop::NeedUser));
    pc.answers.push(0x60);
    assert_eq!(pc.again(), Ok(Done::Retired));
    let expected = [
        Event::Out(0x3f8, vec![0x44]),
        Event::Out(0x80, vec![0x44, 0x33]),
        Event::In(0x3f8, 1),
    ];
    assert_eq!(pc.events, expected);
    assert_eq!(pc.gpr[0], 0xaabb_ccdd_1122_3360);
}

#[test]
fn vector_moves_reach_devices() {
    let mut pc = Pc::new(LONG).with(Gpr::Rdi, DEVICE);
    pc.vector[1] = [0x11; 32];
    assert_eq!(pc.run(&[0x0f, 0x11, 0x0f]), Ok(Done::Retired));
    assert_eq!(pc.events, [Event::Write(DEVICE, vec![0x11; 16])]);
    // Disabled, or switched to another task.
    pc.cr0 |= cr0::TS;
    assert_eq!(
        pc.run(&[0x0f, 0x11, 0x0f]),
        Err(Stop::Fault(Exception::nm()))
    );
    pc.cr4 = 0;
    assert_eq!(
        pc.run(&[0x0f, 0x11, 0x0f]),
        Err(Stop::Fault(Exception::ud()))
    );
    assert_eq!(
        pc.run(&[0xc5, 0xf8, 0x11, 0x0f]),
        Err(Stop::Fault(Exception::ud()))
    );
}

#[test]
fn what_is_not_known_is_refused() {
    let codes: [&[u8]; 7] = [
        &[0x0f, 0x05],
        &[0x0f, 0x31],
        &[0xd9, 0x07],
        &[0x48, 0xff, 0x1f],
        &[0x0f, 0x6f, 0x07],
        &[0x66, 0xe8, 0, 0, 0, 0],
        &[0xc8, 0, 0, 1],
    ];
    for code in codes {
        let mut pc = Pc::new(LONG).with(Gpr::Rdi, RAM);
        assert_eq!(pc.run(code), Err(Stop::Unhandled), "{code:02x?}");
        assert_eq!(pc.rip, RAM + 0x8000);
    }
    let mut pc = Pc::new(Mode::Virtual8086);
    pc.segments = [Segment::real_mode(0x1000); 6];
    assert_eq!(pc.run(&[0x89, 0x07]), Err(Stop::Unhandled));
}
