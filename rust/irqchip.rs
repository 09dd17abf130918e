// SPDX-License-Identifier: GPL-2.0-only

//! The interrupt controllers of a VM, and what hangs on their inputs.
//!
//! Three layers, each of which knows only those below it: [`deliver`] reaches the local APICs; [`lines`] has
//! the routes, the PICs and the I/O APIC; and [`Interrupts`] has those who want to know when the guest has
//! handled an interrupt: the PIT and the resamplers. Eventfds and the PIT's timer raise lines from any
//! context, so they hold the middle layer only. Handled interrupts are told by vCPUs.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce, //
    }, //
};

use crate::{
    host::cpu,
    model::{
        apic::Eoi,
        ioapic,
        pic::PicPair,
        pit::Pit,
        route::{
            self,
            Target, //
        }, //
    },
    vcpu::table::{
        news,
        VcpuTable, //
    }, //
};

pub(crate) mod deliver;
mod ioctl;
mod irqfd;
pub(crate) mod lines;
mod pit;

use irqfd::Irqfds;
use lines::{
    source,
    Lines, //
};
use pit::PitDevice;

/// The GSI of the PIT.
const PIT_GSI: u32 = 0;

/// Which controllers the kernel has.
enum Kind {
    /// The PICs, the I/O APIC and the local APICs.
    Full,
    /// The local APICs; GSIs below this number are the pins of the VMM's I/O APIC.
    Split(u32),
}

/// A VM's interrupt controllers.
#[pin_data]
pub(crate) struct Interrupts {
    // Dropped first: no signal after that.
    #[pin]
    irqfds: Irqfds,
    lines: Arc<Lines>,
    kind: SetOnce<Kind>,
    pit: SetOnce<Arc<PitDevice>>,
    /// Vectors of edge-triggered pins whose completion someone wants to know.
    watched: [Atomic<u64>; 4],
    /// Held while `watched` is computed.
    #[pin]
    watching: Mutex<()>,
}

impl Interrupts {
    /// Makes a VM's interrupt part, without controllers, for `vcpus`.
    pub(crate) fn new(vcpus: Arc<VcpuTable>) -> Result<Arc<Self>> {
        let lines = Lines::new(vcpus)?;
        Arc::pin_init(
            pin_init!(Self {
                irqfds <- Irqfds::new(),
                lines,
                kind: SetOnce::new(),
                pit: SetOnce::new(),
                watched: [const { Atomic::new(0) }; 4],
                watching <- new_mutex!(()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the lines.
    #[inline(always)]
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Whether the local APICs are in the kernel.
    pub(crate) fn has_apics(&self) -> bool {
        self.kind.as_ref().is_some()
    }

    /// Whether the PICs and the I/O APIC are, too.
    pub(crate) fn has_chips(&self) -> bool {
        matches!(self.kind.as_ref(), Some(Kind::Full))
    }

    /// A vCPU has completed an interrupt. Returns whether the VMM must hear of it.
    pub(crate) fn eoi(&self, eoi: &Eoi) -> bool {
        match self.kind.as_ref() {
            Some(Kind::Full) => {
                if eoi.broadcast || self.is_watched(eoi.vector) {
                    self.eoi_slow(eoi);
                }
                false
            }
            Some(Kind::Split(pins)) => {
                eoi.broadcast
                    && self
                        .lines
                        .with_routes(|routes| route::is_split_pin_vector(routes, *pins, eoi.vector))
            }
            None => false,
        }
    }

    fn eoi_slow(&self, eoi: &Eoi) {
        // A resampler lowers its line before the I/O APIC looks at it again.
        let pins = self.lines.ioapic_pins(eoi.vector);
        for pin in (0u8..).take(ioapic::PINS) {
            if pins >> pin & 1 != 0 {
                self.target_done(Target::Ioapic(pin));
            }
        }
        if eoi.broadcast {
            self.lines.ioapic_eoi(eoi.vector);
        }
    }

    fn is_watched(&self, vector: u8) -> bool {
        self.watched(usize::from(vector >> 6)) >> (vector & 63) & 1 != 0
    }

    /// Computes which vectors are watched, after a route, an entry or a watcher has changed.
    fn update_watched(&self) {
        let _watching = self.watching.lock();
        let mut words = [0u64; 4];
        for pin in (0u8..).take(ioapic::PINS) {
            let gsi = self.lines.gsi_of(Target::Ioapic(pin));
            if gsi.is_some_and(|gsi| self.wants_completion(gsi)) {
                let vector = self.lines.ioapic_vector(pin);
                if let Some(word) = words.get_mut(usize::from(vector >> 6)) {
                    *word |= 1 << (vector & 63);
                }
            }
        }
        let mut changed = false;
        for (to, from) in self.watched.iter().zip(words) {
            changed |= to.load(Relaxed) != from;
            to.store(from, Relaxed);
        }
        if changed {
            self.lines.tell_vcpus(news::WATCHED);
        }
    }

    /// Returns word `index`, 0 to 3, of the vectors of edge-triggered pins whose completion someone wants to
    /// know.
    pub(crate) fn watched(&self, index: usize) -> u64 {
        self.watched.get(index).map_or(0, |word| word.load(Relaxed))
    }

    fn wants_completion(&self, gsi: u32) -> bool {
        let by_pit = gsi == PIT_GSI && self.pit.as_ref().is_some_and(|pit| pit.reinjects());
        by_pit || self.irqfds.resamples(gsi)
    }

    /// The interrupt of `target`, an input of a controller, has been handled.
    fn target_done(&self, target: Target) {
        let Some(gsi) = self.lines.gsi_of(target) else {
            return;
        };
        if gsi == PIT_GSI {
            if let Some(pit) = self.pit.as_ref() {
                pit.acked();
            }
        }
        self.irqfds.resample(&self.lines, gsi);
    }

    /// The inputs of the PICs in `acked` have been handled, those in `unmasked` have been unmasked.
    #[inline]
    fn pic_done(&self, effect: crate::model::pic::Effect) {
        if effect.acked | effect.unmasked != 0 {
            self.pic_inputs_done(effect);
        }
    }

    fn pic_inputs_done(&self, effect: crate::model::pic::Effect) {
        for pin in (0u8..).take(crate::model::pic::PINS) {
            let target = route::pic_target(pin);
            if effect.acked >> pin & 1 != 0 {
                self.target_done(target);
            }
            if effect.unmasked >> pin & 1 != 0 {
                self.target_unmasked(target);
            }
        }
    }

    /// An edge that was lost while `target` was masked will not be handled any more.
    fn target_unmasked(&self, target: Target) {
        if let Some(pit) = self.pit.as_ref() {
            if self.lines.gsi_of(target) == Some(PIT_GSI) {
                pit.unmasked();
            }
        }
    }

    /// Whether the PICs ask for an interrupt.
    #[inline]
    pub(crate) fn pic_output(&self) -> bool {
        self.lines.pic_output()
    }

    /// Takes the PICs' interrupt, if they still ask for one, and returns its vector.
    pub(crate) fn take_pic(&self) -> Option<u8> {
        let (vector, effect) = self.lines.take_pic()?;
        self.pic_done(effect);
        Some(vector)
    }

    /// Returns the offset in the I/O APIC's window, if there is one and the address is there.
    pub(crate) fn ioapic_offset(&self, gpa: u64) -> Option<u32> {
        self.lines.ioapic_offset(gpa)
    }

    /// Writes a register of the I/O APIC.
    pub(crate) fn ioapic_write(&self, offset: u32, length: u32, value: u64) {
        match self.lines.ioapic_write(offset, length, value) {
            ioapic::Effect::None => {}
            ioapic::Effect::Entry(write) => {
                if write.mask == Some(false) {
                    self.target_unmasked(Target::Ioapic(write.pin));
                }
                if write.mask.is_some() || write.route {
                    self.update_watched();
                }
            }
            ioapic::Effect::Eoi(vector) => self.eoi_slow(&Eoi {
                vector,
                trigger: crate::model::msi::Trigger::Level,
                broadcast: true,
            }),
        }
    }

    /// Writes to `port`. `false` when there is no device of the kernel's.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) -> bool {
        if !self.claims(port, data.len()) {
            return false;
        }
        // The chips are 8 bits wide; as in KVM, a wider write to the PICs does nothing, and of one to the
        // PIT the low byte counts.
        let [value, rest @ ..] = data else {
            return true;
        };
        if PicPair::claims(port, 1) {
            if rest.is_empty() {
                let effect = self.lines.pic_write(port, *value);
                self.pic_done(effect);
            }
        } else if let Some(pit) = self.pit.as_ref() {
            pit.write(port, *value);
        }
        true
    }

    /// Reads from `port`. `false` when there is no device of the kernel's.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        if !self.claims(port, data.len()) {
            return false;
        }
        data.fill(0);
        let narrow = data.len() == 1;
        let Some(first) = data.first_mut() else {
            return true;
        };
        if PicPair::claims(port, 1) {
            if narrow {
                let (value, effect) = self.lines.pic_read(port);
                *first = value;
                self.pic_done(effect);
            }
        } else if let Some(pit) = self.pit.as_ref() {
            *first = pit.read(port);
        }
        true
    }

    #[inline]
    fn claims(&self, port: u16, length: usize) -> bool {
        let by_pit = |pit: &Arc<PitDevice>| Pit::claims(port, length, pit.has_speaker());
        (PicPair::claims(port, length) && self.has_chips())
            || (Pit::claims(port, length, true) && self.pit.as_ref().is_some_and(by_pit))
    }
}

/// The time of the PIT.
fn now() -> u64 {
    cpu::now_ns()
}
