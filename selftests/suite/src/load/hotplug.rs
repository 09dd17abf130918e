// SPDX-License-Identifier: GPL-2.0-only
//! CPUs that go offline and come back while messages flow.

use super::messages::Background;
use super::{online, pin, Result};

/// Switches `cpu` on or off.
fn switch(cpu: usize, on: bool) -> Result {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    std::fs::write(&file, if on { "1" } else { "0" }).map_err(|e| format!("CPU {cpu} to {on}: {e}"))
}

/// Fails unless just `expected` are online.
fn check(expected: &[usize]) -> Result {
    let found = online()?;
    if found != expected {
        return Err(format!(
            "the CPUs {found:?} are online and not {expected:?}"
        ));
    }
    Ok(())
}

/// One CPU goes, while the others go on, and comes back and works.
fn cycle(cpus: &[usize], cpu: usize) -> Result {
    switch(cpu, false)?;
    check(
        &cpus
            .iter()
            .copied()
            .filter(|&other| other != cpu)
            .collect::<Vec<_>>(),
    )?;
    if pin(cpu).is_ok() {
        return Err(format!("CPU {cpu} is offline and works"));
    }
    switch(cpu, true)?;
    check(cpus)?;
    pin(cpu)
}

/// Each of `cpus` but the first goes and comes back, `cycles` times; then all but the first at once.
pub fn run(cpus: &[usize], cycles: usize) -> Result {
    let background = Background::start(2)?;
    let (first, others) = (&cpus[..1], &cpus[1..]);
    for _ in 0..cycles {
        // In a thread of its own, whose CPU nobody else minds.
        let all = std::thread::scope(|scope| {
            let thread = scope.spawn(|| others.iter().try_for_each(|&cpu| cycle(cpus, cpu)));
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".into()))
        });
        all?;
        others.iter().try_for_each(|&cpu| switch(cpu, false))?;
        check(first)?;
        others.iter().try_for_each(|&cpu| switch(cpu, true))?;
        check(cpus)?;
    }
    let during = background.rounds();
    background.finish()?;
    println!("load: {during} rounds of messages meanwhile");
    Ok(())
}
