// SPDX-License-Identifier: GPL-2.0-only
//! The guest's clock when the host's is no longer computed from the time-stamp counter.

use std::fs;
use std::time::{Duration, Instant};

use kvm_bindings::KVM_CLOCK_TSC_STABLE;

use super::pv::{clock, need, page, AREA, CLOCK};
use crate::harness::{env, skip, Outcome, TestResult};
use crate::machine::*;

tests!(pv_clock_host_leaves_tsc = 60);

/// Bit of the page's flags: all vCPUs read the same clock.
const STABLE: u8 = 1 << 0;

const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
const AVAILABLE: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

/// The host's clocks are computed from another counter until this goes.
struct Elsewhere;

impl Elsewhere {
    fn new(source: &str) -> std::result::Result<Self, Outcome> {
        fs::write(CURRENT, source).map_err(|e| Outcome::Fail(format!("{source}: {e}")))?;
        Ok(Self)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::write(CURRENT, "tsc");
    }
}

/// Another source than the time-stamp counter, which the host uses now, or will soon after its start.
fn another_source() -> std::result::Result<String, Outcome> {
    let start = Instant::now();
    while fs::read_to_string(CURRENT).is_ok_and(|name| name.trim() != "tsc") {
        if start.elapsed() > Duration::from_secs(10) {
            return skip("the host does not use its time-stamp counter");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let names = fs::read_to_string(AVAILABLE).unwrap_or_default();
    match names.split_whitespace().find(|name| !name.starts_with("tsc")) {
        Some(name) => Ok(name.to_owned()),
        None => skip("the host has no other clock"),
    }
}

// Has a clock, and reports its counter each time that the flags are what the VMM waits for.
guest!(pv_clock_flags:
    "wrmsr",
    "2: mov al, [rbx]", "and al, 1", "cmp al, [DATA + 8]", "jne 2b",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov [DATA], rax",
    "out SYNC, al",
    "jmp 2b",
);

/// Calls `change` while the guest waits for the flag to become `stable`, without exits of its own. Its clock then
/// shows the VM's time.
fn seen_after<T>(
    m: &mut Machine,
    stable: bool,
    change: impl FnOnce() -> std::result::Result<T, Outcome>,
) -> std::result::Result<T, Outcome> {
    m.set_data(1, stable.into());
    let before = clock(m)?.clock;
    let changed = std::thread::scope(|scope| {
        let guest = scope.spawn(|| m.run_sync());
        std::thread::sleep(Duration::from_millis(20));
        let changed = change();
        let ended = guest.join().map_err(|_| Outcome::Fail("the thread panicked".into()))?;
        let changed = changed?;
        ended?;
        Ok::<_, Outcome>(changed)
    })?;
    let (page, tsc, after) = (page(m, AREA), m.data(0), clock(m)?);
    check_eq!(after.flags & KVM_CLOCK_TSC_STABLE != 0, stable, "flags of KVM_GET_CLOCK");
    let time = page.at(tsc);
    // The host's clocks need not agree to the microsecond.
    let slack = 5_000_000u64;
    check!((before.saturating_sub(slack)..=after.clock + slack).contains(&time), "{before} {time} {}", after.clock);
    Ok(changed)
}

/// The guest is told that its vCPUs no longer read the same clock, and under Vireo that they do so again.
fn pv_clock_host_leaves_tsc() -> TestResult {
    let other = another_source()?;
    let mut m = Machine::irqchip(pv_clock_flags())?;
    need(&m, CLOCK)?;
    m.set_data(1, STABLE.into());
    // Nothing interrupts the guest but the host, for which Bochs wants IF set.
    m.with_regs(|r| {
        (r.rcx, r.rax, r.rdx) = (0x4b56_4d01, AREA | 1, 0);
        (r.rbx, r.rflags) = (AREA + 29, r.rflags | RFLAGS_IF);
    })?;
    if clock(&m)?.flags & KVM_CLOCK_TSC_STABLE == 0 {
        return skip("the VM's clock does not depend on the host's time-stamp counter");
    }
    m.run_sync()?;
    let elsewhere = seen_after(&mut m, false, || Elsewhere::new(&other))?;
    check_eq!(fs::read_to_string(CURRENT).unwrap_or_default().trim(), other);
    if !env().is_vireo() {
        return Ok(());
    }
    seen_after(&mut m, true, || {
        drop(elsewhere);
        Ok(())
    })
}
