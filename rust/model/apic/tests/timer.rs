// SPDX-License-Identifier: GPL-2.0-only

//! The timer.

use super::*;
use crate::model::apic::timer::MIN_PERIOD_NS;

fn at(ns: u64) -> At {
    At(ns, 0)
}

/// Returns an APIC whose timer entry is `entry` and whose divisor is 1.
fn with_timer(entry: u32) -> Lapic {
    let mut lapic = xapic();
    let _ = write(&mut lapic, 0x320, entry);
    let _ = write(&mut lapic, 0x3e0, 0xb);
    lapic
}

/// "APIC Timer": one-shot counts down once.
#[test]
fn one_shot() {
    let mut lapic = with_timer(0xec);
    let start = lapic.mmio_write(0x380, 4, 1000, &at(5000));
    assert_eq!(start, Effect::Timer(Timer::OneShotNs(6000)));
    assert_eq!(lapic.mmio_read(0x390, 4, &at(5000)), 1000);
    assert_eq!(lapic.mmio_read(0x390, 4, &at(5400)), 600);
    assert_eq!(lapic.mmio_read(0x390, 4, &at(7000)), 0);
    assert_eq!(lapic.timer_expired(&at(5999)), Timer::OneShotNs(6000));
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(lapic.timer_expired(&at(6000)), Timer::Stop);
    assert_eq!(lapic.acknowledge(), Some(0xec));
    assert_eq!(lapic.timer_expired(&at(9000)), Timer::Stop);
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(lapic.mmio_read(0x380, 4, &at(9000)), 1000);
}

/// "APIC Timer": an initial count of 0 stops the timer.
#[test]
fn initial_count_zero_stops() {
    let mut lapic = with_timer(0xec);
    let _ = lapic.mmio_write(0x380, 4, 1000, &at(0));
    assert_eq!(
        lapic.mmio_write(0x380, 4, 0, &at(10)),
        Effect::Timer(Timer::Stop)
    );
    assert_eq!(lapic.timer_expired(&at(5000)), Timer::Stop);
    assert_eq!(lapic.pending_interrupt(), None);
}

/// "Divide Configuration Register": all eight values.
#[test]
fn divisors() {
    let cases = [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ];
    for (bits, divisor) in cases {
        let mut lapic = with_timer(0xec);
        let _ = write(&mut lapic, 0x3e0, bits);
        let start = lapic.mmio_write(0x380, 4, 10, &at(0));
        assert_eq!(start, Effect::Timer(Timer::OneShotNs(10 * divisor)));
        assert_eq!(lapic.mmio_read(0x390, 4, &at(3 * divisor)), 7);
    }
}

/// A new divisor changes the speed of a running count, not the count.
#[test]
fn divisor_of_a_running_timer() {
    let mut lapic = with_timer(0xec);
    let _ = lapic.mmio_write(0x380, 4, 1000, &at(0));
    let effect = lapic.mmio_write(0x3e0, 4, 1, &at(400));
    assert_eq!(effect, Effect::Timer(Timer::OneShotNs(400 + 600 * 4)));
    assert_eq!(lapic.mmio_read(0x390, 4, &at(400)), 600);
    assert_eq!(lapic.mmio_write(0x3e0, 4, 1, &at(500)), Effect::None);
}

/// "APIC Timer": periodic reloads, in phase even when the vCPU was away.
#[test]
fn periodic() {
    let mut lapic = with_timer(0x2_00ec);
    let start = lapic.mmio_write(0x380, 4, 1_000_000, &at(0));
    assert_eq!(start, Effect::Timer(Timer::OneShotNs(1_000_000)));
    assert_eq!(
        lapic.timer_expired(&at(1_000_100)),
        Timer::OneShotNs(2_000_000)
    );
    assert_eq!(lapic.acknowledge(), Some(0xec));
    lapic.eoi();
    // Not yet served: the guest sees the next period already.
    assert_eq!(lapic.mmio_read(0x390, 4, &at(2_250_000)), 750_000);
    assert_eq!(
        lapic.timer_expired(&at(5_250_000)),
        Timer::OneShotNs(6_000_000)
    );
    assert_eq!(lapic.acknowledge(), Some(0xec));
    assert_eq!(lapic.acknowledge(), None);
}

/// Short periods are lengthened, as KVM does; the current count never exceeds the initial one.
#[test]
fn short_periods_are_limited() {
    let mut lapic = with_timer(0x2_00ec);
    let start = lapic.mmio_write(0x380, 4, 1, &at(0));
    assert_eq!(start, Effect::Timer(Timer::OneShotNs(MIN_PERIOD_NS)));
    assert_eq!(lapic.mmio_read(0x390, 4, &at(10)), 1);
    // Becoming periodic while counting is limited from the next period on.
    let mut lapic = with_timer(0xec);
    let _ = lapic.mmio_write(0x380, 4, 100, &at(0));
    assert_eq!(lapic.mmio_write(0x320, 4, 0x2_00ec, &at(50)), Effect::None);
    assert_eq!(
        lapic.timer_expired(&at(100)),
        Timer::OneShotNs(100 + MIN_PERIOD_NS)
    );
}

/// "Local Vector Table": a masked timer counts but doesn't interrupt.
#[test]
fn masked_timer_counts() {
    let mut lapic = with_timer(0x3_00ec);
    let _ = lapic.mmio_write(0x380, 4, 1_000_000, &at(0));
    assert_eq!(
        lapic.timer_expired(&at(1_000_000)),
        Timer::OneShotNs(2_000_000)
    );
    assert_eq!(lapic.pending_interrupt(), None);
}

/// "TSC-Deadline Mode": arm, fire, disarm.
#[test]
fn tsc_deadline() {
    let mut lapic = with_timer(0x4_00ec);
    assert_eq!(
        lapic.write_tsc_deadline(900, &At(0, 500)),
        Timer::TscDeadline(900)
    );
    assert_eq!(lapic.tsc_deadline(), 900);
    assert_eq!(lapic.timer_expired(&At(0, 899)), Timer::TscDeadline(900));
    assert_eq!(lapic.timer_expired(&At(0, 900)), Timer::Stop);
    assert_eq!((lapic.tsc_deadline(), lapic.acknowledge()), (0, Some(0xec)));
    lapic.eoi();
    // A deadline that has passed fires at once; 0 disarms.
    assert_eq!(lapic.write_tsc_deadline(900, &At(0, 901)), Timer::Stop);
    assert_eq!(lapic.acknowledge(), Some(0xec));
    lapic.eoi();
    assert_eq!(
        lapic.write_tsc_deadline(2000, &At(0, 901)),
        Timer::TscDeadline(2000)
    );
    assert_eq!(lapic.write_tsc_deadline(0, &At(0, 901)), Timer::Stop);
    assert_eq!(lapic.timer_expired(&At(0, 3000)), Timer::Stop);
    assert_eq!(lapic.pending_interrupt(), None);
}

/// "TSC-Deadline Mode": the count registers do nothing in it, and the MSR nothing outside.
#[test]
fn registers_of_the_other_mode() {
    let mut lapic = with_timer(0x4_00ec);
    assert_eq!(lapic.mmio_write(0x380, 4, 1000, &at(0)), Effect::None);
    assert_eq!(lapic.mmio_read(0x380, 4, &at(0)), 0);
    assert_eq!(lapic.mmio_read(0x390, 4, &at(0)), 0);
    let mut lapic = with_timer(0xec);
    let _ = lapic.mmio_write(0x380, 4, 1000, &at(0));
    assert_eq!(
        lapic.write_tsc_deadline(900, &At(0, 950)),
        Timer::OneShotNs(1000)
    );
    assert_eq!((lapic.tsc_deadline(), lapic.pending_interrupt()), (0, None));
}

/// "TSC-Deadline Mode": entering or leaving it disarms; one-shot and periodic keep the count.
#[test]
fn mode_changes() {
    let mut lapic = with_timer(0xec);
    let _ = lapic.mmio_write(0x380, 4, 1000, &at(0));
    assert_eq!(lapic.mmio_write(0x320, 4, 0x2_00ec, &at(1)), Effect::None);
    assert_eq!(lapic.mmio_read(0x390, 4, &at(400)), 600);
    assert_eq!(
        lapic.mmio_write(0x320, 4, 0x4_00ec, &at(2)),
        Effect::Timer(Timer::Stop)
    );
    let _ = lapic.write_tsc_deadline(900, &At(0, 500));
    assert_eq!(
        lapic.mmio_write(0x320, 4, 0xec, &at(3)),
        Effect::Timer(Timer::Stop)
    );
    assert_eq!((lapic.tsc_deadline(), lapic.host_timer()), (0, Timer::Stop));
    assert_eq!(lapic.mmio_read(0x380, 4, &at(4)), 0);
    // Both bits: reserved, and the timer stands still.
    let _ = lapic.mmio_write(0x320, 4, 0x6_00ec, &at(5));
    assert_eq!(lapic.mmio_write(0x380, 4, 1000, &at(6)), Effect::None);
    assert_eq!(lapic.timer_expired(&At(u64::MAX, u64::MAX)), Timer::Stop);
}

/// The largest count and the latest time don't overflow.
#[test]
fn extremes() {
    let mut lapic = Lapic::new(Config {
        bus_cycle_ns: u32::MAX,
        ..Config::new(0, true)
    });
    let _ = write(&mut lapic, 0x3e0, 0xa);
    let start = lapic.mmio_write(0x380, 4, u64::from(u32::MAX), &at(u64::MAX - 1));
    assert_eq!(start, Effect::Timer(Timer::OneShotNs(u64::MAX)));
    assert_eq!(lapic.timer_expired(&at(u64::MAX)), Timer::Stop);
}
