// SPDX-License-Identifier: GPL-2.0-only

//! Control fields, computed for processors whose capability MSRs have been recorded.

#[path = "fixtures/vmx_caps.rs"]
mod vmx_caps;

use proptest::prelude::*;
use vireo_model::model::vmx::caps::CapabilityMsrs;
use vireo_model::model::vmx::caps::{ept_vpid, Capability};
use vireo_model::model::vmx::ctls::compute;
use vireo_model::model::vmx::ctls::ApicMode;
use vireo_model::model::vmx::ctls::Controls;
use vireo_model::model::vmx::ctls::Missing;
use vireo_model::model::vmx::ctls::Options;
use vireo_model::model::vmx::ctls::{entry, exit, pin, primary, secondary};
use vmx_caps::{
    BOCHS_ARRANDALE, BOCHS_BROADWELL, BOCHS_HASWELL, BOCHS_ICELAKE, BOCHS_TIGERLAKE,
    BROADWELL_5600U, MEROM_X6800, PENRYN_X5482, RECORDED, SANDY_BRIDGE_3960X, SILVERMONT_N3530,
    SKYLAKE_6700K,
};

/// The processor's checks of control fields at entry (SDM vol. 3, section 27.2.1), as far as they are
/// about control bits only.
fn check_entry(msrs: &CapabilityMsrs, controls: &Controls, secondary_controls: u32) {
    for (value, capability) in [
        (controls.pin, msrs.pin()),
        (controls.primary, msrs.primary()),
        (secondary_controls, msrs.secondary()),
        (controls.exit, msrs.exit_controls()),
        (controls.entry, msrs.entry_controls()),
    ] {
        assert_eq!(value & capability.allowed0, capability.allowed0);
        assert_eq!(value & !capability.allowed1, 0);
    }
    let has = |bits: u32| secondary_controls & bits == bits;
    if controls.primary & primary::TPR_SHADOW == 0 {
        assert!(!has(secondary::VIRTUALIZE_X2APIC));
        assert!(!has(secondary::APIC_REGISTER_VIRTUALIZATION));
        assert!(!has(secondary::VIRTUAL_INTERRUPT_DELIVERY));
    }
    assert!(!has(
        secondary::VIRTUALIZE_X2APIC | secondary::VIRTUALIZE_APIC_ACCESSES
    ));
    assert!(has(secondary::ENABLE_EPT | secondary::UNRESTRICTED_GUEST));
    assert_eq!(controls.pin & pin::PREEMPTION_TIMER, 0);
    assert_eq!(controls.exit & exit::SAVE_PREEMPTION_TIMER, 0);
    assert_eq!(controls.primary & primary::NMI_WINDOW_EXITING, 0);
    assert_eq!(controls.entry & entry::IA32E_MODE_GUEST, 0);
}

const MODES: [ApicMode; 4] = [
    ApicMode::Disabled,
    ApicMode::XApic { delivers: false },
    ApicMode::XApic { delivers: true },
    ApicMode::X2Apic,
];

fn check(msrs: &CapabilityMsrs, controls: &Controls) {
    for mode in MODES {
        check_entry(msrs, controls, controls.secondary_for(mode));
    }
}

#[test]
fn recorded_processors() {
    for (name, msrs) in RECORDED {
        for options in [Options::default(), Options::MINIMAL] {
            if let Ok(controls) = compute(msrs, &options) {
                println!("{name}: {controls:x?}");
                check(msrs, &controls);
            }
        }
    }
}

#[test]
fn processors_without_the_required_features_are_refused() {
    let refusal = |msrs| compute(msrs, &Options::default()).unwrap_err();
    assert_eq!(refusal(&MEROM_X6800), Missing("virtual NMIs"));
    assert_eq!(refusal(&PENRYN_X5482), Missing("EPT"));
    assert_eq!(
        refusal(&CapabilityMsrs::default()),
        Missing("VMX structures in write-back memory")
    );
}

#[test]
fn skylake_with_everything() {
    let controls = compute(&SKYLAKE_6700K, &Options::default()).unwrap();
    assert_eq!(controls.pin, 0x0000_003f);
    assert_eq!(controls.primary, 0xb6a0_6dfa);
    assert_eq!(controls.secondary, 0x0010_94ea);
    assert_eq!(controls.exit, 0x002b_6fff);
    assert_eq!(controls.entry, 0x0000_d1ff);
    let features = &controls.features;
    assert!(features.vpid && features.invvpid_all && features.invvpid_retaining_globals);
    assert!(features.ept_2m && features.ept_1g && features.ept_ad && features.ept_execute_only);
    assert!(features.tpr_shadow && features.apic_accesses);
    // The desktop parts keep APIC registers and virtual interrupts to the servers, and without them it is
    // not worth while to virtualise the x2APIC's MSRs.
    assert!(!features.apic_registers && !features.virtual_interrupts && !features.x2apic);
    assert_eq!(features.preemption_timer, Some(7));
    assert!(features.save_preemption_timer && features.xsaves && features.encls_exiting);
    assert!(!features.tsc_scaling && !features.acknowledge_interrupt);
    assert!(features.zero_length_injection && features.activity_hlt);
    assert_eq!(features.msr_list_entries, 512);
}

#[test]
fn older_processors_have_less() {
    let features = |msrs| compute(msrs, &Options::default()).unwrap().features;
    let broadwell = features(&BROADWELL_5600U);
    assert!(broadwell.ept_ad && broadwell.invpcid && !broadwell.xsaves);
    assert_eq!(broadwell.preemption_timer, Some(5));
    let sandy_bridge = features(&SANDY_BRIDGE_3960X);
    assert!(!sandy_bridge.ept_ad && !sandy_bridge.invpcid && !sandy_bridge.apic_registers);
    assert!(sandy_bridge.vpid && sandy_bridge.apic_accesses && sandy_bridge.pause_loop);
    let silvermont = features(&SILVERMONT_N3530);
    assert!(!silvermont.ept_1g && silvermont.ept_2m && !silvermont.pause_loop);
    assert!(!silvermont.x2apic && silvermont.apic_accesses);
}

#[test]
fn emulated_processors() {
    let get = |msrs| compute(msrs, &Options::default()).unwrap();
    let broadwell = get(&BOCHS_BROADWELL);
    assert_eq!(broadwell.pin, 0x0000_003f);
    assert_eq!(broadwell.primary, 0xb6a0_6dfa);
    assert_eq!(broadwell.secondary, 0x0000_14ea);
    assert_eq!(broadwell.exit, 0x002b_6fff);
    assert_eq!(broadwell.entry, 0x0000_d1ff);
    assert_eq!(broadwell.features.preemption_timer, Some(0));
    assert!(broadwell.features.apic_registers && !broadwell.features.monitor_trap_flag);
    assert!(!broadwell.features.x2apic && !broadwell.features.virtual_interrupts);
    assert_eq!(get(&BOCHS_HASWELL).secondary, broadwell.secondary);

    let arrandale = get(&BOCHS_ARRANDALE).features;
    assert!(arrandale.vpid && !arrandale.ept_ad && !arrandale.pause_loop && !arrandale.invpcid);
    let icelake = get(&BOCHS_ICELAKE).features;
    assert!(icelake.tsc_scaling && icelake.xsaves && icelake.monitor_trap_flag);
    assert_eq!(get(&BOCHS_TIGERLAKE).features, icelake);
}

#[test]
fn options_turn_features_off() {
    let controls = compute(&SKYLAKE_6700K, &Options::MINIMAL).unwrap();
    assert_eq!(
        controls.secondary,
        secondary::ENABLE_EPT | secondary::UNRESTRICTED_GUEST | secondary::ENCLS_EXITING
    );
    let cr8 = primary::CR8_LOAD_EXITING | primary::CR8_STORE_EXITING;
    assert_eq!(controls.primary & (primary::TPR_SHADOW | cr8), cr8);
    assert_eq!(controls.features.preemption_timer, None);
    for mode in MODES {
        assert_eq!(controls.secondary_for(mode), controls.secondary);
    }

    let options = Options {
        tpr_shadow: false,
        ..Options::default()
    };
    let features = compute(&SKYLAKE_6700K, &options).unwrap().features;
    assert!(!features.apic_accesses && !features.x2apic && !features.apic_registers);

    let options = Options {
        virtual_interrupts: true,
        acknowledge_interrupt: true,
        ..Options::default()
    };
    let mut server = SKYLAKE_6700K;
    let apicv = secondary::APIC_REGISTER_VIRTUALIZATION | secondary::VIRTUAL_INTERRUPT_DELIVERY;
    server.procbased2 |= u64::from(apicv) << 32;
    let controls = compute(&server, &options).unwrap();
    check(&server, &controls);
    for (mode, expected) in [
        (ApicMode::Disabled, 0),
        (
            ApicMode::XApic { delivers: false },
            secondary::APIC_REGISTER_VIRTUALIZATION,
        ),
        (ApicMode::XApic { delivers: true }, apicv),
        (ApicMode::X2Apic, apicv),
    ] {
        assert_eq!(controls.secondary_for(mode) & apicv, expected);
    }
    assert!(controls.features.apic_registers && controls.features.virtual_interrupts);
    assert_ne!(controls.exit & exit::ACKNOWLEDGE_INTERRUPT, 0);
}

#[test]
fn apic_modes_exclude_each_other() {
    let options = Options {
        virtual_interrupts: true,
        ..Options::default()
    };
    let controls = compute(&BOCHS_BROADWELL, &options).unwrap();
    let bits = secondary::VIRTUALIZE_APIC_ACCESSES | secondary::VIRTUALIZE_X2APIC;
    for (mode, expected) in [
        (ApicMode::Disabled, 0),
        (MODES[1], secondary::VIRTUALIZE_APIC_ACCESSES),
        (MODES[2], secondary::VIRTUALIZE_APIC_ACCESSES),
        (MODES[3], secondary::VIRTUALIZE_X2APIC),
    ] {
        assert_eq!(controls.secondary_for(mode) & bits, expected);
    }
}

/// Each required bit, where it is reported, and the name that its absence goes by.
#[test]
fn each_required_feature_is_named_when_it_is_missing() {
    type Msr = fn(&mut CapabilityMsrs) -> &mut u64;
    let settable = |bit: u32| u64::from(bit) << 32;
    let pin: Msr = |msrs| &mut msrs.true_pinbased;
    let primary: Msr = |msrs| &mut msrs.true_procbased;
    let secondary: Msr = |msrs| &mut msrs.procbased2;
    let exit: Msr = |msrs| &mut msrs.true_exit;
    let entry: Msr = |msrs| &mut msrs.true_entry;
    let ept: Msr = |msrs| &mut msrs.ept_vpid;
    let basic: Msr = |msrs| &mut msrs.basic;
    let cases: &[(Msr, u64, &str)] = &[
        (
            pin,
            settable(pin::EXTERNAL_INTERRUPT_EXITING),
            "external-interrupt exiting",
        ),
        (pin, settable(pin::NMI_EXITING), "NMI exiting"),
        (pin, settable(pin::VIRTUAL_NMIS), "virtual NMIs"),
        (
            primary,
            settable(primary::SECONDARY_CONTROLS),
            "secondary processor-based controls",
        ),
        (primary, settable(primary::HLT_EXITING), "HLT exiting"),
        (primary, settable(primary::TSC_OFFSETTING), "TSC offsetting"),
        (primary, settable(primary::MSR_BITMAPS), "MSR bitmaps"),
        (primary, settable(primary::IO_BITMAPS), "I/O bitmaps"),
        (
            primary,
            settable(primary::NMI_WINDOW_EXITING),
            "NMI-window exiting",
        ),
        (secondary, settable(secondary::ENABLE_EPT), "EPT"),
        (
            secondary,
            settable(secondary::UNRESTRICTED_GUEST),
            "unrestricted guest",
        ),
        (
            exit,
            settable(exit::HOST_ADDRESS_SPACE_SIZE),
            "host address-space size (64-bit host)",
        ),
        (exit, settable(exit::LOAD_PAT), "load IA32_PAT at VM exit"),
        (exit, settable(exit::LOAD_EFER), "load IA32_EFER at VM exit"),
        (
            entry,
            settable(entry::LOAD_PAT),
            "load IA32_PAT at VM entry",
        ),
        (
            entry,
            settable(entry::LOAD_EFER),
            "load IA32_EFER at VM entry",
        ),
        (ept, ept_vpid::WALK_4, "EPT page walk of 4 levels"),
        (ept, ept_vpid::WB, "EPT structures in write-back memory"),
        (ept, ept_vpid::INVEPT, "INVEPT"),
        (
            ept,
            ept_vpid::INVEPT_SINGLE_CONTEXT,
            "INVEPT of a single context",
        ),
        (ept, ept_vpid::INVEPT_ALL_CONTEXTS, "INVEPT of all contexts"),
        (basic, 1 << 54, "information about INS and OUTS at VM exit"),
    ];
    for &(msr, bits, name) in cases {
        let mut msrs = SKYLAKE_6700K;
        *msr(&mut msrs) &= !bits;
        assert_eq!(compute(&msrs, &Options::default()), Err(Missing(name)));
    }

    // Without the TRUE controls, CR3 accesses always exit.
    let mut msrs = SKYLAKE_6700K;
    msrs.basic &= !(1 << 55);
    assert_eq!(
        compute(&msrs, &Options::default()),
        Err(Missing("CR3 accesses without VM exit"))
    );
}

#[test]
fn vpid_needs_a_way_to_invalidate_one() {
    let mut msrs = SKYLAKE_6700K;
    msrs.ept_vpid &= !ept_vpid::INVVPID_SINGLE_CONTEXT;
    let controls = compute(&msrs, &Options::default()).unwrap();
    assert!(!controls.features.vpid);
    assert_eq!(controls.secondary & secondary::ENABLE_VPID, 0);
}

#[test]
fn only_existing_msrs_are_read() {
    let recorded = |msrs: &CapabilityMsrs, index: u32| match index {
        0x480 => msrs.basic,
        0x481 => msrs.pinbased,
        0x482 => msrs.procbased,
        0x483 => msrs.exit,
        0x484 => msrs.entry,
        0x485 => msrs.misc,
        0x486 => msrs.cr0_fixed0,
        0x487 => msrs.cr0_fixed1,
        0x488 => msrs.cr4_fixed0,
        0x489 => msrs.cr4_fixed1,
        0x48b => msrs.procbased2,
        0x48c => msrs.ept_vpid,
        0x48d => msrs.true_pinbased,
        0x48e => msrs.true_procbased,
        0x48f => msrs.true_exit,
        0x490 => msrs.true_entry,
        _ => panic!("MSR {index:#x} is none of ours"),
    };
    for (name, msrs) in RECORDED {
        let read = CapabilityMsrs::read(|index| {
            let value = recorded(msrs, index);
            assert_ne!(value, 0, "{name} has no MSR {index:#x}");
            value
        });
        assert_eq!(read, **msrs);
    }
}

proptest! {
    /// Whatever a nested hypervisor takes away or forces, the outcome is a refusal or valid fields.
    #[test]
    fn fields_always_obey_the_capabilities(
        keep in prop::array::uniform6(any::<u64>()),
        gaps in prop::array::uniform6(any::<u64>()),
        minimal: bool,
    ) {
        let mut msrs = SKYLAKE_6700K;
        // Three of four bits stay, and of those nearly all that are required.
        for (i, msr) in [
            &mut msrs.true_pinbased,
            &mut msrs.true_procbased,
            &mut msrs.procbased2,
            &mut msrs.true_exit,
            &mut msrs.true_entry,
            &mut msrs.ept_vpid,
        ]
        .into_iter()
        .enumerate()
        {
            let forced = *msr & u64::from(u32::MAX);
            *msr &= keep[i] | gaps[i] | forced << 32 | forced | REQUIRED[i];
        }
        let options = if minimal { Options::MINIMAL } else { Options::default() };
        if let Ok(controls) = compute(&msrs, &options) {
            check(&msrs, &controls);
        }
    }

    #[test]
    fn adjusted_values_are_allowed(allowed0: u32, more: u32, wanted: u32) {
        let capability = Capability { allowed0, allowed1: allowed0 | more };
        let value = capability.adjust(wanted);
        prop_assert_eq!(value & allowed0, allowed0);
        prop_assert_eq!(value & !capability.allowed1, 0);
        prop_assert_eq!(value & !allowed0, wanted & more & !allowed0);
    }
}

/// The required bits of the MSRs that the property varies.
const REQUIRED: [u64; 6] = [
    0x29 << 32,
    0xb2c0_0c8c << 32,
    0x82 << 32,
    0x0028_0204 << 32,
    0xc204 << 32,
    0x0610_4040,
];

/// Posted interrupts stand on the delivery of virtual ones and on exits that acknowledge (SDM vol. 3,
/// section 27.2.1.1), and are off by default.
#[test]
fn posted_interrupts() {
    let options = Options {
        virtual_interrupts: true,
        posted_interrupts: true,
        ..Options::default()
    };
    let mut server = SKYLAKE_6700K;
    let apicv = secondary::APIC_REGISTER_VIRTUALIZATION | secondary::VIRTUAL_INTERRUPT_DELIVERY;
    server.procbased2 |= u64::from(apicv) << 32;
    assert!(
        !compute(&server, &options)
            .unwrap()
            .features
            .posted_interrupts
    );
    for pin in [&mut server.pinbased, &mut server.true_pinbased] {
        *pin |= u64::from(pin::POSTED_INTERRUPTS) << 32;
    }
    let controls = compute(&server, &options).unwrap();
    check(&server, &controls);
    assert!(controls.features.posted_interrupts && controls.features.acknowledge_interrupt);
    assert_ne!(controls.exit & exit::ACKNOWLEDGE_INTERRUPT, 0);
    assert_eq!(controls.pin & pin::POSTED_INTERRUPTS, 0);
    for mode in MODES {
        let secondary = controls.secondary_for(mode);
        let delivers = secondary & secondary::VIRTUAL_INTERRUPT_DELIVERY != 0;
        let posted = controls.pin_for(mode) & pin::POSTED_INTERRUPTS != 0;
        assert_eq!(posted, delivers, "{mode:?}");
    }
    for off in [
        Options::default(),
        Options {
            virtual_interrupts: false,
            ..options
        },
    ] {
        let controls = compute(&server, &off).unwrap();
        assert!(!controls.features.posted_interrupts);
        assert_eq!(controls.exit & exit::ACKNOWLEDGE_INTERRUPT, 0);
        assert_eq!(controls.pin_for(ApicMode::X2Apic), controls.pin);
    }
}
