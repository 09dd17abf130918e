// SPDX-License-Identifier: GPL-2.0-only

//! The executor's machine: a user-mode program with the same memory and the same descriptors.

use crate::cpu::{State, CODE, CODE_LEN, DATA, READABLE, WRITABLE};
use crate::tables::Tables;
use vireo_model::model::emul::{
    emulate, Access, Done, Interrupt, Machine, Mode, Shadow, Stop, System, SystemReg, Table,
    TableReg,
};
use vireo_model::model::x86::{ar, cr0, efer, pf, rflags, vector, Exception, Gpr, SegReg, Segment};

/// Where the tables are for the machine; what user mode can see of that is in bits that it cannot see.
const LOCAL_BASE: u64 = 0xffff_8000_0000_0000;
const GLOBAL_BASE: u64 = 0xffff_8001_0000_0000;

/// The privilege level.
const USER: u8 = 3;

/// Instructions until something has ended the code, unless it runs on.
const STEPS: u32 = 4;

/// The machine.
#[derive(Clone)]
pub struct Soft {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: [Segment; 6],
    pub data: Vec<u8>,
    pub code: Vec<u8>,
    tables: Tables,
    /// What the last instruction delivered.
    delivered: Option<u8>,
    shadow: bool,
}

/// How the code ended, or that the executor refused it or saw no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An exception, and whether RFLAGS.RF is set in what it saves.
    Exception(Exception, bool),
    Refused,
}

impl Soft {
    /// A machine with these descriptors.
    pub fn new(tables: &Tables) -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: 0,
            segments: [Segment::default(); 6],
            data: vec![0; READABLE],
            code: vec![0xcc; CODE_LEN],
            tables: tables.clone(),
            delivered: None,
            shadow: false,
        }
    }

    /// The segment register that loading `selector` makes. It must be a legal one.
    pub fn describe(&self, selector: u16) -> Segment {
        if selector & !3 == 0 {
            return Segment {
                selector,
                ar: ar::UNUSABLE,
                ..Segment::default()
            };
        }
        let table = match selector & 4 {
            0 => &self.tables.global,
            _ => &self.tables.local,
        };
        let at = usize::from(selector & !7);
        let field = |from: usize, len: usize| {
            let mut bytes = [0; 4];
            bytes[..len].copy_from_slice(&table[at + from..at + from + len]);
            u32::from_le_bytes(bytes)
        };
        let limit = field(0, 2) | (field(6, 1) & 0xf) << 16;
        let rights = field(5, 2) & 0xf0ff;
        let pages = rights & ar::G != 0;
        Segment {
            selector,
            ar: rights,
            base: u64::from(field(2, 3) | field(7, 1) << 24),
            limit: if pages { limit << 12 | 0xfff } else { limit },
        }
    }

    /// Takes over what the CPU starts with.
    pub fn start(&mut self, state: &State) {
        self.gpr = state.gpr;
        self.rip = state.rip;
        self.rflags = state.rflags;
        self.segments = state.selectors.map(|selector| self.describe(selector));
    }

    /// What it ends with.
    pub fn state(&self) -> State {
        State {
            gpr: self.gpr,
            selectors: self.segments.map(|segment| segment.selector),
            rip: self.rip,
            rflags: self.rflags,
        }
    }

    /// Whether the next instruction is INT3, or cannot be fetched.
    fn is_at_int3(&self) -> bool {
        let base = match self.mode() {
            Mode::Long => 0,
            _ => self.segments[SegReg::Cs.index()].base,
        };
        let at = self.rip.wrapping_add(base).wrapping_sub(CODE) as usize;
        self.code.get(at).is_none_or(|byte| *byte == 0xcc)
    }

    /// Runs to the first exception, if that comes with the first instruction or right after it.
    pub fn run(&mut self) -> End {
        for step in 0..STEPS {
            if step != 0 && !self.is_at_int3() {
                return End::Refused;
            }
            let stepping = self.rflags & rflags::TF != 0;
            (self.delivered, self.shadow) = (None, false);
            let result = emulate(self);
            if let Some(vector) = self.delivered {
                return self.deliver(vector);
            }
            match result {
                Ok(_) if self.shadow => {}
                Ok(done) if stepping => {
                    let resumes = done == Done::Repeat || self.rflags & rflags::RF != 0;
                    return End::Exception(Exception::new(vector::DB), resumes);
                }
                Ok(_) => {}
                Err(Stop::Fault(exception)) => return End::Exception(exception, true),
                Err(Stop::Unhandled) => return End::Refused,
                Err(stop) => panic!("{stop:?}"),
            }
        }
        End::Refused
    }

    /// A software interrupt: the kernel lets user mode have two of them.
    fn deliver(&self, number: u8) -> End {
        let exception = match number {
            vector::BP | vector::OF => return End::Exception(Exception::new(number), false),
            // A fault that names the gate.
            _ => Exception::with_code(vector::GP, u32::from(number) * 8 + 2),
        };
        End::Exception(exception, true)
    }

    fn in_data(&mut self, linear: u64, len: usize, write: bool) -> Result<usize, u64> {
        let size = if write { WRITABLE } else { READABLE };
        let at = linear.wrapping_sub(DATA);
        match at {
            _ if at >= size as u64 => Err(linear),
            _ if at as usize + len > size => Err(DATA + size as u64),
            _ => Ok(at as usize),
        }
    }

    fn bytes(&mut self, linear: u64, len: usize, write: bool) -> Result<&mut [u8], Stop> {
        let at = linear.wrapping_sub(CODE);
        if !write && at < CODE_LEN as u64 && at as usize + len <= CODE_LEN {
            return Ok(&mut self.code[at as usize..at as usize + len]);
        }
        let place = match at {
            _ if at >= CODE_LEN as u64 => self.in_data(linear, len, write),
            _ if write => Err(linear),
            _ => Err(CODE + CODE_LEN as u64),
        };
        match place {
            Ok(at) => Ok(&mut self.data[at..at + len]),
            Err(address) => {
                // The kernel does not tell what is mapped in its half.
                let mapped = address.wrapping_sub(DATA) < READABLE as u64
                    || address.wrapping_sub(CODE) < CODE_LEN as u64
                    || address >> 63 != 0;
                let code = pf::U | if write { pf::W } else { 0 } | if mapped { pf::P } else { 0 };
                Err(Stop::Fault(Exception::page_fault(address, code)))
            }
        }
    }
}

impl System for Soft {
    fn efer(&self) -> u64 {
        efer::LMA
    }

    fn table(&mut self, reg: TableReg) -> Result<Table, Stop> {
        assert_eq!(reg, TableReg::Gdtr);
        Ok(Table {
            base: GLOBAL_BASE,
            limit: self.tables.global.len() as u16 - 1,
        })
    }

    fn system_segment(&mut self, reg: SystemReg) -> Result<Segment, Stop> {
        assert_eq!(reg, SystemReg::Ldtr);
        Ok(Segment {
            selector: 0x50,
            ar: ar::P | ar::TYPE_LDT,
            base: LOCAL_BASE,
            limit: self.tables.local.len() as u32 - 1,
        })
    }

    fn set_segment(&mut self, reg: SegReg, segment: Segment) -> Result<(), Stop> {
        self.segments[reg.index()] = segment;
        Ok(())
    }

    fn read_implicit(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        let (table, base) = match linear < GLOBAL_BASE {
            true => (&self.tables.local, LOCAL_BASE),
            false => (&self.tables.global, GLOBAL_BASE),
        };
        let at = (linear - base) as usize;
        buf.copy_from_slice(&table[at..at + buf.len()]);
        Ok(())
    }

    fn interrupt(&mut self, interrupt: Interrupt, next_rip: u64) -> Result<(), Stop> {
        let number = match interrupt {
            Interrupt::Int(n) => n,
            Interrupt::Int3 => vector::BP,
            Interrupt::Into => vector::OF,
        };
        self.delivered = Some(number);
        if matches!(number, vector::BP | vector::OF) {
            self.rip = next_rip;
            self.rflags &= !rflags::RF;
        }
        Ok(())
    }

    fn set_shadow(&mut self, shadow: Shadow) -> Result<(), Stop> {
        self.shadow = shadow == Shadow::MovSs;
        Ok(())
    }

    fn end_nmi(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

impl Machine for Soft {
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
        self.rip = next_rip;
        self.rflags &= !rflags::RF;
    }

    fn mode(&self) -> Mode {
        let cs = self.segments[SegReg::Cs.index()].ar;
        Mode::new(self.cr0(), self.efer(), self.rflags, cs)
    }

    fn cpl(&self) -> u8 {
        USER
    }

    fn segment(&mut self, reg: SegReg) -> Segment {
        self.segments[reg.index()]
    }

    fn cr0(&self) -> u64 {
        cr0::PE | cr0::PG | cr0::AM
    }

    fn cr4(&self) -> u64 {
        0
    }

    fn xcr0(&self) -> u64 {
        0
    }

    fn fetch(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        let at = linear.wrapping_sub(CODE);
        if at < CODE_LEN as u64 {
            let at = at as usize;
            buf.copy_from_slice(&self.code[at..at + buf.len()]);
            return Ok(());
        }
        let mapped = linear.wrapping_sub(DATA) < READABLE as u64 || linear >> 63 != 0;
        let code = pf::U | pf::I | if mapped { pf::P } else { 0 };
        Err(Stop::Fault(Exception::page_fault(linear, code)))
    }

    fn read(&mut self, linear: u64, buf: &mut [u8], access: Access) -> Result<(), Stop> {
        let from = self.bytes(linear, buf.len(), access != Access::Read)?;
        buf.copy_from_slice(from);
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        self.bytes(linear, data.len(), true)?.copy_from_slice(data);
        Ok(())
    }

    fn probe_write(&mut self, linear: u64, len: u8) -> Result<(), Stop> {
        self.bytes(linear, len.into(), true).map(|_| ())
    }

    fn cmpxchg(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        let place = self.bytes(linear, new.len(), true)?;
        assert_eq!(place, old, "nobody else writes");
        place.copy_from_slice(new);
        Ok(true)
    }

    fn port_in(&mut self, _: u16, _: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    fn port_out(&mut self, _: u16, _: &[u8]) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    fn vector(&mut self, _: u8, _: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    fn set_vector(&mut self, _: u8, _: &[u8], _: bool) -> Result<(), Stop> {
        Err(Stop::Unhandled)
    }

    fn next_iteration(&mut self) -> bool {
        true
    }
}
