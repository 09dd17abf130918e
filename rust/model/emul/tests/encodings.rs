// SPDX-License-Identifier: GPL-2.0-only

//! Every encoding form in a table: bytes, and what the decoder makes of them.

use super::*;
use std::fmt::Write;

/// A short form of an instruction: operation, operand size, operands.
fn show(insn: &Insn) -> String {
    let mut text = String::new();
    for (bit, name) in [
        (prefix::LOCK, "lock "),
        (prefix::REPE, "rep "),
        (prefix::REPNE, "repne "),
        (prefix::VEX, "vex "),
    ] {
        if insn.has(bit) {
            text += name;
        }
    }
    write!(text, "{:?}{}", insn.op, insn.op_size).unwrap();
    for operand in [insn.dst, insn.src, insn.third] {
        match operand {
            Operand::None => {}
            Operand::Reg(n) if n >= Operand::HIGH_BYTE => write!(text, " h{}", n - 16).unwrap(),
            Operand::Reg(n) => write!(text, " r{n}").unwrap(),
            Operand::Imm => write!(text, " {:#x}", insn.imm).unwrap(),
            Operand::Mem => text += &show_mem(insn),
            Operand::Vec(n) => write!(text, " v{n}").unwrap(),
            Operand::Seg(seg) => write!(text, " {seg:?}").unwrap(),
            Operand::Cr(n) => write!(text, " cr{n}").unwrap(),
            Operand::Dr(n) => write!(text, " dr{n}").unwrap(),
        }
    }
    if insn.src_size != insn.op_size {
        write!(text, " from{}", insn.src_size).unwrap();
    }
    text
}

fn show_mem(insn: &Insn) -> String {
    let mem = insn.mem;
    let mut text = format!(" {:?}{}[", mem.seg, insn.addr_size);
    match mem.base {
        Mem::NONE => {}
        Mem::RIP => text += "rip",
        n => write!(text, "r{n}").unwrap(),
    }
    if mem.index != Mem::NONE {
        write!(text, "+r{}*{}", mem.index, 1 << mem.scale).unwrap();
    }
    if mem.disp != 0 {
        write!(text, "+{:#x}", mem.disp).unwrap();
    }
    text + "]"
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.split(' ')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn check(mode: Mode, cases: &[(&str, &str)]) {
    for (hex, expected) in cases {
        let bytes = bytes(hex);
        let found = match decode(&bytes, mode) {
            Ok(insn) => {
                assert_eq!(usize::from(insn.len), bytes.len(), "{hex}");
                show(&insn)
            }
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(found, *expected, "{hex} in {mode:?}");
    }
}

#[test]
fn mov_forms() {
    check(
        Mode::Long,
        &[
            ("88 07", "Mov1 Ds8[r7] r0"),
            ("88 27", "Mov1 Ds8[r7] h0"),
            ("40 88 27", "Mov1 Ds8[r7] r4"),
            ("89 07", "Mov4 Ds8[r7] r0"),
            ("66 89 07", "Mov2 Ds8[r7] r0"),
            ("48 89 07", "Mov8 Ds8[r7] r0"),
            ("66 48 89 07", "Mov8 Ds8[r7] r0"),
            ("8a 07", "Mov1 r0 Ds8[r7]"),
            ("8b 07", "Mov4 r0 Ds8[r7]"),
            ("44 8b 07", "Mov4 r8 Ds8[r7]"),
            ("41 8b 07", "Mov4 r0 Ds8[r15]"),
            ("89 d8", "Mov4 r0 r3"),
            ("8c 1f", "Mov4 Ds8[r7] Ds from2"),
            ("48 8c d8", "Mov8 r0 Ds from2"),
            ("c6 07 80", "Mov1 Ds8[r7] 0xffffffffffffff80"),
            ("c7 07 78 56 34 12", "Mov4 Ds8[r7] 0x12345678"),
            ("66 c7 07 34 12", "Mov2 Ds8[r7] 0x1234"),
            ("48 c7 07 00 00 00 80", "Mov8 Ds8[r7] 0xffffffff80000000"),
            ("b0 01", "Mov1 r0 0x1"),
            ("b7 01", "Mov1 h3 0x1"),
            ("40 b7 01", "Mov1 r7 0x1"),
            ("b8 04 03 02 01", "Mov4 r0 0x1020304"),
            ("49 b8 08 07 06 05 04 03 02 01", "Mov8 r8 0x102030405060708"),
            (
                "a0 08 07 06 05 04 03 02 01",
                "Mov1 r0 Ds8[+0x102030405060708]",
            ),
            ("67 a1 04 03 02 01", "Mov4 r0 Ds4[+0x1020304]"),
            (
                "64 48 a3 08 07 06 05 04 03 02 01",
                "Mov8 Fs8[+0x102030405060708] r0",
            ),
            (
                "a2 08 07 06 05 04 03 02 01",
                "Mov1 Ds8[+0x102030405060708] r0",
            ),
            ("0f c3 07", "Mov4 Ds8[r7] r0"),
            ("48 0f c3 07", "Mov8 Ds8[r7] r0"),
            ("0f b6 07", "Movzx4 r0 Ds8[r7] from1"),
            ("0f b6 c4", "Movzx4 r0 h0 from1"),
            ("66 0f b6 07", "Movzx2 r0 Ds8[r7] from1"),
            ("48 0f b7 07", "Movzx8 r0 Ds8[r7] from2"),
            ("0f be 07", "Movsx4 r0 Ds8[r7] from1"),
            ("0f bf 07", "Movsx4 r0 Ds8[r7] from2"),
            ("48 63 07", "Movsx8 r0 Ds8[r7] from4"),
            ("63 07", "Movsx4 r0 Ds8[r7]"),
            ("0f 38 f0 07", "Movbe4 r0 Ds8[r7]"),
            ("66 0f 38 f1 07", "Movbe2 Ds8[r7] r0"),
            ("8d 44 48 08", "Lea4 r0 Ds8[r0+r1*2+0x8]"),
        ],
    );
}

#[test]
fn memory_operands_of_64_bit_mode() {
    check(
        Mode::Long,
        &[
            ("8b 40 f8", "Mov4 r0 Ds8[r0+0xfffffffffffffff8]"),
            ("8b 80 00 01 00 00", "Mov4 r0 Ds8[r0+0x100]"),
            ("8b 45 00", "Mov4 r0 Ss8[r5]"),
            ("8b 04 24", "Mov4 r0 Ss8[r4]"),
            ("41 8b 04 24", "Mov4 r0 Ds8[r12]"),
            ("41 8b 45 00", "Mov4 r0 Ds8[r13]"),
            ("8b 04 25 10 00 00 00", "Mov4 r0 Ds8[+0x10]"),
            ("8b 05 10 00 00 00", "Mov4 r0 Ds8[rip+0x10]"),
            ("67 8b 05 10 00 00 00", "Mov4 r0 Ds4[rip+0x10]"),
            ("8b 04 8d 10 00 00 00", "Mov4 r0 Ds8[+r1*4+0x10]"),
            ("42 8b 04 20", "Mov4 r0 Ds8[r0+r12*1]"),
            ("8b 44 e5 00", "Mov4 r0 Ss8[r5]"),
            ("67 8b 00", "Mov4 r0 Ds4[r0]"),
            ("65 8b 00", "Mov4 r0 Gs8[r0]"),
            // ES, CS, SS and DS do nothing, not even to FS before them.
            ("64 26 8b 00", "Mov4 r0 Fs8[r0]"),
            ("3e 8b 45 00", "Mov4 r0 Ss8[r5]"),
            // REX counts only as the last prefix.
            ("48 66 8b 00", "Mov2 r0 Ds8[r0]"),
            ("41 48 8b 00", "Mov8 r0 Ds8[r0]"),
        ],
    );
}

#[test]
fn memory_operands_of_other_modes() {
    check(
        Mode::Protected32,
        &[
            ("8b 07", "Mov4 r0 Ds4[r7]"),
            ("66 8b 07", "Mov2 r0 Ds4[r7]"),
            ("67 8b 07", "Mov4 r0 Ds2[r3]"),
            ("8b 05 10 00 00 80", "Mov4 r0 Ds4[+0xffffffff80000010]"),
            ("a1 10 00 00 80", "Mov4 r0 Ds4[+0x80000010]"),
            ("67 a1 10 80", "Mov4 r0 Ds2[+0x8010]"),
            ("26 8b 45 00", "Mov4 r0 Es4[r5]"),
            ("40", "Inc4 r0"),
            ("4f", "Dec4 r7"),
            ("66 40", "Inc2 r0"),
        ],
    );
    for mode in [Mode::Real, Mode::Protected16, Mode::Virtual8086] {
        check(
            mode,
            &[
                ("8b 00", "Mov2 r0 Ds2[r3+r6*1]"),
                ("8b 01", "Mov2 r0 Ds2[r3+r7*1]"),
                ("8b 02", "Mov2 r0 Ss2[r5+r6*1]"),
                ("8b 03", "Mov2 r0 Ss2[r5+r7*1]"),
                ("8b 04", "Mov2 r0 Ds2[r6]"),
                ("8b 05", "Mov2 r0 Ds2[r7]"),
                ("8b 06 34 12", "Mov2 r0 Ds2[+0x1234]"),
                ("8b 07", "Mov2 r0 Ds2[r3]"),
                ("8b 46 fe", "Mov2 r0 Ss2[r5+0xfffffffffffffffe]"),
                ("8b 87 34 12", "Mov2 r0 Ds2[r3+0x1234]"),
                ("2e 8b 46 00", "Mov2 r0 Cs2[r5]"),
                ("66 67 8b 04 88", "Mov4 r0 Ds4[r0+r1*4]"),
                ("a1 34 12", "Mov2 r0 Ds2[+0x1234]"),
                // MOVNTI has no 16-bit form.
                ("0f c3 07", "Mov4 Ds2[r3] r0"),
            ],
        );
    }
}

#[test]
fn arithmetic_forms() {
    let names = ["Add", "Or", "Adc", "Sbb", "And", "Sub", "Xor", "Cmp"];
    for (n, name) in names.into_iter().enumerate() {
        let base = n * 8;
        let rows = [
            (format!("{:02x} 07", base), format!("{name}1 Ds8[r7] r0")),
            (
                format!("{:02x} 07", base + 1),
                format!("{name}4 Ds8[r7] r0"),
            ),
            (
                format!("{:02x} 07", base + 2),
                format!("{name}1 r0 Ds8[r7]"),
            ),
            (
                format!("{:02x} 07", base + 3),
                format!("{name}4 r0 Ds8[r7]"),
            ),
            (
                format!("{:02x} 80", base + 4),
                format!("{name}1 r0 0xffffffffffffff80"),
            ),
            (
                format!("{:02x} 01 00 00 00", base + 5),
                format!("{name}4 r0 0x1"),
            ),
            (
                format!("80 {:02x} 7f", base + 7),
                format!("{name}1 Ds8[r7] 0x7f"),
            ),
            (
                format!("66 81 {:02x} 01 00", base + 7),
                format!("{name}2 Ds8[r7] 0x1"),
            ),
            (
                format!("48 81 {:02x} 01 00 00 00", base + 7),
                format!("{name}8 Ds8[r7] 0x1"),
            ),
            (
                format!("83 {:02x} ff", base + 7),
                format!("{name}4 Ds8[r7] 0xffffffffffffffff"),
            ),
        ];
        for (hex, expected) in rows {
            check(Mode::Long, &[(&hex, &expected)]);
        }
        let locked = if name == "Cmp" {
            "Invalid".into()
        } else {
            format!("lock {name}4 Ds8[r7] r0")
        };
        check(Mode::Long, &[(&format!("f0 {:02x} 07", base + 1), &locked)]);
    }
    check(
        Mode::Long,
        &[
            ("84 07", "Test1 Ds8[r7] r0"),
            ("a8 01", "Test1 r0 0x1"),
            ("f6 07 01", "Test1 Ds8[r7] 0x1"),
            ("f7 0f 01 00 00 00", "Test4 Ds8[r7] 0x1"),
            ("f6 17", "Not1 Ds8[r7]"),
            ("f7 1f", "Neg4 Ds8[r7]"),
            ("f7 27", "Mul4 Ds8[r7]"),
            ("f7 2f", "Imul14 Ds8[r7]"),
            ("f7 37", "Div4 Ds8[r7]"),
            ("f7 3f", "Idiv4 Ds8[r7]"),
            ("0f af 07", "Imul4 r0 Ds8[r7]"),
            ("69 07 01 00 00 00", "Imul4 r0 Ds8[r7] 0x1"),
            ("6b 07 ff", "Imul4 r0 Ds8[r7] 0xffffffffffffffff"),
            ("fe 07", "Inc1 Ds8[r7]"),
            ("ff 0f", "Dec4 Ds8[r7]"),
            ("98", "Cbw4"),
            ("48 99", "Cwd8"),
            ("82 07 01", "Invalid"),
        ],
    );
    check(Mode::Protected32, &[("82 07 01", "Add1 Ds4[r7] 0x1")]);
}

#[test]
fn shifts_and_bits() {
    let names = ["Rol", "Ror", "Rcl", "Rcr", "Shl", "Shr", "Shl", "Sar"];
    for (n, name) in names.into_iter().enumerate() {
        let modrm = n * 8 + 7;
        let rows = [
            (
                format!("c0 {modrm:02x} 83"),
                format!("{name}1 Ds8[r7] 0x83"),
            ),
            (format!("c1 {modrm:02x} 03"), format!("{name}4 Ds8[r7] 0x3")),
            (format!("d0 {modrm:02x}"), format!("{name}1 Ds8[r7] 0x1")),
            (format!("d1 {modrm:02x}"), format!("{name}4 Ds8[r7] 0x1")),
            (format!("d2 {modrm:02x}"), format!("{name}1 Ds8[r7] r1")),
            (format!("48 d3 {modrm:02x}"), format!("{name}8 Ds8[r7] r1")),
        ];
        for (hex, expected) in rows {
            check(Mode::Long, &[(&hex, &expected)]);
        }
    }
    check(
        Mode::Long,
        &[
            ("0f a4 07 05", "Shld4 Ds8[r7] r0 0x5"),
            ("0f a5 07", "Shld4 Ds8[r7] r0 r1"),
            ("0f ac 07 05", "Shrd4 Ds8[r7] r0 0x5"),
            ("48 0f ad 07", "Shrd8 Ds8[r7] r0 r1"),
            ("0f a3 07", "Bt4 Ds8[r7] r0"),
            ("f0 0f ab 07", "lock Bts4 Ds8[r7] r0"),
            ("0f b3 07", "Btr4 Ds8[r7] r0"),
            ("0f bb 07", "Btc4 Ds8[r7] r0"),
            ("0f ba 27 85", "Bt4 Ds8[r7] 0x85"),
            ("f0 0f ba 2f 05", "lock Bts4 Ds8[r7] 0x5"),
            ("0f ba 37 05", "Btr4 Ds8[r7] 0x5"),
            ("0f ba 3f 05", "Btc4 Ds8[r7] 0x5"),
            ("f0 0f ba 27 05", "Invalid"),
            ("0f ba 07 05", "Unsupported"),
            ("0f bc 07", "Bsf4 r0 Ds8[r7]"),
            ("0f bd 07", "Bsr4 r0 Ds8[r7]"),
            // TZCNT and LZCNT.
            ("f3 0f bc 07", "Unsupported"),
            ("f3 0f bd 07", "Unsupported"),
            ("49 0f c8", "Bswap8 r8"),
        ],
    );
}

#[test]
fn exchanges_conditions_and_stack() {
    check(
        Mode::Long,
        &[
            ("86 07", "Xchg1 Ds8[r7] r0"),
            ("f0 87 07", "lock Xchg4 Ds8[r7] r0"),
            ("f0 87 c1", "Invalid"),
            ("91", "Xchg4 r0 r1"),
            ("90", "Nop4"),
            ("f3 90", "rep Pause4"),
            ("41 90", "Xchg4 r0 r8"),
            ("f3 41 90", "Unsupported"),
            ("0f c0 07", "Xadd1 Ds8[r7] r0"),
            ("f0 0f c1 07", "lock Xadd4 Ds8[r7] r0"),
            ("0f b0 07", "Cmpxchg1 Ds8[r7] r0"),
            ("f0 48 0f b1 07", "lock Cmpxchg8 Ds8[r7] r0"),
            ("0f c7 0f", "CmpxchgPair4 Ds8[r7]"),
            ("f0 48 0f c7 0f", "lock CmpxchgPair8 Ds8[r7]"),
            // RDRAND.
            ("0f c7 f0", "Unsupported"),
            ("0f 94 07", "Setcc1 Ds8[r7]"),
            ("0f 44 07", "Cmovcc4 r0 Ds8[r7]"),
            ("50", "Push8 r0"),
            ("66 50", "Push2 r0"),
            ("41 5f", "Pop8 r15"),
            ("68 00 00 00 80", "Push8 0xffffffff80000000"),
            ("66 68 01 80", "Push2 0xffffffffffff8001"),
            ("6a ff", "Push8 0xffffffffffffffff"),
            ("ff 37", "Push8 Ds8[r7]"),
            ("8f 07", "Pop8 Ds8[r7]"),
            ("ff 17", "Call8 Ds8[r7]"),
            ("0f 1f 44 00 00", "Nop4 Ds8[r0+r0*1]"),
            ("0f ae 3f", "Clflush4 Ds8[r7]"),
            // SFENCE.
            ("0f ae f8", "Unsupported"),
        ],
    );
    check(
        Mode::Protected32,
        &[
            ("50", "Push4 r0"),
            ("6a ff", "Push4 0xffffffffffffffff"),
            ("ff 37", "Push4 Ds4[r7]"),
        ],
    );
}

#[test]
fn strings_and_ports() {
    check(
        Mode::Long,
        &[
            ("a4", "Movs1"),
            ("f3 a5", "rep Movs4"),
            ("f3 48 ab", "rep Stos8"),
            ("66 ad", "Lods2"),
            ("f2 ae", "repne Scas1"),
            ("f3 a6", "rep Cmps1"),
            ("f3 6c", "rep Ins1"),
            ("f3 6d", "rep Ins4"),
            ("f3 48 6f", "rep Outs4"),
            ("e4 80", "In1 0x80"),
            ("e5 80", "In4 0x80"),
            ("66 ed", "In2"),
            ("e6 80", "Out1 0x80"),
            ("ef", "Out4"),
            ("f0 a4", "Invalid"),
        ],
    );
    let insn = decode(&bytes("64 f3 a4"), Mode::Long).unwrap();
    assert_eq!(insn.mem.seg, SegReg::Fs);
    let insn = decode(&bytes("26 6e"), Mode::Real).unwrap();
    assert_eq!(insn.mem.seg, SegReg::Es);
}

#[test]
fn vector_moves() {
    check(
        Mode::Long,
        &[
            ("0f 10 07", "VecLoad16 v0 Ds8[r7]"),
            ("66 44 0f 11 07", "VecStore16 Ds8[r7] v8"),
            ("f3 0f 10 07", "VecLoad4 v0 Ds8[r7]"),
            ("f2 0f 11 07", "VecStore8 Ds8[r7] v0"),
            ("0f 12 07", "VecLoadLow8 v0 Ds8[r7]"),
            ("0f 13 07", "VecStore8 Ds8[r7] v0"),
            ("66 0f 16 07", "VecLoadHigh8 v0 Ds8[r7]"),
            ("66 0f 17 07", "VecStoreHigh8 Ds8[r7] v0"),
            ("0f 28 07", "VecLoadAligned16 v0 Ds8[r7]"),
            ("0f 29 07", "VecStoreAligned16 Ds8[r7] v0"),
            ("0f 2b 07", "VecStoreAligned16 Ds8[r7] v0"),
            ("66 0f 6e 07", "VecLoad4 v0 Ds8[r7]"),
            ("66 48 0f 6e 07", "VecLoad8 v0 Ds8[r7]"),
            ("66 0f 7e 07", "VecStore4 Ds8[r7] v0"),
            ("f3 0f 7e 07", "VecLoad8 v0 Ds8[r7]"),
            ("66 0f d6 07", "VecStore8 Ds8[r7] v0"),
            ("66 0f 6f 07", "VecLoadAligned16 v0 Ds8[r7]"),
            ("f3 0f 7f 07", "VecStore16 Ds8[r7] v0"),
            ("66 0f e7 07", "VecStoreAligned16 Ds8[r7] v0"),
            ("66 0f 38 2a 07", "VecLoadAligned16 v0 Ds8[r7]"),
            ("c5 f8 10 07", "vex VecLoad16 v0 Ds8[r7]"),
            ("c5 fd 7f 07", "vex VecStoreAligned32 Ds8[r7] v0"),
            ("c4 41 7e 6f 07", "vex VecLoad32 v8 Ds8[r15]"),
            ("c4 e2 7d 2a 07", "vex VecLoadAligned32 v0 Ds8[r7]"),
            ("c4 e1 f9 7e 07", "vex VecStore8 Ds8[r7] v0"),
            // MMX, register forms, a second source, VEX after a prefix.
            ("0f 6f 07", "Unsupported"),
            ("0f 10 c1", "Unsupported"),
            ("c5 f0 10 07", "Unsupported"),
            ("66 c5 f8 10 07", "Invalid"),
            ("f0 0f 11 07", "Invalid"),
        ],
    );
    check(
        Mode::Protected32,
        &[
            ("c5 07", "LoadFar4 r0 Ds4[r7] Ds"),
            ("c5 f8 10 07", "vex VecLoad16 v0 Ds4[r7]"),
        ],
    );
    check(
        Mode::Real,
        &[
            ("c5 07", "LoadFar2 r0 Ds2[r3] Ds"),
            ("c5 f8 10 07", "Invalid"),
        ],
    );
}

#[test]
fn system_instructions() {
    check(
        Mode::Long,
        &[
            ("0f 20 c0", "MovCr8 r0 cr0"),
            ("0f 22 d8", "MovCr8 cr3 r0"),
            ("44 0f 22 c0", "MovCr8 cr8 r0"),
            ("0f 22 08", "Invalid"),
            ("0f 23 38", "MovDr8 dr7 r0"),
            ("44 0f 23 c0", "Invalid"),
            ("0f 01 17", "Lgdt4 Ds8[r7]"),
            ("0f 01 3f", "Invlpg4 Ds8[r7]"),
            ("0f 01 f0", "Lmsw2 r0"),
            ("0f 01 e0", "Smsw4 r0"),
            ("0f 01 c1", "Vmcall4"),
            ("0f 01 d9", "Vmmcall4"),
            ("0f 01 d1", "Xsetbv4"),
            ("0f 01 c8", "Monitor4"),
            ("0f 01 c9", "Mwait4"),
            ("0f 01 f9", "Rdtscp4"),
            // SWAPGS.
            ("0f 01 f8", "Unsupported"),
            ("0f 06", "Clts4"),
            ("0f 08", "Invd4"),
            ("f3 0f 09", "rep Wbinvd4"),
            ("0f 30", "Wrmsr4"),
            ("0f 31", "Rdtsc4"),
            ("0f 32", "Rdmsr4"),
            ("0f 33", "Rdpmc4"),
            ("0f a2", "Cpuid4"),
            ("f4", "Hlt4"),
            ("cc", "Int34"),
            ("cd 80", "Int4 0x80"),
            ("f1", "Int14"),
            ("48 cf", "Iret8"),
            ("ce", "Invalid"),
            ("0f 0b", "Ud24"),
        ],
    );
}

#[test]
fn branches_and_segments() {
    check(
        Mode::Long,
        &[
            ("74 fe", "Jcc8 0xfffffffffffffffe"),
            ("0f 85 00 01 00 00", "Jcc8 0x100"),
            ("e2 10", "Loop8 0x10"),
            ("67 e3 10", "Loop8 0x10"),
            ("e8 00 00 00 80", "Call8 0xffffffff80000000"),
            ("e9 10 00 00 00", "Jmp8 0x10"),
            ("eb 80", "Jmp8 0xffffffffffffff80"),
            ("ff d0", "Call8 r0"),
            ("41 ff 27", "Jmp8 Ds8[r15]"),
            ("c3", "Ret8"),
            ("c2 00 80", "Ret8 0x8000"),
            // What 66 does to near branches depends on the vendor; so does REX.W with far ones.
            ("66 74 fe", "Unsupported"),
            ("66 c3", "Unsupported"),
            ("66 ff d0", "Unsupported"),
            ("48 ff 1f", "Unsupported"),
            ("48 0f b2 07", "Unsupported"),
            ("ff 1f", "CallFar4 Ds8[r7]"),
            ("66 ff 2f", "JmpFar2 Ds8[r7]"),
            ("ff ef", "Unsupported"),
            ("48 cb", "RetFar8"),
            ("ca 04 00", "RetFar4 0x4"),
            ("c8 10 00 01", "Enter8 0x10010"),
            ("66 c9", "Leave2"),
            ("9c", "Pushf8"),
            ("66 9d", "Popf2"),
            ("0f a0", "Push8 Fs"),
            ("0f a9", "PopSeg8 Gs"),
            ("0f b4 07", "LoadFar4 r0 Ds8[r7] Fs"),
            ("8e d8", "MovSeg2 Ds r0"),
            ("44 8e 07", "MovSeg2 Es Ds8[r7]"),
            ("8e c8", "Invalid"),
            ("64 d7", "Xlat1"),
            ("0f 00 d0", "Lldt2 r0"),
            ("0f 00 1f", "Ltr2 Ds8[r7]"),
            ("0f 00 c0", "Sldt4 r0"),
            ("48 0f 00 0f", "Str2 Ds8[r7]"),
            ("0f 05", "Syscall4"),
            ("06", "Invalid"),
            ("60", "Invalid"),
            ("9a 00 00 00 00 00 00", "Invalid"),
            ("d4 0a", "Invalid"),
            // EVEX.
            ("62 f1 7c 48 10 07", "Unsupported"),
        ],
    );
    check(
        Mode::Protected32,
        &[
            ("66 74 fe", "Jcc2 0xfffffffffffffffe"),
            ("66 e8 00 80", "Call2 0xffffffffffff8000"),
            ("9a 04 03 02 01 08 00", "CallFar4 0x801020304"),
            ("66 ea 02 01 08 00", "JmpFar2 0x800000102"),
            ("06", "Push4 Es"),
            ("1f", "PopSeg4 Ds"),
            ("17", "PopSeg4 Ss"),
            ("c4 07", "LoadFar4 r0 Ds4[r7] Es"),
            ("60", "Pusha4"),
            ("66 61", "Popa2"),
            ("62 07", "Bound4 r0 Ds4[r7]"),
            ("27", "Daa4"),
            ("d5 0a", "Aad4 0xa"),
            ("d6", "Salc4"),
            ("f5", "Cmc4"),
            // ARPL.
            ("63 07", "Unsupported"),
        ],
    );
    check(
        Mode::Real,
        &[
            ("ea 02 01 08 00", "JmpFar2 0x800000102"),
            ("66 ea 04 03 02 01 08 00", "JmpFar4 0x801020304"),
            ("0e", "Push2 Cs"),
            ("f0 ff 1f", "Invalid"),
        ],
    );
}

#[test]
fn lengths_at_the_limit() {
    // Fourteen prefixes and NOP are 15 bytes, one more is too long.
    let mut bytes = [0x66; 16];
    bytes[14] = 0x90;
    assert_eq!(decode(&bytes, Mode::Long).map(|insn| insn.len), Ok(15));
    bytes[14] = 0x66;
    bytes[15] = 0x90;
    assert_eq!(decode(&bytes, Mode::Long), Err(DecodeError::TooLong));
    assert_eq!(
        decode(&bytes[..14], Mode::Long),
        Err(DecodeError::Truncated)
    );
    assert_eq!(decode(&[], Mode::Long), Err(DecodeError::Truncated));
    // The immediate would reach byte 17.
    bytes[12] = 0xb8;
    assert_eq!(
        decode(&bytes[..13], Mode::Protected16),
        Err(DecodeError::TooLong)
    );
}
