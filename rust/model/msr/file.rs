// SPDX-License-Identifier: GPL-2.0-only

//! The register file: reads and writes of MSRs by the guest and by userspace.

use super::mce::{Mce, HWCR_MC_STATUS_WRITE};
use super::mtrr::{pat_valid, Mtrrs};
use super::{list, quiet, rules, Ctx, Effect, FeatureMsrs, MsrError, Origin, Place, Read};
use crate::model::cpuid::{Feature, Vendor};
use crate::model::errno::Errno;
use crate::model::pv;
use crate::model::x86::{misc_enable, msr};

/// PAT after reset: WB, WT, UC-, UC, twice (SDM vol. 3 section 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// MSR_MISC_FEATURES_ENABLES: CPUID faults above ring 0.
const CPUID_FAULT_ENABLE: u64 = 1 << 0;

/// IA32_FEATURE_CONTROL: locked.
const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;

/// IA32_PRED_CMD: indirect-branch prediction barrier.
const PRED_CMD_IBPB: u64 = 1 << 0;

/// IA32_FLUSH_CMD: flush the level-1 data cache.
const FLUSH_CMD_L1D: u64 = 1 << 0;

/// IA32_UMWAIT_CONTROL: reserved bits.
const UMWAIT_RESERVED: u64 = 0xffff_ffff_0000_0002;

/// HWCR bits that are stored: status writes and the TSC's frequency selection (bit 24), which Linux
/// complains about when it is clear.
const HWCR_STORED: u64 = HWCR_MC_STATUS_WRITE | 1 << 24;

/// HWCR bits whose writes are ignored: TLB cache disable, flush filter disable, IGNNE emulation.
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;

/// IA32_MISC_ENABLE bits that a guest's write may not change.
const MISC_ENABLE_FIXED: u64 = misc_enable::BTS_UNAVAIL | misc_enable::PEBS_UNAVAIL;

/// The first and last of the registers that belong to the local APIC.
const X2APIC_FIRST: u32 = msr::IA32_X2APIC_APICID;
const X2APIC_LAST: u32 = msr::IA32_X2APIC_LAST;

/// What the VM's owner has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The guest may read MSR_PLATFORM_INFO (`KVM_CAP_MSR_PLATFORM_INFO`).
    pub platform_info_readable: bool,
    /// IA32_MISC_ENABLE does not decide whether CPUID shows MONITOR
    /// (`KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT`).
    pub misc_enable_no_mwait: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            platform_info_readable: true,
            misc_enable_no_mwait: true,
        }
    }
}

/// Kinds of reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// RESET: the processor starts.
    PowerOn,
    /// INIT: most MSRs keep their values (SDM vol. 3 table 10-1).
    Init,
}

/// The MSRs of one vCPU that are not held elsewhere.
#[derive(Clone, Debug)]
pub struct MsrFile {
    config: Config,
    pat: u64,
    misc_enable: u64,
    misc_features: u64,
    tsc_adjust: u64,
    xss: u64,
    microcode: u64,
    arch_capabilities: u64,
    platform_info: u64,
    smi_count: u64,
    feature_control: u64,
    power_ctl: u64,
    hwcr: u64,
    de_cfg: u64,
    osvw_length: u64,
    osvw_status: u64,
    mtrrs: Mtrrs,
    mce: Mce,
}

impl MsrFile {
    /// Makes the registers of a new vCPU. The file is 1.5 KiB: build it where it stays.
    #[inline]
    pub const fn new(config: Config, features: &FeatureMsrs, vendor: Vendor) -> Self {
        Self {
            config,
            pat: PAT_RESET,
            misc_enable: MISC_ENABLE_FIXED,
            misc_features: 0,
            tsc_adjust: 0,
            xss: 0,
            microcode: FeatureMsrs::guest_microcode(vendor),
            arch_capabilities: features.arch_capabilities,
            platform_info: features.platform_info,
            smi_count: 0,
            feature_control: 0,
            power_ctl: 0,
            hwcr: 0,
            de_cfg: 0,
            osvw_length: 0,
            osvw_status: 0,
            mtrrs: Mtrrs::RESET,
            mce: Mce::RESET,
        }
    }

    /// Resets the registers.
    pub fn reset(&mut self, kind: Reset) {
        self.mce.reset();
        if kind == Reset::Init {
            return;
        }
        self.pat = PAT_RESET;
        self.misc_enable = MISC_ENABLE_FIXED;
        self.misc_features = 0;
        self.xss = 0;
        self.hwcr = 0;
    }

    /// Sets the feature MSRs to 0, for userspace that sets them all itself
    /// (`KVM_X86_QUIRK_STUFF_FEATURE_MSRS` is off).
    pub fn clear_features(&mut self) {
        self.microcode = 0;
        self.arch_capabilities = 0;
        self.platform_info = 0;
    }

    /// Changes what the VM's owner has chosen.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// Sets up the machine-check banks (`KVM_X86_SETUP_MCE`).
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] when `cap` has no banks, too many, or bits beyond [`MCE_CAP`](super::MCE_CAP).
    pub fn setup_mce(&mut self, cap: u64) -> Result<(), Errno> {
        self.mce.setup(cap)
    }

    /// Returns the PAT.
    pub const fn pat(&self) -> u64 {
        self.pat
    }

    /// Returns IA32_XSS.
    pub const fn xss(&self) -> u64 {
        self.xss
    }

    /// Returns true when CPUID above ring 0 raises #GP.
    pub const fn cpuid_faults(&self) -> bool {
        self.misc_features & CPUID_FAULT_ENABLE != 0
    }

    /// Returns whether CPUID shows MONITOR, or `None` when that is left to userspace's table.
    pub const fn mwait(&self) -> Option<bool> {
        if self.config.misc_enable_no_mwait {
            return None;
        }
        Some(self.misc_enable & misc_enable::MWAIT != 0)
    }

    /// Adds to IA32_TSC_ADJUST what a guest's write to the time-stamp counter has added to the offset
    /// (SDM vol. 3 section 18.17.3).
    pub fn add_tsc_adjust(&mut self, delta: u64) {
        self.tsc_adjust = self.tsc_adjust.wrapping_add(delta);
    }

    /// Reads MSR `index`.
    ///
    /// # Errors
    ///
    /// [`MsrError`] when the access fails.
    pub fn read(&self, index: u32, ctx: &Ctx<'_>, origin: Origin) -> Result<Read, MsrError> {
        match self.read_known(index, ctx, origin) {
            Err(MsrError::Unknown) if origin == Origin::Host && list::is_listed(index) => {
                Ok(Read::Value(0))
            }
            result => result,
        }
    }

    /// Writes `value` to MSR `index`.
    ///
    /// # Errors
    ///
    /// [`MsrError`] when the access fails; nothing has changed then.
    pub fn write(
        &mut self,
        index: u32,
        value: u64,
        ctx: &Ctx<'_>,
        origin: Origin,
    ) -> Result<Effect, MsrError> {
        match self.write_known(index, value, ctx, origin) {
            Err(MsrError::Unknown)
                if origin == Origin::Host && value == 0 && list::is_listed(index) =>
            {
                Ok(Effect::None)
            }
            result => result,
        }
    }

    fn read_known(&self, index: u32, ctx: &Ctx<'_>, origin: Origin) -> Result<Read, MsrError> {
        if let Some(place) = place(index, ctx) {
            check_exists(place, ctx, origin)?;
            return Ok(Read::Held(place));
        }
        let guest = origin == Origin::Guest;
        let value = match index {
            msr::IA32_TSC_ADJUST => self.tsc_adjust,
            msr::IA32_EFER => ctx.efer,
            msr::IA32_PAT => self.pat,
            msr::IA32_MISC_ENABLE => self.misc_enable,
            msr::MSR_MISC_FEATURES_ENABLES => self.misc_features,
            msr::IA32_BIOS_SIGN_ID => self.microcode,
            msr::MSR_SMI_COUNT => self.smi_count,
            msr::IA32_FEATURE_CONTROL => self.feature_control,
            msr::MSR_POWER_CTL => self.power_ctl,
            msr::K7_HWCR => self.hwcr,
            msr::MSR_PLATFORM_INFO if guest && !self.config.platform_info_readable => {
                return Err(MsrError::Gp);
            }
            msr::MSR_PLATFORM_INFO => self.platform_info,
            msr::IA32_ARCH_CAPABILITIES if ctx.guest.has(Feature::ARCH_CAPABILITIES) => {
                self.arch_capabilities
            }
            msr::IA32_XSS if guest && !ctx.guest.has(Feature::XSAVES) => return Err(MsrError::Gp),
            msr::IA32_XSS => self.xss,
            msr::IA32_PRED_CMD | msr::IA32_FLUSH_CMD => return Err(MsrError::Gp),
            msr::AMD64_DE_CFG if ctx.guest.vendor == Vendor::Amd || !guest => self.de_cfg,
            msr::AMD64_OSVW_ID_LENGTH if ctx.guest.has(Feature::OSVW) => self.osvw_length,
            msr::AMD64_OSVW_STATUS if ctx.guest.has(Feature::OSVW) => self.osvw_status,
            _ if Mtrrs::owns(index) => self.mtrrs.read(index)?,
            _ if Mce::owns(index) => self.mce.read(index, origin)?,
            _ => quiet::read(index).ok_or(MsrError::Unknown)?,
        };
        Ok(Read::Value(value))
    }

    fn write_known(
        &mut self,
        index: u32,
        value: u64,
        ctx: &Ctx<'_>,
        origin: Origin,
    ) -> Result<Effect, MsrError> {
        if let Some(place) = place(index, ctx) {
            check_exists(place, ctx, origin)?;
            return Ok(Effect::Hold(place, check_value(place, value, ctx, origin)?));
        }
        let guest = origin == Origin::Guest;
        match index {
            msr::IA32_TSC_ADJUST => return Ok(self.write_tsc_adjust(value, ctx, origin)),
            msr::IA32_EFER => return rules::efer(value, ctx, origin).map(Effect::Efer),
            msr::IA32_PAT if pat_valid(value) => {
                self.pat = value;
                return Ok(Effect::Pat(value));
            }
            msr::IA32_PAT => return Err(MsrError::Gp),
            msr::IA32_MISC_ENABLE => return self.write_misc_enable(value, ctx, origin),
            msr::IA32_XSS => return self.write_xss(value, ctx),
            msr::IA32_PRED_CMD => {
                if !rules::has_ibpb(ctx, origin) || value & !PRED_CMD_IBPB != 0 {
                    return Err(MsrError::Gp);
                }
                return Ok(if value == 0 {
                    Effect::None
                } else {
                    Effect::PredictionBarrier
                });
            }
            msr::IA32_FLUSH_CMD => {
                let absent = guest && !ctx.guest.has(Feature::FLUSH_L1D);
                let unsupported = !ctx.caps.has(Feature::FLUSH_L1D);
                if absent || unsupported || value & !FLUSH_CMD_L1D != 0 {
                    return Err(MsrError::Gp);
                }
                return Ok(if value == 0 {
                    Effect::None
                } else {
                    Effect::FlushL1d
                });
            }
            msr::MSR_MISC_FEATURES_ENABLES => {
                let faulting = self.platform_info & FeatureMsrs::CPUID_FAULTING != 0;
                let allowed = if faulting { CPUID_FAULT_ENABLE } else { 0 };
                if value & !allowed != 0 {
                    return Err(MsrError::Gp);
                }
                self.misc_features = value;
            }
            // A guest's write is how the revision is read (SDM vol. 3 section 10.11.7.1).
            msr::IA32_BIOS_SIGN_ID if guest => {}
            msr::IA32_BIOS_SIGN_ID => self.microcode = value,
            msr::MSR_SMI_COUNT | msr::MSR_PLATFORM_INFO if guest => return Err(MsrError::Gp),
            msr::MSR_SMI_COUNT => self.smi_count = value,
            msr::MSR_PLATFORM_INFO => self.platform_info = value,
            msr::IA32_ARCH_CAPABILITIES if !guest && ctx.guest.has(Feature::ARCH_CAPABILITIES) => {
                self.arch_capabilities = value;
            }
            msr::IA32_FEATURE_CONTROL => {
                let locked = self.feature_control & FEATURE_CONTROL_LOCKED != 0;
                if value & !FEATURE_CONTROL_LOCKED != 0 || guest && locked {
                    return Err(MsrError::Gp);
                }
                self.feature_control = value;
            }
            msr::MSR_POWER_CTL => self.power_ctl = value,
            msr::K7_HWCR if value & !(HWCR_STORED | HWCR_IGNORED) == 0 => {
                self.hwcr = value & HWCR_STORED;
            }
            msr::K7_HWCR => return Err(MsrError::Gp),
            msr::AMD64_DE_CFG if ctx.guest.vendor == Vendor::Amd || !guest => {
                if value & !FeatureMsrs::LFENCE_SERIALIZES != 0 {
                    return Err(MsrError::Gp);
                }
                self.de_cfg = value;
            }
            msr::AMD64_OSVW_ID_LENGTH if ctx.guest.has(Feature::OSVW) => self.osvw_length = value,
            msr::AMD64_OSVW_STATUS if ctx.guest.has(Feature::OSVW) => self.osvw_status = value,
            _ if Mtrrs::owns(index) => {
                self.mtrrs
                    .write(index, value, ctx.guest.reserved_gpa_bits())?;
            }
            _ if Mce::owns(index) => {
                self.mce
                    .write(index, value, origin, ctx.guest.vendor, self.hwcr)?;
            }
            _ => match quiet::write(index, value) {
                Some(true) => {}
                Some(false) if !guest && quiet::read(index) == Some(value) => {}
                Some(false) => return Err(MsrError::Gp),
                None => return Err(MsrError::Unknown),
            },
        }
        Ok(Effect::None)
    }

    /// A guest's write moves its time-stamp counter; userspace's only says how far it has been moved.
    fn write_tsc_adjust(&mut self, value: u64, ctx: &Ctx<'_>, origin: Origin) -> Effect {
        if !ctx.guest.has(Feature::TSC_ADJUST) {
            return Effect::None;
        }
        let delta = value.wrapping_sub(self.tsc_adjust);
        self.tsc_adjust = value;
        match origin {
            Origin::Guest => Effect::AdjustTsc(delta),
            Origin::Host => Effect::None,
        }
    }

    fn write_misc_enable(
        &mut self,
        value: u64,
        ctx: &Ctx<'_>,
        origin: Origin,
    ) -> Result<Effect, MsrError> {
        let mut value = value;
        if origin == Origin::Guest {
            if (value ^ self.misc_enable) & MISC_ENABLE_FIXED != 0 {
                return Err(MsrError::Gp);
            }
            value = value & !misc_enable::EMON | self.misc_enable & misc_enable::EMON;
        }
        let mwait_changes = (value ^ self.misc_enable) & misc_enable::MWAIT != 0;
        if mwait_changes && !self.config.misc_enable_no_mwait {
            // SDM vol. 4: the bit is reserved on processors without SSE3.
            if !ctx.guest.has(Feature::SSE3) {
                return Err(MsrError::Gp);
            }
            self.misc_enable = value;
            return Ok(Effect::RefreshCpuid);
        }
        self.misc_enable = value;
        Ok(Effect::None)
    }

    fn write_xss(&mut self, value: u64, ctx: &Ctx<'_>) -> Result<Effect, MsrError> {
        if !ctx.guest.has(Feature::XSAVES) {
            return Err(MsrError::Unknown);
        }
        if value & !ctx.guest.xss != 0 {
            return Err(MsrError::Gp);
        }
        if value == self.xss {
            return Ok(Effect::None);
        }
        self.xss = value;
        Ok(Effect::Xss(value))
    }
}

/// Returns where a register is held, unless that is the file.
#[inline(always)]
fn place(index: u32, ctx: &Ctx<'_>) -> Option<Place> {
    Some(match index {
        X2APIC_FIRST..=X2APIC_LAST => Place::X2apic((index - X2APIC_FIRST) as u8),
        msr::IA32_TSC_DEADLINE => Place::TscDeadline,
        msr::IA32_TIME_STAMP_COUNTER => Place::Tsc,
        msr::IA32_APIC_BASE => Place::ApicBase,
        msr::IA32_SPEC_CTRL => Place::SpecCtrl,
        msr::IA32_FS_BASE => Place::FsBase,
        msr::IA32_GS_BASE => Place::GsBase,
        msr::IA32_KERNEL_GS_BASE => Place::KernelGsBase,
        msr::IA32_SYSENTER_CS => Place::SysenterCs,
        msr::IA32_SYSENTER_ESP => Place::SysenterEsp,
        msr::IA32_SYSENTER_EIP => Place::SysenterEip,
        msr::IA32_STAR => Place::Star,
        msr::IA32_LSTAR => Place::Lstar,
        msr::IA32_CSTAR => Place::Cstar,
        msr::IA32_FMASK => Place::Fmask,
        msr::IA32_TSC_AUX => Place::TscAux,
        msr::IA32_UMWAIT_CONTROL => Place::UmwaitControl,
        msr::KVM_WALL_CLOCK..=msr::KVM_SYSTEM_TIME
        | msr::KVM_WALL_CLOCK_NEW..=msr::KVM_MIGRATION_CONTROL
            if pv::has_register(index, ctx.caps.paravirt) =>
        {
            Place::Paravirt(index)
        }
        _ => return None,
    })
}

/// Checks that the guest's processor, or for userspace the module, has the register.
fn check_exists(place: Place, ctx: &Ctx<'_>, origin: Origin) -> Result<(), MsrError> {
    let guest = origin == Origin::Guest;
    let exists = match place {
        Place::TscAux => {
            let offered = ctx.caps.has(Feature::RDTSCP);
            let given = ctx.guest.has(Feature::RDTSCP) || ctx.guest.has(Feature::RDPID);
            offered && (!guest || given)
        }
        Place::SpecCtrl => rules::spec_ctrl_valid(ctx, origin) != 0,
        Place::UmwaitControl if guest => ctx.guest.has(Feature::WAITPKG),
        Place::UmwaitControl => ctx.caps.has(Feature::WAITPKG),
        _ => true,
    };
    match (exists, origin) {
        (true, _) => Ok(()),
        (false, Origin::Guest) => Err(MsrError::Gp),
        // Not `Gp`: userspace may read a listed one, and write 0 to it.
        (false, Origin::Host) => Err(MsrError::Unknown),
    }
}

fn check_value(place: Place, value: u64, ctx: &Ctx<'_>, origin: Origin) -> Result<u64, MsrError> {
    match place {
        Place::FsBase | Place::GsBase | Place::KernelGsBase | Place::Lstar | Place::Cstar => {
            rules::canonical(value, ctx)
        }
        Place::SysenterEsp | Place::SysenterEip => rules::sysenter(value, ctx, origin),
        Place::SysenterCs => Ok(value & 0xffff_ffff),
        Place::TscAux | Place::Fmask => rules::low_half(value, ctx),
        Place::SpecCtrl if value & !rules::spec_ctrl_valid(ctx, origin) != 0 => Err(MsrError::Gp),
        Place::UmwaitControl if value & UMWAIT_RESERVED != 0 => Err(MsrError::Gp),
        _ => Ok(value),
    }
}
