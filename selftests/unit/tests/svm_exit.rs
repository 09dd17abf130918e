// SPDX-License-Identifier: GPL-2.0-only

//! Properties of exit decoding, event injection, segments and control registers for arbitrary VMCB contents.

use proptest::prelude::*;
use vireo_model::model::emul;
use vireo_model::model::emul::Mode;
use vireo_model::model::exit::Event;
use vireo_model::model::exit::EventKind;
use vireo_model::model::exit::Exit;
use vireo_model::model::svm::caps::compute;
use vireo_model::model::svm::caps::Features;
use vireo_model::model::svm::caps::Options;
use vireo_model::model::svm::caps::SvmCpuid;
use vireo_model::model::svm::cr;
use vireo_model::model::svm::event::vectored_event;
use vireo_model::model::svm::event::Delivery;
use vireo_model::model::svm::event::Guest;
use vireo_model::model::svm::event::Return;
use vireo_model::model::svm::exit::decode;
use vireo_model::model::svm::exit::next_rip;
use vireo_model::model::svm::exit::Completed;
use vireo_model::model::svm::exit::Decoded;
use vireo_model::model::svm::exit::ExitInfo;
use vireo_model::model::svm::exit::NeedsInstruction;
use vireo_model::model::svm::vmcb::VmcbSegment;
use vireo_model::model::x86::ar;
use vireo_model::model::x86::cr0;
use vireo_model::model::x86::Segment;

/// Exit information of any value.
#[derive(Clone, Debug)]
struct Fields([u64; 5]);

impl ExitInfo for Fields {
    fn exitinfo1(&self) -> u64 {
        self.0[0]
    }
    fn exitinfo2(&self) -> u64 {
        self.0[1]
    }
    fn exitintinfo(&self) -> u64 {
        self.0[2]
    }
    fn nrip(&self) -> u64 {
        self.0[3]
    }
    fn dr6(&self) -> u64 {
        self.0[4]
    }
}

fn code() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..0x100u64,
        2 => 0x400..0x408u64,
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

fn features() -> impl Strategy<Value = Features> {
    (any::<bool>(), any::<bool>()).prop_map(|(nrips, decode_assists)| Features {
        nrips,
        decode_assists,
        ..Features::default()
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![
        Mode::Real,
        Mode::Virtual8086,
        Mode::Protected16,
        Mode::Protected32,
        Mode::Long,
    ])
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![
        EventKind::Interrupt,
        EventKind::Nmi,
        EventKind::HardwareException,
        EventKind::SoftwareInterrupt,
        EventKind::PrivilegedSoftwareException,
        EventKind::SoftwareException,
    ]);
    (kind, any::<u8>(), any::<Option<u32>>(), 0..16u8).prop_map(
        |(kind, vector, error_code, instruction_length)| Event {
            kind,
            vector,
            error_code,
            instruction_length,
        },
    )
}

fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        vec![],
        vec![0x0f, 0x20],
        vec![0x0f, 0x21],
        vec![0x0f, 0x22],
        vec![0x0f, 0x23],
        vec![0x0f, 0x01],
        vec![0x0f, 0x06],
        vec![0x6c],
        vec![0x6f],
        vec![0xf3, 0x66, 0x6f],
        vec![0x45, 0x0f, 0x22],
    ]);
    (start, prop::collection::vec(any::<u8>(), 15)).prop_map(|(mut start, rest)| {
        start.extend(rest);
        start
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn decoding_accepts_everything(
        code in code(),
        fields in any::<[u64; 5]>().prop_map(Fields),
        features in features(),
    ) {
        match decode(code, &features, &fields) {
            Decoded::Exit(Exit::Io(access)) => {
                prop_assert!(matches!(access.size, 1 | 2 | 4));
                if let Some(string) = access.string {
                    prop_assert!(matches!(string.address_size, 2 | 4 | 8));
                }
            }
            Decoded::Exit(Exit::Unknown(raw)) => prop_assert_eq!(raw, code as u32),
            Decoded::Exit(Exit::DrAccess(access)) => {
                prop_assert!(features.decode_assists && access.number < 8);
            }
            Decoded::Exit(Exit::CrAccess(_)) => prop_assert!(features.decode_assists),
            Decoded::Iret => prop_assert_eq!(code, 0x74),
            _ => {}
        }
        if let Some(next) = next_rip(code, &features, &fields) {
            prop_assert!(next == fields.0[3] && features.nrips || code == 0x7b);
        }
    }

    /// What is completed is what the exit said it is.
    #[test]
    fn completion_agrees_with_the_exit(
        code in 0..0x80u64,
        fields in any::<[u64; 5]>().prop_map(Fields),
        bytes in instruction(),
        mode in mode(),
    ) {
        let Decoded::NeedsInstruction(needs) = decode(code, &Features::default(), &fields) else {
            return Ok(());
        };
        let Ok(insn) = emul::decode(&bytes, mode) else {
            return Ok(());
        };
        match (needs, needs.complete(&insn, |_| 0)) {
            (_, None) => {}
            (NeedsInstruction::Dr { number, direction }, Some(Completed::Exit(exit))) => {
                let Exit::DrAccess(access) = exit else {
                    panic!("{exit:?}");
                };
                prop_assert_eq!((access.number, access.direction), (number, direction));
            }
            (NeedsInstruction::StringIo(access), Some(Completed::Exit(exit))) => {
                let Exit::Io(io) = exit else {
                    panic!("{exit:?}");
                };
                prop_assert!(io.string.is_some());
                prop_assert_eq!((io.port, io.size, io.direction), (access.port, access.size, access.direction));
            }
            (NeedsInstruction::Cr { .. }, Some(Completed::Exit(exit))) => {
                prop_assert!(matches!(exit, Exit::CrAccess(_)));
            }
            (NeedsInstruction::Cr { .. } | NeedsInstruction::Invlpg, Some(Completed::Operand(_))) => {}
            other => panic!("{other:?}"),
        }
    }

    /// EVENTINJ never has a type or vector that VMRUN refuses for what is a valid event, and EXITINTINFO
    /// gives the same event back.
    #[test]
    fn injection_is_reversible(
        event in event(),
        rip: u64,
        paged: bool,
        mode in mode(),
        nrips: bool,
    ) {
        let guest = Guest { rip, cr0: if paged { cr0::PE } else { 0 }, mode };
        let injection = match Delivery::new(&event, &guest, nrips) {
            Delivery::Reexecute => {
                prop_assert!(event.kind.has_instruction() && event.instruction_length == 0);
                return Ok(());
            }
            Delivery::Inject(injection) => injection,
        };
        prop_assert_eq!(injection.eventinj & 0x7fff_f000, 0, "reserved bits");
        let back = vectored_event(injection.eventinj).expect("valid");
        prop_assert_eq!(back.vector, event.vector);
        prop_assert_eq!(back.error_code, event.error_code.filter(|_| paged));
        prop_assert_eq!(back.instruction_length, 0);
        match event.kind {
            EventKind::Interrupt | EventKind::Nmi | EventKind::SoftwareInterrupt => {
                prop_assert_eq!(back.kind, event.kind);
                if event.kind == EventKind::SoftwareInterrupt {
                    prop_assert_ne!(injection.returns, Return::Rip);
                } else {
                    prop_assert_eq!(injection.returns, Return::Rip);
                }
            }
            _ => prop_assert_eq!(
                back.kind == EventKind::SoftwareException,
                matches!(event.vector, 3 | 4)
            ),
        }
        if let Return::MoveRip(moved) = injection.returns {
            prop_assert_eq!(moved.from, rip);
            // The guest is back at the instruction unless the event has been delivered.
            prop_assert_eq!(moved.restore(moved.to, Some(&event)), if matches!(event.kind, EventKind::Interrupt | EventKind::Nmi) { moved.to } else { rip });
            prop_assert_eq!(moved.restore(moved.to, None), moved.to);
        }
    }

    /// A segment that has been in the VMCB is in no other state than before.
    #[test]
    fn segments_are_stable(selector: u16, attrib in 0..0x1000u16, limit: u32, base: u64) {
        let vmcb = VmcbSegment { selector, attrib, limit, base };
        let segment = Segment::from(&vmcb);
        prop_assert_eq!(segment.is_unusable(), attrib & 0x80 == 0);
        prop_assert_eq!(segment.ar & !(ar::UNUSABLE | 0xf0ff), 0);
        let again = Segment::from(&VmcbSegment::from(&segment));
        prop_assert_eq!(again, segment);
        prop_assert_eq!((segment.selector, segment.limit, segment.base), (selector, limit, base));
    }

    /// The guest sees what it wrote, whatever it did to TS and MP since.
    #[test]
    fn guest_sees_its_own_cr0(guest: u64, changed: u64) {
        let selective = cr0::TS | cr0::MP;
        let hw = cr::hw_cr0(guest) & !selective | changed & selective;
        prop_assert_eq!(hw & (cr0::CD | cr0::NW), 0);
        let seen = cr::guest_cr0(hw, guest);
        prop_assert_eq!(seen, guest & !selective | changed & selective);
        if !cr::cr0_differs(hw, guest) {
            prop_assert_eq!(hw, seen, "reads do not exit");
        }
    }

    #[test]
    fn features_are_only_what_the_processor_has(
        extended_ecx: u32, extended_edx: u32, svm_ebx: u32, svm_edx: u32,
    ) {
        let cpuid = SvmCpuid { extended_ecx, extended_edx, svm_ebx, svm_edx };
        let all = Options { avic: true, x2avic: true, ..Options::default() };
        let usable = extended_ecx & 4 != 0 && svm_edx & 1 != 0 && svm_ebx > 1;
        let Ok(features) = compute(&cpuid, &all) else {
            prop_assert!(!usable);
            return Ok(());
        };
        prop_assert!(usable);
        for (on, bit) in [
            (features.lbr_virtualization, 1),
            (features.nrips, 3),
            (features.tsc_scaling, 4),
            (features.vmcb_clean, 5),
            (features.flush_by_asid, 6),
            (features.decode_assists, 7),
            (features.pause_filter, 10),
            (features.avic, 13),
            (features.virtual_vmload, 15),
            (features.vgif, 16),
            (features.virtual_spec_ctrl, 20),
        ] {
            prop_assert_eq!(on, svm_edx >> bit & 1 != 0, "bit {}", bit);
        }
    }
}
