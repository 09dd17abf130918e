// SPDX-License-Identifier: GPL-2.0-only

//! The instruction emulator: for accesses to device memory, string I/O, and exits that need decoding.
//!
//! [`decode()`] turns bytes into an [`Insn`], [`execute`] runs it on a [`Machine`], and [`emulate`] does
//! both for the instruction at RIP. What is not known is refused ([`Stop::Unhandled`]), never guessed.
//!
//! # Reads, writes and userspace
//!
//! An instruction makes all its reads before its first write, and changes registers, flags and RIP only
//! after its last memory access. So it may be abandoned at any access and run again from the start:
//!
//! - A read that only userspace can answer returns [`Stop::NeedUser`]. The machine asks userspace, keeps
//!   the answer, and emulates the same instruction again; the reads come in the same order, and those
//!   that were answered are answered from what was kept.
//! - A write to a device is posted: the machine queues it and returns `Ok`; userspace gets it after the
//!   instruction has been committed.
//!
//! A string instruction with REP is a loop of such instructions: [`Machine::next_iteration`] says that
//! one is committed, and the answers kept so far belong to it. The flags of CMPS and SCAS are set when
//! the loop ends: a fault on the way leaves those of before (SDM vol. 2, "REP").
//!
//! # Undefined flags
//!
//! Flags that the architecture leaves undefined keep their old value, except after shifts by more than
//! one (OF as for a shift by one) and logical operations and shifts (AF cleared).

pub mod addr;
pub mod alu;
pub mod breakpoint;
mod control;
pub mod decode;
mod exec;
pub mod failure;
mod flags;
mod flow;
pub mod insn;
mod modrm;
mod muldiv;
pub mod plain;
mod privileged;
mod segment;
mod stack;
mod string;
mod system;
mod table;
#[cfg(test)]
mod tests;
mod vector;

pub use addr::split_at_page;
pub use decode::{decode, DecodeError, MAX_LEN};
pub use exec::execute;
pub use insn::{prefix, Insn, Mem, Op, Operand};
pub use privileged::{Interrupt, Shadow, System, SystemReg, Table, TableReg};

use super::x86::{ar, cr0, efer, linear_width, rflags, Exception, Gpr, SegReg, Segment};

/// The most bytes that one access to memory may have.
pub const MAX_ACCESS: usize = 32;

/// How code at CS:RIP is decoded and how it addresses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode, 16-bit code.
    Real,
    /// Virtual-8086 mode: instructions are decoded but not executed here.
    Virtual8086,
    /// Protected or compatibility mode, 16-bit code.
    Protected16,
    /// Protected or compatibility mode, 32-bit code.
    Protected32,
    /// 64-bit mode.
    Long,
}

impl Mode {
    /// The mode that registers describe; `cs_ar` has the layout of [`ar`].
    pub const fn new(cr0: u64, efer: u64, rflags: u64, cs_ar: u32) -> Self {
        if cr0 & cr0::PE == 0 {
            Self::Real
        } else if efer & efer::LMA != 0 && cs_ar & ar::L != 0 {
            Self::Long
        } else if rflags & rflags::VM != 0 && efer & efer::LMA == 0 {
            Self::Virtual8086
        } else if cs_ar & ar::DB != 0 {
            Self::Protected32
        } else {
            Self::Protected16
        }
    }
}

/// What a memory access is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A read of what the same instruction will write: it needs the right to write, and faults as a
    /// write does.
    Modify,
}

/// Why an instruction was not completed. Nothing of it, or of the current iteration of a string
/// instruction, has changed the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It raised an exception.
    Fault(Exception),
    /// Userspace must answer a read first; then the instruction is to be emulated again.
    NeedUser,
    /// Something changed meanwhile: the guest is to try the instruction again.
    Retry,
    /// It is not one that is emulated here, or not in this mode.
    Unhandled,
}

/// How an instruction was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It has retired.
    Retired,
    /// RIP still points at it: a string instruction has iterations left, or another CPU won the race
    /// for a locked location. Emulate it again, or enter the guest, which comes to the same.
    Repeat,
}

/// The machine that instructions act on.
///
/// Memory accesses never have more than [`MAX_ACCESS`] bytes, but may cross a page: the machine must
/// find both pages accessible before it changes either ([`split_at_page`]). In modes other than
/// [`Mode::Long`] linear addresses are below 4 GiB, and bytes after the last continue at 0.
pub trait Machine: System {
    /// A general register, all 64 bits.
    fn gpr(&self, reg: Gpr) -> u64;

    /// Writes a general register, all 64 bits.
    fn set_gpr(&mut self, reg: Gpr, value: u64);

    /// RIP.
    fn rip(&self) -> u64;

    /// RFLAGS.
    fn rflags(&self) -> u64;

    /// Writes RFLAGS.
    fn set_rflags(&mut self, value: u64);

    /// Ends the instruction: sets RIP to `next_rip`, clears RFLAGS.RF and the interrupt shadow, and
    /// makes a single-step trap pending if RFLAGS.TF is set.
    fn retire(&mut self, next_rip: u64);

    /// The current mode.
    fn mode(&self) -> Mode;

    /// The current privilege level, 0 to 3.
    fn cpl(&self) -> u8;

    /// A segment register; of the last value, if it was [set](System::set_segment).
    fn segment(&mut self, reg: SegReg) -> Segment;

    /// The base of a segment register.
    fn segment_base(&mut self, reg: SegReg) -> u64 {
        self.segment(reg).base
    }

    /// CR0 as the guest sees it.
    fn cr0(&self) -> u64;

    /// CR4 as the guest sees it.
    fn cr4(&self) -> u64;

    /// XCR0.
    fn xcr0(&self) -> u64;

    /// The width of linear addresses in 64-bit mode: 48 or 57.
    fn linear_width(&self) -> u32 {
        linear_width(self.cr4())
    }

    /// Fetches instruction bytes; `buf` does not cross a page.
    fn fetch(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Stop>;

    /// Reads memory.
    fn read(&mut self, linear: u64, buf: &mut [u8], access: Access) -> Result<(), Stop>;

    /// Writes memory.
    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), Stop>;

    /// Checks that [`Machine::write`] of `len` bytes would not fault, without writing.
    fn probe_write(&mut self, linear: u64, len: u8) -> Result<(), Stop>;

    /// Replaces `old` by `new`, atomically where the memory is RAM; device memory is just written.
    /// Returns `false` if RAM no longer held `old`. Both have the same length: 1, 2, 4, 8 or 16.
    fn cmpxchg(&mut self, linear: u64, old: &[u8], new: &[u8]) -> Result<bool, Stop>;

    /// Reads a port; `buf` has 1, 2 or 4 bytes. The I/O permissions have not been checked: an exit
    /// caused by the instruction implies them.
    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop>;

    /// Writes a port, as [`Machine::port_in`] reads it; posted, as writes to device memory are.
    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop>;

    /// Copies the low bytes of vector register `n`, 0 to 15, into `buf`, which has 16 or 32.
    fn vector(&mut self, n: u8, buf: &mut [u8]) -> Result<(), Stop>;

    /// Writes the low 16 or 32 bytes of vector register `n`, and clears the rest if `clear` is set.
    fn set_vector(&mut self, n: u8, value: &[u8], clear: bool) -> Result<(), Stop>;

    /// An iteration of a REP instruction has been committed and another follows. Returns whether it
    /// may start at once; `false`, when an interrupt is pending or a posted write waits for userspace,
    /// makes the instruction end with [`Done::Repeat`].
    fn next_iteration(&mut self) -> bool;
}

/// Fetches, decodes and executes the instruction at RIP.
pub fn emulate<M: Machine>(m: &mut M) -> Result<Done, Stop> {
    let mut bytes = [0; MAX_LEN];
    let insn = fetch(m, &mut bytes)?;
    execute(m, &insn)
}

/// Fetches and decodes the instruction at RIP; `bytes` gets what was fetched.
///
/// The second page of an instruction that crosses pages is touched only if the first is not enough.
#[inline(always)]
pub fn fetch<M: Machine>(m: &mut M, bytes: &mut [u8; MAX_LEN]) -> Result<Insn, Stop> {
    let mode = m.mode();
    let (linear, allowed) = addr::code(m, mode)?;
    let (first, _) = split_at_page(linear, MAX_LEN);
    let mut have = 0;
    let mut end = first.min(allowed);
    // At most twice: the second round ends at `allowed`.
    let error = loop {
        let part = addr::wrap(linear.wrapping_add(have as u64), mode);
        m.fetch(part, bytes.get_mut(have..end).unwrap_or_default())?;
        match decode(bytes.get(..end).unwrap_or_default(), mode) {
            Ok(insn) => return Ok(insn),
            Err(DecodeError::Truncated) if end < allowed => (have, end) = (end, allowed),
            Err(error) => break error,
        }
    };
    Err(match error {
        // More bytes are needed than the code segment has.
        DecodeError::Truncated | DecodeError::TooLong => Stop::Fault(addr::gp(mode)),
        DecodeError::Invalid => Stop::Fault(Exception::ud()),
        DecodeError::Unsupported => Stop::Unhandled,
    })
}
