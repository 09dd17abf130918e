// SPDX-License-Identifier: GPL-2.0-only
//! Lifetimes: descriptors closed in any order, processes killed at any moment, nothing leaked.

use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use crate::guest::*;
use crate::harness::{env, note, skip, Outcome, TestResult};
use crate::host::{Mapping, Random};
use crate::kvm::*;
use crate::machine::*;

tests!(
    life_close_orders,
    life_vcpu_outlives_vm,
    life_vm_of_another_process,
    life_fork_inherits,
    life_kill_at_random = 60,
    life_kill_while_creating = 60,
    life_exit_while_running,
    life_unload_refused,
    life_no_leaks = 120,
);

guest!(life_loop:
    "2: inc rbx",
    "out SYNC, al",
    "jmp 2b",
);

/// The parts of a machine that can be closed one by one.
struct Parts {
    fds: [Option<OwnedFd>; 2],
    vcpu: Option<Vcpu>,
    mem: Option<Mapping>,
    sys: Option<System>,
}

impl Parts {
    /// Duplicates of the descriptors of a machine that has run once, and the rest of it.
    fn new() -> std::result::Result<Self, Outcome> {
        let mut m = Machine::irqchip(life_loop())?;
        m.run_sync()?;
        let Machine { vcpu, vm, sys, mem } = m;
        let dup = |fd: i32| {
            // SAFETY: a new descriptor that the caller owns.
            unsafe { OwnedFd::from_raw_fd(libc::dup(fd)) }
        };
        let extra: OwnedFd = dup(vcpu.fd());
        let vm_fd: OwnedFd = dup(vm.fd());
        drop(vm);
        Ok(Self { fds: [Some(vm_fd), Some(extra)], vcpu: Some(vcpu), mem: Some(mem), sys: Some(sys) })
    }

    fn close(&mut self, which: usize) {
        match which {
            0 => self.sys = None,
            1 => self.fds[0] = None,
            2 => self.fds[1] = None,
            3 => self.vcpu = None,
            _ => self.mem = None,
        }
    }
}

/// All 120 orders of closing the device, the VM, two vCPU descriptors (one with its mapping) and
/// the memory; as long as a vCPU descriptor is open its ioctls work.
fn life_close_orders() -> TestResult {
    let mut order = [0, 1, 2, 3, 4];
    let mut count = 0;
    permute(&mut order, 0, &mut |order| {
        count += 1;
        let mut parts = Parts::new()?;
        for &which in order {
            parts.close(which);
            if let Some(vcpu) = &mut parts.vcpu {
                let rbx = vcpu.regs()?.rbx;
                check_eq!(rbx, 1, "order {order:?} after closing {which}");
                if parts.mem.is_none() {
                    check_errno!(vcpu.run(), libc::EFAULT, "without memory");
                }
            }
        }
        Ok(())
    })?;
    check_eq!(count, 120);
    Ok(())
}

/// Calls `visit` with every permutation of the items from `from` on.
fn permute(
    items: &mut [usize; 5],
    from: usize,
    visit: &mut impl FnMut(&[usize; 5]) -> TestResult,
) -> TestResult {
    if from == items.len() {
        return visit(items);
    }
    for i in from..items.len() {
        items.swap(from, i);
        permute(items, from + 1, visit)?;
        items.swap(from, i);
    }
    Ok(())
}

/// A vCPU whose VM and device are closed goes on running.
fn life_vcpu_outlives_vm() -> TestResult {
    let m = Machine::irqchip(life_loop())?;
    let Machine { mut vcpu, vm, sys, mem } = m;
    drop((vm, sys));
    for round in 1..=20 {
        check!(matches!(vcpu.run()?, Exit::Out { port: PORT_SYNC, .. }));
        check_eq!(vcpu.regs()?.rbx, round);
    }
    drop(mem);
    Ok(())
}

/// A VM belongs to the process that made it: in a child its ioctls fail with EIO.
fn life_vm_of_another_process() -> TestResult {
    let mut m = Machine::long(life_loop())?;
    m.run_sync()?;
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let is_eio = |result: crate::kvm::Result<i32>| {
            matches!(result, Err(error) if error.errno.0 == libc::EIO)
        };
        let ok = is_eio(m.vcpu.run_raw())
            && is_eio(m.vm.create_vcpu(1).map(|_| 0))
            && is_eio(m.vm.set_slot(3, 0, 1 << 32, 4096, m.mem.addr()).map(|_| 0));
        // SAFETY: ends the child.
        unsafe { libc::_exit(if ok { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    check_eq!(status, 0, "status of the child");
    m.run_sync()?;
    Ok(())
}

/// A child that inherits the descriptors and goes does not harm the parent's machine.
fn life_fork_inherits() -> TestResult {
    let mut m = Machine::irqchip(life_loop())?;
    for _ in 0..env().rounds(20) {
        m.run_sync()?;
        // SAFETY: the child leaves at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        m.run_sync()?;
        // SAFETY: waits for the child.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }
    Ok(())
}

/// Forks a child that does `work` for ever and kills it after `micros`.
fn kill_after(micros: u64, work: impl Fn() -> TestResult) -> TestResult {
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        while work().is_ok() {}
        // SAFETY: ends the child; its parent takes that as a failure.
        unsafe { libc::_exit(3) };
    }
    std::thread::sleep(Duration::from_micros(micros));
    let mut status = 0;
    // SAFETY: our own child.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, &mut status, 0);
    }
    check!(libc::WIFSIGNALED(status), "the child ended by itself: {status:#x}");
    Ok(())
}

/// SIGKILL at random moments of a running machine with a timer, MMIO and slot changes.
fn life_kill_at_random() -> TestResult {
    let mut random = Random(0x5151_7777_1234);
    for _ in 0..env().rounds(100) {
        kill_after(random.below(8000), || {
            let mut m = Machine::irqchip(life_loop())?;
            let mem = Mapping::anonymous(PAGE);
            for _ in 0..50 {
                m.run_sync()?;
                m.vm.set_slot(1, 0, 1 << 32, PAGE as u64, mem.addr())?;
                m.vm.signal_msi(0xfee0_0000, 0x41)?;
                m.vm.set_slot(1, 0, 0, 0, 0)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// SIGKILL at random moments while machines are created and destroyed.
fn life_kill_while_creating() -> TestResult {
    let mut random = Random(0x9999_1111_4321);
    for _ in 0..env().rounds(100) {
        kill_after(random.below(5000), || {
            drop(Machine::irqchip(life_loop())?);
            Ok(())
        })?;
    }
    Ok(())
}

/// The process ends while other threads are in KVM_RUN.
fn life_exit_while_running() -> TestResult {
    for _ in 0..env().rounds(10) {
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            for _ in 0..2 {
                std::thread::spawn(|| {
                    if let Ok(m) = Machine::irqchip(life_spin()) {
                        let _ = m.vcpu.run_raw();
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(5));
            // SAFETY: ends the child with its threads.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for the child.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        check_eq!(status, 0);
    }
    Ok(())
}

guest!(life_spin:
    "sti",
    "2: jmp 2b",
);

/// The use count of the module, if the device's module is loaded.
fn module_refs() -> Option<i64> {
    let text = std::fs::read_to_string("/sys/module/vireo/refcnt").ok()?;
    text.trim().parse().ok()
}

/// `delete_module(2)`, without waiting.
fn unload() -> i64 {
    // SAFETY: a C string; O_NONBLOCK makes it fail when the module is in use.
    unsafe { libc::syscall(libc::SYS_delete_module, c"vireo".as_ptr(), libc::O_NONBLOCK) }
}

/// The module cannot be unloaded while a VM, a vCPU or just the device is open.
fn life_unload_refused() -> TestResult {
    if !env().is_vireo() {
        return skip("about Vireo's module only");
    }
    let Some(before) = module_refs() else {
        return skip("no module vireo in /sys/module");
    };
    let refused = |what: &str| -> TestResult {
        check!(module_refs() > Some(before), "use count with {what}");
        check_eq!(unload(), -1, "unload with {what}");
        let errno = Errno::last().0;
        check!([libc::EWOULDBLOCK, libc::EBUSY].contains(&errno), "errno {errno}");
        Ok(())
    };
    let m = Machine::irqchip(life_loop())?;
    refused("everything")?;
    let Machine { vcpu, vm, sys, mem } = m;
    drop((sys, mem));
    refused("VM and vCPU")?;
    drop(vm);
    refused("a vCPU")?;
    let (fd, run, size) = vcpu.into_parts();
    // SAFETY: unmaps what the vCPU mapped; no one uses it any more.
    unsafe { libc::munmap(run.cast(), size) };
    refused("a vCPU without mapping")?;
    drop(fd);
    wait_for_refs(before)
}

/// Waits for deferred releases until the use count is `want`.
fn wait_for_refs(want: i64) -> TestResult {
    for _ in 0..50 {
        if module_refs() == Some(want) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    check_eq!(module_refs(), Some(want), "use count of the module");
    Ok(())
}

/// Objects in use in all slab caches: name and number, and MemAvailable in kB.
fn memory_state() -> Option<(Vec<(String, i64)>, i64)> {
    let slabs = std::fs::read_to_string("/proc/slabinfo").ok()?;
    let slabs = slabs.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_string(), words.next()?.parse().ok()?))
    });
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = info.lines().find(|line| line.starts_with("MemAvailable"))?;
    let available = available.split_whitespace().nth(1)?.parse().ok()?;
    Some((slabs.collect(), available))
}

/// Everything that a machine can have, used once and destroyed.
fn whole_life(random: &mut Random) -> TestResult {
    let setup = Setup::new(Mode::Long);
    let setup = if random.below(4) == 0 { setup } else { setup.irqchip() };
    let mut m = setup.build(life_loop())?;
    m.run_sync()?;
    let mem = Mapping::anonymous(2 * PAGE);
    m.vm.set_slot(9, 0, 1 << 32, 2 * PAGE as u64, mem.addr())?;
    if random.below(2) == 0 {
        drop(mem);
    }
    if random.below(3) == 0 {
        let Machine { vcpu, vm, sys, mem } = m;
        drop(mem);
        drop(sys);
        drop(vcpu);
        drop(vm);
    }
    Ok(())
}

/// A thousand machines leave no object behind, no page, no descriptor and no use of the module.
fn life_no_leaks() -> TestResult {
    const SLACK_OBJECTS: i64 = 250;
    if std::path::Path::new("/sys/kernel/debug/kmemleak").exists() {
        return skip("a debug kernel frees late, and has its own search for leaks");
    }
    let mut random = Random(0x1357_9bdf_2468);
    // The first machines fill caches that stay.
    for _ in 0..50 {
        whole_life(&mut random)?;
    }
    let refs = module_refs();
    let Some(before) = settled() else {
        return skip("no /proc/slabinfo");
    };
    let rounds = env().rounds(1000);
    for _ in 0..rounds {
        whole_life(&mut random)?;
    }
    // A page for every other machine would already be more than this.
    let slack_kb = (rounds as i64 * 2).max(1024);
    let mut after = before.clone();
    for _ in 0..5 {
        match settled() {
            Some(state) => after = state,
            None => return skip("no /proc/slabinfo"),
        }
        if before.1 - after.1 < slack_kb {
            break;
        }
    }
    let limit = SLACK_OBJECTS.min(rounds as i64 * 3 / 4);
    let mut grown = Vec::new();
    for (name, count) in &after.0 {
        let old = before.0.iter().find(|(other, _)| other == name).map_or(0, |(_, count)| *count);
        // The kernel frees the areas of vfree() in batches, much later.
        if count - old > limit && name != "vmap_area" {
            grown.push(format!("{name} {old} -> {count}"));
        }
    }
    note(format!("{rounds} machines, MemAvailable {} -> {} kB", before.1, after.1));
    check!(grown.is_empty(), "objects left behind: {}", grown.join(", "));
    check!(before.1 - after.1 < slack_kb, "{} kB less memory", before.1 - after.1);
    if let (true, Some(refs)) = (env().is_vireo(), refs) {
        wait_for_refs(refs)?;
    }
    let fd = System::open(&env().device)?;
    check!(fd.fd() < 20, "descriptor {} is the next free one", fd.fd());
    Ok(())
}

/// [`memory_state`] once deferred frees are done and shrinkable caches are empty.
fn settled() -> Option<(Vec<(String, i64)>, i64)> {
    std::thread::sleep(Duration::from_millis(200));
    // Best effort: dentries and inodes are caches, not leaks.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    std::thread::sleep(Duration::from_millis(100));
    memory_state()
}
