// SPDX-License-Identifier: GPL-2.0-only
//! The tests, a file for each group or part of a group.

use crate::harness::Test;

/// Declares the files and, in the same order, the list of their tests.
macro_rules! groups {
    ($($name:ident),+ $(,)?) => {
        $(mod $name;)+
        /// All tests, in the order in which they run.
        pub fn all() -> Vec<&'static Test> {
            [$($name::TESTS),+].into_iter().flatten().collect()
        }
    };
}

groups!(
    entry,
    entry_fpu,
    entry_state,
    entry_paging,
    exit_io,
    exit_mmio,
    exit_mmio_edges,
    exit_emul,
    exit_emul_lock,
    exit_cpuid,
    exit_msr,
    exit_cr,
    exit_dr,
    exit_exc,
    exit_misc,
    ioctl_sys,
    ioctl_vm,
    ioctl_vcpu,
    ioctl_lists,
    ioctl_eventfd,
    ioctl_fuzz,
    coalesced,
    irq_apic,
    irq_apic_regs,
    irq_ioapic,
    irq_pic,
    irq_pit,
    irq_fd,
    irq_load,
    irq_route,
    irq_smp,
    irq_posted,
    irq_inject,
    pv,
    pv_async_pf,
    pv_clock_host,
    pv_eoi,
    pv_features,
    pv_sched,
    timer,
    timer_exact,
    tsc,
    mem_slots,
    mem_host,
    mem_reclaim,
    signal,
    life,
    life_cpus,
    coexist,
);
