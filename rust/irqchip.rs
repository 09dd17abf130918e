// SPDX-License-Identifier: GPL-2.0-only

//! Interrupt routing in a VM: the I/O APIC, messages, and the way to the local APICs.
//!
//! A sender never touches another vCPU's local APIC: it posts to the vCPU's inbox, and the vCPU moves what
//! it finds there into its APIC before it enters the guest. So senders may be in any context.

use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::SpinLockIrq, //
};

use crate::{
    model::{
        apic::{
            arbitrate,
            Candidate,
            Eoi,
            Ipi,
            Sender, //
        },
        ioapic::{
            self,
            Effect,
            Ioapic,
            IoapicState,
            Line, //
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

/// The interrupt controllers that a VM's vCPUs share.
#[pin_data]
pub(crate) struct Irqchip {
    #[pin]
    ioapic: SpinLockIrq<Ioapic>,
}

impl Irqchip {
    /// Makes the controllers in their reset state.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            ioapic <- new_spinlock_irq!(Ioapic::new(ioapic::VERSION_82093AA)),
        })
    }

    /// Sets the level of input `pin`. Returns what `KVM_IRQ_LINE_STATUS` reports: the number of vCPUs that
    /// took the interrupt, 0 when it merged with one that is pending, -1 when it is masked.
    pub(crate) fn set_line(&self, vcpus: &VcpuTable, pin: u8, level: bool) -> i32 {
        let mut ioapic = self.ioapic.lock();
        let line = ioapic.set_irq(pin, 0, level);
        let mut accepted = 0;
        if let Line::Deliver(message) = line {
            accepted = deliver(vcpus, &message).unwrap_or(0);
            if accepted == 0 {
                ioapic.not_accepted(pin);
            }
        }
        line.status(accepted)
    }

    /// Tells the I/O APIC that an interrupt has been handled.
    pub(crate) fn eoi(&self, vcpus: &VcpuTable, eoi: &Eoi) {
        if eoi.broadcast {
            self.ioapic
                .lock()
                .eoi(eoi.vector, |_pin, message| is_taken(vcpus, &message));
        }
    }

    /// Returns the offset in the I/O APIC's window, if the address is there.
    pub(crate) fn ioapic_offset(&self, gpa: u64) -> Option<u32> {
        let offset = gpa.wrapping_sub(self.ioapic.lock().base_address());
        (offset < ioapic::WINDOW_BYTES).then_some(offset as u32)
    }

    /// Reads a register of the I/O APIC.
    pub(crate) fn ioapic_read(&self, offset: u32, length: u32) -> u64 {
        self.ioapic.lock().mmio_read(offset, length)
    }

    /// Writes a register of the I/O APIC.
    pub(crate) fn ioapic_write(&self, vcpus: &VcpuTable, offset: u32, length: u32, value: u64) {
        let mut ioapic = self.ioapic.lock();
        match ioapic.mmio_write(offset, length, value) {
            Effect::None => {}
            Effect::Entry(write) => {
                if let Some(message) = write.deliver {
                    if !is_taken(vcpus, &message) {
                        ioapic.not_accepted(write.pin);
                    }
                }
            }
            Effect::Eoi(vector) => {
                ioapic.eoi(vector, |_pin, message| is_taken(vcpus, &message));
            }
        }
    }

    /// Returns the I/O APIC's state for `KVM_GET_IRQCHIP`.
    pub(crate) fn ioapic_state(&self) -> IoapicState {
        self.ioapic.lock().state()
    }

    /// Replaces it.
    pub(crate) fn set_ioapic_state(&self, vcpus: &VcpuTable, state: &IoapicState) {
        self.ioapic
            .lock()
            .set_state(state, |_pin, message| is_taken(vcpus, &message));
    }
}

/// Sends a device's message. Returns how many vCPUs took it, or `None` when it is addressed to none.
pub(crate) fn deliver(vcpus: &VcpuTable, message: &Message) -> Option<i32> {
    let addressed = |vcpu: &VcpuShared| {
        let (dest, mode) = (message.dest, message.dest_mode);
        vcpu.identity().matches(dest, mode, Sender::Device)
    };
    let taking = || {
        vcpus
            .iter()
            .filter(|vcpu| vcpu.identity().takes(message, Sender::Device))
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

fn is_taken(vcpus: &VcpuTable, message: &Message) -> bool {
    deliver(vcpus, message).is_some_and(|count| count != 0)
}

/// Sends an inter-processor interrupt of vCPU `sender`.
pub(crate) fn send_ipi(vcpus: &VcpuTable, sender: u32, ipi: &Ipi) {
    let reached =
        |vcpu: &&kernel::sync::Arc<VcpuShared>| ipi.reaches(&vcpu.identity(), vcpu.id == sender);
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

fn post(vcpu: &VcpuShared, delivery: DeliveryMode, vector: u8, trigger: Trigger) {
    match delivery {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => vcpu.post(vector, trigger),
        DeliveryMode::Nmi => vcpu.tell(news::NMI),
        DeliveryMode::Init => vcpu.tell(news::INIT),
        DeliveryMode::StartUp => vcpu.start_up(vector),
        // There is no PIC in the kernel yet that could give the vector, and no SMM.
        DeliveryMode::ExtInt | DeliveryMode::Smi | DeliveryMode::Reserved => {}
    }
}
