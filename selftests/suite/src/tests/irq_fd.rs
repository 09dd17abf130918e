// SPDX-License-Identifier: GPL-2.0-only
//! KVM_IRQFD: eventfds that raise interrupts, with resampling too.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use kvm_bindings as kb;

use super::irq_route::wait_code;
use crate::guest::*;
use crate::harness::{env, Outcome, TestResult};
use crate::kvm::msi_route;
use crate::machine::*;

tests!(
    irq_fd_message,
    irq_fd_while_running,
    irq_fd_pending_before,
    irq_fd_deassign,
    irq_fd_bad,
    irq_fd_resample,
    irq_fd_closed,
);

const DEASSIGN: u32 = kb::KVM_IRQFD_FLAG_DEASSIGN;
const RESAMPLE: u32 = kb::KVM_IRQFD_FLAG_RESAMPLE;

/// A new eventfd that does not block.
fn eventfd() -> OwnedFd {
    // SAFETY: a new descriptor that the caller owns.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) }
}

fn signal(event: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight bytes of a local variable.
    unsafe { libc::write(event.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
}

/// Signals an eventfd that raises a line, which KVM does in a kernel thread.
fn signal_line(event: &OwnedFd) {
    signal(event);
    std::thread::sleep(Duration::from_millis(5));
}

/// How often `event` was signalled since the last time.
fn count(event: &OwnedFd) -> u64 {
    let mut value = 0u64;
    // SAFETY: eight bytes into a local variable.
    unsafe { libc::read(event.as_raw_fd(), std::ptr::from_mut(&mut value).cast(), 8) };
    value
}

/// A machine whose GSI 30 is the vector 0x51, and an eventfd for it.
fn machine() -> std::result::Result<(Machine, OwnedFd), Outcome> {
    let mut m = Machine::irqchip(wait_code())?;
    m.run_sync()?;
    m.vm.set_routes(&[msi_route(30, 0x51)])?;
    let event = eventfd();
    m.vm.irqfd(event.as_raw_fd(), 30, 0, 0)?;
    Ok((m, event))
}

fn settle(m: &mut Machine) -> TestResult {
    for _ in 0..3 {
        m.run_sync()?;
    }
    Ok(())
}

/// Each signal is one interrupt, and the eventfd's counter stays empty.
fn irq_fd_message() -> TestResult {
    let (mut m, event) = machine()?;
    for round in 1..=50 {
        signal(&event);
        settle(&mut m)?;
        check_eq!(m.irq_count(0x51), round);
    }
    check_eq!(count(&event), 0);
    // A new route is that of the next signal.
    m.vm.set_routes(&[msi_route(30, 0x52)])?;
    signal(&event);
    settle(&mut m)?;
    check_eq!((m.irq_count(0x51), m.irq_count(0x52)), (50, 1));
    // Without a route there is none.
    m.vm.set_routes(&[])?;
    signal(&event);
    settle(&mut m)?;
    check_eq!(m.irq_log().len(), 51);
    Ok(())
}

guest!(irq_fd_halt:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "out SYNC, al",
    "2: cli",
    "cmp dword ptr [IRQ_COUNTS + 0x51 * 4], edi",
    "jae 3f",
    "sti",
    "hlt",
    "jmp 2b",
    "3:",
    "out DONE, al",
);

/// Another thread signals while the guest runs and sleeps; it waits for the guest's count each time.
fn irq_fd_while_running() -> TestResult {
    let rounds = env().rounds(200);
    let mut m = Machine::irqchip(irq_fd_halt())?;
    m.with_regs(|r| r.rdi = rounds)?;
    m.run_sync()?;
    m.vm.set_routes(&[msi_route(30, 0x51)])?;
    let event = eventfd();
    m.vm.irqfd(event.as_raw_fd(), 30, 0, 0)?;
    let (mem, event) = (m.mem.addr(), &event);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // SAFETY: the guest's memory lives as long as the machine, which outlives this thread.
            let taken = || unsafe { ((mem + IRQ_COUNTS + 0x51 * 4) as *const u32).read_volatile() };
            for round in 0..rounds {
                signal(event);
                while u64::from(taken()) <= round {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        m.run_done()
    })?;
    check_eq!(u64::from(m.irq_count(0x51)), rounds);
    Ok(())
}

/// What was signalled before the assignment is raised with it.
fn irq_fd_pending_before() -> TestResult {
    let mut m = Machine::irqchip(wait_code())?;
    m.run_sync()?;
    m.vm.set_routes(&[msi_route(30, 0x51)])?;
    let event = eventfd();
    signal(&event);
    m.vm.irqfd(event.as_raw_fd(), 30, 0, 0)?;
    // KVM raises it in a kernel thread.
    std::thread::sleep(Duration::from_millis(20));
    settle(&mut m)?;
    check_eq!(m.irq_count(0x51), 1);
    Ok(())
}

/// Afterwards the eventfd is the caller's again.
fn irq_fd_deassign() -> TestResult {
    let (mut m, event) = machine()?;
    m.vm.irqfd(event.as_raw_fd(), 31, DEASSIGN, 0)?;
    signal(&event);
    settle(&mut m)?;
    check_eq!(m.irq_count(0x51), 1, "another GSI was deassigned");
    m.vm.irqfd(event.as_raw_fd(), 30, DEASSIGN, 0)?;
    signal(&event);
    settle(&mut m)?;
    check_eq!(m.irq_count(0x51), 1);
    check_eq!(count(&event), 1);
    m.vm.irqfd(event.as_raw_fd(), 30, 0, 0)?;
    signal(&event);
    settle(&mut m)?;
    check_eq!(m.irq_count(0x51), 2, "assigned again");
    Ok(())
}

/// Flags and descriptors that are none, an eventfd twice, and no interrupt controllers.
fn irq_fd_bad() -> TestResult {
    let (m, event) = machine()?;
    let fd = event.as_raw_fd();
    check_errno!(m.vm.irqfd(fd, 30, 0, 0), libc::EBUSY);
    check_errno!(m.vm.irqfd(fd, 31, 0, 0), libc::EBUSY);
    check_errno!(m.vm.irqfd(fd, 30, 1 << 7, 0), libc::EINVAL);
    check_errno!(m.vm.irqfd(-1, 30, 0, 0), libc::EBADF);
    check_errno!(m.vm.irqfd(m.vm.fd(), 30, 0, 0), libc::EINVAL);
    let other = eventfd();
    check_errno!(m.vm.irqfd(other.as_raw_fd(), 5, RESAMPLE, -1), libc::EBADF);
    let none = Machine::long(wait_code())?;
    check_errno!(none.vm.irqfd(other.as_raw_fd(), 5, 0, 0), libc::EINVAL);
    Ok(())
}

guest!(irq_fd_level:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov ebx, 0xfec00000",
    "mov dword ptr [rbx], 0x27", "mov dword ptr [rbx + 0x10], 0",
    "mov dword ptr [rbx], 0x26", "mov dword ptr [rbx + 0x10], 0x805b",
    "sti",
    "2: out DONE, al",
    "jmp 2b",
    ".org 99b + 0x100",
    "inc qword ptr [DATA]",
    "out SYNC, al",
    "mov dword ptr [rbp + 0xb0], 0",
    "iretq",
);

/// The line stays high until the EOI, which lowers it and signals who can raise it again.
fn irq_fd_resample() -> TestResult {
    let mut m = Machine::irqchip(irq_fd_level())?;
    m.set_gate(0x5b, CODE + 0x100);
    m.run_done()?;
    let (event, again) = (eventfd(), eventfd());
    m.vm.irqfd(event.as_raw_fd(), 11, RESAMPLE, again.as_raw_fd())?;
    for round in 1..=10 {
        signal_line(&event);
        m.run_sync()?;
        check_eq!(m.data(0), round);
        check_eq!(count(&again), 0, "before the EOI");
        m.run_done()?;
        check_eq!(count(&again), 1, "after it");
        m.run_done()?;
        check_eq!(m.data(0), round, "the line is low");
    }
    // While another source holds the line, it interrupts again.
    m.vm.irq_line(11, 1)?;
    signal_line(&event);
    m.run_sync()?;
    m.run_sync()?;
    check_eq!(count(&again), 1);
    m.vm.irq_line(11, 0)?;
    m.run_done()?;
    m.run_done()?;
    check_eq!(m.data(0), 12);
    m.vm.irqfd(event.as_raw_fd(), 11, DEASSIGN, 0)?;
    m.run_done()?;
    check_eq!(m.data(0), 12);
    Ok(())
}

/// An eventfd that is closed without deassignment is no trouble, and its number can be used again.
fn irq_fd_closed() -> TestResult {
    let (mut m, event) = machine()?;
    drop(event);
    for round in 1..=20 {
        let event = eventfd();
        m.vm.irqfd(event.as_raw_fd(), 30, 0, 0)?;
        signal(&event);
        settle(&mut m)?;
        check_eq!(m.irq_count(0x51), round);
    }
    Ok(())
}
