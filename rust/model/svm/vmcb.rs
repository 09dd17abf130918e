// SPDX-License-Identifier: GPL-2.0-only

//! The virtual machine control block (APM vol. 2, app. B).
//!
//! Every field is a plain integer, so that whatever the processor writes is a valid value. Fields keep
//! the manual's names, and their offsets are checked when this is compiled.
//!
//! # What VMRUN and #VMEXIT leave alone
//!
//! FS, GS, TR, LDTR, KernelGSBase, the SYSCALL MSRs (STAR, LSTAR, CSTAR, SFMASK) and the SYSENTER MSRs are
//! switched by VMLOAD and VMSAVE only (section 15.5.2). DR0 to DR3, the general registers but RAX and RSP,
//! and the extended state are the world switch's.

use super::clean::Clean;
use crate::model::x86::{ar, Segment};
use core::mem::{offset_of, size_of};

/// Bits of [`ControlArea::v_intr`] (offset 060h, section 15.21).
pub mod v_intr {
    /// Bits 7:0: V_TPR, the guest's task priority; bits 3:0 are CR8.
    pub const V_TPR: u64 = 0xff;
    /// Bit 8: V_IRQ, a virtual interrupt is pending.
    pub const V_IRQ: u64 = 1 << 8;
    /// Bit 9: VGIF, the virtual global interrupt flag.
    pub const V_GIF: u64 = 1 << 9;
    /// Bit 11: V_NMI, a virtual NMI is pending.
    pub const V_NMI: u64 = 1 << 11;
    /// Bit 12: V_NMI_MASK, virtual NMIs are masked.
    pub const V_NMI_MASK: u64 = 1 << 12;
    /// Bits 19:16: V_INTR_PRIO, the priority of the virtual interrupt.
    pub const V_INTR_PRIO_SHIFT: u32 = 16;
    /// Width mask of V_INTR_PRIO, in place.
    pub const V_INTR_PRIO: u64 = 0xf << V_INTR_PRIO_SHIFT;
    /// Bit 20: V_IGN_TPR, the virtual interrupt does not look at V_TPR.
    pub const V_IGN_TPR: u64 = 1 << 20;
    /// Bit 24: V_INTR_MASKING, RFLAGS.IF and CR8 of the guest mask virtual interrupts only; the host's
    /// RFLAGS.IF at VMRUN masks physical ones (section 15.21.1).
    pub const V_INTR_MASKING: u64 = 1 << 24;
    /// Bit 25: V_GIF_ENABLE, STGI and CLGI act on V_GIF.
    pub const V_GIF_ENABLE: u64 = 1 << 25;
    /// Bit 26: V_NMI_ENABLE, the processor keeps track of virtual NMIs.
    pub const V_NMI_ENABLE: u64 = 1 << 26;
    /// Bit 30: X2AVIC_ENABLE, AVIC serves x2APIC MSRs.
    pub const X2AVIC_ENABLE: u64 = 1 << 30;
    /// Bit 31: AVIC_ENABLE.
    pub const AVIC_ENABLE: u64 = 1 << 31;
    /// Bits 39:32: V_INTR_VECTOR, the vector of the virtual interrupt.
    pub const V_INTR_VECTOR_SHIFT: u32 = 32;
    /// Width mask of V_INTR_VECTOR, in place.
    pub const V_INTR_VECTOR: u64 = 0xff << V_INTR_VECTOR_SHIFT;
}

/// Bits of [`ControlArea::interrupt_state`] (offset 068h).
pub mod interrupt_state {
    /// Bit 0: INTERRUPT_SHADOW, the guest is in the shadow of STI, MOV SS or POP SS (section 15.21.5).
    pub const INTERRUPT_SHADOW: u64 = 1 << 0;
    /// Bit 1: GUEST_INTERRUPT_MASK, RFLAGS.IF of the guest while the VMCB's RFLAGS are hidden (SEV-ES).
    pub const GUEST_INTERRUPT_MASK: u64 = 1 << 1;
}

/// Bits of [`ControlArea::np_enable`] (offset 090h).
pub mod np_enable {
    /// Bit 0: NP_ENABLE, nested paging is on.
    pub const NP_ENABLE: u64 = 1 << 0;
}

/// Bits of [`ControlArea::lbr_virtualization`] (offset 0B8h).
pub mod lbr_virtualization {
    /// Bit 0: LBR_VIRTUALIZATION_ENABLE, the last-branch MSRs are switched too (section 15.23).
    pub const LBR_VIRTUALIZATION_ENABLE: u64 = 1 << 0;
    /// Bit 1: VMLOAD and VMSAVE of the guest take guest-physical addresses (section 15.33.1).
    pub const VIRTUAL_VMLOAD_VMSAVE: u64 = 1 << 1;
}

/// What VMRUN does to the TLB ([`ControlArea::tlb_control`], section 15.16.1).
pub mod tlb_control {
    /// Nothing.
    pub const DO_NOTHING: u8 = 0;
    /// All translations of every ASID, the host's too.
    pub const FLUSH_ALL: u8 = 1;
    /// All translations of this guest's ASID; needs flush-by-ASID.
    pub const FLUSH_GUEST: u8 = 3;
    /// The non-global translations of this guest's ASID; needs flush-by-ASID.
    pub const FLUSH_GUEST_NON_GLOBAL: u8 = 7;
}

/// Bytes of guest code that an exit stores.
pub const FETCHED_BYTES: usize = 15;

/// The control area: the first 1024 bytes (table B-1).
#[derive(Debug)]
#[repr(C)]
pub struct ControlArea {
    /// 000h: the intercept vectors, see [`Intercepts`](super::intercept::Intercepts).
    pub intercepts: [u32; 6],
    _reserved_018: [u8; 0x3c - 0x18],
    /// 03Ch: PAUSE filter threshold: TSC ticks after which a PAUSE starts a new loop.
    pub pause_filter_threshold: u16,
    /// 03Eh: PAUSE filter count: PAUSEs of a loop that do not exit.
    pub pause_filter_count: u16,
    /// 040h: physical address of the I/O permission map, page-aligned.
    pub iopm_base_pa: u64,
    /// 048h: physical address of the MSR permission map, page-aligned.
    pub msrpm_base_pa: u64,
    /// 050h: what is added to the TSC that the guest reads, modulo 2^64.
    pub tsc_offset: u64,
    /// 058h: the guest's address-space identifier; 0 is the host's and not allowed.
    pub guest_asid: u32,
    /// 05Ch: one of [`tlb_control`].
    pub tlb_control: u8,
    _reserved_05d: [u8; 3],
    /// 060h: virtual interrupt control, bits of [`v_intr`].
    pub v_intr: u64,
    /// 068h: bits of [`interrupt_state`].
    pub interrupt_state: u64,
    /// 070h: why the guest was left, one of [`code`](super::exit::code).
    pub exitcode: u64,
    /// 078h: more about it.
    pub exitinfo1: u64,
    /// 080h: still more about it.
    pub exitinfo2: u64,
    /// 088h: the event that was being delivered, with its error code in bits 63:32.
    pub exitintinfo: u64,
    /// 090h: bits of [`np_enable`].
    pub np_enable: u64,
    /// 098h: AVIC APIC_BAR, the guest-physical address of the local APIC.
    pub avic_apic_bar: u64,
    /// 0A0h: guest-physical address of the GHCB (SEV-ES).
    pub ghcb_gpa: u64,
    /// 0A8h: the event to inject, with its error code in bits 63:32.
    pub eventinj: u64,
    /// 0B0h: nCR3, the root of the nested page tables.
    pub n_cr3: u64,
    /// 0B8h: bits of [`lbr_virtualization`].
    pub lbr_virtualization: u64,
    /// 0C0h: VMCB clean bits, see [`Clean`].
    pub vmcb_clean: u32,
    _reserved_0c4: [u8; 4],
    /// 0C8h: the RIP after the instruction that exited, where the processor saves it.
    pub nrip: u64,
    /// 0D0h: how many of [`ControlArea::instruction_bytes`] are valid, 0 to 15.
    pub bytes_fetched: u8,
    /// 0D1h: code at the guest's RIP, with decode assists, for #NPF and intercepted #PF.
    pub instruction_bytes: [u8; FETCHED_BYTES],
    /// 0E0h: physical address of the AVIC backing page.
    pub avic_backing_page: u64,
    _reserved_0e8: [u8; 8],
    /// 0F0h: physical address of AVIC's logical APIC ID table.
    pub avic_logical_table: u64,
    /// 0F8h: physical address of AVIC's physical APIC ID table, and in bits 11:0 its last index.
    pub avic_physical_table: u64,
    _reserved_100: [u8; 8],
    /// 108h: physical address of the VMSA (SEV-ES).
    pub vmsa_pa: u64,
    _reserved_110: [u8; 0x3e0 - 0x110],
    /// 3E0h: free for the hypervisor.
    pub host_use: [u8; 0x20],
}

impl ControlArea {
    /// Says that fields of `groups` have been written since the last exit.
    #[inline]
    pub fn mark_dirty(&mut self, groups: Clean) {
        self.vmcb_clean &= !groups.raw();
    }

    /// Says that no field has been written since the last exit, except what is marked dirty after this.
    /// Only for a VMCB that last ran on this very CPU, at this very address.
    #[inline]
    pub fn mark_clean(&mut self) {
        self.vmcb_clean = Clean::ALL.raw();
    }

    /// Sets `bits` of V_INTR where `mask` has ones, and marks the group dirty if that changes anything.
    #[inline]
    pub fn set_v_intr(&mut self, mask: u64, bits: u64) {
        let new = self.v_intr & !mask | bits & mask;
        if new != self.v_intr {
            self.v_intr = new;
            self.mark_dirty(Clean::INTERRUPT);
        }
    }

    /// Returns the code that the exit stored, which begins at the guest's RIP. It is empty without decode
    /// assists, and for other exits than by #NPF and #PF.
    #[inline]
    pub fn fetched(&self) -> &[u8] {
        let count = usize::from(self.bytes_fetched & 0xf);
        self.instruction_bytes.get(..count).unwrap_or(&[])
    }
}

/// A segment register as the VMCB holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VmcbSegment {
    /// The visible selector.
    pub selector: u16,
    /// Descriptor bits 47:40 in 7:0 and 55:52 in 11:8 (section 15.5.1).
    pub attrib: u16,
    /// The last valid offset in bytes.
    pub limit: u32,
    /// The linear address of the first byte.
    pub base: u64,
}

/// Type, S, DPL and P: the same bits in [`VmcbSegment::attrib`] and in [`Segment::ar`].
const ATTRIB_LOW: u16 = 0xff;

/// AVL, L, D/B and G in [`VmcbSegment::attrib`]; four bits further up in [`Segment::ar`].
const ATTRIB_HIGH: u16 = 0xf00;
const ATTRIB_HIGH_SHIFT: u32 = 4;

/// The largest limit that a descriptor can have without granularity.
const LARGEST_BYTE_LIMIT: u32 = 0xf_ffff;

/// In the type of a TSS descriptor: busy.
const TSS_BUSY: u32 = 1 << 1;
/// The type of an available TSS, but for its size in bit 3.
const TSS_AVAILABLE: u32 = 1;
const TSS_SIZE: u32 = 1 << 3;

impl From<&Segment> for VmcbSegment {
    /// A register that is not usable has no P bit here: SVM knows no other way to say so.
    #[inline]
    fn from(segment: &Segment) -> Self {
        let low = segment.ar as u16 & ATTRIB_LOW;
        let high = (segment.ar >> ATTRIB_HIGH_SHIFT) as u16 & ATTRIB_HIGH;
        let absent = if segment.is_unusable() {
            ar::P as u16
        } else {
            0
        };
        Self {
            selector: segment.selector,
            attrib: (low | high) & !absent,
            limit: segment.limit,
            base: segment.base,
        }
    }
}

impl From<&VmcbSegment> for Segment {
    /// The processor need not keep every bit as the descriptor had it (section 15.5.1), so three are made
    /// what any loaded register has: granularity as the limit demands, code and data accessed, a task busy.
    #[inline]
    fn from(segment: &VmcbSegment) -> Self {
        let low = u32::from(segment.attrib & ATTRIB_LOW);
        let high = u32::from(segment.attrib & ATTRIB_HIGH) << ATTRIB_HIGH_SHIFT;
        let mut rights = (low | high) & !ar::G;
        if segment.limit > LARGEST_BYTE_LIMIT {
            rights |= ar::G;
        }
        if rights & ar::P == 0 {
            rights |= ar::UNUSABLE;
        } else if rights & ar::S != 0 {
            rights |= ar::ACCESSED;
        } else if rights & ar::TYPE & !TSS_SIZE == TSS_AVAILABLE {
            rights |= TSS_BUSY;
        }
        Self {
            selector: segment.selector,
            ar: rights,
            base: segment.base,
            limit: segment.limit,
        }
    }
}

impl VmcbSegment {
    /// Returns SS, whose DPL is the current privilege level whatever the descriptor said.
    #[inline]
    pub fn stack_segment(&self, cpl: u8) -> Segment {
        let mut segment = Segment::from(self);
        segment.ar = segment.ar & !ar::DPL | u32::from(cpl & 3) << ar::DPL_SHIFT;
        segment
    }
}

/// The state-save area: the rest of the VMCB (table B-2).
#[derive(Debug)]
#[repr(C)]
pub struct SaveArea {
    /// 000h: ES.
    pub es: VmcbSegment,
    /// 010h: CS.
    pub cs: VmcbSegment,
    /// 020h: SS.
    pub ss: VmcbSegment,
    /// 030h: DS.
    pub ds: VmcbSegment,
    /// 040h: FS.
    pub fs: VmcbSegment,
    /// 050h: GS.
    pub gs: VmcbSegment,
    /// 060h: GDTR, of which base and the low 16 bits of limit count.
    pub gdtr: VmcbSegment,
    /// 070h: LDTR.
    pub ldtr: VmcbSegment,
    /// 080h: IDTR, of which base and the low 16 bits of limit count.
    pub idtr: VmcbSegment,
    /// 090h: TR.
    pub tr: VmcbSegment,
    _reserved_0a0: [u8; 0xcb - 0xa0],
    /// 0CBh: the current privilege level, 0 to 3.
    pub cpl: u8,
    _reserved_0cc: [u8; 4],
    /// 0D0h: EFER; SVME must be set.
    pub efer: u64,
    _reserved_0d8: [u8; 0x148 - 0xd8],
    /// 148h: CR4.
    pub cr4: u64,
    /// 150h: CR3.
    pub cr3: u64,
    /// 158h: CR0.
    pub cr0: u64,
    /// 160h: DR7.
    pub dr7: u64,
    /// 168h: DR6.
    pub dr6: u64,
    /// 170h: RFLAGS.
    pub rflags: u64,
    /// 178h: RIP.
    pub rip: u64,
    _reserved_180: [u8; 0x1d8 - 0x180],
    /// 1D8h: RSP.
    pub rsp: u64,
    /// 1E0h: S_CET.
    pub s_cet: u64,
    /// 1E8h: SSP.
    pub ssp: u64,
    /// 1F0h: ISST_ADDR.
    pub isst_addr: u64,
    /// 1F8h: RAX.
    pub rax: u64,
    /// 200h: STAR.
    pub star: u64,
    /// 208h: LSTAR.
    pub lstar: u64,
    /// 210h: CSTAR.
    pub cstar: u64,
    /// 218h: SFMASK.
    pub sfmask: u64,
    /// 220h: KernelGSBase.
    pub kernel_gs_base: u64,
    /// 228h: SYSENTER_CS.
    pub sysenter_cs: u64,
    /// 230h: SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// 238h: SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// 240h: CR2.
    pub cr2: u64,
    _reserved_248: [u8; 0x268 - 0x248],
    /// 268h: G_PAT, the guest's PAT; used with nested paging only.
    pub g_pat: u64,
    /// 270h: DBGCTL.
    pub dbgctl: u64,
    /// 278h: BR_FROM.
    pub br_from: u64,
    /// 280h: BR_TO.
    pub br_to: u64,
    /// 288h: LASTEXCPFROM.
    pub last_excp_from: u64,
    /// 290h: LASTEXCPTO.
    pub last_excp_to: u64,
    _reserved_298: [u8; 0x2e0 - 0x298],
    /// 2E0h: SPEC_CTRL, where the processor virtualises it.
    pub spec_ctrl: u64,
    _reserved_2e8: [u8; 0xc00 - 0x2e8],
}

/// A virtual machine control block: one page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What the processor is to do, and why it stopped.
    pub control: ControlArea,
    /// The guest's registers.
    pub save: SaveArea,
}

/// Bytes of a VMCB.
pub const VMCB_SIZE: usize = 4096;

macro_rules! offsets {
    ($area:ty: $($field:ident at $offset:literal,)*) => {
        $(const _: () = assert!(offset_of!($area, $field) == $offset);)*
    };
}

offsets! { ControlArea:
    intercepts at 0x000,
    pause_filter_threshold at 0x03c,
    pause_filter_count at 0x03e,
    iopm_base_pa at 0x040,
    msrpm_base_pa at 0x048,
    tsc_offset at 0x050,
    guest_asid at 0x058,
    tlb_control at 0x05c,
    v_intr at 0x060,
    interrupt_state at 0x068,
    exitcode at 0x070,
    exitinfo1 at 0x078,
    exitinfo2 at 0x080,
    exitintinfo at 0x088,
    np_enable at 0x090,
    avic_apic_bar at 0x098,
    ghcb_gpa at 0x0a0,
    eventinj at 0x0a8,
    n_cr3 at 0x0b0,
    lbr_virtualization at 0x0b8,
    vmcb_clean at 0x0c0,
    nrip at 0x0c8,
    bytes_fetched at 0x0d0,
    instruction_bytes at 0x0d1,
    avic_backing_page at 0x0e0,
    avic_logical_table at 0x0f0,
    avic_physical_table at 0x0f8,
    vmsa_pa at 0x108,
    host_use at 0x3e0,
}

offsets! { SaveArea:
    es at 0x000,
    cs at 0x010,
    ss at 0x020,
    ds at 0x030,
    fs at 0x040,
    gs at 0x050,
    gdtr at 0x060,
    ldtr at 0x070,
    idtr at 0x080,
    tr at 0x090,
    cpl at 0x0cb,
    efer at 0x0d0,
    cr4 at 0x148,
    cr3 at 0x150,
    cr0 at 0x158,
    dr7 at 0x160,
    dr6 at 0x168,
    rflags at 0x170,
    rip at 0x178,
    rsp at 0x1d8,
    s_cet at 0x1e0,
    ssp at 0x1e8,
    isst_addr at 0x1f0,
    rax at 0x1f8,
    star at 0x200,
    lstar at 0x208,
    cstar at 0x210,
    sfmask at 0x218,
    kernel_gs_base at 0x220,
    sysenter_cs at 0x228,
    sysenter_esp at 0x230,
    sysenter_eip at 0x238,
    cr2 at 0x240,
    g_pat at 0x268,
    dbgctl at 0x270,
    br_from at 0x278,
    br_to at 0x280,
    last_excp_from at 0x288,
    last_excp_to at 0x290,
    spec_ctrl at 0x2e0,
}

offsets! { Vmcb:
    control at 0x000,
    save at 0x400,
}

const _: () = assert!(size_of::<ControlArea>() == 0x400);
const _: () = assert!(size_of::<VmcbSegment>() == 16);
const _: () = assert!(size_of::<SaveArea>() == 0xc00);
const _: () = assert!(size_of::<Vmcb>() == VMCB_SIZE);

#[cfg(test)]
mod tests;
