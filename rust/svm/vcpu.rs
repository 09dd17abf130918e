// SPDX-License-Identifier: GPL-2.0-only

//! A vCPU on SVM: entry and exit.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    setup::Svm,
    state::SvmState,
    vmcb::VmcbPage, //
};
use crate::{
    backend::{
        Entry,
        Left,
        Loaded, //
    },
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        }, //
    },
    model::{
        addr::Hpa,
        emul::Mode,
        exit::{
            EntryFailure,
            Event,
            EventKind,
            Exit, //
        },
        svm::{
            clean::Clean,
            event::{
                vectored_event,
                Delivery,
                Guest,
                Moved,
                Return, //
            },
            exit::{
                code,
                decode,
                next_rip,
                Decoded, //
            },
            intercept::{
                Intercept,
                Intercepts, //
            },
            vmcb::{
                v_intr,
                Vmcb, //
            }, //
        },
        x86::{
            dr6,
            vector,
            Gpr, //
        }, //
    },
    vcpu::table::VcpuShared, //
};

mod nmi;
mod operations;

use nmi::Nmis;

/// PAUSE filter: a loop of this many PAUSEs exits,
const PAUSE_COUNT: u16 = 3000;
/// where a PAUSE that comes this many TSC ticks after the one before starts a new loop.
const PAUSE_THRESHOLD: u16 = 128;

/// CR8 is the upper half of the task-priority register.
const TPR_CLASS_SHIFT: u32 = 4;

/// A vCPU on SVM.
pub(crate) struct SvmVcpu {
    svm: &'static Svm,
    state: Pin<KBox<Loaded<SvmState>>>,
    vmcb: VmcbPage,
    /// The local APIC is in the kernel.
    has_apic: bool,
    /// CR0, CR4 and EFER as the guest wrote them last.
    cr0: u64,
    cr4: u64,
    efer: u64,
    /// The memory generation whose translations may be in the TLB.
    tlb_generation: u64,
    /// The guest's translations must be forgotten before the next entry.
    flush: bool,
    /// From the instruction that exited to the next one, in bytes; 0 where it is not known.
    exit_length: u64,
    nmis: Nmis,
}

impl SvmVcpu {
    /// Makes a vCPU whose VMCB has its controls set and no guest state yet. `root` is the root of the VM's
    /// nested page tables; `shared` is told where the vCPU's thread is.
    pub(crate) fn new(
        svm: &'static Svm,
        root: Hpa,
        has_apic: bool,
        shared: Arc<VcpuShared>,
    ) -> Result<Self> {
        let features = &svm.features;
        let mut vmcb = VmcbPage::new(features)?;
        let control = &mut vmcb.vmcb_mut().control;
        control.n_cr3 = root.raw();
        control.iopm_base_pa = svm.iopm.hpa().raw();
        control.msrpm_base_pa = svm.msrpm.hpa().raw();
        if features.pause_filter {
            control.pause_filter_count = PAUSE_COUNT;
        }
        if features.pause_filter_threshold {
            control.pause_filter_threshold = PAUSE_THRESHOLD;
        }
        let mut intercepts = Intercepts::from_words(control.intercepts);
        if !has_apic {
            // The VMM's APIC has the task priority.
            intercepts.set(Intercept::cr_read(8));
            intercepts.set(Intercept::cr_write(8));
        }
        control.intercepts = intercepts.words();
        Ok(Self {
            svm,
            state: KBox::pin_init(Loaded::new(SvmState::new(svm)?, shared), GFP_KERNEL)?,
            vmcb,
            has_apic,
            cr0: 0,
            cr4: 0,
            efer: 0,
            tlb_generation: 0,
            flush: true,
            exit_length: 0,
            nmis: Nmis::default(),
        })
    }

    /// Adds or takes away an intercept.
    #[inline]
    fn intercept(&mut self, intercept: Intercept, on: bool) {
        let control = &mut self.vmcb.vmcb_mut().control;
        let mut intercepts = Intercepts::from_words(control.intercepts);
        if intercepts.assign(intercept, on) {
            control.intercepts = intercepts.words();
            control.mark_dirty(Clean::INTERCEPTS);
        }
    }

    /// Runs the guest until its next exit.
    #[inline]
    fn run(&mut self, irq: &IrqOff, regs: &mut b::vireo_regs, entry: &Entry<'_>) -> Left {
        let stale = entry.tlb_generation != self.tlb_generation || entry.flush_guest || self.flush;
        let Some(prepared) = self
            .state
            .as_mut()
            .with(irq, |state, irq| state.prepare(irq, stale))
        else {
            return refused();
        };
        (self.tlb_generation, self.flush) = (entry.tlb_generation, false);
        if self.has_apic {
            self.intercept(Intercept::cr_write(8), entry.tpr_threshold != 0);
        }
        let moved_rip = entry.inject.and_then(|event| self.inject(irq, event));
        let class = entry.tpr >> TPR_CLASS_SHIFT;
        {
            let Vmcb { control, save } = self.vmcb.vmcb_mut();
            if prepared.moved || !self.svm.features.vmcb_clean {
                control.mark_dirty(Clean::ALL);
            }
            if control.guest_asid != prepared.asid {
                control.guest_asid = prepared.asid;
                control.mark_dirty(Clean::ASID);
            }
            control.tlb_control = prepared.tlb_control;
            control.set_v_intr(v_intr::V_TPR, class.into());
            if save.cr2 != regs.cr2 {
                save.cr2 = regs.cr2;
                control.mark_dirty(Clean::CR2);
            }
            save.rax = regs.gpr[Gpr::Rax.index()];
        }
        cpu::wait_for_tsc(entry.not_before);
        let (vmcb, host) = (self.vmcb.hpa().raw(), prepared.host.raw());
        // SAFETY: Interrupts are off and GIF is 1; SVM is on with a host save area (`prepare`). The VMCB
        // confines the guest to the nested page tables, and `regs` are the registers of its guest. The page
        // `host` holds what VMSAVE saved on this CPU.
        let failed = unsafe { b::vireo_enter_svm(regs, vmcb, host) };
        if failed != 0 {
            return refused();
        }
        let mut left = self.after_exit(regs);
        if let Some(moved) = moved_rip {
            let save = &mut self.vmcb.vmcb_mut().save;
            save.rip = moved.restore(save.rip, left.vectored.as_ref());
        }
        if self.has_apic {
            let new = (self.vmcb.vmcb().control.v_intr & v_intr::V_TPR) as u8;
            left.tpr = (new != class).then_some(new << TPR_CLASS_SHIFT);
        }
        left
    }

    #[inline]
    fn after_exit(&mut self, regs: &mut b::vireo_regs) -> Left {
        let features = &self.svm.features;
        let Vmcb { control, save } = self.vmcb.vmcb_mut();
        regs.gpr[Gpr::Rax.index()] = save.rax;
        regs.cr2 = save.cr2;
        control.mark_clean();
        control.eventinj = 0;
        let exitcode = control.exitcode;
        let vmcb = self.vmcb.vmcb();
        let next = next_rip(exitcode, features, vmcb).unwrap_or(vmcb.save.rip);
        self.exit_length = next.wrapping_sub(vmcb.save.rip);
        let vectored = vectored_event(vmcb.control.exitintinfo);
        let decoded = decode(exitcode, features, vmcb);
        if exitcode == code::EXCEPTION + u64::from(vector::DB) {
            let Vmcb { control, save } = self.vmcb.vmcb_mut();
            save.dr6 = dr6::INIT;
            control.mark_dirty(Clean::DR);
        }
        let exit = match decoded {
            Decoded::Exit(exit) => exit,
            Decoded::NeedsInstruction(needs) => Exit::Undecoded(needs),
            Decoded::Iret => {
                self.iret();
                Exit::NmiWindow
            }
        };
        if let Exit::EntryFailure(_) | Exit::TripleFault = exit {
            // EXITINTINFO has not been written; and of a shutdown nothing goes on.
            return Left {
                exit,
                vectored: None,
                tpr: None,
                incomplete: false,
            };
        }
        let exit = self.end_step(exit);
        Left {
            exit,
            vectored,
            tpr: None,
            incomplete: matches!(exit, Exit::Undecoded(_))
                || self.exit_length == 0 && exit.is_instruction(),
        }
    }

    /// Arranges for `event` to be delivered at the entry. Returns how RIP was moved for that.
    #[cold]
    fn inject(&mut self, irq: &IrqOff, event: &Event) -> Option<Moved> {
        let save = &self.vmcb.vmcb().save;
        let cs_ar = crate::model::x86::Segment::from(&save.cs).ar;
        let guest = Guest {
            rip: save.rip,
            cr0: save.cr0,
            mode: Mode::new(save.cr0, save.efer, save.rflags, cs_ar),
        };
        let Delivery::Inject(injection) = Delivery::new(event, &guest, self.svm.features.nrips)
        else {
            return None;
        };
        if self.event_delivered(event.kind == EventKind::Nmi) {
            cpu::kick_self(irq);
        }
        let Vmcb { control, save } = self.vmcb.vmcb_mut();
        control.eventinj = injection.eventinj;
        match injection.returns {
            Return::Rip => None,
            Return::NextRip(next) => {
                control.nrip = next;
                None
            }
            Return::MoveRip(moved) => {
                save.rip = moved.to;
                Some(moved)
            }
        }
    }
}

/// A reboot has turned SVM off.
#[cold]
fn refused() -> Left {
    Left {
        exit: Exit::EntryFailure(EntryFailure {
            reason: u32::MAX,
            qualification: 0,
        }),
        vectored: None,
        tpr: None,
        incomplete: false,
    }
}
