// SPDX-License-Identifier: GPL-2.0-only
//! The vCPU's ioctls that take lists: MSRs and CPUID.

use kvm_bindings as kb;

use crate::harness::TestResult;
use crate::host::Mapping;
use crate::kvm::*;
use crate::machine::*;

tests!(
    ioctl_msrs_count,
    ioctl_msrs_bad,
    ioctl_cpuid2_bad,
    ioctl_cpuid2_after_run,
);

guest!(lists_alive:
    "out DONE, al",
);

/// A list of `indices`, all with the value 0x1000.
fn msr_list(indices: &[u32]) -> Fam<kb::kvm_msr_entry, 8> {
    let entry = |&index: &u32| kb::kvm_msr_entry { index, data: 0x1000, ..Default::default() };
    Fam::from_slice(&indices.iter().map(entry).collect::<Vec<_>>())
}

/// Counts: none, many, too many, and far too many.
fn ioctl_msrs_count() -> TestResult {
    let m = Machine::long(lists_alive())?;
    for request in [KVM_GET_MSRS, KVM_SET_MSRS] {
        let mut none = msr_list(&[]);
        check_eq!(ioctl(m.vcpu.fd(), request, none.addr())?, 0);
        let mut many = msr_list(&[0x175; 255]);
        check_eq!(ioctl(m.vcpu.fd(), request, many.addr())?, 255);
        for count in [256, 1 << 16, 1 << 28, u32::MAX] {
            many.set_len(count);
            let result = ioctl(m.vcpu.fd(), request, many.addr());
            check_errno!(result, libc::E2BIG, "{} of {count}", request.name);
        }
        // Fewer entries in memory than the header says.
        let mem = Mapping::anonymous(2 * PAGE);
        check!(mem.punch(PAGE as u64, PAGE));
        mem.set(PAGE as u64 - 24, 100);
        let result = ioctl(m.vcpu.fd(), request, mem.addr() + PAGE as u64 - 24);
        check_errno!(result, libc::EFAULT, "{} over the edge", request.name);
    }
    Ok(())
}

/// The first MSR that fails ends the list, and the result says how far it came.
fn ioctl_msrs_bad() -> TestResult {
    let m = Machine::long(lists_alive())?;
    const UNKNOWN: u32 = 0x1234_5678;
    let mut list = msr_list(&[0x175, 0x176, UNKNOWN, 0x174]);
    check_eq!(ioctl(m.vcpu.fd(), KVM_SET_MSRS, list.addr())?, 2);
    check_eq!(m.vcpu.msr(0x175)?, Some(0x1000));
    check_eq!(m.vcpu.msr(0x174)?, Some(0), "an MSR behind the unknown one");
    check_eq!(ioctl(m.vcpu.fd(), KVM_GET_MSRS, list.addr())?, 2);
    // Values that the MSR does not take.
    let pat = m.vcpu.msr(0x277)?;
    check!(!m.vcpu.set_msr(0x277, 0x0202_0202_0202_0202)?, "PAT took type 2");
    check_eq!(m.vcpu.msr(0x277)?, pat);
    check!(!m.vcpu.set_msr(0xc000_0082, 1 << 63)?, "LSTAR took an address that is not canonical");
    check!(!m.vcpu.set_msr(0xc000_0080, 1 << 40)?, "EFER took a reserved bit");
    Ok(())
}

/// Too many entries, no room, and values that cannot be.
fn ioctl_cpuid2_bad() -> TestResult {
    let mut m = Machine::long(lists_alive())?;
    let before = m.vcpu.cpuid()?;
    for count in [257, 1 << 20, u32::MAX] {
        let mut list = Fam::<kb::kvm_cpuid_entry2, 8>::new(257);
        list.set_len(count);
        let result = ioctl(m.vcpu.fd(), KVM_SET_CPUID2, list.addr());
        check_errno!(result, libc::E2BIG, "SET_CPUID2 of {count}");
    }
    let mut small = Fam::<kb::kvm_cpuid_entry2, 8>::new(before.len() - 1);
    check_errno!(ioctl(m.vcpu.fd(), KVM_GET_CPUID2, small.addr()), libc::E2BIG);
    // The width of linear addresses must be one that exists.
    let mut bad = before.clone();
    for entry in bad.iter_mut().filter(|e| e.function == 0x8000_0008) {
        entry.eax = entry.eax & 0xff | 0x1100;
    }
    check_errno!(m.vcpu.set_cpuid(&bad), libc::EINVAL, "17 linear address bits");
    check_eq!(m.vcpu.cpuid()?, before);
    m.vcpu.set_cpuid(&[])?;
    check_eq!(m.vcpu.cpuid()?.len(), 0);
    m.vcpu.set_cpuid(&before)?;
    m.run_done()?;
    Ok(())
}

/// Once the vCPU has run its CPUID is fixed; the same again is taken.
fn ioctl_cpuid2_after_run() -> TestResult {
    let mut m = Machine::long(lists_alive())?;
    let before = m.vcpu.cpuid()?;
    m.run_done()?;
    m.vcpu.set_cpuid(&before)?;
    let mut other = before.clone();
    other.pop();
    check_errno!(m.vcpu.set_cpuid(&other), libc::EINVAL, "fewer entries after KVM_RUN");
    let mut other = before.clone();
    for entry in other.iter_mut().filter(|e| e.function == 0) {
        entry.ebx ^= 1;
    }
    check_errno!(m.vcpu.set_cpuid(&other), libc::EINVAL, "another vendor after KVM_RUN");
    Ok(())
}
