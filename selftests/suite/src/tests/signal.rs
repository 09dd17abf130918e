// SPDX-License-Identifier: GPL-2.0-only
//! Signals at a running vCPU: they end KVM_RUN with EINTR and disturb nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::guest::*;
use crate::harness::{env, Outcome, TestResult};
use crate::host::{alarm, block_signal, catch_signal};
use crate::kvm::Exit;
use crate::machine::*;

tests!(
    signal_ends_run,
    signal_immediate_exit,
    signal_immediate_exit_from_thread,
    signal_mask,
    signal_storm_timer = 40,
    signal_storm_exits = 40,
    signal_storm_thread = 40,
    signal_pending_before_run,
    signal_kill_running,
);

guest!(signal_spin:
    "sti",
    "2: inc rbx",
    "jmp 2b",
);

fn stop_alarm() {
    alarm(Duration::ZERO, Duration::ZERO);
}

/// A signal ends a KVM_RUN whose guest never leaves by itself.
fn signal_ends_run() -> TestResult {
    let mut m = Machine::long(signal_spin())?;
    catch_signal(libc::SIGALRM);
    let mut last = 0;
    for _ in 0..5 {
        alarm(Duration::from_millis(10), Duration::from_millis(10));
        check_errno!(m.vcpu.run(), libc::EINTR);
        check_eq!(m.vcpu.kvm_run().exit_reason, kvm_bindings::KVM_EXIT_INTR);
        let rbx = m.vcpu.regs()?.rbx;
        check!(rbx > last, "the guest made no progress: {rbx}");
        last = rbx;
    }
    Ok(())
}

guest!(immediate:
    "2: inc rbx",
    "out SYNC, al",
    "jmp 2b",
);

/// immediate_exit: EINTR before the first instruction.
fn signal_immediate_exit() -> TestResult {
    let mut m = Machine::long(immediate())?;
    for round in 0..10 {
        m.vcpu.set_immediate_exit(1);
        check_errno!(m.vcpu.run(), libc::EINTR);
        check_errno!(m.vcpu.run(), libc::EINTR);
        check_eq!(m.vcpu.regs()?.rbx, round);
        m.vcpu.set_immediate_exit(0);
        m.run_sync()?;
    }
    Ok(())
}

/// The way in which VMMs kick a vCPU: immediate_exit and then a signal to its thread.
fn signal_immediate_exit_from_thread() -> TestResult {
    let mut m = Machine::long(signal_spin())?;
    catch_signal(libc::SIGUSR1);
    // SAFETY: the ID of this thread.
    let target = unsafe { libc::pthread_self() };
    let flag = std::ptr::from_mut(&mut m.vcpu.kvm_run().immediate_exit) as u64;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            // SAFETY: the page is mapped and the thread lives until the scope's end.
            unsafe {
                (flag as *mut u8).write_volatile(1);
                libc::pthread_kill(target, libc::SIGUSR1);
            }
        });
        check_errno!(m.vcpu.run(), libc::EINTR);
        check_errno!(m.vcpu.run(), libc::EINTR, "while immediate_exit is set");
        Ok(())
    })
}

/// KVM_SET_SIGNAL_MASK: a signal that is blocked outside but not in the mask ends KVM_RUN, stays
/// pending, and is not handled.
fn signal_mask() -> TestResult {
    let mut m = Machine::long(signal_spin())?;
    catch_signal(libc::SIGALRM);
    block_signal(libc::SIGALRM, true);
    m.vcpu.set_signal_mask(Some(0))?;
    alarm(Duration::from_millis(10), Duration::from_millis(10));
    check_errno!(m.vcpu.run(), libc::EINTR);
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: fills and reads a local set.
    let pending = unsafe {
        libc::sigpending(pending.as_mut_ptr());
        libc::sigismember(pending.as_ptr(), libc::SIGALRM)
    };
    check_eq!(pending, 1, "SIGALRM after KVM_RUN");
    // The other way round: blocked only while the guest runs.
    block_signal(libc::SIGALRM, false);
    let mut m = Machine::long(immediate())?;
    m.vcpu.set_signal_mask(Some(1 << (libc::SIGALRM - 1)))?;
    alarm(Duration::from_millis(2), Duration::from_millis(2));
    for _ in 0..50 {
        match m.vcpu.run() {
            Ok(Exit::Out { .. }) => {}
            other => return Err(Outcome::Fail(format!("with the signal blocked: {other:x?}"))),
        }
    }
    stop_alarm();
    m.vcpu.set_signal_mask(None)?;
    m.run_sync()?;
    Ok(())
}

guest!(storm:
    // A long computation whose result is known, with memory and XMM registers.
    "sti",
    "mov rax, 1",
    "mov ecx, 500000",
    "movq xmm0, rax",
    "2: imul rax, rax, 6364136223846793005 & 0x7fffffff",
    "add rax, 1442695",
    "movq xmm1, rax",
    "paddq xmm0, xmm1",
    "mov [DATA], rax",
    "add rax, [DATA]",
    "dec ecx", "jnz 2b",
    "movq rbx, xmm0",
    "out DONE, al",
);

/// What [`storm`] computes.
fn storm_result() -> (u64, u64) {
    let (mut a, mut sum) = (1u64, 1u64);
    for _ in 0..500_000 {
        a = a.wrapping_mul(6364136223846793005 & 0x7fff_ffff).wrapping_add(1442695);
        sum = sum.wrapping_add(a);
        a = a.wrapping_add(a);
    }
    (a, sum)
}

/// Signals every millisecond change nothing about what the guest computes.
fn signal_storm_timer() -> TestResult {
    let mut m = Machine::long(storm())?;
    catch_signal(libc::SIGALRM);
    alarm(Duration::from_micros(1000), Duration::from_micros(1000));
    let mut signals = 0;
    loop {
        match m.vcpu.run() {
            Ok(Exit::Out { port: PORT_DONE, .. }) => break,
            Err(error) if error.errno.0 == libc::EINTR => signals += 1,
            other => return Err(Outcome::Fail(format!("{other:x?} after {signals} signals"))),
        }
    }
    stop_alarm();
    let regs = m.vcpu.regs()?;
    check_eq!((regs.rax, regs.rbx), storm_result());
    check!(signals >= 1, "only {signals} signals");
    Ok(())
}

guest!(storm_exits:
    "sti",
    "mov edx, 0x5c0",
    "mov edi, 0xd0000000",
    "2: inc rbx",
    "in eax, dx",
    "cmp eax, ebx", "jne 3f",
    "mov eax, [rdi]",
    "cmp eax, ebx", "jne 3f",
    "mov [rdi], ebx",
    "xor eax, eax", "push rbx", "cpuid", "pop rbx",
    "mov edx, 0x5c0",
    "cmp rbx, rsi", "jb 2b",
    "3: out DONE, al",
);

/// Signals between exits to userspace: no exit is lost and none comes twice.
fn signal_storm_exits() -> TestResult {
    let rounds = env().rounds(400);
    let mut m = Machine::long(storm_exits())?;
    m.with_regs(|r| r.rsi = rounds)?;
    catch_signal(libc::SIGALRM);
    alarm(Duration::from_micros(1000), Duration::from_micros(1000));
    let (mut ins, mut reads, mut writes) = (0u64, 0u64, 0u64);
    let regs = m.run_with(|m, exit| {
        match *exit {
            Exit::In { .. } => {
                ins += 1;
                m.vcpu.set_in_data(&(ins as u32).to_le_bytes());
            }
            Exit::MmioRead { .. } => {
                reads += 1;
                m.vcpu.set_mmio_data(reads);
            }
            Exit::MmioWrite { data, .. } => {
                writes += 1;
                check_eq!(data, writes);
            }
            ref other => return crate::harness::fail(format!("unexpected {other:x?}")),
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    stop_alarm();
    check_eq!(regs.rbx, rounds);
    check_eq!((ins, reads, writes), (rounds, rounds, rounds));
    Ok(())
}

/// Signals from another thread, as fast as it can.
fn signal_storm_thread() -> TestResult {
    let mut m = Machine::long(storm())?;
    catch_signal(libc::SIGUSR1);
    let done = AtomicBool::new(false);
    // SAFETY: the ID of this thread.
    let target = unsafe { libc::pthread_self() };
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the target thread lives until the scope's end.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let result = m.run_with(|_, exit| crate::harness::fail(format!("unexpected {exit:x?}")));
        done.store(true, Ordering::Relaxed);
        result
    })?;
    let regs = m.vcpu.regs()?;
    check_eq!((regs.rax, regs.rbx), storm_result());
    Ok(())
}

/// A signal that is pending already ends KVM_RUN before the guest runs.
fn signal_pending_before_run() -> TestResult {
    let mut m = Machine::long(signal_spin())?;
    catch_signal(libc::SIGUSR1);
    block_signal(libc::SIGUSR1, true);
    // SAFETY: a signal to this thread.
    unsafe { libc::raise(libc::SIGUSR1) };
    m.vcpu.set_signal_mask(Some(0))?;
    check_errno!(m.vcpu.run(), libc::EINTR);
    check_eq!(m.vcpu.regs()?.rbx, 0, "the guest ran");
    Ok(())
}

/// SIGKILL ends a process whose guest never leaves by itself.
fn signal_kill_running() -> TestResult {
    for delay in [0, 500, 5000] {
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = match Machine::long(signal_spin()).map(|mut m| m.vcpu.run()) {
                Ok(_) => 1,
                Err(_) => 2,
            };
            // SAFETY: ends the child.
            unsafe { libc::_exit(code) };
        }
        std::thread::sleep(Duration::from_micros(20_000 + delay));
        let mut status = 0;
        // SAFETY: our own child.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, &mut status, 0);
        }
        check!(libc::WIFSIGNALED(status), "the child ended with {status:#x}");
    }
    Ok(())
}
