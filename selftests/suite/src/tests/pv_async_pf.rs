// SPDX-License-Identifier: GPL-2.0-only
//! Page faults that the host puts off while it fetches a page, on memory whose pages come when the test wants.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::pv::{need, AREA};
use crate::guest::*;
use crate::harness::{skip, Outcome, TestResult};
use crate::host::Mapping;
use crate::kvm::*;
use crate::machine::*;

tests!(
    pv_async_told_user,
    pv_async_told_kernel,
    pv_async_waits,
    pv_async_off,
    pv_async_switched_off,
    pv_async_many,
    pv_async_registers,
);

const ASYNC_PF_INT: u32 = 1 << 14;
const ENABLE_MSR: u32 = 0x4b56_4d02;
const VECTOR_MSR: u32 = 0x4b56_4d06;
const ACK_MSR: u32 = 0x4b56_4d07;

/// Bits of the enable register: on, in kernel mode too, the arrival by interrupt.
const ON: u64 = 1 << 0 | 1 << 3;
const ALWAYS: u64 = 1 << 1;

/// Where the guest finds the memory that is not there.
const AT: u64 = 0x4000_0000;
/// Pages of it.
const PAGES: u64 = 8;
const P: u64 = PAGE as u64;

const FAULT_HANDLER: u64 = FREE + 0x2000;
const READY_HANDLER: u64 = FREE + 0x2400;

/// An `ioctl` of userfaultfd with its argument's words, linux/userfaultfd.h.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFD_API: u64 = 0xaa;
const MODE_MISSING: u64 = 1;

/// Memory whose pages are missing until they are given.
struct Missing {
    memory: Mapping,
    fd: OwnedFd,
}

impl Missing {
    fn new() -> std::result::Result<Self, Outcome> {
        let memory = Mapping::anonymous((PAGES * P) as usize);
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(Outcome::Skip("no userfaultfd".into()));
        }
        // SAFETY: the kernel made it just now.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let this = Self { memory, fd };
        this.call(UFFDIO_API, &mut [UFFD_API, 0, 0])?;
        this.call(UFFDIO_REGISTER, &mut [this.memory.addr(), PAGES * P, MODE_MISSING, 0])?;
        Ok(this)
    }

    fn call(&self, number: u64, words: &mut [u64]) -> TestResult {
        // SAFETY: the words have the layout that the number tells.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), number as _, words.as_mut_ptr()) };
        check!(result == 0, "ioctl {number:#x}: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Gives page `page` with `value` at its start.
    fn give(&self, page: u64, value: u64) -> TestResult {
        let mut source = vec![0u64; 2 * PAGE / 8];
        let at = source.as_ptr() as u64;
        let aligned = at.next_multiple_of(P);
        source[((aligned - at) / 8) as usize] = value;
        self.call(UFFDIO_COPY, &mut [self.memory.addr() + page * P, aligned, P, 0, 0])
    }
}

guest!(apf_kernel:
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0xf0], 0x1ff",
    "xor edx, edx",
    "mov ecx, 0x4b564d06", "mov eax, 0x61", "wrmsr",
    "mov ecx, 0x4b564d02", "mov eax, esi", "wrmsr",
    "sti", "nop",
    "out SYNC, al",
    "2: mov rax, [rbx]", "mov [DATA], rax",
    "out DONE, al",
    "add rbx, 0x1000",
    "jmp 2b",
);

guest!(apf_user:
    "mov ebp, 0xfee00000", "mov dword ptr [rbp + 0xf0], 0x1ff",
    "xor edx, edx",
    "mov ecx, 0x4b564d06", "mov eax, 0x61", "wrmsr",
    "mov ecx, 0x4b564d02", "mov eax, esi", "wrmsr",
    "sti", "nop",
    "out SYNC, al",
    "push 0x2b", "push 0x3e000", "push 0x3202", "push 0x33",
    "lea rax, [rip + 2f]", "push rax", "iretq",
    "2: mov rax, [rbx]", "mov [DATA], rax",
    "out DONE, al",
    "add rbx, 0x1000",
    "jmp 2b",
);

guest!(apf_fault:
    // Says which page is missing, and waits until it is said to be there.
    "push rax",
    "mov rax, cr2", "mov [DATA + 64], rax",
    "mov eax, [0x40000]", "mov [DATA + 72], rax", "mov dword ptr [0x40000], 0",
    "mov rax, [rsp + 8]", "mov [DATA + 80], rax",
    "inc qword ptr [DATA + 88]",
    "out SYNC, al",
    "3: cli",
    "mov rax, [DATA + 64]", "cmp rax, [DATA + 112]", "je 4f",
    "sti", "hlt",
    "jmp 3b",
    "4: pop rax", "add rsp, 8",
    "iretq",
);

guest!(apf_ready:
    "push rax", "push rcx", "push rdx",
    // Another's token may come between the one that is waited for and the look at it.
    "mov eax, [0x40004]", "mov [DATA + 96], rax",
    "cmp rax, [DATA + 64]", "jne 2f", "mov [DATA + 112], rax",
    "2: inc qword ptr [DATA + 104]",
    "mov dword ptr [0x40004], 0",
    "mov eax, 0xfee000b0", "mov dword ptr [rax], 0",
    "mov ecx, 0x4b564d07", "mov eax, 1", "xor edx, edx", "wrmsr",
    // No interrupt comes between STI and HLT, but QEMU 7.2 does not load the interrupt shadow at VMRUN.
    "mov rax, [rsp + 24]", "cmp byte ptr [rax], 0xf4", "jne 3f", "inc qword ptr [rsp + 24]", "3:",
    "pop rdx", "pop rcx", "pop rax",
    "iretq",
);

/// A machine with the missing memory, which has enabled what `flags` say. The memory goes last.
fn machine(code: &[u8], flags: u64) -> std::result::Result<(Machine, Missing), Outcome> {
    let missing = Missing::new()?;
    let mut m = Machine::irqchip(code)?;
    need(&m, ASYNC_PF_INT)?;
    m.vm.set_slot(1, 0, AT, PAGES * P, missing.memory.addr())?;
    m.mem.write(FAULT_HANDLER, apf_fault());
    m.mem.write(READY_HANDLER, apf_ready());
    m.set_gate(14, FAULT_HANDLER);
    m.set_gate(0x61, READY_HANDLER);
    let value = if flags == 0 { 0 } else { AREA | flags };
    m.with_regs(|r| (r.rbx, r.rsi) = (AT, value))?;
    m.run_sync()?;
    Ok((m, missing))
}

/// What the guest's handlers saw: token, flags and error code of the fault; how many faults; the last token that
/// came, and how many.
fn seen(m: &Machine) -> ([u64; 3], u64, u64, u64) {
    ([8, 9, 10].map(|i| m.data(i)), m.data(11), m.data(12), m.data(13))
}

fn told(code: &[u8], flags: u64) -> TestResult {
    let (mut m, missing) = machine(code, flags)?;
    // Switched on, the service first says that anything may have come.
    check_eq!(seen(&m), ([0; 3], 0, 0xffff_ffff, 1));
    for page in 0..PAGES {
        m.run_sync()?;
        let ([token, reason, error], faults, _, came) = seen(&m);
        check!(token != 0 && token != 0xffff_ffff, "token {token:#x}");
        check_eq!((reason, error, faults, came), (1, 0, page + 1, page + 1), "page {page}");
        missing.give(page, 0x1234 + page)?;
        m.run_done()?;
        check_eq!(m.data(0), 0x1234 + page);
        let (_, faults, last, came) = seen(&m);
        check_eq!((faults, last, came), (page + 1, token, page + 2), "page {page}");
    }
    Ok(())
}

/// A guest in user mode is told to do something else, and that the page has come.
fn pv_async_told_user() -> TestResult {
    told(apf_user(), ON)
}

/// One in kernel mode is told if it wants.
fn pv_async_told_kernel() -> TestResult {
    told(apf_kernel(), ON | ALWAYS)
}

/// Calls `meanwhile` while the guest runs to its end.
fn while_running(m: &mut Machine, meanwhile: impl FnOnce(&Vm, &Mapping) -> TestResult) -> TestResult {
    let Machine { vcpu, vm, mem, .. } = m;
    std::thread::scope(|scope| -> TestResult {
        let thread = scope.spawn(|| vcpu.run());
        std::thread::sleep(Duration::from_millis(20));
        let result = meanwhile(vm, mem);
        let exit = thread.join().map_err(|_| Outcome::Fail("the thread panicked".into()))?;
        result?;
        check!(matches!(exit?, Exit::Out { port: PORT_DONE, .. }));
        Ok(())
    })
}

/// One in kernel mode that does not want is not told, but interrupts reach it.
fn pv_async_waits() -> TestResult {
    let (mut m, missing) = machine(apf_kernel(), ON)?;
    for page in 0..PAGES {
        while_running(&mut m, |vm, mem| {
            vm.signal_msi(0xfee0_0000, 0x55)?;
            let start = Instant::now();
            let taken = || u64::from(mem.get32(IRQ_COUNTS + 0x55 * 4)) > page;
            while !taken() && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let taken = taken();
            missing.give(page, 0x4321 + page)?;
            check!(taken, "the interrupt waits for page {page}");
            Ok(())
        })?;
        check_eq!(m.data(0), 0x4321 + page);
        check_eq!(m.data(11), 0, "faults of the guest");
    }
    Ok(())
}

/// A guest that has not enabled it gets its page all the same.
fn pv_async_off() -> TestResult {
    let (mut m, missing) = machine(apf_user(), 0)?;
    while_running(&mut m, |_, _| missing.give(0, 0x77))?;
    check_eq!(m.data(0), 0x77);
    check_eq!(seen(&m), ([0; 3], 0, 0, 0));
    Ok(())
}

/// Calls `f` while the first page comes, but not at once: KVM waits for its fetches when it gives them up.
fn while_given(missing: &Missing, f: impl FnOnce() -> TestResult) -> TestResult {
    std::thread::scope(|scope| -> TestResult {
        let giver = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            missing.give(0, 0x99)
        });
        let result = f();
        giver.join().map_err(|_| Outcome::Fail("the thread panicked".into()))??;
        result
    })
}

/// When it is switched off, or the machine goes, while pages are fetched, nothing comes any more.
fn pv_async_switched_off() -> TestResult {
    // All memory stays until the end: a fetch that nobody waits for may still touch its page.
    let (mut m, switched_off) = machine(apf_user(), ON)?;
    m.run_sync()?;
    check_eq!(seen(&m).1, 1, "faults");
    while_given(&switched_off, || {
        check!(m.vcpu.set_msr(ENABLE_MSR, 0)?);
        // The guest's handler would wait for ever.
        m.set_data(14, m.data(8));
        Ok(())
    })?;
    m.run_done()?;
    check_eq!((m.data(0), m.data(13)), (0x99, 1));
    let (mut m, gone) = machine(apf_user(), ON)?;
    m.run_sync()?;
    while_given(&gone, || {
        drop(m);
        Ok(())
    })
}

/// Another task that needs the same page waits, and one that is told of many hears of each.
fn pv_async_many() -> TestResult {
    let (mut m, missing) = machine(apf_user(), ON)?;
    let mut tokens = Vec::new();
    for page in 0..PAGES {
        m.run_sync()?;
        tokens.push(m.data(8));
        // The guest goes on with another task, which faults on the next page.
        if page + 1 < PAGES {
            m.set_data(14, m.data(8));
            let mut regs = m.vcpu.regs()?;
            regs.rbx = AT + (page + 1) * P;
            m.vcpu.set_regs(&regs)?;
        }
    }
    tokens.sort_unstable();
    tokens.dedup();
    check_eq!(tokens.len() as u64, PAGES, "tokens");
    for page in (0..PAGES).rev() {
        missing.give(page, 0x5555)?;
    }
    std::thread::sleep(Duration::from_millis(50));
    // The last task's page is among those that come; the rest follow as fast as they are acknowledged.
    m.run_done()?;
    check_eq!(m.data(0), 0x5555);
    let last = m.data(8);
    check!(tokens.contains(&last));
    m.with_regs(|r| r.rbx = AT - P)?;
    let start = Instant::now();
    while m.data(13) < 1 + PAGES && start.elapsed() < Duration::from_secs(5) {
        m.with_regs(|r| r.rbx = AT - P)?;
        m.run_done()?;
    }
    check_eq!(m.data(13), 1 + PAGES, "arrivals");
    Ok(())
}

/// The registers are saved and restored, and refuse what they can't be.
fn pv_async_registers() -> TestResult {
    let m = Machine::irqchip(apf_kernel())?;
    need(&m, ASYNC_PF_INT)?;
    if m.vm.check(kvm_bindings::KVM_CAP_ASYNC_PF_INT) == 0 {
        return skip("KVM_CAP_ASYNC_PF_INT".to_owned());
    }
    for msr in [ENABLE_MSR, VECTOR_MSR, ACK_MSR] {
        check_eq!(m.vcpu.msr(msr)?, Some(0));
    }
    for value in [AREA | ON, AREA | ON | ALWAYS, AREA | 1, AREA, 0] {
        check!(m.vcpu.set_msr(ENABLE_MSR, value)?, "{value:#x}");
        check_eq!(m.vcpu.msr(ENABLE_MSR)?, Some(value));
    }
    for value in [AREA | ON | 0x10, AREA | ON | 0x20, MMIO | ON] {
        check!(!m.vcpu.set_msr(ENABLE_MSR, value)?, "{value:#x}");
        check_eq!(m.vcpu.msr(ENABLE_MSR)?, Some(0));
    }
    check!(m.vcpu.set_msr(VECTOR_MSR, 0xf3)? && !m.vcpu.set_msr(VECTOR_MSR, 0x100)?);
    check_eq!(m.vcpu.msr(VECTOR_MSR)?, Some(0xf3));
    check!(m.vcpu.set_msr(ACK_MSR, 1)?);
    check_eq!(m.vcpu.msr(ACK_MSR)?, Some(0));
    // Without a local APIC in the kernel there is no interrupt to tell anything by.
    let none = Machine::long(apf_kernel())?;
    check!(!none.vcpu.set_msr(ENABLE_MSR, AREA | ON)? && none.vcpu.set_msr(ENABLE_MSR, 0)?);
    check!(!none.vcpu.set_msr(VECTOR_MSR, 0xf3)?);
    Ok(())
}
