// SPDX-License-Identifier: GPL-2.0-only

//! String instructions: REP, interruption, faults on the way, string I/O.

use super::*;

fn pc(source: u64, target: u64, count: u64) -> Pc {
    Pc::new(Mode::Long)
        .with(Gpr::Rsi, source)
        .with(Gpr::Rdi, target)
        .with(Gpr::Rcx, count)
}

fn pointers(pc: &Pc) -> (u64, u64, u64) {
    (
        pc.gpr[Gpr::Rsi.index()],
        pc.gpr[Gpr::Rdi.index()],
        pc.gpr[Gpr::Rcx.index()],
    )
}

#[test]
fn rep_stos_to_a_device() {
    let mut pc = pc(0, DEVICE, 3).with(Gpr::Rax, 0x0720);
    assert_eq!(pc.run(&[0xf3, 0x66, 0xab]), Ok(Done::Retired));
    let word = |n| Event::Write(DEVICE + n, vec![0x20, 0x07]);
    assert_eq!(pc.events, [word(0), word(2), word(4)]);
    assert_eq!(pointers(&pc), (0, DEVICE + 6, 0));
    assert_eq!(pc.rip, RAM + 0x8003);
}

#[test]
fn an_interrupt_ends_it_between_iterations() {
    let mut pc = pc(RAM, RAM + 0x100, 3);
    pc.ram[..3].copy_from_slice(b"abc");
    pc.interrupted = true;
    assert_eq!(pc.run(&[0xf3, 0xa4]), Ok(Done::Repeat));
    assert_eq!(pointers(&pc), (RAM + 1, RAM + 0x101, 2));
    assert_eq!(pc.rip, RAM + 0x8000);
    assert_eq!(pc.again(), Ok(Done::Repeat));
    assert_eq!(pc.again(), Ok(Done::Retired));
    assert_eq!(pointers(&pc), (RAM + 3, RAM + 0x103, 0));
    assert_eq!(pc.ram(RAM + 0x100, 3), b"abc");
}

#[test]
fn a_call_has_a_bounded_number_of_iterations() {
    let count = u64::from(string::MAX_ITERATIONS) + 10;
    let mut pc = pc(0, RAM, count);
    assert_eq!(pc.run(&[0xf3, 0xaa]), Ok(Done::Repeat));
    assert_eq!(pointers(&pc), (0, RAM + count - 10, 10));
    assert_eq!(pc.again(), Ok(Done::Retired));
}

#[test]
fn a_single_step_is_one_iteration() {
    let mut pc = pc(0, RAM, 3);
    pc.rflags |= rflags::TF;
    assert_eq!(pc.run(&[0xf3, 0xaa]), Ok(Done::Repeat));
    assert_eq!(pointers(&pc), (0, RAM + 1, 2));
}

#[test]
fn a_single_step_shows_no_flags_before_the_end() {
    let mut pc = pc(RAM, RAM + 0x100, 2);
    let before = pc.rflags | rflags::TF | rflags::STATUS;
    pc.rflags = before;
    pc.ram[0] = 1;
    pc.ram[0x100] = 1;
    assert_eq!(pc.run(&[0xf3, 0xa6]), Ok(Done::Repeat));
    assert_eq!(pc.rflags, before);
    assert_eq!(pc.again(), Ok(Done::Retired));
    assert_eq!(pc.rflags & rflags::STATUS, rflags::ZF | rflags::PF);
}

#[test]
fn each_operand_is_checked_when_its_turn_comes() {
    // A source beyond its segment, and a target that is not there: CMPS looks at the target first, MOVS last.
    let mut pc = pc(0x10, 0, 1);
    pc.mode = Mode::Protected32;
    pc.segments[SegReg::Ds.index()].limit = 0xf;
    let absent = Stop::Fault(Exception::page_fault(0, 0));
    assert_eq!(pc.run(&[0xa6]), Err(absent));
    assert_eq!(pc.run(&[0xa4]), Err(Stop::Fault(Exception::gp(0))));
    pc.gpr[Gpr::Rsi.index()] = 0;
    pc.segments[SegReg::Es.index()].ar &= !ar::WRITABLE;
    assert_eq!(pc.run(&[0xa4]), Err(absent));
}

#[test]
fn a_fault_keeps_the_iterations_before_it() {
    let mut pc = pc(RAM, RAM + 0xfff, 4);
    pc.ram[..4].copy_from_slice(b"wxyz");
    pc.read_only_from = RAM + 0x1001;
    let mut code = pc.clone();
    // The code is beyond the read-only part's start but only fetched.
    code.ram[0x8000..0x8002].copy_from_slice(&[0xf3, 0xa4]);
    code.rip = RAM + 0x8000;
    let fault = Stop::Fault(Exception::page_fault(RAM + 0x1001, pf::W));
    assert_eq!(code.again(), Err(fault));
    assert_eq!(pointers(&code), (RAM + 2, RAM + 0x1001, 2));
    assert_eq!(code.rip, RAM + 0x8000);
}

#[test]
fn rep_movs_from_a_device_asks_for_each() {
    let mut pc = pc(DEVICE, RAM, 2);
    assert_eq!(pc.run(&[0xf3, 0xa5]), Err(Stop::NeedUser));
    pc.answers.push(0x1111_1111);
    assert_eq!(pc.again(), Err(Stop::NeedUser));
    assert_eq!(pointers(&pc), (DEVICE + 4, RAM + 4, 1));
    pc.answers.push(0x2222_2222);
    assert_eq!(pc.again(), Ok(Done::Retired));
    assert_eq!(
        pc.events,
        [Event::Read(DEVICE, 4), Event::Read(DEVICE + 4, 4)]
    );
    assert_eq!(
        pc.ram(RAM, 8),
        [0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x22, 0x22]
    );
}

#[test]
fn comparisons_end_early() {
    let mut pc = pc(RAM, RAM + 0x100, 10);
    pc.ram[..4].copy_from_slice(b"abcd");
    pc.ram[0x100..0x104].copy_from_slice(b"abxd");
    assert_eq!(pc.run(&[0xf3, 0xa6]), Ok(Done::Retired));
    assert_eq!(pointers(&pc), (RAM + 3, RAM + 0x103, 7));
    assert_eq!(pc.rflags & rflags::ZF, 0);
    let mut pc = pc.with(Gpr::Rax, u64::from(b'd')).with(Gpr::Rdi, RAM);
    assert_eq!(pc.run(&[0xf2, 0xae]), Ok(Done::Retired));
    assert_eq!(pointers(&pc), (RAM + 3, RAM + 4, 3));
    assert_eq!(pc.rflags & rflags::ZF, rflags::ZF);
}

#[test]
fn a_fault_restores_the_flags_of_before() {
    let end = RAM + RAM_LEN as u64;
    let mut pc = pc(0, end - 2, 10).with(Gpr::Rax, 1);
    pc.rflags |= rflags::ZF | rflags::CF;
    let before = pc.rflags;
    let fault = Stop::Fault(Exception::page_fault(end, 0));
    assert_eq!(pc.run(&[0xf2, 0xae]), Err(fault));
    assert_eq!(pointers(&pc), (0, end, 8));
    assert_eq!(pc.rflags, before);
}

#[test]
fn a_count_of_zero_does_nothing() {
    let mut pc = pc(u64::MAX, u64::MAX, 0);
    assert_eq!(pc.run(&[0xf3, 0xa4]), Ok(Done::Retired));
    assert_eq!(pointers(&pc), (u64::MAX, u64::MAX, 0));
    // With 16-bit addresses only CX counts.
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rcx, 0x1_0000);
    assert_eq!(pc.run(&[0xf3, 0x67, 0xa4]), Ok(Done::Retired));
}

#[test]
fn address_size_limits_the_pointers() {
    let mut pc = Pc::new(Mode::Real)
        .with(Gpr::Rsi, 0xabcd_ffff)
        .with(Gpr::Rdi, 0x1234_0010);
    pc.ram[0xffff] = 0x42;
    assert_eq!(pc.run(&[0xa4]), Ok(Done::Retired));
    assert_eq!(pc.ram[0x10], 0x42);
    assert_eq!(pointers(&pc), (0xabcd_0000, 0x1234_0011, 0));
    // Downwards.
    pc.rflags |= rflags::DF;
    assert_eq!(pc.run(&[0xa4]), Ok(Done::Retired));
    assert_eq!(pointers(&pc), (0xabcd_ffff, 0x1234_0010, 0));
}

#[test]
fn the_source_segment_can_be_overridden_but_not_the_target() {
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rdi, 0x100);
    pc.segments[SegReg::Fs.index()].base = RAM;
    pc.segments[SegReg::Es.index()].base = RAM + 0x1000;
    pc.ram[0] = 0x42;
    assert_eq!(pc.run(&[0x64, 0xa4]), Ok(Done::Retired));
    assert_eq!(pc.ram(RAM + 0x1100, 1), [0x42]);
}

#[test]
fn string_output() {
    let mut pc = pc(RAM, 0, 3).with(Gpr::Rdx, 0x3f8);
    pc.ram[..3].copy_from_slice(b"ok\n");
    assert_eq!(pc.run(&[0xf3, 0x6e]), Ok(Done::Retired));
    let byte = |b| Event::Out(0x3f8, vec![b]);
    assert_eq!(pc.events, [byte(b'o'), byte(b'k'), byte(b'\n')]);
    assert_eq!(pointers(&pc), (RAM + 3, 0, 0));
}

#[test]
fn string_input_asks_for_each_and_tries_the_target_first() {
    let mut pc = pc(0, RAM, 2).with(Gpr::Rdx, 0x1f0);
    assert_eq!(pc.run(&[0xf3, 0x66, 0x6d]), Err(Stop::NeedUser));
    pc.answers.push(0xbeef);
    assert_eq!(pc.again(), Err(Stop::NeedUser));
    pc.answers.push(0xcafe);
    assert_eq!(pc.again(), Ok(Done::Retired));
    assert_eq!(pc.events, [Event::In(0x1f0, 2), Event::In(0x1f0, 2)]);
    assert_eq!(pc.ram(RAM, 4), [0xef, 0xbe, 0xfe, 0xca]);
    // A target that faults is found out before the port is read.
    let mut pc = pc.with(Gpr::Rcx, 1).with(Gpr::Rdi, RAM + RAM_LEN as u64);
    pc.events.clear();
    let fault = Stop::Fault(Exception::page_fault(RAM + RAM_LEN as u64, pf::W));
    assert_eq!(pc.run(&[0x6c]), Err(fault));
    assert_eq!(pc.events, []);
}
