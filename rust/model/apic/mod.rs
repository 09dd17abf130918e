// SPDX-License-Identifier: GPL-2.0-only

//! The local APIC. SDM vol. 3, chapter "Advanced Programmable Interrupt Controller (APIC)".
//!
//! [`Lapic`] belongs to one vCPU and is touched only by the thread that runs it. Other threads never
//! see it: they post vectors and events into an atomic inbox in the glue, and the owner moves them in
//! by [`Lapic::accept_fixed`] or [`Lapic::accept_word`] before it enters the guest. What others need
//! for finding destinations is the small [`Identity`], which the glue publishes whenever an operation
//! answers [`Effect::Identity`].
//!
//! The entry path asks [`Lapic::pending_interrupt`] every time, so the highest requested vector and the
//! PPR are kept up to date instead of being searched for: the question costs one comparison.
//!
//! Time is an argument ([`Clock`]) and the host timer is an answer ([`Timer`]); see [`timer`].

mod access;
mod base;
mod delivery;
mod errors;
mod ipi;
mod lvt;
mod mirror;
pub mod posted;
mod regs;
mod state;
#[cfg(test)]
mod tests;
pub mod timer;
mod vectors;

pub use base::{BaseChange, Initiator, Mode};
pub use ipi::{arbitrate, Candidate, Identity, Ipi, Sender, Shorthand};
pub use lvt::{Lint0, Lvt, LvtEvent};
pub use regs::{Reg, X2APIC_MSR_FIRST, X2APIC_MSR_LAST};
pub use state::STATE_BYTES;
pub use timer::{Clock, Timer};
pub use vectors::VectorSet;

use super::msi::Trigger;
use regs::{
    Registers, DFR_FLAT, LVT_MASKED, SVR_RESET, VERSION, VERSION_DIRECTED_EOI,
    VERSION_MAX_LVT_SHIFT, XAPIC_ID_SHIFT,
};

/// A general-protection fault, #GP(0), for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// What does not change while the vCPU lives, or only before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The initial APIC ID: all 32 bits in x2APIC mode, the low 8 in xAPIC mode.
    pub apic_id: u32,
    /// Whether this is the bootstrap processor.
    pub bsp: bool,
    /// CPUID offers x2APIC mode.
    pub x2apic: bool,
    /// CPUID offers the timer's TSC-deadline mode.
    pub tsc_deadline: bool,
    /// There is an LVT entry for corrected machine checks (`MCG_CMCI_P`).
    pub cmci: bool,
    /// The version register says that the guest may suppress EOI broadcasts by a bit of SVR.
    pub directed_eoi: bool,
    /// That bit is obeyed. KVM does not, unless the VMM has chosen.
    pub suppress_eoi: bool,
    /// The guest's physical-address width in bits, 32 to 52.
    pub phys_bits: u8,
    /// LINT0 of the bootstrap processor starts unmasked in ExtINT mode, as firmware would leave it
    /// (`KVM_X86_QUIRK_LINT0_REENABLED`).
    pub lint0_extint: bool,
    /// APIC IDs in `KVM_GET_LAPIC` are 32 bits wide in x2APIC mode (`KVM_X2APIC_API_USE_32BIT_IDS`).
    pub wide_ids: bool,
    /// Nanoseconds in one tick of the timer's input clock (`KVM_CAP_X86_APIC_BUS_CYCLES_NS`), not 0.
    pub bus_cycle_ns: u32,
    /// The shortest period of a periodic timer, in nanoseconds; see [`timer::MIN_PERIOD_NS`].
    pub min_period_ns: u64,
}

impl Config {
    /// Returns KVM's defaults for the vCPU with `apic_id`.
    pub const fn new(apic_id: u32, bsp: bool) -> Self {
        Self {
            apic_id,
            bsp,
            x2apic: true,
            tsc_deadline: true,
            cmci: false,
            directed_eoi: false,
            suppress_eoi: false,
            phys_bits: DEFAULT_PHYS_BITS,
            lint0_extint: true,
            wide_ids: false,
            bus_cycle_ns: timer::BUS_CYCLE_NS,
            min_period_ns: timer::MIN_PERIOD_NS,
        }
    }
}

/// Physical-address bits assumed until CPUID says otherwise.
const DEFAULT_PHYS_BITS: u8 = 36;

/// What the glue must do after an operation.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing outside this APIC.
    None,
    /// Send this to the destinations.
    Ipi(Ipi),
    /// An interrupt was completed.
    Eoi(Eoi),
    /// Program the host timer.
    Timer(Timer),
    /// [`Lapic::identity`] has changed: publish it.
    Identity,
}

/// A completed interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eoi {
    /// Its vector.
    pub vector: u8,
    /// How it had been triggered.
    pub trigger: Trigger,
    /// Whether the I/O APICs must hear of it: it was level triggered and the guest has not
    /// suppressed the broadcast.
    pub broadcast: bool,
}

/// What became of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is pending now.
    New,
    /// The same vector was pending already; the two are one interrupt.
    Merged,
    /// The APIC is disabled or the vector is illegal.
    Refused,
}

/// Why an APIC is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Power-up or RESET: everything, IA32_APIC_BASE included.
    PowerUp,
    /// INIT: keeps IA32_APIC_BASE and the APIC ID.
    Init,
}

/// One vCPU's local APIC.
///
/// # Invariants
///
/// - `isr_top` is the highest member of `isr`, or 0.
/// - `irr_top` is the highest member of `irr`, or 0; always 0 while IA32_APIC_BASE disables the APIC.
/// - `ppr` is what the TPR and `isr_top` give.
/// - `irr` and `isr` hold no vector below 16.
#[derive(Clone, Debug)]
pub struct Lapic {
    irr_top: u8,
    isr_top: u8,
    ppr: u8,
    mode: Mode,
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    regs: Registers,
    base: u64,
    timer: timer::ApicTimer,
    /// Errors since the last write to ESR.
    errors: u32,
    config: Config,
}

impl Lapic {
    /// Returns the APIC as after power-up.
    pub fn new(config: Config) -> Self {
        let mut lapic = Self {
            irr_top: 0,
            isr_top: 0,
            ppr: 0,
            mode: Mode::Xapic,
            irr: VectorSet::new(),
            isr: VectorSet::new(),
            tmr: VectorSet::new(),
            regs: Registers::new(),
            base: 0,
            timer: timer::ApicTimer::new(),
            errors: 0,
            config,
        };
        lapic.reset(Reset::PowerUp);
        lapic
    }

    /// Returns the configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Replaces the configuration, after `KVM_SET_CPUID2` or `KVM_X86_SETUP_MCE`.
    ///
    /// A new CMCI entry starts masked. The APIC ID stays what it was at creation.
    pub fn set_config(&mut self, config: Config) {
        if config.cmci != self.config.cmci {
            self.regs
                .set(Reg::LVT_CMCI, if config.cmci { LVT_MASKED } else { 0 });
        }
        // It follows from the configuration.
        self.regs.mark(Reg::VERSION.number() as u8);
        self.config = Config {
            apic_id: self.config.apic_id,
            ..config
        };
    }

    /// Initialises the APIC and stops its timer; the glue cancels the host timer and publishes the
    /// identity. SDM vol. 3, "Local APIC State After Power-Up or Reset" and "... After an INIT Reset".
    pub fn reset(&mut self, reset: Reset) {
        if reset == Reset::PowerUp {
            self.reset_base();
        }
        let id = self.regs.get(Reg::ID);
        let keep_id = reset == Reset::Init && self.mode != Mode::Disabled;
        self.clear_registers();
        if keep_id {
            self.regs.set(Reg::ID, id);
        }
        if self.config.bsp && self.config.lint0_extint {
            self.regs.set(Reg::LVT_LINT0, lvt::EXTINT_UNMASKED);
        }
    }

    /// Brings all registers but IA32_APIC_BASE to their state after RESET.
    fn clear_registers(&mut self) {
        self.irr = VectorSet::new();
        self.isr = VectorSet::new();
        self.tmr = VectorSet::new();
        self.errors = 0;
        self.timer = timer::ApicTimer::new();
        self.regs = Registers::new();
        self.regs.set(Reg::DFR, DFR_FLAT);
        self.regs.set(Reg::SVR, SVR_RESET);
        for lvt in Lvt::ALL {
            if self.has_lvt(lvt) {
                self.regs.set(lvt.reg(), LVT_MASKED);
            }
        }
        self.set_id_for_mode();
        self.update_tops();
    }

    /// Sets ID and LDR as entering the current mode does.
    fn set_id_for_mode(&mut self) {
        let id = self.config.apic_id;
        if self.mode == Mode::X2apic {
            self.regs.set(Reg::ID, id);
            self.regs.set(Reg::LDR, ipi::x2apic_ldr(id));
        } else {
            self.regs.set(Reg::ID, id << XAPIC_ID_SHIFT);
        }
    }

    /// Returns the version register. SDM vol. 3, "Local APIC Version Register".
    fn version(&self) -> u32 {
        let max_lvt = if self.config.cmci {
            lvt::MAX_LVT_WITH_CMCI
        } else {
            lvt::MAX_LVT
        };
        let directed = if self.config.directed_eoi {
            VERSION_DIRECTED_EOI
        } else {
            0
        };
        VERSION | (max_lvt << VERSION_MAX_LVT_SHIFT) | directed
    }
}
