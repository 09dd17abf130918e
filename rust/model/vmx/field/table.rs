// SPDX-License-Identifier: GPL-2.0-only

//! Every VMCS field, one line each, in the order of SDM vol. 3, app. B.
//!
//! Some exist only on processors that support the control that they belong to; VMREAD of another
//! fails with error 12.

use super::{Field, Natural, ReadOnly};

macro_rules! fields {
    ($($name:ident: $type:ty $(, $access:ty)? = $encoding:literal, $doc:literal;)*) => {
        $(
            #[doc = concat!($doc, ".")]
            pub const $name: Field<$type $(, $access)?> = Field::new($encoding);
        )*

        /// The name and encoding of every field, for a dump.
        pub const ALL: &[(&str, u32)] = &[$((stringify!($name), $encoding)),*];
    };
}

fields! {
    // 16-bit control fields (table B-1).
    VPID: u16 = 0x0000, "Virtual-processor identifier";
    POSTED_INTERRUPT_VECTOR: u16 = 0x0002, "Posted-interrupt notification vector";
    EPTP_INDEX: u16 = 0x0004, "EPTP index, for EPT-violation #VE";
    HLAT_PREFIX_SIZE: u16 = 0x0006, "HLAT prefix size";
    LAST_PID_POINTER_INDEX: u16 = 0x0008, "Last PID-pointer index, for IPI virtualisation";

    // 16-bit guest-state fields (table B-2).
    GUEST_ES_SELECTOR: u16 = 0x0800, "Guest ES selector";
    GUEST_CS_SELECTOR: u16 = 0x0802, "Guest CS selector";
    GUEST_SS_SELECTOR: u16 = 0x0804, "Guest SS selector";
    GUEST_DS_SELECTOR: u16 = 0x0806, "Guest DS selector";
    GUEST_FS_SELECTOR: u16 = 0x0808, "Guest FS selector";
    GUEST_GS_SELECTOR: u16 = 0x080a, "Guest GS selector";
    GUEST_LDTR_SELECTOR: u16 = 0x080c, "Guest LDTR selector";
    GUEST_TR_SELECTOR: u16 = 0x080e, "Guest TR selector";
    GUEST_INTERRUPT_STATUS: u16 = 0x0810, "Guest interrupt status: RVI and SVI";
    PML_INDEX: u16 = 0x0812, "Index of the next page-modification log entry";
    GUEST_UINV: u16 = 0x0814, "Guest user-interrupt notification vector";

    // 16-bit host-state fields (table B-3).
    HOST_ES_SELECTOR: u16 = 0x0c00, "Host ES selector";
    HOST_CS_SELECTOR: u16 = 0x0c02, "Host CS selector";
    HOST_SS_SELECTOR: u16 = 0x0c04, "Host SS selector";
    HOST_DS_SELECTOR: u16 = 0x0c06, "Host DS selector";
    HOST_FS_SELECTOR: u16 = 0x0c08, "Host FS selector";
    HOST_GS_SELECTOR: u16 = 0x0c0a, "Host GS selector";
    HOST_TR_SELECTOR: u16 = 0x0c0c, "Host TR selector";

    // 64-bit control fields (table B-4).
    IO_BITMAP_A: u64 = 0x2000, "Address of the I/O bitmap for ports 0 to 0x7fff";
    IO_BITMAP_B: u64 = 0x2002, "Address of the I/O bitmap for ports 0x8000 to 0xffff";
    MSR_BITMAPS: u64 = 0x2004, "Address of the MSR bitmaps";
    EXIT_MSR_STORE_ADDRESS: u64 = 0x2006, "VM-exit MSR-store address";
    EXIT_MSR_LOAD_ADDRESS: u64 = 0x2008, "VM-exit MSR-load address";
    ENTRY_MSR_LOAD_ADDRESS: u64 = 0x200a, "VM-entry MSR-load address";
    EXECUTIVE_VMCS_POINTER: u64 = 0x200c, "Executive-VMCS pointer";
    PML_ADDRESS: u64 = 0x200e, "Address of the page-modification log";
    TSC_OFFSET: u64 = 0x2010, "TSC offset";
    VIRTUAL_APIC_ADDRESS: u64 = 0x2012, "Address of the virtual-APIC page";
    APIC_ACCESS_ADDRESS: u64 = 0x2014, "Address of the APIC-access page";
    POSTED_INTERRUPT_DESCRIPTOR: u64 = 0x2016, "Address of the posted-interrupt descriptor";
    VM_FUNCTION_CONTROLS: u64 = 0x2018, "VM-function controls";
    EPT_POINTER: u64 = 0x201a, "EPT pointer";
    EOI_EXIT_BITMAP_0: u64 = 0x201c, "EOI-exit bitmap, vectors 0 to 63";
    EOI_EXIT_BITMAP_1: u64 = 0x201e, "EOI-exit bitmap, vectors 64 to 127";
    EOI_EXIT_BITMAP_2: u64 = 0x2020, "EOI-exit bitmap, vectors 128 to 191";
    EOI_EXIT_BITMAP_3: u64 = 0x2022, "EOI-exit bitmap, vectors 192 to 255";
    EPTP_LIST_ADDRESS: u64 = 0x2024, "Address of the EPTP list";
    VMREAD_BITMAP: u64 = 0x2026, "Address of the VMREAD bitmap";
    VMWRITE_BITMAP: u64 = 0x2028, "Address of the VMWRITE bitmap";
    VE_INFORMATION_ADDRESS: u64 = 0x202a, "Address of the virtualisation-exception information";
    XSS_EXITING_BITMAP: u64 = 0x202c, "XSS-exiting bitmap, for XSAVES and XRSTORS";
    ENCLS_EXITING_BITMAP: u64 = 0x202e, "ENCLS-exiting bitmap";
    SUB_PAGE_PERMISSION_POINTER: u64 = 0x2030, "Sub-page-permission-table pointer";
    TSC_MULTIPLIER: u64 = 0x2032, "TSC multiplier, fixed point with 48 fraction bits";
    TERTIARY_CONTROLS: u64 = 0x2034, "Tertiary processor-based VM-execution controls";
    ENCLV_EXITING_BITMAP: u64 = 0x2036, "ENCLV-exiting bitmap";
    LOW_PASID_DIRECTORY: u64 = 0x2038, "Low PASID directory address";
    HIGH_PASID_DIRECTORY: u64 = 0x203a, "High PASID directory address";
    SHARED_EPT_POINTER: u64 = 0x203c, "Shared EPT pointer";
    PCONFIG_EXITING_BITMAP: u64 = 0x203e, "PCONFIG-exiting bitmap";
    HLAT_POINTER: u64 = 0x2040, "Hypervisor-managed linear-address translation pointer";
    PID_POINTER_TABLE: u64 = 0x2042, "Address of the PID-pointer table";
    SECONDARY_EXIT_CONTROLS: u64 = 0x2044, "Secondary VM-exit controls";
    SPEC_CTRL_MASK: u64 = 0x204a, "IA32_SPEC_CTRL mask";
    SPEC_CTRL_SHADOW: u64 = 0x204c, "IA32_SPEC_CTRL shadow";

    // 64-bit read-only data field (table B-5).
    GUEST_PHYSICAL_ADDRESS: u64, ReadOnly = 0x2400, "Guest-physical address of an EPT exit";

    // 64-bit guest-state fields (table B-6).
    VMCS_LINK_POINTER: u64 = 0x2800, "VMCS link pointer";
    GUEST_DEBUGCTL: u64 = 0x2802, "Guest IA32_DEBUGCTL";
    GUEST_PAT: u64 = 0x2804, "Guest IA32_PAT";
    GUEST_EFER: u64 = 0x2806, "Guest IA32_EFER";
    GUEST_PERF_GLOBAL_CTRL: u64 = 0x2808, "Guest IA32_PERF_GLOBAL_CTRL";
    GUEST_PDPTE0: u64 = 0x280a, "Guest page-directory-pointer-table entry 0, for PAE paging";
    GUEST_PDPTE1: u64 = 0x280c, "Guest page-directory-pointer-table entry 1, for PAE paging";
    GUEST_PDPTE2: u64 = 0x280e, "Guest page-directory-pointer-table entry 2, for PAE paging";
    GUEST_PDPTE3: u64 = 0x2810, "Guest page-directory-pointer-table entry 3, for PAE paging";
    GUEST_BNDCFGS: u64 = 0x2812, "Guest IA32_BNDCFGS";
    GUEST_RTIT_CTL: u64 = 0x2814, "Guest IA32_RTIT_CTL";
    GUEST_LBR_CTL: u64 = 0x2816, "Guest IA32_LBR_CTL";
    GUEST_PKRS: u64 = 0x2818, "Guest IA32_PKRS";

    // 64-bit host-state fields (table B-7).
    HOST_PAT: u64 = 0x2c00, "Host IA32_PAT";
    HOST_EFER: u64 = 0x2c02, "Host IA32_EFER";
    HOST_PERF_GLOBAL_CTRL: u64 = 0x2c04, "Host IA32_PERF_GLOBAL_CTRL";
    HOST_PKRS: u64 = 0x2c06, "Host IA32_PKRS";

    // 32-bit control fields (table B-8).
    PIN_BASED_CONTROLS: u32 = 0x4000, "Pin-based VM-execution controls";
    PRIMARY_CONTROLS: u32 = 0x4002, "Primary processor-based VM-execution controls";
    EXCEPTION_BITMAP: u32 = 0x4004, "Exception bitmap, one bit for each vector";
    PAGE_FAULT_ERROR_CODE_MASK: u32 = 0x4006, "Page-fault error-code mask";
    PAGE_FAULT_ERROR_CODE_MATCH: u32 = 0x4008, "Page-fault error-code match";
    CR3_TARGET_COUNT: u32 = 0x400a, "CR3-target count, 0 to 4";
    EXIT_CONTROLS: u32 = 0x400c, "Primary VM-exit controls";
    EXIT_MSR_STORE_COUNT: u32 = 0x400e, "VM-exit MSR-store count";
    EXIT_MSR_LOAD_COUNT: u32 = 0x4010, "VM-exit MSR-load count";
    ENTRY_CONTROLS: u32 = 0x4012, "VM-entry controls";
    ENTRY_MSR_LOAD_COUNT: u32 = 0x4014, "VM-entry MSR-load count";
    ENTRY_INTERRUPTION_INFO: u32 = 0x4016, "VM-entry interruption-information field";
    ENTRY_EXCEPTION_ERROR_CODE: u32 = 0x4018, "VM-entry exception error code";
    ENTRY_INSTRUCTION_LENGTH: u32 = 0x401a, "VM-entry instruction length, in bytes";
    TPR_THRESHOLD: u32 = 0x401c, "TPR threshold, bits 3:0";
    SECONDARY_CONTROLS: u32 = 0x401e, "Secondary processor-based VM-execution controls";
    PLE_GAP: u32 = 0x4020, "PAUSE-loop exiting: most TSC ticks between two PAUSEs of a loop";
    PLE_WINDOW: u32 = 0x4022, "PAUSE-loop exiting: most TSC ticks in a loop";
    NOTIFY_WINDOW: u32 = 0x4024, "Notify window, in crystal-clock ticks";

    // 32-bit read-only data fields (table B-9).
    INSTRUCTION_ERROR: u32, ReadOnly = 0x4400, "VM-instruction error";
    EXIT_REASON: u32, ReadOnly = 0x4402, "Exit reason";
    EXIT_INTERRUPTION_INFO: u32, ReadOnly = 0x4404, "VM-exit interruption information";
    EXIT_INTERRUPTION_ERROR_CODE: u32, ReadOnly = 0x4406, "VM-exit interruption error code";
    IDT_VECTORING_INFO: u32, ReadOnly = 0x4408, "IDT-vectoring information field";
    IDT_VECTORING_ERROR_CODE: u32, ReadOnly = 0x440a, "IDT-vectoring error code";
    EXIT_INSTRUCTION_LENGTH: u32, ReadOnly = 0x440c, "VM-exit instruction length, in bytes";
    EXIT_INSTRUCTION_INFO: u32, ReadOnly = 0x440e, "VM-exit instruction information";

    // 32-bit guest-state fields (table B-10).
    GUEST_ES_LIMIT: u32 = 0x4800, "Guest ES limit";
    GUEST_CS_LIMIT: u32 = 0x4802, "Guest CS limit";
    GUEST_SS_LIMIT: u32 = 0x4804, "Guest SS limit";
    GUEST_DS_LIMIT: u32 = 0x4806, "Guest DS limit";
    GUEST_FS_LIMIT: u32 = 0x4808, "Guest FS limit";
    GUEST_GS_LIMIT: u32 = 0x480a, "Guest GS limit";
    GUEST_LDTR_LIMIT: u32 = 0x480c, "Guest LDTR limit";
    GUEST_TR_LIMIT: u32 = 0x480e, "Guest TR limit";
    GUEST_GDTR_LIMIT: u32 = 0x4810, "Guest GDTR limit";
    GUEST_IDTR_LIMIT: u32 = 0x4812, "Guest IDTR limit";
    GUEST_ES_ACCESS_RIGHTS: u32 = 0x4814, "Guest ES access rights";
    GUEST_CS_ACCESS_RIGHTS: u32 = 0x4816, "Guest CS access rights";
    GUEST_SS_ACCESS_RIGHTS: u32 = 0x4818, "Guest SS access rights";
    GUEST_DS_ACCESS_RIGHTS: u32 = 0x481a, "Guest DS access rights";
    GUEST_FS_ACCESS_RIGHTS: u32 = 0x481c, "Guest FS access rights";
    GUEST_GS_ACCESS_RIGHTS: u32 = 0x481e, "Guest GS access rights";
    GUEST_LDTR_ACCESS_RIGHTS: u32 = 0x4820, "Guest LDTR access rights";
    GUEST_TR_ACCESS_RIGHTS: u32 = 0x4822, "Guest TR access rights";
    GUEST_INTERRUPTIBILITY: u32 = 0x4824, "Guest interruptibility state";
    GUEST_ACTIVITY: u32 = 0x4826, "Guest activity state";
    GUEST_SMBASE: u32 = 0x4828, "Guest SMBASE";
    GUEST_SYSENTER_CS: u32 = 0x482a, "Guest IA32_SYSENTER_CS";
    PREEMPTION_TIMER_VALUE: u32 = 0x482e, "VMX-preemption timer value";

    // 32-bit host-state field (table B-11).
    HOST_SYSENTER_CS: u32 = 0x4c00, "Host IA32_SYSENTER_CS";

    // Natural-width control fields (table B-12).
    CR0_GUEST_HOST_MASK: Natural = 0x6000, "CR0 guest/host mask: 1 for a bit that the host owns";
    CR4_GUEST_HOST_MASK: Natural = 0x6002, "CR4 guest/host mask: 1 for a bit that the host owns";
    CR0_READ_SHADOW: Natural = 0x6004, "What the guest reads of CR0's host-owned bits";
    CR4_READ_SHADOW: Natural = 0x6006, "What the guest reads of CR4's host-owned bits";
    CR3_TARGET_VALUE_0: Natural = 0x6008, "CR3-target value 0";
    CR3_TARGET_VALUE_1: Natural = 0x600a, "CR3-target value 1";
    CR3_TARGET_VALUE_2: Natural = 0x600c, "CR3-target value 2";
    CR3_TARGET_VALUE_3: Natural = 0x600e, "CR3-target value 3";

    // Natural-width read-only data fields (table B-13).
    EXIT_QUALIFICATION: Natural, ReadOnly = 0x6400, "Exit qualification";
    IO_RCX: Natural, ReadOnly = 0x6402, "RCX before the I/O instruction that an SMI followed";
    IO_RSI: Natural, ReadOnly = 0x6404, "RSI before the I/O instruction that an SMI followed";
    IO_RDI: Natural, ReadOnly = 0x6406, "RDI before the I/O instruction that an SMI followed";
    IO_RIP: Natural, ReadOnly = 0x6408, "RIP of an I/O instruction that was interrupted by an SMI";
    GUEST_LINEAR_ADDRESS: Natural, ReadOnly = 0x640a, "Guest-linear address";

    // Natural-width guest-state fields (table B-14).
    GUEST_CR0: Natural = 0x6800, "Guest CR0";
    GUEST_CR3: Natural = 0x6802, "Guest CR3";
    GUEST_CR4: Natural = 0x6804, "Guest CR4";
    GUEST_ES_BASE: Natural = 0x6806, "Guest ES base";
    GUEST_CS_BASE: Natural = 0x6808, "Guest CS base";
    GUEST_SS_BASE: Natural = 0x680a, "Guest SS base";
    GUEST_DS_BASE: Natural = 0x680c, "Guest DS base";
    GUEST_FS_BASE: Natural = 0x680e, "Guest FS base";
    GUEST_GS_BASE: Natural = 0x6810, "Guest GS base";
    GUEST_LDTR_BASE: Natural = 0x6812, "Guest LDTR base";
    GUEST_TR_BASE: Natural = 0x6814, "Guest TR base";
    GUEST_GDTR_BASE: Natural = 0x6816, "Guest GDTR base";
    GUEST_IDTR_BASE: Natural = 0x6818, "Guest IDTR base";
    GUEST_DR7: Natural = 0x681a, "Guest DR7";
    GUEST_RSP: Natural = 0x681c, "Guest RSP";
    GUEST_RIP: Natural = 0x681e, "Guest RIP";
    GUEST_RFLAGS: Natural = 0x6820, "Guest RFLAGS";
    GUEST_PENDING_DEBUG_EXCEPTIONS: Natural = 0x6822, "Guest pending debug exceptions";
    GUEST_SYSENTER_ESP: Natural = 0x6824, "Guest IA32_SYSENTER_ESP";
    GUEST_SYSENTER_EIP: Natural = 0x6826, "Guest IA32_SYSENTER_EIP";
    GUEST_S_CET: Natural = 0x6828, "Guest IA32_S_CET";
    GUEST_SSP: Natural = 0x682a, "Guest shadow-stack pointer";
    GUEST_INTERRUPT_SSP_TABLE: Natural = 0x682c, "Guest IA32_INTERRUPT_SSP_TABLE_ADDR";

    // Natural-width host-state fields (table B-15).
    HOST_CR0: Natural = 0x6c00, "Host CR0";
    HOST_CR3: Natural = 0x6c02, "Host CR3";
    HOST_CR4: Natural = 0x6c04, "Host CR4";
    HOST_FS_BASE: Natural = 0x6c06, "Host FS base";
    HOST_GS_BASE: Natural = 0x6c08, "Host GS base";
    HOST_TR_BASE: Natural = 0x6c0a, "Host TR base";
    HOST_GDTR_BASE: Natural = 0x6c0c, "Host GDTR base";
    HOST_IDTR_BASE: Natural = 0x6c0e, "Host IDTR base";
    HOST_SYSENTER_ESP: Natural = 0x6c10, "Host IA32_SYSENTER_ESP";
    HOST_SYSENTER_EIP: Natural = 0x6c12, "Host IA32_SYSENTER_EIP";
    HOST_RSP: Natural = 0x6c14, "Host RSP";
    HOST_RIP: Natural = 0x6c16, "Host RIP";
    HOST_S_CET: Natural = 0x6c18, "Host IA32_S_CET";
    HOST_SSP: Natural = 0x6c1a, "Host shadow-stack pointer";
    HOST_INTERRUPT_SSP_TABLE: Natural = 0x6c1c, "Host IA32_INTERRUPT_SSP_TABLE_ADDR";
}
