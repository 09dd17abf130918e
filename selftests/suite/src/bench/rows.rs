// SPDX-License-Identifier: GPL-2.0-only
//! The operations that the benchmark measures.

use super::{By, Row};
use crate::host::is_amd;

/// The vector of interrupts in the rows.
pub const VECTOR: u64 = 0x41;
/// The bytes of the handler at the end of every row's code.
pub const HANDLER_LEN: u64 = 16;

/// The port whose writes are events.
pub const EVENT_PORT: u64 = 0x5c8;
/// The address whose writes are events.
pub const EVENT_GPA: u64 = 0xd000_1000;

/// The address of memory that nobody has touched yet.
pub const NEW_GPA: u64 = 0x4000_0000;

/// Defines a row's code: what comes before the rounds, the operation, and the handler when EOI alone is not
/// enough.
///
/// The operation may change RAX to RDI and R8 to R11 (R10 is not 0 in x2APIC mode); RBP is the local APIC's address.
macro_rules! code {
    ($name:ident: [$($before:literal),* $(,)?], [$($op:literal),* $(,)?]) => {
        code!($name: [$($before,)*], [$($op,)*], [
            "test r10d, r10d", "jnz 92b",
            "mov [rbp + 0xb0], r10d",
            "iretq",
        ]);
    };
    ($name:ident: [$($before:literal),* $(,)?], [$($op:literal),* $(,)?], [$($handler:literal),* $(,)?]) => {
        guest!($name:
            "mov ebp, 0xfee00000",
            "mov dword ptr [rbp + 0xf0], 0x1ff",
            "mov dword ptr [rbp + 0x350], 0x10000",
            $($before,)*
            "90: rdtsc", "shl rdx, 32", "or rax, rdx", "mov r12, rax",
            $($op,)*
            "rdtsc", "shl rdx, 32", "or rax, rdx",
            "sub rax, r12",
            "cmp rax, r14", "cmovb r14, rax",
            "dec r13", "jnz 90b",
            "out DONE, al",
            // The handler's EOI by MSR in x2APIC mode, which R10 says.
            "92: mov ecx, 0x80b", "xor eax, eax", "xor edx, edx", "wrmsr",
            "iretq",
            // The handler, 16 bytes or less.
            ".balign 16",
            $($handler,)*
            ".balign 16, 0x90",
        );
    };
}

code!(bench_empty: [], []);
code!(bench_cpuid: [], ["xor eax, eax", "xor ecx, ecx", "cpuid"]);
code!(bench_wrmsr: [], ["mov ecx, 0x3b", "xor eax, eax", "xor edx, edx", "wrmsr"]);
code!(bench_rdmsr: [], ["mov ecx, 0x3b", "rdmsr"]);
code!(bench_out_event: ["mov edx, 0x5c8", "mov r8d, edx"], ["mov edx, r8d", "out dx, al"]);
code!(bench_mmio_event: ["mov r9d, 0xd0001000"], ["mov [r9], eax"]);
code!(bench_out_pic: [], ["mov al, 0xff", "out 0x21, al"]);
code!(bench_in_pic: [], ["in al, 0x21"]);
code!(bench_out_user: [], ["out 0xe2, al"]);
code!(bench_in_user: [], ["in al, 0xe2"]);
code!(bench_mmio_write: ["mov r9d, 0xd0000000"], ["mov [r9], eax"]);
code!(bench_mmio_read: ["mov r9d, 0xd0000000"], ["mov eax, [r9]"]);
code!(bench_ioapic_read: ["mov r9d, 0xfec00000"], ["mov eax, [r9]"]);
code!(bench_lapic_read: [], ["mov eax, [rbp + 0x320]"]);
code!(bench_cr0: ["mov r8, cr0", "mov r9, r8", "xor r9d, 0x40000"],
    ["mov cr0, r9", "mov cr0, r8"]);
code!(bench_new_page: ["mov r9d, 0x40000000"], ["mov [r9], eax", "add r9, 0x1000"]);
code!(bench_wbinvd: [], ["wbinvd"]);
code!(bench_vmcall: [], ["mov eax, 0x7fff", "vmcall"]);
code!(bench_vmmcall: [], ["mov eax, 0x7fff", "vmmcall"]);
code!(bench_self_ipi: ["xor r10d, r10d"],
    ["mov dword ptr [rbp + 0x300], 0x40041", "sti", "nop", "cli"]);
code!(bench_self_ipi_hlt: ["xor r10d, r10d"],
    ["mov dword ptr [rbp + 0x300], 0x40041", "sti", "hlt", "cli"]);
code!(bench_self_ipi_x2: [
    "mov r10d, 1", "mov ecx, 0x1b", "rdmsr", "or eax, 0xc00", "wrmsr",
    "mov ecx, 0x80f", "mov eax, 0x1ff", "xor edx, edx", "wrmsr",
], ["mov ecx, 0x83f", "mov eax, 0x41", "xor edx, edx", "wrmsr", "sti", "nop", "cli"]);
code!(bench_timer_now: ["xor r10d, r10d", "mov dword ptr [rbp + 0x320], 0x40041"],
    ["mov eax, r12d", "mov rdx, r12", "shr rdx, 32", "mov ecx, 0x6e0", "wrmsr", "sti", "hlt", "cli"]);

code!(bench_user_irq: ["xor r10d, r10d"], ["out 0xe2, al", "sti", "nop", "cli"]);
code!(bench_level: [
    "xor r10d, r10d", "mov ebx, 0xfec00000",
    "mov dword ptr [rbx], 0x27", "mov dword ptr [rbx + 0x10], 0",
    "mov dword ptr [rbx], 0x26", "mov dword ptr [rbx + 0x10], 0x8041",
], ["out 0xe2, al", "sti", "nop", "cli"],
    ["out 0xe4, al", "mov [rbp + 0xb0], r10d", "iretq"]);
code!(bench_pic: [
    "mov al, 0x11", "out 0x20, al",
    "mov al, 0x40", "out 0x21, al",
    "mov al, 4", "out 0x21, al",
    "mov al, 1", "out 0x21, al",
    "mov al, 0xfd", "out 0x21, al",
    "mov dword ptr [rbp + 0x350], 0x700",
], ["out 0xe2, al", "sti", "nop", "cli"],
    ["push rax", "mov al, 0x20", "out 0x20, al", "pop rax", "iretq"]);
code!(bench_ipi: ["xor r10d, r10d"], [
    "mov dword ptr [rbp + 0x310], 0x01000000", "mov dword ptr [rbp + 0x300], 0x41",
    "sti", "hlt", "cli",
]);

guest!(
    /// What the other vCPU of [`By::Other`] runs: it answers each interrupt by one, until it is told to stop.
    answering:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "xor r10d, r10d",
    "cli",
    "mov dword ptr [DATA + 64], 1",
    "2: sti", "hlt", "cli",
    "cmp dword ptr [DATA + 72], 0", "jne 9f",
    "mov dword ptr [rbp + 0x310], 0", "mov dword ptr [rbp + 0x300], 0x41",
    "jmp 2b",
    "9: out DONE, al",
);

/// The code of the other vCPU.
pub fn other() -> &'static [u8] {
    answering()
}

guest!(bench_tick:
    // The timer ticks every millisecond. What counts is the time that a tick takes from a loop which reads
    // the time-stamp counter; the tick may come before the loop looks for it, or after, so that the longer one
    // of two steps has it.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov dword ptr [rbp + 0x3e0], 0xb",
    "mov dword ptr [rbp + 0x320], 0x20041",
    "mov dword ptr [rbp + 0x380], 1000000",
    "sti",
    "90: xor r8d, r8d", "xor r9d, r9d", "xor ebx, ebx",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov r12, rax",
    "91: mov rbx, r9", "mov r11d, r8d",
    "rdtsc", "shl rdx, 32", "or rax, rdx",
    "mov r9, rax", "sub r9, r12", "mov r12, rax",
    "test r11d, r11d", "jz 91b",
    "cmp r9, rbx", "cmovb r9, rbx",
    "cmp r9, r14", "cmovb r14, r9",
    "dec r13", "jnz 90b",
    "cli",
    "out DONE, al",
    ".balign 16",
    "mov dword ptr [rbp + 0xb0], 0",
    "inc r8d",
    "iretq",
    ".balign 16, 0x90",
);

/// The vendor's own instruction: the other one is patched by KVM at its first use.
fn bench_hypercall() -> &'static [u8] {
    if is_amd() {
        bench_vmmcall()
    } else {
        bench_vmcall()
    }
}

guest!(bench_eoi:
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "90: mov dword ptr [rbp + 0x300], 0x40041",
    "sti", "nop", "cli",
    "rdtsc", "shl rdx, 32", "or rax, rdx", "mov r12, rax",
    "mov dword ptr [rbp + 0xb0], 0",
    "rdtsc", "shl rdx, 32", "or rax, rdx",
    "sub rax, r12",
    "cmp rax, r14", "cmovb r14, rax",
    "dec r13", "jnz 90b",
    "out DONE, al",
    ".balign 16",
    "iretq",
    ".balign 16, 0x90",
);

guest!(bench_timer_wake:
    // The deadline is far enough away that the host goes idle. What counts is how long after it
    // the guest's handler starts.
    "mov ebp, 0xfee00000",
    "mov dword ptr [rbp + 0xf0], 0x1ff",
    "mov dword ptr [rbp + 0x350], 0x10000",
    "mov dword ptr [rbp + 0x320], 0x40041",
    "90: rdtsc", "shl rdx, 32", "or rax, rdx",
    "add rax, 100000",
    "mov r12, rax",
    "mov rdx, rax", "shr rdx, 32", "mov eax, eax", "mov ecx, 0x6e0", "wrmsr",
    "xor r8d, r8d",
    "91: sti", "hlt", "cli",
    "test r8d, r8d", "jz 91b",
    "mov dword ptr [rbp + 0xb0], 0",
    "sub rbx, r12",
    "cmp rbx, r14", "cmovb r14, rbx",
    "dec r13", "jnz 90b",
    "out DONE, al",
    ".balign 16",
    "rdtsc", "shl rdx, 32", "lea rbx, [rdx + rax]",
    "inc r8d",
    "iretq",
    ".balign 16, 0x90",
);

/// What a round costs with no operation in it.
pub const EMPTY: Row = Row {
    name: "empty",
    title: "",
    by: By::Kernel,
    rounds: 200,
    net: false,
    code: bench_empty,
};

macro_rules! rows {
    ($($name:literal, $title:literal, $by:ident, $rounds:literal, $code:ident;)+) => {
        /// Every row, in the order of the table.
        pub const ROWS: &[Row] = &[$(Row {
            name: $name, title: $title, by: By::$by, rounds: $rounds, net: true, code: $code,
        }),+];
    };
}

rows! {
    "cpuid", "CPUID", Kernel, 500, bench_cpuid;
    "wrmsr", "WRMSR of an emulated MSR (TSC_ADJUST)", Kernel, 500, bench_wrmsr;
    "rdmsr", "RDMSR of an emulated MSR (TSC_ADJUST)", Kernel, 500, bench_rdmsr;
    "pio-out-kernel", "OUT handled in the kernel (ioeventfd)", Kernel, 500, bench_out_event;
    "mmio-write-kernel", "MMIO write handled in the kernel (ioeventfd)", Kernel, 500, bench_mmio_event;
    "pic-out", "OUT to the PIC in the kernel", Kernel, 500, bench_out_pic;
    "pic-in", "IN from the PIC in the kernel", Kernel, 500, bench_in_pic;
    "pio-out-user", "OUT to userspace and back", User, 500, bench_out_user;
    "pio-in-user", "IN from userspace and back", User, 500, bench_in_user;
    "mmio-write-user", "MMIO write to userspace and back", User, 500, bench_mmio_write;
    "mmio-read-user", "MMIO read from userspace and back", User, 500, bench_mmio_read;
    "timer-wake", "HLT to timer wake-up (after the deadline)", Kernel, 60, bench_timer_wake;
    "timer-now", "TSC deadline that has passed, HLT, interrupt, EOI", Kernel, 200, bench_timer_now;
    "eoi", "EOI", Kernel, 300, bench_eoi;
    "self-ipi", "IPI to oneself, interrupt, EOI (xAPIC)", Kernel, 300, bench_self_ipi;
    "self-ipi-hlt", "IPI to oneself, HLT, interrupt, EOI (xAPIC)", Kernel, 300, bench_self_ipi_hlt;
    "self-ipi-x2apic", "IPI to oneself, interrupt, EOI (x2APIC)", Kernel, 300, bench_self_ipi_x2;
    "irqfd", "OUT to userspace, irqfd (message), interrupt, EOI", Eventfd, 200, bench_user_irq;
    "signal-msi", "OUT to userspace, KVM_SIGNAL_MSI, interrupt, EOI", Message, 200, bench_user_irq;
    "irq-line", "OUT to userspace, KVM_IRQ_LINE, level interrupt, OUT and KVM_IRQ_LINE, EOI", Level, 200, bench_level;
    "pic-irq", "OUT to userspace, KVM_IRQ_LINE, interrupt of the PIC, EOI by OUT", Pic, 200, bench_pic;
    "timer-tick", "Tick of the periodic timer, interrupt, EOI", Kernel, 30, bench_tick;
    "ipi", "IPI to another vCPU in HLT and back, on one CPU", Other, 200, bench_ipi;
    "ioapic-read", "Read of an IOAPIC register", Kernel, 300, bench_ioapic_read;
    "lapic-read", "Read of a local APIC register", Kernel, 300, bench_lapic_read;
    "cr0-am", "CR0.AM set and cleared (two exits)", Kernel, 300, bench_cr0;
    "wbinvd", "WBINVD", Kernel, 300, bench_wbinvd;
    "hypercall", "Hypercall", Kernel, 300, bench_hypercall;
    "new-page", "Nested page fault on new memory", Kernel, 300, bench_new_page;
}
