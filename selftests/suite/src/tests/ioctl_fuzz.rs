// SPDX-License-Identifier: GPL-2.0-only
//! Random ioctls with random arguments on all three descriptors.

use std::time::Duration;

use crate::harness::{env, TestResult};
use crate::host::{alarm, catch_signal, Mapping, Random};
use crate::kvm::*;
use crate::machine::*;

tests!(ioctl_random = 60, ioctl_random_structs = 60,);

guest!(fuzz_alive:
    "2: out SYNC, al",
    "jmp 2b",
);

/// Turns on the signals that end a KVM_RUN, or off.
fn signals(on: bool) {
    let every = Duration::from_millis(if on { 5 } else { 0 });
    alarm(every, every);
}

/// A machine that still works after all that?
fn alive() -> TestResult {
    Machine::long(fuzz_alive())?.run_sync()?;
    Ok(())
}

/// Numbers near the known ones with pointers to noise, small numbers and wild addresses.
fn ioctl_random() -> TestResult {
    catch_signal(libc::SIGALRM);
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..env().rounds(20) {
        let m = Setup::new(Mode::Long);
        let m = if random.below(2) == 0 { m } else { m.irqchip() };
        let m = m.build(fuzz_alive())?;
        signals(true);
        let noise = Mapping::anonymous(4 * PAGE);
        for _ in 0..200 {
            for _ in 0..8 {
                noise.set(random.below(512) * 8, random.number() >> random.below(64));
            }
            let request = ALL[random.below(ALL.len() as u64) as usize];
            let nr = match random.below(4) {
                0 => request.nr ^ 1 << random.below(32),
                _ => request.nr,
            };
            let arg = match random.below(6) {
                0 => random.number(),
                1 => random.below(64),
                2 => noise.addr() + 4 * PAGE as u64 - random.below(64),
                _ => noise.addr(),
            };
            let fd = [m.sys.fd(), m.vm.fd(), m.vcpu.fd()][random.below(3) as usize];
            // A descriptor that a random call creates must not pile up.
            if let (Ok(new), true) = (
                ioctl(fd, Ioctl { nr, name: "random" }, arg),
                nr == KVM_CREATE_VM.nr || nr == KVM_CREATE_VCPU.nr,
            ) {
                // SAFETY: the call returned a new descriptor.
                unsafe { libc::close(new) };
            }
        }
        signals(false);
    }
    alive()
}

/// The real state with a few bits flipped, set again, and run.
fn ioctl_random_structs() -> TestResult {
    catch_signal(libc::SIGALRM);
    let mut random = Random(0xfeed_beef_1234_5677);
    const PAIRS: &[(Ioctl, Ioctl, usize)] = &[
        (KVM_GET_REGS, KVM_SET_REGS, 144),
        (KVM_GET_SREGS, KVM_SET_SREGS, 312),
        (KVM_GET_FPU, KVM_SET_FPU, 416),
        (KVM_GET_XSAVE, KVM_SET_XSAVE, 4096),
        (KVM_GET_XCRS, KVM_SET_XCRS, 392),
        (KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, 128),
        (KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, 64),
        (KVM_GET_MP_STATE, KVM_SET_MP_STATE, 4),
        (KVM_GET_LAPIC, KVM_SET_LAPIC, 1024),
    ];
    for _ in 0..env().rounds(100) {
        let m = Setup::new(Mode::Long).irqchip().build(fuzz_alive())?;
        signals(true);
        for _ in 0..3 {
            let (get, set, size) = PAIRS[random.below(PAIRS.len() as u64) as usize];
            let mut state = vec![0u8; size.max(4096)];
            let addr = state.as_mut_ptr() as u64;
            match ioctl(m.vcpu.fd(), get, addr) {
                // A VM that the kernel has given up on says so from then on.
                Err(error) if error.errno.0 == libc::EIO => break,
                result => result?,
            };
            for _ in 0..=random.below(3) {
                state[random.below(size as u64) as usize] ^= 1 << random.below(8);
            }
            // Refused or taken; either way the vCPU must run or say why it cannot.
            let _ = ioctl(m.vcpu.fd(), set, addr);
            let _ = m.vcpu.run_raw();
        }
        signals(false);
    }
    alive()
}
