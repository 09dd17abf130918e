// SPDX-License-Identifier: GPL-2.0-only

//! A vCPU on VMX: entry and exit, and the guest state that the VMCS holds.

use kernel::prelude::*;

use super::{
    setup::Vmx,
    state::{
        VmxState,
        SYSCALL_MSRS, //
    },
    vmcs::CurrentVmcs, //
};
use crate::{
    backend::{
        Blocking,
        EmulationContext,
        Entry,
        Hidden,
        Left,
        TableReg, //
    },
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        page::HostPage,
        sched::Loaded, //
    },
    model::{
        addr::Hpa,
        exit::{
            EntryFailure,
            Event,
            Exit, //
        },
        pt::ept::{
            self,
            Ept, //
        },
        vmx::{
            cr,
            ctls::{
                self,
                pin,
                primary,
                secondary, //
            },
            event::{
                Injection,
                InterruptionInfo, //
            },
            exit::{
                self,
                ExitInfo, //
            },
            field::{
                self,
                Field,
                Natural, //
            }, //
        },
        x86::{
            ar,
            cr4,
            efer,
            msr,
            rflags,
            vector,
            SegReg,
            Segment, //
        }, //
    }, //
};

/// Guest interruptibility state (SDM vol. 3, table 25-3).
const BLOCKING_BY_STI: u32 = 1 << 0;
const BLOCKING_BY_MOV_SS: u32 = 1 << 1;
const BLOCKING_BY_NMI: u32 = 1 << 3;

/// The offset of the task priority in the virtual-APIC page.
const VAPIC_TPR: usize = 0x80;

/// PAUSE-loop exiting, in TSC ticks: two PAUSEs at most this far apart belong to one loop,
const PLE_GAP: u32 = 128;
/// and a loop of this length exits.
const PLE_WINDOW: u32 = 4096;

/// TSC_MULTIPLIER is a fixed-point number with 48 fractional bits (section 25.6.5).
const TSC_MULTIPLIER_ONE: u64 = 1 << 48;

/// Exceptions that always exit: #DB and #AC because a guest could keep the processor delivering them for
/// ever, #MC because it is the host's.
const EXCEPTION_BITMAP: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

/// A vCPU on VMX.
pub(crate) struct VmxVcpu {
    vmx: &'static Vmx,
    state: Pin<KBox<Loaded<VmxState>>>,
    vapic: HostPage,
    has_apic: bool,
    /// The current values of controls that change.
    primary: u32,
    entry_controls: u32,
    eptp: u64,
    vpid: u16,
    /// The memory generation whose translations may be in the TLB.
    tlb_generation: u64,
    flush_guest_tlb: bool,
    cr0_mask: u64,
    cr4_mask: u64,
    efer: u64,
    tpr: u8,
    tpr_threshold: u8,
}

/// The exit-information fields of the current VMCS.
struct Info<'a, 'b>(&'a CurrentVmcs<'b>);

impl ExitInfo for Info<'_, '_> {
    fn qualification(&self) -> u64 {
        self.0.read(field::EXIT_QUALIFICATION)
    }
    fn guest_physical_address(&self) -> u64 {
        self.0.read(field::GUEST_PHYSICAL_ADDRESS)
    }
    fn interruption_info(&self) -> u32 {
        self.0.read(field::EXIT_INTERRUPTION_INFO)
    }
    fn interruption_error_code(&self) -> u32 {
        self.0.read(field::EXIT_INTERRUPTION_ERROR_CODE)
    }
    fn idt_vectoring_info(&self) -> u32 {
        self.0.read(field::IDT_VECTORING_INFO)
    }
    fn idt_vectoring_error_code(&self) -> u32 {
        self.0.read(field::IDT_VECTORING_ERROR_CODE)
    }
    fn instruction_length(&self) -> u32 {
        self.0.read(field::EXIT_INSTRUCTION_LENGTH)
    }
    fn instruction_info(&self) -> u32 {
        self.0.read(field::EXIT_INSTRUCTION_INFO)
    }
}

/// The four fields of a segment register.
type SegmentFields = (Field<u16>, Field<Natural>, Field<u32>, Field<u32>);

fn segment_fields(reg: Hidden) -> SegmentFields {
    macro_rules! fields {
        ($selector:ident, $base:ident, $limit:ident, $rights:ident) => {
            (field::$selector, field::$base, field::$limit, field::$rights)
        };
    }
    match reg {
        Hidden::Seg(SegReg::Es) => {
            fields!(GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_ACCESS_RIGHTS)
        }
        Hidden::Seg(SegReg::Cs) => {
            fields!(GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_ACCESS_RIGHTS)
        }
        Hidden::Seg(SegReg::Ss) => {
            fields!(GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_ACCESS_RIGHTS)
        }
        Hidden::Seg(SegReg::Ds) => {
            fields!(GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_ACCESS_RIGHTS)
        }
        Hidden::Seg(SegReg::Fs) => {
            fields!(GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_ACCESS_RIGHTS)
        }
        Hidden::Seg(SegReg::Gs) => {
            fields!(GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_ACCESS_RIGHTS)
        }
        Hidden::Ldtr => {
            fields!(GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_ACCESS_RIGHTS)
        }
        Hidden::Tr => {
            fields!(GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_ACCESS_RIGHTS)
        }
    }
}

impl VmxVcpu {
    /// Makes a vCPU whose VMCS has its controls and host state set and no guest state yet.
    ///
    /// `eptp` is the EPT pointer of the VM's memory, `vpid` is 1 or more and unique in the VM: mappings in
    /// the TLB are tagged with the EPT root too, so another VM's or KVM's use of the same VPID does not
    /// matter (SDM vol. 3, section 29.4.1).
    pub(crate) fn new(vmx: &'static Vmx, eptp: u64, vpid: u16, has_apic: bool) -> Result<Self> {
        let page = HostPage::new()?;
        let vapic = HostPage::new()?;
        let state = {
            let irq = IrqOff::new();
            VmxState::new(vmx, page, &irq)?
        };
        let state = KBox::pin_init(Loaded::new(state), GFP_KERNEL)?;
        let mut controls = vmx.controls.primary;
        if !has_apic && vmx.controls.features.tpr_shadow {
            controls &= !primary::TPR_SHADOW;
            controls |= primary::CR8_LOAD_EXITING | primary::CR8_STORE_EXITING;
        }
        let mut this = Self {
            vmx,
            state,
            vapic,
            has_apic: has_apic && vmx.controls.features.tpr_shadow,
            primary: controls,
            entry_controls: vmx.controls.entry,
            eptp,
            vpid,
            tlb_generation: 0,
            flush_guest_tlb: true,
            cr0_mask: vmx.fixed.cr0_guest_host_mask(),
            cr4_mask: vmx.fixed.cr4_guest_host_mask(0),
            efer: 0,
            tpr: 0,
            tpr_threshold: 0,
        };
        this.init_vmcs();
        Ok(this)
    }

    /// Gives access to the VMCS with interrupts off.
    #[inline]
    fn with<R>(&mut self, f: impl FnOnce(&mut CurrentVmcs<'_>) -> R) -> R {
        let irq = IrqOff::new();
        self.state
            .as_mut()
            .with(&irq, |state, irq| f(&mut state.vmcs(irq)))
    }

    fn init_vmcs(&mut self) {
        let vmx = self.vmx;
        let controls = &vmx.controls;
        let features = &controls.features;
        let (primary, eptp, vpid) = (self.primary, self.eptp, self.vpid);
        let (cr0_mask, cr4_mask) = (self.cr0_mask, self.cr4_mask);
        let vapic = self.vapic.hpa();
        let mut secondary = controls.secondary;
        if primary & primary::TPR_SHADOW == 0 {
            secondary &= !(secondary::APIC_REGISTER_VIRTUALIZATION
                | secondary::VIRTUALIZE_X2APIC
                | secondary::VIRTUAL_INTERRUPT_DELIVERY);
        }
        self.with(|vmcs| {
            vmcs.write(field::PIN_BASED_CONTROLS, controls.pin & !pin::PREEMPTION_TIMER);
            vmcs.write(field::PRIMARY_CONTROLS, primary);
            vmcs.write(field::SECONDARY_CONTROLS, secondary);
            vmcs.write(field::EXIT_CONTROLS, controls.exit);
            vmcs.write(field::ENTRY_CONTROLS, controls.entry);
            vmcs.write(field::EXCEPTION_BITMAP, EXCEPTION_BITMAP);
            vmcs.write(field::PAGE_FAULT_ERROR_CODE_MASK, 0);
            vmcs.write(field::PAGE_FAULT_ERROR_CODE_MATCH, 0);
            vmcs.write(field::CR3_TARGET_COUNT, 0);
            vmcs.write(field::EXIT_MSR_STORE_COUNT, 0);
            vmcs.write(field::EXIT_MSR_LOAD_COUNT, 0);
            vmcs.write(field::ENTRY_MSR_LOAD_COUNT, 0);
            vmcs.write(field::MSR_BITMAPS, vmx.msr_bitmap.hpa().raw());
            vmcs.write(field::IO_BITMAP_A, vmx.io_bitmap_a.hpa().raw());
            vmcs.write(field::IO_BITMAP_B, vmx.io_bitmap_b.hpa().raw());
            vmcs.write(field::EPT_POINTER, eptp);
            vmcs.write(field::VMCS_LINK_POINTER, u64::MAX);
            vmcs.write(field::CR0_GUEST_HOST_MASK, cr0_mask);
            vmcs.write(field::CR4_GUEST_HOST_MASK, cr4_mask);
            if features.vpid {
                vmcs.write(field::VPID, vpid);
            }
            if primary & primary::TPR_SHADOW != 0 {
                vmcs.write(field::VIRTUAL_APIC_ADDRESS, vapic.raw());
                vmcs.write(field::TPR_THRESHOLD, 0);
            }
            if features.pause_loop {
                vmcs.write(field::PLE_GAP, PLE_GAP);
                vmcs.write(field::PLE_WINDOW, PLE_WINDOW);
            }
            if features.xsaves {
                vmcs.write(field::XSS_EXITING_BITMAP, u64::MAX);
            }
            if features.encls_exiting {
                vmcs.write(field::ENCLS_EXITING_BITMAP, u64::MAX);
            }
            if features.tsc_scaling {
                vmcs.write(field::TSC_MULTIPLIER, TSC_MULTIPLIER_ONE);
            }

            // Host state that is the same on every CPU and for every process (section 25.5).
            vmcs.write(field::HOST_CR0, cpu::read_cr0());
            vmcs.write(field::HOST_CS_SELECTOR, b::VIREO_KERNEL_CS as u16);
            vmcs.write(field::HOST_SS_SELECTOR, b::VIREO_KERNEL_DS as u16);
            vmcs.write(field::HOST_DS_SELECTOR, 0);
            vmcs.write(field::HOST_ES_SELECTOR, 0);
            vmcs.write(field::HOST_FS_SELECTOR, 0);
            vmcs.write(field::HOST_GS_SELECTOR, 0);
            vmcs.write(field::HOST_TR_SELECTOR, b::VIREO_KERNEL_TSS as u16);
            vmcs.write(field::HOST_RIP, b::vireo_vmx_exit as *const () as u64);
            for (number, field) in [
                (msr::IA32_SYSENTER_EIP, field::HOST_SYSENTER_EIP),
            ] {
                vmcs.write(field, cpu::rdmsr_safe(number).unwrap_or(0));
            }
            let sysenter_cs = cpu::rdmsr_safe(msr::IA32_SYSENTER_CS).unwrap_or(0);
            vmcs.write(field::HOST_SYSENTER_CS, sysenter_cs as u32);
            vmcs.write(field::HOST_PAT, cpu::rdmsr_safe(msr::IA32_PAT).unwrap_or(0));
            vmcs.write(field::HOST_EFER, cpu::rdmsr_safe(msr::IA32_EFER).unwrap_or(0));

            vmcs.write(field::GUEST_ACTIVITY, 0);
            vmcs.write(field::GUEST_INTERRUPTIBILITY, 0);
            vmcs.write(field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
            vmcs.write(field::GUEST_DEBUGCTL, 0);
            vmcs.write(field::GUEST_DR7, 0x400);
            vmcs.write(field::ENTRY_INTERRUPTION_INFO, 0);
            vmcs.write(field::TSC_OFFSET, 0);
        });
    }

    /// Puts the vCPU on the current CPU and ties it to the current thread.
    pub(crate) fn load(&mut self) {
        self.state.as_mut().load();
    }

    /// Takes it off again.
    pub(crate) fn put(&mut self) {
        self.state.as_mut().put();
    }

    /// Runs the guest until its next exit.
    #[inline]
    pub(crate) fn enter(
        &mut self,
        irq: &IrqOff,
        regs: &mut b::vireo_regs,
        entry: &Entry<'_>,
    ) -> Left {
        let generation = entry.tlb_generation;
        let stale = generation != self.tlb_generation;
        self.tlb_generation = generation;
        let flush_guest = core::mem::take(&mut self.flush_guest_tlb);
        let (eptp, vpid, has_vpid) = (self.eptp, self.vpid, self.vmx.controls.features.vpid);
        if self.has_apic {
            self.sync_tpr_in(irq, entry.tpr, entry.tpr_threshold);
        }

        self.state.as_mut().with(irq, |state, irq| {
            let moved = state.sync_host(irq);
            if moved || stale || flush_guest {
                if moved || stale || !has_vpid {
                    state.flush_ept(irq, eptp);
                }
                if flush_guest && has_vpid {
                    // SAFETY: VPIDs are used only where single-context INVVPID exists; ours is not 0.
                    unsafe { super::insn::invvpid_single(vpid) };
                }
            }
            if state.cleared {
                state.cleared = false;
                regs.launched = 0;
            }
            let mut vmcs = state.vmcs(irq);
            if let Some(event) = entry.inject {
                inject(&mut vmcs, event);
            }
            let mut raw = 0;
            // SAFETY: Interrupts are off, our VMCS is current, its host state fits this CPU, and `regs`
            // are the registers of its guest.
            let failed = unsafe { b::vireo_enter_vmx(regs, &mut raw) };
            if failed != 0 {
                return Left {
                    exit: Exit::EntryFailure(EntryFailure {
                        reason: vmcs.instruction_error(),
                        qualification: 0,
                    }),
                    vectored: None,
                };
            }
            let info = Info(&vmcs);
            let exit = exit::decode(raw, &info);
            // A failed entry leaves the field as it was.
            let vectored = match exit {
                Exit::EntryFailure(_) => None,
                _ => exit::vectored_event(&info),
            };
            if matches!(exit, Exit::NestedFault(_) | Exit::Exception(_)) {
                restore_nmi_blocking(&mut vmcs, &exit, vectored.is_some());
            }
            Left { exit, vectored }
        })
    }

    /// Moves the task priority into the virtual-APIC page, which CR8 accesses of the guest use.
    #[inline]
    fn sync_tpr_in(&mut self, irq: &IrqOff, tpr: u8, threshold: u8) {
        if tpr != self.tpr {
            self.tpr = tpr;
            // SAFETY: The page is ours and the vCPU is not in the guest.
            unsafe { self.vapic.as_ptr().add(VAPIC_TPR).write_volatile(tpr) };
        }
        if threshold != self.tpr_threshold {
            self.tpr_threshold = threshold;
            self.state.as_mut().with(irq, |state, irq| {
                state
                    .vmcs(irq)
                    .write(field::TPR_THRESHOLD, threshold.into());
            });
        }
    }

    /// Returns the guest's task priority when its CR8 writes have changed it.
    #[inline]
    pub(crate) fn take_tpr(&mut self) -> Option<u8> {
        if !self.has_apic {
            return None;
        }
        // SAFETY: The page is ours.
        let tpr = unsafe { self.vapic.as_ptr().add(VAPIC_TPR).read_volatile() };
        (tpr != core::mem::replace(&mut self.tpr, tpr)).then_some(tpr)
    }

    /// Returns what keeps events from the guest.
    pub(crate) fn blocking(&mut self, irq: &IrqOff) -> Blocking {
        self.state.as_mut().with(irq, |state, irq| {
            let vmcs = state.vmcs(irq);
            let state = vmcs.read(field::GUEST_INTERRUPTIBILITY);
            Blocking {
                interrupts_enabled: vmcs.read(field::GUEST_RFLAGS) & rflags::IF != 0,
                sti: state & BLOCKING_BY_STI != 0,
                mov_ss: state & BLOCKING_BY_MOV_SS != 0,
                nmi: state & BLOCKING_BY_NMI != 0,
            }
        })
    }

    /// Whether an NMI is being handled.
    pub(crate) fn nmi_blocked(&mut self) -> bool {
        self.with(|vmcs| vmcs.read(field::GUEST_INTERRUPTIBILITY) & BLOCKING_BY_NMI != 0)
    }

    /// Says that no NMI is being handled, or that one is.
    pub(crate) fn set_nmi_blocked(&mut self, blocked: bool) {
        self.with(|vmcs| {
            let state = vmcs.read(field::GUEST_INTERRUPTIBILITY) & !BLOCKING_BY_NMI;
            let bit = if blocked { BLOCKING_BY_NMI } else { 0 };
            vmcs.write(field::GUEST_INTERRUPTIBILITY, state | bit);
        });
    }

    /// Sets RFLAGS.RF, which an exception that is a fault pushes set.
    pub(crate) fn set_resume_flag(&mut self) {
        self.with(|vmcs| {
            let flags = vmcs.read(field::GUEST_RFLAGS);
            vmcs.write(field::GUEST_RFLAGS, flags | rflags::RF);
        });
    }

    /// Sets what keeps events from the guest, but for RFLAGS.IF.
    pub(crate) fn set_blocking(&mut self, blocking: Blocking) {
        let mut state = 0;
        if blocking.sti {
            state |= BLOCKING_BY_STI;
        }
        if blocking.mov_ss {
            state |= BLOCKING_BY_MOV_SS;
        }
        if blocking.nmi {
            state |= BLOCKING_BY_NMI;
        }
        self.with(|vmcs| vmcs.write(field::GUEST_INTERRUPTIBILITY, state));
    }

    /// Asks for exits as soon as the guest can take an interrupt or an NMI.
    #[inline]
    pub(crate) fn request_windows(&mut self, irq: &IrqOff, interrupt: bool, nmi: bool) {
        let mut wanted =
            self.primary & !(primary::INTERRUPT_WINDOW_EXITING | primary::NMI_WINDOW_EXITING);
        if interrupt {
            wanted |= primary::INTERRUPT_WINDOW_EXITING;
        }
        if nmi {
            wanted |= primary::NMI_WINDOW_EXITING;
        }
        if wanted != self.primary {
            self.primary = wanted;
            self.state.as_mut().with(irq, |state, irq| {
                state.vmcs(irq).write(field::PRIMARY_CONTROLS, wanted);
            });
        }
    }

    /// Moves RIP behind the instruction that exited, as if it had been executed. Returns whether the guest
    /// is being single-stepped.
    #[inline]
    pub(crate) fn skip_instruction(&mut self) -> bool {
        self.with(|vmcs| {
            let length = u64::from(vmcs.read(field::EXIT_INSTRUCTION_LENGTH));
            let rip = vmcs.read(field::GUEST_RIP);
            let mut next = rip.wrapping_add(length);
            if next >> 32 != rip >> 32 && !in_64bit_code(vmcs) {
                // Without 64-bit code the instruction pointer wraps at 4 GiB.
                next = u64::from(next as u32);
            }
            vmcs.write(field::GUEST_RIP, next);
            after_instruction(vmcs)
        })
    }

    /// Returns RIP.
    pub(crate) fn rip(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_RIP))
    }

    /// Returns RSP.
    pub(crate) fn rsp(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_RSP))
    }

    /// Sets RSP.
    pub(crate) fn set_rsp(&mut self, value: u64) {
        self.with(|vmcs| vmcs.write(field::GUEST_RSP, value));
    }

    /// Returns what the instruction emulator begins with.
    pub(crate) fn emulation_context(&mut self) -> EmulationContext {
        const ALL: [SegReg; SegReg::COUNT] = [
            SegReg::Es,
            SegReg::Cs,
            SegReg::Ss,
            SegReg::Ds,
            SegReg::Fs,
            SegReg::Gs,
        ];
        let (cr0_mask, cr4_mask) = (self.cr0_mask, self.cr4_mask);
        self.with(|vmcs| {
            let cr0 = vmcs.read(field::CR0_READ_SHADOW);
            let cr4 = vmcs.read(field::CR4_READ_SHADOW);
            let long = in_64bit_code(vmcs);
            EmulationContext {
                rip: vmcs.read(field::GUEST_RIP),
                rsp: vmcs.read(field::GUEST_RSP),
                rflags: vmcs.read(field::GUEST_RFLAGS),
                segments: ALL.map(|reg| {
                    let (selector, base, limit, rights) = segment_fields(Hidden::Seg(reg));
                    let selector = vmcs.read(selector);
                    // 64-bit code has the bases of FS and GS, the mode in CS and the privilege level in SS;
                    // the rest of the segments does not matter.
                    match reg {
                        SegReg::Es | SegReg::Ds if long => Segment {
                            selector,
                            ..Segment::default()
                        },
                        SegReg::Fs | SegReg::Gs if long => Segment {
                            selector,
                            base: vmcs.read(base),
                            ..Segment::default()
                        },
                        SegReg::Cs | SegReg::Ss if long => Segment {
                            selector,
                            ar: vmcs.read(rights),
                            ..Segment::default()
                        },
                        _ => Segment {
                            selector,
                            base: vmcs.read(base),
                            limit: vmcs.read(limit),
                            ar: vmcs.read(rights),
                        },
                    }
                }),
                cr0: cr::guest_view(vmcs.read(field::GUEST_CR0), cr0, cr0_mask),
                cr3: vmcs.read(field::GUEST_CR3),
                cr4: cr::guest_view(vmcs.read(field::GUEST_CR4), cr4, cr4_mask),
                linear: Some(vmcs.read(field::GUEST_LINEAR_ADDRESS)),
            }
        })
    }

    /// Returns RFLAGS.
    pub(crate) fn rflags(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_RFLAGS))
    }

    /// Sets RIP, RSP and RFLAGS; the fixed bit of RFLAGS is added.
    pub(crate) fn set_rip_rsp_rflags(&mut self, rip: u64, rsp: u64, flags: u64) {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_RIP, rip);
            vmcs.write(field::GUEST_RSP, rsp);
            vmcs.write(field::GUEST_RFLAGS, flags | rflags::FIXED);
        });
    }

    /// Ends an emulated instruction: sets RIP, RSP and RFLAGS. Returns whether the guest is being
    /// single-stepped.
    pub(crate) fn retire(&mut self, rip: u64, rsp: u64, flags: u64) -> bool {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_RIP, rip);
            vmcs.write(field::GUEST_RSP, rsp);
            let stepping = after_instruction(vmcs);
            vmcs.write(field::GUEST_RFLAGS, flags | rflags::FIXED);
            stepping
        })
    }

    /// Returns a segment register.
    pub(crate) fn segment(&mut self, reg: Hidden) -> Segment {
        let (selector, base, limit, rights) = segment_fields(reg);
        self.with(|vmcs| Segment {
            selector: vmcs.read(selector),
            base: vmcs.read(base),
            limit: vmcs.read(limit),
            ar: vmcs.read(rights),
        })
    }

    /// Sets a segment register.
    pub(crate) fn set_segment(&mut self, reg: Hidden, segment: &Segment) {
        let (selector, base, limit, rights) = segment_fields(reg);
        self.with(|vmcs| {
            vmcs.write(selector, segment.selector);
            vmcs.write(base, segment.base);
            vmcs.write(limit, segment.limit);
            vmcs.write(rights, segment.ar);
        });
    }

    /// Returns the base and limit of a descriptor table.
    pub(crate) fn table(&mut self, reg: TableReg) -> (u64, u16) {
        self.with(|vmcs| match reg {
            TableReg::Gdtr => (
                vmcs.read(field::GUEST_GDTR_BASE),
                vmcs.read(field::GUEST_GDTR_LIMIT) as u16,
            ),
            TableReg::Idtr => (
                vmcs.read(field::GUEST_IDTR_BASE),
                vmcs.read(field::GUEST_IDTR_LIMIT) as u16,
            ),
        })
    }

    /// Sets the base and limit of a descriptor table.
    pub(crate) fn set_table(&mut self, reg: TableReg, base: u64, limit: u16) {
        self.with(|vmcs| match reg {
            TableReg::Gdtr => {
                vmcs.write(field::GUEST_GDTR_BASE, base);
                vmcs.write(field::GUEST_GDTR_LIMIT, limit.into());
            }
            TableReg::Idtr => {
                vmcs.write(field::GUEST_IDTR_BASE, base);
                vmcs.write(field::GUEST_IDTR_LIMIT, limit.into());
            }
        });
    }

    /// Returns the current privilege level.
    pub(crate) fn cpl(&mut self) -> u8 {
        let rights = self.with(|vmcs| vmcs.read(field::GUEST_SS_ACCESS_RIGHTS));
        ((rights & ar::DPL) >> ar::DPL_SHIFT) as u8
    }

    /// Returns CR0 as the guest sees it.
    pub(crate) fn cr0(&mut self) -> u64 {
        let mask = self.cr0_mask;
        self.with(|vmcs| {
            let shadow = vmcs.read(field::CR0_READ_SHADOW);
            cr::guest_view(vmcs.read(field::GUEST_CR0), shadow, mask)
        })
    }

    /// Sets CR0.
    pub(crate) fn set_cr0(&mut self, value: u64) {
        let hw = self.vmx.fixed.hw_cr0(value);
        self.with(|vmcs| {
            vmcs.write(field::GUEST_CR0, hw);
            vmcs.write(field::CR0_READ_SHADOW, value);
        });
        self.flush_guest_tlb = true;
    }

    /// Returns CR3.
    pub(crate) fn cr3(&mut self) -> u64 {
        self.with(|vmcs| vmcs.read(field::GUEST_CR3))
    }

    /// Sets CR3.
    pub(crate) fn set_cr3(&mut self, value: u64) {
        self.with(|vmcs| vmcs.write(field::GUEST_CR3, value));
        self.flush_guest_tlb = true;
    }

    /// Returns CR4 as the guest sees it.
    pub(crate) fn cr4(&mut self) -> u64 {
        let mask = self.cr4_mask;
        self.with(|vmcs| {
            let shadow = vmcs.read(field::CR4_READ_SHADOW);
            cr::guest_view(vmcs.read(field::GUEST_CR4), shadow, mask)
        })
    }

    /// Sets CR4; `offered` are the bits that the guest's CPUID lets it set.
    pub(crate) fn set_cr4(&mut self, value: u64, offered: u64) {
        let hw = self.vmx.fixed.hw_cr4(value, cpu::read_cr4() & cr4::MCE);
        self.cr4_mask = self.vmx.fixed.cr4_guest_host_mask(offered);
        let mask = self.cr4_mask;
        self.with(|vmcs| {
            vmcs.write(field::CR4_GUEST_HOST_MASK, mask);
            vmcs.write(field::GUEST_CR4, hw);
            vmcs.write(field::CR4_READ_SHADOW, value);
        });
        self.flush_guest_tlb = true;
    }

    /// Returns EFER.
    pub(crate) fn efer(&self) -> u64 {
        self.efer
    }

    /// Sets EFER; LMA must agree with CR0.PG and LME.
    pub(crate) fn set_efer(&mut self, value: u64) {
        self.efer = value;
        let mut controls = self.entry_controls & !ctls::entry::IA32E_MODE_GUEST;
        if value & efer::LMA != 0 {
            controls |= ctls::entry::IA32E_MODE_GUEST;
        }
        self.entry_controls = controls;
        self.with(|vmcs| {
            vmcs.write(field::GUEST_EFER, value);
            vmcs.write(field::ENTRY_CONTROLS, controls);
        });
        self.flush_guest_tlb = true;
    }

    /// Sets the page-directory-pointer entries that PAE paging uses.
    pub(crate) fn set_pdptes(&mut self, value: [u64; 4]) {
        self.with(|vmcs| {
            vmcs.write(field::GUEST_PDPTE0, value[0]);
            vmcs.write(field::GUEST_PDPTE1, value[1]);
            vmcs.write(field::GUEST_PDPTE2, value[2]);
            vmcs.write(field::GUEST_PDPTE3, value[3]);
        });
    }

    /// Sets DR7.
    pub(crate) fn set_dr7(&mut self, value: u64) {
        self.with(|vmcs| vmcs.write(field::GUEST_DR7, value));
    }

    /// Returns an MSR that the VMCS or this backend's registers hold, or `None` for another.
    pub(crate) fn msr(&mut self, number: u32) -> Option<u64> {
        if let Some(index) = SYSCALL_MSRS.iter().position(|&n| n == number) {
            let irq = IrqOff::new();
            return Some(self.state.as_mut().with(&irq, |s, _| s.syscall_msr(index)));
        }
        if number == msr::IA32_KERNEL_GS_BASE {
            let irq = IrqOff::new();
            return Some(self.state.as_mut().with(&irq, |s, irq| s.kernel_gs_base(irq)));
        }
        self.with(|vmcs| {
            Some(match number {
                msr::IA32_FS_BASE => vmcs.read(field::GUEST_FS_BASE),
                msr::IA32_GS_BASE => vmcs.read(field::GUEST_GS_BASE),
                msr::IA32_SYSENTER_CS => vmcs.read(field::GUEST_SYSENTER_CS).into(),
                msr::IA32_SYSENTER_ESP => vmcs.read(field::GUEST_SYSENTER_ESP),
                msr::IA32_SYSENTER_EIP => vmcs.read(field::GUEST_SYSENTER_EIP),
                msr::IA32_PAT => vmcs.read(field::GUEST_PAT),
                _ => return None,
            })
        })
    }

    /// Sets such an MSR to a value that is valid for it; `false` for another MSR.
    pub(crate) fn set_msr(&mut self, number: u32, value: u64) -> bool {
        if let Some(index) = SYSCALL_MSRS.iter().position(|&n| n == number) {
            let irq = IrqOff::new();
            self.state
                .as_mut()
                .with(&irq, |s, irq| s.set_syscall_msr(index, value, irq));
            return true;
        }
        if number == msr::IA32_KERNEL_GS_BASE {
            let irq = IrqOff::new();
            self.state
                .as_mut()
                .with(&irq, |s, irq| s.set_kernel_gs_base(value, irq));
            return true;
        }
        self.with(|vmcs| {
            match number {
                msr::IA32_FS_BASE => vmcs.write(field::GUEST_FS_BASE, value),
                msr::IA32_GS_BASE => vmcs.write(field::GUEST_GS_BASE, value),
                msr::IA32_SYSENTER_CS => vmcs.write(field::GUEST_SYSENTER_CS, value as u32),
                msr::IA32_SYSENTER_ESP => vmcs.write(field::GUEST_SYSENTER_ESP, value),
                msr::IA32_SYSENTER_EIP => vmcs.write(field::GUEST_SYSENTER_EIP, value),
                msr::IA32_PAT => vmcs.write(field::GUEST_PAT, value),
                _ => return false,
            }
            true
        })
    }

    /// Sets what is added to the host's TSC for the guest.
    pub(crate) fn set_tsc_offset(&mut self, offset: u64) {
        self.with(|vmcs| vmcs.write(field::TSC_OFFSET, offset));
    }

    /// Forgets the guest's own address translations before the next entry.
    pub(crate) fn flush_guest_tlb(&mut self) {
        self.flush_guest_tlb = true;
    }

    /// Writes the VMCS to the kernel log.
    pub(crate) fn dump(&mut self) {
        self.with(|vmcs| vmcs.dump());
    }
}

/// Whether the guest runs 64-bit code.
fn in_64bit_code(vmcs: &CurrentVmcs<'_>) -> bool {
    vmcs.read(field::ENTRY_CONTROLS) & ctls::entry::IA32E_MODE_GUEST != 0
        && vmcs.read(field::GUEST_CS_ACCESS_RIGHTS) & ar::L != 0
}

/// What the end of an instruction does besides moving RIP: the shadow of STI and MOV SS ends. Returns
/// whether RFLAGS.TF was set, so that a single step traps.
#[inline]
fn after_instruction(vmcs: &mut CurrentVmcs<'_>) -> bool {
    let state = vmcs.read(field::GUEST_INTERRUPTIBILITY);
    if state & (BLOCKING_BY_STI | BLOCKING_BY_MOV_SS) != 0 {
        vmcs.write(
            field::GUEST_INTERRUPTIBILITY,
            state & !(BLOCKING_BY_STI | BLOCKING_BY_MOV_SS),
        );
    }
    vmcs.read(field::GUEST_RFLAGS) & rflags::TF != 0
}

/// Arranges for `event` to be delivered at the entry.
#[inline]
fn inject(vmcs: &mut CurrentVmcs<'_>, event: &Event) {
    let cr0 = vmcs.read(field::GUEST_CR0);
    let injection = Injection::new(event, cr0);
    if let Some(code) = injection.error_code {
        vmcs.write(field::ENTRY_EXCEPTION_ERROR_CODE, code);
    }
    if let Some(length) = injection.instruction_length {
        vmcs.write(field::ENTRY_INSTRUCTION_LENGTH, length);
    }
    vmcs.write(field::ENTRY_INTERRUPTION_INFO, injection.info);
}

/// Blocks NMIs again when the exit hit an IRET that had already unblocked them (section 28.2.3).
fn restore_nmi_blocking(vmcs: &mut CurrentVmcs<'_>, exit: &Exit, vectored: bool) {
    if vectored {
        return;
    }
    let unblocked = match exit {
        Exit::Exception(trapped) => {
            trapped.exception.vector != vector::DF
                && InterruptionInfo::new(vmcs.read(field::EXIT_INTERRUPTION_INFO))
                    .nmi_unblocked_by_iret()
        }
        _ => exit::nmi_unblocked_by_iret(vmcs.read(field::EXIT_QUALIFICATION)),
    };
    if unblocked {
        let state = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        vmcs.write(field::GUEST_INTERRUPTIBILITY, state | BLOCKING_BY_NMI);
    }
}

/// Returns the EPT pointer for the page-table root at `root`.
pub(crate) fn eptp(vmx: &Vmx, root: Hpa) -> u64 {
    let format = Ept {
        accessed_dirty: vmx.controls.features.ept_ad,
    };
    ept::eptp(root, format)
}
