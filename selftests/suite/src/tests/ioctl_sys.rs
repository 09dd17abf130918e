// SPDX-License-Identifier: GPL-2.0-only
//! Ioctls of the device node, unknown ioctls, and capabilities.

use kvm_bindings as kb;

use crate::harness::{env, note, Outcome, TestResult};
use crate::kvm::*;
use crate::machine::{Machine, Mode, Setup};

tests!(
    ioctl_api_version,
    ioctl_unknown,
    ioctl_wrong_descriptor,
    ioctl_create_vm_type,
    ioctl_vcpu_mmap_size,
    ioctl_check_extension,
    ioctl_capabilities_work,
    ioctl_supported_cpuid,
    ioctl_msr_index_list,
    ioctl_feature_msrs,
);

fn open() -> Result<System> {
    System::open(&env().device)
}

/// The version is 12, and an argument is refused.
fn ioctl_api_version() -> TestResult {
    let sys = open()?;
    check_eq!(ioctl(sys.fd(), KVM_GET_API_VERSION, 0)?, 12);
    check_errno!(ioctl(sys.fd(), KVM_GET_API_VERSION, 1), libc::EINVAL);
    Ok(())
}

/// Fails unless `result` says that there is no such ioctl.
pub(super) fn refused(result: Result<i32>, what: &str) -> TestResult {
    match result {
        Err(error) if [libc::ENOTTY, libc::EINVAL].contains(&error.errno.0) => Ok(()),
        other => crate::harness::fail(format!("{what}: {other:?}")),
    }
}

/// Numbers that do not exist, and known ones with another size or direction.
fn ioctl_unknown() -> TestResult {
    let m = Machine::long(&[])?;
    let before = m.vcpu.regs()?;
    let mut buffer = [0u64; 1024];
    let addr = buffer.as_mut_ptr() as u64;
    for fd in [m.sys.fd(), m.vm.fd(), m.vcpu.fd()] {
        for nr in [0x3f, 0x7f, 0xfe] {
            refused(ioctl(fd, io(nr, "unknown"), addr), &format!("ioctl {nr:#x}"))?;
            refused(ioctl(fd, iow::<u64>(nr, "unknown"), addr), &format!("ioctl {nr:#x}"))?;
        }
        let other_type = Ioctl { nr: 0x5401, name: "TCGETS" };
        refused(ioctl(fd, other_type, addr), "a terminal's ioctl")?;
        refused(ioctl(fd, Ioctl { nr: 0, name: "zero" }, addr), "ioctl 0")?;
        // Right number, wrong size; right number, wrong direction.
        refused(ioctl(fd, iow::<u32>(0x82, "short SET_REGS"), addr), "short SET_REGS")?;
        refused(ioctl(fd, iow::<[u64; 900]>(0x82, "long SET_REGS"), addr), "long SET_REGS")?;
        refused(ioctl(fd, ior::<kb::kvm_regs>(0x82, "SET_REGS to read"), addr), "SET_REGS by read")?;
    }
    check_eq!(m.vcpu.regs()?, before);
    Ok(())
}

/// Ioctls of one descriptor on another.
fn ioctl_wrong_descriptor() -> TestResult {
    let m = Machine::long(&[])?;
    let mut buffer = [0u64; 1024];
    let addr = buffer.as_mut_ptr() as u64;
    let (sys, vm, vcpu) = (m.sys.fd(), m.vm.fd(), m.vcpu.fd());
    for (fd, request) in [
        (sys, KVM_RUN),
        (sys, KVM_CREATE_VCPU),
        (sys, KVM_GET_REGS),
        (sys, KVM_SET_USER_MEMORY_REGION),
        (vm, KVM_RUN),
        (vm, KVM_GET_REGS),
        (vm, KVM_CREATE_VM),
        (vm, KVM_GET_VCPU_MMAP_SIZE),
        (vcpu, KVM_CREATE_VM),
        (vcpu, KVM_CREATE_VCPU),
        (vcpu, KVM_CREATE_IRQCHIP),
        (vcpu, KVM_IRQ_LINE),
    ] {
        refused(ioctl(fd, request, addr), request.name)?;
    }
    Ok(())
}

/// Type 0 exists; types from nowhere do not.
fn ioctl_create_vm_type() -> TestResult {
    let sys = open()?;
    drop(sys.create_vm()?);
    for kind in [0x40, 0xff, 1 << 31, u64::MAX] {
        check_errno!(ioctl(sys.fd(), KVM_CREATE_VM, kind), libc::EINVAL, "type {kind:#x}");
    }
    Ok(())
}

/// Room for kvm_run and the I/O page at least, in whole pages.
fn ioctl_vcpu_mmap_size() -> TestResult {
    let sys = open()?;
    let size = sys.mmap_size()?;
    check!(size >= 2 * PAGE && size % PAGE == 0, "mmap size {size}");
    check_errno!(ioctl(sys.fd(), KVM_GET_VCPU_MMAP_SIZE, 1), libc::EINVAL);
    Ok(())
}

/// Unknown capabilities are 0, on both descriptors; the basic ones are there.
fn ioctl_check_extension() -> TestResult {
    let sys = open()?;
    let vm = sys.create_vm()?;
    for cap in [5000, 0x7fff_ffff, u64::from(u32::MAX), u64::MAX] {
        check_eq!(ioctl(sys.fd(), KVM_CHECK_EXTENSION, cap)?, 0, "capability {cap}");
        check_eq!(ioctl(vm.fd(), KVM_CHECK_EXTENSION, cap)?, 0, "capability {cap} of the VM");
    }
    for cap in [
        kb::KVM_CAP_USER_MEMORY,
        kb::KVM_CAP_NR_VCPUS,
        kb::KVM_CAP_MAX_VCPUS,
        kb::KVM_CAP_NR_MEMSLOTS,
        kb::KVM_CAP_EXT_CPUID,
        kb::KVM_CAP_IMMEDIATE_EXIT,
        kb::KVM_CAP_SYNC_MMU,
        kb::KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        kb::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
        kb::KVM_CAP_CHECK_EXTENSION_VM,
        kb::KVM_CAP_IRQCHIP,
        kb::KVM_CAP_MP_STATE,
        kb::KVM_CAP_VCPU_EVENTS,
        kb::KVM_CAP_DEBUGREGS,
        kb::KVM_CAP_GET_TSC_KHZ,
        kb::KVM_CAP_SIGNAL_MSI,
        kb::KVM_CAP_USER_NMI,
        kb::KVM_CAP_SET_TSS_ADDR,
    ] {
        check!(sys.check(cap) > 0, "capability {cap} is missing");
        check_eq!(sys.check(cap), vm.check(cap), "capability {cap} on device and VM");
    }
    check!(sys.check(kb::KVM_CAP_NR_MEMSLOTS) >= 32, "too few memory slots");
    Ok(())
}

/// A capability and a call that must not say "no such ioctl" when it is advertised.
type Probe = (u32, fn(&Machine, u64) -> Result<i32>);

/// What is advertised is there: none of the ioctls behind a capability is unknown.
fn ioctl_capabilities_work() -> TestResult {
    let probes: &[Probe] = &[
        (kb::KVM_CAP_IRQCHIP, |m, at| ioctl(m.vcpu.fd(), KVM_GET_LAPIC, at)),
        (kb::KVM_CAP_SET_TSS_ADDR, |m, _| ioctl(m.vm.fd(), KVM_SET_TSS_ADDR, 0xfffb_d000)),
        (kb::KVM_CAP_EXT_CPUID, |m, at| ioctl(m.vcpu.fd(), KVM_GET_CPUID2, at)),
        (kb::KVM_CAP_MP_STATE, |m, at| ioctl(m.vcpu.fd(), KVM_GET_MP_STATE, at)),
        (kb::KVM_CAP_USER_NMI, |m, _| ioctl(m.vcpu.fd(), KVM_NMI, 0)),
        (kb::KVM_CAP_VCPU_EVENTS, |m, at| ioctl(m.vcpu.fd(), KVM_GET_VCPU_EVENTS, at)),
        (kb::KVM_CAP_DEBUGREGS, |m, at| ioctl(m.vcpu.fd(), KVM_GET_DEBUGREGS, at)),
        (kb::KVM_CAP_XSAVE, |m, at| ioctl(m.vcpu.fd(), KVM_GET_XSAVE, at)),
        (kb::KVM_CAP_XSAVE2, |m, at| ioctl(m.vcpu.fd(), KVM_GET_XSAVE2, at)),
        (kb::KVM_CAP_XCRS, |m, at| ioctl(m.vcpu.fd(), KVM_GET_XCRS, at)),
        (kb::KVM_CAP_GET_TSC_KHZ, |m, _| ioctl(m.vcpu.fd(), KVM_GET_TSC_KHZ, 0)),
        (kb::KVM_CAP_SIGNAL_MSI, |m, at| ioctl(m.vm.fd(), KVM_SIGNAL_MSI, at)),
        (kb::KVM_CAP_USER_MEMORY2, |m, at| ioctl(m.vm.fd(), KVM_SET_USER_MEMORY_REGION2, at)),
        (kb::KVM_CAP_GET_MSR_FEATURES, |m, at| {
            ioctl(m.sys.fd(), KVM_GET_MSR_FEATURE_INDEX_LIST, at)
        }),
        (kb::KVM_CAP_IRQ_INJECT_STATUS, |m, at| ioctl(m.vm.fd(), KVM_IRQ_LINE_STATUS, at)),
        (kb::KVM_CAP_ADJUST_CLOCK, |m, at| ioctl(m.vm.fd(), ior::<[u64; 6]>(0x7c, "GET_CLOCK"), at)),
        (kb::KVM_CAP_PIT2, |m, at| ioctl(m.vm.fd(), iow::<[u32; 16]>(0x77, "CREATE_PIT2"), at)),
        (kb::KVM_CAP_IRQFD, |m, at| ioctl(m.vm.fd(), iow::<[u64; 4]>(0x76, "IRQFD"), at)),
        (kb::KVM_CAP_IOEVENTFD, |m, at| ioctl(m.vm.fd(), KVM_IOEVENTFD, at)),
        (kb::KVM_CAP_IRQ_ROUTING, |m, at| {
            ioctl(m.vm.fd(), iow::<u64>(0x6a, "SET_GSI_ROUTING"), at)
        }),
        (kb::KVM_CAP_SET_GUEST_DEBUG, |m, at| {
            ioctl(m.vcpu.fd(), iow::<[u64; 9]>(0x9b, "SET_GUEST_DEBUG"), at)
        }),
        (kb::KVM_CAP_ENABLE_CAP_VM, |m, at| ioctl(m.vm.fd(), iow::<[u64; 13]>(0xa3, "ENABLE_CAP"), at)),
        (kb::KVM_CAP_MCE, |m, at| ioctl(m.sys.fd(), ior::<u64>(0x9d, "GET_MCE_CAP"), at)),
    ];
    let m = Setup::new(Mode::Long).irqchip().build(&[])?;
    let mut known = Vec::new();
    for (cap, probe) in probes {
        known.push(*cap);
        if m.vm.check(*cap) <= 0 {
            continue;
        }
        let mut buffer = vec![0u64; 2048];
        if let Err(error) = probe(&m, buffer.as_mut_ptr() as u64) {
            check!(error.errno.0 != libc::ENOTTY, "capability {cap} is advertised: {error:?}");
        }
    }
    let others = (0..250).filter(|cap| m.vm.check(*cap) != 0 && !known.contains(cap));
    note(format!("advertised and not probed here: {:?}", others.collect::<Vec<_>>()));
    Ok(())
}

/// KVM_GET_SUPPORTED_CPUID with room, with too little, and with bad pointers.
fn ioctl_supported_cpuid() -> TestResult {
    let sys = open()?;
    let list = sys.supported_cpuid()?;
    let entries = list.entries();
    for leaf in [0, 1, 7, 0x8000_0000, 0x8000_0001, 0x8000_0008] {
        let found = entries.iter().any(|e| e.function == leaf);
        check!(found, "leaf {leaf:#x} is missing");
    }
    for (i, e) in entries.iter().enumerate() {
        let same = |o: &kb::kvm_cpuid_entry2| o.function == e.function && o.index == e.index;
        check!(!entries[..i].iter().any(same), "leaf {:#x}.{} twice", e.function, e.index);
    }
    for room in [0, 1, entries.len() - 1] {
        let mut small = Fam::<kb::kvm_cpuid_entry2, 8>::new(room);
        let result = ioctl(sys.fd(), KVM_GET_SUPPORTED_CPUID, small.addr());
        check_errno!(result, libc::E2BIG, "room for {room}");
    }
    let mut exact = Fam::<kb::kvm_cpuid_entry2, 8>::new(entries.len());
    ioctl(sys.fd(), KVM_GET_SUPPORTED_CPUID, exact.addr())?;
    let mut huge = Fam::<kb::kvm_cpuid_entry2, 8>::new(256);
    huge.set_len(u32::MAX);
    ioctl(sys.fd(), KVM_GET_SUPPORTED_CPUID, huge.addr())?;
    check_eq!(huge.len(), entries.len());
    for addr in [0, 8, u64::MAX, 0xffff_8000_0000_0000] {
        check_errno!(ioctl(sys.fd(), KVM_GET_SUPPORTED_CPUID, addr), libc::EFAULT);
    }
    Ok(())
}

/// Both MSR lists: E2BIG gives the number, and every MSR in the list can be read on a vCPU.
fn ioctl_msr_index_list() -> TestResult {
    let m = Machine::long(&[])?;
    let fd = m.sys.fd();
    let indices = m.sys.msr_list(KVM_GET_MSR_INDEX_LIST)?;
    for request in [KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST] {
        let want = m.sys.msr_list(request)?.len();
        if want > 0 {
            let mut empty = Fam::<u32, 4>::new(0);
            check_errno!(ioctl(fd, request, empty.addr()), libc::E2BIG);
            check_eq!(empty.len(), want, "number after E2BIG");
        }
        for addr in [0, u64::MAX, 0xffff_8000_0000_0000] {
            check_errno!(ioctl(fd, request, addr), libc::EFAULT);
        }
    }
    for index in [0x10, 0x174, 0x175, 0x176, 0x277, 0xc000_0081, 0xc000_0082, 0xc000_0084,
        0xc000_0102]
    {
        check!(indices.contains(&index), "MSR {index:#x} is not in the list");
    }
    for (i, index) in indices.iter().enumerate() {
        check!(!indices[..i].contains(index), "MSR {index:#x} is in the list twice");
        check!(m.vcpu.msr(*index)?.is_some(), "MSR {index:#x} is listed and cannot be read");
    }
    Ok(())
}

/// Feature MSRs are read on the device node.
fn ioctl_feature_msrs() -> TestResult {
    let sys = open()?;
    for index in sys.msr_list(KVM_GET_MSR_FEATURE_INDEX_LIST)? {
        let entry = kb::kvm_msr_entry { index, ..Default::default() };
        let mut list = Fam::<_, 8>::from_slice(&[entry]);
        let done = ioctl(sys.fd(), KVM_GET_MSRS, list.addr());
        match done {
            Ok(done) => check_eq!(done, 1, "feature MSR {index:#x}"),
            Err(error) => return Err(Outcome::Fail(format!("MSR {index:#x}: {error:?}"))),
        }
    }
    Ok(())
}
