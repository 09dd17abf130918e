// SPDX-License-Identifier: GPL-2.0-only

//! What a VMX vCPU keeps on the CPU while its thread runs there: the VMCS, and the registers that neither
//! the VMCS nor the world switch exchanges: the system-call MSRs and the inactive GS base.

use super::{
    insn,
    setup::Vmx,
    vmcs::{
        CurrentVmcs,
        Vmcs, //
    }, //
};
use crate::{
    bindings as b,
    host::{
        cpu::{
            self,
            IrqOff, //
        },
        exchange::ExchangedMsrs,
        page::HostPage,
        sched::Switch, //
    },
    model::{
        vmx::field,
        x86::msr, //
    }, //
};

/// The MSRs that SYSCALL and SWAPGS use, which the host needs only for userspace.
const SYSCALL_MSRS: [u32; 5] = [
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
    msr::IA32_TSC_AUX,
];

/// The state of a vCPU on its CPU.
pub(crate) struct VmxState {
    vmcs: Vmcs,
    /// The VMCS has been cleared since the last entry: VMLAUNCH is due.
    pub(crate) cleared: bool,
    loaded: bool,
    /// The CPU that the host-state fields and the TLB are right for, or -1.
    cpu: i32,
    host: b::vireo_host_state,
    host_fs_base: u64,
    host_cr3: u64,
    host_cr4: u64,
    pub(crate) msrs: ExchangedMsrs<{ SYSCALL_MSRS.len() }>,
    kernel_gs_base: u64,
}

// SAFETY: The raw VMCS page and saved registers have no affinity to a thread.
unsafe impl Send for VmxState {}

impl VmxState {
    /// Makes the state of a new vCPU around a fresh page for its VMCS.
    pub(crate) fn new(vmx: &Vmx, page: HostPage, irq: &IrqOff) -> kernel::error::Result<Self> {
        Ok(Self {
            vmcs: Vmcs::new(vmx.revision, irq, page)?,
            cleared: true,
            loaded: false,
            cpu: -1,
            host: b::vireo_host_state::default(),
            host_fs_base: 0,
            host_cr3: 0,
            host_cr4: 0,
            msrs: ExchangedMsrs::new(
                SYSCALL_MSRS,
                // The last is TSC_AUX.
                SYSCALL_MSRS.len() - usize::from(!vmx.controls.features.rdtscp),
                [0; SYSCALL_MSRS.len()],
            ),
            kernel_gs_base: 0,
        })
    }

    /// Makes the VMCS current.
    #[inline(always)]
    pub(crate) fn vmcs<'a>(&'a mut self, irq: &'a IrqOff) -> CurrentVmcs<'a> {
        if !self.loaded {
            self.cleared = true;
        }
        self.vmcs.current(irq)
    }

    /// Brings the host-state fields up to date. Returns whether the CPU is another than at the last
    /// entry, whose TLB may hold old translations of this vCPU.
    #[inline(always)]
    pub(crate) fn sync_host(&mut self, irq: &IrqOff) -> bool {
        let (cr3, cr4) = (cpu::read_cr3(), cpu::read_cr4());
        if self.cpu >= 0 && cr3 == self.host_cr3 && cr4 == self.host_cr4 {
            return false;
        }
        self.sync_host_slow(irq, cr3, cr4)
    }

    #[cold]
    fn sync_host_slow(&mut self, irq: &IrqOff, cr3: u64, cr4: u64) -> bool {
        let moved = self.cpu < 0;
        (self.host_cr3, self.host_cr4) = (cr3, cr4);
        let fs_base = self.host.fs_base;
        let mut vmcs = self.vmcs.current(irq);
        vmcs.write(field::HOST_CR3, cr3);
        vmcs.write(field::HOST_CR4, cr4);
        if moved {
            let mut host = b::vireo_cpu_state::default();
            // SAFETY: Interrupts are off, so this is the CPU that will enter.
            unsafe { b::vireo_cpu_state(&mut host) };
            vmcs.write(field::HOST_GS_BASE, host.gs_base);
            vmcs.write(field::HOST_TR_BASE, host.tr_base);
            vmcs.write(field::HOST_GDTR_BASE, host.gdt_base);
            vmcs.write(field::HOST_IDTR_BASE, host.idt_base);
            vmcs.write(field::HOST_SYSENTER_ESP, host.sysenter_esp);
            vmcs.write(field::HOST_FS_BASE, fs_base);
            drop(vmcs);
            self.host_fs_base = fs_base;
            self.cpu = cpu::this_cpu(irq);
        }
        moved
    }

    /// Returns the guest's IA32_KERNEL_GS_BASE.
    pub(crate) fn kernel_gs_base(&self, _irq: &IrqOff) -> u64 {
        if self.loaded {
            // SAFETY: The MSR exists on every 64-bit CPU.
            unsafe { cpu::rdmsr(msr::IA32_KERNEL_GS_BASE) }
        } else {
            self.kernel_gs_base
        }
    }

    /// Sets the guest's IA32_KERNEL_GS_BASE, which must be canonical.
    pub(crate) fn set_kernel_gs_base(&mut self, value: u64, _irq: &IrqOff) {
        self.kernel_gs_base = value;
        if self.loaded {
            // SAFETY: Canonical, says the caller; `put` restores the host's.
            unsafe { cpu::wrmsr(msr::IA32_KERNEL_GS_BASE, value) };
        }
    }

    /// Invalidates the TLB's translations of guest memory through `eptp`.
    pub(crate) fn flush_ept(&self, _irq: &IrqOff, eptp: u64) {
        // SAFETY: Single-context INVEPT is required of the processor.
        unsafe { insn::invept_single(eptp) };
    }
}

impl Switch for VmxState {
    fn load(&mut self, irq: &IrqOff) {
        // SAFETY: Interrupts are off; the current thread is the vCPU's.
        unsafe { b::vireo_host_save(&mut self.host) };
        // SAFETY: Interrupts are off; the pointer is only compared with others.
        unsafe {
            b::vireo_switch_guest(core::ptr::from_ref(self).cast());
            b::vireo_l1d_used();
        }
        self.msrs.load(irq);
        // SAFETY: The kernel runs on its own GS base, this is the inactive one.
        unsafe { cpu::wrmsr(msr::IA32_KERNEL_GS_BASE, self.kernel_gs_base) };
        self.vmcs.load(irq);
        self.loaded = true;
        if self.cpu != cpu::this_cpu(irq) {
            self.cpu = -1;
        } else if self.host.fs_base != self.host_fs_base {
            self.host_fs_base = self.host.fs_base;
            let fs_base = self.host_fs_base;
            self.vmcs.current(irq).write(field::HOST_FS_BASE, fs_base);
        }
    }

    fn put(&mut self, irq: &IrqOff) {
        self.vmcs.put(irq);
        self.cleared = true;
        self.loaded = false;
        // SAFETY: The MSR exists on every 64-bit CPU.
        self.kernel_gs_base = unsafe { cpu::rdmsr(msr::IA32_KERNEL_GS_BASE) };
        self.msrs.put(irq);
        // SAFETY: Interrupts are off, on the CPU where `load` saved the state of this thread.
        unsafe { b::vireo_host_restore(&self.host) };
    }
}
