// SPDX-License-Identifier: GPL-2.0-only

//! `KVM_GET_REGS`, `KVM_GET_SREGS`, `KVM_TRANSLATE` and their opposites.

use kernel::prelude::*;

use super::{
    Pending,
    State, //
};
use crate::{
    backend::{
        BackendVcpu,
        Hidden,
        Reg, //
    },
    exit::machine::Tables,
    model::{
        apic::Initiator,
        sregs::{
            self,
            Control, //
        },
        walk::{
            self,
            AccessKind,
            Request, //
        },
        x86::{
            ar,
            Gpr,
            SegReg,
            Segment, //
        }, //
    },
    uapi::{
        self,
        kvm_segment, //
    }, //
};

impl State {
    pub(super) fn get_regs(&mut self) -> uapi::kvm_regs {
        let gpr = |reg: Gpr| self.regs.gpr[reg.index()];
        let mut regs = uapi::kvm_regs {
            rax: gpr(Gpr::Rax),
            rbx: gpr(Gpr::Rbx),
            rcx: gpr(Gpr::Rcx),
            rdx: gpr(Gpr::Rdx),
            rsi: gpr(Gpr::Rsi),
            rdi: gpr(Gpr::Rdi),
            rbp: gpr(Gpr::Rbp),
            r8: gpr(Gpr::R8),
            r9: gpr(Gpr::R9),
            r10: gpr(Gpr::R10),
            r11: gpr(Gpr::R11),
            r12: gpr(Gpr::R12),
            r13: gpr(Gpr::R13),
            r14: gpr(Gpr::R14),
            r15: gpr(Gpr::R15),
            ..Default::default()
        };
        regs.rsp = self.backend.register(Reg::Rsp);
        regs.rip = self.backend.register(Reg::Rip);
        regs.rflags = self.backend.register(Reg::Rflags);
        regs
    }

    pub(super) fn set_regs(&mut self, regs: &uapi::kvm_regs) {
        for (reg, value) in [
            (Gpr::Rax, regs.rax),
            (Gpr::Rbx, regs.rbx),
            (Gpr::Rcx, regs.rcx),
            (Gpr::Rdx, regs.rdx),
            (Gpr::Rsi, regs.rsi),
            (Gpr::Rdi, regs.rdi),
            (Gpr::Rbp, regs.rbp),
            (Gpr::R8, regs.r8),
            (Gpr::R9, regs.r9),
            (Gpr::R10, regs.r10),
            (Gpr::R11, regs.r11),
            (Gpr::R12, regs.r12),
            (Gpr::R13, regs.r13),
            (Gpr::R14, regs.r14),
            (Gpr::R15, regs.r15),
        ] {
            self.regs.gpr[reg.index()] = value;
        }
        // A VMM that moves the guest elsewhere does not want the end of an instruction there.
        let ends = matches!(self.pending, Pending::Out | Pending::Load(_));
        if ends && regs.rip != self.backend.register(Reg::Rip) {
            self.pending = Pending::None;
        }
        self.backend.set_register(Reg::Rip, regs.rip);
        self.backend.set_register(Reg::Rsp, regs.rsp);
        self.backend
            .set_register(Reg::Rflags, sregs::rflags(regs.rflags));
        self.events.drop_exception();
    }

    pub(super) fn get_sregs(&mut self) -> uapi::kvm_sregs {
        let backend = &mut self.backend;
        let mut segment = |reg| to_uapi(&backend.segment(reg));
        let mut sregs = uapi::kvm_sregs {
            cs: segment(Hidden::Seg(SegReg::Cs)),
            ds: segment(Hidden::Seg(SegReg::Ds)),
            es: segment(Hidden::Seg(SegReg::Es)),
            fs: segment(Hidden::Seg(SegReg::Fs)),
            gs: segment(Hidden::Seg(SegReg::Gs)),
            ss: segment(Hidden::Seg(SegReg::Ss)),
            tr: segment(Hidden::Tr),
            ldt: segment(Hidden::Ldtr),
            ..Default::default()
        };
        for (reg, table) in [
            (Hidden::Gdtr, &mut sregs.gdt),
            (Hidden::Idtr, &mut sregs.idt),
        ] {
            let held = backend.segment(reg);
            (table.base, table.limit) = (held.base, held.limit as u16);
        }
        sregs.cr0 = backend.register(Reg::Cr0);
        sregs.cr2 = self.regs.cr2;
        sregs.cr3 = backend.register(Reg::Cr3);
        sregs.cr4 = backend.register(Reg::Cr4);
        sregs.efer = backend.register(Reg::Efer);
        sregs.cr8 = self.cr8();
        sregs.apic_base = self.apic_base();
        if let Some(vector) = self.events.queued_interrupt() {
            if let Some(word) = sregs.interrupt_bitmap.get_mut(usize::from(vector >> 6)) {
                *word |= 1 << (vector & 63);
            }
        }
        sregs
    }

    pub(super) fn set_sregs(&mut self, sregs: &uapi::kvm_sregs) -> Result {
        let control = Control {
            cr0: sregs.cr0,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
            cs_l: sregs.cs.l != 0,
        };
        sregs::check_control(&control, &self.guest, &self.cpu.caps)?;
        self.set_apic_base(sregs.apic_base, Initiator::Host)
            .map_err(|_| EINVAL)?;

        let backend = &mut self.backend;
        for (reg, segment) in [
            (Hidden::Seg(SegReg::Cs), &sregs.cs),
            (Hidden::Seg(SegReg::Ds), &sregs.ds),
            (Hidden::Seg(SegReg::Es), &sregs.es),
            (Hidden::Seg(SegReg::Fs), &sregs.fs),
            (Hidden::Seg(SegReg::Gs), &sregs.gs),
            (Hidden::Seg(SegReg::Ss), &sregs.ss),
            (Hidden::Tr, &sregs.tr),
            (Hidden::Ldtr, &sregs.ldt),
        ] {
            backend.set_segment(reg, &from_uapi(segment, reg));
        }
        for (reg, table) in [(Hidden::Gdtr, &sregs.gdt), (Hidden::Idtr, &sregs.idt)] {
            backend.set_segment(reg, &Segment::table(table.base, table.limit));
        }
        self.regs.cr2 = sregs.cr2;
        backend.set_register(Reg::Cr3, sregs.cr3);
        backend.set_register(Reg::Efer, sregs.efer);
        backend.set_register(Reg::Cr0, sregs.cr0);
        backend.set_register(Reg::Cr4, sregs.cr4);
        if control.has_pdptes() {
            if let Some(entries) = self.read_pdptes(sregs.cr3) {
                self.backend.set_pdptes(entries);
            }
        }
        self.set_cr8(sregs.cr8 & 0xf);
        self.refresh_cpuid();
        let vector = sregs
            .interrupt_bitmap
            .iter()
            .enumerate()
            .find(|(_, word)| **word != 0)
            .map(|(i, word)| (i as u32 * 64 + word.trailing_zeros()) as u8);
        if let (Some(vector), true) = (vector, !self.vm.interrupts().has_apics()) {
            self.events.queue_interrupt(vector);
        }
        Ok(())
    }

    /// `KVM_TRANSLATE`: the guest's own translation of an address, without a look at rights.
    pub(super) fn translate(&mut self, arg: usize) -> Result {
        let mut request: uapi::kvm_translation = uapi::get(arg)?;
        let control = self.control();
        let paging = walk::Config::new(
            control.cr0,
            control.cr3,
            control.cr4,
            control.efer,
            0,
            self.guest.phys_bits,
            true,
        );
        let access = Request {
            update: false,
            ..Request::implicit(AccessKind::Read)
        };
        let result = walk::walk(
            &paging,
            &mut Tables::new(self.vm.memory()),
            request.linear_address,
            access,
        );
        request.valid = result.is_ok().into();
        request.physical_address = result.map_or(u64::MAX, |found| found.gpa.raw());
        request.writeable = 1;
        request.usermode = 0;
        uapi::put(arg, &request)
    }
}

/// A segment in the API's form.
fn to_uapi(segment: &Segment) -> kvm_segment {
    let bit = |mask: u32| u8::from(segment.ar & mask != 0);
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.ar & ar::TYPE) as u8,
        present: if segment.is_unusable() { 0 } else { bit(ar::P) },
        dpl: segment.dpl(),
        db: bit(ar::DB),
        s: bit(ar::S),
        l: bit(ar::L),
        g: bit(ar::G),
        avl: bit(ar::AVL),
        unusable: segment.is_unusable().into(),
        padding: 0,
    }
}

/// A segment from the API's form, as VM entry accepts it.
fn from_uapi(given: &kvm_segment, reg: Hidden) -> Segment {
    let mut rights = u32::from(given.type_) & ar::TYPE | u32::from(given.dpl & 3) << ar::DPL_SHIFT;
    for (field, mask) in [
        (given.s, ar::S),
        (given.present, ar::P),
        (given.avl, ar::AVL),
        (given.l, ar::L),
        (given.db, ar::DB),
        (given.g, ar::G),
    ] {
        if field != 0 {
            rights |= mask;
        }
    }
    if given.unusable != 0 || given.present == 0 {
        rights |= ar::UNUSABLE;
    }
    // The processor sets the accessed bit when it loads a segment; a VMM that forgot it means the same.
    if let Hidden::Seg(_) = reg {
        if rights & ar::UNUSABLE == 0 {
            rights |= ar::ACCESSED;
        }
    }
    Segment {
        selector: given.selector,
        base: given.base,
        limit: given.limit,
        ar: rights,
    }
}
