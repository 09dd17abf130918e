// SPDX-License-Identifier: GPL-2.0-only

//! A decoded instruction.

use super::Mode;
use crate::model::x86::{Gpr, SegReg};

/// What an instruction does; the encodings that do the same share one.
///
/// Those in the last part are decoded, for their length and operands, but not executed here: they
/// access no memory, and end in exits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// No such instruction in the tables.
    None,

    // In the order of the reg field of group 1 and of bits 5 to 3 of the opcode.
    /// ADD.
    Add,
    /// OR.
    Or,
    /// ADC.
    Adc,
    /// SBB.
    Sbb,
    /// AND.
    And,
    /// SUB.
    Sub,
    /// XOR.
    Xor,
    /// CMP.
    Cmp,

    // In the order of the reg field of group 2.
    /// ROL.
    Rol,
    /// ROR.
    Ror,
    /// RCL.
    Rcl,
    /// RCR.
    Rcr,
    /// SHL, also known as SAL.
    Shl,
    /// SHR.
    Shr,
    /// SAR.
    Sar,

    // In the order of the reg field of group 8.
    /// BT.
    Bt,
    /// BTS.
    Bts,
    /// BTR.
    Btr,
    /// BTC.
    Btc,

    /// MOV of every form but segment, control and debug registers as destination; MOVNTI.
    Mov,
    /// MOVZX.
    Movzx,
    /// MOVSX and MOVSXD.
    Movsx,
    /// MOVBE.
    Movbe,
    /// TEST.
    Test,
    /// NOT.
    Not,
    /// NEG.
    Neg,
    /// INC.
    Inc,
    /// DEC.
    Dec,
    /// MUL.
    Mul,
    /// IMUL with one operand: the result is twice as wide.
    Imul1,
    /// IMUL with two operands, or with three of which the last is immediate.
    Imul,
    /// DIV.
    Div,
    /// IDIV.
    Idiv,
    /// XCHG.
    Xchg,
    /// XADD.
    Xadd,
    /// CMPXCHG.
    Cmpxchg,
    /// CMPXCHG8B and CMPXCHG16B.
    CmpxchgPair,
    /// SHLD.
    Shld,
    /// SHRD.
    Shrd,
    /// BSF.
    Bsf,
    /// BSR.
    Bsr,
    /// BSWAP.
    Bswap,
    /// SETcc.
    Setcc,
    /// CMOVcc.
    Cmovcc,
    /// LEA.
    Lea,
    /// CBW, CWDE, CDQE.
    Cbw,
    /// CWD, CDQ, CQO.
    Cwd,
    /// PUSH of a register, immediate or memory.
    Push,
    /// POP to a register or memory.
    Pop,
    /// NOP with and without an operand, PREFETCH.
    Nop,
    /// PAUSE.
    Pause,
    /// CLFLUSH, CLFLUSHOPT and CLWB.
    Clflush,
    /// PUSHA.
    Pusha,
    /// POPA.
    Popa,
    /// PUSHF.
    Pushf,
    /// POPF.
    Popf,
    /// ENTER; the immediate has the bytes to allocate, and the nesting level from bit 16 on.
    Enter,
    /// LEAVE.
    Leave,
    /// SAHF.
    Sahf,
    /// LAHF.
    Lahf,
    /// XLAT.
    Xlat,
    /// BOUND.
    Bound,
    /// DAA.
    Daa,
    /// DAS.
    Das,
    /// AAA.
    Aaa,
    /// AAS.
    Aas,
    /// AAM.
    Aam,
    /// AAD.
    Aad,
    /// SALC: AL becomes all CF.
    Salc,
    /// CMC.
    Cmc,
    /// CLC.
    Clc,
    /// STC.
    Stc,
    /// CLD.
    Cld,
    /// STD.
    Std,

    /// Jcc.
    Jcc,
    /// LOOPNE, LOOPE, LOOP and JCXZ by the low two bits of [`Insn::cond`].
    Loop,
    /// JMP within the code segment.
    Jmp,
    /// CALL within the code segment.
    Call,
    /// RET within the code segment.
    Ret,

    /// MOVS.
    Movs,
    /// CMPS.
    Cmps,
    /// STOS.
    Stos,
    /// LODS.
    Lods,
    /// SCAS.
    Scas,
    /// INS.
    Ins,
    /// OUTS.
    Outs,
    /// IN.
    In,
    /// OUT.
    Out,

    /// Vector load, the rest of the 128 bits cleared.
    VecLoad,
    /// Vector load whose address must be aligned to its size.
    VecLoadAligned,
    /// Load of the low half of an XMM register, the rest kept.
    VecLoadLow,
    /// Load of the high half of an XMM register, the rest kept.
    VecLoadHigh,
    /// Vector store from the low bytes of the register.
    VecStore,
    /// Vector store whose address must be aligned to its size.
    VecStoreAligned,
    /// Store of the high half of an XMM register.
    VecStoreHigh,

    /// JMP to another code segment; an immediate has the offset, and the selector from bit 32 on.
    JmpFar,
    /// CALL to another code segment, encoded as [`Op::JmpFar`].
    CallFar,
    /// RET to another code segment.
    RetFar,
    /// IRET of every size.
    Iret,
    /// INT3.
    Int3,
    /// INT n.
    Int,
    /// INTO.
    Into,
    /// MOV to a segment register.
    MovSeg,
    /// POP to a segment register.
    PopSeg,
    /// LES, LDS, LSS, LFS and LGS; the segment register is [`Insn::third`].
    LoadFar,

    /// CLI.
    Cli,
    /// STI.
    Sti,
    /// MOV from or to a control register.
    MovCr,
    /// MOV from or to a debug register.
    MovDr,
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw,
    /// SMSW.
    Smsw,
    /// SGDT.
    Sgdt,
    /// SIDT.
    Sidt,
    /// LGDT.
    Lgdt,
    /// LIDT.
    Lidt,
    /// SLDT.
    Sldt,
    /// STR.
    Str,
    /// LLDT.
    Lldt,
    /// LTR.
    Ltr,
    /// INVLPG.
    Invlpg,
    /// INVD.
    Invd,
    /// WBINVD and WBNOINVD.
    Wbinvd,
    /// CPUID.
    Cpuid,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// HLT.
    Hlt,

    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
    /// XGETBV.
    Xgetbv,
    /// XSETBV.
    Xsetbv,
    /// VMCALL (VMX).
    Vmcall,
    /// VMMCALL (SVM).
    Vmmcall,
    /// INT1, also known as ICEBP.
    Int1,
    /// SYSCALL.
    Syscall,
    /// SYSRET.
    Sysret,
    /// SYSENTER.
    Sysenter,
    /// SYSEXIT.
    Sysexit,
    /// UD2.
    Ud2,
}

/// An operand; the details are in the other fields of [`Insn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// There is none, or it is implied.
    None,
    /// A general register by number; [`Operand::HIGH_BYTE`] plus 0 to 3 are AH, CH, DH and BH.
    Reg(u8),
    /// The memory operand, [`Insn::mem`].
    Mem,
    /// The immediate operand, [`Insn::imm`].
    Imm,
    /// A vector register.
    Vec(u8),
    /// A segment register.
    Seg(SegReg),
    /// A control register.
    Cr(u8),
    /// A debug register.
    Dr(u8),
}

impl Operand {
    /// The number of AH; CH, DH and BH follow.
    pub const HIGH_BYTE: u8 = 16;

    /// The accumulator.
    pub const ACC: Self = Self::Reg(Gpr::Rax as u8);
}

/// The address of the memory operand, before registers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// The segment after overrides.
    pub seg: SegReg,
    /// The number of the base register, or [`Mem::NONE`] or [`Mem::RIP`].
    pub base: u8,
    /// The number of the index register or [`Mem::NONE`].
    pub index: u8,
    /// The index is shifted left by this, 0 to 3.
    pub scale: u8,
    /// The displacement, sign-extended, or the whole address.
    pub disp: u64,
}

impl Mem {
    /// No register.
    pub const NONE: u8 = 0xff;
    /// As a base: the address of the next instruction.
    pub const RIP: u8 = 16;
}

/// Prefix bits of [`Insn::prefix`].
pub mod prefix {
    /// LOCK.
    pub const LOCK: u8 = 1 << 0;
    /// REP and REPE (F3), unless it is part of the opcode.
    pub const REPE: u8 = 1 << 1;
    /// REPNE (F2), unless it is part of the opcode.
    pub const REPNE: u8 = 1 << 2;
    /// The encoding was a VEX one: the vector register's upper part is cleared.
    pub const VEX: u8 = 1 << 3;
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// What it does.
    pub op: Op,
    /// The mode it was decoded for.
    pub mode: Mode,
    /// Its length in bytes, 1 to 15.
    pub len: u8,
    /// The size of its operands in bytes: 1, 2, 4 or 8; for vector moves 4 to 32.
    pub op_size: u8,
    /// The size of addresses in bytes: 2, 4 or 8.
    pub addr_size: u8,
    /// The size of the source of MOVZX and MOVSX in bytes; `op_size` otherwise.
    pub src_size: u8,
    /// The condition of SETcc and CMOVcc as the opcode encodes it, 0 to 15; of no meaning elsewhere.
    pub cond: u8,
    /// Bits of [`prefix`].
    pub prefix: u8,
    /// The destination.
    pub dst: Operand,
    /// The source. SHLD, SHRD and IMUL have a third operand: [`Insn::third`].
    pub src: Operand,
    /// The third operand.
    pub third: Operand,
    /// The memory operand, if one of the operands is [`Operand::Mem`]; its segment is that of the
    /// source of string instructions too.
    pub mem: Mem,
    /// The immediate, sign-extended where the instruction does so.
    pub imm: u64,
}

impl Insn {
    /// Nothing yet.
    pub(super) const fn empty(mode: Mode) -> Self {
        Self {
            op: Op::None,
            mode,
            len: 0,
            op_size: 0,
            addr_size: 0,
            src_size: 0,
            cond: 0,
            prefix: 0,
            dst: Operand::None,
            src: Operand::None,
            third: Operand::None,
            mem: Mem {
                seg: SegReg::Ds,
                base: Mem::NONE,
                index: Mem::NONE,
                scale: 0,
                disp: 0,
            },
            imm: 0,
        }
    }

    /// Whether it is one of those that device drivers use, and accesses no memory but its operand: what an exit
    /// tells about an access is about that one.
    pub const fn accesses_operand_only(&self) -> bool {
        use Op::{
            Adc, Add, And, Cmovcc, Cmp, Cmpxchg, Dec, Inc, Lods, Mov, Movbe, Movsx, Movzx, Neg,
            Not, Or, Sbb, Scas, Setcc, Stos, Sub, Test, Xadd, Xchg, Xor,
        };
        matches!(
            self.op,
            Adc | Add
                | And
                | Cmovcc
                | Cmp
                | Cmpxchg
                | Dec
                | Inc
                | Lods
                | Mov
                | Movbe
                | Movsx
                | Movzx
                | Neg
                | Not
                | Or
                | Sbb
                | Scas
                | Setcc
                | Stos
                | Sub
                | Test
                | Xadd
                | Xchg
                | Xor
        )
    }

    /// Whether `bit` of [`prefix`] is set.
    pub const fn has(&self, bit: u8) -> bool {
        self.prefix & bit != 0
    }
}
