// SPDX-License-Identifier: GPL-2.0-only

//! Executes a decoded instruction.

use super::addr::{effective, truncate};
use super::insn::{prefix, Insn, Op, Operand};
use super::privileged::SystemReg;
use super::{alu, muldiv, plain, Access, Done, Machine, Mode, Stop};
use crate::model::x86::{rflags, Exception, Gpr};

/// Bytes of the largest integer access.
const WORD: usize = 8;

/// An instruction being executed.
pub(super) struct Exec<'a, M> {
    pub(super) m: &'a mut M,
    pub(super) insn: &'a Insn,
    /// RIP of the next instruction in sequence.
    pub(super) next_rip: u64,
}

/// Executes `insn`, which was decoded from the bytes at RIP in the current mode.
pub fn execute<M: Machine>(m: &mut M, insn: &Insn) -> Result<Done, Stop> {
    let next_rip = super::addr::wrap(m.rip().wrapping_add(u64::from(insn.len)), insn.mode);
    Exec { m, insn, next_rip }.run()
}

/// The destination of an instruction that reads, changes and writes it.
struct Target {
    /// Its linear address, if it is in memory.
    linear: u64,
    /// Its old value.
    value: u64,
}

impl<M: Machine> Exec<'_, M> {
    fn run(&mut self) -> Result<Done, Stop> {
        if self.insn.mode == Mode::Virtual8086 {
            return Err(Stop::Unhandled);
        }
        // What device drivers use comes first: in the kernel the match is a search, not a table.
        if self.insn.op == Op::Mov {
            return self.mov();
        }
        match self.insn.op {
            Op::Movzx | Op::Movsx => self.extend(),
            Op::Movbe => self.movbe(),
            Op::Add | Op::Or | Op::Adc | Op::Sbb | Op::And | Op::Sub | Op::Xor => self.binary(),
            Op::Cmp | Op::Test => self.compare_operands(),
            Op::Not | Op::Neg | Op::Inc | Op::Dec => self.unary(),
            Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar => self.shift(),
            Op::Shld | Op::Shrd => self.double_shift(),
            Op::Bt | Op::Bts | Op::Btr | Op::Btc => self.bit_test(),
            Op::Bsf | Op::Bsr => self.bit_scan(),
            Op::Bswap => self.bswap(),
            Op::Xchg => self.xchg(),
            Op::Xadd => self.xadd(),
            Op::Cmpxchg => self.cmpxchg(),
            Op::CmpxchgPair => self.cmpxchg_pair(),
            Op::Mul | Op::Imul1 => self.mul_wide(),
            Op::Imul => self.imul(),
            Op::Div | Op::Idiv => self.div(),
            Op::Setcc => self.setcc(),
            Op::Cmovcc => self.cmovcc(),
            Op::Lea => self.lea(),
            Op::Cbw | Op::Cwd => self.widen_accumulator(),
            Op::Push => self.push(),
            Op::Pop => self.pop(),
            Op::Pusha => self.push_all(),
            Op::Popa => self.pop_all(),
            Op::Pushf => self.push_flags(),
            Op::Popf => self.pop_flags(),
            Op::Enter => self.enter(),
            Op::Leave => self.leave(),
            Op::Sahf | Op::Lahf => self.flags_and_ah(),
            Op::Xlat => self.translate(),
            Op::Bound => self.bound(),
            Op::Daa | Op::Das => self.decimal_adjust(),
            Op::Aaa | Op::Aas => self.ascii_adjust(),
            Op::Aam | Op::Aad => self.ascii_scale(),
            Op::Salc => self.salc(),
            Op::Cmc | Op::Clc | Op::Stc | Op::Cld | Op::Std => self.change_flag(),
            Op::Jcc => self.jump_if(),
            Op::Loop => self.count_and_jump(),
            Op::Jmp => self.jump(),
            Op::Call => self.call(),
            Op::Ret => self.ret(),
            Op::JmpFar => self.jump_far(),
            Op::CallFar => self.call_far(),
            Op::RetFar => self.ret_far(),
            Op::Iret => self.iret(),
            Op::Int3 | Op::Int | Op::Into => self.interrupt(),
            Op::MovSeg => self.mov_segment(),
            Op::PopSeg => self.pop_segment(),
            Op::LoadFar => self.load_far(),
            Op::Cli | Op::Sti => self.change_interrupt_flag(),
            Op::MovCr => self.mov_control(),
            Op::MovDr => self.mov_debug(),
            Op::Clts | Op::Lmsw => self.machine_status(),
            Op::Smsw | Op::Sldt | Op::Str => self.store_system(),
            Op::Sgdt | Op::Sidt => self.store_table(),
            Op::Lgdt | Op::Lidt => self.load_table(),
            Op::Lldt => self.load_system_segment(SystemReg::Ldtr),
            Op::Ltr => self.load_system_segment(SystemReg::Tr),
            Op::Invlpg => self.invalidate_page(),
            Op::Invd | Op::Wbinvd => self.flush_caches(),
            Op::Cpuid => self.cpuid(),
            Op::Rdmsr => self.read_msr(),
            Op::Wrmsr => self.write_msr(),
            Op::Hlt => self.halt(),
            Op::Nop | Op::Pause => self.retire(),
            Op::Clflush => self.clflush(),
            Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas | Op::Ins | Op::Outs => {
                self.string()
            }
            Op::In => self.input(),
            Op::Out => self.output(),
            Op::VecLoad
            | Op::VecLoadAligned
            | Op::VecLoadLow
            | Op::VecLoadHigh
            | Op::VecStore
            | Op::VecStoreAligned
            | Op::VecStoreHigh => self.vector(),
            _ => Err(Stop::Unhandled),
        }
    }

    /// Ends the instruction.
    pub(super) fn retire(&mut self) -> Result<Done, Stop> {
        self.m.retire(self.next_rip);
        Ok(Done::Retired)
    }

    /// Sets the status flags and ends the instruction.
    pub(super) fn retire_with(&mut self, status: u64) -> Result<Done, Stop> {
        self.set_status(status);
        self.retire()
    }

    /// Replaces the status flags by those in `status`.
    pub(super) fn set_status(&mut self, status: u64) {
        let others = self.m.rflags() & !rflags::STATUS;
        self.m.set_rflags(others | status & rflags::STATUS);
    }

    /// Reads up to 8 bytes.
    pub(super) fn read(&mut self, linear: u64, size: u8, access: Access) -> Result<u64, Stop> {
        let mut buf = [0; WORD];
        let part = buf.get_mut(..usize::from(size)).ok_or(Stop::Unhandled)?;
        self.m.read(linear, part, access)?;
        Ok(u64::from_le_bytes(buf))
    }

    /// Writes the low `size` bytes of `value`, up to 8.
    pub(super) fn write(&mut self, linear: u64, size: u8, value: u64) -> Result<(), Stop> {
        let buf = value.to_le_bytes();
        let part = buf.get(..usize::from(size)).ok_or(Stop::Unhandled)?;
        self.m.write(linear, part)
    }

    /// The register `operand` cut to `size` bytes.
    fn reg(&self, operand: Operand, size: u8) -> u64 {
        match operand {
            Operand::Reg(n) => plain::part(self.m.gpr(Gpr::from_low4(n)), n, size),
            _ => 0,
        }
    }

    /// Writes the low `size` bytes of a register: 4 clear the upper half, fewer leave the rest.
    pub(super) fn set_reg(&mut self, operand: Operand, size: u8, value: u64) {
        let Operand::Reg(n) = operand else { return };
        let reg = Gpr::from_low4(n);
        let full = plain::merged(self.m.gpr(reg), n, size, value);
        self.m.set_gpr(reg, full);
    }

    /// The value of a source operand of `size` bytes.
    #[inline]
    pub(super) fn load(&mut self, operand: Operand, size: u8) -> Result<u64, Stop> {
        match operand {
            Operand::Reg(_) => Ok(self.reg(operand, size)),
            Operand::Imm => Ok(truncate(self.insn.imm, size)),
            Operand::Mem => {
                let linear = self.operand_address(size, Access::Read)?;
                self.read(linear, size, Access::Read)
            }
            Operand::Seg(seg) => Ok(u64::from(self.m.segment(seg).selector)),
            _ => Err(Stop::Unhandled),
        }
    }

    /// Writes a destination that was not read.
    #[inline]
    pub(super) fn store(&mut self, operand: Operand, size: u8, value: u64) -> Result<(), Stop> {
        if operand == Operand::Mem {
            let linear = self.operand_address(size, Access::Write)?;
            return self.write(linear, size, value);
        }
        self.set_reg(operand, size, value);
        Ok(())
    }

    /// Reads the destination that will be written.
    fn target(&mut self) -> Result<Target, Stop> {
        let size = self.insn.op_size;
        if self.insn.dst != Operand::Mem {
            let value = self.reg(self.insn.dst, size);
            return Ok(Target { linear: 0, value });
        }
        let linear = self.operand_address(size, Access::Modify)?;
        self.target_at(linear)
    }

    fn target_at(&mut self, linear: u64) -> Result<Target, Stop> {
        let value = self.read(linear, self.insn.op_size, Access::Modify)?;
        Ok(Target { linear, value })
    }

    /// Writes the destination back. Returns `false` if it was to be locked and has changed.
    fn update(&mut self, target: &Target, value: u64, lock: bool) -> Result<bool, Stop> {
        let size = self.insn.op_size;
        if self.insn.dst != Operand::Mem {
            self.set_reg(self.insn.dst, size, value);
        } else if lock {
            let (old, new) = (target.value.to_le_bytes(), value.to_le_bytes());
            let n = usize::from(size);
            let old = old.get(..n).ok_or(Stop::Unhandled)?;
            let new = new.get(..n).ok_or(Stop::Unhandled)?;
            return self.m.cmpxchg(target.linear, old, new);
        } else {
            self.write(target.linear, size, value)?;
        }
        Ok(true)
    }

    /// Writes the destination back with LOCK if the instruction has it, sets flags, retires.
    fn finish(&mut self, target: &Target, result: alu::Flagged) -> Result<Done, Stop> {
        if !self.update(target, result.value, self.insn.has(prefix::LOCK))? {
            return Ok(Done::Repeat);
        }
        self.retire_with(result.flags)
    }

    #[inline]
    fn mov(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let value = self.load(insn.src, insn.op_size)?;
        // A selector has two bytes in memory, whatever the operand size.
        let size = match (insn.src, insn.dst) {
            (Operand::Seg(_), Operand::Mem) => insn.src_size,
            _ => insn.op_size,
        };
        self.store(insn.dst, size, value)?;
        self.retire()
    }

    fn extend(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let value = self.load(insn.src, insn.src_size)?;
        let value = match insn.op {
            Op::Movsx => alu::sign_extend(value, insn.src_size),
            _ => value,
        };
        self.set_reg(insn.dst, insn.op_size, value);
        self.retire()
    }

    fn movbe(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let value = self.load(self.insn.src, size)?;
        self.store(self.insn.dst, size, swapped(value, size))?;
        self.retire()
    }

    fn bswap(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        // With 16 bits the architecture leaves the result undefined.
        if size == 2 {
            return Err(Stop::Unhandled);
        }
        let value = swapped(self.reg(self.insn.dst, size), size);
        self.set_reg(self.insn.dst, size, value);
        self.retire()
    }

    fn binary(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let b = self.load(insn.src, insn.op_size)?;
        let target = self.target()?;
        let flags = self.m.rflags();
        let result = alu::binary(insn.op, target.value, b, flags, insn.op_size);
        self.finish(&target, result)
    }

    fn compare_operands(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let a = self.load(insn.dst, insn.op_size)?;
        let b = self.load(insn.src, insn.op_size)?;
        let result = alu::binary(insn.op, a, b, self.m.rflags(), insn.op_size);
        self.retire_with(result.flags)
    }

    fn unary(&mut self) -> Result<Done, Stop> {
        let target = self.target()?;
        let flags = self.m.rflags();
        let result = alu::unary(self.insn.op, target.value, flags, self.insn.op_size);
        self.finish(&target, result)
    }

    fn shift(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let count = self.load(insn.src, 1)?;
        let target = self.target()?;
        let flags = self.m.rflags();
        let result = alu::shift(insn.op, target.value, count, flags, insn.op_size);
        self.finish(&target, result)
    }

    fn double_shift(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let count = self.load(insn.third, 1)?;
        let b = self.load(insn.src, insn.op_size)?;
        let target = self.target()?;
        let flags = self.m.rflags();
        let result = alu::double_shift(insn.op, target.value, b, count, flags, insn.op_size);
        self.finish(&target, result)
    }

    /// The bit number counts from the memory operand when it is in a register, and within it
    /// otherwise (SDM vol. 1, 3.7.3 and vol. 2, "BT").
    fn bit_test(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let size = insn.op_size;
        let within = u64::from(size).wrapping_mul(8).wrapping_sub(1);
        let number = self.load(insn.src, size)?;
        let access = match insn.op {
            Op::Bt => Access::Read,
            _ => Access::Modify,
        };
        let target = if insn.dst == Operand::Mem {
            let mut offset = effective(self.m, insn, self.next_rip);
            if insn.src != Operand::Imm {
                let bits = alu::sign_extend(number, size) as i64;
                let bytes = (bits >> 3) as u64 & !(u64::from(size).wrapping_sub(1));
                offset = truncate(offset.wrapping_add(bytes), insn.addr_size);
            }
            let linear = self.data_address(insn.mem.seg, offset, size, access)?;
            let value = self.read(linear, size, access)?;
            Target { linear, value }
        } else {
            self.target()?
        };
        let flags = self.m.rflags();
        let result = alu::bit_test(insn.op, target.value, number & within, flags, size);
        if insn.op == Op::Bt {
            return self.retire_with(result.flags);
        }
        self.finish(&target, result)
    }

    /// A source of zero leaves the destination as it is, as all known processors do.
    fn bit_scan(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let value = self.load(insn.src, insn.op_size)?;
        let flags = self.m.rflags();
        if value == 0 {
            return self.retire_with(flags | rflags::ZF);
        }
        let bit = match insn.op {
            Op::Bsf => value.trailing_zeros(),
            _ => value.ilog2(),
        };
        self.set_reg(insn.dst, insn.op_size, u64::from(bit));
        self.retire_with(flags & !rflags::ZF)
    }

    /// XCHG with memory is locked without a prefix.
    fn xchg(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let target = self.target()?;
        let value = self.reg(insn.src, insn.op_size);
        if !self.update(&target, value, true)? {
            return Ok(Done::Repeat);
        }
        self.set_reg(insn.src, insn.op_size, target.value);
        self.retire()
    }

    fn xadd(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let target = self.target()?;
        let b = self.reg(insn.src, insn.op_size);
        let result = alu::add(target.value, b, false, insn.op_size);
        if insn.dst == Operand::Mem {
            if !self.update(&target, result.value, insn.has(prefix::LOCK))? {
                return Ok(Done::Repeat);
            }
            self.set_reg(insn.src, insn.op_size, target.value);
        } else {
            // The sum wins where both are the same register.
            self.set_reg(insn.src, insn.op_size, target.value);
            self.set_reg(insn.dst, insn.op_size, result.value);
        }
        self.retire_with(result.flags)
    }

    /// Memory is written in either case, with its old value if the comparison failed; a register only
    /// if it succeeded, which shows in the upper half of a 32-bit one.
    fn cmpxchg(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let size = insn.op_size;
        let target = self.target()?;
        let result = alu::sub(self.reg(Operand::ACC, size), target.value, false, size);
        let equal = result.flags & rflags::ZF != 0;
        let value = if equal {
            self.reg(insn.src, size)
        } else {
            target.value
        };
        let writes = equal || insn.dst == Operand::Mem;
        if writes && !self.update(&target, value, insn.has(prefix::LOCK))? {
            return Ok(Done::Repeat);
        }
        if !equal {
            self.set_reg(Operand::ACC, size, target.value);
        }
        self.retire_with(result.flags)
    }

    fn cmpxchg_pair(&mut self) -> Result<Done, Stop> {
        let half: u8 = if self.insn.op_size == 8 { 8 } else { 4 };
        let size = half.wrapping_mul(2);
        let linear = self.operand_address(size, Access::Modify)?;
        if half == 8 && linear & 15 != 0 {
            return Err(Stop::Fault(self.gp()));
        }
        let mut old = [0; 2 * WORD];
        let part = old.get_mut(..usize::from(size)).ok_or(Stop::Unhandled)?;
        self.m.read(linear, part, Access::Modify)?;
        let old = u128::from_le_bytes(old);
        let joined = |high: u64, low: u64| {
            u128::from(truncate(high, half)) << (u32::from(half) * 8)
                | u128::from(truncate(low, half))
        };
        let expected = joined(self.m.gpr(Gpr::Rdx), self.m.gpr(Gpr::Rax));
        let equal = old == expected;
        let new = if equal {
            joined(self.m.gpr(Gpr::Rcx), self.m.gpr(Gpr::Rbx))
        } else {
            old
        };
        let (old_bytes, new_bytes) = (old.to_le_bytes(), new.to_le_bytes());
        let n = usize::from(size);
        let old_bytes = old_bytes.get(..n).ok_or(Stop::Unhandled)?;
        let new_bytes = new_bytes.get(..n).ok_or(Stop::Unhandled)?;
        if !self.insn.has(prefix::LOCK) {
            self.m.write(linear, new_bytes)?;
        } else if !self.m.cmpxchg(linear, old_bytes, new_bytes)? {
            return Ok(Done::Repeat);
        }
        let flags = self.m.rflags();
        if equal {
            return self.retire_with(flags | rflags::ZF);
        }
        self.set_reg(Operand::ACC, half, old as u64);
        let high = (old >> (u32::from(half) * 8)) as u64;
        self.set_reg(Operand::Reg(Gpr::Rdx as u8), half, high);
        self.retire_with(flags & !rflags::ZF)
    }

    /// The accumulator and RDX hold double-width values, except that a 16-bit one is all in AX.
    fn set_wide(&mut self, low: u64, high: u64) {
        let size = self.insn.op_size;
        if size == 1 {
            self.set_reg(Operand::ACC, 2, high << 8 | low);
        } else {
            self.set_reg(Operand::ACC, size, low);
            self.set_reg(Operand::Reg(Gpr::Rdx as u8), size, high);
        }
    }

    fn mul_wide(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let b = self.load(self.insn.dst, size)?;
        let a = self.reg(Operand::ACC, size);
        let product = match self.insn.op {
            Op::Mul => muldiv::mul(a, b, size),
            _ => muldiv::imul(a, b, size),
        };
        self.set_wide(product.low, product.high);
        self.retire_product(product.overflow)
    }

    fn imul(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let size = insn.op_size;
        let a = self.load(insn.src, size)?;
        let b = match insn.third {
            Operand::Imm => insn.imm,
            _ => self.reg(insn.dst, size),
        };
        let product = muldiv::imul(a, b, size);
        self.set_reg(insn.dst, size, product.low);
        self.retire_product(product.overflow)
    }

    fn retire_product(&mut self, overflow: bool) -> Result<Done, Stop> {
        let both = rflags::CF | rflags::OF;
        let flags = self.m.rflags() & !both;
        self.retire_with(if overflow { flags | both } else { flags })
    }

    fn div(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let divisor = self.load(self.insn.dst, size)?;
        let low = self.reg(Operand::ACC, size);
        let high = match size {
            1 => self.m.gpr(Gpr::Rax) >> 8 & 0xff,
            _ => self.reg(Operand::Reg(Gpr::Rdx as u8), size),
        };
        let result = match self.insn.op {
            Op::Div => muldiv::div(high, low, divisor, size),
            _ => muldiv::idiv(high, low, divisor, size),
        };
        let (quotient, rest) = result.ok_or(Stop::Fault(Exception::de()))?;
        self.set_wide(quotient, rest);
        self.retire()
    }

    fn setcc(&mut self) -> Result<Done, Stop> {
        let holds = alu::condition(self.insn.cond, self.m.rflags());
        self.store(self.insn.dst, 1, u64::from(holds))?;
        self.retire()
    }

    /// The source is read, and the upper half of a 32-bit destination cleared, in either case.
    fn cmovcc(&mut self) -> Result<Done, Stop> {
        let insn = self.insn;
        let source = self.load(insn.src, insn.op_size)?;
        let value = if alu::condition(insn.cond, self.m.rflags()) {
            source
        } else {
            self.reg(insn.dst, insn.op_size)
        };
        self.set_reg(insn.dst, insn.op_size, value);
        self.retire()
    }

    fn lea(&mut self) -> Result<Done, Stop> {
        let offset = effective(self.m, self.insn, self.next_rip);
        self.set_reg(self.insn.dst, self.insn.op_size, offset);
        self.retire()
    }

    fn widen_accumulator(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let rax = self.m.gpr(Gpr::Rax);
        if self.insn.op == Op::Cbw {
            self.set_reg(Operand::ACC, size, alu::sign_extend(rax, size / 2));
        } else {
            let sign = (alu::sign_extend(rax, size) as i64 >> 63) as u64;
            self.set_reg(Operand::Reg(Gpr::Rdx as u8), size, sign);
        }
        self.retire()
    }

    /// Emulated memory is not cached; the address is checked as a read of one byte.
    fn clflush(&mut self) -> Result<Done, Stop> {
        self.operand_address(1, Access::Read)?;
        self.retire()
    }

    /// The port of IN and OUT.
    fn port(&self) -> u16 {
        match self.insn.src {
            Operand::Imm => self.insn.imm as u16,
            _ => self.m.gpr(Gpr::Rdx) as u16,
        }
    }

    pub(super) fn port_in(&mut self, port: u16, size: u8) -> Result<u64, Stop> {
        let mut buf = [0; WORD];
        let part = buf.get_mut(..usize::from(size)).ok_or(Stop::Unhandled)?;
        self.m.port_in(port, part)?;
        Ok(u64::from_le_bytes(buf))
    }

    pub(super) fn port_out(&mut self, port: u16, size: u8, value: u64) -> Result<(), Stop> {
        let buf = value.to_le_bytes();
        let part = buf.get(..usize::from(size)).ok_or(Stop::Unhandled)?;
        self.m.port_out(port, part)
    }

    fn input(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let value = self.port_in(self.port(), size)?;
        self.set_reg(Operand::ACC, size, value);
        self.retire()
    }

    fn output(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        let value = self.reg(Operand::ACC, size);
        self.port_out(self.port(), size, value)?;
        self.retire()
    }
}

/// `value` of `size` bytes with its bytes in the opposite order.
const fn swapped(value: u64, size: u8) -> u64 {
    value.swap_bytes() >> (64u32.wrapping_sub(size as u32 * 8) & 63)
}
