// SPDX-License-Identifier: GPL-2.0-only
//! What the host does to the memory of a running guest: it must never see anything stale.
//!
//! The guest checks its pages over and over. Each page holds its own address plus a number that
//! the host changes; whatever happens to the pages underneath, the guest sees what the host sees.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::guest::*;
use crate::harness::{env, Outcome, TestResult};
use crate::host::{Mapping, Random};
use crate::kvm::PAGE;
use crate::machine::*;

tests!(
    mem_dontneed,
    mem_dontneed_running,
    mem_fork_cow,
    mem_fork_cow_running = 60,
    mem_huge_pages,
    mem_mprotect,
    mem_munmap,
    mem_remap,
    mem_shared_memfd,
    mem_mremap,
);

pub(super) const P: u64 = PAGE as u64;
/// Where the slot under test is.
pub(super) const AT: u64 = 0x4000_0000;
/// Pages in it, unless a test needs more.
pub(super) const PAGES: u64 = 64;

guest!(page_checker:
    // RSI: first page, RDI: pages, R12: what each page holds besides its address. When R13 is not
    // 0 the guest adds R13 to each page and to R12 after each good round. [DATA] counts rounds;
    // [DATA + 8] stops it, [DATA + 16] asks for a checkpoint after every round.
    "sti",
    "2:",
    "mov rax, rsi", "mov rcx, rdi",
    "3:",
    "mov rdx, rax", "add rdx, r12",
    "cmp [rax], rdx", "jne 6f",
    "add [rax], r13",
    "add rax, 0x1000",
    "dec rcx", "jnz 3b",
    "add r12, r13",
    "inc qword ptr [DATA]",
    "cmp qword ptr [DATA + 8], 0", "jne 5f",
    "cmp qword ptr [DATA + 16], 0", "je 2b",
    "out SYNC, al",
    "jmp 2b",
    "5: xor eax, eax",
    "6: out DONE, al",
);

/// Writes to each of `pages` pages what the guest expects for `number`.
pub(super) fn fill(mem: &Mapping, pages: u64, number: u64) {
    for page in 0..pages {
        mem.set(page * P, AT + page * P + number);
    }
}

/// A guest that checks `mem`, with a checkpoint after every round when `stepwise`.
pub(super) fn checker(mem: &Mapping, step: u64, stepwise: bool) -> Result<Machine, Outcome> {
    let m = Machine::long(page_checker())?;
    let pages = mem.size() as u64 / P;
    m.vm.set_slot(1, 0, AT, mem.size() as u64, mem.addr())?;
    fill(mem, pages, 0);
    m.with_regs(|r| (r.rsi, r.rdi, r.r12, r.r13) = (AT, pages, 0, step))?;
    m.set_data(2, stepwise.into());
    Ok(m)
}

/// Runs the guest in this thread while another does `work`, until `work` is done.
fn while_running(m: &mut Machine, work: impl FnOnce() + Send) -> TestResult {
    let stop = m.mem.addr() + DATA + 8;
    let regs = std::thread::scope(|scope| {
        scope.spawn(move || {
            work();
            // SAFETY: the word that tells the guest to stop; the mapping outlives the thread.
            unsafe { (stop as *mut u64).write_volatile(1) };
        });
        m.run_done()
    })?;
    no_mismatch(m, &regs)
}

fn no_mismatch(m: &Machine, regs: &kvm_bindings::kvm_regs) -> TestResult {
    check_eq!(regs.rax, 0, "page {:#x} should hold {:#x} after {} rounds", regs.rax, regs.rdx, m.data(0));
    Ok(())
}

/// Pages thrown away are zero for the guest too, and new contents are seen.
fn mem_dontneed() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 0, true)?;
    let mut random = Random(77);
    m.run_sync()?;
    for _ in 0..env().rounds(100) {
        let page = random.below(PAGES);
        check!(mem.advise(page * P, PAGE, libc::MADV_DONTNEED));
        let regs = m.run_done()?;
        check_eq!(regs.rax, AT + page * P, "the page that the guest finds wrong");
        check_eq!(mem.get(page * P), 0);
        mem.set(page * P, AT + page * P);
        m.with_regs(|r| r.rip = CODE)?;
        m.run_sync()?;
    }
    Ok(())
}

/// Throwing a page away under a guest that counts in it: the page is new for both sides at once.
fn mem_dontneed_running() -> TestResult {
    let mut m = Machine::long(dontneed_loop())?;
    let mem = Mapping::anonymous(PAGE * 4);
    m.vm.set_slot(1, 0, AT, 4 * P, mem.addr())?;
    let stop = m.mem.addr() + DATA + 8;
    let (kept, stuck) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=env().rounds(200) {
                mem.set(8, round);
                mem.advise(0, PAGE, libc::MADV_DONTNEED);
                kept.fetch_add(u64::from(mem.get(8) != 0), Ordering::Relaxed);
                // A guest that still writes to the old page would not be seen here.
                let start = Instant::now();
                while mem.get(0) == 0 && start.elapsed() < Duration::from_secs(2) {
                    std::thread::sleep(Duration::from_micros(100));
                }
                stuck.fetch_add(u64::from(mem.get(0) == 0), Ordering::Relaxed);
            }
            // SAFETY: as in `while_running`.
            unsafe { (stop as *mut u64).write_volatile(1) };
        });
        m.run_done()
    })?;
    check_eq!(kept.into_inner(), 0, "pages that kept their contents");
    check_eq!(stuck.into_inner(), 0, "pages in which the guest's writes were not seen");
    Ok(())
}

guest!(dontneed_loop:
    "sti",
    "mov ebx, 0x40000000",
    "2: inc qword ptr [rbx]",
    "cmp qword ptr [DATA + 8], 0", "je 2b",
    "out DONE, al",
);

/// Forks a child that holds the memory for `hold` and then goes; `None` when fork fails.
fn fork_and_hold(hold: Duration) -> Option<i32> {
    // SAFETY: the child only sleeps and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: async-signal-safe calls only.
        unsafe {
            libc::usleep(hold.as_micros() as u32);
            libc::_exit(0);
        }
    }
    (pid > 0).then_some(pid)
}

fn reap(pid: i32) {
    // SAFETY: waits for a child of this process.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// After a fork the parent's guest writes to copies, and the host sees those writes.
fn mem_fork_cow() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 1, true)?;
    for round in 1..=env().rounds(20) {
        let pid = fork_and_hold(Duration::from_millis(2));
        m.run_sync()?;
        for page in 0..PAGES {
            check_eq!(mem.get(page * P), AT + page * P + round, "page {page} in round {round}");
        }
        if let Some(pid) = pid {
            reap(pid);
        }
    }
    Ok(())
}

/// Forks while the guest runs and writes: nothing is lost, nothing leaks into the child's copy.
fn mem_fork_cow_running() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 1, false)?;
    let bad = AtomicU64::new(0);
    while_running(&mut m, || {
        for _ in 0..env().rounds(30) {
            // SAFETY: the child only reads memory and leaves.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // In the child's copy nothing may move.
                let before: u64 = (0..PAGES).map(|page| mem.get(page * P)).sum();
                // SAFETY: async-signal-safe calls only.
                unsafe { libc::usleep(1000) };
                let after: u64 = (0..PAGES).map(|page| mem.get(page * P)).sum();
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(before != after)) };
            }
            let mut status = 0;
            // SAFETY: waits for the child.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            bad.fetch_add(u64::from(status != 0), Ordering::Relaxed);
        }
    })?;
    check_eq!(bad.into_inner(), 0, "children that saw the guest write to their copy");
    // What the guest wrote last is what the host sees.
    let regs = m.vcpu.regs()?;
    for page in 0..PAGES {
        check_eq!(mem.get(page * P), AT + page * P + regs.r12, "page {page}");
    }
    Ok(())
}

/// 2 MiB pages: used, split by the host, and put together again.
fn mem_huge_pages() -> TestResult {
    const HUGE: usize = 2 << 20;
    let mem = Mapping::huge_aligned(2 * HUGE);
    let huge = mem.advise(0, 2 * HUGE, libc::MADV_HUGEPAGE);
    let mut m = checker(&mem, 1, true)?;
    for round in 1..=env().rounds(12) {
        m.run_sync()?;
        // Split: a hole in the middle, which is filled again with what belongs there.
        let page = 100 + round;
        check!(mem.advise(page * P, PAGE, libc::MADV_DONTNEED));
        mem.set(page * P, AT + page * P + round);
        if huge && round % 4 == 0 {
            // MADV_COLLAPSE where the kernel has it.
            const MADV_COLLAPSE: i32 = 25;
            mem.advise(0, HUGE, MADV_COLLAPSE);
        }
    }
    let rounds = env().rounds(12);
    for page in 0..mem.size() as u64 / P {
        check_eq!(mem.get(page * P), AT + page * P + rounds, "page {page}");
    }
    Ok(())
}

/// Memory that loses its write permission: the guest's write fails with EFAULT, nothing changes.
fn mem_mprotect() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 1, true)?;
    m.run_sync()?;
    check!(mem.protect(0, mem.size(), libc::PROT_READ));
    check_errno!(m.vcpu.run(), libc::EFAULT, "write to read-only memory");
    check_eq!(mem.get(0), AT + 1);
    check!(mem.protect(0, mem.size(), libc::PROT_READ | libc::PROT_WRITE));
    m.run_sync()?;
    check_eq!(mem.get(0), AT + 2);
    check!(mem.protect(0, mem.size(), libc::PROT_NONE));
    check_errno!(m.vcpu.run(), libc::EFAULT, "access to memory without permissions");
    check!(mem.protect(0, mem.size(), libc::PROT_READ | libc::PROT_WRITE));
    m.run_sync()?;
    check_eq!(mem.get(0), AT + 3);
    Ok(())
}

/// Unmapped memory is EFAULT; mapped again it works.
fn mem_munmap() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 1, true)?;
    for round in 1..=env().rounds(10) {
        m.run_sync()?;
        check!(mem.punch(8 * P, PAGE));
        check_errno!(m.vcpu.run(), libc::EFAULT, "access to unmapped memory");
        check!(mem.replace(8 * P, PAGE));
        mem.set(8 * P, AT + 8 * P + round);
    }
    m.run_sync()?;
    Ok(())
}

/// Other pages mapped over the old ones are what the guest sees.
fn mem_remap() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 0, true)?;
    for _ in 0..env().rounds(30) {
        m.run_sync()?;
        check!(mem.replace(0, mem.size()));
        let regs = m.run_done()?;
        check_eq!(regs.rax, AT, "zero pages must be seen");
        fill(&mem, PAGES, 0);
        m.with_regs(|r| r.rip = CODE)?;
    }
    Ok(())
}

/// Memory of a file (memfd), which is how VMMs share it: holes punched in it are seen.
fn mem_shared_memfd() -> TestResult {
    let size = (PAGES * P) as usize;
    // SAFETY: a new memfd, closed with the process.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), 0) };
    check!(fd >= 0, "no memfd");
    // SAFETY: plain calls on the descriptor.
    check_eq!(unsafe { libc::ftruncate(fd, size as i64) }, 0);
    let mem = Mapping::of_file(fd, size);
    let view = Mapping::of_file(fd, size);
    let mut m = checker(&mem, 1, true)?;
    for round in 1..=env().rounds(20) {
        m.run_sync()?;
        check_eq!(view.get(5 * P), AT + 5 * P + round, "through another mapping");
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: as above.
        check_eq!(unsafe { libc::fallocate(fd, mode, (5 * P) as i64, P as i64) }, 0);
        check_eq!(mem.get(5 * P), 0);
        view.set(5 * P, AT + 5 * P + round);
    }
    m.run_sync()?;
    Ok(())
}

/// Pages moved away by mremap are no longer the guest's.
fn mem_mremap() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 0, true)?;
    m.run_sync()?;
    let target = Mapping::anonymous(PAGE);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: moves a page of one mapping over the only page of another.
    let moved = unsafe {
        libc::mremap((mem.addr() + 3 * P) as *mut _, PAGE, PAGE, flags, target.addr() as *mut libc::c_void)
    };
    check_eq!(moved as u64, target.addr());
    check_eq!(target.get(0), AT + 3 * P);
    check_errno!(m.vcpu.run(), libc::EFAULT, "access to the place it left");
    check!(mem.replace(3 * P, PAGE));
    mem.set(3 * P, AT + 3 * P);
    target.set(0, 0);
    m.run_sync()?;
    Ok(())
}
