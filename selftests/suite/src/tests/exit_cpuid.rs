// SPDX-License-Identifier: GPL-2.0-only
//! CPUID: what userspace set is what the guest sees, apart from the bits that follow its state.

use kvm_bindings as kb;

use crate::harness::{skip, Outcome, TestResult};
use crate::host::{is_amd, is_tcg};
use crate::machine::*;

tests!(
    exit_cpuid_values,
    exit_cpuid_unknown_leaf,
    exit_cpuid_follows_state,
    exit_cpuid_xsave_size,
);

guest!(cpuid_any:
    "2:",
    "mov eax, edi",
    "mov ecx, esi",
    "mov rbx, -1",
    "mov rdx, -1",
    "cpuid",
    "out SYNC, al",
    "jmp 2b",
);

/// CPUID of `leaf` and `subleaf` in the guest: EAX, EBX, ECX, EDX as full registers.
fn cpuid(m: &mut Machine, leaf: u32, subleaf: u32) -> Result<[u64; 4], Outcome> {
    m.with_regs(|regs| (regs.rdi, regs.rsi) = (leaf.into(), subleaf.into()))?;
    let regs = m.run_sync()?;
    Ok([regs.rax, regs.rbx, regs.rcx, regs.rdx])
}

/// A leaf that userspace made up, an indexed one, and a brand string reach the guest.
fn exit_cpuid_values() -> TestResult {
    let mut m = Machine::long(cpuid_any())?;
    let mut entries = m.vcpu.cpuid()?;
    entries.retain(|e| e.function >> 8 != 0x40_0000 && !(0x8000_0002..=0x8000_0004).contains(&e.function));
    let entry = |function, index, flags, value: u32| kb::kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax: value,
        ebx: value + 1,
        ecx: value + 2,
        edx: value + 3,
        ..Default::default()
    };
    entries.push(entry(0x4000_0000, 0, 0, 0x1000));
    for (i, leaf) in (0x8000_0002..=0x8000_0004).enumerate() {
        entries.push(entry(leaf, 0, 0, 0xa000_0000 + i as u32 * 16));
    }
    entries.retain(|e| e.function != 4);
    let indexed = kb::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entries.push(entry(4, 0, indexed, 0x4000));
    entries.push(entry(4, 1, indexed, 0x4100));
    // Changing CPUID is allowed before the first run.
    m.vcpu.set_cpuid(&entries)?;
    let full = |value: u64| [value, value + 1, value + 2, value + 3];
    check_eq!(cpuid(&mut m, 0x4000_0000, 0)?, full(0x1000));
    for i in 0..3 {
        let got = cpuid(&mut m, 0x8000_0002 + i, 0)?;
        check_eq!(got, full(0xa000_0000 + u64::from(i) * 16), "brand string leaf {i}");
    }
    check_eq!(cpuid(&mut m, 0x8000_0003, 77)?, full(0xa000_0010), "index must not matter");
    check_eq!(cpuid(&mut m, 4, 0)?, full(0x4000));
    check_eq!(cpuid(&mut m, 4, 1)?, full(0x4100));
    check_eq!(m.vcpu.cpuid()?.len(), entries.len());
    // Every leaf that does not follow the vCPU's state reads as it was set.
    for e in &entries {
        if [1, 7, 0xd, 0x8000_0001].contains(&e.function) || e.function == 0x4000_0001 {
            continue;
        }
        let want = [e.eax, e.ebx, e.ecx, e.edx].map(u64::from);
        let got = cpuid(&mut m, e.function, e.index)?;
        check_eq!(got, want, "leaf {:#x}.{}", e.function, e.index);
    }
    Ok(())
}

/// A leaf above the highest: the highest basic leaf's values on Intel, zeros on AMD.
fn exit_cpuid_unknown_leaf() -> TestResult {
    let mut m = Machine::long(cpuid_any())?;
    let highest = cpuid(&mut m, 0, 0)?[0] as u32;
    let want = if is_amd() { [0; 4] } else { cpuid(&mut m, highest, 0)? };
    check_eq!(cpuid(&mut m, highest + 0x100, 0)?, want);
    let extended = cpuid(&mut m, 0x8000_0000, 0)?[0] as u32;
    check!(extended >= 0x8000_0008, "highest extended leaf {extended:#x}");
    Ok(())
}

guest!(cpuid_state:
    "mov eax, 1", "cpuid", "mov [DATA], rcx", "mov [DATA + 8], rdx",
    "shr ecx, 8", "and ecx, 0x40000", // CR4.OSXSAVE, if there is XSAVE
    "mov rax, cr4", "xor rax, rcx", "mov cr4, rax",
    "mov eax, 1", "cpuid", "mov [DATA + 16], rcx",
    "mov ecx, 0x1b", "rdmsr", "and eax, 0xfffff7ff", "wrmsr",
    "mov eax, 1", "cpuid", "mov [DATA + 24], rdx",
    "out DONE, al",
);

/// OSXSAVE follows CR4 and APIC follows the APIC base.
fn exit_cpuid_follows_state() -> TestResult {
    const XSAVE: u64 = 1 << 26;
    const OSXSAVE: u64 = 1 << 27;
    const APIC_BIT: u64 = 1 << 9;
    let mut m = Setup::new(Mode::Long).irqchip().build(cpuid_state())?;
    m.run_done()?;
    check_eq!(m.data(0) & OSXSAVE, 0, "OSXSAVE with CR4.OSXSAVE clear");
    if m.data(0) & XSAVE != 0 {
        check_eq!(m.data(2) & OSXSAVE, OSXSAVE, "OSXSAVE with CR4.OSXSAVE set");
    }
    check_eq!(m.data(1) & APIC_BIT, APIC_BIT, "APIC bit while enabled");
    check_eq!(m.data(3) & APIC_BIT, 0, "APIC bit while disabled");
    Ok(())
}

guest!(cpuid_xsave:
    "mov eax, 0xd", "xor ecx, ecx", "cpuid", "mov [DATA], rbx", "mov [DATA + 8], rcx",
    "mov [DATA + 32], rax",
    "mov esi, eax",
    "mov rax, cr4", "or rax, 0x40000", "mov cr4, rax",
    "mov eax, esi", "xor edx, edx", "xor ecx, ecx", "xsetbv",
    "mov eax, 0xd", "xor ecx, ecx", "cpuid", "mov [DATA + 16], rbx",
    "mov eax, 1", "xor edx, edx", "xor ecx, ecx", "xsetbv",
    "mov eax, 0xd", "xor ecx, ecx", "cpuid", "mov [DATA + 24], rbx",
    "out DONE, al",
);

/// Leaf 0xD: the size of the enabled features follows XCR0, and the maximum is consistent.
fn exit_cpuid_xsave_size() -> TestResult {
    let mut m = Machine::long(cpuid_xsave())?;
    let entries = m.vcpu.cpuid()?;
    let Some(d0) = entries.iter().find(|e| e.function == 0xd && e.index == 0) else {
        return skip("no XSAVE on this processor");
    };
    if d0.eax == 0 {
        return skip("no XSAVE on this processor");
    }
    let mut size = 576;
    for bit in 2..32 {
        if d0.eax >> bit & 1 != 0 {
            let part = entries.iter().find(|e| e.function == 0xd && e.index == bit);
            let part = part.ok_or_else(|| {
                Outcome::Fail(format!("no subleaf for XCR0 bit {bit}"))
            })?;
            size = size.max(part.eax + part.ebx);
        }
    }
    check_eq!(d0.ecx, size, "maximum size against the sum of the parts");
    if is_tcg() {
        return skip("QEMU's TCG does not intercept XSETBV");
    }
    m.run_done()?;
    check_eq!(m.data(0), 576, "size while XCR0 is 1");
    check_eq!(m.data(1), u64::from(size), "maximum size in the guest");
    check_eq!(m.data(2), u64::from(size), "size with all features on");
    check_eq!(m.data(3), 576, "size after going back");
    Ok(())
}
