// SPDX-License-Identifier: GPL-2.0-only

//! Interprocessor interrupts and the search for destinations. SDM vol. 3, "Issuing Interprocessor
//! Interrupts" and "Determining IPI Destination".

use super::regs::{
    Reg, CLASS_MASK, DELIVERY_SHIFT, DFR_CLUSTER, DFR_FLAT, ESR_SEND_ILLEGAL_VECTOR, FIRST_VECTOR,
    ICR_ASSERT, ICR_LOGICAL, ICR_SHORTHAND_SHIFT, SVR_ENABLE, TRIGGER_LEVEL, VECTOR_MASK,
    XAPIC_ID_SHIFT,
};
use super::{Effect, Lapic, Mode};
use crate::model::msi::{DeliveryMode, DestMode, Message, Trigger};

/// The physical and logical broadcast destination in xAPIC mode.
const XAPIC_BROADCAST: u32 = 0xff;
/// The physical and logical broadcast destination in x2APIC mode.
const X2APIC_BROADCAST: u32 = 0xffff_ffff;
/// IDs in one logical cluster of the x2APIC model, as a shift.
const X2APIC_CLUSTER_SHIFT: u32 = 4;
/// The cluster in an x2APIC logical ID, above one bit for each member.
const X2APIC_LDR_CLUSTER_SHIFT: u32 = 16;
/// The members in an x2APIC logical ID.
const X2APIC_LDR_MEMBERS: u32 = 0xffff;
/// The cluster in an xAPIC logical ID of the cluster model, above one bit for each member.
const XAPIC_CLUSTER_SHIFT: u32 = 4;
/// The members in an xAPIC logical ID of the cluster model.
const XAPIC_CLUSTER_MEMBERS: u32 = 0xf;

/// Returns the logical ID that x2APIC mode derives from `id`. SDM vol. 3, "Deriving Logical x2APIC ID
/// from the Local x2APIC ID".
pub(super) const fn x2apic_ldr(id: u32) -> u32 {
    let member = id & ((1 << X2APIC_CLUSTER_SHIFT) - 1);
    ((id >> X2APIC_CLUSTER_SHIFT) << X2APIC_LDR_CLUSTER_SHIFT) | (1 << member)
}

/// The destination shorthand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// The destination field counts.
    None,
    /// The sender.
    SelfOnly,
    /// Everyone.
    AllIncludingSelf,
    /// Everyone but the sender.
    AllExcludingSelf,
}

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// The vector, or the page number of a start-up IPI.
    pub vector: u8,
    /// The destination when there is no shorthand: 8 bits from an xAPIC, 32 from an x2APIC.
    pub dest: u32,
    /// How to read `dest`.
    pub dest_mode: DestMode,
    /// What to deliver; always edge triggered.
    pub delivery: DeliveryMode,
    /// Replaces the destination.
    pub shorthand: Shorthand,
}

impl Ipi {
    /// Decodes an ICR.
    fn from_icr(low: u32, dest: u32) -> Self {
        Self {
            vector: (low & VECTOR_MASK) as u8,
            dest,
            dest_mode: DestMode::from_bit(low & ICR_LOGICAL != 0),
            delivery: DeliveryMode::from_bits(low >> DELIVERY_SHIFT),
            shorthand: match (low >> ICR_SHORTHAND_SHIFT) & 3 {
                0 => Shorthand::None,
                1 => Shorthand::SelfOnly,
                2 => Shorthand::AllIncludingSelf,
                _ => Shorthand::AllExcludingSelf,
            },
        }
    }

    /// Returns whether the APIC with `target` is a destination; `is_sender` says that it sent this.
    pub fn reaches(&self, target: &Identity, is_sender: bool) -> bool {
        let addressed = match self.shorthand {
            Shorthand::None => target.matches(self.dest, self.dest_mode, Sender::Apic),
            Shorthand::SelfOnly => is_sender,
            Shorthand::AllIncludingSelf => true,
            Shorthand::AllExcludingSelf => !is_sender,
        };
        addressed && target.accepts(self.delivery)
    }
}

/// Who sends to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Another local APIC.
    Apic,
    /// A device, whose 8-bit destination 0xff reaches x2APICs too. That is KVM's rule unless
    /// `KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK` is set: there is no interrupt remapping that could
    /// widen the destination.
    Device,
    /// A device, with that quirk disabled.
    WideDevice,
}

/// What others need of an APIC for finding it: small enough to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The ID that physical destinations name: 8 bits in xAPIC mode, 32 in x2APIC mode.
    pub id: u32,
    /// The initial ID, all 32 bits.
    pub x2apic_id: u32,
    /// The logical ID: 8 bits in xAPIC mode, 32 in x2APIC mode.
    pub logical_id: u32,
    /// The destination format register; without effect in x2APIC mode.
    pub dfr: u32,
    /// The mode.
    pub mode: Mode,
    /// Whether software has enabled the APIC in SVR.
    pub enabled: bool,
}

impl Identity {
    /// Returns whether `dest` names this APIC, which may still refuse the delivery.
    pub fn matches(&self, dest: u32, dest_mode: DestMode, sender: Sender) -> bool {
        let x2apic = match self.mode {
            Mode::Disabled => return false,
            Mode::Xapic => false,
            Mode::X2apic => true,
        };
        let broadcast = if x2apic {
            X2APIC_BROADCAST
        } else {
            XAPIC_BROADCAST
        };
        if dest == broadcast || (sender == Sender::Device && dest == XAPIC_BROADCAST) {
            return true;
        }
        match dest_mode {
            DestMode::Physical => self.matches_physical(dest, x2apic),
            DestMode::Logical if x2apic => {
                self.logical_id >> X2APIC_LDR_CLUSTER_SHIFT == dest >> X2APIC_LDR_CLUSTER_SHIFT
                    && self.logical_id & dest & X2APIC_LDR_MEMBERS != 0
            }
            DestMode::Logical => self.matches_xapic_logical(dest),
        }
    }

    /// A vCPU with an ID above 255 is reachable by it in xAPIC mode too, or a hot-plugged one could
    /// never be started; IDs that fit 8 bits mean the (writable) xAPIC ID.
    fn matches_physical(&self, dest: u32, x2apic: bool) -> bool {
        if x2apic || dest > XAPIC_BROADCAST {
            dest == self.x2apic_id
        } else {
            dest == self.id
        }
    }

    fn matches_xapic_logical(&self, dest: u32) -> bool {
        match self.dfr {
            DFR_FLAT => self.logical_id & dest != 0,
            DFR_CLUSTER => {
                self.logical_id >> XAPIC_CLUSTER_SHIFT == dest >> XAPIC_CLUSTER_SHIFT
                    && self.logical_id & dest & XAPIC_CLUSTER_MEMBERS != 0
            }
            _ => false,
        }
    }

    /// Returns whether the APIC takes this kind of delivery now. A software-disabled one still takes
    /// NMI, SMI, INIT and start-up: SDM vol. 3, "Local APIC State After It Has Been Software Disabled".
    pub fn accepts(&self, delivery: DeliveryMode) -> bool {
        self.mode != Mode::Disabled && (self.enabled || !delivery.uses_vector())
    }

    /// Returns whether a device's message goes to this APIC.
    pub fn takes(&self, message: &Message, sender: Sender) -> bool {
        self.matches(message.dest, message.dest_mode, sender) && self.accepts(message.delivery)
    }
}

/// An APIC that competes for a lowest-priority interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its index in the caller's list.
    pub index: usize,
    /// Its PPR; 0 for all of them makes the choice depend on the vector alone.
    pub ppr: u8,
}

/// Chooses who gets a lowest-priority interrupt; `None` without candidates.
///
/// The lowest priority class wins. Among equals the vector decides, so that different interrupts
/// spread over the processors while each stays on one.
pub fn arbitrate<I>(vector: u8, candidates: I) -> Option<usize>
where
    I: Iterator<Item = Candidate> + Clone,
{
    let class = candidates.clone().map(|c| c.ppr & CLASS_MASK).min()?;
    let mut equals = candidates.filter(|c| c.ppr & CLASS_MASK == class);
    let count = equals.clone().count();
    let chosen = usize::from(vector).checked_rem(count)?;
    equals.nth(chosen).map(|c| c.index)
}

impl Lapic {
    /// Returns what others need for finding this APIC.
    pub fn identity(&self) -> Identity {
        let shift = if self.mode == Mode::X2apic {
            0
        } else {
            XAPIC_ID_SHIFT
        };
        Identity {
            id: self.regs.get(Reg::ID) >> shift,
            x2apic_id: self.config.apic_id,
            logical_id: self.regs.get(Reg::LDR) >> shift,
            dfr: self.regs.get(Reg::DFR),
            mode: self.mode,
            enabled: self.regs.get(Reg::SVR) & SVR_ENABLE != 0,
        }
    }

    /// Sends what the ICR's low half and `dest` say.
    ///
    /// A fixed interrupt to the sender alone is delivered here and now. The trigger mode and level
    /// fields count only in an INIT level de-assert, which later processors ignore.
    pub(super) fn send_ipi(&mut self, low: u32, dest: u32) -> Effect {
        let ipi = Ipi::from_icr(low, dest);
        if ipi.delivery.uses_vector() && ipi.vector < FIRST_VECTOR {
            self.report_error(ESR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let deassert = low & TRIGGER_LEVEL != 0 && low & ICR_ASSERT == 0;
        if ipi.delivery == DeliveryMode::Init && deassert {
            return Effect::None;
        }
        if ipi.shorthand == Shorthand::SelfOnly && ipi.delivery.uses_vector() {
            self.accept_fixed(ipi.vector, Trigger::Edge);
            return Effect::None;
        }
        Effect::Ipi(ipi)
    }
}
