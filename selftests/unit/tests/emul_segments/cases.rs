// SPDX-License-Identifier: GPL-2.0-only

//! Random instructions around what segments allow, and the registers to run them with.

use crate::cpu::{State, CODE, CODE_LEN, DATA, FRAME, READABLE, WRITABLE};
use crate::machine::Soft;
use crate::rng::Rng;
use crate::tables::{
    local, CODE16, CODE32, GLOBAL_END, LOCAL_END, SEGMENTS, STACKS, USER_CODE, USER_CODE32,
    USER_DATA,
};
use vireo_model::model::emul::{Mode, MAX_LEN};
use vireo_model::model::x86::{ar, rflags, SegReg};

/// What the instructions are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// JMP and CALL to a selector in the instruction.
    FarImmediate,
    /// JMP and CALL through a far pointer in memory.
    FarMemory,
    /// RET to another segment.
    FarReturn,
    Iret,
    /// MOV, POP, LES and their kin.
    LoadSegment,
    /// PUSH of, and MOV from, a segment register.
    StoreSegment,
    /// An operand in memory.
    Data,
    /// PUSH, POP and what else uses the stack.
    Stack,
    /// Strings, with and without REP.
    Strings,
    /// INT, INT3, INTO, BOUND.
    Interrupts,
    /// Branches within the segment.
    Near,
}

/// All of them.
pub const FAMILIES: [Family; 11] = [
    Family::FarImmediate,
    Family::FarMemory,
    Family::FarReturn,
    Family::Iret,
    Family::LoadSegment,
    Family::StoreSegment,
    Family::Data,
    Family::Stack,
    Family::Strings,
    Family::Interrupts,
    Family::Near,
];

/// Prefixes that name a segment, in the order of the registers.
const OVERRIDES: [u8; 6] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

/// The address of the kernel's system-call gate.
const SYSTEM_CALL: u8 = 0x80;

/// Bytes at either end of the largest stacks where none is put.
const EDGE: u32 = 128;

/// An instruction, where it is, and what it starts with.
pub struct Case {
    pub family: Family,
    pub mode: Mode,
    pub bytes: Vec<u8>,
    /// Where in the code area.
    pub offset: usize,
    pub state: State,
    /// What is to be in the data before: offset and bytes.
    pub pokes: Vec<(usize, Vec<u8>)>,
}

/// A case that is being made.
struct Draft<'a> {
    rng: &'a mut Rng,
    soft: &'a Soft,
    case: Case,
    /// Bytes of operands and of addresses.
    op: u8,
    addr: u8,
    segment: Option<SegReg>,
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

/// A selector of any kind.
fn selector(rng: &mut Rng) -> u16 {
    let rpl = match rng.below(4) {
        0 => rng.below(4) as u16,
        _ => 3,
    };
    let number = match rng.below(4) {
        0 => rng.below(u64::from(GLOBAL_END) + 1) as u16 * 8,
        _ => rng.below(u64::from(LOCAL_END) + 1) as u16 * 8 + 4,
    };
    match rng.below(16) {
        0 => rpl,
        1 => pick(rng, &[USER_CODE, USER_CODE32, USER_DATA]),
        _ => number | rpl,
    }
}

/// Draws a case.
pub fn case(rng: &mut Rng, soft: &Soft) -> Case {
    let family = pick(rng, &FAMILIES);
    let mode = pick(
        rng,
        &[
            Mode::Long,
            Mode::Protected32,
            Mode::Protected32,
            Mode::Protected16,
            Mode::Protected16,
        ],
    );
    let mut state = State::default();
    for gpr in &mut state.gpr {
        *gpr = rng.next();
    }
    let shown = rflags::STATUS | rflags::DF;
    state.rflags = rng.next() & shown | rflags::FIXED | rflags::IF;
    for (bit, one_in) in [
        (rflags::NT, 32),
        (rflags::AC, 8),
        (rflags::ID, 8),
        (rflags::RF, 16),
    ] {
        if rng.below(one_in) == 0 {
            state.rflags |= bit;
        }
    }
    if rng.below(4) != 0 {
        state.rflags |= rflags::TF;
    }
    let cs = match mode {
        Mode::Long => USER_CODE,
        Mode::Protected16 => local(pick(rng, &CODE16)),
        _ if rng.below(4) == 0 => USER_CODE32,
        _ => local(pick(rng, &CODE32)),
    };
    for reg in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
        state.selectors[reg.index()] = match rng.below(8) {
            // No other null selector: an interrupt would make it this one.
            0 => 0,
            1 => USER_DATA,
            _ => local(pick(rng, &SEGMENTS)),
        };
    }
    state.selectors[SegReg::Cs.index()] = cs;
    state.selectors[SegReg::Ss.index()] = match rng.below(8) {
        0 => USER_DATA,
        _ => local(pick(rng, &STACKS)),
    };
    if mode != Mode::Long {
        for (n, gpr) in state.gpr.iter_mut().enumerate() {
            *gpr &= if n < 8 { 0xffff_ffff } else { 0 };
        }
    }
    let limit = soft.describe(cs).limit as usize;
    let end = match limit {
        _ if mode == Mode::Long => CODE_LEN,
        _ => CODE_LEN.min(limit + 1),
    };
    // Sometimes the instruction crosses the end of the segment or of what is mapped, or of a page.
    let offset = match rng.below(32) {
        0 => end - 1 - rng.below(8) as usize,
        1 => (0x1000 - 1 - rng.below(8) as usize).min(end - 1),
        _ => rng.below(end as u64 - 32) as usize,
    };
    let mut draft = Draft {
        rng,
        soft,
        case: Case {
            family,
            mode,
            bytes: Vec::new(),
            offset,
            state,
            pokes: Vec::new(),
        },
        op: 0,
        addr: 0,
        segment: None,
    };
    let base = draft.base(SegReg::Cs);
    draft.case.state.rip = CODE + offset as u64 - base;
    draft.stack_pointer();
    draft.instruction();
    draft.case
}

impl Draft<'_> {
    fn is_long(&self) -> bool {
        self.case.mode == Mode::Long
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.rng.below(n) == 0
    }

    fn base(&self, reg: SegReg) -> u64 {
        if self.is_long() && !matches!(reg, SegReg::Fs | SegReg::Gs) {
            return 0;
        }
        let selector = self.case.state.selectors[reg.index()];
        self.soft.describe(selector).base
    }

    /// An offset in a segment: in the data, or around the segment's or the data's ends.
    fn offset(&mut self, reg: SegReg) -> u64 {
        let segment = self.soft.describe(self.case.state.selectors[reg.index()]);
        let near = self.rng.below(24).wrapping_sub(12);
        let base = self.base(reg);
        let aligned = self.rng.next() & !15;
        // What happens at the end of the largest segments is the processor's choice.
        let down = segment.ar & (ar::EXPAND_DOWN | ar::DB) == ar::EXPAND_DOWN | ar::DB;
        let flat = segment.limit == u32::MAX || down;
        match self.rng.below(16) {
            0..=2 if segment.limit != u32::MAX => u64::from(segment.limit).wrapping_add(near),
            3 if flat => near & 0xf,
            3 => near,
            4 => (DATA + WRITABLE as u64)
                .wrapping_sub(base)
                .wrapping_add(near),
            5 => (DATA + READABLE as u64)
                .wrapping_sub(base)
                .wrapping_add(near),
            6 => near.wrapping_add(0xffff),
            7 if self.is_long() => near ^ 1 << 47,
            7 if flat => near & 0xf,
            7 => near.wrapping_add(0xffff_ffff),
            8..=10 => DATA - base.min(DATA) + self.rng.below(WRITABLE as u64),
            _ => DATA - base.min(DATA) + aligned % WRITABLE as u64,
        }
    }

    /// RSP: what the stack segment keeps of IRET's, and where in the segment.
    fn stack_pointer(&mut self) {
        let ss = self
            .soft
            .describe(self.case.state.selectors[SegReg::Ss.index()]);
        let mut offset = self.offset(SegReg::Ss);
        // What happens where addresses wrap around is the processor's choice.
        let down = ss.ar & (ar::EXPAND_DOWN | ar::DB) == ar::EXPAND_DOWN | ar::DB;
        let low = offset as u32;
        let around = low.wrapping_add(EDGE) < EDGE * 2;
        // A call may leave the segments' limits behind.
        let far = matches!(self.case.family, Family::FarImmediate | Family::FarMemory);
        if around && (far || self.is_long() || ss.limit == u32::MAX || down) {
            offset ^= 0x1000;
        }
        self.case.state.gpr[4] = if self.is_long() {
            offset
        } else if ss.ar & ar::DB != 0 {
            offset & 0xffff_ffff
        } else {
            FRAME & 0xffff_0000 | offset & 0xffff
        };
    }

    /// The address of the top of the stack.
    fn stack_top(&self) -> u64 {
        let ss = self
            .soft
            .describe(self.case.state.selectors[SegReg::Ss.index()]);
        let rsp = self.case.state.gpr[4];
        match ss.ar & ar::DB {
            _ if self.is_long() => rsp,
            0 => ss.base + (rsp & 0xffff),
            _ => (ss.base + (rsp & 0xffff_ffff)) & 0xffff_ffff,
        }
    }

    /// Puts bytes at a linear address, as far as there is data.
    fn poke(&mut self, linear: u64, bytes: &[u8]) {
        let at = linear.wrapping_sub(DATA);
        if at < WRITABLE as u64 {
            let at = at as usize;
            let len = bytes.len().min(WRITABLE - at);
            self.case.pokes.push((at, bytes[..len].to_vec()));
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.case.bytes.extend_from_slice(bytes);
    }

    /// Prefixes, which settle the sizes.
    fn prefixes(&mut self) {
        let wide = self.case.mode != Mode::Protected16;
        let (op, addr) = (self.one_in(4), self.one_in(8));
        self.op = if wide == op { 2 } else { 4 };
        self.addr = match (self.case.mode, addr) {
            (Mode::Long, false) => 8,
            (Mode::Long, true) | (Mode::Protected32, false) | (Mode::Protected16, true) => 4,
            _ => 2,
        };
        if op {
            self.push(&[0x66]);
        }
        if addr {
            self.push(&[0x67]);
        }
    }

    fn rex(&mut self) {
        if self.is_long() && self.one_in(3) {
            self.push(&[0x48]);
            self.op = 8;
        }
    }

    /// Chooses the segment of the operand in memory.
    fn choose_segment(&mut self) {
        let n = self.rng.below(6) as usize;
        if self.one_in(2) {
            self.push(&[OVERRIDES[n]]);
            let reg = SegReg::from_number(n as u8).expect("six segment registers");
            if !self.is_long() || n >= 4 {
                self.segment = Some(reg);
            }
        }
    }

    /// ModRM with this reg field and an operand in memory; returns the operand's linear address.
    fn memory(&mut self, reg: u8) -> u64 {
        let segment = self.segment.unwrap_or(SegReg::Ds);
        let mut offset = self.offset(segment);
        if self.addr == 2 {
            // [BX], or an address of 16 bits.
            if self.one_in(2) {
                self.case.state.gpr[3] = offset & 0xffff | self.case.state.gpr[3] & 0xffff_0000;
                self.push(&[reg << 3 | 7]);
            } else {
                self.push(&[reg << 3 | 6]);
                self.push(&(offset as u16).to_le_bytes());
            }
            offset &= 0xffff;
        } else {
            if self.addr == 4 {
                offset &= 0xffff_ffff;
            }
            self.case.state.gpr[3] = offset;
            self.push(&[reg << 3 | 3]);
        }
        let linear = self.base(segment).wrapping_add(offset);
        if self.is_long() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// An offset in the code for `selector`, mostly one where something is.
    fn code_offset(&mut self, selector: u16) -> u64 {
        let known = selector & 4 != 0 && selector >> 3 < LOCAL_END || selector >> 3 < GLOBAL_END;
        let segment = match known {
            true => self.soft.describe(selector),
            false => Default::default(),
        };
        let inside = CODE + self.rng.below(CODE_LEN as u64);
        let near = self.rng.below(6).wrapping_sub(3);
        match self.rng.below(8) {
            0 => u64::from(segment.limit).wrapping_add(near),
            1 => self.rng.next() >> self.rng.below(64),
            2 => self.rng.next() as i32 as u64,
            _ => inside.wrapping_sub(segment.base),
        }
    }

    /// A selector for code, mostly one that is.
    fn code_selector(&mut self) -> u16 {
        match self.rng.below(4) {
            0 => selector(self.rng),
            1 => pick(self.rng, &[USER_CODE, USER_CODE32]),
            2 => local(pick(self.rng, &CODE16)),
            _ => local(pick(self.rng, &CODE32)),
        }
    }

    fn stack_selector(&mut self) -> u16 {
        match self.rng.below(4) {
            0 => selector(self.rng),
            _ => local(pick(self.rng, &STACKS)),
        }
    }

    /// Values for the stack, each of `size` bytes.
    fn frame(&mut self, values: &[u64], size: u8) {
        let top = self.stack_top();
        for (n, value) in (0..).zip(values) {
            let bytes = &value.to_le_bytes()[..usize::from(size)];
            self.poke(top.wrapping_add(n * u64::from(size)), bytes);
        }
    }

    fn instruction(&mut self) {
        match self.case.family {
            Family::FarImmediate => self.far_immediate(),
            Family::FarMemory => self.far_memory(),
            Family::FarReturn => self.far_return(),
            Family::Iret => self.iret(),
            Family::LoadSegment => self.load_segment(),
            Family::StoreSegment => self.store_segment(),
            Family::Data => self.data(),
            Family::Stack => self.stack(),
            Family::Strings => self.strings(),
            Family::Interrupts => self.interrupts(),
            Family::Near => self.near(),
        }
        self.case.bytes.truncate(MAX_LEN);
    }

    fn far_immediate(&mut self) {
        self.prefixes();
        let opcode = pick(self.rng, &[0x9a, 0xea]);
        let selector = self.code_selector();
        let offset = self.code_offset(selector).to_le_bytes();
        self.push(&[opcode]);
        let size = usize::from(self.op);
        self.push(&offset[..size]);
        self.push(&selector.to_le_bytes());
    }

    fn far_memory(&mut self) {
        self.prefixes();
        self.choose_segment();
        let reg = pick(self.rng, &[3, 5]);
        self.push(&[0xff]);
        self.far_pointer(reg);
    }

    fn far_pointer(&mut self, reg: u8) {
        let linear = self.memory(reg);
        let selector = self.code_selector();
        let offset = self.code_offset(selector).to_le_bytes();
        let size = u64::from(self.op);
        self.poke(linear, &offset[..usize::from(self.op)]);
        self.poke(linear.wrapping_add(size), &selector.to_le_bytes());
    }

    fn far_return(&mut self) {
        self.prefixes();
        self.rex();
        if self.one_in(2) {
            self.push(&[0xcb]);
        } else {
            let bytes = self.rng.next() as u16 & pick(self.rng, &[0xff, 0xffff]);
            self.push(&[0xca]);
            self.push(&bytes.to_le_bytes());
        }
        let cs = self.code_selector();
        let rip = self.code_offset(cs);
        let high = self.rng.next() << 16;
        self.frame(&[rip, u64::from(cs) | high], self.op);
    }

    fn iret(&mut self) {
        self.prefixes();
        self.rex();
        self.push(&[0xcf]);
        let cs = self.code_selector();
        let rip = self.code_offset(cs);
        let mut flags = self.rng.next();
        if self.one_in(2) {
            flags |= rflags::TF;
        }
        // Some processors read the rest of the frame with the new AC, and give back the old one in the
        // fault, which the kernel takes for a split lock.
        if !self.stack_top().is_multiple_of(8) {
            flags &= !rflags::AC;
        }
        let rsp = self.rng.next() >> self.rng.below(64);
        let ss = self.stack_selector();
        let high = self.rng.next() << 16;
        let values = [rip, u64::from(cs) | high, flags, rsp, u64::from(ss) | high];
        self.frame(&values, self.op);
    }

    fn load_segment(&mut self) {
        self.prefixes();
        self.choose_segment();
        let selector = match self.one_in(4) {
            true => self.stack_selector(),
            false => selector(self.rng),
        };
        match self.rng.below(4) {
            // MOV, from memory and from a register; 1, 6 and 7 are no registers that can be loaded.
            0 => {
                self.rex();
                let reg = self.rng.below(8) as u8;
                self.push(&[0x8e]);
                let linear = self.memory(reg);
                self.poke(linear, &selector.to_le_bytes());
            }
            1 => {
                self.rex();
                let reg = self.rng.below(8) as u8;
                self.push(&[0x8e, 0xc1 | reg << 3]);
                let high = self.case.state.gpr[1] & !0xffff;
                self.case.state.gpr[1] = high | u64::from(selector);
            }
            2 => {
                let pops: [&[u8]; 5] = [&[0x07], &[0x17], &[0x1f], &[0x0f, 0xa1], &[0x0f, 0xa9]];
                let opcode = pick(self.rng, &pops);
                self.push(opcode);
                let high = self.rng.next() << 16;
                self.frame(
                    &[u64::from(selector) | high],
                    if self.is_long() { 8 } else { 4 },
                );
            }
            _ => {
                let loads: [&[u8]; 5] = [
                    &[0xc4],
                    &[0xc5],
                    &[0x0f, 0xb2],
                    &[0x0f, 0xb4],
                    &[0x0f, 0xb5],
                ];
                let opcode = pick(self.rng, &loads);
                let reg = self.rng.below(8) as u8;
                self.push(opcode);
                let linear = self.memory(reg);
                let at = linear.wrapping_add(u64::from(self.op));
                self.poke(at, &selector.to_le_bytes());
            }
        }
    }

    fn store_segment(&mut self) {
        self.prefixes();
        self.choose_segment();
        let opcodes: [&[u8]; 6] = [
            &[0x06],
            &[0x0e],
            &[0x16],
            &[0x1e],
            &[0x0f, 0xa0],
            &[0x0f, 0xa8],
        ];
        match self.rng.below(3) {
            0 => {
                let opcode = pick(self.rng, &opcodes);
                self.push(opcode);
            }
            1 => {
                self.rex();
                let reg = self.rng.below(8) as u8;
                self.push(&[0x8c]);
                self.memory(reg);
            }
            _ => {
                self.rex();
                let modrm = 0xc0 | self.rng.next() as u8;
                // Not into RSP, which the kernel looks at.
                self.push(&[0x8c, modrm & !4]);
            }
        }
    }

    fn data(&mut self) {
        self.prefixes();
        self.choose_segment();
        self.rex();
        // Opcode, reg field if it is fixed, and bytes of immediate.
        let operations: [(&[u8], Option<u8>, usize); 25] = [
            (&[0x88], None, 0),
            (&[0x89], None, 0),
            (&[0x8a], None, 0),
            (&[0x8b], None, 0),
            (&[0xc6], Some(0), 1),
            (&[0x00], None, 0),
            (&[0x01], None, 0),
            (&[0x03], None, 0),
            (&[0x29], None, 0),
            (&[0x39], None, 0),
            (&[0x3b], None, 0),
            (&[0x83], Some(0), 1),
            (&[0x83], Some(7), 1),
            (&[0x87], None, 0),
            (&[0xf6], Some(2), 0),
            (&[0xf7], Some(3), 0),
            (&[0xff], Some(0), 0),
            (&[0xfe], Some(1), 0),
            (&[0x0f, 0x90], None, 0),
            (&[0x0f, 0x44], None, 0),
            (&[0x0f, 0xb0], None, 0),
            (&[0x0f, 0xb1], None, 0),
            (&[0x0f, 0xb6], None, 0),
            (&[0x0f, 0xbf], None, 0),
            (&[0x0f, 0xc7], Some(1), 0),
        ];
        let (opcode, fixed, immediate) = pick(self.rng, &operations);
        // A locked access across cache lines may be an exception of its own.
        let locks = opcode == [0x87] || opcode == [0x0f, 0xc7];
        let any = self.rng.below(8) as u8;
        self.push(opcode);
        let linear = self.memory(fixed.unwrap_or(any));
        if locks && linear & 63 > 48 {
            self.case.bytes.clear();
            return self.push(&[0x90]);
        }
        let bytes = self.rng.next().to_le_bytes();
        self.push(&bytes[..immediate]);
    }

    fn stack(&mut self) {
        self.prefixes();
        let opcodes: [&[u8]; 14] = [
            &[0x50],
            &[0x54],
            &[0x58],
            &[0x5c],
            &[0x6a],
            &[0x60],
            &[0x61],
            &[0x9c],
            &[0x9d],
            &[0xc9],
            &[0xc8],
            &[0xff],
            &[0x8f],
            &[0xc3],
        ];
        let opcode = pick(self.rng, &opcodes);
        match opcode[0] {
            0xff | 0x8f => {
                self.choose_segment();
                self.push(opcode);
                let reg = if opcode[0] == 0xff { 6 } else { 0 };
                self.memory(reg);
            }
            0xc8 => {
                let bytes = self.rng.next() as u16 & pick(self.rng, &[0xff, 0xfff]);
                self.push(opcode);
                self.push(&bytes.to_le_bytes());
                self.push(&[0]);
            }
            0x6a => {
                let byte = self.rng.next() as u8;
                self.push(&[0x6a, byte]);
            }
            0xc9 => {
                // The frame pointer takes the stack pointer's place.
                self.case.state.gpr[5] = self.case.state.gpr[4];
                self.stack_pointer();
                self.case.state.gpr.swap(4, 5);
                self.push(opcode);
            }
            0xc3 => {
                let cs = self.case.state.selectors[SegReg::Cs.index()];
                let rip = self.code_offset(cs);
                self.push(opcode);
                self.frame(&[rip], if self.is_long() { 8 } else { self.op });
            }
            _ => self.push(opcode),
        }
    }

    fn strings(&mut self) {
        self.prefixes();
        self.choose_segment();
        if self.one_in(2) {
            let rep = pick(self.rng, &[0xf2, 0xf3]);
            self.push(&[rep]);
            self.case.state.gpr[1] = self.rng.below(6);
        }
        self.rex();
        for (gpr, reg) in [(6, self.segment.unwrap_or(SegReg::Ds)), (7, SegReg::Es)] {
            let mut offset = self.offset(reg);
            if self.addr == 2 {
                offset &= 0xffff;
            } else if self.addr == 4 || !self.is_long() {
                offset &= 0xffff_ffff;
            }
            self.case.state.gpr[gpr] = offset;
        }
        let opcode = pick(
            self.rng,
            &[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf],
        );
        self.push(&[opcode]);
    }

    fn interrupts(&mut self) {
        self.prefixes();
        match self.rng.below(5) {
            0 => self.push(&[0xcc]),
            1 => self.push(&[0xce]),
            2 => {
                let n = match self.rng.below(4) {
                    0 => self.rng.below(5) as u8,
                    _ => self.rng.next() as u8,
                };
                let n = if n == SYSTEM_CALL { 3 } else { n };
                self.push(&[0xcd, n]);
            }
            _ => {
                self.choose_segment();
                self.push(&[0x62]);
                let linear = self.memory(1);
                let high = self.rng.next() >> 1;
                self.poke(linear, &[0; 4]);
                let at = linear.wrapping_add(u64::from(self.op));
                self.poke(at, &high.to_le_bytes()[..usize::from(self.op)]);
            }
        }
    }

    fn near(&mut self) {
        self.prefixes();
        let distance = (self.rng.next() >> self.rng.below(64)) as u32;
        let distance = match self.one_in(2) {
            true => distance & 0xfff,
            false => distance,
        };
        let bytes = distance.to_le_bytes();
        // What a prefix of 66 does to near branches in 64-bit mode depends on the vendor.
        let size = usize::from(self.op.clamp(2, 4));
        match self.rng.below(5) {
            0 => {
                self.push(&[0xeb, bytes[0]]);
            }
            1 => {
                let condition = 0x70 | self.rng.next() as u8 & 15;
                self.push(&[condition, bytes[0]]);
            }
            2 => {
                let opcode = pick(self.rng, &[0xe0, 0xe1, 0xe2, 0xe3]);
                self.push(&[opcode, bytes[0]]);
            }
            3 => {
                let opcode = pick(self.rng, &[0xe8, 0xe9]);
                self.push(&[opcode]);
                self.push(&bytes[..size]);
            }
            _ => {
                let cs = self.case.state.selectors[SegReg::Cs.index()];
                let reg = pick(self.rng, &[2, 4]);
                self.case.state.gpr[3] = self.code_offset(cs);
                if !self.is_long() {
                    self.case.state.gpr[3] &= 0xffff_ffff;
                }
                self.push(&[0xff, 0xc0 | reg << 3 | 3]);
            }
        }
    }
}
