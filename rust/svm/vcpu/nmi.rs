// SPDX-License-Identifier: GPL-2.0-only

//! NMIs without the processor's help: it neither blocks them while one is being handled, nor says when that
//! ends.
//!
//! IRET exits while an NMI is being handled. It is let run then, and once RIP has moved the NMI is over. If
//! another one waits, or if an NMI waits for the end of an interrupt shadow, the guest is stepped over the
//! instruction.

use super::SvmVcpu;
use crate::model::{
    exit::Exit,
    svm::intercept::Intercept,
    x86::{
        dr6,
        rflags,
        vector, //
    }, //
};

/// What is known of the guest's NMIs.
#[derive(Default)]
pub(super) struct Nmis {
    /// One is being handled.
    pub(super) blocked: bool,
    /// The IRET at this address is about to end that.
    iret: Option<u64>,
    /// RFLAGS.TF has been set to step over an instruction; what it was before.
    step: Option<bool>,
}

impl Nmis {
    /// Whether RFLAGS.TF in the VMCB is not the guest's.
    pub(super) fn hides_trap_flag(&self) -> bool {
        self.step == Some(false)
    }
}

impl SvmVcpu {
    /// An event is on its way into the guest: the flags that are pushed must be the guest's. Returns whether
    /// that gives up a step, so that the guest is to be left again at once.
    pub(super) fn event_delivered(&mut self, is_nmi: bool) -> bool {
        let stepping = self.nmis.step.is_some();
        self.stop_step();
        if is_nmi {
            self.set_nmi_blocked(true);
        }
        stepping && !is_nmi
    }

    /// Says that an NMI is being handled, or that none is.
    pub(super) fn set_nmi_blocked(&mut self, blocked: bool) {
        self.nmis.blocked = blocked;
        self.nmis.iret = None;
        self.intercept(Intercept::IRET, blocked);
    }

    /// The guest is about to execute IRET.
    pub(super) fn iret(&mut self) {
        self.nmis.iret = Some(self.vmcb.vmcb().save.rip);
        self.intercept(Intercept::IRET, false);
    }

    /// Asks for an exit when an NMI can be taken.
    #[cold]
    pub(super) fn request_nmi_window(&mut self) {
        if self.nmis.blocked && self.nmis.iret.is_none() {
            // IRET exits.
            return;
        }
        let save = &mut self.vmcb.vmcb_mut().save;
        if self.nmis.step.is_none() {
            self.nmis.step = Some(save.rflags & rflags::TF != 0);
            save.rflags |= rflags::TF;
        }
    }

    /// Takes note of how far an exit has brought the guest. Returns what the exit is to the shared code.
    #[inline]
    pub(super) fn end_step(&mut self, exit: Exit) -> Exit {
        if self.nmis.iret.is_none() && self.nmis.step.is_none() {
            return exit;
        }
        self.end_step_slow(exit)
    }

    #[cold]
    fn end_step_slow(&mut self, exit: Exit) -> Exit {
        let rip = self.vmcb.vmcb().save.rip;
        let returned = self.nmis.iret.is_some_and(|from| from != rip);
        if returned {
            self.set_nmi_blocked(false);
        }
        let Some(guest_steps) = self.nmis.step else {
            return exit;
        };
        if returned {
            // IRET has loaded the guest's own flags.
            self.nmis.step = None;
        } else {
            self.stop_step();
        }
        match exit {
            Exit::Exception(mut trapped)
                if trapped.exception.vector == vector::DB && !guest_steps =>
            {
                let others = trapped.exception.payload.unwrap_or(0) & !dr6::BS;
                if others == 0 {
                    return Exit::NmiWindow;
                }
                trapped.exception.payload = Some(others);
                Exit::Exception(trapped)
            }
            exit => exit,
        }
    }

    /// Gives the guest its own RFLAGS.TF back.
    pub(super) fn stop_step(&mut self) {
        if self.nmis.step.take() == Some(false) {
            self.vmcb.vmcb_mut().save.rflags &= !rflags::TF;
        }
    }
}
