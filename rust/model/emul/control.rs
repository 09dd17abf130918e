// SPDX-License-Identifier: GPL-2.0-only

//! System instructions: control and debug registers, descriptor tables, MSRs, HLT (SDM vol. 2).

use super::exec::Exec;
use super::insn::{Op, Operand};
use super::privileged::{SystemReg, Table, TableReg};
use super::{Access, Done, Machine, Mode, Stop};
use crate::model::x86::{cr0, Exception, Gpr};

/// What LMSW loads.
const MSW: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

/// Bytes of the limit in the operand of LGDT.
const LIMIT: u8 = 2;

/// Bytes of the base there.
const BASE: u8 = 4;
const LONG_BASE: u8 = 8;

/// The bits of the base that LGDT with a 16-bit operand loads.
const SHORT_BASE: u64 = 0xff_ffff;

/// System data is aligned to this for alignment checks (SDM vol. 3, table 6-7).
const ALIGNMENT: u8 = 4;

impl<M: Machine> Exec<'_, M> {
    pub(super) fn mov_control(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        let size = self.insn.op_size;
        match (self.insn.dst, self.insn.src) {
            (Operand::Cr(n), source) => {
                let value = self.load(source, size)?;
                self.m.set_control(n, value)?;
            }
            (destination, Operand::Cr(n)) => {
                let value = self.m.control(n)?;
                self.set_reg(destination, size, value);
            }
            _ => return Err(Stop::Unhandled),
        }
        self.retire()
    }

    /// The machine checks the privilege level, after CR4.DE and before DR7.GD.
    pub(super) fn mov_debug(&mut self) -> Result<Done, Stop> {
        let size = self.insn.op_size;
        match (self.insn.dst, self.insn.src) {
            (Operand::Dr(n), source) => {
                let value = self.load(source, size)?;
                self.m.set_debug(n, value)?;
            }
            (destination, Operand::Dr(n)) => {
                let value = self.m.debug(n)?;
                self.set_reg(destination, size, value);
            }
            _ => return Err(Stop::Unhandled),
        }
        self.retire()
    }

    /// CLTS, and LMSW, which cannot clear PE.
    pub(super) fn machine_status(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        let value = if self.insn.op == Op::Clts {
            self.m.cr0() & !cr0::TS
        } else {
            let new = self.load(self.insn.src, 2)?;
            let old = self.m.cr0();
            old & !(MSW & !cr0::PE) | new & MSW
        };
        self.m.set_control(0, value)?;
        self.retire()
    }

    /// SMSW, SLDT and STR.
    pub(super) fn store_system(&mut self) -> Result<Done, Stop> {
        let protected = self.insn.mode != Mode::Real;
        if !protected && self.insn.op != Op::Smsw {
            return Err(Stop::Fault(Exception::ud()));
        }
        self.check_umip()?;
        let value = match self.insn.op {
            Op::Smsw => self.m.cr0(),
            Op::Sldt => u64::from(self.m.system_segment(SystemReg::Ldtr)?.selector),
            _ => u64::from(self.m.system_segment(SystemReg::Tr)?.selector),
        };
        self.store(self.insn.dst, self.insn.op_size, value)?;
        self.retire()
    }

    /// The register of SGDT, SIDT, LGDT and LIDT.
    fn table_reg(&self) -> TableReg {
        match self.insn.op {
            Op::Sgdt | Op::Lgdt => TableReg::Gdtr,
            _ => TableReg::Idtr,
        }
    }

    /// The linear addresses of the limit and of the base, and the base's length.
    fn table_operand(&mut self, access: Access) -> Result<(u64, u64, u8), Stop> {
        let base = match self.insn.mode {
            Mode::Long => LONG_BASE,
            _ => BASE,
        };
        let len = LIMIT.wrapping_add(base);
        let offset = super::addr::effective(self.m, self.insn, self.next_rip);
        let seg = self.insn.mem.seg;
        let linear = self.aligned_address(seg, offset, len, ALIGNMENT, access)?;
        let second = super::addr::wrap(linear.wrapping_add(u64::from(LIMIT)), self.insn.mode);
        Ok((linear, second, base))
    }

    pub(super) fn store_table(&mut self) -> Result<Done, Stop> {
        self.check_umip()?;
        let table = self.m.table(self.table_reg())?;
        let (first, second, size) = self.table_operand(Access::Write)?;
        self.m.probe_write(first, LIMIT)?;
        self.m.probe_write(second, size)?;
        self.write(first, LIMIT, u64::from(table.limit))?;
        self.write(second, size, table.base)?;
        self.retire()
    }

    pub(super) fn load_table(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        let (first, second, size) = self.table_operand(Access::Read)?;
        let limit = self.read(first, LIMIT, Access::Read)? as u16;
        let mut base = self.read(second, size, Access::Read)?;
        if self.insn.mode == Mode::Long {
            if !crate::model::x86::is_canonical(base, self.m.linear_width()) {
                return Err(Stop::Fault(self.gp()));
            }
        } else if self.insn.op_size == 2 {
            base &= SHORT_BASE;
        }
        self.m.set_table(self.table_reg(), Table { base, limit })?;
        self.retire()
    }

    /// The operand is only an address, which need not be one that can be accessed.
    pub(super) fn invalidate_page(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        let offset = super::addr::effective(self.m, self.insn, self.next_rip);
        let linear = super::addr::unchecked(self.m, self.insn.mode, self.insn.mem.seg, offset);
        self.m.invalidate_page(linear)?;
        self.retire()
    }

    pub(super) fn flush_caches(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        self.m.flush_caches()?;
        self.retire()
    }

    pub(super) fn cpuid(&mut self) -> Result<Done, Stop> {
        let (leaf, subleaf) = (self.m.gpr(Gpr::Rax) as u32, self.m.gpr(Gpr::Rcx) as u32);
        let values = self.m.cpuid(leaf, subleaf)?;
        let order = [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx];
        for (reg, value) in order.into_iter().zip(values) {
            self.m.set_gpr(reg, u64::from(value));
        }
        self.retire()
    }

    pub(super) fn read_msr(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        let value = self.m.msr(self.m.gpr(Gpr::Rcx) as u32)?;
        self.m.set_gpr(Gpr::Rax, value & 0xffff_ffff);
        self.m.set_gpr(Gpr::Rdx, value >> 32);
        self.retire()
    }

    pub(super) fn write_msr(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        let low = self.m.gpr(Gpr::Rax) & 0xffff_ffff;
        let value = self.m.gpr(Gpr::Rdx) << 32 | low;
        self.m.set_msr(self.m.gpr(Gpr::Rcx) as u32, value)?;
        self.retire()
    }

    pub(super) fn halt(&mut self) -> Result<Done, Stop> {
        self.check_supervisor()?;
        self.m.halt()?;
        self.retire()
    }
}
