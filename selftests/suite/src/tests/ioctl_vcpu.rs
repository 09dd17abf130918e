// SPDX-License-Identifier: GPL-2.0-only
//! Ioctls of the vCPU descriptor with good and bad arguments.

use kvm_bindings as kb;

use crate::harness::{env, skip, Outcome, TestResult};
use crate::host::{alarm, catch_signal, Mapping};
use crate::kvm::*;
use crate::machine::*;

tests!(
    ioctl_vcpu_pointers,
    ioctl_sregs_bad,
    ioctl_regs_rip_and_flags,
    ioctl_debugregs_bad,
    ioctl_xcrs_bad,
    ioctl_events_bad,
    ioctl_mp_state_bad,
    ioctl_signal_mask_bad,
    ioctl_interrupt_bad,
    ioctl_lapic_state,
    ioctl_tsc_khz,
    ioctl_run_bad,
    ioctl_run_without_memory,
    ioctl_mmap,
);

guest!(vcpu_alive:
    "out DONE, al",
);

/// Every getter and setter that takes a pointer.
const POINTERS: &[Ioctl] = &[
    KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_FPU, KVM_SET_FPU,
    KVM_GET_MSRS, KVM_SET_MSRS, KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_GET_MP_STATE,
    KVM_SET_MP_STATE, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS, KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_LAPIC,
    KVM_SET_LAPIC, KVM_INTERRUPT, KVM_SET_SIGNAL_MASK,
];

/// Pointers into nowhere and over the edge of a mapping are EFAULT, and nothing changes.
fn ioctl_vcpu_pointers() -> TestResult {
    let mut m = Machine::irqchip(vcpu_alive())?;
    let (regs, sregs) = (m.vcpu.regs()?, m.vcpu.sregs()?);
    let mem = Mapping::anonymous(2 * PAGE);
    check!(mem.punch(PAGE as u64, PAGE));
    // The edge cuts every structure; what is before it is zero.
    let edge = mem.addr() + PAGE as u64 - 2;
    for &request in POINTERS {
        for addr in [0, 8, edge, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, u64::MAX - 7] {
            if addr == 0 && request == KVM_SET_SIGNAL_MASK {
                continue; // Null removes the mask.
            }
            let result = ioctl(m.vcpu.fd(), request, addr);
            check_errno!(result, libc::EFAULT, "{} at {addr:#x}", request.name);
        }
    }
    // Into memory that may only be read.
    check!(mem.protect(0, PAGE, libc::PROT_READ));
    for request in [KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_FPU, KVM_GET_LAPIC, KVM_GET_XSAVE] {
        check_errno!(ioctl(m.vcpu.fd(), request, mem.addr()), libc::EFAULT, "{}", request.name);
    }
    check_eq!(m.vcpu.regs()?, regs);
    check_eq!(m.vcpu.sregs()?, sregs);
    m.run_done()?;
    Ok(())
}

/// A change to valid special registers.
type Damage = (&'static str, fn(&mut kb::kvm_sregs));

/// Impossible special registers are EINVAL and change nothing.
fn ioctl_sregs_bad() -> TestResult {
    let mut m = Machine::long(vcpu_alive())?;
    let good = m.vcpu.sregs()?;
    let damages: &[Damage] = &[
        ("long mode without PAE", |s| s.cr4 &= !CR4_PAE),
        ("LME and PG without LMA", |s| s.efer &= !EFER_LMA),
        ("LMA without LME", |s| s.efer &= !EFER_LME),
        ("LMA without PG", |s| s.cr0 &= !CR0_PG),
        ("PG without PE", |s| s.cr0 &= !CR0_PE),
        ("NW without CD", |s| s.cr0 |= 1 << 29),
        ("upper half of CR0", |s| s.cr0 |= 1 << 40),
        ("reserved EFER bit", |s| s.efer |= 1 << 40),
        ("reserved CR4 bit", |s| s.cr4 |= 1 << 31),
        ("upper half of CR4", |s| s.cr4 |= 1 << 63),
        ("reserved CR3 bit", |s| s.cr3 |= 1 << 62),
        ("64-bit code without LMA", |s| {
            s.efer &= !(EFER_LMA | EFER_LME);
            s.cr0 &= !CR0_PG;
        }),
    ];
    for (what, damage) in damages {
        let mut bad = good;
        damage(&mut bad);
        check_errno!(m.vcpu.set_sregs(&bad), libc::EINVAL, "{what}");
        check_eq!(m.vcpu.sregs()?, good, "after {what}");
    }
    m.run_done()?;
    Ok(())
}

/// RFLAGS bit 1 is always set.
fn ioctl_regs_rip_and_flags() -> TestResult {
    let m = Machine::long(vcpu_alive())?;
    let mut regs = m.vcpu.regs()?;
    regs.rflags = 0;
    regs.rip = 0x1234_5678_9abc;
    m.vcpu.set_regs(&regs)?;
    let got = m.vcpu.regs()?;
    check_eq!((got.rflags, got.rip), (RFLAGS_ONE, 0x1234_5678_9abc));
    Ok(())
}

/// Flags and the upper halves of DR6 and DR7.
fn ioctl_debugregs_bad() -> TestResult {
    let m = Machine::long(vcpu_alive())?;
    let mut good = m.vcpu.debugregs()?;
    good.db = [1, 2, 3, 0x7fff_0000_0000];
    m.vcpu.set_debugregs(&good)?;
    for change in [
        |d: &mut kb::kvm_debugregs| d.flags = 1,
        |d: &mut kb::kvm_debugregs| d.dr6 |= 1 << 32,
        |d: &mut kb::kvm_debugregs| d.dr7 |= 1 << 63,
    ] {
        let mut bad = good;
        bad.db[0] = 99;
        change(&mut bad);
        check_errno!(m.vcpu.set_debugregs(&bad), libc::EINVAL);
    }
    check_eq!(m.vcpu.debugregs()?.db, good.db);
    Ok(())
}

/// Too many registers, flags, and impossible values of XCR0.
fn ioctl_xcrs_bad() -> TestResult {
    let m = Machine::long(vcpu_alive())?;
    if super::exit_dr::offered_xcr0(&m)? == 0 {
        return skip("no XSAVE on this processor");
    }
    let good = m.vcpu.xcrs()?;
    check_eq!((good.nr_xcrs, good.xcrs[0].value), (1, 1), "XCR0 after reset");
    for change in [
        |x: &mut kb::kvm_xcrs| x.nr_xcrs = 17,
        |x: &mut kb::kvm_xcrs| x.nr_xcrs = u32::MAX,
        |x: &mut kb::kvm_xcrs| x.flags = 1,
        |x: &mut kb::kvm_xcrs| x.xcrs[0].value = 0,
        |x: &mut kb::kvm_xcrs| x.xcrs[0].value = 2,
        |x: &mut kb::kvm_xcrs| x.xcrs[0].value = 5,
        |x: &mut kb::kvm_xcrs| x.xcrs[0].value = 1 | 1 << 40,
    ] {
        let mut bad = good;
        change(&mut bad);
        check_errno!(m.vcpu.set_xcrs(&bad), libc::EINVAL);
        check_eq!(m.vcpu.xcrs()?.xcrs[0].value, 1);
    }
    Ok(())
}

/// Unknown flags, and vectors that are no exceptions.
fn ioctl_events_bad() -> TestResult {
    let mut m = Machine::long(vcpu_alive())?;
    let good = m.vcpu.events()?;
    let mut bad = good;
    bad.flags |= 1 << 30;
    check_errno!(m.vcpu.set_events(&bad), libc::EINVAL);
    for vector in [2, 32, 255] {
        let mut bad = good;
        (bad.exception.injected, bad.exception.nr) = (1, vector);
        check_errno!(m.vcpu.set_events(&bad), libc::EINVAL, "exception {vector}");
    }
    m.vcpu.set_events(&good)?;
    m.run_done()?;
    Ok(())
}

/// States that do not exist.
fn ioctl_mp_state_bad() -> TestResult {
    let mut m = Machine::irqchip(vcpu_alive())?;
    check_eq!(m.vcpu.mp_state()?.mp_state, kb::KVM_MP_STATE_RUNNABLE);
    for mp_state in [5, 6, 7, 8, 100, u32::MAX] {
        check_errno!(m.vcpu.set_mp_state(&kb::kvm_mp_state { mp_state }), libc::EINVAL, "{mp_state}");
    }
    check_eq!(m.vcpu.mp_state()?.mp_state, kb::KVM_MP_STATE_RUNNABLE);
    m.run_done()?;
    Ok(())
}

/// The length of the set must be that of the kernel's.
fn ioctl_signal_mask_bad() -> TestResult {
    let mut m = Machine::long(vcpu_alive())?;
    for len in [0u32, 4, 9, 128, u32::MAX] {
        let arg = [u64::from(len), 0, 0];
        let result = ioctl_in(m.vcpu.fd(), KVM_SET_SIGNAL_MASK, &arg);
        check_errno!(result, libc::EINVAL, "length {len}");
    }
    m.vcpu.set_signal_mask(Some(0))?;
    m.vcpu.set_signal_mask(None)?;
    m.run_done()?;
    Ok(())
}

/// Vectors above 255; and with in-kernel PIC the ioctl does not exist.
fn ioctl_interrupt_bad() -> TestResult {
    let m = Machine::long(vcpu_alive())?;
    for irq in [256, 1000, u32::MAX] {
        check_errno!(m.vcpu.interrupt(irq), libc::EINVAL, "vector {irq}");
    }
    let m = Machine::irqchip(vcpu_alive())?;
    check_errno!(m.vcpu.interrupt(0x41), libc::ENXIO);
    Ok(())
}

/// The local APIC's registers after reset, changed, and read again.
fn ioctl_lapic_state() -> TestResult {
    let m = Machine::irqchip(vcpu_alive())?;
    let mut lapic = m.vcpu.lapic()?;
    let reg = |l: &kb::kvm_lapic_state, at: usize| {
        u32::from_le_bytes(std::array::from_fn(|i| l.regs[at + i] as u8))
    };
    check_eq!(reg(&lapic, 0x20) >> 24, 0, "APIC ID");
    check_eq!(reg(&lapic, 0x30) & 0xff, 0x14, "version");
    check_eq!(reg(&lapic, 0xf0) & 0xff, 0xff, "spurious vector after reset");
    check_eq!(reg(&lapic, 0xe0), u32::MAX, "destination format");
    check!(reg(&lapic, 0x320) & 0x1_0000 != 0, "timer not masked after reset");
    lapic.regs[0x80] = 0x20;
    lapic.regs[0xf1] = 1;
    m.vcpu.set_lapic(&lapic)?;
    let again = m.vcpu.lapic()?;
    check_eq!(reg(&again, 0x80), 0x20, "TPR");
    check_eq!(reg(&again, 0xf0), 0x1ff, "spurious vector register");
    check_eq!(m.vcpu.sregs()?.cr8, 2, "CR8 follows the TPR");
    Ok(())
}

/// The frequency is one, the same on both descriptors.
fn ioctl_tsc_khz() -> TestResult {
    let m = Machine::long(vcpu_alive())?;
    let khz = ioctl(m.vcpu.fd(), KVM_GET_TSC_KHZ, 0)?;
    check!(khz > 1000, "{khz} kHz");
    if let Ok(vm) = ioctl(m.vm.fd(), KVM_GET_TSC_KHZ, 0) {
        check_eq!(vm, khz);
    }
    Ok(())
}

/// KVM_RUN takes no argument.
fn ioctl_run_bad() -> TestResult {
    let mut m = Machine::long(vcpu_alive())?;
    for arg in [1, u64::MAX] {
        check_errno!(ioctl(m.vcpu.fd(), KVM_RUN, arg), libc::EINVAL);
    }
    m.run_done()?;
    Ok(())
}

/// A vCPU with no memory at all ends in an exit or waits for a signal; nothing breaks.
fn ioctl_run_without_memory() -> TestResult {
    let sys = System::open(&env().device)?;
    for irqchip in [false, true] {
        let vm = sys.create_vm()?;
        if irqchip {
            vm.create_irqchip()?;
        }
        let mut vcpu = vm.create_vcpu(0)?;
        catch_signal(libc::SIGALRM);
        alarm(std::time::Duration::from_millis(50), std::time::Duration::from_millis(50));
        match vcpu.run() {
            Ok(Exit::InternalError(_) | Exit::MmioRead { .. } | Exit::Shutdown) => {}
            Err(error) if error.errno.0 == libc::EINTR => {}
            other => return Err(Outcome::Fail(format!("unexpected {other:x?}"))),
        }
    }
    Ok(())
}

/// The mapping of a vCPU: shared, of the advertised size and no more.
fn ioctl_mmap() -> TestResult {
    let m = Machine::long(vcpu_alive())?;
    let size = m.sys.mmap_size()?;
    let map = |fd: i32, len: usize, offset: usize| {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, offset as i64)
        };
        (at != libc::MAP_FAILED).then_some(at.cast::<u8>())
    };
    let Some(second) = map(m.vcpu.fd(), size, 0) else {
        return crate::harness::fail("a second mapping failed");
    };
    // SAFETY: both mappings live; offset 1 is immediate_exit.
    unsafe { second.add(1).write_volatile(1) };
    check_errno!(m.vcpu.run_raw(), libc::EINTR, "immediate_exit through a second mapping");
    // SAFETY: as above, and the mapping is not used again.
    unsafe {
        second.add(1).write_volatile(0);
        libc::munmap(second.cast(), size);
    }
    check!(map(m.vm.fd(), PAGE, 0).is_none(), "the VM can be mapped");
    check!(map(m.sys.fd(), PAGE, 0).is_none(), "the device can be mapped");
    // Beyond the end: refused, or no page there. The child finds out.
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        if let Some(at) = map(m.vcpu.fd(), PAGE, size + 100 * PAGE) {
            // SAFETY: may raise SIGBUS, which is what is looked for.
            unsafe { at.read_volatile() };
            // SAFETY: ends the child.
            unsafe { libc::_exit(1) };
        }
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    let bus = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS;
    check!(bus || status == 0, "read behind the end of the mapping: {status:#x}");
    Ok(())
}
