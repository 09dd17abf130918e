// SPDX-License-Identifier: GPL-2.0-only

//! Hypercalls.

use crate::{
    backend::{
        BackendVcpu,
        Hidden,
        Reg, //
    },
    host::sched,
    irqchip::deliver,
    model::{
        pv::hypercall::{
            self,
            Call,
            Registers, //
        },
        x86::{
            ar,
            efer,
            Gpr,
            SegReg, //
        }, //
    },
    vcpu::{
        table::news,
        State, //
    }, //
};

impl State {
    /// Carries out a hypercall and returns what the guest finds in RAX.
    pub(crate) fn guest_call(&mut self) -> u64 {
        let code = self.backend.segment(Hidden::Seg(SegReg::Cs));
        let long_mode = self.backend.register(Reg::Efer) & efer::LMA != 0 && code.ar & ar::L != 0;
        let gpr = |gpr: Gpr| self.regs.gpr[gpr.index()];
        let registers = Registers {
            number: gpr(Gpr::Rax),
            args: [Gpr::Rbx, Gpr::Rcx, Gpr::Rdx, Gpr::Rsi].map(gpr),
            long_mode,
            cpl: self.cpl(),
        };
        let result = match hypercall::decode(&registers, self.services()) {
            Ok(call) => self.carry_out(call),
            Err(failure) => failure.code(),
        };
        if long_mode {
            result as u64
        } else {
            result as u32 as u64
        }
    }

    fn carry_out(&mut self, call: Call) -> i64 {
        let vcpus = &self.vm.memory().vcpus;
        let with_id = |id| vcpus.iter().find(|vcpu| vcpu.identity().id == id);
        match call {
            Call::Poll => 0,
            Call::Yield(id) => {
                // With no other thread on this CPU there is nothing to give away.
                let wanted = || with_id(id).filter(|vcpu| vcpu.as_sibling().is_ready());
                if let Some(vcpu) = (!sched::is_alone()).then(wanted).flatten() {
                    let _yielded = vcpu.yield_to();
                }
                0
            }
            Call::Kick(id) => {
                if let Some(vcpu) = with_id(id) {
                    vcpu.tell(news::KICK);
                }
                0
            }
            Call::SendIpi(ipi) => {
                let mut count = 0;
                for vcpu in vcpus.iter() {
                    let identity = vcpu.identity();
                    let message = ipi.message(identity.id);
                    if ipi.reaches(identity.id) && identity.accepts(message.delivery) {
                        deliver::post(vcpu, message.delivery, message.vector, message.trigger);
                        count += 1;
                    }
                }
                count
            }
        }
    }
}
