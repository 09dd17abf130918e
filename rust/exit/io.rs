// SPDX-License-Identifier: GPL-2.0-only

//! Port I/O.

use kernel::prelude::*;

use super::Next;
use crate::{
    host::cpu,
    model::{
        exit::{
            Direction,
            IoAccess, //
        },
        ioevent::Bus,
        x86::Gpr, //
    },
    vcpu::{
        Pending,
        State, //
    }, //
};

impl State {
    /// IN and OUT go to the VMM; INS and OUTS through the emulator, for their memory operand.
    pub(super) fn io(&mut self, access: &IoAccess) -> Result<Next> {
        if access.string.is_some() {
            cpu::data_cache_used();
            return self.emulate(None);
        }
        let out = access.direction == Direction::Out;
        if out {
            let value = self.regs.gpr[Gpr::Rax.index()].to_le_bytes();
            let data = value.get(..usize::from(access.size)).unwrap_or(&[]);
            if self.vm.interrupts().port_write(access.port, data)
                || self.vm.absorb(Bus::Port, access.port.into(), data)
            {
                return self.skip();
            }
            self.run.write_pio(data);
            self.pending = Pending::Out;
        } else {
            let mut bytes = [0u8; 4];
            let data = bytes
                .get_mut(..usize::from(access.size))
                .unwrap_or_default();
            if self.vm.interrupts().port_read(access.port, data) {
                self.set_in(access.size, u32::from_le_bytes(bytes).into());
                return self.skip();
            }
            self.pending = Pending::In(access.size);
        }
        self.run.set_io(out, access.size, access.port, 1);
        Ok(Next::ToUser)
    }

    /// Ends an IN of `size` bytes with the VMM's answer.
    pub(crate) fn complete_in(&mut self, size: u8) {
        let mut bytes = [0u8; 8];
        let data = bytes.get_mut(..usize::from(size)).unwrap_or_default();
        self.run.read_pio(data);
        self.set_in(size, u64::from_le_bytes(bytes));
        self.end_instruction();
    }

    /// Puts the result of an IN of `size` bytes into RAX.
    fn set_in(&mut self, size: u8, value: u64) {
        let rax = &mut self.regs.gpr[Gpr::Rax.index()];
        *rax = match size {
            1 => *rax & !0xff | value,
            2 => *rax & !0xffff | value,
            // A 32-bit result clears the upper half.
            _ => value,
        };
    }
}
