// SPDX-License-Identifier: GPL-2.0-only
//! Interrupts and events by eventfd under load: two vCPUs, signals as fast as they go, and neither one lost.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use kvm_bindings as kb;

use crate::cpus::move_to;
use crate::guest::*;
use crate::harness::{env, fail, Outcome, TestResult};
use crate::host::Mapping;
use crate::kvm::*;
use crate::machine::*;

tests!(irq_load_irqfd = 60, irq_load_ioeventfd = 60);

/// The GSIs that are messages; their vectors follow [`VECTOR`].
const MESSAGES: [u32; 2] = [30, 31];
/// The vector of the first message.
const VECTOR: u32 = 0x51;
/// The line with a level, and its vector.
const LINE: u32 = 11;
const LINE_VECTOR: u64 = 0x5b;
/// How often each was signalled is told the guest here, a word for each.
const SENT: u64 = DATA + 0x100;
/// What each vCPU's handlers have seen of it, a word for each.
const SEEN: [u64; 2] = [DATA + 0x200, DATA + 0x300];
/// Says that it is over.
const STOP: u64 = DATA + 72;

guest!(load_first:
    // Masks the line and unmasks it while interrupts come. R15 is where the handlers say what they have seen.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov ebx, 0xfec00000",
    "mov dword ptr [rbx], 0x27", "mov dword ptr [rbx + 0x10], 0",
    "mov dword ptr [rbx], 0x26",
    "sti",
    "2: mov dword ptr [rbx + 0x10], 0x1805b",
    "mov ecx, 50", "3: dec ecx", "jnz 3b",
    "mov dword ptr [rbx + 0x10], 0x805b",
    "mov ecx, 500", "3: dec ecx", "jnz 3b",
    "cmp dword ptr [DATA + 72], 0", "je 2b",
    "out DONE, al",
    // The handlers of the messages and of the line, 0x40 bytes from each other.
    ".set handler, 0",
    ".rept 3",
    ".org 99b + 0x200 + handler * 0x40",
    "push rax",
    "mov rax, [DATA + 0x100 + handler * 8]",
    "mov [r15 + handler * 8], rax",
    "mov dword ptr [rbp + 0xb0], 0",
    "pop rax",
    "iretq",
    ".set handler, handler + 1",
    ".endr",
);

guest!(load_second:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "2: sti", "hlt", "cli",
    "cmp dword ptr [DATA + 72], 0", "je 2b",
    "out DONE, al",
);

/// A new eventfd that does not block.
fn eventfd() -> OwnedFd {
    // SAFETY: a new descriptor that the caller owns.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) }
}

fn signal(event: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight bytes of a local variable.
    unsafe { libc::write(event.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
}

/// How often `event` was signalled since the last time.
fn count(event: &OwnedFd) -> u64 {
    let mut value = 0u64;
    // SAFETY: eight bytes into a local variable.
    unsafe { libc::read(event.as_raw_fd(), std::ptr::from_mut(&mut value).cast(), 8) };
    value
}

/// What the handlers have seen of the source number `index`, whichever vCPU it was.
fn seen(mem: &Mapping, index: usize) -> u64 {
    SEEN.iter().map(|base| mem.get(base + index as u64 * 8)).max().unwrap_or(0)
}

/// Runs `vcpu` to its end on a thread whose number goes to `tid`.
fn run(vcpu: &mut Vcpu, tid: &AtomicI32) -> Result<Exit> {
    // SAFETY: has no argument.
    tid.store(unsafe { libc::gettid() }, SeqCst);
    vcpu.run()
}

/// The messages and the line are signalled all the time, the messages sent to one vCPU and the other by turns, the
/// line masked and unmasked, both vCPUs moved between processors: of every source the last signal is seen.
fn irq_load_irqfd() -> TestResult {
    let rounds = env().rounds(2000);
    let m = Machine::irqchip(load_first())?;
    for (index, vector) in [VECTOR.into(), VECTOR as u64 + 1, LINE_VECTOR].into_iter().enumerate() {
        m.set_gate(vector, CODE + 0x200 + index as u64 * 0x40);
    }
    let mut other = m.second(load_second())?;
    m.with_regs(|r| r.r15 = SEEN[0])?;
    let mut regs = other.regs()?;
    regs.r15 = SEEN[1];
    other.set_regs(&regs)?;
    let routes = |id| {
        let messages = MESSAGES.iter().zip(VECTOR..);
        let mut routes: Vec<_> = messages.map(|(&gsi, vector)| msi_route_to(id, gsi, vector)).collect();
        routes.push(ioapic_route(LINE, LINE));
        routes
    };
    m.vm.set_routes(&routes(0))?;
    let (events, again) = ([eventfd(), eventfd(), eventfd()], eventfd());
    for (event, gsi) in events.iter().zip(MESSAGES) {
        m.vm.irqfd(event.as_raw_fd(), gsi, 0, 0)?;
    }
    m.vm.irqfd(events[2].as_raw_fd(), LINE, kb::KVM_IRQFD_FLAG_RESAMPLE, again.as_raw_fd())?;
    let Machine { mut vcpu, vm, mem, .. } = m;
    let tids = [AtomicI32::new(0), AtomicI32::new(0)];
    let exits = std::thread::scope(|scope| -> std::result::Result<_, Outcome> {
        let threads = [
            scope.spawn(|| run(&mut vcpu, &tids[0])),
            scope.spawn(|| run(&mut other, &tids[1])),
        ];
        // A level that is still wanted at its EOI is raised again, as a device does it.
        let device = |sent: u64| {
            if count(&again) > 0 && seen(&mem, 2) < sent {
                signal(&events[2]);
            }
        };
        for round in 1..=rounds {
            for (index, event) in events.iter().enumerate() {
                mem.set(SENT + index as u64 * 8, round);
                signal(event);
            }
            device(round);
            if round % 16 == 0 {
                vm.set_routes(&routes((round / 16 % 2) as u32))?;
            }
            if round % 64 == 0 {
                for (place, tid) in tids.iter().enumerate() {
                    let tid = tid.load(SeqCst);
                    if tid != 0 {
                        move_to(tid, round as usize / 64 + place);
                    }
                }
                // The guest gets a turn where there is one processor only.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let start = Instant::now();
        let lost = |index: &usize| seen(&mem, *index) != rounds;
        while (0..events.len()).any(|index| lost(&index)) && start.elapsed() < Duration::from_secs(10) {
            device(rounds);
            std::thread::sleep(Duration::from_millis(1));
        }
        let lost: Vec<_> = (0..events.len()).filter(lost).map(|i| (i, seen(&mem, i))).collect();
        mem.set(STOP, 1);
        vm.signal_msi(0xfee0_1000, 0x7f)?;
        let exits = threads.map(|thread| thread.join());
        if !lost.is_empty() {
            return fail(format!("of {rounds} signals the last was not seen: {lost:?}"));
        }
        Ok(exits)
    })?;
    for exit in exits {
        check!(matches!(exit, Ok(Ok(Exit::Out { port: PORT_DONE, .. }))), "an exit: {exit:?}");
    }
    check_eq!(events.each_ref().map(count), [0; 3], "what the irqfds left");
    Ok(())
}

/// A route of `gsi` to `pin` of the I/O APIC.
fn ioapic_route(gsi: u32, pin: u32) -> kb::kvm_irq_routing_entry {
    let irqchip = kb::kvm_irq_routing_irqchip { irqchip: kb::KVM_IRQCHIP_IOAPIC, pin };
    kb::kvm_irq_routing_entry {
        gsi,
        type_: kb::KVM_IRQ_ROUTING_IRQCHIP,
        u: kb::kvm_irq_routing_entry__bindgen_ty_1 { irqchip },
        ..Default::default()
    }
}

guest!(load_events:
    // RDI times, a port and an address each.
    "mov edx, 0x5c8",
    "mov ebx, 0xd0000000",
    "2: out dx, al",
    "mov [rbx + 16], edi",
    "dec edi", "jnz 2b",
    "out DONE, al",
);

/// Two vCPUs write to the same events at once, and every write counts.
fn irq_load_ioeventfd() -> TestResult {
    const PORT: u64 = 0x5c8;
    let rounds = env().rounds(5000);
    let m = Machine::irqchip(load_events())?;
    let mut other = m.second(load_events())?;
    for vcpu in [&m.vcpu, &other] {
        let mut regs = vcpu.regs()?;
        regs.rdi = rounds;
        vcpu.set_regs(&regs)?;
    }
    let events = [eventfd(), eventfd()];
    let flags = 1 << kb::kvm_ioeventfd_flag_nr_pio;
    for (event, (addr, len, flags)) in events.iter().zip([(PORT, 1, flags), (MMIO + 16, 4, 0)]) {
        let fd = event.as_raw_fd();
        let arg = kb::kvm_ioeventfd { addr, len, fd, flags, ..Default::default() };
        ioctl_in(m.vm.fd(), KVM_IOEVENTFD, &arg)?;
    }
    let Machine { mut vcpu, vm: _vm, mem: _mem, .. } = m;
    let mut counts = [0; 2];
    let exits = std::thread::scope(|scope| {
        let threads = [scope.spawn(|| vcpu.run()), scope.spawn(|| other.run())];
        // Somebody takes them meanwhile.
        while threads.iter().any(|thread| !thread.is_finished()) {
            counts = [counts[0] + count(&events[0]), counts[1] + count(&events[1])];
            std::thread::sleep(Duration::from_micros(100));
        }
        threads.map(|thread| thread.join())
    });
    for exit in exits {
        check!(matches!(exit, Ok(Ok(Exit::Out { port: PORT_DONE, .. }))), "an exit: {exit:?}");
    }
    counts = [counts[0] + count(&events[0]), counts[1] + count(&events[1])];
    check_eq!(counts, [2 * rounds; 2]);
    Ok(())
}
