// SPDX-License-Identifier: GPL-2.0-only

//! The opcode tables (SDM vol. 2, appendix A).
//!
//! An opcode that is missing here is refused, whatever it may mean.

use super::insn::Op;

/// How the operands of an opcode are encoded; letters as in the SDM's operand-encoding tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(super) enum Form {
    // Up to Group: there is more to look at before the operands.
    /// Not in the tables.
    Missing,
    /// A legacy prefix.
    Prefix,
    /// 0F: continue in the next table.
    Escape,
    /// C4 or C5: VEX, or LES or LDS.
    Vex,
    /// The ModRM byte's reg field selects the entry of a group.
    Group,
    /// The mandatory prefix decides: vector moves.
    Vector,
    /// 0F 01, whose register forms are an opcode map of their own.
    Group7,
    /// No explicit operands.
    Zo,
    /// No explicit operands; the segment of the source can be overridden.
    String,
    /// No explicit operands; the operand size is at most 4.
    Port,
    /// Zero-extended byte as source; the operand size is at most 4.
    PortU8,
    /// r/m, reg.
    Mr,
    /// reg, r/m.
    Rm,
    /// reg, r/m, immediate of the operand size.
    Rmi,
    /// reg, r/m, sign-extended byte.
    Rmi8,
    /// r/m, reg, byte.
    Mri8,
    /// r/m, reg, CL.
    MrCl,
    /// r/m.
    M,
    /// r/m, immediate of the operand size.
    Mi,
    /// r/m, sign-extended byte.
    Mi8,
    /// r/m, zero-extended byte.
    Mu8,
    /// r/m, 1.
    M1,
    /// r/m, CL.
    MCl,
    /// r/m, segment register.
    Ms,
    /// Segment register, r/m.
    Sm,
    /// reg and a segment register, far pointer in memory.
    Rsm,
    /// Accumulator, immediate of the operand size.
    Ai,
    /// Register in the opcode.
    O,
    /// Register in the opcode, immediate of the full operand size.
    Oi,
    /// Accumulator, register in the opcode.
    Ao,
    /// Immediate of the operand size as source.
    I,
    /// Sign-extended byte as source.
    I8,
    /// Zero-extended byte as source.
    U8,
    /// Zero-extended word as source.
    U16,
    /// No explicit operands; near branches have rules of their own for the operand size.
    Near,
    /// The same, and a zero-extended word as source.
    NearU16,
    /// The same, and a sign-extended byte, added to RIP.
    NearI8,
    /// The same, and a sign-extended immediate of the operand size, 4 bytes at most, added to RIP.
    NearI,
    /// Offset of the operand size and selector.
    Far,
    /// Word and byte.
    U16U8,
    /// Segment register in the opcode.
    S,
    /// Accumulator, absolute address.
    Fd,
    /// Absolute address, accumulator.
    Td,
    /// General register, control or debug register.
    FromCr,
    /// Control or debug register, general register.
    ToCr,
}

impl Form {
    /// Whether a ModRM byte comes first.
    pub(super) fn has_modrm(self) -> bool {
        self >= Self::Mr && self <= Self::Rsm
    }
}

/// The opcode groups in [`GROUPS`].
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Group {
    /// 80 to 82.
    G1,
    /// 83.
    G1Byte,
    /// 8F.
    G1a,
    /// C0 and C1.
    G2Imm,
    /// D0 and D1.
    G2One,
    /// D2 and D3.
    G2Cl,
    /// F6 and F7.
    G3,
    /// FE.
    G4,
    /// FF.
    G5,
    /// 0F BA.
    G8,
    /// 0F C7.
    G9,
    /// C6 and C7.
    G11,
    /// 0F AE.
    G15,
    /// 0F 00.
    G6,
}

/// Operand size is one byte.
pub(super) const BYTE: u8 = 1 << 0;
/// In 64-bit mode the operand size is 8 by default and never 4.
pub(super) const D64: u8 = 1 << 1;
/// LOCK is allowed when the destination is in memory.
pub(super) const LOCK: u8 = 1 << 2;
/// Only with r/m in memory; the register form is another instruction or none.
pub(super) const MEM: u8 = 1 << 3;
/// Not in 64-bit mode.
pub(super) const NO64: u8 = 1 << 4;
/// Outside 64-bit mode the opcode means something else.
pub(super) const ONLY64: u8 = 1 << 5;
/// With 66, F2 or F3 the opcode means something else; the operand size is 4 in 16-bit code too.
pub(super) const NO_PREFIX: u8 = 1 << 6;
/// With F2 or F3 the opcode means something else.
pub(super) const NO_REP: u8 = 1 << 7;

/// The flags that depend on mode and prefixes.
pub(super) const RESTRICTED: u8 = NO64 | ONLY64 | NO_PREFIX | NO_REP;

/// One opcode. The alignment lets it be loaded in one piece.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
pub(super) struct Entry {
    pub(super) op: Op,
    pub(super) form: Form,
    pub(super) flags: u8,
    /// For [`Form::Group`].
    group: Group,
}

const fn e(op: Op, form: Form, flags: u8) -> Entry {
    Entry {
        op,
        form,
        flags,
        group: Group::G1,
    }
}

const fn group(group: Group, flags: u8) -> Entry {
    Entry {
        group,
        ..e(Op::None, Form::Group, flags)
    }
}

const MISSING: Entry = e(Op::None, Form::Missing, 0);

/// The operations in group-1 order, and whether they may be locked.
const ALU: [(Op, u8); 8] = [
    (Op::Add, LOCK),
    (Op::Or, LOCK),
    (Op::Adc, LOCK),
    (Op::Sbb, LOCK),
    (Op::And, LOCK),
    (Op::Sub, LOCK),
    (Op::Xor, LOCK),
    (Op::Cmp, 0),
];

/// Sets the entries of a byte opcode and of the wider one after it.
const fn pair(t: &mut [Entry; 256], opcode: usize, op: Op, form: Form, flags: u8) {
    t[opcode] = e(op, form, flags | BYTE);
    t[opcode + 1] = e(op, form, flags);
}

/// Sets the entries of a byte opcode and of the wider one after it to a group.
const fn group_pair(t: &mut [Entry; 256], opcode: usize, g: Group) {
    t[opcode] = group(g, BYTE);
    t[opcode + 1] = group(g, 0);
}

/// Sets the entries of `n` opcodes from `opcode` on.
const fn run(t: &mut [Entry; 256], opcode: usize, n: usize, entry: Entry) {
    let mut i = 0;
    while i < n {
        t[opcode + i] = entry;
        i += 1;
    }
}

/// The one-byte opcodes.
pub(super) static ONE_BYTE: [Entry; 256] = one_byte();

const fn one_byte() -> [Entry; 256] {
    let mut t = [MISSING; 256];
    let mut i = 0;
    while i < 8 {
        let (op, lock) = ALU[i];
        pair(&mut t, i * 8, op, Form::Mr, lock);
        pair(&mut t, i * 8 + 2, op, Form::Rm, 0);
        pair(&mut t, i * 8 + 4, op, Form::Ai, 0);
        i += 1;
    }
    let prefixes = [
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    ];
    let mut i = 0;
    while i < prefixes.len() {
        t[prefixes[i]] = e(Op::None, Form::Prefix, 0);
        i += 1;
    }
    // 0F, where POP CS would be, leads to the next table.
    let mut i = 0;
    while i < 4 {
        t[i * 8 + 6] = e(Op::Push, Form::S, NO64);
        t[i * 8 + 7] = e(Op::PopSeg, Form::S, NO64);
        i += 1;
    }
    t[0x0f] = e(Op::None, Form::Escape, 0);
    t[0x27] = e(Op::Daa, Form::Zo, NO64);
    t[0x2f] = e(Op::Das, Form::Zo, NO64);
    t[0x37] = e(Op::Aaa, Form::Zo, NO64);
    t[0x3f] = e(Op::Aas, Form::Zo, NO64);
    run(&mut t, 0x40, 8, e(Op::Inc, Form::O, NO64));
    run(&mut t, 0x48, 8, e(Op::Dec, Form::O, NO64));
    run(&mut t, 0x50, 8, e(Op::Push, Form::O, D64));
    run(&mut t, 0x58, 8, e(Op::Pop, Form::O, D64));
    t[0x60] = e(Op::Pusha, Form::Zo, NO64);
    t[0x61] = e(Op::Popa, Form::Zo, NO64);
    t[0x62] = e(Op::Bound, Form::Rm, NO64 | MEM);
    t[0x63] = e(Op::Movsx, Form::Rm, ONLY64);
    t[0x68] = e(Op::Push, Form::I, D64);
    t[0x69] = e(Op::Imul, Form::Rmi, 0);
    t[0x6a] = e(Op::Push, Form::I8, D64);
    t[0x6b] = e(Op::Imul, Form::Rmi8, 0);
    pair(&mut t, 0x6c, Op::Ins, Form::Port, 0);
    pair(&mut t, 0x6e, Op::Outs, Form::String, 0);
    run(&mut t, 0x70, 16, e(Op::Jcc, Form::NearI8, 0));
    group_pair(&mut t, 0x80, Group::G1);
    t[0x82] = group(Group::G1, BYTE | NO64);
    t[0x83] = group(Group::G1Byte, 0);
    pair(&mut t, 0x84, Op::Test, Form::Mr, 0);
    pair(&mut t, 0x86, Op::Xchg, Form::Mr, LOCK);
    pair(&mut t, 0x88, Op::Mov, Form::Mr, 0);
    pair(&mut t, 0x8a, Op::Mov, Form::Rm, 0);
    t[0x8c] = e(Op::Mov, Form::Ms, 0);
    t[0x8d] = e(Op::Lea, Form::Rm, MEM);
    t[0x8e] = e(Op::MovSeg, Form::Sm, 0);
    t[0x8f] = group(Group::G1a, D64);
    run(&mut t, 0x90, 8, e(Op::Xchg, Form::Ao, 0));
    t[0x98] = e(Op::Cbw, Form::Zo, 0);
    t[0x99] = e(Op::Cwd, Form::Zo, 0);
    t[0x9a] = e(Op::CallFar, Form::Far, NO64);
    t[0x9c] = e(Op::Pushf, Form::Zo, D64);
    t[0x9d] = e(Op::Popf, Form::Zo, D64);
    t[0x9e] = e(Op::Sahf, Form::Zo, 0);
    t[0x9f] = e(Op::Lahf, Form::Zo, 0);
    pair(&mut t, 0xa0, Op::Mov, Form::Fd, 0);
    pair(&mut t, 0xa2, Op::Mov, Form::Td, 0);
    pair(&mut t, 0xa4, Op::Movs, Form::String, 0);
    pair(&mut t, 0xa6, Op::Cmps, Form::String, 0);
    pair(&mut t, 0xa8, Op::Test, Form::Ai, 0);
    pair(&mut t, 0xaa, Op::Stos, Form::Zo, 0);
    pair(&mut t, 0xac, Op::Lods, Form::String, 0);
    pair(&mut t, 0xae, Op::Scas, Form::Zo, 0);
    run(&mut t, 0xb0, 8, e(Op::Mov, Form::Oi, BYTE));
    run(&mut t, 0xb8, 8, e(Op::Mov, Form::Oi, 0));
    group_pair(&mut t, 0xc0, Group::G2Imm);
    t[0xc2] = e(Op::Ret, Form::NearU16, 0);
    t[0xc3] = e(Op::Ret, Form::Near, 0);
    t[0xc4] = e(Op::None, Form::Vex, 0);
    t[0xc5] = e(Op::None, Form::Vex, 0);
    group_pair(&mut t, 0xc6, Group::G11);
    t[0xc8] = e(Op::Enter, Form::U16U8, D64);
    t[0xc9] = e(Op::Leave, Form::Zo, D64);
    t[0xca] = e(Op::RetFar, Form::U16, 0);
    t[0xcb] = e(Op::RetFar, Form::Zo, 0);
    t[0xcc] = e(Op::Int3, Form::Zo, 0);
    t[0xcd] = e(Op::Int, Form::U8, 0);
    t[0xce] = e(Op::Into, Form::Zo, NO64);
    t[0xcf] = e(Op::Iret, Form::Zo, 0);
    group_pair(&mut t, 0xd0, Group::G2One);
    group_pair(&mut t, 0xd2, Group::G2Cl);
    t[0xd4] = e(Op::Aam, Form::U8, NO64);
    t[0xd5] = e(Op::Aad, Form::U8, NO64);
    t[0xd6] = e(Op::Salc, Form::Zo, NO64);
    t[0xd7] = e(Op::Xlat, Form::String, BYTE);
    run(&mut t, 0xe0, 4, e(Op::Loop, Form::NearI8, 0));
    pair(&mut t, 0xe4, Op::In, Form::PortU8, 0);
    pair(&mut t, 0xe6, Op::Out, Form::PortU8, 0);
    t[0xe8] = e(Op::Call, Form::NearI, 0);
    t[0xe9] = e(Op::Jmp, Form::NearI, 0);
    t[0xea] = e(Op::JmpFar, Form::Far, NO64);
    t[0xeb] = e(Op::Jmp, Form::NearI8, 0);
    pair(&mut t, 0xec, Op::In, Form::Port, 0);
    pair(&mut t, 0xee, Op::Out, Form::Port, 0);
    t[0xf1] = e(Op::Int1, Form::Zo, 0);
    t[0xf4] = e(Op::Hlt, Form::Zo, 0);
    t[0xf5] = e(Op::Cmc, Form::Zo, 0);
    t[0xf8] = e(Op::Clc, Form::Zo, 0);
    t[0xf9] = e(Op::Stc, Form::Zo, 0);
    t[0xfa] = e(Op::Cli, Form::Zo, 0);
    t[0xfb] = e(Op::Sti, Form::Zo, 0);
    t[0xfc] = e(Op::Cld, Form::Zo, 0);
    t[0xfd] = e(Op::Std, Form::Zo, 0);
    group_pair(&mut t, 0xf6, Group::G3);
    t[0xfe] = group(Group::G4, BYTE);
    t[0xff] = group(Group::G5, 0);
    t
}

/// The opcodes after 0F.
pub(super) static TWO_BYTE: [Entry; 256] = two_byte();

const fn two_byte() -> [Entry; 256] {
    let mut t = [MISSING; 256];
    t[0x00] = group(Group::G6, 0);
    t[0x01] = e(Op::None, Form::Group7, 0);
    t[0x05] = e(Op::Syscall, Form::Zo, 0);
    t[0x06] = e(Op::Clts, Form::Zo, 0);
    t[0x07] = e(Op::Sysret, Form::Zo, 0);
    t[0x08] = e(Op::Invd, Form::Zo, 0);
    t[0x09] = e(Op::Wbinvd, Form::Zo, 0);
    t[0x0b] = e(Op::Ud2, Form::Zo, 0);
    t[0x0d] = e(Op::Nop, Form::M, MEM);
    t[0x18] = e(Op::Nop, Form::M, MEM);
    t[0x1f] = e(Op::Nop, Form::M, 0);
    let vector = [
        0x10, 0x11, 0x12, 0x13, 0x16, 0x17, 0x28, 0x29, 0x2b, 0x6e, 0x6f, 0x7e, 0x7f, 0xd6, 0xe7,
    ];
    let mut i = 0;
    while i < vector.len() {
        t[vector[i]] = e(Op::None, Form::Vector, 0);
        i += 1;
    }
    t[0x20] = e(Op::MovCr, Form::FromCr, D64);
    t[0x21] = e(Op::MovDr, Form::FromCr, D64);
    t[0x22] = e(Op::MovCr, Form::ToCr, D64);
    t[0x23] = e(Op::MovDr, Form::ToCr, D64);
    t[0x30] = e(Op::Wrmsr, Form::Zo, 0);
    t[0x31] = e(Op::Rdtsc, Form::Zo, 0);
    t[0x32] = e(Op::Rdmsr, Form::Zo, 0);
    t[0x33] = e(Op::Rdpmc, Form::Zo, 0);
    t[0x34] = e(Op::Sysenter, Form::Zo, 0);
    t[0x35] = e(Op::Sysexit, Form::Zo, 0);
    run(&mut t, 0x40, 16, e(Op::Cmovcc, Form::Rm, 0));
    run(&mut t, 0x80, 16, e(Op::Jcc, Form::NearI, 0));
    run(&mut t, 0x90, 16, e(Op::Setcc, Form::M, BYTE));
    t[0xa0] = e(Op::Push, Form::S, D64);
    t[0xa1] = e(Op::PopSeg, Form::S, D64);
    t[0xa2] = e(Op::Cpuid, Form::Zo, 0);
    t[0xa3] = e(Op::Bt, Form::Mr, 0);
    t[0xa4] = e(Op::Shld, Form::Mri8, 0);
    t[0xa5] = e(Op::Shld, Form::MrCl, 0);
    t[0xa8] = e(Op::Push, Form::S, D64);
    t[0xa9] = e(Op::PopSeg, Form::S, D64);
    t[0xab] = e(Op::Bts, Form::Mr, LOCK);
    t[0xac] = e(Op::Shrd, Form::Mri8, 0);
    t[0xad] = e(Op::Shrd, Form::MrCl, 0);
    t[0xae] = group(Group::G15, NO_REP);
    t[0xaf] = e(Op::Imul, Form::Rm, 0);
    pair(&mut t, 0xb0, Op::Cmpxchg, Form::Mr, LOCK);
    t[0xb2] = e(Op::LoadFar, Form::Rsm, MEM);
    t[0xb3] = e(Op::Btr, Form::Mr, LOCK);
    t[0xb4] = e(Op::LoadFar, Form::Rsm, MEM);
    t[0xb5] = e(Op::LoadFar, Form::Rsm, MEM);
    t[0xb6] = e(Op::Movzx, Form::Rm, 0);
    t[0xb7] = e(Op::Movzx, Form::Rm, 0);
    t[0xba] = group(Group::G8, 0);
    t[0xbb] = e(Op::Btc, Form::Mr, LOCK);
    t[0xbc] = e(Op::Bsf, Form::Rm, NO_REP);
    t[0xbd] = e(Op::Bsr, Form::Rm, NO_REP);
    t[0xbe] = e(Op::Movsx, Form::Rm, 0);
    t[0xbf] = e(Op::Movsx, Form::Rm, 0);
    pair(&mut t, 0xc0, Op::Xadd, Form::Mr, LOCK);
    t[0xc3] = e(Op::Mov, Form::Mr, MEM | NO_PREFIX);
    t[0xc7] = group(Group::G9, 0);
    run(&mut t, 0xc8, 8, e(Op::Bswap, Form::O, 0));
    t
}

/// LES and LDS, which share their opcodes with VEX.
pub(super) const LOAD_FAR: Entry = e(Op::LoadFar, Form::Rsm, MEM);

/// The opcodes after 0F 38 that are known, `None` for the rest.
pub(super) const fn after_0f38(opcode: u8) -> Option<Entry> {
    match opcode {
        0x2a => Some(e(Op::None, Form::Vector, 0)),
        0xf0 => Some(e(Op::Movbe, Form::Rm, MEM | NO_REP)),
        0xf1 => Some(e(Op::Movbe, Form::Mr, MEM | NO_REP)),
        _ => None,
    }
}

impl Entry {
    /// The entry of this group for the reg field `reg`, of which the low three bits count, with the
    /// flags of both.
    pub(super) fn group(self, reg: u8) -> Entry {
        let inner = GROUPS[self.group as usize % GROUP_COUNT][usize::from(reg & 7)];
        Entry {
            flags: self.flags | inner.flags,
            ..inner
        }
    }
}

/// A power of two, so that indexing costs no check.
const GROUP_COUNT: usize = 16;
const _: () = assert!((Group::G6 as usize) < GROUP_COUNT);

static GROUPS: [[Entry; 8]; GROUP_COUNT] = groups();

const fn groups() -> [[Entry; 8]; GROUP_COUNT] {
    let mut g = [[MISSING; 8]; GROUP_COUNT];
    let shifts = [
        Op::Rol,
        Op::Ror,
        Op::Rcl,
        Op::Rcr,
        Op::Shl,
        Op::Shr,
        Op::Shl,
        Op::Sar,
    ];
    let mut i = 0;
    while i < 8 {
        let (op, lock) = ALU[i];
        g[Group::G1 as usize][i] = e(op, Form::Mi, lock);
        g[Group::G1Byte as usize][i] = e(op, Form::Mi8, lock);
        g[Group::G2Imm as usize][i] = e(shifts[i], Form::Mu8, 0);
        g[Group::G2One as usize][i] = e(shifts[i], Form::M1, 0);
        g[Group::G2Cl as usize][i] = e(shifts[i], Form::MCl, 0);
        i += 1;
    }
    g[Group::G1a as usize][0] = e(Op::Pop, Form::M, 0);
    g[Group::G3 as usize] = [
        e(Op::Test, Form::Mi, 0),
        e(Op::Test, Form::Mi, 0),
        e(Op::Not, Form::M, LOCK),
        e(Op::Neg, Form::M, LOCK),
        e(Op::Mul, Form::M, 0),
        e(Op::Imul1, Form::M, 0),
        e(Op::Div, Form::M, 0),
        e(Op::Idiv, Form::M, 0),
    ];
    g[Group::G4 as usize][0] = e(Op::Inc, Form::M, LOCK);
    g[Group::G4 as usize][1] = e(Op::Dec, Form::M, LOCK);
    g[Group::G5 as usize][0] = e(Op::Inc, Form::M, LOCK);
    g[Group::G5 as usize][1] = e(Op::Dec, Form::M, LOCK);
    g[Group::G5 as usize][2] = e(Op::Call, Form::M, 0);
    g[Group::G5 as usize][3] = e(Op::CallFar, Form::M, MEM);
    g[Group::G5 as usize][4] = e(Op::Jmp, Form::M, 0);
    g[Group::G5 as usize][5] = e(Op::JmpFar, Form::M, MEM);
    g[Group::G5 as usize][6] = e(Op::Push, Form::M, D64);
    g[Group::G6 as usize][0] = e(Op::Sldt, Form::M, 0);
    g[Group::G6 as usize][1] = e(Op::Str, Form::M, 0);
    g[Group::G6 as usize][2] = e(Op::Lldt, Form::M, 0);
    g[Group::G6 as usize][3] = e(Op::Ltr, Form::M, 0);
    g[Group::G8 as usize][4] = e(Op::Bt, Form::Mu8, 0);
    g[Group::G8 as usize][5] = e(Op::Bts, Form::Mu8, LOCK);
    g[Group::G8 as usize][6] = e(Op::Btr, Form::Mu8, LOCK);
    g[Group::G8 as usize][7] = e(Op::Btc, Form::Mu8, LOCK);
    g[Group::G9 as usize][1] = e(Op::CmpxchgPair, Form::M, LOCK | MEM);
    g[Group::G11 as usize][0] = e(Op::Mov, Form::Mi, 0);
    g[Group::G15 as usize][7] = e(Op::Clflush, Form::M, MEM);
    g
}
