// SPDX-License-Identifier: GPL-2.0-only

//! What follows an exit of the guest: one `match`, one line for each reason.

use kernel::prelude::*;

use crate::{
    backend::{
        BackendVcpu,
        Left,
        Reg, //
    },
    host::{
        cpu,
        sched, //
    },
    memory::Fault,
    model::{
        event::MpState,
        exit::{
            ApicAccess,
            ApicAccessKind,
            Event,
            Exit,
            NestedFault,
            TrappedException, //
        },
        x86::{
            dr6,
            vector,
            Exception,
            Gpr, //
        }, //
    },
    uapi,
    vcpu::State, //
};

pub(crate) mod emulate;
mod io;
pub(crate) mod machine;
pub(crate) mod quick;
mod registers;

/// What a handler leaves to be done. `Err` from a handler is an error of the host's, which ends `KVM_RUN`;
/// faults of the guest are events to be injected, and resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Enter the guest again.
    Resume,
    /// Return to the VMM, which is told why in `kvm_run`.
    ToUser,
}

impl State {
    /// Handles an exit.
    #[inline]
    pub(crate) fn handle(&mut self, left: &Left) -> Result<Next> {
        if let Some(event) = &left.vectored {
            self.requeue(event);
        }
        if left.incomplete {
            return self.handle_undecoded(left);
        }
        self.handle_exit(left.exit, left.vectored.as_ref())
    }

    #[inline]
    pub(crate) fn handle_exit(&mut self, exit: Exit, vectored: Option<&Event>) -> Result<Next> {
        match exit {
            Exit::ExternalInterrupt
            | Exit::Nmi
            | Exit::InterruptWindow
            | Exit::NmiWindow
            | Exit::TprBelowThreshold
            | Exit::PreemptionTimer => Ok(Next::Resume),
            Exit::Cpuid => self.cpuid(),
            Exit::Wrmsr => self.wrmsr(),
            Exit::Rdmsr => self.rdmsr(),
            Exit::Io(access) => self.io(&access),
            Exit::Hlt => self.hlt(),
            Exit::NestedFault(fault) => self.nested_fault(&fault, vectored),
            Exit::CrAccess(access) => self.cr_access(&access),
            Exit::DrAccess(access) => self.dr_access(&access),
            Exit::Exception(trapped) => self.exception(&trapped),
            Exit::Xsetbv => self.xsetbv(),
            Exit::Hypercall => self.hypercall(),
            // The guest's caches are the host's, and stay coherent.
            Exit::Invd | Exit::Wbinvd => self.skip(),
            Exit::Pause => self.pause(),
            // As with KVM, the guest is let run on at once.
            Exit::Monitor | Exit::Mwait => self.skip(),
            Exit::Rdpmc => self.fault(Exception::gp(0)),
            Exit::Virtualization
            | Exit::Invpcid
            | Exit::Rdtscp
            | Exit::Rdrand
            | Exit::Rdseed
            | Exit::UserWait
            | Exit::Enclave
            | Exit::Xsaves
            | Exit::Xrstors => self.fault(Exception::ud()),
            Exit::Invlpg(_) => self.invlpg(),
            Exit::ApicWrite(offset) => {
                self.apic_written(offset);
                Ok(Next::Resume)
            }
            Exit::VirtualizedEoi(vector) => {
                self.apic_completed(vector);
                Ok(Next::Resume)
            }
            Exit::ApicAccess(access) => self.apic_access(&access),
            Exit::TripleFault => self.to_user(uapi::KVM_EXIT_SHUTDOWN),
            Exit::EntryFailure(failure) => {
                self.report_entry_failure(failure.reason, failure.qualification)
            }
            Exit::TaskSwitch(_) => self.emulation_failure(&[]),
            Exit::NestedMisconfiguration(gpa) => self.misconfiguration(gpa.raw()),
            other => self.unexpected(&other),
        }
    }

    /// Moves on behind the instruction that exited.
    #[inline]
    pub(crate) fn skip(&mut self) -> Result<Next> {
        self.end_instruction();
        Ok(Next::Resume)
    }

    /// Moves on behind the instruction that exited; a single step traps.
    #[inline]
    pub(crate) fn end_instruction(&mut self) {
        if self.backend.skip_instruction() {
            self.raise(Exception::db(dr6::BS));
        }
    }

    /// Raises an exception in the guest.
    pub(crate) fn fault(&mut self, exception: Exception) -> Result<Next> {
        self.raise(exception);
        Ok(Next::Resume)
    }

    /// Returns to the VMM with an exit reason that has no data.
    pub(crate) fn to_user(&mut self, reason: u32) -> Result<Next> {
        self.run.set_reason(reason);
        Ok(Next::ToUser)
    }

    /// Returns a general register.
    #[inline(always)]
    pub(crate) fn gpr(&mut self, gpr: Gpr) -> u64 {
        if gpr == Gpr::Rsp {
            return self.backend.register(Reg::Rsp);
        }
        self.regs.gpr[gpr.index()]
    }

    /// Sets a general register.
    #[inline(always)]
    pub(crate) fn set_gpr(&mut self, gpr: Gpr, value: u64) {
        if gpr == Gpr::Rsp {
            self.backend.set_register(Reg::Rsp, value);
            return;
        }
        self.regs.gpr[gpr.index()] = value;
    }

    fn hlt(&mut self) -> Result<Next> {
        self.end_instruction();
        if self.lapic.is_none() {
            return self.to_user(uapi::KVM_EXIT_HLT);
        }
        self.mp_state = MpState::Halted;
        Ok(Next::Resume)
    }

    #[cold]
    fn pause(&mut self) -> Result<Next> {
        // A loop of PAUSEs waits for another vCPU: let it run.
        let in_kernel = self.cpl() == 0;
        let vcpus = &self.vm.memory().vcpus;
        if !vcpus.favour_sibling(&self.shared, in_kernel) {
            sched::yield_now();
        }
        self.skip()
    }

    fn hypercall(&mut self) -> Result<Next> {
        self.regs.gpr[Gpr::Rax.index()] = self.guest_call();
        self.skip()
    }

    fn invlpg(&mut self) -> Result<Next> {
        self.flush_guest = true;
        self.skip()
    }

    fn exception(&mut self, trapped: &TrappedException) -> Result<Next> {
        match trapped.exception.vector {
            // Delivered to the host when it happened.
            vector::MC => Ok(Next::Resume),
            // INT1 is a trap: the guest goes on behind it.
            vector::DB if trapped.software => {
                self.end_instruction();
                self.fault(trapped.exception)
            }
            _ => self.fault(trapped.exception),
        }
    }

    /// An access that the nested page tables do not allow: memory that is not mapped yet, or a device.
    fn nested_fault(&mut self, fault: &NestedFault, vectored: Option<&Event>) -> Result<Next> {
        let memory = self.vm.memory();
        // Before anything is looked up: what is found may be newer than the version, but not older.
        let version = memory.slots_version();
        if vectored.is_none()
            && self.emulation.devices.has(fault, version)
            && !self.may_map_apic_page(fault.gpa)
        {
            cpu::data_cache_used();
            return match self.move_plainly(fault) {
                Some(next) => Ok(next),
                None => self.emulate(Some(fault)),
            };
        }
        let wait = vectored.is_some() || !self.may_put_off();
        match self
            .vm
            .memory()
            .fault(&mut self.spare, fault.gpa, fault.write, wait)
        {
            Ok(()) => Ok(Next::Resume),
            Err(Fault::Host(e)) => Err(e),
            Err(Fault::Away) => self.put_off(fault.gpa, fault.write),
            Err(Fault::Mmio) if self.map_apic_page(fault.gpa)? => Ok(Next::Resume),
            Err(Fault::Mmio) if vectored.is_some() => self.delivery_failure(fault),
            Err(Fault::Mmio) => {
                cpu::data_cache_used();
                self.emulation.devices.add(fault, version);
                self.emulate(Some(fault))
            }
        }
    }

    /// An access of the APIC's page that the processor leaves to us.
    fn apic_access(&mut self, access: &ApicAccess) -> Result<Next> {
        match access.kind {
            ApicAccessKind::Read | ApicAccessKind::Write => self.emulate(None),
            // Code, stacks, tables and page tables are not kept in the APIC.
            ApicAccessKind::Fetch | ApicAccessKind::EventDelivery | ApicAccessKind::Physical => {
                self.emulation_failure(&[])
            }
        }
    }

    /// The guest's stack or descriptor tables are on a device: no event can be delivered.
    fn delivery_failure(&mut self, fault: &NestedFault) -> Result<Next> {
        self.run.set_internal_error(
            uapi::KVM_INTERNAL_ERROR_DELIVERY_EV,
            &[0, 0, fault.gpa.raw()],
        );
        Ok(Next::ToUser)
    }

    #[cold]
    fn report_entry_failure(&mut self, reason: u32, qualification: u64) -> Result<Next> {
        if crate::dump_requested() {
            pr_info!("entry failed: reason {reason:#x}, qualification {qualification:#x}\n");
            self.backend.dump();
        }
        let irq = cpu::IrqOff::new();
        let number = cpu::this_cpu(&irq).max(0) as u32;
        drop(irq);
        self.run.set_fail_entry(reason.into(), number);
        Ok(Next::ToUser)
    }

    /// The processor does not understand an entry of ours: a bug, reported with all facts.
    #[cold]
    fn misconfiguration(&mut self, gpa: u64) -> Result<Next> {
        let entries = self.vm.memory().trace(gpa);
        pr_err!("EPT misconfiguration at {gpa:#x}: entries {entries:x?}\n");
        self.backend.dump();
        self.run.set_internal_error(
            uapi::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
            &[gpa, entries[0], entries[1], entries[2], entries[3]],
        );
        Ok(Next::ToUser)
    }

    #[cold]
    fn unexpected(&mut self, exit: &Exit) -> Result<Next> {
        pr_err!("unexpected exit {exit:?}\n");
        if crate::dump_requested() {
            self.backend.dump();
        }
        let number = match exit {
            Exit::Unknown(number) => u64::from(*number),
            _ => 0,
        };
        self.run
            .set_internal_error(uapi::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, &[number]);
        Ok(Next::ToUser)
    }
}
