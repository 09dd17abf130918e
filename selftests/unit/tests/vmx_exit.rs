// SPDX-License-Identifier: GPL-2.0-only

//! Properties of exit decoding, event injection and control registers for arbitrary field values.

#[path = "fixtures/vmx_caps.rs"]
mod vmx_caps;

use proptest::prelude::*;
use vireo_model::model::exit::Event;
use vireo_model::model::exit::EventKind;
use vireo_model::model::exit::Exit;
use vireo_model::model::vmx::cr::guest_view;
use vireo_model::model::vmx::cr::FixedBits;
use vireo_model::model::vmx::event::Injection;
use vireo_model::model::vmx::exit::decode;
use vireo_model::model::vmx::exit::vectored_event;
use vireo_model::model::vmx::exit::ExitInfo;
use vireo_model::model::x86::cr0;
use vireo_model::model::x86::cr4;

/// Exit information of any value.
#[derive(Clone, Debug)]
struct Fields {
    qualification: u64,
    gpa: u64,
    words: [u32; 6],
}

fn fields() -> impl Strategy<Value = Fields> {
    (any::<u64>(), any::<u64>(), any::<[u32; 6]>()).prop_map(|(qualification, gpa, words)| Fields {
        qualification,
        gpa,
        words,
    })
}

impl ExitInfo for Fields {
    fn qualification(&self) -> u64 {
        self.qualification
    }
    fn guest_physical_address(&self) -> u64 {
        self.gpa
    }
    fn interruption_info(&self) -> u32 {
        self.words[0]
    }
    fn interruption_error_code(&self) -> u32 {
        self.words[1]
    }
    fn idt_vectoring_info(&self) -> u32 {
        self.words[2]
    }
    fn idt_vectoring_error_code(&self) -> u32 {
        self.words[3]
    }
    fn instruction_length(&self) -> u32 {
        self.words[4]
    }
    fn instruction_info(&self) -> u32 {
        self.words[5]
    }
}

proptest! {
    #[test]
    fn any_exit_decodes(reason in prop_oneof![0..128u32, any::<u32>()], fields in fields()) {
        match decode(reason, &fields) {
            Exit::Io(io) => {
                prop_assert!((1..=8).contains(&io.size));
                if let Some(string) = io.string {
                    prop_assert!([2, 4, 8].contains(&string.address_size));
                }
            }
            Exit::DrAccess(access) => prop_assert!(access.number < 8),
            Exit::ApicAccess(access) => prop_assert!(access.offset < 4096),
            Exit::ApicWrite(offset) => prop_assert!(offset < 4096),
            Exit::EntryFailure(failure) => prop_assert_eq!(failure.reason, reason),
            Exit::Unknown(unknown) => prop_assert_eq!(unknown, reason),
            _ => {}
        }
    }

    /// What was cut short is injected as it was: the two fields have one layout.
    #[test]
    fn vectored_events_are_injected_again(fields in fields()) {
        let Some(event) = vectored_event(&fields) else { return Ok(()) };
        let injection = Injection::new(&event, cr0::PE);
        let info = fields.idt_vectoring_info() & 0x8000_0fff;
        prop_assert_eq!(injection.info, info);
        prop_assert_eq!(
            injection.error_code,
            event.error_code.map(|code| code & 0xffff)
        );
        let software = matches!(
            event.kind,
            EventKind::SoftwareInterrupt
                | EventKind::SoftwareException
                | EventKind::PrivilegedSoftwareException
        );
        prop_assert_eq!(injection.instruction_length.is_some(), software);
    }

    /// The processor's check of the field at entry: no reserved bits, an error code only in protected
    /// mode (SDM vol. 3, section 27.2.1.3).
    #[test]
    fn injections_pass_the_entry_check(vector: u8, code: Option<u32>, guest_cr0: u64) {
        for kind in [
            EventKind::Interrupt,
            EventKind::Nmi,
            EventKind::HardwareException,
            EventKind::SoftwareInterrupt,
            EventKind::PrivilegedSoftwareException,
            EventKind::SoftwareException,
        ] {
            let event = Event { kind, vector, error_code: code, instruction_length: 1 };
            let injection = Injection::new(&event, guest_cr0);
            prop_assert_eq!(injection.info & 0x7fff_f000, 0);
            prop_assert_eq!(injection.info & 1 << 11 != 0, injection.error_code.is_some());
            prop_assert!(injection.error_code.is_none() || guest_cr0 & cr0::PE != 0);
            prop_assert!(injection.error_code.unwrap_or(0) <= 0xffff);
        }
    }

    /// The hardware's registers are legal, and the guest reads back what it wrote.
    #[test]
    fn control_registers_read_back(guest_cr0: u32, guest_cr4: u32, host_cr4: u64, offered: u64) {
        let (guest_cr0, guest_cr4) = (u64::from(guest_cr0), u64::from(guest_cr4));
        for (name, msrs) in vmx_caps::RECORDED {
            let fixed = FixedBits::new(msrs);
            let hw = fixed.hw_cr0(guest_cr0);
            let must = msrs.cr0_fixed0 & !(cr0::PE | cr0::PG);
            prop_assert_eq!(hw & must, must, "{}", name);
            prop_assert_eq!(hw & !msrs.cr0_fixed1, 0, "{}", name);
            prop_assert_eq!(guest_view(hw, guest_cr0, fixed.cr0_guest_host_mask()), guest_cr0);

            let guest_cr4 = guest_cr4 & msrs.cr4_fixed1;
            let hw = fixed.hw_cr4(guest_cr4, host_cr4);
            prop_assert_eq!(hw & msrs.cr4_fixed0, msrs.cr4_fixed0, "{}", name);
            prop_assert_eq!(hw & !msrs.cr4_fixed1, 0, "{}", name);
            prop_assert!(host_cr4 & cr4::MCE == 0 || hw & cr4::MCE != 0);
            let mask = fixed.cr4_guest_host_mask(offered);
            prop_assert_eq!(guest_view(hw, guest_cr4, mask), guest_cr4, "{}", name);
        }
    }
}
