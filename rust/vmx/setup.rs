// SPDX-License-Identifier: GPL-2.0-only

//! What this machine's VMX can do, found once when the module loads.

use kernel::prelude::*;

use crate::{
    bindings as b,
    host::{
        cpu,
        global::{
            Global,
            GlobalOwner, //
        },
        page::HostPage, //
    },
    model::{
        cpuid::Provides,
        msr::{
            self as msr_model,
            Direct, //
        },
        pt::{
            ept::Ept,
            nested::Nested,
            PageSize, //
        },
        vmx::{
            caps::CapabilityMsrs,
            cr::FixedBits,
            ctls::{
                self,
                Controls,
                Options, //
            }, //
        },
        x86::msr, //
    },
    module_parameters, //
};

/// The machine's VMX, and the structures that all VMCSs share.
pub(crate) struct Vmx {
    /// The control fields.
    pub(crate) controls: Controls,
    /// The fixed bits of CR0 and CR4.
    pub(crate) fixed: FixedBits,
    /// The VMCS revision identifier.
    pub(crate) revision: u32,
    /// MSRs that guests reach directly.
    pub(crate) msr_bitmap: HostPage,
    /// Those, and the x2APIC's that the processor virtualises.
    pub(crate) x2apic_msr_bitmap: HostPage,
    /// I/O bitmap A, ports 0 to 0x7fff: all exit.
    pub(crate) io_bitmap_a: HostPage,
    /// I/O bitmap B, ports 0x8000 to 0xffff: all exit.
    pub(crate) io_bitmap_b: HostPage,
}

/// Set when the module has found VMX to be usable.
static VMX: Global<Vmx> = Global::new();

/// The VMCS revision is bits 30:0 of IA32_VMX_BASIC.
const REVISION_MASK: u64 = 0x7fff_ffff;

/// Width of the addresses that EPT tables of four levels translate.
const EPT_BITS: u8 = 48;

impl Vmx {
    /// Finds out whether VMX can be used.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`, with one line in the kernel log that names what is missing.
    pub(crate) fn probe() -> Result<(&'static Self, GlobalOwner<Self>)> {
        // SAFETY: Reads the boot CPU's feature bits.
        if !unsafe { b::vireo_cpu_has_vmx() } {
            pr_err!("cannot load: VMX is disabled by the firmware\n");
            return Err(EOPNOTSUPP);
        }
        let msrs = CapabilityMsrs::read(|index| cpu::rdmsr_safe(index).unwrap_or(0));
        let controls = ctls::compute(&msrs, &options()).map_err(|missing| {
            pr_err!("cannot load: VMX lacks {}\n", missing.0);
            EOPNOTSUPP
        })?;

        let mut msr_bitmap = HostPage::new()?;
        msr_bitmap.bytes_mut().fill(0xff);
        for (index, access) in msr_model::direct(Direct::default()) {
            msr_model::allow(msr_bitmap.bytes_mut(), index, access);
        }
        let mut x2apic_msr_bitmap = HostPage::new()?;
        x2apic_msr_bitmap
            .bytes_mut()
            .copy_from_slice(&*msr_bitmap.bytes_mut());
        for (index, access) in msr_model::virtual_x2apic() {
            msr_model::allow(x2apic_msr_bitmap.bytes_mut(), index, access);
        }
        let (mut io_bitmap_a, mut io_bitmap_b) = (HostPage::new()?, HostPage::new()?);
        io_bitmap_a.bytes_mut().fill(0xff);
        io_bitmap_b.bytes_mut().fill(0xff);

        let owner = VMX.set(Self {
            controls,
            fixed: FixedBits::new(&msrs),
            revision: (cpu::rdmsr_safe(msr::IA32_VMX_BASIC).unwrap_or(0) & REVISION_MASK) as u32,
            msr_bitmap,
            x2apic_msr_bitmap,
            io_bitmap_a,
            io_bitmap_b,
        })?;
        Ok((VMX.get().ok_or(ENODEV)?, owner))
    }

    /// Returns the format of the tables' entries.
    pub(super) fn ept(&self) -> Ept {
        Ept {
            accessed_dirty: self.controls.features.ept_ad,
        }
    }

    /// Returns the format of nested page tables, and the largest page that they can map.
    pub(crate) fn tables(&self) -> (Nested, PageSize) {
        let features = &self.controls.features;
        let largest = match (features.ept_2m, features.ept_1g) {
            (true, true) => PageSize::G1,
            (true, false) => PageSize::M2,
            _ => PageSize::K4,
        };
        (Nested::Ept(self.ept()), largest)
    }

    /// Returns what VMX lets guests have.
    pub(crate) fn provides(&self) -> Provides {
        let features = &self.controls.features;
        Provides {
            xcr0: u64::MAX,
            invpcid: features.invpcid,
            rdtscp: features.rdtscp,
            xsaves: features.xsaves,
            guest_phys_bits: EPT_BITS,
            ..Provides::default()
        }
    }

    /// Whether there is a VMX-preemption timer.
    #[inline(always)]
    pub(crate) fn has_deadline(&self) -> bool {
        self.controls.features.preemption_timer.is_some()
    }
}

/// What the user lets the module use.
fn options() -> Options {
    let on = |value: u8| value != 0;
    let large = on(module_parameters::large_pages.value());
    Options {
        vpid: on(module_parameters::vpid.value()),
        ept_2m: large,
        ept_1g: large,
        ept_ad: on(module_parameters::ept_ad.value()),
        tpr_shadow: on(module_parameters::tpr_shadow.value()),
        preemption_timer: on(module_parameters::preemption_timer.value()),
        apic_accesses: on(module_parameters::apic_registers.value()),
        apic_registers: on(module_parameters::apic_registers.value()),
        virtual_interrupts: on(module_parameters::virtual_interrupts.value()),
        x2apic: on(module_parameters::x2apic_registers.value()),
        // The host has no handler for the vector unless it is configured for KVM.
        posted_interrupts: on(module_parameters::posted_interrupts.value())
            && b::VIREO_POSTED_VECTOR != 0,
        ..Options::default()
    }
}
