// SPDX-License-Identifier: GPL-2.0-only
//! Interrupts for a vCPU that is in its guest all the while, which a processor can take without an exit.

use super::irq_smp::{wait_for, with_second};
use crate::harness::{env, TestResult};
use crate::machine::*;

tests!(irq_posted_ipi = 60, irq_posted_halting = 60,);

/// The vector of the interrupts that are counted.
const VECTOR: u64 = 0x61;

// Sends one interrupt after the other to the second, each when the one before has been counted; EDI of them.
guest!(posted_sender:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "out SYNC, al",
    "xor ebx, ebx",
    "2: inc ebx",
    "mov dword ptr [rbp + 0x310], 0x01000000",
    "mov dword ptr [rbp + 0x300], 0x61",
    "3: pause",
    "cmp [IRQ_COUNTS + 0x61 * 4], ebx", "jb 3b",
    "cmp ebx, edi", "jb 2b",
    "out DONE, al",
);

// Spins with interrupts on.
guest!(posted_spinner:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [DATA + 64], 1",
    "sti",
    "2: cmp dword ptr [DATA + 72], 0", "je 2b",
    "out DONE, al",
);

// Spins for as long as it takes the sender to send about one more, then halts: the interrupts meet it on its way
// in, in the guest, on its way out and asleep.
guest!(posted_halter:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [DATA + 64], 1",
    "xor esi, esi",
    "sti",
    "2: inc esi",
    "mov ecx, esi",
    "and ecx, 0xff",
    "inc ecx",
    "3: loop 3b",
    "cli",
    "cmp dword ptr [DATA + 72], 0", "jne 9f",
    "sti", "hlt",
    "jmp 2b",
    "9: out DONE, al",
);

/// Has the first vCPU send `rounds` interrupts to the second, which runs `code`, and counts them.
fn count(code: &[u8], rounds: u64) -> TestResult {
    let mut m = Machine::irqchip(posted_sender())?;
    m.run_sync()?;
    m.with_regs(|r| r.rdi = rounds)?;
    with_second(&mut m, code, |m| {
        wait_for("second vCPU", || m.data(8) == 1)?;
        m.run_done()?;
        check_eq!(u64::from(m.irq_count(VECTOR)), rounds);
        Ok(())
    })
}

/// A vCPU that spins takes each interrupt once.
fn irq_posted_ipi() -> TestResult {
    count(posted_spinner(), env().rounds(2000))
}

/// So does one that halts now and then: none is lost on its way into or out of the guest.
fn irq_posted_halting() -> TestResult {
    count(posted_halter(), env().rounds(2000))
}
