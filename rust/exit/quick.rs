// SPDX-License-Identifier: GPL-2.0-only

//! The short way of a driver's access to its device: a plain move that was decoded before, at a page that is known
//! to be a device's.
//!
//! The processor has translated and checked the access when it exits, and such an instruction makes no other. So
//! it is enough that the instruction's bytes are what they were, and that what it accesses is what the exit tells;
//! then there is no need for a machine. What is unusual in any way goes the general way ([`super::emulate`]).

use super::Next;
use crate::{
    backend::BackendVcpu,
    exit::machine::code::Key,
    model::{
        addr::PAGE_SIZE,
        emul::{
            plain::{
                Load,
                UNUSUAL_FLAGS, //
            },
            Mode, //
        },
        exit::NestedFault,
        x86::{
            dr6,
            linear_width,
            Exception,
            Gpr, //
        }, //
    },
    vcpu::{
        Pending,
        State, //
    }, //
};

/// Pages that are kept, chosen by their number.
const PAGES: usize = 8;

/// Pages that no memory slot held, for the kind of access, when the slots had a certain version: they hold none as
/// long as it is the same.
#[derive(Default)]
pub(crate) struct DevicePages([(u64, u64); PAGES]);

impl DevicePages {
    /// The page and the kind of an access. It is never 0 for a write, and page 0 is left out for reads.
    #[inline(always)]
    const fn tag(fault: &NestedFault) -> u64 {
        fault.gpa.gfn().raw() << 1 | fault.write as u64
    }

    /// Whether the access is to a device.
    #[inline(always)]
    pub(super) fn has(&self, fault: &NestedFault, version: u64) -> bool {
        let tag = Self::tag(fault);
        let kept = self.0.get(fault.gpa.gfn().raw() as usize % PAGES);
        tag != 0 && kept.is_some_and(|kept| *kept == (tag, version))
    }

    /// Notes that it is, when the slots had this version or a later one.
    pub(super) fn add(&mut self, fault: &NestedFault, version: u64) {
        if let Some(kept) = self.0.get_mut(fault.gpa.gfn().raw() as usize % PAGES) {
            *kept = (Self::tag(fault), version);
        }
    }
}

impl State {
    /// Carries out the access that the processor has told of, if it is a plain move that is known; `None`, with
    /// nothing changed, if it is not.
    #[inline]
    pub(super) fn move_plainly(&mut self, fault: &NestedFault) -> Option<Next> {
        let context = self.backend.emulation_context();
        let mode = Mode::new(context.cr0, context.efer, context.rflags, context.cs_rights);
        if fault.walk
            || fault.fetch
            || mode != Mode::Long
            || context.rflags & UNUSUAL_FLAGS != 0
            || self.debug.has_breakpoints()
        {
            return None;
        }
        let key = Key::new(&context, self.vm.memory());
        let plain = self.emulation.code.find_plain(context.rip, &key)?;
        let gprs = &self.regs.gpr;
        let gpr = |reg: Gpr| match reg {
            Gpr::Rsp => context.rsp,
            reg => gprs[reg.index()],
        };
        let linear = plain.address(context.rip, linear_width(context.cr4), gpr)?;
        // It must be the very access that the exit is about.
        if plain.is_store() != fault.write
            || linear & (PAGE_SIZE - 1) != fault.gpa.page_offset()
            || context.linear.is_some_and(|told| told != linear)
        {
            return None;
        }
        let (gpa, size) = (fault.gpa.raw(), usize::from(plain.size()));
        if plain.is_store() {
            let length = plain.length();
            let value = plain.value(gpr);
            let next = if self.device_write(gpa, value, size as u32) {
                Next::Resume
            } else {
                self.run.set_mmio(gpa, value.to_le_bytes(), size, true);
                Next::ToUser
            };
            self.end_move(length);
            return Some(next);
        }
        let load = plain.load();
        let mut value = [0; 8];
        if self.device_read(gpa, value.get_mut(..size)?) {
            self.end_load(&load, value);
            return Some(Next::Resume);
        }
        self.run.set_mmio(gpa, [0; 8], size, false);
        self.pending = Pending::Load(load);
        Some(Next::ToUser)
    }

    /// Ends a move from device memory with the VMM's answer.
    #[inline]
    pub(crate) fn complete_load(&mut self, load: &Load) {
        self.end_load(load, self.run.mmio_data());
    }

    #[inline]
    fn end_load(&mut self, load: &Load, value: [u8; 8]) {
        let register = load.register();
        let old = self.gpr(register);
        self.set_gpr(register, load.result(old, u64::from_le_bytes(value)));
        self.end_move(load.length());
    }

    #[inline]
    fn end_move(&mut self, length: u8) {
        if self.backend.retire_move(length) {
            // The VMM has set RFLAGS.TF meanwhile.
            self.raise(Exception::db(dr6::BS));
        }
    }
}
