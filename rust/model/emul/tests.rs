// SPDX-License-Identifier: GPL-2.0-only

//! Unit tests of decoder and executor, and the machine that they run on.

mod device;
mod encodings;
mod flow;
mod plain;
mod segments;
mod strings;
mod system;

use super::*;
use crate::model::x86::{cr4, pf, xcr0};

/// Where the machine's RAM starts.
const RAM: u64 = 0x1_0000;

/// Bytes of RAM.
const RAM_LEN: usize = 0x1_0000;

/// Where device memory starts; it has no end below the next multiple of 4 GiB.
const DEVICE: u64 = 0xf000_0000;

/// What reached the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    In(u16, usize),
    Out(u16, Vec<u8>),
}

/// A machine with RAM, device memory and ports that are userspace's.
#[derive(Clone)]
struct Pc {
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
    mode: Mode,
    cpl: u8,
    segments: [Segment; 6],
    cr0: u64,
    cr4: u64,
    ram: Vec<u8>,
    vector: [[u8; 32]; 16],
    /// What userspace has answered, in order, and how many of the answers were used.
    answers: Vec<u64>,
    used: usize,
    events: Vec<Event>,
    /// Linear addresses from here to the end of RAM are read-only.
    read_only_from: u64,
    /// Whether each iteration of a string instruction is the last for now.
    interrupted: bool,
    /// How many locked updates lose a race.
    races: u32,
    /// What system instructions act on.
    system: system::Registers,
}

impl Pc {
    fn new(mode: Mode) -> Self {
        let data = ar::P | ar::S | ar::WRITABLE | ar::ACCESSED | ar::DB | ar::G;
        let code = ar::P | ar::S | ar::CODE | ar::READABLE | ar::ACCESSED | ar::G;
        let code = match mode {
            Mode::Long => code | ar::L,
            Mode::Protected32 => code | ar::DB,
            _ => code,
        };
        let mut segments = [Segment::flat(0x10, data); 6];
        segments[SegReg::Cs.index()] = Segment::flat(0x8, code);
        if mode == Mode::Real {
            segments = [Segment::real_mode(0x1000); 6];
        }
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: rflags::FIXED,
            mode,
            cpl: 0,
            segments,
            cr0: cr0::PE,
            cr4: cr4::OSFXSR | cr4::OSXSAVE,
            ram: vec![0; RAM_LEN],
            vector: [[0; 32]; 16],
            answers: Vec::new(),
            used: 0,
            events: Vec::new(),
            read_only_from: u64::MAX,
            interrupted: false,
            races: 0,
            system: system::Registers::default(),
        }
    }

    fn with(mut self, reg: Gpr, value: u64) -> Self {
        self.gpr[reg.index()] = value;
        self
    }

    /// Puts `bytes` at RIP, which is set to `linear` less the base of CS, and emulates once.
    fn run_at(&mut self, linear: u64, bytes: &[u8]) -> Result<Done, Stop> {
        let cs = self.segments[SegReg::Cs.index()].base;
        self.rip = linear - if self.mode == Mode::Long { 0 } else { cs };
        let at = (linear - RAM) as usize;
        self.ram[at..at + bytes.len()].copy_from_slice(bytes);
        self.again()
    }

    fn run(&mut self, bytes: &[u8]) -> Result<Done, Stop> {
        self.run_at(RAM + 0x8000, bytes)
    }

    /// Emulates the instruction at RIP, from the start.
    fn again(&mut self) -> Result<Done, Stop> {
        self.used = 0;
        emulate(self)
    }

    fn place(&self, linear: u64, len: usize) -> Option<usize> {
        let at = linear.wrapping_sub(RAM) as usize;
        (at < RAM_LEN && at + len <= RAM_LEN).then_some(at)
    }

    fn ram(&self, linear: u64, len: usize) -> &[u8] {
        let at = self.place(linear, len).unwrap();
        &self.ram[at..at + len]
    }

    fn answer(&mut self, event: Event, buf: &mut [u8]) -> Result<(), Stop> {
        let Some(value) = self.answers.get(self.used) else {
            self.events.push(event);
            return Err(Stop::NeedUser);
        };
        self.used += 1;
        let n = buf.len();
        buf.copy_from_slice(&value.to_le_bytes()[..n]);
        Ok(())
    }

    fn writable(&self, linear: u64, len: usize) -> Result<Option<usize>, Stop> {
        if linear >= DEVICE {
            return Ok(None);
        }
        let fault = Stop::Fault(Exception::page_fault(linear, pf::W));
        match self.place(linear, len) {
            Some(at) if linear < self.read_only_from => Ok(Some(at)),
            _ => Err(fault),
        }
    }
}

impl Machine for Pc {
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
        assert_eq!(split_at_page(linear, buf.len()).1, 0);
        let fault = Stop::Fault(Exception::page_fault(linear, pf::I));
        let at = self.place(linear, buf.len()).ok_or(fault)?;
        buf.copy_from_slice(&self.ram[at..at + buf.len()]);
        Ok(())
    }

    fn read(&mut self, linear: u64, buf: &mut [u8], access: Access) -> Result<(), Stop> {
        if linear >= DEVICE {
            return self.answer(Event::Read(linear, buf.len()), buf);
        }
        if access == Access::Modify {
            self.writable(linear, buf.len())?;
        }
        let fault = Stop::Fault(Exception::page_fault(linear, 0));
        let at = self.place(linear, buf.len()).ok_or(fault)?;
        buf.copy_from_slice(&self.ram[at..at + buf.len()]);
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        match self.writable(linear, data.len())? {
            Some(at) => self.ram[at..at + data.len()].copy_from_slice(data),
            None => self.events.push(Event::Write(linear, data.to_vec())),
        }
        Ok(())
    }

    fn probe_write(&mut self, linear: u64, len: u8) -> Result<(), Stop> {
        self.writable(linear, len.into()).map(|_| ())
    }

    fn cmpxchg(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        if self.races > 0 {
            self.races -= 1;
            return Ok(false);
        }
        if let Some(at) = self.writable(linear, old.len())? {
            assert_eq!(&self.ram[at..at + old.len()], old);
        }
        self.write(linear, new).map(|()| true)
    }

    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop> {
        self.answer(Event::In(port, buf.len()), buf)
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        self.events.push(Event::Out(port, data.to_vec()));
        Ok(())
    }

    fn vector(&mut self, n: u8, buf: &mut [u8]) -> Result<(), Stop> {
        let n = usize::from(n);
        buf.copy_from_slice(&self.vector[n][..buf.len()]);
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
        // The answers belong to the iteration that is over.
        self.answers.drain(..self.used);
        self.used = 0;
        !self.interrupted
    }
}
