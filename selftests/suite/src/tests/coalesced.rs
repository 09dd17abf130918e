// SPDX-License-Identifier: GPL-2.0-only
//! Coalesced I/O: writes that are collected in a ring, in order, until there is no room.

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::TestResult;
use crate::kvm::*;
use crate::machine::*;

tests!(
    coalesced_caps,
    coalesced_order,
    coalesced_full,
    coalesced_edges,
    coalesced_removed,
    coalesced_ports,
    coalesced_strings,
    coalesced_bad_indices,
    coalesced_one_ring,
    coalesced_errors,
    coalesced_many_zones = 60,
);

/// Where the ring is in a vCPU's mapping.
const RING: usize = 2 * PAGE;
/// Entries in the ring.
const ENTRIES: u32 = 170;
/// A port that nobody has.
const PORT: u64 = 0x250;

/// One collected write.
#[derive(Debug, PartialEq, Eq)]
struct Write {
    address: u64,
    length: u32,
    pio: u32,
    data: u64,
}

fn mmio(address: u64, length: u32, data: u64) -> Write {
    Write { address, length, pio: 0, data }
}

fn port(length: u32, data: u64) -> Write {
    Write { address: PORT, length, pio: 1, data }
}

/// Takes all entries from the ring.
fn take(vcpu: &Vcpu) -> Vec<Write> {
    let mut writes = Vec::new();
    let (mut first, last) = (vcpu.word(RING), vcpu.word(RING + 4));
    while first != last {
        let at = RING + 8 + first as usize * 24;
        let wide = |offset: usize| {
            u64::from(vcpu.word(at + offset)) | u64::from(vcpu.word(at + offset + 4)) << 32
        };
        let length = vcpu.word(at + 8);
        writes.push(Write {
            address: wide(0),
            length,
            pio: vcpu.word(at + 12),
            data: wide(16) & u64::MAX >> (64 - 8 * length.clamp(1, 8)),
        });
        first = (first + 1) % ENTRIES;
    }
    vcpu.set_word(RING, last);
    writes
}

fn zone(addr: u64, size: u32, pio: u32) -> kb::kvm_coalesced_mmio_zone {
    kb::kvm_coalesced_mmio_zone {
        addr,
        size,
        __bindgen_anon_1: kb::kvm_coalesced_mmio_zone__bindgen_ty_1 { pio },
    }
}

fn register(m: &Machine, addr: u64, size: u32, pio: u32) -> crate::kvm::Result<i32> {
    ioctl_in(m.vm.fd(), KVM_REGISTER_COALESCED_MMIO, &zone(addr, size, pio))
}

fn unregister(m: &Machine, addr: u64, size: u32, pio: u32) -> crate::kvm::Result<i32> {
    ioctl_in(m.vm.fd(), KVM_UNREGISTER_COALESCED_MMIO, &zone(addr, size, pio))
}

guest!(coalesced_writer:
    "mov ebp, MMIO",
    "2: mov byte ptr [rbp + 1], 0x11",
    "mov word ptr [rbp + 4], 0x2222",
    "mov dword ptr [rbp + 8], 0x33333333",
    "mov rax, 0x4444444444444444",
    "mov [rbp + 16], rax",
    "out SYNC, al",
    "jmp 2b",
);

/// What [`coalesced_writer`] writes.
fn written() -> [Write; 4] {
    [
        mmio(MMIO + 1, 1, 0x11),
        mmio(MMIO + 4, 2, 0x2222),
        mmio(MMIO + 8, 4, 0x3333_3333),
        mmio(MMIO + 16, 8, 0x4444_4444_4444_4444),
    ]
}

/// The capability says where the ring is.
fn coalesced_caps() -> TestResult {
    let m = Machine::long(coalesced_writer())?;
    check_eq!(m.sys.check(kb::KVM_CAP_COALESCED_MMIO), 2);
    check_eq!(m.sys.check(kb::KVM_CAP_COALESCED_PIO), 1);
    check!(ioctl(m.sys.fd(), KVM_GET_VCPU_MMAP_SIZE, 0)? as usize >= RING + PAGE);
    Ok(())
}

/// Writes of each length come in the order in which they were made, and none ends KVM_RUN.
fn coalesced_order() -> TestResult {
    let mut m = Machine::long(coalesced_writer())?;
    register(&m, MMIO, 24, 0)?;
    for _ in 0..100 {
        m.run_sync()?;
        check_eq!(take(&m.vcpu)[..], written());
    }
    Ok(())
}

guest!(coalesced_counter:
    // Writes RDI, which counts, RSI times.
    "mov ebp, MMIO",
    "2: mov [rbp], rdi", "inc rdi", "dec rsi", "jnz 2b",
    "out DONE, al",
);

/// A full ring ends KVM_RUN with the write that found no room; nothing is lost and nothing overtakes.
fn coalesced_full() -> TestResult {
    const COUNT: u64 = 1000;
    let mut m = Machine::long(coalesced_counter())?;
    register(&m, MMIO, 8, 0)?;
    m.with_regs(|r| (r.rdi, r.rsi) = (0, COUNT))?;
    let (mut next, mut exits) = (0, 0);
    m.run_with(|m, exit| {
        let ring = take(&m.vcpu);
        check_eq!(ring.len() as u32, ENTRIES - 1, "writes in a full ring");
        for write in ring {
            check_eq!(write, mmio(MMIO, 8, next));
            next += 1;
        }
        check_eq!(*exit, Exit::MmioWrite { gpa: MMIO, len: 8, data: next });
        next += 1;
        exits += 1;
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    for write in take(&m.vcpu) {
        check_eq!(write, mmio(MMIO, 8, next));
        next += 1;
    }
    check_eq!(next, COUNT);
    check_eq!(exits, COUNT / u64::from(ENTRIES));
    Ok(())
}

guest!(coalesced_edge_writer:
    "mov ebp, MMIO",
    "mov dword ptr [rbp + 0xffc], 1",
    "mov dword ptr [rbp + 0x1000], 2",
    "mov dword ptr [rbp + 0x100c], 3",
    "mov dword ptr [rbp + 0x100e], 4",
    "mov dword ptr [rbp + 0x1010], 5",
    "mov dword ptr [rbp + 0xffe], 6",
    "mov eax, [rbp + 0x1000]",
    "out DONE, al",
);

/// A write must lie in a zone with all its bytes; a read never does.
fn coalesced_edges() -> TestResult {
    let mut m = Machine::long(coalesced_edge_writer())?;
    register(&m, MMIO + 0x1000, 16, 0)?;
    let at = |offset| MMIO + offset;
    let mut exits = Vec::new();
    m.run_with(|m, exit| {
        match *exit {
            Exit::MmioWrite { gpa, len, data } => exits.push(mmio(gpa, len, data)),
            Exit::MmioRead { gpa, len } => {
                exits.push(mmio(gpa, len, 99));
                m.vcpu.set_mmio_data(0);
            }
            ref other => check!(false, "{other:?}"),
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    let ring = take(&m.vcpu);
    check_eq!(ring[..2], [mmio(at(0x1000), 4, 2), mmio(at(0x100c), 4, 3)]);
    check_eq!(exits[0], mmio(at(0xffc), 4, 1));
    check_eq!(exits[1], mmio(at(0x100e), 4, 4));
    check_eq!(exits[2], mmio(at(0x1010), 4, 5));
    // The write across the page's end is two: the second half is the VMM's, too, or it would be the first.
    check_eq!(exits[3], mmio(at(0xffe), 2, 6));
    check_eq!(exits.last(), Some(&mmio(at(0x1000), 4, 99)));
    let halves = [ring.get(2), exits.get(4)];
    check!(halves.contains(&Some(&mmio(at(0x1000), 2, 0))), "the second half: {halves:?}");
    Ok(())
}

/// Zones are taken back by any part of them; others stay.
fn coalesced_removed() -> TestResult {
    let mut m = Machine::long(coalesced_writer())?;
    register(&m, MMIO, 0x1000, 0)?;
    register(&m, MMIO, 24, 0)?;
    m.run_sync()?;
    check_eq!(take(&m.vcpu)[..], written());
    // Larger than one of them; and not a port.
    unregister(&m, MMIO, 25, 1)?;
    unregister(&m, MMIO, 0x1001, 0)?;
    m.run_sync()?;
    check_eq!(take(&m.vcpu)[..], written(), "still there");
    unregister(&m, MMIO + 0x800, 4, 0)?;
    m.run_sync()?;
    check_eq!(take(&m.vcpu)[..], written(), "the smaller zone");
    unregister(&m, MMIO + 8, 4, 0)?;
    for write in written() {
        let Write { address, length, data, .. } = write;
        check_eq!(m.run()?, Exit::MmioWrite { gpa: address, len: length, data });
    }
    m.run_sync()?;
    check_eq!(take(&m.vcpu)[..], []);
    Ok(())
}

guest!(coalesced_port_writer:
    "mov edx, 0x250", "mov eax, 0x12345678",
    "2: out dx, al", "out dx, ax", "out dx, eax",
    "out SYNC, al",
    "jmp 2b",
);

/// Ports have zones of their own.
fn coalesced_ports() -> TestResult {
    let mut m = Machine::long(coalesced_port_writer())?;
    register(&m, PORT, 4, 1)?;
    let all = [port(1, 0x78), port(2, 0x5678), port(4, 0x1234_5678)];
    for _ in 0..3 {
        m.run_sync()?;
        check_eq!(take(&m.vcpu)[..], all);
    }
    unregister(&m, PORT, 4, 1)?;
    register(&m, PORT, 4, 0)?;
    check_eq!(m.run()?, Exit::Out { port: PORT as u16, size: 1, data: vec![0x78] });
    // The zone's end counts.
    register(&m, PORT, 2, 1)?;
    check_eq!(m.run()?, Exit::Out { port: PORT as u16, size: 4, data: vec![0x78, 0x56, 0x34, 0x12] });
    check_eq!(take(&m.vcpu)[..], all[1..2]);
    m.run_sync()?;
    Ok(())
}

guest!(coalesced_string_writer:
    "mov rsi, DATA", "mov edx, 0x250", "mov ecx, 100", "rep outsb",
    "mov rsi, DATA", "mov edi, MMIO", "mov ecx, 20", "rep movsd",
    "out DONE, al",
);

/// String instructions fill the ring, too.
fn coalesced_strings() -> TestResult {
    let mut m = Machine::long(coalesced_string_writer())?;
    let bytes: Vec<u8> = (0..100).map(|i| i * 3).collect();
    m.mem.write(DATA, &bytes);
    register(&m, PORT, 1, 1)?;
    register(&m, MMIO, 0x1000, 0)?;
    m.run_done()?;
    let mut expected: Vec<_> = bytes.iter().map(|&byte| port(1, byte.into())).collect();
    for i in 0..20u64 {
        let value = m.mem.get32(DATA + i * 4);
        expected.push(mmio(MMIO + i * 4, 4, value.into()));
    }
    check_eq!(take(&m.vcpu), expected);
    Ok(())
}

/// Whatever the VMM writes to the ring's indices, nothing breaks.
fn coalesced_bad_indices() -> TestResult {
    let mut m = Machine::long(coalesced_writer())?;
    register(&m, MMIO, 24, 0)?;
    for last in [ENTRIES, ENTRIES + 1, 0x8000_0000, u32::MAX] {
        m.vcpu.set_word(RING + 4, last);
        for write in written() {
            let Write { address, length, data, .. } = write;
            check_eq!(m.run()?, Exit::MmioWrite { gpa: address, len: length, data });
        }
        m.run_sync()?;
        check_eq!(m.vcpu.word(RING + 4), last);
    }
    for first in [ENTRIES, u32::MAX] {
        m.vcpu.set_word(RING, first);
        m.vcpu.set_word(RING + 4, ENTRIES - 1);
        m.run_sync()?;
        check_eq!(m.vcpu.word(RING + 4), 3);
    }
    m.vcpu.set_word(RING, 0);
    m.vcpu.set_word(RING + 4, 0);
    m.run_sync()?;
    check_eq!(take(&m.vcpu)[..], written());
    Ok(())
}

/// All vCPUs of a VM have the same ring, and VMs have their own.
fn coalesced_one_ring() -> TestResult {
    let mut m = Machine::long(coalesced_writer())?;
    let other = m.vm.create_vcpu(1)?;
    let stranger = Machine::long(coalesced_writer())?;
    register(&m, MMIO, 24, 0)?;
    m.run_sync()?;
    check_eq!(stranger.vcpu.word(RING + 4), 0);
    check_eq!(take(&other)[..], written());
    check_eq!(m.vcpu.word(RING), 4);
    Ok(())
}

/// Bad arguments.
fn coalesced_errors() -> TestResult {
    let mut m = Machine::long(coalesced_writer())?;
    for pio in [2, u32::MAX] {
        check_errno!(register(&m, MMIO, 8, pio), libc::EINVAL);
        check_errno!(unregister(&m, MMIO, 8, pio), libc::EINVAL);
    }
    for request in [KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO] {
        check_errno!(ioctl(m.vm.fd(), request, 1 << 62), libc::EFAULT);
    }
    // What is not there can be taken back.
    unregister(&m, MMIO, 8, 0)?;
    // A zone that wraps or is empty collects nothing.
    register(&m, u64::MAX - 3, 16, 0)?;
    register(&m, MMIO + 1, 0, 0)?;
    for write in written() {
        let Write { address, length, data, .. } = write;
        check_eq!(m.run()?, Exit::MmioWrite { gpa: address, len: length, data });
    }
    Ok(())
}

/// There is a limit to the number of zones.
fn coalesced_many_zones() -> TestResult {
    let mut m = Machine::long(coalesced_writer())?;
    for i in 0..1000 {
        register(&m, MMIO + 0x1000 * i, 24, 0)?;
    }
    check_errno!(register(&m, MMIO, 24, 0), libc::ENOSPC);
    m.run_sync()?;
    check_eq!(take(&m.vcpu)[..], written());
    for i in 0..1000 {
        unregister(&m, MMIO + 0x1000 * i, 24, 0)?;
    }
    register(&m, MMIO, 24, 0)?;
    Ok(())
}
