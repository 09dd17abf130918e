// SPDX-License-Identifier: GPL-2.0-only

//! The vCPU as the emulator's machine.
//!
//! An instruction, or an iteration of a string instruction, changes registers only when nothing can stop it any
//! more, so general and segment registers are written where they are. RIP, RSP and RFLAGS are copied when the
//! emulation begins and written back at its end.

use super::emulate::Target;
use crate::{
    backend::{
        BackendVcpu,
        Hidden,
        Reg, //
    },
    host::{
        cpu::IrqOff,
        user, //
    },
    memory::Memory,
    model::{
        addr::{
            Gpa,
            Hva,
            PAGE_SIZE, //
        },
        emul::{
            breakpoint::{
                self,
                Watched, //
            },
            split_at_page,
            Access,
            Insn,
            Machine,
            Mode,
            Shadow,
            Stop, //
        },
        exit::NestedFault,
        ioevent::Bus,
        walk::{
            self,
            AccessKind,
            GuestMemory,
            Path,
            Request,
            WalkError, //
        },
        x86::{
            cr4,
            dr6,
            rflags,
            Exception,
            Gpr,
            SegReg,
            Segment, //
        }, //
    },
    vcpu::State, //
};

pub(super) mod code;
mod system;

/// An access whose translation has been found already: by the processor, or in the first try of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// `None` while the processor has told the guest-physical address only.
    linear_page: Option<u64>,
    gpa: Gpa,
    write: bool,
    /// The processor has just found out that it is a device, and neither the guest nor the VMM has run since.
    fresh: bool,
}

/// The vCPU, for the length of one instruction.
pub(super) struct VcpuMachine<'a> {
    state: &'a mut State,
    rsp: u64,
    rip: u64,
    rflags: u64,
    retired: bool,
    iterated: bool,
    cr0: u64,
    cr4: u64,
    mode: Mode,
    cpl: u8,
    cr3: u64,
    efer: u64,
    window: Window,
    known: Option<Known>,
    /// What the instruction is kept under.
    key: code::Key,
    fetched: usize,
    /// How the first byte of the code was found.
    way: Option<code::Way>,
    shadow: Option<Shadow>,
    ends_nmi: bool,
    /// Breakpoints that were met, as bits of DR6.
    met: u64,
}

impl<'a> VcpuMachine<'a> {
    /// Copies the registers of `state`. `fault` is the access that led here.
    ///
    /// Inlined, or the whole of it would be copied once more.
    #[inline(always)]
    pub(super) fn new(state: &'a mut State, fault: Option<&NestedFault>) -> Self {
        let context = state.backend.emulation_context();
        let efer = context.efer;
        let known = fault
            .filter(|fault| !fault.walk && !fault.fetch)
            .map(|fault| Known {
                linear_page: context.linear.map(page_of),
                gpa: fault.gpa,
                write: fault.write,
                fresh: true,
            });
        Self {
            rsp: context.rsp,
            rip: context.rip,
            rflags: context.rflags,
            retired: false,
            iterated: false,
            cr0: context.cr0,
            cr4: context.cr4,
            mode: Mode::new(context.cr0, efer, context.rflags, context.cs_rights),
            cpl: context.cpl,
            cr3: context.cr3,
            efer,
            window: Window::default(),
            known,
            key: code::Key::new(&context, state.vm.memory()),
            fetched: 0,
            way: None,
            shadow: None,
            ends_nmi: false,
            met: 0,
            state,
        }
    }

    /// Says which instruction it is. What the processor has told about an access may not be about any of those
    /// that the instruction makes here.
    pub(super) fn is_to_execute(&mut self, insn: &Insn) {
        let untied = |known: &Known| known.linear_page.is_none();
        if self.known.as_ref().is_some_and(untied) && !insn.accesses_operand_only() {
            self.known = None;
        }
    }

    /// Takes over what was known when the instruction was tried before.
    pub(super) fn know(&mut self, known: Option<Known>) {
        self.known = known.map(|known| Known {
            fresh: false,
            ..known
        });
    }

    /// Keeps the instruction for the time when the VMM has answered.
    pub(super) fn keep(&mut self, insn: Insn) {
        self.state.emulation.keep(self.rip, insn, self.known);
    }

    /// Writes the registers back. Traps of the instruction, or of the iteration, become pending.
    pub(super) fn commit(&mut self) {
        let mut traps = self.met;
        if self.retired {
            if self.state.backend.retire(self.rip, self.rsp, self.rflags) {
                traps |= dr6::BS;
            }
        } else {
            if self.iterated {
                // The instruction goes on: it must not meet its own breakpoint again.
                self.rflags |= rflags::RF;
                if self.rflags & rflags::TF != 0 {
                    traps |= dr6::BS;
                }
            }
            let backend = &mut self.state.backend;
            backend.set_register(Reg::Rip, self.rip);
            backend.set_register(Reg::Rsp, self.rsp);
            backend.set_register(Reg::Rflags, self.rflags);
        }
        if self.shadow.is_some() || self.ends_nmi {
            self.set_blocking();
            if self.shadow == Some(Shadow::MovSs) {
                // No single step is reported after it, and a breakpoint that it met itself is lost too.
                traps = 0;
            }
        }
        if traps != 0 {
            self.state.raise(Exception::db(traps));
        }
    }

    #[cold]
    fn set_blocking(&mut self) {
        let irq = IrqOff::new();
        let mut blocking = self.state.backend.blocking(&irq);
        drop(irq);
        blocking.sti |= self.shadow == Some(Shadow::Sti);
        blocking.mov_ss |= self.shadow == Some(Shadow::MovSs);
        blocking.nmi &= !self.ends_nmi;
        self.state.backend.set_blocking(blocking);
    }

    /// Notes the breakpoints that an access meets.
    #[inline]
    fn watch(&mut self, address: u64, len: usize, access: Watched) {
        if self.state.debug.has_breakpoints() {
            self.met |= breakpoint::hits(&self.state.debug, address, len as u64, access);
        }
    }

    /// Breakpoints on ports are an extension.
    fn watch_port(&mut self, port: u16, len: usize) {
        if self.cr4 & cr4::DE != 0 {
            self.watch(port.into(), len, Watched::Port);
        }
    }

    /// Returns how many bytes of the instruction have been fetched.
    pub(super) fn fetched(&self) -> usize {
        self.fetched
    }

    /// Whether an iteration of a string instruction is complete, so that the registers count even when a
    /// later one stopped.
    pub(super) fn iterated(&self) -> bool {
        self.iterated
    }

    /// Translates a linear address for an access within one page.
    fn translate(&mut self, linear: u64, kind: AccessKind) -> Result<Gpa, Stop> {
        if let Some(known) = &mut self.known {
            let covered = match (kind, known.linear_page) {
                (AccessKind::Fetch, _) => false,
                // The access that led here is this one, by its kind and its place in the page.
                (kind, None) => {
                    (kind == AccessKind::Write) == known.write
                        && linear & (PAGE_SIZE - 1) == known.gpa.page_offset()
                }
                // A read is covered by the processor's check of a write; the reverse is not true.
                (kind, Some(page)) => {
                    (kind == AccessKind::Read || known.write) && page_of(linear) == page
                }
            };
            if covered {
                known.linear_page = Some(page_of(linear));
                let page = known.gpa.gfn().gpa().raw();
                return Ok(Gpa::new(page | linear & (PAGE_SIZE - 1)));
            }
        }
        let gpa = self.walk(linear, Request::explicit(kind, self.cpl, self.rflags))?;
        if self.known.is_none() && kind != AccessKind::Fetch {
            self.known = Some(Known {
                linear_page: Some(page_of(linear)),
                gpa,
                write: kind == AccessKind::Write,
                fresh: false,
            });
        }
        Ok(gpa)
    }

    /// Walks the guest's page tables.
    fn walk(&mut self, linear: u64, request: Request) -> Result<Gpa, Stop> {
        let mut tables = self.tables();
        let result = walk::walk(&self.paging(), &mut tables, linear, request);
        self.window = tables.window;
        result.map(|found| found.gpa).map_err(stop)
    }

    /// Walks them, and returns the way too.
    fn walk_path(&mut self, linear: u64, request: Request) -> Result<(Gpa, Path), Stop> {
        let mut tables = self.tables();
        let result = walk::walk_path(&self.paging(), &mut tables, linear, request);
        self.window = tables.window;
        result.map(|(found, path)| (found.gpa, path)).map_err(stop)
    }

    #[inline]
    fn tables(&self) -> Tables<'_> {
        Tables {
            memory: self.state.vm.memory(),
            window: self.window,
        }
    }

    #[inline]
    fn paging(&self) -> walk::Config {
        walk::Config::new(
            self.cr0,
            self.cr3,
            self.cr4,
            self.efer,
            // Protection keys are not offered to guests.
            0,
            self.state.guest.phys_bits,
            true,
        )
    }

    /// Translates both pages of an access.
    fn translate_all(
        &mut self,
        linear: u64,
        length: usize,
        kind: AccessKind,
    ) -> Result<(Gpa, usize, Gpa), Stop> {
        let (first, second) = split_at_page(linear, length);
        let gpa = self.translate(linear, kind)?;
        let other = if second == 0 {
            gpa
        } else {
            self.translate(self.next_page(linear, first), kind)?
        };
        Ok((gpa, first, other))
    }

    fn next_page(&self, linear: u64, first: usize) -> u64 {
        let next = linear.wrapping_add(first as u64);
        if self.mode == Mode::Long {
            next
        } else {
            u64::from(next as u32)
        }
    }

    /// Returns where the VMM keeps `gpa`, if it is memory.
    fn hva(&mut self, gpa: Gpa, write: bool) -> Option<Hva> {
        let mut tables = Tables {
            memory: self.state.vm.memory(),
            window: self.window,
        };
        let hva = tables.hva(gpa, write);
        self.window = tables.window;
        hva
    }

    /// Whether the fault that led here has told that `gpa` is a device for this kind of access.
    fn is_known_device(&self, gpa: Gpa, write: bool) -> bool {
        self.known.as_ref().is_some_and(|known| {
            known.fresh && known.write == write && gpa.gfn() == known.gpa.gfn()
        })
    }

    /// Reads within one page of guest-physical memory.
    fn read_physical(&mut self, gpa: Gpa, data: &mut [u8]) -> Result<(), Stop> {
        // What was a device when the VMM was asked is one still.
        if (self.state.emulation).answer(Target::Memory(gpa.raw()), data) {
            return Ok(());
        }
        if !self.is_known_device(gpa, false) {
            if let Some(hva) = self.hva(gpa, false) {
                return user::copy_in(hva, data).map_err(|_| Stop::Unhandled);
            }
        }
        let mut at = gpa.raw();
        for piece in data.chunks_mut(8) {
            if !self.state.device_read(at, piece) {
                self.state.emulation.read(Target::Memory(at), piece)?;
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Writes within one page of guest-physical memory.
    fn write_physical(&mut self, gpa: Gpa, data: &[u8]) -> Result<(), Stop> {
        if !self.is_known_device(gpa, true) {
            if let Some(hva) = self.hva(gpa, true) {
                return user::copy_out(hva, data).map_err(|_| Stop::Unhandled);
            }
        }
        let mut at = gpa.raw();
        for piece in data.chunks(8) {
            let length = piece.len() as u32;
            if !self.state.device_write(at, word(piece), length) {
                self.state.emulation.write(Target::Memory(at), piece)?;
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }
}

impl Machine for VcpuMachine<'_> {
    #[inline]
    fn gpr(&self, reg: Gpr) -> u64 {
        match reg {
            Gpr::Rsp => self.rsp,
            reg => self.state.regs.gpr[reg.index()],
        }
    }

    #[inline]
    fn set_gpr(&mut self, reg: Gpr, value: u64) {
        match reg {
            Gpr::Rsp => self.rsp = value,
            reg => self.state.regs.gpr[reg.index()] = value,
        }
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
        self.retired = true;
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn segment(&mut self, reg: SegReg) -> Segment {
        self.state.backend.segment(Hidden::Seg(reg))
    }

    fn cr0(&self) -> u64 {
        self.cr0
    }

    fn cr4(&self) -> u64 {
        self.cr4
    }

    fn xcr0(&self) -> u64 {
        self.state.xcr0
    }

    fn fetch(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop> {
        if self.fetched == 0 {
            if let Some(code) = self.state.backend.fetched_code().first(buf.len()) {
                buf.copy_from_slice(code);
                self.fetched = buf.len();
                return Ok(());
            }
        }
        let request = Request::explicit(AccessKind::Fetch, self.cpl, self.rflags);
        let (gpa, path) = self.walk_path(linear, request)?;
        if self.fetched == 0 {
            self.way = Some(code::Way::new(path, gpa));
        }
        let hva = self.hva(gpa, false).ok_or(Stop::Unhandled)?;
        user::copy_in(hva, buf).map_err(|_| Stop::Unhandled)?;
        self.fetched = self.fetched.saturating_add(buf.len());
        Ok(())
    }

    fn read(&mut self, linear: u64, buf: &mut [u8], access: Access) -> Result<(), Stop> {
        let (kind, watched) = match access {
            Access::Read => (AccessKind::Read, Watched::Read),
            Access::Write | Access::Modify => (AccessKind::Write, Watched::Write),
        };
        self.watch(linear, buf.len(), watched);
        let (gpa, first, other) = self.translate_all(linear, buf.len(), kind)?;
        let (low, high) = buf.split_at_mut_checked(first).ok_or(Stop::Unhandled)?;
        self.read_physical(gpa, low)?;
        if !high.is_empty() {
            self.read_physical(other, high)?;
        }
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop> {
        self.watch(linear, data.len(), Watched::Write);
        let (gpa, first, other) = self.translate_all(linear, data.len(), AccessKind::Write)?;
        let (low, high) = data.split_at_checked(first).ok_or(Stop::Unhandled)?;
        self.write_physical(gpa, low)?;
        if !high.is_empty() {
            self.write_physical(other, high)?;
        }
        Ok(())
    }

    fn probe_write(&mut self, linear: u64, len: u8) -> Result<(), Stop> {
        self.translate_all(linear, usize::from(len), AccessKind::Write)
            .map(|_| ())
    }

    fn cmpxchg(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop> {
        let (gpa, first, other) = self.translate_all(linear, new.len(), AccessKind::Write)?;
        if let Some(hva) = self.hva(gpa, true) {
            if first == new.len() && new.len() <= 8 {
                return user::cmpxchg(hva, word(old), word(new), new.len())
                    .map_err(|_| Stop::Unhandled);
            }
            if first == new.len() || self.hva(other, true).is_some() {
                // All of it is memory, where only the processor can do this in one piece.
                return Err(Stop::Retry);
            }
        }
        self.write(linear, new)?;
        Ok(true)
    }

    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop> {
        self.watch_port(port, buf.len());
        if self.state.vm.interrupts().port_read(port, buf) {
            return Ok(());
        }
        self.state.emulation.read(Target::Port(port), buf)
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        self.watch_port(port, data.len());
        if self.state.vm.interrupts().port_write(port, data)
            || self.state.vm.doorbells().ring(Bus::Port, port.into(), data)
        {
            return Ok(());
        }
        self.state.emulation.write(Target::Port(port), data)
    }

    fn vector(&mut self, n: u8, buf: &mut [u8]) -> Result<(), Stop> {
        self.state.read_vector(n, buf)
    }

    fn set_vector(&mut self, n: u8, value: &[u8], clear: bool) -> Result<(), Stop> {
        self.state.write_vector(n, value, clear)
    }

    fn next_iteration(&mut self) -> bool {
        self.iterated = true;
        self.state.emulation.committed() && self.met == 0 && self.state.may_repeat()
    }
}

/// What a walk that did not end at a page means to the instruction.
fn stop(error: WalkError) -> Stop {
    match error {
        WalkError::Fault(fault) => Stop::Fault(Exception::page_fault(fault.gva, fault.error_code)),
        WalkError::Unreadable(_) => Stop::Unhandled,
        WalkError::Contended => Stop::Retry,
    }
}

/// The page of a linear address.
const fn page_of(linear: u64) -> u64 {
    linear & !(PAGE_SIZE - 1)
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A part of the guest's memory and where the VMM keeps it.
#[derive(Clone, Copy, Default)]
struct Window {
    start: u64,
    size: u64,
    hva: u64,
    writable: bool,
}

/// The guest's memory, for a few accesses in a row: the slot that was used last is remembered. A slot that is
/// deleted meanwhile still names the VMM's own memory, so that using it once more does no harm.
pub(crate) struct Tables<'a> {
    memory: &'a Memory,
    window: Window,
}

impl<'a> Tables<'a> {
    /// Starts with no slot.
    pub(crate) fn new(memory: &'a Memory) -> Self {
        Self {
            memory,
            window: Window::default(),
        }
    }

    /// Returns where the VMM keeps `gpa`.
    #[inline]
    fn hva(&mut self, gpa: Gpa, write: bool) -> Option<Hva> {
        let mut offset = gpa.raw().wrapping_sub(self.window.start);
        if offset >= self.window.size {
            self.window = self.look_up(gpa)?;
            offset = gpa.raw().wrapping_sub(self.window.start);
        }
        if write && !self.window.writable {
            return None;
        }
        Some(Hva::new(self.window.hva.wrapping_add(offset)))
    }

    #[inline(never)]
    fn look_up(&self, gpa: Gpa) -> Option<Window> {
        let slot = self.memory.slot(gpa.gfn())?;
        Some(Window {
            start: slot.base_gfn.gpa().raw(),
            // No slot is so large that this would overflow, nor does one end above the end of userspace.
            size: slot.npages.saturating_mul(PAGE_SIZE),
            hva: slot.hva.raw(),
            writable: slot.is_writable(),
        })
    }

    fn cmpxchg(&mut self, gpa: Gpa, old: u64, new: u64, size: usize) -> Option<bool> {
        user::cmpxchg(self.hva(gpa, true)?, old, new, size).ok()
    }
}

impl GuestMemory for Tables<'_> {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        let mut bytes = [0; 4];
        user::copy_in(self.hva(gpa, false)?, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        user::get_u64(self.hva(gpa, false)?).ok()
    }

    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        self.cmpxchg(gpa, old.into(), new.into(), 4)
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        self.cmpxchg(gpa, old, new, 8)
    }
}
