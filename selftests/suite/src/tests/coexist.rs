// SPDX-License-Identifier: GPL-2.0-only
//! Several machines at once, and a guest of KVM beside a guest of the device under test.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::entry_state::{take_turns, turn_code};
use crate::cpus::move_to;
use crate::harness::{env, skip, Outcome, TestResult};
use crate::host::{alarm, catch_signal, Random};

use crate::machine::*;

tests!(
    coexist_two_vms_threads,
    coexist_two_vms_memory,
    coexist_kvm_turns,
    coexist_kvm_random,
    coexist_kvm_threads = 40,
    coexist_kvm_same_addresses,
    coexist_kvm_create_destroy = 40,
);

/// Real KVM's node.
const KVM: &str = "/dev/kvm";

/// Skips when there is no second hypervisor to run beside.
fn need_kvm() -> TestResult {
    if !env().is_vireo() {
        return Ok(()); // KVM beside itself: valid, if less interesting.
    }
    if !Path::new(KVM).exists() {
        return skip("no /dev/kvm beside the device");
    }
    Ok(())
}

fn kvm_machine(code: &[u8]) -> Result<Machine, Outcome> {
    Setup::new(Mode::Long).device(KVM).build(code)
}

guest!(own_memory:
    // Fills 64 pages with RDI and checks them for ever; counts rounds in R14.
    "sti",
    "2:",
    "mov eax, 0x100000", "mov ecx, 64",
    "3: mov [rax], rdi", "add rax, 0x1000", "dec ecx", "jnz 3b",
    "mov eax, 0x100000", "mov ecx, 64",
    "4: cmp [rax], rdi", "jne 5f", "add rax, 0x1000", "dec ecx", "jnz 4b",
    "mov rbx, cr3", "mov cr3, rbx",
    "inc r14",
    "cmp r14, rsi", "jb 2b",
    "5: mov eax, ecx",
    "out DONE, al",
);

/// Runs `machines` each in a thread of its own until they are done; all must find their memory.
fn in_threads(machines: Vec<Machine>, rounds: u64) -> TestResult {
    for (i, m) in machines.iter().enumerate() {
        m.with_regs(|r| (r.rdi, r.rsi) = (0x1111_0000 + i as u64, rounds))?;
    }
    let workers: Vec<_> = machines
        .into_iter()
        .map(|mut m| {
            std::thread::spawn(move || -> Result<u64, Outcome> {
                let regs = m.run_with(|_, exit| {
                    crate::harness::fail(format!("unexpected {exit:x?}"))
                })?;
                check_eq!(regs.rax, 0, "pages left to check");
                Ok(regs.r14)
            })
        })
        .collect();
    for worker in workers {
        match worker.join() {
            Ok(done) => check_eq!(done?, rounds),
            Err(_) => return crate::harness::fail("a thread panicked"),
        }
    }
    Ok(())
}

/// Four machines in four threads, each with its own memory at the same addresses.
fn coexist_two_vms_threads() -> TestResult {
    let mut machines = Vec::new();
    for _ in 0..4 {
        machines.push(Machine::long(own_memory())?);
    }
    in_threads(machines, env().rounds(2000))
}

guest!(memory_turn:
    "2: mov rax, [0x100000]",
    "mov [0x100000], rdi",
    "out SYNC, al",
    "jmp 2b",
);

/// Lets `machines` take turns; each must find in its memory what it wrote there.
fn memory_turns(machines: &mut [Machine], rounds: u64) -> TestResult {
    for (i, m) in machines.iter().enumerate() {
        m.with_regs(|r| r.rdi = 100 + i as u64)?;
    }
    for round in 0..rounds {
        for (i, m) in machines.iter_mut().enumerate() {
            let seen = m.run_sync()?.rax;
            let want = if round == 0 { 0 } else { 100 + i as u64 };
            check_eq!(seen, want, "machine {i} in round {round}");
        }
    }
    Ok(())
}

/// Two machines with the same guest addresses, in turns on one processor.
fn coexist_two_vms_memory() -> TestResult {
    let mut machines = [Machine::long(memory_turn())?, Machine::long(memory_turn())?];
    memory_turns(&mut machines, env().rounds(200))
}

/// A guest of KVM and one of ours alternate on one processor: MSRs, DR0, CR2 and XMM7 stay.
fn coexist_kvm_turns() -> TestResult {
    need_kvm()?;
    // The machines follow each other on one processor.
    move_to(0, 0);
    let mut machines = [Machine::long(turn_code())?, kvm_machine(turn_code())?];
    take_turns(&mut machines, env().rounds(400), |round| round)
}

/// Two of each in random order, with signals between.
fn coexist_kvm_random() -> TestResult {
    need_kvm()?;
    // The machines follow each other on one processor.
    move_to(0, 0);
    let mut machines = [
        Machine::long(turn_code())?,
        kvm_machine(turn_code())?,
        Machine::irqchip(turn_code())?,
        Setup::new(Mode::Long).device(KVM).irqchip().build(turn_code())?,
    ];
    let mut random = Random(0xabcd_ef01_2345);
    take_turns(&mut machines, env().rounds(400), |_| random.number() >> 20)
}

/// Guests of both run at the same time in threads, preempted at any instruction.
fn coexist_kvm_threads() -> TestResult {
    need_kvm()?;
    let mut machines = Vec::new();
    for _ in 0..2 {
        machines.push(Machine::long(own_memory())?);
        machines.push(kvm_machine(own_memory())?);
    }
    in_threads(machines, env().rounds(2000))
}

/// The same guest addresses under equal TLB tags must not be mixed up between the two.
fn coexist_kvm_same_addresses() -> TestResult {
    need_kvm()?;
    // The machines follow each other on one processor.
    move_to(0, 0);
    let mut machines = [Machine::long(memory_turn())?, kvm_machine(memory_turn())?];
    memory_turns(&mut machines, env().rounds(300))
}

guest!(coexist_spin:
    "sti",
    "2: inc qword ptr [DATA]",
    "jmp 2b",
);

/// One hypervisor's machines come and go (which may turn the processor's extension off and on)
/// while the other's runs.
fn coexist_kvm_create_destroy() -> TestResult {
    need_kvm()?;
    catch_signal(libc::SIGALRM);
    for (stays_on_kvm, rounds) in [(true, env().rounds(30)), (false, env().rounds(30))] {
        let build = |on_kvm: bool| match on_kvm {
            true => kvm_machine(coexist_spin()),
            false => Machine::long(coexist_spin()),
        };
        let mut stays = build(stays_on_kvm)?;
        let stop = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            let stop = &stop;
            let worker = scope.spawn(move || -> TestResult {
                for _ in 0..rounds {
                    let mut comes = build(!stays_on_kvm)?;
                    comes.vcpu.set_immediate_exit(1);
                    check_errno!(comes.vcpu.run(), libc::EINTR);
                }
                stop.store(true, Ordering::Relaxed);
                Ok(())
            });
            while !stop.load(Ordering::Relaxed) && !worker.is_finished() {
                alarm(Duration::from_millis(3), Duration::from_millis(3));
                match stays.vcpu.run() {
                    Err(error) if error.errno.0 == libc::EINTR => {}
                    other => return crate::harness::fail(format!("unexpected {other:x?}")),
                }
            }
            match worker.join() {
                Ok(result) => result,
                Err(_) => crate::harness::fail("the thread panicked"),
            }
        });
        alarm(Duration::ZERO, Duration::ZERO);
        result?;
        check!(stays.data(0) > 0, "the machine that stays made no progress");
    }
    Ok(())
}
