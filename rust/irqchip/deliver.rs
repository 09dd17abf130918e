// SPDX-License-Identifier: GPL-2.0-only

//! The way to the local APICs.
//!
//! A sender never touches another vCPU's local APIC: it posts to the vCPU's inbox, and the vCPU moves what
//! it finds there into its APIC before it enters the guest. So senders may be in any context.

use kernel::{
    pr_warn_once,
    sync::Arc, //
};

use crate::{
    model::{
        apic::{
            arbitrate,
            Candidate,
            Ipi,
            Sender, //
        },
        msi::{
            DeliveryMode,
            Message,
            Trigger, //
        }, //
    },
    vcpu::table::{
        news,
        VcpuShared,
        VcpuTable, //
    }, //
};

/// Sends a device's message. Returns how many vCPUs took it, or `None` when it is addressed to none.
pub(crate) fn deliver(vcpus: &VcpuTable, message: &Message, sender: Sender) -> Option<i32> {
    let addressed = |vcpu: &VcpuShared| {
        let (dest, mode) = (message.dest, message.dest_mode);
        vcpu.identity().matches(dest, mode, sender)
    };
    let taking = || {
        vcpus
            .iter()
            .filter(|vcpu| vcpu.identity().takes(message, sender))
    };
    if !vcpus.iter().any(|vcpu| addressed(vcpu)) {
        return None;
    }
    if message.to_one() {
        let candidates = taking()
            .enumerate()
            .map(|(index, _)| Candidate { index, ppr: 0 });
        let chosen = arbitrate(message.vector, candidates);
        let Some(vcpu) = chosen.and_then(|index| taking().nth(index)) else {
            return Some(0);
        };
        post(vcpu, message.delivery, message.vector, message.trigger);
        return Some(1);
    }
    let mut count = 0;
    for vcpu in taking() {
        post(vcpu, message.delivery, message.vector, message.trigger);
        count += 1;
    }
    Some(count)
}

/// Sends an inter-processor interrupt of vCPU `sender`.
pub(crate) fn send_ipi(vcpus: &VcpuTable, sender: u32, ipi: &Ipi) {
    let reached = |vcpu: &&Arc<VcpuShared>| ipi.reaches(&vcpu.identity(), vcpu.id == sender);
    if ipi.delivery == DeliveryMode::LowestPriority {
        let candidates = vcpus
            .iter()
            .enumerate()
            .filter(|(_, vcpu)| reached(vcpu))
            .map(|(index, _)| Candidate { index, ppr: 0 });
        let chosen = arbitrate(ipi.vector, candidates);
        if let Some(vcpu) = chosen.and_then(|index| vcpus.iter().nth(index)) {
            post(vcpu, ipi.delivery, ipi.vector, Trigger::Edge);
        }
        return;
    }
    for vcpu in vcpus.iter().filter(reached) {
        post(vcpu, ipi.delivery, ipi.vector, Trigger::Edge);
    }
}

/// Posts a delivery to a vCPU, whose local APIC accepts it.
pub(crate) fn post(vcpu: &VcpuShared, delivery: DeliveryMode, vector: u8, trigger: Trigger) {
    match delivery {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => vcpu.post(vector, trigger),
        DeliveryMode::Nmi => vcpu.tell(news::NMI),
        DeliveryMode::Init => vcpu.tell(news::INIT),
        DeliveryMode::StartUp => vcpu.start_up(vector),
        // There is no system management mode: firmware that relies on it must be found out.
        DeliveryMode::Smi => {
            pr_warn_once!("vireo: a guest's SMI is dropped: there is no SMM\n");
        }
        // The PICs' request reaches the processor by LINT0; the message adds nothing to it.
        DeliveryMode::ExtInt | DeliveryMode::Reserved => {}
    }
}
