// SPDX-License-Identifier: Apache-2.0

//! A CPU's thread: run the guest, act on the exit, until someone ends the run.

use std::sync::Arc;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

use super::exit::{handle, Buses, Exit, RunFacts};
use super::kick::Registration;
use crate::outcome::{Outcome, Stop};

/// A CPU with what its thread needs.
pub struct Cpu {
    /// Its number.
    pub id: u8,
    /// The hypervisor's side.
    pub vcpu: VcpuFd,
    /// Where its accesses go.
    pub buses: Arc<Buses>,
    /// Ends the run, for itself and for others.
    pub stop: Arc<Stop>,
}

impl Cpu {
    /// Runs until the end of the run is asked for, by anyone.
    pub fn run(mut self) {
        let kicks = Registration::new(&mut self.vcpu);
        let mut exits = 0u64;
        while !self.stop.is_requested() {
            exits = exits.wrapping_add(1);
            if let Some(outcome) = self.step(&kicks) {
                let outcome = self.locate(outcome);
                self.stop.request(outcome);
            }
        }
        tracing::info!("CPU {}: {exits} exits to user space", self.id);
    }

    /// One KVM_RUN and what follows from it.
    fn step(&mut self, kicks: &Registration) -> Option<Outcome> {
        let run: *const kvm_run = self.vcpu.get_kvm_run();
        match self.vcpu.run() {
            Ok(exit) => {
                // SAFETY: the page stays mapped while `self.vcpu` lives, and the CPU is not
                // running between two calls.
                let facts = unsafe { RunFacts::read(run) };
                handle(&self.buses, Exit::new(exit, facts))
            }
            Err(e) => match e.errno() {
                libc::EINTR => {
                    kicks.clear();
                    None
                }
                libc::EAGAIN => None,
                errno => Some(Outcome::Failure(format!(
                    "KVM_RUN failed: {}",
                    crate::error::reason(&std::io::Error::from_raw_os_error(errno))
                ))),
            },
        }
    }

    /// Adds where the guest was to an outcome that is a failure.
    fn locate(&self, outcome: Outcome) -> Outcome {
        let place = match (self.vcpu.get_regs(), self.vcpu.get_sregs()) {
            (Ok(regs), Ok(sregs)) => format!(
                " (CPU {}: rip {:#x}, rsp {:#x}, cr0 {:#x}, cr3 {:#x}, cr4 {:#x}, efer {:#x})",
                self.id, regs.rip, regs.rsp, sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer
            ),
            _ => format!(" (CPU {})", self.id),
        };
        match outcome {
            Outcome::TripleFault(at) => Outcome::TripleFault(at + &place),
            Outcome::InternalError(what) => Outcome::InternalError(what + &place),
            Outcome::EntryFailure(what) => Outcome::EntryFailure(what + &place),
            Outcome::Failure(what) => Outcome::Failure(what + &place),
            other => other,
        }
    }
}
