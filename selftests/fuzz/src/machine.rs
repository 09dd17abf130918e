// SPDX-License-Identifier: GPL-2.0-only

//! A machine whose whole address space has contents: some pages are devices, some cannot be accessed,
//! and any access may have to wait for userspace.

use std::collections::BTreeMap;
use vireo_model::model::emul::{
    Access, Interrupt, Machine, Mode, Shadow, Stop, System, SystemReg, Table, TableReg,
};
use vireo_model::model::x86::{ar, cr4, efer, pf, xcr0, Exception, Gpr, SegReg, Segment};

/// The machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Any {
    seed: u64,
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub mode: Mode,
    pub ia32e: bool,
    pub cpl: u8,
    pub segments: [Segment; 6],
    system: [Segment; 2],
    tables: [Table; 2],
    pub cr0: u64,
    pub cr4: u64,
    vector: [[u8; 32]; 16],
    /// Bytes that were written.
    memory: BTreeMap<u64, u8>,
    /// Everything that went out, in order.
    pub events: Vec<(u64, Vec<u8>)>,
    pub retired: bool,
    pub iterations: u32,
    /// After so many accesses, one needs userspace.
    pub budget: u32,
    /// Writes have been probed, and cannot stop any more.
    pub probed: bool,
}

/// Random bits that only depend on `value`.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A value that tends to find edges.
fn edge(random: u64) -> u64 {
    let n = random >> 8 & 63;
    match random & 7 {
        0 => random >> 56,
        1 => (random >> 16) as i8 as u64,
        2 => 1 << n,
        3 => (1 << n) - 1,
        4 => (1u64 << n).wrapping_neg(),
        5 => random >> 32,
        // Canonical in both halves.
        6 => (random as i64 >> 17) as u64,
        _ => random,
    }
}

impl Any {
    /// The machine that `seed` makes.
    pub fn new(seed: u64, mode: Mode, cpl: u8) -> Self {
        let draw = |n: u64| mix(seed ^ n << 32);
        let segment = |n: u64| {
            let bits = draw(100 + n);
            let rights = ar::P | ar::S | ar::WRITABLE | ar::ACCESSED;
            let flat = bits & 3 != 0;
            Segment {
                selector: bits as u16,
                ar: rights
                    ^ if flat {
                        0
                    } else {
                        (bits >> 16) as u32 & 0x1_f09f
                    }
                    | ar::DB,
                base: if flat { 0 } else { bits >> 32 },
                limit: if flat { u32::MAX } else { (bits >> 20) as u32 },
            }
        };
        let mut segments: [Segment; 6] = core::array::from_fn(|n| segment(n as u64));
        segments[SegReg::Ss.index()].ar &= !ar::DPL;
        segments[SegReg::Ss.index()].ar |= u32::from(cpl) << ar::DPL_SHIFT;
        Self {
            seed,
            gpr: core::array::from_fn(|n| edge(draw(n as u64))),
            rip: draw(20) >> if mode == Mode::Long { 20 } else { 33 },
            rflags: draw(21) & 0x3f_7fd5 & !(1 << 17) | 2,
            mode,
            ia32e: mode == Mode::Long || draw(22) & 1 != 0 && mode != Mode::Real,
            cpl: if mode == Mode::Real { 0 } else { cpl },
            segments,
            system: [segment(7), segment(8)],
            tables: core::array::from_fn(|n| Table {
                base: draw(30 + n as u64) >> 33,
                limit: draw(40 + n as u64) as u16,
            }),
            cr0: draw(23) & 0x4_000e | 1,
            cr4: (draw(24) & (cr4::UMIP | cr4::PVI | cr4::LA57 | cr4::DE))
                | cr4::OSFXSR
                | cr4::OSXSAVE,
            vector: core::array::from_fn(|n| [draw(50 + n as u64) as u8; 32]),
            memory: BTreeMap::new(),
            events: Vec::new(),
            retired: false,
            iterations: 0,
            budget: u32::MAX,
            probed: false,
        }
    }

    /// The machine without the bookkeeping of calls.
    pub fn settled(&self) -> Self {
        Self {
            budget: 0,
            probed: false,
            retired: false,
            iterations: 0,
            ..self.clone()
        }
    }

    /// Counts an access, and finds out whether the page at `linear` allows it.
    fn check(&mut self, linear: u64, len: usize, write: bool) -> Result<bool, Stop> {
        assert!((1..=32).contains(&len), "{len} bytes");
        assert!(self.mode == Mode::Long || linear >> 32 == 0 || self.ia32e);
        if !write || !self.probed {
            self.budget = self.budget.checked_sub(1).ok_or(Stop::NeedUser)?;
        }
        let page = mix(self.seed ^ linear >> 12);
        let code = if write { pf::W } else { 0 };
        match page & 15 {
            0 => Err(Stop::Fault(Exception::page_fault(linear, code))),
            1 if write => Err(Stop::Fault(Exception::page_fault(linear, code | pf::P))),
            kind => Ok(kind < 6),
        }
    }

    fn byte(&self, linear: u64) -> u8 {
        let random = mix(self.seed ^ linear) as u8;
        self.memory.get(&linear).copied().unwrap_or(random)
    }

    fn copy(&self, linear: u64, buf: &mut [u8]) {
        for (n, byte) in (0..).zip(buf) {
            *byte = self.byte(linear.wrapping_add(n));
        }
    }
}

impl System for Any {
    fn efer(&self) -> u64 {
        if self.ia32e {
            efer::LMA
        } else {
            0
        }
    }

    fn control(&mut self, n: u8) -> Result<u64, Stop> {
        Ok(mix(self.seed ^ u64::from(n)))
    }

    fn set_control(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        self.events.push((n.into(), value.to_le_bytes().into()));
        Ok(())
    }

    fn debug(&mut self, n: u8) -> Result<u64, Stop> {
        Ok(mix(self.seed ^ u64::from(n)))
    }

    fn set_debug(&mut self, n: u8, value: u64) -> Result<(), Stop> {
        self.set_control(n, value)
    }

    fn msr(&mut self, index: u32) -> Result<u64, Stop> {
        Ok(mix(self.seed ^ u64::from(index)))
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        self.events.push((index.into(), value.to_le_bytes().into()));
        Ok(())
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        Ok([leaf, subleaf, !leaf, !subleaf])
    }

    fn table(&mut self, reg: TableReg) -> Result<Table, Stop> {
        Ok(self.tables[reg as usize])
    }

    fn set_table(&mut self, reg: TableReg, table: Table) -> Result<(), Stop> {
        self.tables[reg as usize] = table;
        Ok(())
    }

    fn system_segment(&mut self, reg: SystemReg) -> Result<Segment, Stop> {
        Ok(self.system[reg as usize])
    }

    fn set_system_segment(&mut self, reg: SystemReg, segment: Segment) -> Result<(), Stop> {
        self.system[reg as usize] = segment;
        Ok(())
    }

    fn set_segment(&mut self, reg: SegReg, segment: Segment) -> Result<(), Stop> {
        self.segments[reg.index()] = segment;
        Ok(())
    }

    fn read_implicit(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        self.check(linear, buf.len(), false)?;
        self.copy(linear, buf);
        Ok(())
    }

    fn cmpxchg_implicit(&mut self, linear: u64, old: u8, new: u8) -> Result<bool, Stop> {
        assert_eq!(self.byte(linear), old);
        self.memory.insert(linear, new);
        Ok(true)
    }

    fn invalidate_page(&mut self, linear: u64) -> Result<(), Stop> {
        self.events.push((linear, Vec::new()));
        Ok(())
    }

    fn flush_caches(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    fn halt(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    fn interrupt(&mut self, _: Interrupt, next_rip: u64) -> Result<(), Stop> {
        self.events.push((next_rip, Vec::new()));
        Ok(())
    }

    fn set_shadow(&mut self, _: Shadow) -> Result<(), Stop> {
        assert!(self.retired, "after the instruction");
        Ok(())
    }

    fn end_nmi(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

impl Machine for Any {
    fn gpr(&self, reg: Gpr) -> u64 {
        self.gpr[reg.index()]
    }

    fn set_gpr(&mut self, reg: Gpr, value: u64) {
        self.gpr[reg.index()] = value;
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn rflags(&self) -> u64 {
        self.rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }

    fn retire(&mut self, next_rip: u64) {
        assert!(!self.retired, "once");
        self.retired = true;
        self.rip = next_rip;
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn segment(&mut self, reg: SegReg) -> Segment {
        self.segments[reg.index()]
    }

    fn cr0(&self) -> u64 {
        self.cr0
    }

    fn cr4(&self) -> u64 {
        self.cr4
    }

    fn xcr0(&self) -> u64 {
        xcr0::X87 | xcr0::SSE | xcr0::AVX
    }

    fn fetch(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        assert!(linear & 0xfff <= 0x1000 - buf.len() as u64, "one page");
        self.copy(linear, buf);
        Ok(())
    }

    fn read(&mut self, linear: u64, buf: &mut [u8], access: Access) -> Result<(), Stop> {
        self.check(linear, buf.len(), access != Access::Read)?;
        self.copy(linear, buf);
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        if self.check(linear, data.len(), true)? {
            self.events.push((linear, data.to_vec()));
        } else {
            for (n, byte) in (0..).zip(data) {
                self.memory.insert(linear.wrapping_add(n), *byte);
            }
        }
        Ok(())
    }

    fn probe_write(&mut self, linear: u64, len: u8) -> Result<(), Stop> {
        self.check(linear, len.into(), true)?;
        self.probed = true;
        Ok(())
    }

    fn cmpxchg(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        assert_eq!(old.len(), new.len());
        assert!(matches!(old.len(), 1 | 2 | 4 | 8 | 16));
        self.write(linear, new)?;
        Ok(true)
    }

    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop> {
        assert!(matches!(buf.len(), 1 | 2 | 4));
        self.budget = self.budget.checked_sub(1).ok_or(Stop::NeedUser)?;
        buf.fill(port as u8);
        Ok(())
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        assert!(matches!(data.len(), 1 | 2 | 4));
        self.events.push((port.into(), data.to_vec()));
        Ok(())
    }

    fn vector(&mut self, n: u8, buf: &mut [u8]) -> Result<(), Stop> {
        let register = &self.vector[usize::from(n)];
        buf.copy_from_slice(&register[..buf.len()]);
        Ok(())
    }

    fn set_vector(&mut self, n: u8, value: &[u8], clear: bool) -> Result<(), Stop> {
        let register = &mut self.vector[usize::from(n)];
        if clear {
            register.fill(0);
        }
        register[..value.len()].copy_from_slice(value);
        Ok(())
    }

    fn next_iteration(&mut self) -> bool {
        self.iterations += 1;
        self.probed = false;
        self.iterations & 7 != 0
    }
}
