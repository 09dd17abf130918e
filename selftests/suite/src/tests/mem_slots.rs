// SPDX-License-Identifier: GPL-2.0-only
//! Memory slots that come, go and move, also while the guest runs.

use std::ops::ControlFlow::Continue;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{env, skip, TestResult};
use crate::host::Mapping;
use crate::kvm::*;
use crate::machine::*;

tests!(
    mem_slot_delete_is_mmio,
    mem_slot_move,
    mem_slot_replace,
    mem_slot_readonly,
    mem_slot_alias,
    mem_slot_cross_boundary,
    mem_slot_churn = 40,
    mem_slot_churn_own = 40,
    mem_high_gpa,
    mem_all_of_ram,
);

const P: u64 = PAGE as u64;
/// Where the tests put their slot; identity-mapped like everything below 4 GiB.
const AT: u64 = 0x4000_0000;

guest!(slot_touch:
    // Reads [RSI], adds one, writes it back; then again for ever.
    "2: mov rax, [rsi]",
    "inc rax",
    "mov [rsi], rax",
    "out SYNC, al",
    "jmp 2b",
);

/// A machine whose guest touches [`AT`], and the slot's memory.
fn touching() -> std::result::Result<(Machine, Mapping), crate::harness::Outcome> {
    let m = Machine::long(slot_touch())?;
    m.with_regs(|r| r.rsi = AT)?;
    let mem = Mapping::anonymous(16 * PAGE);
    m.vm.set_slot(1, 0, AT, 16 * P, mem.addr())?;
    Ok((m, mem))
}

/// After deletion the same address is MMIO; after creation it is memory again.
fn mem_slot_delete_is_mmio() -> TestResult {
    let (mut m, mem) = touching()?;
    for round in 1..=20 {
        m.run_sync()?;
        check_eq!(mem.get(0), round * 2 - 1);
        m.vm.set_slot(1, 0, 0, 0, 0)?;
        check_eq!(m.run()?, Exit::MmioRead { gpa: AT, len: 8 });
        m.vcpu.set_mmio_data(41);
        check_eq!(m.run()?, Exit::MmioWrite { gpa: AT, len: 8, data: 42 });
        m.vm.set_slot(1, 0, AT, 16 * P, mem.addr())?;
        m.run_sync()?;
        m.run_sync()?;
        check_eq!(mem.get(0), round * 2);
    }
    Ok(())
}

/// A moved slot is gone from the old place and there at the new one.
fn mem_slot_move() -> TestResult {
    let (mut m, mem) = touching()?;
    m.run_sync()?;
    for i in 1..=20 {
        let place = AT + i * 0x20_0000;
        m.vm.set_slot(1, 0, place, 16 * P, mem.addr())?;
        let exit = m.run()?;
        check!(matches!(exit, Exit::MmioRead { .. }), "old place: {exit:x?}");
        m.vcpu.set_mmio_data(0);
        let exit = m.run()?;
        check!(matches!(exit, Exit::MmioWrite { .. }), "old place: {exit:x?}");
        m.run_sync()?;
        m.with_regs(|r| r.rsi = place)?;
        m.run_sync()?;
        check_eq!(mem.get(0), i + 1, "at the new place");
    }
    Ok(())
}

/// Other memory at the same place is seen at once.
fn mem_slot_replace() -> TestResult {
    let (mut m, first) = touching()?;
    let second = Mapping::anonymous(16 * PAGE);
    second.set(0, 1000);
    for round in 1..=20 {
        m.run_sync()?;
        check_eq!((first.get(0), second.get(0)), (round, 999 + round));
        m.vm.set_slot(1, 0, 0, 0, 0)?;
        m.vm.set_slot(1, 0, AT, 16 * P, second.addr())?;
        m.run_sync()?;
        check_eq!((first.get(0), second.get(0)), (round, 1000 + round));
        m.vm.set_slot(1, 0, 0, 0, 0)?;
        m.vm.set_slot(1, 0, AT, 16 * P, first.addr())?;
    }
    Ok(())
}

/// A read-only slot reads as memory and writes as MMIO.
fn mem_slot_readonly() -> TestResult {
    let (mut m, mem) = touching()?;
    if m.sys.check(kb::KVM_CAP_READONLY_MEM) == 0 {
        return skip("no KVM_CAP_READONLY_MEM");
    }
    m.vm.set_slot(1, 0, 0, 0, 0)?;
    m.vm.set_slot(1, kb::KVM_MEM_READONLY, AT, 16 * P, mem.addr())?;
    mem.set(0, 0x1234);
    for _ in 0..3 {
        check_eq!(m.run()?, Exit::MmioWrite { gpa: AT, len: 8, data: 0x1235 });
        m.run_sync()?;
    }
    check_eq!(mem.get(0), 0x1234);
    // The memory may even be mapped read-only.
    check!(mem.protect(0, PAGE, libc::PROT_READ));
    check_eq!(m.run()?, Exit::MmioWrite { gpa: AT, len: 8, data: 0x1235 });
    m.run_sync()?;
    Ok(())
}

/// The same memory at two places.
fn mem_slot_alias() -> TestResult {
    let (mut m, mem) = touching()?;
    m.vm.set_slot(2, 0, AT + 0x100_0000, 16 * P, mem.addr())?;
    for round in 1..=10 {
        m.with_regs(|r| r.rsi = AT)?;
        m.run_sync()?;
        m.with_regs(|r| r.rsi = AT + 0x100_0000)?;
        m.run_sync()?;
        check_eq!(mem.get(0), round * 2);
    }
    Ok(())
}

/// An access over the border of two slots reaches both.
fn mem_slot_cross_boundary() -> TestResult {
    let (mut m, mem) = touching()?;
    let next = Mapping::anonymous(PAGE);
    m.vm.set_slot(2, 0, AT + 16 * P, P, next.addr())?;
    mem.set(16 * P - 8, 0xffff_ffff << 32);
    m.with_regs(|r| r.rsi = AT + 16 * P - 4)?;
    m.run_sync()?;
    check_eq!(mem.get(16 * P - 8), 0, "end of the first");
    check_eq!(next.get(0), 1, "begin of the second");
    Ok(())
}

guest!(churn_loop:
    // Counts in a page of slot 0, and touches the page at RSI now and then.
    "sti",
    "mov ebx, 0",
    "2: inc qword ptr [DATA]",
    "mov rax, [rsi]",
    "mov rax, [rsi + 0x1000]",
    "cmp qword ptr [DATA + 8], 0",
    "je 2b",
    "out DONE, al",
);

/// Another thread deletes, moves and creates slots under a running vCPU.
fn mem_slot_churn() -> TestResult {
    let mut m = Machine::long(churn_loop())?;
    let mem = Mapping::anonymous(16 * PAGE);
    m.with_regs(|r| r.rsi = AT)?;
    m.vm.set_slot(1, 0, AT, 16 * P, mem.addr())?;
    let failed = AtomicBool::new(false);
    let vm = m.vm.fd();
    let set = |gpa: u64, size: u64| {
        let region = kb::kvm_userspace_memory_region {
            slot: 1,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: mem.addr(),
        };
        ioctl_in(vm, KVM_SET_USER_MEMORY_REGION, &region)
    };
    let stop = m.mem.addr() + DATA + 8;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..env().rounds(60) {
                let steps = [
                    set(AT, 0),
                    set(AT, 16 * P),
                    set(AT + 0x1000_0000, 16 * P),
                    set(AT, 16 * P),
                ];
                if steps.iter().any(|step| step.is_err()) {
                    failed.store(true, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
            // SAFETY: the word that tells the guest to stop; the mapping outlives the thread.
            unsafe { (stop as *mut u64).write_volatile(1) };
        });
        m.run_with(|m, exit| match exit {
            Exit::MmioRead { .. } => {
                m.vcpu.set_mmio_data(0);
                Ok(Continue(()))
            }
            other => crate::harness::fail(format!("unexpected {other:x?}")),
        })
    })?;
    check!(!failed.load(Ordering::Relaxed), "an ioctl failed");
    check!(m.data(0) > 0);
    Ok(())
}

/// The guest's own memory is taken away and given back while it runs: it waits in MMIO or goes on.
fn mem_slot_churn_own() -> TestResult {
    let (mut m, mem) = touching()?;
    for round in 1..=env().rounds(100) {
        m.vm.set_slot(1, 0, 0, 0, 0)?;
        m.vm.set_slot(1, 0, AT, 16 * P, mem.addr())?;
        m.run_sync()?;
        check_eq!(mem.get(0), round);
    }
    Ok(())
}

guest!(high_gpa:
    "mov rax, 0x1122334455667788",
    "mov [0x600000], rax",
    "mov rbx, [0x600000]",
    "out DONE, al",
);

/// Memory and devices above 4 GiB, up to what CPUID gives as physical address width.
fn mem_high_gpa() -> TestResult {
    let m = Machine::long(high_gpa())?;
    let width = m.vcpu.cpuid()?.iter().find(|e| e.function == 0x8000_0008).map_or(36, |e| e.eax & 0xff);
    let mem = Mapping::anonymous(PAGE);
    for bit in [32, 35, width - 1] {
        let mut m = Machine::long(high_gpa())?;
        let gpa = 1u64 << bit;
        m.map_small(0x60_0000, 0x50000, gpa | 7);
        check_eq!(m.run()?, Exit::MmioWrite { gpa, len: 8, data: 0x1122_3344_5566_7788 });
        check_eq!(m.run()?, Exit::MmioRead { gpa, len: 8 });
        m.vcpu.set_mmio_data(5);
        check_eq!(m.run_done()?.rbx, 5);
        let mut m = Machine::long(high_gpa())?;
        m.map_small(0x60_0000, 0x50000, gpa | 7);
        m.vm.set_slot(1, 0, gpa, P, mem.addr())?;
        mem.set(0, 0);
        m.run_done()?;
        check_eq!(mem.get(0), 0x1122_3344_5566_7788, "memory at {gpa:#x}");
    }
    Ok(())
}

guest!(all_of_ram:
    "sti",
    "cld",
    "mov rdi, 0x40000000", "mov ecx, 0x200000", "mov rax, rdi",
    "2: mov [rdi], rdi", "add rdi, 0x1000", "sub ecx, 0x1000", "jnz 2b",
    "mov rdi, 0x40000000", "mov ecx, 0x200000",
    "3: cmp [rdi], rdi", "jne 4f", "add rdi, 0x1000", "sub ecx, 0x1000", "jnz 3b",
    "4: out DONE, al",
);

/// 2 MiB page by page, each with its own content, which the host sees where it should be.
fn mem_all_of_ram() -> TestResult {
    const SIZE: usize = 2 << 20;
    let mut m = Machine::long(all_of_ram())?;
    let mem = Mapping::anonymous(SIZE);
    m.vm.set_slot(1, 0, AT, SIZE as u64, mem.addr())?;
    check_eq!(m.run_done()?.rcx, 0, "bytes left");
    for page in (0..SIZE as u64).step_by(PAGE) {
        check_eq!(mem.get(page), AT + page);
    }
    Ok(())
}
