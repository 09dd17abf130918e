// SPDX-License-Identifier: GPL-2.0-only

//! A vCPU on VMX: entry and exit, and the guest state that the VMCS holds.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    setup::Vmx,
    state::VmxState,
    vmcs::CurrentVmcs, //
};
use crate::{
    backend::{
        Entry,
        Left,
        Loaded, //
    },
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        page::{
            ApicPage,
            HostPage, //
        }, //
    },
    model::{
        addr::Hpa,
        clock::scale::Format,
        exit::{
            EntryFailure,
            Event,
            EventKind,
            Exit, //
        },
        pt::ept,
        vmx::{
            ctls::{
                self,
                pin,
                primary,
                ApicMode, //
            },
            event::{
                Injection,
                InterruptionInfo, //
            },
            exit::{
                self,
                ExitInfo, //
            },
            field, //
        },
        x86::{
            ar,
            msr,
            rflags,
            vector, //
        }, //
    },
    vcpu::table::VcpuShared, //
};

mod operations;
mod segments;

/// Guest interruptibility state (SDM vol. 3, table 25-3).
const BLOCKING_BY_STI: u32 = 1 << 0;
const BLOCKING_BY_MOV_SS: u32 = 1 << 1;
const BLOCKING_BY_NMI: u32 = 1 << 3;

/// The offset of the task priority in the virtual-APIC page.
const VAPIC_TPR: u16 = 0x80;

/// PAUSE-loop exiting, in TSC ticks: two PAUSEs at most this far apart belong to one loop,
const PLE_GAP: u32 = 128;
/// and a loop of this length exits.
const PLE_WINDOW: u32 = 4096;

/// Exceptions that always exit: #DB and #AC because a guest could keep the processor delivering them for
/// ever, #MC because it is the host's.
const EXCEPTION_BITMAP: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

/// A vCPU on VMX.
pub(crate) struct VmxVcpu {
    vmx: &'static Vmx,
    state: Pin<KBox<Loaded<VmxState>>>,
    vapic: ApicPage,
    has_apic: bool,
    /// The preemption timer is on.
    timer_on: bool,
    /// The current values of controls that change; the preemption timer is not among them.
    pin: u32,
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
    /// The EOI-exit bitmap.
    eoi_exits: [u64; 4],
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

impl VmxVcpu {
    /// Makes a vCPU whose VMCS has its controls and host state set and no guest state yet.
    ///
    /// `root` is the root of the VM's EPT tables, `index` a number that no other vCPU of the VM has, `apic`
    /// the page that is mapped at the local APIC's address, if the APIC is in the kernel; `shared` is told where
    /// the vCPU's thread is.
    pub(crate) fn new(
        vmx: &'static Vmx,
        root: Hpa,
        index: usize,
        apic: Option<Hpa>,
        shared: Arc<VcpuShared>,
    ) -> Result<Self> {
        let has_apic = apic.is_some();
        let eptp = ept::eptp(root, vmx.ept());
        // Not 0. Mappings in the TLB are tagged with the EPT root too, so another VM's or KVM's use of the
        // same VPID does not matter (SDM vol. 3, section 29.4.1).
        let vpid = (index as u16).saturating_add(1);
        let page = HostPage::new()?;
        let vapic = ApicPage::new()?;
        let state = {
            let irq = IrqOff::new();
            VmxState::new(vmx, page, &irq)?
        };
        let descriptor = if has_apic && vmx.controls.features.posted_interrupts {
            Some(shared.posted.create()?)
        } else {
            None
        };
        let state = KBox::pin_init(Loaded::new(state, shared), GFP_KERNEL)?;
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
            timer_on: false,
            pin: vmx.controls.pin_for(ApicMode::Disabled),
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
            eoi_exits: [0; 4],
        };
        this.init_vmcs();
        if let Some(descriptor) = descriptor {
            // It lives as long as `shared`, which `state` keeps.
            this.with(|vmcs| {
                vmcs.write(
                    field::POSTED_INTERRUPT_VECTOR,
                    b::VIREO_POSTED_VECTOR as u16,
                );
                vmcs.write(field::POSTED_INTERRUPT_DESCRIPTOR, descriptor.raw());
            });
        }
        if let (Some(page), true) = (apic, this.virtualizes_apic()) {
            this.with(|vmcs| vmcs.write(field::APIC_ACCESS_ADDRESS, page.raw()));
        }
        Ok(this)
    }

    /// Gives access to the VMCS with interrupts off.
    #[inline(always)]
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
        let (pin, primary, eptp, vpid) = (self.pin, self.primary, self.eptp, self.vpid);
        let (cr0_mask, cr4_mask) = (self.cr0_mask, self.cr4_mask);
        let vapic = self.vapic.hpa();
        self.with(|vmcs| {
            vmcs.write(field::PIN_BASED_CONTROLS, pin);
            vmcs.write(field::PRIMARY_CONTROLS, primary);
            vmcs.write(field::SECONDARY_CONTROLS, controls.secondary);
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
            if features.virtual_interrupts {
                vmcs.write(field::GUEST_INTERRUPT_STATUS, 0);
                for field in operations::EOI_EXIT_BITMAP {
                    vmcs.write(field, 0);
                }
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
                vmcs.write(field::TSC_MULTIPLIER, Format::VMX.one().multiplier());
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
            let sysenter_eip = cpu::rdmsr_safe(msr::IA32_SYSENTER_EIP).unwrap_or(0);
            vmcs.write(field::HOST_SYSENTER_EIP, sysenter_eip);
            let sysenter_cs = cpu::rdmsr_safe(msr::IA32_SYSENTER_CS).unwrap_or(0);
            vmcs.write(field::HOST_SYSENTER_CS, sysenter_cs as u32);
            vmcs.write(field::HOST_PAT, cpu::rdmsr_safe(msr::IA32_PAT).unwrap_or(0));
            vmcs.write(
                field::HOST_EFER,
                cpu::rdmsr_safe(msr::IA32_EFER).unwrap_or(0),
            );

            vmcs.write(field::GUEST_ACTIVITY, 0);
            vmcs.write(field::GUEST_INTERRUPTIBILITY, 0);
            vmcs.write(field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
            vmcs.write(field::GUEST_DEBUGCTL, 0);
            vmcs.write(field::GUEST_DR7, 0x400);
            vmcs.write(field::ENTRY_INTERRUPTION_INFO, 0);
            vmcs.write(field::TSC_OFFSET, 0);
        });
    }

    /// Runs the guest until its next exit.
    #[inline]
    fn run(&mut self, irq: &IrqOff, regs: &mut b::vireo_regs, entry: &Entry<'_>) -> Left {
        let generation = entry.tlb_generation;
        let stale = generation != self.tlb_generation;
        self.tlb_generation = generation;
        let flush_guest = core::mem::take(&mut self.flush_guest_tlb) | entry.flush_guest;
        let (eptp, vpid, has_vpid) = (self.eptp, self.vpid, self.vmx.controls.features.vpid);
        let vmx = self.vmx;
        let timer_on = entry.deadline.is_some();
        let timer_was_on = core::mem::replace(&mut self.timer_on, timer_on);
        if self.has_apic {
            self.sync_tpr_in(irq, entry.tpr, entry.tpr_threshold);
        }

        let (exit, vectored) = self.state.as_mut().with(irq, |state, irq| {
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
            if timer_on || timer_was_on {
                set_deadline(&mut vmcs, vmx, self.pin, entry.deadline, timer_was_on);
            }
            if let Some(event) = entry.inject {
                inject(&mut vmcs, event);
            }
            cpu::wait_for_tsc(entry.not_before);
            let mut raw = 0;
            // SAFETY: Interrupts are off, our VMCS is current, its host state fits this CPU, and `regs`
            // are the registers of its guest.
            let failed = unsafe { b::vireo_enter_vmx(regs, &mut raw) };
            if failed != 0 {
                let failure = EntryFailure {
                    reason: vmcs.instruction_error(),
                    qualification: 0,
                };
                return (Exit::EntryFailure(failure), None);
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
            (exit, vectored)
        });
        Left {
            exit,
            vectored,
            tpr: self.take_tpr(),
            incomplete: false,
        }
    }

    /// Whether the processor virtualises accesses of the xAPIC's page.
    #[inline(always)]
    fn virtualizes_apic(&self) -> bool {
        self.has_apic && self.vmx.controls.features.apic_registers
    }

    /// Moves the task priority into the virtual-APIC page, which CR8 accesses of the guest use.
    #[inline]
    fn sync_tpr_in(&mut self, irq: &IrqOff, tpr: u8, threshold: u8) {
        if tpr != self.tpr {
            self.tpr = tpr;
            self.vapic.write(VAPIC_TPR, tpr.into());
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
    fn take_tpr(&mut self) -> Option<u8> {
        if !self.has_apic {
            return None;
        }
        let tpr = self.vapic.read(VAPIC_TPR) as u8;
        (tpr != core::mem::replace(&mut self.tpr, tpr)).then_some(tpr)
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

/// Has the guest's run end when the TSC reaches `deadline` (section 26.5.1). `base` are the pin-based controls
/// without the timer.
#[inline]
fn set_deadline(
    vmcs: &mut CurrentVmcs<'_>,
    vmx: &Vmx,
    base: u32,
    deadline: Option<u64>,
    was_on: bool,
) {
    let (Some(deadline), Some(shift)) = (deadline, vmx.controls.features.preemption_timer) else {
        vmcs.write(field::PIN_BASED_CONTROLS, base);
        return;
    };
    if !was_on {
        vmcs.write(field::PIN_BASED_CONTROLS, base | pin::PREEMPTION_TIMER);
    }
    let ticks = deadline.saturating_sub(cpu::rdtsc()) >> (shift & 31);
    // One more than the rounded-down count: rather a little late than an exit for nothing.
    let count = u32::try_from(ticks.saturating_add(1)).unwrap_or(u32::MAX);
    vmcs.write(field::PREEMPTION_TIMER_VALUE, count);
}

/// Arranges for `event` to be delivered at the entry.
#[inline]
fn inject(vmcs: &mut CurrentVmcs<'_>, event: &Event) {
    if event.kind == EventKind::Nmi {
        // Entry refuses an NMI while one is being handled (section 27.3.1.5).
        let state = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        vmcs.write(field::GUEST_INTERRUPTIBILITY, state & !BLOCKING_BY_NMI);
    }
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
