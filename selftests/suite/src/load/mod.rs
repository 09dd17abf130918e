// SPDX-License-Identifier: GPL-2.0-only
//! A load for Linux guests with several CPUs, whose every part can come out wrong.

mod hotplug;
mod messages;
mod ring;
mod shootdown;

use std::io;
use std::time::Instant;

/// What went wrong, or nothing.
pub type Result<T = ()> = std::result::Result<T, String>;

/// Runs all of it; every CPU goes offline and comes back `cycles` times.
pub fn run(cycles: usize) -> Result {
    let cpus = online()?;
    part("messages", || messages::on_all_cpus(&cpus))?;
    part("ring", || ring::run(&cpus))?;
    part("shootdown", || shootdown::run(&cpus))?;
    part("hotplug", || hotplug::run(&cpus, cycles))?;
    // What has come back is as good as new.
    part("ring again", || ring::run(&cpus))?;
    part("shootdown again", || shootdown::run(&cpus))
}

/// Runs one part and says how long it took.
fn part(name: &str, body: impl FnOnce() -> Result) -> Result {
    let start = Instant::now();
    body().map_err(|reason| format!("{name}: {reason}"))?;
    println!(
        "load: {name}: right, {:.1} s",
        start.elapsed().as_secs_f32()
    );
    Ok(())
}

/// The numbers of the CPUs that are online, as the kernel gives them ("0-3,5").
fn online() -> Result<Vec<usize>> {
    let list =
        std::fs::read_to_string("/sys/devices/system/cpu/online").map_err(|e| e.to_string())?;
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|_| format!("CPUs online: {list:?}"))
    };
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(number(first)?..=number(last)?);
    }
    Ok(cpus)
}

/// The CPU that this thread is on.
fn this_cpu() -> usize {
    // SAFETY: has no argument.
    unsafe { libc::sched_getcpu() as usize }
}

/// Moves this thread to `cpu`, where it stays.
fn pin(cpu: usize) -> Result {
    // SAFETY: a set of CPUs is plain data, empty when zero; `cpu` is checked by the macro's function.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    if done != 0 {
        return Err(last_error(&format!("moving to CPU {cpu}")));
    }
    let now = this_cpu();
    if now != cpu {
        return Err(format!("a thread that was moved to CPU {cpu} is on {now}"));
    }
    Ok(())
}

/// The error of the last call, which was `what`.
fn last_error(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

/// Waits for all threads of a scope; the first failure of one.
fn join_all(threads: Vec<std::thread::ScopedJoinHandle<'_, Result>>) -> Result {
    let results = threads.into_iter().map(|thread| {
        thread
            .join()
            .unwrap_or_else(|_| Err("a thread panicked".into()))
    });
    results.collect::<Vec<_>>().into_iter().collect()
}
