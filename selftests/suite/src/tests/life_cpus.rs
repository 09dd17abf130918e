// SPDX-License-Identifier: GPL-2.0-only
//! vCPUs that move between processors, processors that come and go, threads that share a vCPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::entry_state::{take_turns, turn_code};
use crate::cpus::{move_to, usable};
use crate::harness::{env, fail, skip, Outcome, TestResult};
use crate::host::{alarm, catch_signal};
use crate::kvm::{ioctl, Errno, KVM_RUN};
use crate::machine::*;

tests!(
    life_migrate_between_runs,
    life_migrate_while_running = 40,
    life_vcpu_in_many_threads,
    life_ioctls_while_running,
    life_processor_offline = 60,
);

fn need_two() -> TestResult {
    if usable().len() < 2 {
        return skip("one processor only");
    }
    Ok(())
}

/// Three machines, each on another processor at every turn, keep their MSRs and registers.
fn life_migrate_between_runs() -> TestResult {
    need_two()?;
    let mut machines = Vec::new();
    for _ in 0..3 {
        machines.push(Machine::long(turn_code())?);
    }
    take_turns(&mut machines, env().rounds(200), |round| {
        move_to(0, round as usize / 2);
        round
    })
}

guest!(cpus_sum:
    "sti",
    "mov eax, 1", "movq xmm3, rax",
    "mov ecx, 500000",
    "2: imul rax, rax, 1664525",
    "add rax, 1013904223",
    "movq xmm1, rax", "paddq xmm3, xmm1",
    "inc qword ptr [DATA]",
    "dec ecx", "jnz 2b",
    "movq rbx, xmm3",
    "out DONE, al",
);

/// The vCPU's thread is pushed to and fro in the middle of KVM_RUN.
fn life_migrate_while_running() -> TestResult {
    need_two()?;
    let mut m = Machine::long(cpus_sum())?;
    // SAFETY: the ID of this thread.
    let tid = unsafe { libc::gettid() };
    let done = AtomicBool::new(false);
    let regs = std::thread::scope(|scope| {
        scope.spawn(|| {
            for nth in 0.. {
                move_to(tid, nth);
                std::thread::sleep(Duration::from_micros(500));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let regs = m.run_done();
        done.store(true, Ordering::Relaxed);
        regs
    })?;
    let (mut value, mut sum) = (1u64, 1u64);
    for _ in 0..500_000 {
        value = value.wrapping_mul(1664525).wrapping_add(1013904223);
        sum = sum.wrapping_add(value);
    }
    check_eq!((regs.rax, regs.rbx, m.data(0)), (value, sum, 500_000));
    Ok(())
}

guest!(cpus_count:
    "2: inc rbx",
    "out SYNC, al",
    "jmp 2b",
);

/// Four threads take turns with one vCPU; every run counts once.
fn life_vcpu_in_many_threads() -> TestResult {
    let m = Machine::irqchip(cpus_count())?;
    const RUNS: u64 = 25;
    let vcpu = m.vcpu.fd();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for _ in 0..RUNS {
                    let _ = ioctl(vcpu, KVM_RUN, 0);
                    std::thread::yield_now();
                }
            });
        }
    });
    check_eq!(m.vcpu.regs()?.rbx, 4 * RUNS);
    Ok(())
}

guest!(cpus_spin:
    "sti",
    "2: inc rbx",
    "jmp 2b",
);

/// An ioctl on a vCPU that runs waits for the run's end; the VM's ioctls do not wait.
fn life_ioctls_while_running() -> TestResult {
    let mut m = Machine::irqchip(cpus_spin())?;
    catch_signal(libc::SIGUSR1);
    // SAFETY: the ID of this thread.
    let target = unsafe { libc::pthread_self() };
    let vm = m.vm.fd();
    let vcpu = m.vcpu.fd();
    std::thread::scope(|scope| -> TestResult {
        let worker = scope.spawn(move || -> Result<Duration, Outcome> {
            std::thread::sleep(Duration::from_millis(5));
            let msi = kvm_bindings::kvm_msi { address_lo: 0xfee0_0000, data: 0x41, ..Default::default() };
            crate::kvm::ioctl_in(vm, crate::kvm::KVM_SIGNAL_MSI, &msi)?;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                // SAFETY: the target thread lives until the scope's end.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
            });
            let start = Instant::now();
            let mut regs = kvm_bindings::kvm_regs::default();
            crate::kvm::ioctl_out(vcpu, crate::kvm::KVM_GET_REGS, &mut regs)?;
            check!(regs.rbx > 0, "no progress when the run had ended");
            Ok(start.elapsed())
        });
        check_errno!(m.vcpu.run(), libc::EINTR);
        match worker.join() {
            Ok(waited) => check!(waited? >= Duration::from_millis(10), "KVM_GET_REGS did not wait"),
            Err(_) => return fail("the thread panicked"),
        }
        Ok(())
    })
}

/// A processor goes offline and comes back while machines live and run.
fn life_processor_offline() -> TestResult {
    need_two()?;
    let switch = format!("/sys/devices/system/cpu/cpu{}/online", usable()[1]);
    if !std::path::Path::new(&switch).exists() {
        return skip("the processor cannot go offline");
    }
    catch_signal(libc::SIGALRM);
    let mut m = Machine::irqchip(cpus_spin())?;
    for _ in 0..env().rounds(2) {
        move_to(0, 1);
        run_for(&mut m, 5)?;
        if std::fs::write(&switch, "0").is_err() {
            return skip("the processor does not go offline");
        }
        // The state was left on the processor that is gone.
        move_to(0, 0);
        run_for(&mut m, 5)?;
        let mut fresh = Machine::long(cpus_count())?;
        fresh.run_sync()?;
        std::fs::write(&switch, "1").map_err(|error| Outcome::Fail(error.to_string()))?;
        move_to(0, 1);
        run_for(&mut m, 5)?;
        fresh.run_sync()?;
        check_eq!(fresh.vcpu.regs()?.rbx, 2);
    }
    Ok(())
}

/// Runs a guest that spins for some milliseconds; it must make progress, if not at once then soon: a signal
/// may come before the first entry on a slow machine.
fn run_for(m: &mut Machine, millis: u64) -> TestResult {
    let before = m.vcpu.regs()?.rbx;
    for _ in 0..50 {
        alarm(Duration::from_millis(millis), Duration::from_millis(millis));
        let result = m.vcpu.run();
        alarm(Duration::ZERO, Duration::ZERO);
        match result {
            Err(error) if error.errno == Errno(libc::EINTR) => {}
            other => return fail(format!("unexpected {other:x?}")),
        }
        if m.vcpu.regs()?.rbx > before {
            return Ok(());
        }
    }
    fail("no progress".to_string())
}
