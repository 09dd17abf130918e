// SPDX-License-Identifier: GPL-2.0-only
//! KVM_IOEVENTFD: writes to a port or an address become events, without an exit to userspace.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kvm_bindings as kb;

use crate::guest::MMIO;
use crate::harness::{skip, Outcome, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(
    ioctl_ioeventfd_pio,
    ioctl_ioeventfd_mmio,
    ioctl_ioeventfd_datamatch,
    ioctl_ioeventfd_bad,
);

/// A port that no test uses otherwise.
const PORT: u64 = 0x5c8;
const PIO: u32 = 1 << kb::kvm_ioeventfd_flag_nr_pio;
const DATAMATCH: u32 = 1 << kb::kvm_ioeventfd_flag_nr_datamatch;
const DEASSIGN: u32 = 1 << kb::kvm_ioeventfd_flag_nr_deassign;

/// A new eventfd that does not block.
fn eventfd() -> OwnedFd {
    // SAFETY: a new descriptor that the caller owns.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) }
}

/// How often `event` was signalled since the last time.
fn count(event: &OwnedFd) -> u64 {
    let mut value = 0u64;
    // SAFETY: eight bytes into a local variable.
    unsafe { libc::read(event.as_raw_fd(), std::ptr::from_mut(&mut value).cast(), 8) };
    value
}

/// KVM_IOEVENTFD on `m`.
fn set(m: &Machine, event: &OwnedFd, addr: u64, len: u32, flags: u32, data: u64) -> Result<()> {
    let fd = event.as_raw_fd();
    let arg = kb::kvm_ioeventfd { datamatch: data, addr, len, fd, flags, ..Default::default() };
    ioctl_in(m.vm.fd(), KVM_IOEVENTFD, &arg).map(drop)
}

/// A machine that runs `code`, if its node has the ioctl.
fn machine(code: &[u8]) -> std::result::Result<Machine, Outcome> {
    let m = Machine::long(code)?;
    if m.sys.check(kb::KVM_CAP_IOEVENTFD) == 0 {
        return skip("no KVM_CAP_IOEVENTFD");
    }
    Ok(m)
}

guest!(eventfd_pio:
    "mov edx, 0x5c8",
    "mov eax, 0x12345678",
    "2: out dx, al",
    "out dx, eax",
    "out SYNC, al",
    "jmp 2b",
);

/// Only writes of the registered length are events; after deassignment none is.
fn ioctl_ioeventfd_pio() -> TestResult {
    let mut m = machine(eventfd_pio())?;
    let (bytes, words) = (eventfd(), eventfd());
    set(&m, &bytes, PORT, 1, PIO, 0)?;
    check!(matches!(m.run()?, Exit::Out { port: 0x5c8, size: 4, .. }), "the other length");
    m.run_sync()?;
    check_eq!(count(&bytes), 1);
    set(&m, &words, PORT, 4, PIO, 0)?;
    for _ in 0..10 {
        m.run_sync()?;
    }
    check_eq!((count(&bytes), count(&words)), (10, 10));
    set(&m, &bytes, PORT, 1, PIO | DEASSIGN, 0)?;
    check!(matches!(m.run()?, Exit::Out { port: 0x5c8, size: 1, .. }), "after deassignment");
    m.run_sync()?;
    check_eq!((count(&bytes), count(&words)), (0, 1));
    Ok(())
}

guest!(eventfd_mmio:
    "mov ebx, 0xd0000000",
    "2: mov dword ptr [rbx + 16], 7",
    "mov [rbx + 24], rax",
    "out SYNC, al",
    "jmp 2b",
);

/// MMIO writes, of one length and of any.
fn ioctl_ioeventfd_mmio() -> TestResult {
    let mut m = machine(eventfd_mmio())?;
    let (doubles, any) = (eventfd(), eventfd());
    set(&m, &doubles, MMIO + 16, 4, 0, 0)?;
    check_eq!(m.run()?, Exit::MmioWrite { gpa: MMIO + 24, len: 8, data: 0 });
    m.run_sync()?;
    check_eq!(count(&doubles), 1);
    let length = if m.sys.check(kb::KVM_CAP_IOEVENTFD_ANY_LENGTH) != 0 { 0 } else { 8 };
    set(&m, &any, MMIO + 24, length, 0, 0)?;
    for _ in 0..10 {
        m.run_sync()?;
    }
    check_eq!((count(&doubles), count(&any)), (10, 10));
    Ok(())
}

guest!(eventfd_data:
    "mov edx, 0x5c8",
    "2: mov eax, 1", "out dx, ax",
    "mov eax, 2", "out dx, ax",
    "mov eax, 3", "out dx, ax",
    "out SYNC, al",
    "jmp 2b",
);

/// Events of one value each (how virtio tells its queues apart).
fn ioctl_ioeventfd_datamatch() -> TestResult {
    let mut m = machine(eventfd_data())?;
    let (one, two) = (eventfd(), eventfd());
    set(&m, &one, PORT, 2, PIO | DATAMATCH, 1)?;
    set(&m, &two, PORT, 2, PIO | DATAMATCH, 2)?;
    for _ in 0..5 {
        let exit = m.run()?;
        check_eq!(exit, Exit::Out { port: 0x5c8, size: 2, data: vec![3, 0] });
        m.run_sync()?;
    }
    check_eq!((count(&one), count(&two)), (5, 5));
    Ok(())
}

/// Lengths that do not exist, unknown flags, descriptors that are no eventfds, and duplicates.
fn ioctl_ioeventfd_bad() -> TestResult {
    let m = machine(&[])?;
    let event = eventfd();
    for len in [3, 5, 16, u32::MAX] {
        check_errno!(set(&m, &event, PORT, len, PIO, 0), libc::EINVAL, "length {len}");
    }
    check_errno!(set(&m, &event, PORT, 1, PIO | 1 << 20, 0), libc::EINVAL, "unknown flag");
    check_errno!(set(&m, &event, u64::MAX, 4, 0, 0), libc::EINVAL, "wraps");
    check_errno!(set(&m, &event, PORT, 0, PIO | DATAMATCH, 0), libc::EINVAL, "data of no length");
    check_errno!(set(&m, &event, PORT, 1, PIO | DEASSIGN, 0), libc::ENOENT, "was never there");
    set(&m, &event, PORT, 1, PIO, 0)?;
    check_errno!(set(&m, &event, PORT, 1, PIO, 0), libc::EEXIST);
    // A descriptor that is none, and one of something else.
    let bad = |fd| kb::kvm_ioeventfd { addr: 0x700, len: 1, fd, flags: PIO, ..Default::default() };
    check_errno!(ioctl_in(m.vm.fd(), KVM_IOEVENTFD, &bad(-1)), libc::EBADF);
    check_errno!(ioctl_in(m.vm.fd(), KVM_IOEVENTFD, &bad(m.vm.fd())), libc::EINVAL);
    check_errno!(ioctl(m.vm.fd(), KVM_IOEVENTFD, 0), libc::EFAULT);
    Ok(())
}
