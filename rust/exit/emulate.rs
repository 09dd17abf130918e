// SPDX-License-Identifier: GPL-2.0-only

//! Instruction emulation, and its conversation with the VMM.
//!
//! An instruction that reads a device of the VMM's is abandoned, and run again from the start when the
//! answer is there; the answers are kept until it is complete. What it writes to devices is queued, and the
//! VMM gets it piece by piece once the instruction has been committed.

use kernel::prelude::*;

use super::{
    machine::{
        code::CodeCache,
        Known,
        VcpuMachine, //
    },
    quick::DevicePages,
    Next, //
};
use crate::{
    backend::{
        BackendVcpu,
        Left,
        Reg, //
    },
    model::{
        emul::{
            self,
            failure::Failure,
            Done,
            Insn,
            Machine,
            Stop, //
        },
        exit::{
            Exit,
            NestedFault, //
        },
        svm::exit::Completed,
        x86::{
            Exception,
            Gpr, //
        }, //
    },
    uapi,
    vcpu::{
        Pending,
        State, //
    }, //
};

/// Pieces of one kind in one instruction: PUSHA has eight, and one more where it crosses a page.
const PIECES: usize = 9;

/// Iterations of a string instruction, or repetitions after a lost race, before the guest is entered again.
const ROUNDS: usize = 64;

/// Where a piece goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Device memory.
    Memory(u64),
    /// A port.
    Port(u16),
}

/// A piece of an access, of 8 bytes at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    target: Target,
    length: usize,
    data: [u8; 8],
}

impl Default for Piece {
    fn default() -> Self {
        Self {
            target: Target::Memory(0),
            length: 0,
            data: [0; 8],
        }
    }
}

/// A list of pieces.
#[derive(Default)]
struct Pieces {
    list: [Piece; PIECES],
    /// Pieces in the list.
    count: usize,
    /// Pieces that have been used in this round.
    used: usize,
}

impl Pieces {
    fn clear(&mut self) {
        (self.count, self.used) = (0, 0);
    }

    fn push(&mut self, piece: Piece) -> Result<(), Stop> {
        let slot = self.list.get_mut(self.count).ok_or(Stop::Unhandled)?;
        *slot = piece;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    fn next(&mut self) -> Option<&mut Piece> {
        if self.used >= self.count {
            return None;
        }
        let piece = self.list.get_mut(self.used)?;
        self.used = self.used.saturating_add(1);
        Some(piece)
    }
}

/// What an instruction has read from, and will write to, the VMM's devices.
#[derive(Default)]
pub(crate) struct Emulation {
    reads: Pieces,
    writes: Pieces,
    /// The last piece of `reads` waits for the VMM's answer.
    waiting: bool,
    /// The instruction that waits, where it is and where its operand is: it need not be fetched, decoded
    /// and translated again when it goes on.
    kept: Option<(u64, Insn, Option<Known>)>,
    /// Instructions that were decoded before.
    pub(super) code: CodeCache,
    /// Pages that are known to be devices'.
    pub(super) devices: DevicePages,
}

impl Emulation {
    /// Keeps an instruction that has to wait.
    pub(super) fn keep(&mut self, rip: u64, insn: Insn, known: Option<Known>) {
        self.kept = Some((rip, insn, known));
    }

    /// Reads a piece that the VMM has answered already. Returns whether it has.
    pub(super) fn answer(&mut self, target: Target, data: &mut [u8]) -> bool {
        match self.reads.list.get(self.reads.used) {
            Some(piece) if self.reads.used < self.reads.count => {
                if piece.target != target || piece.length != data.len() {
                    return false;
                }
                for (to, from) in data.iter_mut().zip(piece.data) {
                    *to = from;
                }
                self.reads.used = self.reads.used.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    /// Reads a piece: from the answers, or by asking the VMM.
    pub(super) fn read(&mut self, target: Target, data: &mut [u8]) -> Result<(), Stop> {
        if self.answer(target, data) {
            return Ok(());
        }
        if self.reads.used < self.reads.count {
            // The instruction does not do again what it did before.
            return Err(Stop::Unhandled);
        }
        self.reads.push(Piece {
            target,
            length: data.len(),
            data: [0; 8],
        })?;
        self.waiting = true;
        Err(Stop::NeedUser)
    }

    /// Queues a piece that is written.
    pub(super) fn write(&mut self, target: Target, data: &[u8]) -> Result<(), Stop> {
        let mut piece = Piece {
            target,
            length: data.len(),
            data: [0; 8],
        };
        for (to, from) in piece.data.iter_mut().zip(data) {
            *to = *from;
        }
        self.writes.push(piece)
    }

    /// An iteration has been committed. Returns whether the next may follow at once.
    pub(super) fn committed(&mut self) -> bool {
        self.reads.clear();
        self.writes.count == 0
    }
}

impl State {
    /// Emulates the instruction at RIP, which accessed a device (`fault`) or a string of ports.
    pub(crate) fn emulate(&mut self, fault: Option<&NestedFault>) -> Result<Next> {
        self.emulation.reads.clear();
        self.emulation.writes.clear();
        self.emulation.kept = None;
        self.emulate_again(fault)
    }

    /// Handles an exit of an instruction that the processor does not tell all about: its length, and perhaps
    /// its operands.
    #[cold]
    pub(super) fn handle_undecoded(&mut self, left: &Left) -> Result<Next> {
        let mut bytes = [0; emul::MAX_LEN];
        let mut machine = VcpuMachine::new(self, None);
        let insn = machine.instruction(&mut bytes);
        let fetched = machine.fetched();
        let insn = match insn {
            Ok(insn) => insn,
            Err(Stop::Unhandled) => {
                return self.refuse(bytes.get(..fetched).unwrap_or(&[]));
            }
            // The code has changed since the exit: the guest is to meet that by itself.
            Err(_) => return Ok(Next::Resume),
        };
        self.backend.set_instruction_length(insn.len);
        let Exit::Undecoded(needs) = left.exit else {
            return self.handle_exit(left.exit, left.vectored.as_ref());
        };
        let rsp = self.backend.register(Reg::Rsp);
        let gprs = &self.regs.gpr;
        let gpr = |reg: Gpr| {
            if reg == Gpr::Rsp {
                rsp
            } else {
                gprs[reg.index()]
            }
        };
        match needs.complete(&insn, gpr) {
            Some(Completed::Exit(exit)) => self.handle_exit(exit, left.vectored.as_ref()),
            Some(Completed::Operand(_)) => self.emulate(None),
            None => Ok(Next::Resume),
        }
    }

    fn emulate_again(&mut self, fault: Option<&NestedFault>) -> Result<Next> {
        for _ in 0..ROUNDS {
            self.emulation.reads.used = 0;
            let mut bytes = [0; emul::MAX_LEN];
            let kept = match self.emulation.kept {
                Some(_) => self.emulation.kept.take(),
                None => None,
            };
            let mut machine = VcpuMachine::new(self, fault);
            let insn = match kept {
                Some((rip, insn, known)) if rip == machine.rip() => {
                    machine.know(known);
                    Ok(insn)
                }
                _ => machine.instruction(&mut bytes),
            };
            let result = match &insn {
                Ok(insn) => {
                    machine.is_to_execute(insn);
                    emul::execute(&mut machine, insn)
                }
                Err(stop) => Err(*stop),
            };
            match (&result, &insn) {
                (Err(Stop::NeedUser), Ok(insn)) => machine.keep(*insn),
                // The VMM is to get the bytes.
                (Err(Stop::Unhandled), Ok(_)) if machine.fetched() == 0 => {
                    let _ = emul::fetch(&mut machine, &mut bytes);
                }
                _ => {}
            }
            let length = machine.fetched();
            if result.is_ok() || machine.iterated() {
                machine.commit();
            }
            match result {
                Ok(done) => {
                    self.emulation.reads.clear();
                    if self.emulation.writes.count != 0 {
                        return Ok(self.send_write());
                    }
                    if done == Done::Retired || !self.may_repeat() {
                        return Ok(Next::Resume);
                    }
                }
                Err(Stop::Fault(exception)) => return self.fault(exception),
                Err(Stop::NeedUser) => return Ok(self.ask_read()),
                Err(Stop::Retry) => return Ok(Next::Resume),
                Err(Stop::Unhandled) => {
                    return self.refuse(bytes.get(..length).unwrap_or(&[]));
                }
            }
        }
        Ok(Next::Resume)
    }

    /// Refuses the instruction with these bytes. As with KVM, the guest gets #UD unless the VMM wants to see to it
    /// (`KVM_CAP_EXIT_ON_EMULATION_FAILURE`); and the VMM is told, unless it was user mode, which must not be able
    /// to stop the guest.
    #[cold]
    fn refuse(&mut self, bytes: &[u8]) -> Result<Next> {
        if !self.vm.exits_on_emulation_failure() {
            self.raise(Exception::ud());
            if self.cpl() != 0 {
                return Ok(Next::Resume);
            }
        }
        self.emulation_failure(bytes)
    }

    /// Tells the VMM of an instruction that the module does not execute.
    #[cold]
    pub(super) fn emulation_failure(&mut self, bytes: &[u8]) -> Result<Next> {
        self.run.set_internal_error(
            uapi::KVM_INTERNAL_ERROR_EMULATION,
            Failure::new(bytes).words(),
        );
        Ok(Next::ToUser)
    }

    /// Asks the VMM for the piece that the instruction waits for.
    fn ask_read(&mut self) -> Next {
        let last = self.emulation.reads.count.saturating_sub(1);
        if let Some(piece) = self.emulation.reads.list.get(last) {
            match piece.target {
                Target::Memory(gpa) => self.run.set_mmio(gpa, [0; 8], piece.length, false),
                Target::Port(port) => self.run.set_io(false, piece.length as u8, port, 1),
            }
        }
        self.pending = Pending::Emulation;
        Next::ToUser
    }

    /// Gives the VMM the next piece that was written.
    fn send_write(&mut self) -> Next {
        let Some(piece) = self.emulation.writes.next() else {
            self.emulation.writes.clear();
            return Next::Resume;
        };
        match piece.target {
            Target::Memory(gpa) => self.run.set_mmio(gpa, piece.data, piece.length, true),
            Target::Port(port) => {
                let data = piece.data.get(..piece.length).unwrap_or(&[]);
                self.run.write_pio(data);
                self.run.set_io(true, piece.length as u8, port, 1);
            }
        }
        self.pending = Pending::Emulation;
        Next::ToUser
    }

    /// Goes on after the VMM has answered a read or taken a write.
    pub(crate) fn continue_emulation(&mut self) -> Result<Next> {
        if !core::mem::take(&mut self.emulation.waiting) {
            return Ok(self.send_write());
        }
        let last = self.emulation.reads.count.saturating_sub(1);
        if let Some(piece) = self.emulation.reads.list.get_mut(last) {
            match piece.target {
                Target::Memory(_) => piece.data = self.run.mmio_data(),
                Target::Port(_) => {
                    let length = piece.length;
                    self.run
                        .read_pio(piece.data.get_mut(..length).unwrap_or_default());
                }
            }
        }
        self.emulate_again(None)
    }
}
