// SPDX-License-Identifier: GPL-2.0-only

//! What this machine's VMX can do, found once when the module loads.

use kernel::{
    prelude::*,
    sync::SetOnce, //
};

use crate::{
    bindings as b,
    host::{
        cpu,
        page::HostPage, //
    },
    model::{
        msr::{
            self as msr_model,
            Direct, //
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
    }, //
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
    /// I/O bitmap A, ports 0 to 0x7fff: all exit.
    pub(crate) io_bitmap_a: HostPage,
    /// I/O bitmap B, ports 0x8000 to 0xffff: all exit.
    pub(crate) io_bitmap_b: HostPage,
}

/// Set when the module has found VMX to be usable.
static VMX: SetOnce<Vmx> = SetOnce::new();

/// The VMCS revision is bits 30:0 of IA32_VMX_BASIC.
const REVISION_MASK: u64 = 0x7fff_ffff;

/// CPUID.1:ECX.VMX.
const CPUID_VMX: u32 = 1 << 5;

impl Vmx {
    /// Returns the machine's VMX, once [`Vmx::probe`] has succeeded.
    #[inline(always)]
    pub(crate) fn get() -> Option<&'static Self> {
        VMX.as_ref()
    }

    /// Finds out whether VMX can be used.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`, with one line in the kernel log that names what is missing.
    pub(crate) fn probe(options: &Options) -> Result {
        // SAFETY: Reads the boot CPU's feature bits.
        if !unsafe { b::vireo_cpu_has_vmx() } {
            if cpu::cpuid(1, 0)[2] & CPUID_VMX != 0 {
                pr_err!("cannot load: VMX is disabled by the firmware\n");
            } else {
                pr_err!("cannot load: the CPU has no VMX\n");
            }
            return Err(EOPNOTSUPP);
        }
        let msrs = CapabilityMsrs::read(|index| cpu::rdmsr_safe(index).unwrap_or(0));
        let controls = ctls::compute(&msrs, options).map_err(|missing| {
            pr_err!("cannot load: VMX lacks {}\n", missing.0);
            EOPNOTSUPP
        })?;

        let mut msr_bitmap = HostPage::new()?;
        msr_bitmap.bytes_mut().fill(0xff);
        for (index, access) in msr_model::direct(Direct::default()) {
            msr_model::allow(msr_bitmap.bytes_mut(), index, access);
        }
        let (mut io_bitmap_a, mut io_bitmap_b) = (HostPage::new()?, HostPage::new()?);
        io_bitmap_a.bytes_mut().fill(0xff);
        io_bitmap_b.bytes_mut().fill(0xff);

        VMX.populate(Self {
            controls,
            fixed: FixedBits::new(&msrs),
            revision: (cpu::rdmsr_safe(msr::IA32_VMX_BASIC).unwrap_or(0) & REVISION_MASK) as u32,
            msr_bitmap,
            io_bitmap_a,
            io_bitmap_b,
        });
        Ok(())
    }
}
