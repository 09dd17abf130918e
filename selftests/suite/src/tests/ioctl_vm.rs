// SPDX-License-Identifier: GPL-2.0-only
//! Ioctls of the VM descriptor with good and bad arguments.

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{env, TestResult};
use crate::host::Mapping;
use crate::kvm::*;
use crate::machine::{Machine, Mode, Setup};

tests!(
    ioctl_memory_region_bad,
    ioctl_memory_region_overlap,
    ioctl_memory_region_change,
    ioctl_memory_region_many,
    ioctl_memory_region2,
    ioctl_tss_and_identity,
    ioctl_create_vcpu,
    ioctl_max_vcpu_id,
    ioctl_irqchip_order,
    ioctl_irqchip_absent,
    ioctl_irqchip_state,
    ioctl_irq_line_bad,
    ioctl_signal_msi_bad,
    ioctl_vm_pointers,
);

const P: u64 = PAGE as u64;

guest!(vm_alive:
    "out DONE, al",
);

/// A machine and spare memory of 16 pages.
fn machine() -> std::result::Result<(Machine, Mapping), crate::harness::Outcome> {
    Ok((Machine::long(vm_alive())?, Mapping::anonymous(16 * PAGE)))
}

/// Every single wrong field is EINVAL, and the machine works as before.
fn ioctl_memory_region_bad() -> TestResult {
    let (mut m, mem) = machine()?;
    let (hva, gpa) = (mem.addr(), 0x1_0000_0000);
    let slots = m.sys.check(kb::KVM_CAP_NR_MEMSLOTS) as u32;
    let bad: &[(u32, u32, u64, u64, u64, &str)] = &[
        (1, 0, gpa + 1, P, hva, "odd guest address"),
        (1, 0, gpa + 0x800, P, hva, "guest address not a page"),
        (1, 0, gpa, P + 1, hva, "odd size"),
        (1, 0, gpa, 100, hva, "size less than a page"),
        (1, 0, gpa, P, hva + 1, "odd address"),
        (1, 0, gpa, P, 0xffff_8000_0000_0000, "kernel address"),
        (1, 0, gpa, 1 << 60, hva, "huge size"),
        (1, 0, gpa, P << 32, hva, "too many pages"),
        (1, 0, u64::MAX - P + 1, 2 * P, hva, "guest address wraps"),
        (1, 0, gpa, 0, hva, "deletes what is not there"),
        (1, 1 << 8, gpa, P, hva, "unknown flag"),
        (1, 1 << 31, gpa, P, hva, "unknown flag"),
        (slots, 0, gpa, P, hva, "slot number too high"),
        (0xffff, 0, gpa, P, hva, "slot number too high"),
        (2 << 16, 0, gpa, P, hva, "address space that does not exist"),
        (u32::MAX, 0, gpa, P, hva, "slot number -1"),
    ];
    for &(slot, flags, gpa, size, hva, what) in bad {
        check_errno!(m.vm.set_slot(slot, flags, gpa, size, hva), libc::EINVAL, "{what}");
    }
    // None of them left anything behind.
    m.vm.set_slot(1, 0, gpa, P, hva)?;
    m.run_done()?;
    Ok(())
}

/// Overlaps are EEXIST; neighbours are not overlaps.
fn ioctl_memory_region_overlap() -> TestResult {
    let (m, mem) = machine()?;
    let base = 0x1_0000_0000;
    m.vm.set_slot(1, 0, base, 4 * P, mem.addr())?;
    for (gpa, pages) in [
        (base, 1),
        (base, 4),
        (base + 3 * P, 1),
        (base - P, 2),
        (base - P, 6),
        (base + P, 2),
        (base + 3 * P, 4),
    ] {
        let result = m.vm.set_slot(2, 0, gpa, pages * P, mem.addr());
        check_errno!(result, libc::EEXIST, "{pages} pages at {gpa:#x}");
    }
    check_errno!(m.vm.set_slot(2, 0, 0, P, mem.addr()), libc::EEXIST);
    m.vm.set_slot(2, 0, base - P, P, mem.addr())?;
    m.vm.set_slot(3, 0, base + 4 * P, P, mem.addr())?;
    // Moving slot 3 into slot 1 is an overlap as well; moving it by a page is not.
    check_errno!(m.vm.set_slot(3, 0, base + 3 * P, P, mem.addr()), libc::EEXIST);
    m.vm.set_slot(3, 0, base + 5 * P, P, mem.addr())?;
    // After a deletion the place is free.
    m.vm.set_slot(1, 0, 0, 0, 0)?;
    m.vm.set_slot(4, 0, base, 4 * P, mem.addr())?;
    Ok(())
}

/// Size and address of a slot cannot change; the same again is fine; delete and create is.
fn ioctl_memory_region_change() -> TestResult {
    let (m, mem) = machine()?;
    let base = 0x1_0000_0000;
    m.vm.set_slot(1, 0, base, 4 * P, mem.addr())?;
    m.vm.set_slot(1, 0, base, 4 * P, mem.addr())?;
    check_errno!(m.vm.set_slot(1, 0, base, 5 * P, mem.addr()), libc::EINVAL);
    check_errno!(m.vm.set_slot(1, 0, base, 3 * P, mem.addr()), libc::EINVAL);
    check_errno!(m.vm.set_slot(1, 0, base, 4 * P, mem.addr() + P), libc::EINVAL);
    if m.sys.check(kb::KVM_CAP_READONLY_MEM) > 0 {
        let result = m.vm.set_slot(1, kb::KVM_MEM_READONLY, base, 4 * P, mem.addr());
        check_errno!(result, libc::EINVAL, "READONLY on an existing slot");
    }
    m.vm.set_slot(1, 0, base, 0, 0)?;
    check_errno!(m.vm.set_slot(1, 0, base, 0, 0), libc::EINVAL);
    m.vm.set_slot(1, 0, base, 5 * P, mem.addr() + P)?;
    Ok(())
}

/// As many slots as are advertised (up to 500), the last number included, then all gone.
fn ioctl_memory_region_many() -> TestResult {
    let (mut m, mem) = machine()?;
    let slots = m.sys.check(kb::KVM_CAP_NR_MEMSLOTS) as u32;
    let last = slots - 1;
    let count = slots.min(500);
    let gpa = |slot: u32| 0x1_0000_0000 + u64::from(slot) * 2 * P;
    for slot in (1..count - 1).rev().chain([last]) {
        m.vm.set_slot(slot, 0, gpa(slot), P, mem.addr())?;
    }
    for slot in (1..count - 1).chain([last]) {
        m.vm.set_slot(slot, 0, 0, 0, 0)?;
    }
    m.run_done()?;
    Ok(())
}

/// KVM_SET_USER_MEMORY_REGION2 does what the first one does, and refuses unknown flags.
fn ioctl_memory_region2() -> TestResult {
    let (mut m, mem) = machine()?;
    if m.sys.check(kb::KVM_CAP_USER_MEMORY2) == 0 {
        return crate::harness::skip("no KVM_CAP_USER_MEMORY2");
    }
    let mut region = kb::kvm_userspace_memory_region2 {
        slot: 1,
        guest_phys_addr: 0x1_0000_0000,
        memory_size: P,
        userspace_addr: mem.addr(),
        ..Default::default()
    };
    let set = |region: &_| ioctl_in(m.vm.fd(), KVM_SET_USER_MEMORY_REGION2, region);
    set(&region)?;
    region.slot = 2;
    check_errno!(set(&region), libc::EEXIST);
    region.guest_phys_addr += P;
    region.flags = 1 << 20;
    check_errno!(set(&region), libc::EINVAL);
    region.flags = 0;
    set(&region)?;
    region.memory_size = 0;
    set(&region)?;
    check_errno!(ioctl(m.vm.fd(), KVM_SET_USER_MEMORY_REGION2, 0), libc::EFAULT);
    m.run_done()?;
    Ok(())
}

/// KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR.
fn ioctl_tss_and_identity() -> TestResult {
    let sys = System::open(&env().device)?;
    let vm = sys.create_vm()?;
    ioctl_in(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, &0xfffb_c000u64)?;
    ioctl(vm.fd(), KVM_SET_TSS_ADDR, 0xfffb_d000)?;
    check_errno!(ioctl(vm.fd(), KVM_SET_TSS_ADDR, 0xffff_e000), libc::EINVAL);
    check_errno!(ioctl(vm.fd(), KVM_SET_TSS_ADDR, 1 << 40), libc::EINVAL);
    check_errno!(ioctl(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, 0), libc::EFAULT);
    let vcpu = vm.create_vcpu(0)?;
    check_errno!(ioctl_in(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, &0u64), libc::EINVAL);
    drop(vcpu);
    Ok(())
}

/// vCPU numbers: each once, none too high.
fn ioctl_create_vcpu() -> TestResult {
    let sys = System::open(&env().device)?;
    let vm = sys.create_vm()?;
    let max_id = sys.check(kb::KVM_CAP_MAX_VCPU_ID).max(1) as u64;
    let _first = vm.create_vcpu(0)?;
    check_errno!(vm.create_vcpu(0), libc::EEXIST);
    for id in [max_id, max_id + 1, 1 << 31, 1 << 32, u64::MAX] {
        check_errno!(vm.create_vcpu(id), libc::EINVAL, "vCPU {id:#x}");
    }
    if sys.check(kb::KVM_CAP_MAX_VCPUS) > 1 {
        let _second = vm.create_vcpu(1)?;
        check_errno!(vm.create_vcpu(1), libc::EEXIST);
    }
    Ok(())
}

/// KVM_CAP_MAX_VCPU_ID bounds the numbers once, before the first vCPU and above the boot CPU's.
fn ioctl_max_vcpu_id() -> TestResult {
    let sys = System::open(&env().device)?;
    let vm = sys.create_vm()?;
    let cap = kb::KVM_CAP_MAX_VCPU_ID;
    let most = sys.check(cap) as u64;
    check_errno!(vm.enable_cap(cap, most + 1), libc::EINVAL);
    check_errno!(vm.enable_cap(cap, 1 << 40), libc::EINVAL);
    check_errno!(ioctl(vm.fd(), KVM_SET_BOOT_CPU_ID, most + 1), libc::EINVAL);
    ioctl(vm.fd(), KVM_SET_BOOT_CPU_ID, 6)?;
    check_errno!(vm.enable_cap(cap, 5), libc::EINVAL, "below the boot CPU");
    vm.enable_cap(cap, 8)?;
    vm.enable_cap(cap, 8)?;
    check_errno!(vm.enable_cap(cap, 9), libc::EINVAL, "set before");
    check_errno!(ioctl(vm.fd(), KVM_SET_BOOT_CPU_ID, 9), libc::EINVAL);
    check_errno!(vm.create_vcpu(8), libc::EINVAL);
    let _vcpu = vm.create_vcpu(7)?;
    let late = sys.create_vm()?;
    let _vcpu = late.create_vcpu(0)?;
    check_errno!(late.enable_cap(cap, 8), libc::EINVAL, "after a vCPU");
    Ok(())
}

/// The interrupt controllers come once, and before the first vCPU.
fn ioctl_irqchip_order() -> TestResult {
    let sys = System::open(&env().device)?;
    let vm = sys.create_vm()?;
    vm.create_irqchip()?;
    check_errno!(vm.create_irqchip(), libc::EEXIST);
    let _vcpu = vm.create_vcpu(0)?;
    check_errno!(vm.create_irqchip(), libc::EEXIST);
    let vm = sys.create_vm()?;
    let _vcpu = vm.create_vcpu(0)?;
    check_errno!(vm.create_irqchip(), libc::EINVAL);
    Ok(())
}

/// Without interrupt controllers their ioctls fail, each with its errno.
fn ioctl_irqchip_absent() -> TestResult {
    let m = Machine::long(&[])?;
    check_errno!(m.vm.irq_line(4, 1), libc::ENXIO);
    let mut chip = kb::kvm_irqchip { chip_id: 2, ..Default::default() };
    check_errno!(ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut chip), libc::ENXIO);
    check_errno!(ioctl_out(m.vm.fd(), KVM_SET_IRQCHIP, &mut chip), libc::ENXIO);
    check_errno!(m.vm.signal_msi(0xfee0_0000, 0x41), libc::EINVAL);
    check_errno!(m.vcpu.lapic(), libc::EINVAL);
    let halted = kb::kvm_mp_state { mp_state: kb::KVM_MP_STATE_HALTED };
    check_errno!(m.vcpu.set_mp_state(&halted), libc::EINVAL);
    Ok(())
}

/// The IOAPIC's state can be read, changed and read again; chips from nowhere cannot.
fn ioctl_irqchip_state() -> TestResult {
    let m = Setup::new(Mode::Long).irqchip().build(&[])?;
    let mut chip = kb::kvm_irqchip { chip_id: kb::KVM_IRQCHIP_IOAPIC, ..Default::default() };
    ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut chip)?;
    // SAFETY: every bit pattern is a valid IOAPIC state.
    let before = unsafe { chip.chip.ioapic };
    check_eq!(before.base_address, IOAPIC);
    // SAFETY: as above; entry 5 unmasked, edge, vector 0x45.
    unsafe { chip.chip.ioapic.redirtbl[5].bits = 0x45 };
    ioctl_out(m.vm.fd(), KVM_SET_IRQCHIP, &mut chip)?;
    let mut again = kb::kvm_irqchip { chip_id: kb::KVM_IRQCHIP_IOAPIC, ..Default::default() };
    ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut again)?;
    // SAFETY: as above.
    let (entry, other) = unsafe { (again.chip.ioapic.redirtbl[5].bits, again.chip.ioapic.redirtbl[4].bits) };
    check_eq!(entry, 0x45);
    // SAFETY: as above.
    check_eq!(other, unsafe { before.redirtbl[4].bits });
    for id in [3, 100, u32::MAX] {
        chip.chip_id = id;
        check_errno!(ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut chip), libc::EINVAL);
        check_errno!(ioctl_out(m.vm.fd(), KVM_SET_IRQCHIP, &mut chip), libc::EINVAL);
    }
    check_errno!(ioctl(m.vm.fd(), KVM_GET_IRQCHIP, 0), libc::EFAULT);
    check_errno!(ioctl(m.vm.fd(), KVM_SET_IRQCHIP, 0), libc::EFAULT);
    Ok(())
}

/// Interrupt lines that do not exist have no effect, whatever the call says.
fn ioctl_irq_line_bad() -> TestResult {
    let mut m = Machine::irqchip(vm_alive())?;
    for irq in [24, 100, 4096, u32::MAX] {
        for level in [1, 0] {
            if let Err(error) = m.vm.irq_line(irq, level) {
                check_eq!(error.errno.0, libc::EINVAL, "line {irq}");
            }
        }
    }
    check_errno!(ioctl(m.vm.fd(), KVM_IRQ_LINE, 0), libc::EFAULT);
    m.run_done()?;
    Ok(())
}

/// Unknown flags are refused; messages to no one are not delivered.
fn ioctl_signal_msi_bad() -> TestResult {
    let mut m = Machine::irqchip(vm_alive())?;
    let msi = kb::kvm_msi {
        address_lo: 0xfee0_0000,
        data: 0x41,
        flags: 1 << 7,
        ..Default::default()
    };
    check_errno!(ioctl_in(m.vm.fd(), KVM_SIGNAL_MSI, &msi), libc::EINVAL);
    check_errno!(ioctl(m.vm.fd(), KVM_SIGNAL_MSI, 0), libc::EFAULT);
    // Physical destination 0x55: there is no such APIC.
    check!(m.vm.signal_msi(0xfee5_5000, 0x41).unwrap_or(0) <= 0, "delivered to APIC 0x55");
    m.run_done()?;
    Ok(())
}

/// Pointers into nowhere are EFAULT for every ioctl of the VM that takes one.
fn ioctl_vm_pointers() -> TestResult {
    let mut m = Machine::irqchip(vm_alive())?;
    // The last 8 bytes of a page before one that is not there.
    let mem = Mapping::anonymous(2 * PAGE);
    check!(mem.punch(P, PAGE));
    let edge = mem.addr() + P - 8;
    for request in [
        KVM_SET_USER_MEMORY_REGION,
        KVM_IRQ_LINE_STATUS,
        KVM_GET_IRQCHIP,
        KVM_SET_IRQCHIP,
        KVM_SIGNAL_MSI,
    ] {
        for addr in [0, 8, 0xffff_8000_0000_0000, u64::MAX, 0x7fff_ffff_f000] {
            check_errno!(ioctl(m.vm.fd(), request, addr), libc::EFAULT, "{} {addr:#x}", request.name);
        }
        if request != KVM_IRQ_LINE_STATUS {
            check_errno!(ioctl(m.vm.fd(), request, edge), libc::EFAULT, "{} edge", request.name);
        }
    }
    m.run_done()?;
    Ok(())
}
