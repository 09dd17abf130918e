// SPDX-License-Identifier: GPL-2.0-only

//! Segments, limits, canonical addresses, alignment, and instruction fetch.

use super::*;
use crate::model::x86::vector;

const STORE: [u8; 2] = [0x89, 0x07];
const LOAD: [u8; 2] = [0x8b, 0x07];

fn gp() -> Result<Done, Stop> {
    Err(Stop::Fault(Exception::gp(0)))
}

fn ss() -> Result<Done, Stop> {
    Err(Stop::Fault(Exception::ss(0)))
}

#[test]
fn bases_and_limits_of_protected_mode() {
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rax, 0x1234);
    let ds = &mut pc.segments[SegReg::Ds.index()];
    (ds.base, ds.limit) = (RAM, 0xfff);
    pc.gpr[Gpr::Rdi.index()] = 0xffc;
    assert_eq!(pc.run(&STORE), Ok(Done::Retired));
    assert_eq!(pc.ram(RAM + 0xffc, 2), [0x34, 0x12]);
    pc.gpr[Gpr::Rdi.index()] = 0xffd;
    assert_eq!(pc.run(&STORE), gp());
    pc.gpr[Gpr::Rdi.index()] = 0xffff_ffff;
    assert_eq!(pc.run(&STORE), gp());
    // Linear addresses have 32 bits.
    pc.segments[SegReg::Ds.index()] = Segment {
        base: 0xffff_f000,
        ..Segment::flat(0x10, ar::P | ar::S | ar::WRITABLE)
    };
    pc.gpr[Gpr::Rdi.index()] = RAM + 0x1000;
    assert_eq!(pc.run(&STORE), Ok(Done::Retired));
    assert_eq!(pc.ram(RAM, 2), [0x34, 0x12]);
}

#[test]
fn types_of_protected_mode() {
    let present = ar::P | ar::S;
    let cases = [
        (present | ar::WRITABLE, true, true),
        (present, true, false),
        (present | ar::CODE | ar::READABLE, true, false),
        (present | ar::CODE, false, false),
        (present | ar::WRITABLE | ar::UNUSABLE, false, false),
    ];
    for (rights, readable, writable) in cases {
        let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rdi, RAM);
        pc.segments[SegReg::Ds.index()] = Segment::flat(0x10, rights);
        assert_eq!(pc.run(&LOAD).is_ok(), readable, "{rights:#x}");
        assert_eq!(pc.run(&STORE).is_ok(), writable, "{rights:#x}");
        // A read-modify-write needs both.
        assert_eq!(
            pc.run(&[0x01, 0x07]).is_ok(),
            readable && writable,
            "{rights:#x}"
        );
        assert_eq!(pc.run(&[0x39, 0x07]).is_ok(), readable, "{rights:#x}");
    }
}

#[test]
fn expand_down_segments() {
    let rights = ar::P | ar::S | ar::WRITABLE | ar::EXPAND_DOWN;
    for (db, offset, fine) in [
        (ar::DB, 0x1_0000, true),
        (ar::DB, 0xfff, false),
        (ar::DB, 0x1000, true),
        (0, 0x1000, true),
        (0, 0xfffc, true),
        (0, 0xfffd, false),
    ] {
        let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rdi, offset);
        let segment = &mut pc.segments[SegReg::Ds.index()];
        *segment = Segment::flat(0x10, rights | db);
        (segment.base, segment.limit) = (RAM - 0x1000, 0xfff);
        assert_eq!(pc.run(&LOAD).is_ok(), fine, "{db:#x} {offset:#x}");
    }
}

#[test]
fn the_stack_segment_has_its_own_fault() {
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rbp, 0x2000);
    pc.segments[SegReg::Ss.index()].limit = 0xfff;
    assert_eq!(pc.run(&[0x8b, 0x45, 0]), ss());
    // With another segment it is not the stack's.
    pc.segments[SegReg::Ds.index()].limit = 0xfff;
    assert_eq!(pc.run(&[0x3e, 0x8b, 0x45, 0]), gp());
    pc.gpr[Gpr::Rsp.index()] = 0x2000;
    assert_eq!(pc.run(&[0x50]), ss());
}

#[test]
fn canonical_addresses() {
    let bad = 0x0000_8000_0000_0000;
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rdi, bad).with(Gpr::Rbp, bad);
    assert_eq!(pc.run(&STORE), gp());
    assert_eq!(pc.run(&[0x8b, 0x45, 0]), ss());
    // The last byte counts too.
    pc.gpr[Gpr::Rdi.index()] = bad - 2;
    assert_eq!(pc.run(&STORE), gp());
    pc.gpr[Gpr::Rdi.index()] = bad;
    pc.cr4 |= cr4::LA57;
    assert_eq!(pc.run(&STORE), Ok(Done::Retired));
    // Only FS and GS have a base, and only it is not limited.
    pc.cr4 = 0;
    pc.gpr[Gpr::Rdi.index()] = 0;
    pc.segments[SegReg::Gs.index()].base = RAM;
    pc.segments[SegReg::Gs.index()].limit = 0;
    assert_eq!(pc.run(&[0x65, 0x89, 0x07]), Ok(Done::Retired));
}

#[test]
fn real_mode_faults_have_no_error_code() {
    let mut pc = Pc::new(Mode::Real).with(Gpr::Rbx, 0xffff);
    assert_eq!(
        pc.run(&[0x8b, 0x07]),
        Err(Stop::Fault(Exception::new(vector::GP)))
    );
    pc.gpr[Gpr::Rbp.index()] = 0xffff;
    assert_eq!(
        pc.run(&[0x8b, 0x46, 0]),
        Err(Stop::Fault(Exception::new(vector::SS)))
    );
    // Offsets wrap at 64 KiB.
    pc.gpr[Gpr::Rbx.index()] = 0xfff0;
    pc.ram[0] = 0x5a;
    assert_eq!(pc.run(&[0x8a, 0x47, 0x10]), Ok(Done::Retired));
    assert_eq!(pc.gpr[0] as u8, 0x5a);
    // Big real mode: a limit of 4 GiB and 32-bit addresses.
    pc.segments[SegReg::Ds.index()].limit = u32::MAX;
    pc.segments[SegReg::Ds.index()].base = 0;
    pc.gpr[Gpr::Rdi.index()] = DEVICE;
    assert_eq!(pc.run(&[0x67, 0x88, 0x07]), Ok(Done::Retired));
    assert_eq!(pc.events, [Event::Write(DEVICE, vec![0x5a])]);
}

#[test]
fn alignment_is_checked_for_users_that_ask() {
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rdi, RAM + 1);
    pc.rflags |= rflags::AC;
    pc.cr0 |= cr0::AM;
    assert_eq!(pc.run(&STORE), Ok(Done::Retired));
    pc.cpl = 3;
    assert_eq!(pc.run(&STORE), Err(Stop::Fault(Exception::ac())));
    assert_eq!(pc.run(&[0x88, 0x07]), Ok(Done::Retired));
    pc.gpr[Gpr::Rdi.index()] = RAM + 4;
    assert_eq!(pc.run(&STORE), Ok(Done::Retired));
}

#[test]
fn fetches_cross_pages_only_when_they_must() {
    let mov = [0xc7, 0x07, 0x78, 0x56, 0x34, 0x12];
    let mut pc = Pc::new(Mode::Long).with(Gpr::Rdi, RAM);
    for before in 1..8 {
        pc.ram[..4].fill(0);
        assert_eq!(pc.run_at(RAM + 0x5000 - before, &mov), Ok(Done::Retired));
        assert_eq!(pc.ram(RAM, 4), [0x78, 0x56, 0x34, 0x12]);
    }
    // The next page is not there: only a longer instruction notices.
    let end = RAM + RAM_LEN as u64;
    assert_eq!(pc.run_at(end - 6, &mov), Ok(Done::Retired));
    let fault = Stop::Fault(Exception::page_fault(end, pf::I));
    assert_eq!(pc.run_at(end - 5, &mov[..5]), Err(fault));
}

#[test]
fn fetches_end_at_the_code_limit() {
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rdi, RAM);
    pc.segments[SegReg::Cs.index()].limit = (RAM + 0x8001) as u32;
    assert_eq!(pc.run(&STORE), Ok(Done::Retired));
    assert_eq!(pc.run_at(RAM + 0x8001, &STORE), gp());
    assert_eq!(pc.run_at(RAM + 0x8002, &STORE), gp());
    // Fifteen bytes of prefixes.
    pc.segments[SegReg::Cs.index()].limit = u32::MAX;
    assert_eq!(pc.run(&[0x66; 16]), gp());
    // An architectural #UD.
    let ud = Err(Stop::Fault(Exception::ud()));
    assert_eq!(pc.run(&[0xf0, 0x39, 0x07]), ud);
    let mut pc = Pc::new(Mode::Long);
    pc.rip = 0x0000_8000_0000_0000;
    assert_eq!(pc.again(), gp());
}

#[test]
fn stack_width_is_the_stack_segments() {
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rsp, 0xabcd_0002);
    let stack = &mut pc.segments[SegReg::Ss.index()];
    stack.ar &= !ar::DB;
    stack.base = RAM - 0x8000;
    pc.gpr[0] = 0x1122_3344;
    pc.gpr[Gpr::Rsp.index()] = 0xabcd_9000;
    assert_eq!(pc.run(&[0x50]), Ok(Done::Retired));
    assert_eq!(pc.gpr[Gpr::Rsp.index()], 0xabcd_8ffc);
    assert_eq!(pc.ram(RAM + 0xffc, 4), [0x44, 0x33, 0x22, 0x11]);
    assert_eq!(pc.run(&[0x5b]), Ok(Done::Retired));
    assert_eq!(pc.gpr[Gpr::Rbx.index()], 0x1122_3344);
    assert_eq!(pc.gpr[Gpr::Rsp.index()], 0xabcd_9000);
    // POP to memory that ESP addresses uses the new ESP.
    let mut pc = Pc::new(Mode::Protected32).with(Gpr::Rsp, RAM);
    pc.ram[0] = 0x77;
    assert_eq!(pc.run(&[0x8f, 0x44, 0x24, 0x10]), Ok(Done::Retired));
    assert_eq!(pc.ram(RAM + 0x14, 1), [0x77]);
}

#[test]
fn splitting() {
    assert_eq!(split_at_page(0x1ff8, 8), (8, 0));
    assert_eq!(split_at_page(0x1ff9, 8), (7, 1));
    assert_eq!(split_at_page(0x1fff, 2), (1, 1));
    assert_eq!(split_at_page(u64::MAX, 2), (1, 1));
    assert_eq!(split_at_page(0, 0x1000), (0x1000, 0));
}

#[test]
fn modes_from_registers() {
    let long = efer::LMA;
    assert_eq!(Mode::new(0, 0, 0, ar::DB), Mode::Real);
    assert_eq!(Mode::new(cr0::PE, 0, 0, ar::DB), Mode::Protected32);
    assert_eq!(Mode::new(cr0::PE, 0, 0, ar::L), Mode::Protected16);
    assert_eq!(Mode::new(cr0::PE, long, 0, ar::L), Mode::Long);
    assert_eq!(Mode::new(cr0::PE, long, 0, ar::DB), Mode::Protected32);
    assert_eq!(Mode::new(cr0::PE, 0, rflags::VM, 0), Mode::Virtual8086);
}
