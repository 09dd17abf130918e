// SPDX-License-Identifier: GPL-2.0-only
//! Interrupt routes, the split irqchip, and which vCPU boots.

use kvm_bindings as kb;

use crate::guest::*;
use crate::harness::{skip, Outcome, TestResult};
use crate::kvm::*;
use crate::machine::*;

tests!(
    irq_route_messages,
    irq_route_pins,
    irq_route_many,
    irq_route_bad,
    irq_route_status,
    irq_split_create,
    irq_split_eoi,
    irq_split_external,
    irq_split_window,
    irq_boot_cpu,
    irq_x2apic_api,
    irq_split_eoi_suppressed,
);

guest!(route_wait:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "sti",
    "2: out SYNC, al",
    "jmp 2b",
);

/// A guest that takes interrupts and reports in between.
pub fn wait_code() -> &'static [u8] {
    route_wait()
}

fn pin_route(gsi: u32, irqchip: u32, pin: u32) -> kb::kvm_irq_routing_entry {
    let irqchip = kb::kvm_irq_routing_irqchip { irqchip, pin };
    kb::kvm_irq_routing_entry {
        gsi,
        type_: kb::KVM_IRQ_ROUTING_IRQCHIP,
        u: kb::kvm_irq_routing_entry__bindgen_ty_1 { irqchip },
        ..Default::default()
    }
}

fn settle(m: &mut Machine) -> TestResult {
    for _ in 0..3 {
        m.run_sync()?;
    }
    Ok(())
}

fn machine() -> std::result::Result<Machine, Outcome> {
    let mut m = Machine::irqchip(route_wait())?;
    m.run_sync()?;
    Ok(m)
}

/// A line that is routed to a message sends it when it rises.
fn irq_route_messages() -> TestResult {
    let mut m = machine()?;
    m.vm.set_routes(&[msi_route(5, 0x45), msi_route(4095, 0x46)])?;
    for (gsi, vector) in [(5, 0x45), (4095, 0x46)] {
        m.vm.irq_line(gsi, 1)?;
        m.vm.irq_line(gsi, 0)?;
        settle(&mut m)?;
        check_eq!(m.irq_count(vector), 1, "GSI {gsi}");
    }
    // The old routes are gone.
    m.vm.set_routes(&[])?;
    m.vm.irq_line(5, 1)?;
    settle(&mut m)?;
    check_eq!(m.irq_log().len(), 2);
    Ok(())
}

guest!(route_ioapic:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov ebp, 0xfec00000",
    "mov dword ptr [rbp], 0x15", "mov dword ptr [rbp + 0x10], 0",
    "mov dword ptr [rbp], 0x14", "mov dword ptr [rbp + 0x10], 0x52",
    "sti",
    "2: out SYNC, al",
    "jmp 2b",
);

/// GSI 0 on pin 2, as PCs wire the timer.
fn irq_route_pins() -> TestResult {
    let mut m = Machine::irqchip(route_ioapic())?;
    m.run_sync()?;
    m.vm.irq_line(2, 1)?;
    m.vm.irq_line(2, 0)?;
    settle(&mut m)?;
    check_eq!(m.irq_count(0x52), 1, "the default route of GSI 2");
    m.vm.set_routes(&[pin_route(0, 2, 2), pin_route(0, 0, 0)])?;
    m.vm.irq_line(0, 1)?;
    m.vm.irq_line(0, 0)?;
    m.vm.irq_line(2, 1)?;
    m.vm.irq_line(2, 0)?;
    settle(&mut m)?;
    check_eq!(m.irq_count(0x52), 2);
    Ok(())
}

/// As many routes as there may be.
fn irq_route_many() -> TestResult {
    let mut m = machine()?;
    check!(m.vm.check(kb::KVM_CAP_IRQ_ROUTING) >= 4096);
    let routes: Vec<_> = (0..4096).rev().map(|gsi| msi_route(gsi, 0x40 + gsi % 64)).collect();
    m.vm.set_routes(&routes)?;
    for gsi in [0, 1, 100, 2048, 4095] {
        m.vm.irq_line(gsi, 1)?;
        settle(&mut m)?;
        check!(m.irq_count(u64::from(0x40 + gsi % 64)) >= 1, "GSI {gsi}");
    }
    check_eq!(m.irq_log().len(), 5);
    let too_many = vec![msi_route(1, 0x41); 4097];
    check_errno!(m.vm.set_routes(&too_many), libc::EINVAL);
    Ok(())
}

/// Tables that are refused leave the old one in force.
fn irq_route_bad() -> TestResult {
    let mut m = machine()?;
    m.vm.set_routes(&[msi_route(5, 0x45)])?;
    let mut flags = msi_route(6, 0x46);
    flags.flags = 2;
    let mut pin_flags = pin_route(6, 2, 6);
    pin_flags.flags = 1;
    let mut kind = msi_route(6, 0x46);
    kind.type_ = 77;
    let bad: &[&[kb::kvm_irq_routing_entry]] = &[
        &[msi_route(4096, 0x46)],
        &[pin_route(6, 0, 8)],
        &[pin_route(6, 1, 8)],
        &[pin_route(6, 2, 24)],
        &[pin_route(6, 3, 0)],
        &[flags],
        &[pin_flags],
        &[kind],
        &[msi_route(6, 0x46), msi_route(6, 0x47)],
        &[pin_route(6, 2, 6), pin_route(6, 2, 7)],
        &[pin_route(6, 2, 6), msi_route(6, 0x46)],
    ];
    for (i, routes) in bad.iter().enumerate() {
        check_errno!(m.vm.set_routes(routes), libc::EINVAL, "table {i}");
    }
    m.vm.irq_line(5, 1)?;
    settle(&mut m)?;
    check_eq!(m.irq_count(0x45), 1);
    // A device's ID is allowed.
    let mut device = msi_route(6, 0x46);
    device.flags = kb::KVM_MSI_VALID_DEVID;
    m.vm.set_routes(&[device])?;
    check_errno!(ioctl(m.vm.fd(), KVM_SET_GSI_ROUTING, 0), libc::EFAULT);
    let none = Machine::long(route_wait())?;
    check_errno!(none.vm.set_routes(&[msi_route(5, 0x45)]), libc::EINVAL);
    Ok(())
}

/// KVM_IRQ_LINE_STATUS of messages, and of lines that lead nowhere.
fn irq_route_status() -> TestResult {
    let m = machine()?;
    m.vm.set_routes(&[msi_route(5, 0x45)])?;
    let status = |irq, level| -> std::result::Result<i32, Outcome> {
        let mut line = kb::kvm_irq_level {
            __bindgen_anon_1: kb::kvm_irq_level__bindgen_ty_1 { irq },
            level,
        };
        ioctl_out(m.vm.fd(), KVM_IRQ_LINE_STATUS, &mut line)?;
        // SAFETY: both members are 32-bit integers.
        Ok(unsafe { line.__bindgen_anon_1.status })
    };
    check_eq!(status(5, 1)?, 1, "delivered");
    check_eq!(status(5, 0)?, -1, "a falling line sends nothing");
    check_eq!(status(6, 1)?, -1, "no route");
    check_eq!(status(u32::MAX, 1)?, -1, "no GSI");
    Ok(())
}

fn split(code: &[u8]) -> std::result::Result<Machine, Outcome> {
    let m = Setup::new(Mode::Long).split(24).build(code)?;
    m.mem.set(EOI_MODE, EOI_XAPIC);
    Ok(m)
}

/// Once, before the vCPUs, and instead of the full irqchip.
fn irq_split_create() -> TestResult {
    let m = split(route_wait())?;
    let cap = kb::KVM_CAP_SPLIT_IRQCHIP;
    check_errno!(m.vm.enable_cap(cap, 24), libc::EEXIST);
    check_errno!(m.vm.create_irqchip(), libc::EEXIST);
    check_errno!(m.vm.create_pit(), libc::ENOENT);
    check_errno!(m.vm.set_routes(&[pin_route(5, 2, 5)]), libc::EINVAL);
    let mut chip = kb::kvm_irqchip { chip_id: kb::KVM_IRQCHIP_IOAPIC, ..Default::default() };
    check_errno!(ioctl_out(m.vm.fd(), KVM_GET_IRQCHIP, &mut chip), libc::ENXIO);
    let full = machine()?;
    check_errno!(full.vm.enable_cap(cap, 24), libc::EEXIST);
    let vm = m.sys.create_vm()?;
    check_errno!(vm.enable_cap(cap, 4097), libc::EINVAL);
    let _vcpu = vm.create_vcpu(0)?;
    check_errno!(vm.enable_cap(cap, 24), libc::EEXIST);
    Ok(())
}

/// The end of a level-triggered interrupt of the VMM's I/O APIC is an exit; others are not.
fn irq_split_eoi() -> TestResult {
    let mut m = split(route_wait())?;
    m.run_sync()?;
    m.vm.set_routes(&[msi_route(3, 0xc051), msi_route(4, 0x52)])?;
    // What the tables say reaches a vCPU of KVM's at its next entry.
    settle(&mut m)?;
    for _ in 0..5 {
        m.vm.irq_line(3, 1)?;
        check_eq!(m.run()?, Exit::Other(kb::KVM_EXIT_IOAPIC_EOI));
        // SAFETY: the exit reason says that this member is in use.
        check_eq!(unsafe { m.vcpu.kvm_run().__bindgen_anon_1.eoi.vector }, 0x51);
        settle(&mut m)?;
        m.vm.irq_line(4, 1)?;
        settle(&mut m)?;
    }
    check_eq!((m.irq_count(0x51), m.irq_count(0x52)), (5, 5));
    Ok(())
}

guest!(suppressing_wait:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x11ff",
    "mov ebx, [rbp + 0xf0]",
    "mov esi, [rbp + 0x30]",
    "sti",
    "2: out SYNC, al",
    "jmp 2b",
);

/// Who may suppress EOI broadcasts, and whether that is obeyed, is the VMM's choice.
fn irq_split_eoi_suppressed() -> TestResult {
    const ENABLE: u64 = 4;
    const DISABLE: u64 = 8;
    for (flags, offered, exits) in [(0, true, true), (ENABLE, true, false), (DISABLE, false, true)] {
        let mut m = split(suppressing_wait())?;
        if u64::from(m.vm.check(kb::KVM_CAP_X2APIC_API) as u32) & (ENABLE | DISABLE) == 0 {
            return skip("an older KVM");
        }
        check_errno!(m.vm.enable_cap(kb::KVM_CAP_X2APIC_API, ENABLE | DISABLE), libc::EINVAL);
        m.vm.enable_cap(kb::KVM_CAP_X2APIC_API, flags)?;
        m.vcpu.set_cpuid(m.sys.supported_cpuid()?.entries())?;
        m.run_sync()?;
        let regs = m.vcpu.regs()?;
        check_eq!((regs.rsi >> 24 & 1 != 0, regs.rbx >> 12 & 1 != 0), (offered, offered), "{flags}");
        m.vm.set_routes(&[msi_route(3, 0xc051)])?;
        settle(&mut m)?;
        m.vm.irq_line(3, 1)?;
        if exits {
            check_eq!(m.run()?, Exit::Other(kb::KVM_EXIT_IOAPIC_EOI), "{flags}");
        }
        settle(&mut m)?;
        check_eq!(m.irq_count(0x51), 1);
    }
    let full = machine()?;
    check_eq!(full.vm.check(kb::KVM_CAP_X2APIC_API) as u64 & ENABLE, 0);
    check_errno!(full.vm.enable_cap(kb::KVM_CAP_X2APIC_API, ENABLE), libc::EINVAL);
    Ok(())
}

/// KVM_INTERRUPT is the PICs' interrupt, if LINT0 lets it through.
fn irq_split_external() -> TestResult {
    let mut m = split(route_wait())?;
    m.mem.set(EOI_MODE, EOI_NONE);
    m.run_sync()?;
    let interrupt = |irq| ioctl_in(m.vcpu.fd(), KVM_INTERRUPT, &kb::kvm_interrupt { irq });
    interrupt(0x61)?;
    check_errno!(interrupt(0x62), libc::EEXIST);
    settle(&mut m)?;
    check_eq!(m.irq_log(), [0x61]);
    let full = machine()?;
    let arg = kb::kvm_interrupt { irq: 0x61 };
    check_errno!(ioctl_in(full.vcpu.fd(), KVM_INTERRUPT, &arg), libc::ENXIO);
    Ok(())
}

guest!(split_window:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "2: cli", "out SYNC, al", "nop", "sti", "nop", "nop",
    "jmp 2b",
);

/// The VMM is told when the guest takes an interrupt of its PICs.
fn irq_split_window() -> TestResult {
    let mut m = split(split_window())?;
    m.mem.set(EOI_MODE, EOI_NONE);
    m.run_sync()?;
    for round in 1..=5 {
        check_eq!(m.vcpu.kvm_run().ready_for_interrupt_injection, 0, "interrupts are off");
        m.vcpu.kvm_run().request_interrupt_window = 1;
        check_eq!(m.run()?, Exit::IrqWindow);
        check_eq!(m.vcpu.kvm_run().ready_for_interrupt_injection, 1, "interrupts are on");
        m.vcpu.kvm_run().request_interrupt_window = 0;
        ioctl_in(m.vcpu.fd(), KVM_INTERRUPT, &kb::kvm_interrupt { irq: 0x61 })?;
        m.run_sync()?;
        check_eq!(m.irq_count(0x61), round);
    }
    Ok(())
}

/// KVM_SET_BOOT_CPU_ID: the other vCPUs wait.
fn irq_boot_cpu() -> TestResult {
    let m = machine()?;
    check_errno!(ioctl(m.vm.fd(), KVM_SET_BOOT_CPU_ID, 1), libc::EBUSY);
    let vm = m.sys.create_vm()?;
    vm.create_irqchip()?;
    ioctl(vm.fd(), KVM_SET_BOOT_CPU_ID, 2)?;
    let mut states = Vec::new();
    for id in 0..3 {
        let vcpu = vm.create_vcpu(id)?;
        let bsp = vcpu.sregs()?.apic_base >> 8 & 1;
        states.push((vcpu.mp_state()?.mp_state, bsp));
    }
    let waits = (kb::KVM_MP_STATE_UNINITIALIZED, 0);
    check_eq!(states, [waits, waits, (kb::KVM_MP_STATE_RUNNABLE, 1)]);
    Ok(())
}

/// KVM_CAP_X2APIC_API: 32-bit IDs in messages and in KVM_GET_LAPIC.
fn irq_x2apic_api() -> TestResult {
    let m = machine()?;
    let flags = m.vm.check(kb::KVM_CAP_X2APIC_API);
    if flags & 1 == 0 {
        return skip("no 32-bit IDs");
    }
    check_errno!(m.vm.enable_cap(kb::KVM_CAP_X2APIC_API, 1 << 20), libc::EINVAL);
    m.with_sregs(|s| s.apic_base |= 0xc00)?;
    let id = |m: &Machine| -> std::result::Result<u32, Outcome> {
        let regs = m.vcpu.lapic()?.regs;
        let bytes: Vec<u8> = regs[0x20..0x24].iter().map(|&b| b as u8).collect();
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    check_eq!(id(&m)?, 0);
    m.vm.enable_cap(kb::KVM_CAP_X2APIC_API, 1)?;
    check_eq!(id(&m)?, 0);
    let second = m.vm.create_vcpu(200)?;
    let mut sregs = second.sregs()?;
    second.set_cpuid(m.sys.supported_cpuid()?.entries())?;
    sregs.apic_base |= 0xc00;
    second.set_sregs(&sregs)?;
    check_eq!(second.lapic()?.regs[0x20] as u8, 200, "the ID's lowest byte");
    check_eq!(second.lapic()?.regs[0x23], 0);
    // Bits of the message's address that would be the ID's upper part must be whole.
    let msi = kb::kvm_msi { address_lo: 0xfee0_0000, address_hi: 1, data: 0x41, ..Default::default() };
    check_errno!(ioctl_in(m.vm.fd(), KVM_SIGNAL_MSI, &msi), libc::EINVAL);
    Ok(())
}
