// SPDX-License-Identifier: GPL-2.0-only

//! MSRs that operating systems access without having asked CPUID, and that have no effect here: reads
//! return a constant, writes are ignored. Without them the guest would get a #GP in early boot, where many
//! kernels don't expect one.

use crate::model::x86::msr;

/// MSR_FSB_FREQ: 166 MHz on the Core models that have it; only read where CPUID names such a model.
const FSB_166_MHZ: u64 = 3;

/// MSR_EBC_FREQUENCY_ID: a clock ratio of 1 in bits 31 to 24, so that nobody divides by 0.
const EBC_RATIO_1: u64 = 1 << 24;

/// IA32_PERF_STATUS: a multiplier of 4 in bits 44 to 40 and 1000 as the current state.
const PERF_STATUS: u64 = 4 << 40 | 1000;

/// MSR_BBL_CR_CTL3: a second-level cache of 256 KiB, enabled, with 64 GiB cacheable.
const BBL_CR_CTL3: u64 = 0xbe70_2111;

/// K7_CLK_CTL of Athlons, and its minimum ramp-up.
const K7_CLK_CTL: u32 = 0xc001_001b;
const K7_CLK_CTL_MINIMUM: u64 = 0x2000_0000;

/// The protected SMM segment of AMD processors, address and mask.
const K8_TSEG_ADDR: u32 = 0xc001_0112;
const K8_TSEG_MASK: u32 = 0xc001_0113;

/// Returns the constant that reads of `index` give.
pub(super) const fn read(index: u32) -> Option<u64> {
    Some(match index {
        // Identification and power-on settings of the platform.
        msr::IA32_PLATFORM_ID | msr::MSR_EBL_CR_POWERON => 0,
        msr::MSR_EBC_FREQUENCY_ID => EBC_RATIO_1,
        msr::MSR_FSB_FREQ => FSB_166_MHZ,
        msr::MSR_BBL_CR_CTL3 => BBL_CR_CTL3,
        msr::IA32_PERF_STATUS => PERF_STATUS,
        // Performance state requests: read by drivers, the host decides.
        msr::IA32_PERF_CTL => 0,
        // Energy counters, which Linux probes by processor model.
        msr::MSR_RAPL_POWER_UNIT
        | msr::MSR_PKG_ENERGY_STATUS
        | msr::MSR_DRAM_ENERGY_STATUS
        | msr::MSR_PP0_ENERGY_STATUS
        | msr::MSR_PP1_ENERGY_STATUS => 0,
        // Last-branch records, which are off.
        msr::MSR_LASTBRANCHFROMIP..=msr::MSR_LASTINTTOIP => 0,
        // Debug control: the bits that may be written are ignored ones.
        msr::IA32_DEBUGCTL => 0,
        // Performance counters of the P6 and K7, which are always stopped.
        P6_COUNTER_0..=P6_COUNTER_1 | P6_SELECT_0..=P6_SELECT_1 => 0,
        msr::K7_EVNTSEL0..=K7_PERFCTR3 => 0,
        // Configuration of AMD's memory controller and caches.
        msr::AMD64_SYSCFG
        | K8_TSEG_ADDR
        | K8_TSEG_MASK
        | msr::AMD64_VM_HSAVE_PA
        | msr::K8_INT_PENDING_MSG
        | msr::AMD64_NB_CFG
        | msr::FAM10H_MMIO_CONF_BASE
        | msr::AMD64_BU_CFG2
        | msr::AMD64_DC_CFG
        | msr::AMD64_TW_CFG
        | msr::AMD64_EX_CFG => 0,
        K7_CLK_CTL => K7_CLK_CTL_MINIMUM,
        _ => return None,
    })
}

/// Says what becomes of a write of `value` to `index`: ignored (`Some(true)`), #GP (`Some(false)`), or
/// `None` when the MSR is not one of these.
pub(super) const fn write(index: u32, value: u64) -> Option<bool> {
    match index {
        // Microcode updates: the host's business.
        msr::IA32_BIOS_UPDT_TRIG | msr::AMD64_PATCH_LOADER => Some(true),
        // The performance counters of old processors.
        P6_COUNTER_0..=P6_COUNTER_1
        | P6_SELECT_0..=P6_SELECT_1
        | msr::K7_EVNTSEL0..=K7_PERFCTR3 => Some(true),
        msr::AMD64_NB_CFG
        | msr::AMD64_VM_HSAVE_PA
        | msr::AMD64_BU_CFG2
        | msr::AMD64_DC_CFG
        | msr::AMD64_TW_CFG
        | msr::AMD64_EX_CFG
        | msr::MSR_BBL_CR_CTL3
        | K7_CLK_CTL => Some(true),
        msr::IA32_DEBUGCTL => Some(value & !DEBUGCTL_IGNORED == 0),
        msr::FAM10H_MMIO_CONF_BASE => Some(value == 0),
        // What can only be read.
        _ if read(index).is_some() => Some(false),
        _ => None,
    }
}

/// IA32_DEBUGCTL bits whose writes are ignored: last-branch records and single-stepping on branches.
const DEBUGCTL_IGNORED: u64 = 3;

const P6_COUNTER_0: u32 = msr::IA32_PMC0;
const P6_COUNTER_1: u32 = msr::IA32_PMC0 + 1;
const P6_SELECT_0: u32 = msr::IA32_PERFEVTSEL0;
const P6_SELECT_1: u32 = msr::IA32_PERFEVTSEL0 + 1;
const K7_PERFCTR3: u32 = msr::K7_PERFCTR0 + 3;
