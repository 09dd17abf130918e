// SPDX-License-Identifier: GPL-2.0-only
//! Which paravirtual services a guest has: what is offered, what its CPUID says, and what follows from that.

use kvm_bindings as kb;

use super::pv::{call, caller_code, features, need};
use crate::guest::*;
use crate::harness::{skip, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(pv_enforced, pv_hints, pv_poll_control, pv_registers_listed,);

const POLL_CONTROL: u32 = 1 << 12;
const POLL_MSR: u32 = 0x4b56_4d05;

/// The features that bring registers, and the registers.
const REGISTERS: [(u32, u32); 8] = [
    (1 << 0, 0x12),
    (1 << 3, 0x4b56_4d01),
    (1 << 4, 0x4b56_4d02),
    (1 << 5, 0x4b56_4d03),
    (1 << 6, 0x4b56_4d04),
    (1 << 12, 0x4b56_4d05),
    (1 << 14, 0x4b56_4d06),
    (1 << 14, 0x4b56_4d07),
];

/// Sets the features and hints of the guest's leaf.
fn set_leaf(m: &Machine, eax: u32, edx: u32) -> TestResult {
    let mut list = m.sys.supported_cpuid()?;
    let mut entries = list.entries().to_vec();
    for entry in entries.iter_mut().filter(|e| e.function == 0x4000_0001) {
        (entry.eax, entry.edx) = (eax, edx);
    }
    Ok(m.vcpu.set_cpuid(&entries)?)
}

fn enforce(m: &Machine, on: u64) -> TestResult {
    let mut cap = kb::kvm_enable_cap { cap: kb::KVM_CAP_ENFORCE_PV_FEATURE_CPUID, ..Default::default() };
    cap.args[0] = on;
    ioctl_in(m.vcpu.fd(), KVM_ENABLE_CAP, &cap).map(drop)?;
    Ok(())
}

/// With KVM_CAP_ENFORCE_PV_FEATURE_CPUID a guest has what its CPUID names; without, all.
fn pv_enforced() -> TestResult {
    let mut m = Machine::irqchip(caller_code())?;
    if m.vm.check(kb::KVM_CAP_ENFORCE_PV_FEATURE_CPUID) == 0 {
        return skip("KVM_CAP_ENFORCE_PV_FEATURE_CPUID".to_owned());
    }
    let all = features(&m)?;
    set_leaf(&m, 0, 0)?;
    m.run_sync()?;
    for (feature, register) in REGISTERS {
        check_eq!(m.vcpu.set_msr(register, 1)?, all & feature != 0, "register {register:#x}");
    }
    check_eq!(call(&mut m, 10, [1, 0, 0, 0x51])?, 1, "an IPI");
    enforce(&m, 1)?;
    for (_, register) in REGISTERS {
        check!(!m.vcpu.set_msr(register, 1)?, "register {register:#x}");
    }
    check_eq!(call(&mut m, 10, [1, 0, 0, 0x51])?, -1000, "an IPI");
    check_eq!(call(&mut m, 5, [0, 0, 0, 0])?, -1000, "a kick");
    enforce(&m, 0)?;
    check_eq!(call(&mut m, 10, [1, 0, 0, 0x51])?, 1, "an IPI");
    let bad = kb::kvm_enable_cap { cap: kb::KVM_CAP_ENFORCE_PV_FEATURE_CPUID, flags: 1, ..Default::default() };
    check_errno!(ioctl_in(m.vcpu.fd(), KVM_ENABLE_CAP, &bad), libc::EINVAL);
    let bad = kb::kvm_enable_cap { cap: 0x7fff, ..Default::default() };
    check_errno!(ioctl_in(m.vcpu.fd(), KVM_ENABLE_CAP, &bad), libc::EINVAL);
    Ok(())
}

guest!(pv_leaf:
    "mov eax, 0x40000001", "xor ecx, ecx", "cpuid",
    "out DONE, al",
);

/// KVM_HINTS_REALTIME is the VMM's to give.
fn pv_hints() -> TestResult {
    let mut m = Machine::irqchip(pv_leaf())?;
    let all = features(&m)?;
    set_leaf(&m, all, 1)?;
    let regs = m.run_done()?;
    check_eq!((regs.rax as u32, regs.rdx as u32), (all, 1));
    Ok(())
}

/// The register is saved and restored, and has one bit.
fn pv_poll_control() -> TestResult {
    let m = Machine::irqchip(pv_leaf())?;
    need(&m, POLL_CONTROL)?;
    check_eq!(m.vcpu.msr(POLL_MSR)?, Some(1));
    check!(m.vcpu.set_msr(POLL_MSR, 0)?);
    check_eq!(m.vcpu.msr(POLL_MSR)?, Some(0));
    for bit in 1..64 {
        check!(!m.vcpu.set_msr(POLL_MSR, 1 << bit)?, "bit {bit}");
    }
    check!(m.vcpu.set_msr(POLL_MSR, 1)?);
    Ok(())
}

/// A VMM that saves the listed registers saves those of all services that are offered.
fn pv_registers_listed() -> TestResult {
    let m = Machine::irqchip(pv_leaf())?;
    let listed = m.sys.msr_list(KVM_GET_MSR_INDEX_LIST)?;
    let all = features(&m)?;
    for (feature, register) in REGISTERS {
        // The first clock comes with the second's registers.
        check_eq!(listed.contains(&register), all & feature != 0, "register {register:#x}");
    }
    Ok(())
}
