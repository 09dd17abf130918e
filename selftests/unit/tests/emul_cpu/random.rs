// SPDX-License-Identifier: GPL-2.0-only

//! Random instructions of the supported set, with registers that lead their addresses into the buffer.

use crate::rng::Rng;
use crate::trampoline::{State, DATA, DATA_LEN, LANDING};
use vireo_model::model::emul::{decode, prefix, Insn, Mem, Mode, Op, Operand, MAX_LEN};
use vireo_model::model::x86::{ar, rflags, Gpr, SegReg, Segment};

/// An instruction to be run.
pub struct Case {
    pub bytes: [u8; MAX_LEN],
    pub insn: Insn,
    /// The address of the memory operand, if it has one other than by string registers.
    pub target: Option<u64>,
    /// What is to be in memory before: linear address, value, bytes.
    pub poke: Option<(u64, u64, usize)>,
}

/// Where an instruction is to run.
pub struct Place {
    pub mode: Mode,
    pub rip: u64,
    pub segments: [Segment; 6],
}

impl Place {
    fn base(&self, seg: SegReg) -> u64 {
        self.segments[seg.index()].base
    }

    fn is_long(&self) -> bool {
        self.mode == Mode::Long
    }
}

/// Bytes of immediate that may follow.
const TAIL: usize = 8;

/// An instruction as it is put together.
struct Draft {
    bytes: [u8; MAX_LEN + TAIL],
    len: usize,
    /// Where the displacement is, and its size.
    disp: Option<(usize, usize)>,
    /// The opcode is of one byte and followed by a byte that says how far to branch.
    short: bool,
}

impl Draft {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn set_disp(&mut self, value: u64) -> bool {
        let Some((at, size)) = self.disp else {
            return false;
        };
        let bytes = value.to_le_bytes();
        self.bytes[at..at + size].copy_from_slice(&bytes[..size]);
        let shift = 64 - 8 * size as u32;
        // A displacement is sign-extended, which matters if addresses are wider.
        ((value << shift) as i64 >> shift) as u64 == value || size != 1
    }
}

/// Opcodes after 0F that are worth drawing.
const TWO_BYTE: &[u8] = &[
    0x0d, 0x10, 0x11, 0x12, 0x13, 0x16, 0x17, 0x18, 0x1f, 0x28, 0x29, 0x2b, 0x40, 0x41, 0x42, 0x43,
    0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f, 0x6e, 0x6f, 0x7e, 0x7f,
    0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f,
    0x00, 0x01, 0x06, 0x08, 0x09, 0x20, 0x22, 0x30, 0x32, 0xa0, 0xa8, 0x90, 0x91, 0x92, 0x93, 0x94,
    0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa3, 0xa4, 0xa5, 0xab, 0xac,
    0xad, 0xae, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xba, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf, 0xc0,
    0xc1, 0xc3, 0xc7, 0xc7, 0xc8, 0xcf, 0xd6, 0xe7,
];

/// Opcodes of vector moves, for VEX.
const VECTOR: &[u8] = &[
    0x10, 0x11, 0x13, 0x17, 0x28, 0x29, 0x2b, 0x6e, 0x6f, 0x7e, 0x7f, 0xd6, 0xe7,
];

fn pick(rng: &mut Rng, from: &[u8]) -> u8 {
    from[rng.below(from.len() as u64) as usize]
}

/// A one-byte opcode that is neither prefix nor escape.
fn one_byte(rng: &mut Rng, long: bool) -> u8 {
    loop {
        match rng.next() as u8 {
            0x40..=0x4f if long => {}
            0x0f | 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 => {}
            0xc4 | 0xc5 | 0xf0 | 0xf2 | 0xf3 => {}
            opcode => return opcode,
        }
    }
}

/// Puts prefixes, opcode and operands together.
fn draft(rng: &mut Rng, mode: Mode) -> Draft {
    let mut d = Draft {
        bytes: [0; MAX_LEN + TAIL],
        len: 0,
        disp: None,
        short: false,
    };
    rng.fill(&mut d.bytes);
    let vex = rng.below(16) == 0;
    let chances = [
        (0x66, 4),
        (0xf3, 8),
        (0xf2, 16),
        (0x67, 8),
        (0x65, 16),
        (0xf0, 12),
    ];
    for (byte, one_in) in chances {
        if rng.below(one_in) == 0 && (!vex || matches!(byte, 0x67 | 0x65)) {
            d.push(byte);
        }
    }
    let long = mode == Mode::Long;
    if !long && rng.below(8) == 0 {
        d.push(pick(rng, &[0x26, 0x36, 0x3e, 0x65]));
    }
    let narrow = d.bytes[..d.len].contains(&0x67);
    let addr_size = match (mode, narrow) {
        (Mode::Long, false) => 8,
        (Mode::Long, true) | (Mode::Protected32, false) | (Mode::Protected16, true) => 4,
        _ => 2,
    };
    let mut moffs = false;
    if vex {
        // Outside 64-bit mode these bits tell VEX from LES and LDS.
        let r = if long { rng.next() as u8 & 0x80 } else { 0x80 };
        let last = 0x78 | rng.next() as u8 & 7;
        if rng.below(2) == 0 {
            d.push(0xc5);
            d.push(r | last);
            d.push(pick(rng, VECTOR));
        } else {
            d.push(0xc4);
            let map = 1 + u8::from(rng.below(8) == 0);
            let high = if long { rng.next() as u8 & 0xe0 } else { 0xe0 };
            d.push(high | map);
            d.push(rng.next() as u8 & 0x80 | last);
            d.push(if map == 2 { 0x2a } else { pick(rng, VECTOR) });
        }
    } else {
        if long && rng.below(2) == 0 {
            d.push(0x40 | rng.next() as u8 & 15);
        }
        match rng.below(16) {
            0..=5 => {
                d.push(0x0f);
                d.push(pick(rng, TWO_BYTE));
            }
            6 => {
                d.push(0x0f);
                d.push(0x38);
                d.push(pick(rng, &[0xf0, 0xf1, 0x2a]));
            }
            _ => {
                let opcode = one_byte(rng, long);
                moffs = opcode & 0xfc == 0xa0;
                d.short = matches!(opcode, 0x70..=0x7f | 0xe0..=0xe3 | 0xeb);
                d.push(opcode);
            }
        }
    }
    if moffs {
        d.disp = Some((d.len, addr_size));
        return d;
    }
    let modrm = rng.next() as u8;
    d.push(modrm);
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if addr_size == 2 {
        match (mode, rm) {
            (0, 6) | (2, _) => d.disp = Some((d.len, 2)),
            (1, _) => d.disp = Some((d.len, 1)),
            _ => {}
        }
        return d;
    }
    let mut base = rm;
    if mode != 3 && rm == 4 {
        let sib = rng.next() as u8;
        base = sib & 7;
        d.push(sib);
    }
    match (mode, base) {
        (0, 5) | (2, _) => d.disp = Some((d.len, 4)),
        (1, _) => d.disp = Some((d.len, 1)),
        _ => {}
    }
    d
}

/// A value that tends to find edges.
pub fn value(rng: &mut Rng) -> u64 {
    let random = rng.next();
    match rng.below(8) {
        0 => random & 0xff,
        1 => (random as i8) as u64,
        2 => 1 << (random & 63),
        3 => (1 << (random & 63)) - 1,
        4 => (1u64 << (random & 63)).wrapping_neg(),
        5 => random & 0xffff_ffff,
        _ => random,
    }
}

fn runs_here(insn: &Insn) -> bool {
    match insn.op {
        // The thread's own base is in FS, and data in CS would be code.
        _ if matches!(insn.mem.seg, SegReg::Fs | SegReg::Cs) => false,
        Op::Movbe => is_x86_feature_detected!("movbe"),
        Op::CmpxchgPair if insn.op_size == 8 => is_x86_feature_detected!("cmpxchg16b"),
        Op::Clflush => insn.op_size == 4,
        // The result of a 16-bit BSWAP is undefined.
        Op::Bswap => insn.op_size != 2,
        Op::In | Op::Out | Op::Ins | Op::Outs => false,
        // No FS, as above; the rest is in another test.
        Op::Push if insn.src == Operand::Seg(SegReg::Fs) => false,
        // Only to see that user mode must not do it.
        _ if is_privileged(insn.op) => true,
        _ => is_plain(insn.op) && (!is_vector(insn) || has_avx()),
    }
}

/// Whether an operation is one that ordinary programs use, within a code segment.
pub fn is_plain(op: Op) -> bool {
    (op as u8) < Op::JmpFar as u8
}

/// Whether user mode gets #GP(0).
pub fn is_privileged(op: Op) -> bool {
    matches!(
        op,
        Op::Cli
            | Op::Sti
            | Op::MovCr
            | Op::Clts
            | Op::Lmsw
            | Op::Lgdt
            | Op::Lidt
            | Op::Lldt
            | Op::Ltr
            | Op::Invlpg
            | Op::Invd
            | Op::Wbinvd
            | Op::Rdmsr
            | Op::Wrmsr
            | Op::Hlt
    )
}

/// Whether the instruction uses the stack.
fn uses_stack(op: Op) -> bool {
    matches!(
        op,
        Op::Push
            | Op::Pop
            | Op::Pusha
            | Op::Popa
            | Op::Pushf
            | Op::Popf
            | Op::Enter
            | Op::Leave
            | Op::Call
            | Op::Ret
    )
}

/// Whether the instruction may go on somewhere else.
fn is_branch(op: Op) -> bool {
    matches!(op, Op::Jcc | Op::Loop | Op::Jmp | Op::Call | Op::Ret)
}

/// Whether the test can load and store vector registers.
pub fn has_avx() -> bool {
    is_x86_feature_detected!("avx")
}

/// Whether the instruction moves vectors.
pub fn is_vector(insn: &Insn) -> bool {
    matches!(insn.dst, Operand::Vec(_)) || matches!(insn.src, Operand::Vec(_))
}

fn is_string(insn: &Insn) -> bool {
    matches!(
        insn.op,
        Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas
    )
}

/// A linear address in the middle of the buffer, aligned to `align`.
fn place(rng: &mut Rng, align: u64) -> u64 {
    let middle = DATA + DATA_LEN as u64 / 4;
    (middle + rng.below(DATA_LEN as u64 / 2)) & !(align - 1)
}

/// Draws an instruction that will be at `place`, and its registers, from `state` on.
pub fn case(rng: &mut Rng, place: &Place, state: &mut State) -> Case {
    loop {
        let mut d = draft(rng, place.mode);
        let Ok(insn) = decode(&d.bytes[..MAX_LEN], place.mode) else {
            continue;
        };
        if !runs_here(&insn) {
            continue;
        }
        for n in 0..16 {
            state.gpr[n] = value(rng);
        }
        state.rflags = rng.next() & (rflags::STATUS | rflags::DF) | rflags::FIXED | rflags::IF;
        let aimed = aim(rng, &insn, &mut d, place, state);
        if !place.is_long() {
            for n in 0..16 {
                state.gpr[n] &= if n < 8 { 0xffff_ffff } else { 0 };
            }
        }
        let mut poke = None;
        if let Some(target) = aimed {
            if is_branch(insn.op) && !lead(rng, &insn, &mut d, place, state, target, &mut poke) {
                continue;
            }
            if insn.op == Op::Popf {
                // No single step; the rest as it comes.
                let flags = rng.next() & !rflags::TF;
                poke = Some((stack_top(place, state), flags, insn.op_size.into()));
            }
            if insn.op == Op::Bound && rng.below(4) != 0 {
                let high = (u64::MAX / 2).checked_shr(64 - u32::from(insn.op_size) * 8);
                let bits = u32::from(insn.op_size) * 8;
                let limits = high.unwrap_or(0) << bits | 1 << (bits - 1);
                poke = Some((target, limits, usize::from(insn.op_size) * 2));
            }
            let mut bytes = [0; MAX_LEN];
            bytes.copy_from_slice(&d.bytes[..MAX_LEN]);
            let insn = decode(&bytes, place.mode).expect("only the displacement changed");
            return Case {
                bytes,
                insn,
                target: (target != 0).then_some(target),
                poke,
            };
        }
    }
}

/// `value` cut to the address size, with garbage above.
fn with_garbage(rng: &mut Rng, insn: &Insn, value: u64) -> u64 {
    match insn.addr_size {
        2 => value & 0xffff | rng.next() & 0xffff_0000,
        4 => value & 0xffff_ffff | rng.next() << 32,
        _ => value,
    }
}

/// Sets registers and displacement so that memory operands are in the buffer, or says that it can't.
/// Returns the operand's linear address, or 0 if there is none.
fn aim(rng: &mut Rng, insn: &Insn, d: &mut Draft, at: &Place, state: &mut State) -> Option<u64> {
    if is_string(insn) {
        for (reg, seg) in [(Gpr::Rsi, insn.mem.seg), (Gpr::Rdi, SegReg::Es)] {
            let offset = place(rng, 1) - at.base(seg);
            state.gpr[reg.index()] = with_garbage(rng, insn, offset);
        }
        if insn.has(prefix::REPE | prefix::REPNE) {
            let count = rng.below(40);
            state.gpr[Gpr::Rcx.index()] = with_garbage(rng, insn, count);
        }
        return Some(0);
    }
    let uses_stack = uses_stack(insn.op);
    if uses_stack {
        // Mostly aligned: a locked access is not what this is about.
        let align = if rng.below(4) == 0 { 1 } else { 8 };
        state.gpr[Gpr::Rsp.index()] = place(rng, align) - at.base(SegReg::Ss);
        if insn.op == Op::Leave {
            state.gpr[Gpr::Rbp.index()] = place(rng, align) - at.base(SegReg::Ss);
        }
    }
    if insn.op == Op::Xlat {
        let offset = place(rng, 1) - at.base(insn.mem.seg) - (state.gpr[0] & 0xff);
        state.gpr[Gpr::Rbx.index()] = with_garbage(rng, insn, offset);
        return Some(0);
    }
    if insn.op == Op::Enter {
        // A small frame, and mostly no outer frames, which are refused.
        let at = insn.len as usize - 3;
        d.bytes[at + 1] &= 7;
        d.bytes[at + 2] = 0;
    }
    if is_privileged(insn.op) && insn.op != Op::Lmsw && insn.op != Op::Lldt && insn.op != Op::Ltr {
        return Some(0);
    }
    if insn.op == Op::Lea || insn.dst != Operand::Mem && insn.src != Operand::Mem {
        return Some(0);
    }
    let mem = insn.mem;
    let by_register = matches!(insn.op, Op::Bt | Op::Bts | Op::Btr | Op::Btc);
    if let (true, Operand::Reg(n)) = (by_register, insn.src) {
        if n == mem.base || n == mem.index {
            return None;
        }
        state.gpr[usize::from(n)] = (rng.below(0x4000) as i64 - 0x2000) as u64;
    }
    let locked = insn.has(prefix::LOCK) || insn.op == Op::Xchg || insn.op == Op::CmpxchgPair;
    let align = match locked || is_vector(insn) && rng.below(4) != 0 {
        // A locked access across cache lines may be an exception where the host says so.
        true => 32,
        false => 1,
    };
    let target = place(rng, align);
    let offset = target - at.base(mem.seg);
    // PUSH and POP use the stack pointer for both.
    let stack_pointer = Gpr::Rsp as u8;
    if uses_stack && (mem.base == stack_pointer || mem.index == stack_pointer) {
        return None;
    }
    if mem.index != Mem::NONE && mem.index == mem.base {
        return None;
    }
    let index = match mem.index {
        Mem::NONE => 0,
        n => {
            if mem.base == Mem::NONE {
                let small = rng.below(64);
                state.gpr[usize::from(n)] = with_garbage(rng, insn, small);
                small << mem.scale
            } else {
                state.gpr[usize::from(n)] << mem.scale
            }
        }
    };
    let aimed = match mem.base {
        Mem::NONE => d.set_disp(offset.wrapping_sub(index)),
        Mem::RIP => d.set_disp(offset.wrapping_sub(at.rip + u64::from(insn.len))),
        n => {
            let base = offset.wrapping_sub(index).wrapping_sub(mem.disp);
            state.gpr[usize::from(n)] = with_garbage(rng, insn, base);
            true
        }
    };
    aimed.then_some(target)
}

/// The linear address of the top of the stack.
fn stack_top(at: &Place, state: &State) -> u64 {
    let ss = at.segments[SegReg::Ss.index()];
    let rsp = state.gpr[Gpr::Rsp.index()];
    let offset = match at.mode {
        Mode::Long => rsp,
        _ if ss.ar & ar::DB != 0 => rsp & 0xffff_ffff,
        _ => rsp & 0xffff,
    };
    ss.base + offset
}

/// Has a branch lead to the landing place, or where nothing may be executed.
fn lead(
    rng: &mut Rng,
    insn: &Insn,
    d: &mut Draft,
    at: &Place,
    state: &mut State,
    target: u64,
    poke: &mut Option<(u64, u64, usize)>,
) -> bool {
    let size = usize::from(insn.op_size);
    if insn.op == Op::Loop {
        let count = match rng.below(3) {
            0 => rng.below(3),
            1 => rng.next() & 0xffff_0000,
            _ => rng.next(),
        };
        state.gpr[Gpr::Rcx.index()] = count;
    }
    let landing = at.rip + LANDING;
    if insn.src == Operand::Imm && insn.op != Op::Ret {
        let bytes = if d.short { 1 } else { size.min(4) };
        let distance = landing.wrapping_sub(at.rip + u64::from(insn.len));
        let start = usize::from(insn.len) - bytes;
        let outside = !at.is_long() && bytes == 4 && rng.below(8) == 0;
        let distance = if outside {
            distance ^ 0x10_0000
        } else {
            distance
        };
        d.bytes[start..start + bytes].copy_from_slice(&distance.to_le_bytes()[..bytes]);
        return true;
    }
    // Non-canonical, or beyond the limit; with two bytes there is no such place.
    let to = match (rng.below(8), at.is_long()) {
        (0, true) => landing ^ 1 << 63,
        (0, false) if size == 4 => landing ^ 0x4000_0000,
        _ => landing,
    };
    match (insn.op, insn.src) {
        (Op::Ret, _) => *poke = Some((stack_top(at, state), to, size)),
        (_, Operand::Mem) => *poke = Some((target, to, size)),
        (Op::Call, Operand::Reg(n)) if n == Gpr::Rsp as u8 => return false,
        (_, Operand::Reg(n)) => state.gpr[usize::from(n)] = to,
        _ => return false,
    }
    true
}
