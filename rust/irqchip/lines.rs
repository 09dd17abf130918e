// SPDX-License-Identifier: GPL-2.0-only

//! Interrupt lines: the routes, and the controllers in the kernel whose inputs they lead to.
//!
//! Locks are taken in this order and only for a moment: routes, then one controller's, then a vCPU's identity.
//! All of them may be taken with interrupts off.

use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::Full,
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier::smp_mb,
        Arc,
        SetOnce,
        SpinLockIrq, //
    }, //
};

use super::deliver::deliver;
use crate::{
    host::atomic,
    model::{
        apic::Sender,
        ioapic::{
            self,
            Ioapic,
            IoapicState,
            Line, //
        },
        msi::Message,
        pic::{
            self,
            Chip,
            PicPair,
            PicState, //
        },
        route::{
            self,
            Platform,
            Route,
            Target, //
        }, //
    },
    vcpu::table::{
        news,
        VcpuTable, //
    }, //
};

/// Who drives a line; a controller's input is high as long as anyone drives it.
pub(crate) mod source {
    /// `KVM_IRQ_LINE`, and eventfds without resampling.
    pub(crate) const USER: u8 = 0;
    /// Eventfds with resampling.
    pub(crate) const RESAMPLE: u8 = 1;
    /// The PIT.
    pub(crate) const PIT: u8 = 2;
}

/// `KVM_X2APIC_API_USE_32BIT_IDS`: APIC IDs in messages and in `KVM_GET_LAPIC` have 32 bits.
const WIDE_IDS: u32 = 1 << 0;
/// `KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK`: destination 0xff is not the broadcast of x2APICs.
const NO_BROADCAST_QUIRK: u32 = 1 << 1;
/// Flags of `KVM_CAP_X2APIC_API` that there are.
pub(crate) const APIC_API_FLAGS: u32 = WIDE_IDS | NO_BROADCAST_QUIRK;

/// Targets that one GSI leads to, at most: an input of each controller.
const MAX_TARGETS: usize = 3;

/// What a GSI without a route, a masked input and a message that nobody takes report.
const IGNORED: i32 = -1;

/// The PICs and the I/O APIC.
#[pin_data]
struct Chips {
    #[pin]
    ioapic: SpinLockIrq<Ioapic>,
    /// Where the I/O APIC is, to be read without the lock.
    ioapic_base: Atomic<u64>,
    #[pin]
    pic: SpinLockIrq<PicPair>,
    /// The level of the processors' INTR.
    pic_output: Atomic<u32>,
}

/// The lines of a VM.
#[pin_data]
pub(crate) struct Lines {
    vcpus: Arc<VcpuTable>,
    #[pin]
    routes: SpinLockIrq<KVVec<Route>>,
    chips: SetOnce<Pin<KBox<Chips>>>,
    /// How the VMM wants APIC IDs.
    apic_api: Atomic<u32>,
}

impl Lines {
    /// Makes lines that lead nowhere.
    pub(super) fn new(vcpus: Arc<VcpuTable>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                vcpus,
                routes <- new_spinlock_irq!(KVVec::new()),
                chips: SetOnce::new(),
                apic_api: Atomic::new(0),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Adds the PICs and the I/O APIC in their state after reset, with the default routes.
    pub(super) fn add_chips(&self) -> Result {
        let mut routes = KVVec::with_capacity(route::DEFAULT_ROUTES, GFP_KERNEL_ACCOUNT)?;
        for route in (0..).map_while(Route::default_at) {
            routes.push(route, GFP_KERNEL_ACCOUNT)?;
        }
        let chips = KBox::pin_init(
            pin_init!(Chips {
                ioapic <- new_spinlock_irq!(Ioapic::new(ioapic::VERSION_82093AA)),
                pic <- new_spinlock_irq!(PicPair::new()),
                ioapic_base: Atomic::new(ioapic::DEFAULT_ADDRESS),
                pic_output: Atomic::new(0),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        self.chips.populate(chips);
        self.replace_routes(routes);
        Ok(())
    }

    /// Puts a sorted table in force.
    pub(super) fn replace_routes(&self, mut routes: KVVec<Route>) {
        let mut table = self.routes.lock();
        core::mem::swap(&mut *table, &mut routes);
        // The old table's memory is given back without the lock.
        drop(table);
    }

    /// Says what routes may hold.
    pub(super) fn platform(&self) -> Platform {
        Platform {
            chips: self.chips.as_ref().is_some(),
            wide_ids: self.wide_ids(),
        }
    }

    /// Sets how the VMM wants APIC IDs: flags of `KVM_CAP_X2APIC_API`.
    pub(super) fn set_apic_api(&self, flags: u32) {
        let old = self.apic_api.load(Relaxed);
        self.apic_api.store(old | flags, Relaxed);
    }

    /// Whether APIC IDs are 32 bits wide for the VMM.
    pub(crate) fn wide_ids(&self) -> bool {
        self.apic_api.load(Relaxed) & WIDE_IDS != 0
    }

    /// Sends news to every vCPU.
    pub(super) fn tell_vcpus(&self, bits: u32) {
        self.vcpus.for_each(|vcpu| vcpu.tell(bits));
    }

    fn sender(&self) -> Sender {
        if self.apic_api.load(Relaxed) & NO_BROADCAST_QUIRK != 0 {
            Sender::WideDevice
        } else {
            Sender::Device
        }
    }

    /// Sends a device's message. Returns how many vCPUs took it, or `None` when it is addressed to none.
    pub(super) fn send(&self, message: &Message) -> Option<i32> {
        deliver(&self.vcpus, message, self.sender())
    }

    fn is_taken(&self, message: &Message) -> bool {
        self.send(message).is_some_and(|count| count != 0)
    }

    /// Calls `f` with the routes.
    pub(super) fn with_routes<R>(&self, f: impl FnOnce(&[Route]) -> R) -> R {
        f(&self.routes.lock())
    }

    /// Returns the GSI that leads to `target`.
    pub(super) fn gsi_of(&self, target: Target) -> Option<u32> {
        self.with_routes(|routes| route::gsi_of(routes, target))
    }

    /// Sets what `source` drives onto the line `gsi`. Any context.
    ///
    /// Returns what `KVM_IRQ_LINE_STATUS` reports: the number of vCPUs that took the interrupt, 0 when it
    /// merged with one that is pending, -1 when it is masked or there is no route.
    pub(crate) fn set_gsi(&self, gsi: u32, source: u8, level: bool) -> i32 {
        let mut targets = [None; MAX_TARGETS];
        self.with_routes(|routes| {
            for (to, route) in targets.iter_mut().zip(route::lookup(routes, gsi)) {
                *to = Some(route.target);
            }
        });
        let mut status = IGNORED;
        for target in targets.into_iter().flatten() {
            let one = self.set_target(target, source, level);
            if one >= 0 {
                status = one.saturating_add(status.max(0));
            }
        }
        status
    }

    /// Raises and lowers the line. Any context.
    pub(crate) fn pulse_gsi(&self, gsi: u32, source: u8) {
        let _status = self.set_gsi(gsi, source, true);
        let _status = self.set_gsi(gsi, source, false);
    }

    fn set_target(&self, target: Target, source: u8, level: bool) -> i32 {
        match (target, self.chips.as_ref()) {
            (Target::Msi(message), _) if level => self.send(&message).unwrap_or(IGNORED),
            (Target::Ioapic(pin), Some(chips)) => {
                let mut ioapic = chips.ioapic.lock();
                let line = ioapic.set_irq(pin, source, level);
                let mut accepted = 0;
                if let Line::Deliver(message) = line {
                    accepted = self.send(&message).unwrap_or(0);
                    if accepted == 0 {
                        ioapic.not_accepted(pin);
                    }
                }
                line.status(accepted)
            }
            (Target::PicMaster(pin), Some(chips)) => self.set_pic(chips, pin, source, level),
            (Target::PicSlave(pin), Some(chips)) => {
                self.set_pic(chips, pin + pic::CHIP_PINS, source, level)
            }
            _ => IGNORED,
        }
    }

    fn set_pic(&self, chips: &Chips, pin: u8, source: u8, level: bool) -> i32 {
        self.with_pic(chips, |pic| pic.set_irq(pin, source, level))
            .status()
    }

    /// Calls `f` with the PICs, and wakes a vCPU that takes their interrupts when they ask for one.
    fn with_pic<R>(&self, chips: &Chips, f: impl FnOnce(&mut PicPair) -> R) -> R {
        let mut pic = chips.pic.lock();
        let before = pic.output();
        let result = f(&mut pic);
        let output = pic.output();
        chips.pic_output.store(output.into(), Relaxed);
        drop(pic);
        if output && !before {
            // A vCPU that begins to take them looks at the output after it has said so.
            smp_mb(Full);
            if let Some(vcpu) = self.vcpus.iter().find(|vcpu| vcpu.takes_extint()) {
                vcpu.tell(news::EXTINT);
            }
        }
        result
    }

    /// Whether the PICs ask for an interrupt.
    #[inline]
    pub(super) fn pic_output(&self) -> bool {
        self.chips
            .as_ref()
            .is_some_and(|chips| chips.pic_output.load(Relaxed) != 0)
    }

    /// Acknowledges the PICs' interrupt, if they still ask for one.
    pub(super) fn take_pic(&self) -> Option<(u8, pic::Effect)> {
        let chips = self.chips.as_ref()?;
        self.with_pic(chips, |pic| pic.output().then(|| pic.acknowledge()))
    }

    /// Writes a port of the PICs.
    pub(super) fn pic_write(&self, port: u16, value: u8) -> pic::Effect {
        self.chips.as_ref().map_or(pic::Effect::default(), |chips| {
            self.with_pic(chips, |pic| pic.write(port, value))
        })
    }

    /// Reads a port of the PICs.
    pub(super) fn pic_read(&self, port: u16) -> (u8, pic::Effect) {
        self.chips
            .as_ref()
            .map_or((u8::MAX, pic::Effect::default()), |chips| {
                self.with_pic(chips, |pic| pic.read(port))
            })
    }

    /// Returns a PIC's state for `KVM_GET_IRQCHIP`.
    pub(super) fn pic_state(&self, chip: Chip) -> Option<PicState> {
        Some(self.chips.as_ref()?.pic.lock().state(chip))
    }

    /// Replaces it.
    pub(super) fn set_pic_state(&self, chip: Chip, state: &PicState) {
        if let Some(chips) = self.chips.as_ref() {
            self.with_pic(chips, |pic| pic.set_state(chip, state));
        }
    }

    /// Returns the pins of the I/O APIC with `vector`, as a mask.
    pub(super) fn ioapic_pins(&self, vector: u8) -> u32 {
        self.chips
            .as_ref()
            .map_or(0, |chips| chips.ioapic.lock().pins_with_vector(vector))
    }

    /// Returns the vector of a pin.
    pub(super) fn ioapic_vector(&self, pin: u8) -> u8 {
        self.chips
            .as_ref()
            .and_then(|chips| chips.ioapic.lock().message(pin))
            .map_or(0, |message| message.vector)
    }

    /// Tells the I/O APIC that a level-triggered interrupt has been handled.
    pub(super) fn ioapic_eoi(&self, vector: u8) {
        if let Some(chips) = self.chips.as_ref() {
            chips
                .ioapic
                .lock()
                .eoi(vector, |_pin, message| self.is_taken(&message));
        }
    }

    /// Returns the offset in the I/O APIC's window, if there is one and the address is there.
    pub(super) fn ioapic_offset(&self, gpa: u64) -> Option<u32> {
        let chips = self.chips.as_ref()?;
        let offset = gpa.wrapping_sub(atomic::read(&chips.ioapic_base));
        (offset < ioapic::WINDOW_BYTES).then_some(offset as u32)
    }

    /// Reads a register of the I/O APIC.
    pub(crate) fn ioapic_read(&self, offset: u32, length: u32) -> u64 {
        self.chips
            .as_ref()
            .map_or(0, |chips| chips.ioapic.lock().mmio_read(offset, length))
    }

    /// Writes a register of the I/O APIC, and sends what that lets through.
    pub(super) fn ioapic_write(&self, offset: u32, length: u32, value: u64) -> ioapic::Effect {
        let Some(chips) = self.chips.as_ref() else {
            return ioapic::Effect::None;
        };
        let mut ioapic = chips.ioapic.lock();
        let effect = ioapic.mmio_write(offset, length, value);
        if let ioapic::Effect::Entry(write) = effect {
            if let Some(message) = write.deliver {
                if !self.is_taken(&message) {
                    ioapic.not_accepted(write.pin);
                }
            }
        }
        effect
    }

    /// Returns the I/O APIC's state for `KVM_GET_IRQCHIP`.
    pub(super) fn ioapic_state(&self) -> Option<IoapicState> {
        Some(self.chips.as_ref()?.ioapic.lock().state())
    }

    /// Replaces it.
    pub(super) fn set_ioapic_state(&self, state: &IoapicState) {
        if let Some(chips) = self.chips.as_ref() {
            let mut ioapic = chips.ioapic.lock();
            ioapic.set_state(state, |_pin, message| self.is_taken(&message));
            chips.ioapic_base.store(ioapic.base_address(), Relaxed);
        }
    }
}
