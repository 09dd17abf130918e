// SPDX-License-Identifier: GPL-2.0-only

//! Control fields, computed from what the processor can do (SDM vol. 3, sections 25.6 to 25.8, app. A).
//!
//! [`compute`] takes the capability MSRs and the user's options and returns either the control fields
//! or the first thing that is missing. Everything that the run loop relies on is required; no code
//! exists for a processor without it. Each processor with "unrestricted guest" (Westmere and later)
//! has the rest of the required set too, so requiring it turns away no machine, only nested
//! hypervisors that hide parts of VMX.
//!
//! # Controls that change while a guest runs
//!
//! They are not part of the base values: interrupt window, NMI window, preemption timer (with its
//! exit control), monitor trap flag, IA-32e mode guest, and how APIC accesses are virtualised
//! ([`Controls::secondary_for`], [`Controls::pin_for`]). MOV-DR exiting is on in the base value and may be turned off while
//! the guest owns the debug registers.
//!
//! # EFER and PAT
//!
//! The processor loads both, at entry and at exit, but saves neither: the guest's writes of these MSRs
//! exit (the MSR bitmap says so), and CR0.PG is host-owned, so the model always knows their values
//! and an exit need not store them.

use super::caps::basic;
use super::caps::ept_vpid;
use super::caps::misc;
use super::caps::Capability;
use super::caps::CapabilityMsrs;
use core::fmt;

mod bits;

pub use bits::entry;
pub use bits::exit;
pub use bits::pin;
pub use bits::primary;
pub use bits::secondary;

/// Optional features that the user lets the module use; each is used only where the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tag linear translations with a VPID.
    pub vpid: bool,
    /// Map guest memory with 2-MiB EPT leaves.
    pub ept_2m: bool,
    /// Map guest memory with 1-GiB EPT leaves.
    pub ept_1g: bool,
    /// Have the processor set accessed and dirty flags in EPT entries.
    pub ept_ad: bool,
    /// Keep the task priority in the virtual-APIC page.
    pub tpr_shadow: bool,
    /// Virtualise accesses of the APIC's page; needs the TPR shadow.
    pub apic_accesses: bool,
    /// Serve reads of APIC registers from the virtual-APIC page; needs the virtualised accesses.
    pub apic_registers: bool,
    /// Let the processor deliver virtual interrupts; needs the virtualised registers.
    pub virtual_interrupts: bool,
    /// Virtualise the x2APIC's MSRs; needs the delivery of virtual interrupts.
    pub x2apic: bool,
    /// Process posted interrupts; needs the delivery of virtual interrupts.
    pub posted_interrupts: bool,
    /// Use the VMX-preemption timer.
    pub preemption_timer: bool,
    /// Exit on a loop of PAUSEs.
    pub pause_loop: bool,
    /// Scale the guest's TSC.
    pub tsc_scaling: bool,
    /// Let the guest execute INVPCID.
    pub invpcid: bool,
    /// Let the guest execute RDTSCP and RDPID.
    pub rdtscp: bool,
    /// Let the guest execute XSAVES and XRSTORS.
    pub xsaves: bool,
    /// Exit on WBINVD.
    pub wbinvd_exiting: bool,
    /// Acknowledge an external interrupt at the exit, so that the vector is known. Without it the
    /// interrupt stays pending and is taken when the host enables interrupts.
    pub acknowledge_interrupt: bool,
}

impl Options {
    /// Nothing optional.
    pub const MINIMAL: Self = Self {
        vpid: false,
        ept_2m: false,
        ept_1g: false,
        ept_ad: false,
        tpr_shadow: false,
        apic_accesses: false,
        apic_registers: false,
        virtual_interrupts: false,
        x2apic: false,
        posted_interrupts: false,
        preemption_timer: false,
        pause_loop: false,
        tsc_scaling: false,
        invpcid: false,
        rdtscp: false,
        xsaves: false,
        wbinvd_exiting: false,
        acknowledge_interrupt: false,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vpid: true,
            ept_2m: true,
            ept_1g: true,
            ept_ad: true,
            tpr_shadow: true,
            apic_accesses: true,
            apic_registers: true,
            x2apic: true,
            preemption_timer: true,
            pause_loop: true,
            tsc_scaling: true,
            invpcid: true,
            rdtscp: true,
            xsaves: true,
            wbinvd_exiting: true,
            ..Self::MINIMAL
        }
    }
}

/// What the processor has and the options allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// VPIDs are used; INVVPID can invalidate one of them.
    pub vpid: bool,
    /// INVVPID can invalidate one linear address of a VPID.
    pub invvpid_address: bool,
    /// INVVPID can invalidate all VPIDs.
    pub invvpid_all: bool,
    /// INVVPID can invalidate one VPID without its global translations.
    pub invvpid_retaining_globals: bool,
    /// EPT leaves of 2 MiB.
    pub ept_2m: bool,
    /// EPT leaves of 1 GiB.
    pub ept_1g: bool,
    /// Accessed and dirty flags in EPT entries.
    pub ept_ad: bool,
    /// EPT entries may be execute-only.
    pub ept_execute_only: bool,
    /// The TPR shadow is on; without it CR8 accesses exit.
    pub tpr_shadow: bool,
    /// Accesses of the APIC's page can be virtualised.
    pub apic_accesses: bool,
    /// x2APIC MSRs can be virtualised.
    pub x2apic: bool,
    /// Reads of APIC registers are virtualised.
    pub apic_registers: bool,
    /// Virtual interrupts are delivered by the processor.
    pub virtual_interrupts: bool,
    /// Posted interrupts are processed where virtual interrupts are delivered: the notification vector and
    /// the descriptor's address exist and must be set.
    pub posted_interrupts: bool,
    /// The preemption timer counts once in `1 << shift` TSC ticks; `None` without the timer.
    pub preemption_timer: Option<u32>,
    /// The preemption timer's value can be saved at exits.
    pub save_preemption_timer: bool,
    /// PAUSE-loop exiting is on: PLE_GAP and PLE_WINDOW exist.
    pub pause_loop: bool,
    /// TSC scaling is on: TSC_MULTIPLIER exists and must be set.
    pub tsc_scaling: bool,
    /// INVPCID can be executed.
    pub invpcid: bool,
    /// RDTSCP can be executed.
    pub rdtscp: bool,
    /// XSAVES can be executed: XSS_EXITING_BITMAP exists and must be set.
    pub xsaves: bool,
    /// WBINVD exits.
    pub wbinvd_exiting: bool,
    /// ENCLS exits where the bitmap says so: ENCLS_EXITING_BITMAP exists and must be set.
    pub encls_exiting: bool,
    /// The monitor trap flag can be used.
    pub monitor_trap_flag: bool,
    /// Exits by external interrupts report the vector.
    pub acknowledge_interrupt: bool,
    /// EPT violations report the guest's own permission bits.
    pub ept_advanced_information: bool,
    /// Software events may be injected with an instruction length of 0.
    pub zero_length_injection: bool,
    /// The HLT activity state may be entered.
    pub activity_hlt: bool,
    /// The most entries that an MSR-load or MSR-store list should have.
    pub msr_list_entries: u32,
}

/// The control fields of every VMCS, without what changes while a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controls {
    /// Pin-based VM-execution controls.
    pub pin: u32,
    /// Primary processor-based VM-execution controls.
    pub primary: u32,
    /// Secondary processor-based VM-execution controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls.
    pub entry: u32,
    /// What these values turn on or leave room for.
    pub features: Features,
}

/// How the guest reaches its local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// Not at all, or by exits only.
    Disabled,
    /// By memory accesses of the APIC's page.
    XApic {
        /// The processor delivers the APIC's interrupts, where it can.
        delivers: bool,
    },
    /// By MSRs, with the processor delivering the APIC's interrupts.
    X2Apic,
}

impl Controls {
    /// Returns the secondary controls for a guest whose local APIC is in `mode`.
    ///
    /// At most one of the two ways of virtualising the APIC may be on (section 27.2.1.1).
    pub const fn secondary_for(&self, mode: ApicMode) -> u32 {
        let features = &self.features;
        let registers = bit_if(
            features.apic_registers,
            secondary::APIC_REGISTER_VIRTUALIZATION,
        );
        let delivery = bit_if(
            features.virtual_interrupts,
            secondary::VIRTUAL_INTERRUPT_DELIVERY,
        );
        self.secondary
            | match mode {
                ApicMode::XApic { delivers } if features.apic_accesses => {
                    let delivery = if delivers { delivery } else { 0 };
                    secondary::VIRTUALIZE_APIC_ACCESSES | registers | delivery
                }
                ApicMode::X2Apic if features.x2apic => {
                    secondary::VIRTUALIZE_X2APIC | registers | delivery
                }
                _ => 0,
            }
    }

    /// Returns the pin-based controls for a guest whose local APIC is in `mode`, with the preemption timer
    /// off.
    ///
    /// Posted interrupts may be processed only where virtual interrupts are delivered (section 27.2.1.1).
    pub const fn pin_for(&self, mode: ApicMode) -> u32 {
        let delivers = self.secondary_for(mode) & secondary::VIRTUAL_INTERRUPT_DELIVERY != 0;
        let posted = delivers && self.features.posted_interrupts;
        self.pin & !pin::PREEMPTION_TIMER | bit_if(posted, pin::POSTED_INTERRUPTS)
    }
}

/// The first required feature that the processor lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(
    /// The feature's name, in the manual's words.
    pub &'static str,
);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

type Required = [(u32, &'static str)];

const REQUIRED_PIN: &Required = &[
    (
        pin::EXTERNAL_INTERRUPT_EXITING,
        "external-interrupt exiting",
    ),
    (pin::NMI_EXITING, "NMI exiting"),
    (pin::VIRTUAL_NMIS, "virtual NMIs"),
];

const REQUIRED_PRIMARY: &Required = &[
    (
        primary::SECONDARY_CONTROLS,
        "secondary processor-based controls",
    ),
    (primary::HLT_EXITING, "HLT exiting"),
    (primary::TSC_OFFSETTING, "TSC offsetting"),
    (primary::MSR_BITMAPS, "MSR bitmaps"),
    (primary::IO_BITMAPS, "I/O bitmaps"),
    (primary::MOV_DR_EXITING, "MOV-DR exiting"),
    (primary::MWAIT_EXITING, "MWAIT exiting"),
    (primary::MONITOR_EXITING, "MONITOR exiting"),
    (primary::RDPMC_EXITING, "RDPMC exiting"),
    (
        primary::INTERRUPT_WINDOW_EXITING,
        "interrupt-window exiting",
    ),
    (primary::NMI_WINDOW_EXITING, "NMI-window exiting"),
];

const REQUIRED_SECONDARY: &Required = &[
    (secondary::ENABLE_EPT, "EPT"),
    (secondary::UNRESTRICTED_GUEST, "unrestricted guest"),
];

const REQUIRED_EXIT: &Required = &[
    (
        exit::HOST_ADDRESS_SPACE_SIZE,
        "host address-space size (64-bit host)",
    ),
    (exit::SAVE_DEBUG_CONTROLS, "save debug controls at VM exit"),
    (exit::LOAD_PAT, "load IA32_PAT at VM exit"),
    (exit::LOAD_EFER, "load IA32_EFER at VM exit"),
];

const REQUIRED_ENTRY: &Required = &[
    (
        entry::LOAD_DEBUG_CONTROLS,
        "load debug controls at VM entry",
    ),
    (entry::IA32E_MODE_GUEST, "IA-32e mode guest"),
    (entry::LOAD_PAT, "load IA32_PAT at VM entry"),
    (entry::LOAD_EFER, "load IA32_EFER at VM entry"),
];

const REQUIRED_EPT: &[(u64, &str)] = &[
    (ept_vpid::WALK_4, "EPT page walk of 4 levels"),
    (ept_vpid::WB, "EPT structures in write-back memory"),
    (ept_vpid::INVEPT, "INVEPT"),
    (
        ept_vpid::INVEPT_SINGLE_CONTEXT,
        "INVEPT of a single context",
    ),
    (ept_vpid::INVEPT_ALL_CONTEXTS, "INVEPT of all contexts"),
];

/// Required controls that are turned on only at times.
const PRIMARY_AT_TIMES: u32 = primary::INTERRUPT_WINDOW_EXITING | primary::NMI_WINDOW_EXITING;
const ENTRY_AT_TIMES: u32 = entry::IA32E_MODE_GUEST;

/// Checks a set of required controls and returns all of their bits.
fn require(capability: Capability, required: &Required) -> Result<u32, Missing> {
    let mut bits = 0;
    for &(bit, name) in required {
        if !capability.may_set(bit) {
            return Err(Missing(name));
        }
        bits |= bit;
    }
    Ok(bits)
}

/// Computes the control fields, or says what is missing.
///
/// # Errors
///
/// The first required feature that the capability MSRs do not report.
pub fn compute(msrs: &CapabilityMsrs, options: &Options) -> Result<Controls, Missing> {
    if msrs.basic >> basic::MEMORY_TYPE_SHIFT & basic::MEMORY_TYPE_MASK != basic::MEMORY_TYPE_WB {
        return Err(Missing("VMX structures in write-back memory"));
    }
    if msrs.basic & basic::ADDRESSES_32_BIT != 0 {
        return Err(Missing("VMX structures above 4 GiB"));
    }

    let pin = require(msrs.pin(), REQUIRED_PIN)?;
    let primary = require(msrs.primary(), REQUIRED_PRIMARY)? & !PRIMARY_AT_TIMES;
    let secondary = require(msrs.secondary(), REQUIRED_SECONDARY)?;
    let exit = require(msrs.exit_controls(), REQUIRED_EXIT)?;
    let entry = require(msrs.entry_controls(), REQUIRED_ENTRY)? & !ENTRY_AT_TIMES;
    if !msrs
        .primary()
        .may_clear(primary::CR3_LOAD_EXITING | primary::CR3_STORE_EXITING)
    {
        return Err(Missing("CR3 accesses without VM exit"));
    }
    for &(bit, name) in REQUIRED_EPT {
        if !msrs.ept_vpid_has(bit) {
            return Err(Missing(name));
        }
    }
    if msrs.basic & basic::INS_OUTS_INFORMATION == 0 {
        return Err(Missing("information about INS and OUTS at VM exit"));
    }

    let features = select(msrs, options);
    Ok(Controls {
        pin: msrs.pin().adjust(pin),
        primary: msrs.primary().adjust(primary | optional_primary(&features)),
        secondary: msrs
            .secondary()
            .adjust(secondary | optional_secondary(&features)),
        exit: msrs.exit_controls().adjust(exit | optional_exit(&features)),
        entry: msrs.entry_controls().adjust(entry),
        features,
    })
}

/// Decides every optional feature.
fn select(msrs: &CapabilityMsrs, options: &Options) -> Features {
    let secondary = msrs.secondary();
    let invvpid = |kind| msrs.ept_vpid_has(ept_vpid::INVVPID | kind);
    let invvpid_single = invvpid(ept_vpid::INVVPID_SINGLE_CONTEXT);

    // Each level of APIC virtualisation stands on the one before it (SDM vol. 3, section 27.2.1.1).
    let tpr_shadow = options.tpr_shadow && msrs.primary().may_set(primary::TPR_SHADOW);
    let virtualize = tpr_shadow && options.apic_accesses;
    let apic_accesses = virtualize && secondary.may_set(secondary::VIRTUALIZE_APIC_ACCESSES);
    let apic_registers = apic_accesses
        && options.apic_registers
        && secondary.may_set(secondary::APIC_REGISTER_VIRTUALIZATION);
    let virtual_interrupts = apic_registers
        && options.virtual_interrupts
        && secondary.may_set(secondary::VIRTUAL_INTERRUPT_DELIVERY);
    // Without the delivery of interrupts EOI and self-IPI exit all the same, and to keep the page up to date
    // costs more than the reads that it saves.
    let x2apic =
        virtual_interrupts && options.x2apic && secondary.may_set(secondary::VIRTUALIZE_X2APIC);

    // The processor takes the notification out of the local APIC by itself, so that the exit must do the same
    // with the other interrupts (section 27.2.1.1).
    let posted_interrupts = virtual_interrupts
        && options.posted_interrupts
        && msrs.pin().may_set(pin::POSTED_INTERRUPTS)
        && msrs.exit_controls().may_set(exit::ACKNOWLEDGE_INTERRUPT);

    let preemption_timer = (options.preemption_timer && msrs.pin().may_set(pin::PREEMPTION_TIMER))
        .then_some((msrs.misc & misc::PREEMPTION_TIMER_SHIFT_MASK) as u32);
    let msr_list = (msrs.misc >> misc::MSR_LIST_SHIFT & misc::MSR_LIST_MASK) as u32;

    Features {
        vpid: options.vpid && secondary.may_set(secondary::ENABLE_VPID) && invvpid_single,
        invvpid_address: invvpid(ept_vpid::INVVPID_ADDRESS),
        invvpid_all: invvpid(ept_vpid::INVVPID_ALL_CONTEXTS),
        invvpid_retaining_globals: invvpid(ept_vpid::INVVPID_RETAINING_GLOBALS),
        ept_2m: options.ept_2m && msrs.ept_vpid_has(ept_vpid::PAGE_2M),
        ept_1g: options.ept_1g && msrs.ept_vpid_has(ept_vpid::PAGE_1G),
        ept_ad: options.ept_ad && msrs.ept_vpid_has(ept_vpid::ACCESSED_DIRTY),
        ept_execute_only: msrs.ept_vpid_has(ept_vpid::EXECUTE_ONLY),
        tpr_shadow,
        apic_accesses,
        x2apic,
        apic_registers,
        virtual_interrupts,
        posted_interrupts,
        preemption_timer,
        save_preemption_timer: preemption_timer.is_some()
            && msrs.exit_controls().may_set(exit::SAVE_PREEMPTION_TIMER),
        pause_loop: options.pause_loop && secondary.may_set(secondary::PAUSE_LOOP_EXITING),
        tsc_scaling: options.tsc_scaling && secondary.may_set(secondary::TSC_SCALING),
        invpcid: options.invpcid && secondary.may_set(secondary::ENABLE_INVPCID),
        rdtscp: options.rdtscp && secondary.may_set(secondary::ENABLE_RDTSCP),
        xsaves: options.xsaves && secondary.may_set(secondary::ENABLE_XSAVES),
        wbinvd_exiting: options.wbinvd_exiting && secondary.may_set(secondary::WBINVD_EXITING),
        encls_exiting: secondary.may_set(secondary::ENCLS_EXITING),
        monitor_trap_flag: msrs.primary().may_set(primary::MONITOR_TRAP_FLAG),
        acknowledge_interrupt: (options.acknowledge_interrupt || posted_interrupts)
            && msrs.exit_controls().may_set(exit::ACKNOWLEDGE_INTERRUPT),
        ept_advanced_information: msrs.ept_vpid_has(ept_vpid::ADVANCED_INFORMATION),
        zero_length_injection: msrs.misc & misc::ZERO_LENGTH_INJECTION != 0,
        activity_hlt: msrs.misc & misc::ACTIVITY_HLT != 0,
        msr_list_entries: msr_list.wrapping_add(1).wrapping_mul(512),
    }
}

/// Returns `bit` if `on`.
const fn bit_if(on: bool, bit: u32) -> u32 {
    if on {
        bit
    } else {
        0
    }
}

fn optional_primary(features: &Features) -> u32 {
    if features.tpr_shadow {
        primary::TPR_SHADOW
    } else {
        primary::CR8_LOAD_EXITING | primary::CR8_STORE_EXITING
    }
}

fn optional_secondary(features: &Features) -> u32 {
    bit_if(features.vpid, secondary::ENABLE_VPID)
        | bit_if(features.pause_loop, secondary::PAUSE_LOOP_EXITING)
        | bit_if(features.tsc_scaling, secondary::TSC_SCALING)
        | bit_if(features.invpcid, secondary::ENABLE_INVPCID)
        | bit_if(features.rdtscp, secondary::ENABLE_RDTSCP)
        | bit_if(features.xsaves, secondary::ENABLE_XSAVES)
        | bit_if(features.wbinvd_exiting, secondary::WBINVD_EXITING)
        | bit_if(features.encls_exiting, secondary::ENCLS_EXITING)
}

fn optional_exit(features: &Features) -> u32 {
    bit_if(features.acknowledge_interrupt, exit::ACKNOWLEDGE_INTERRUPT)
}
