// SPDX-License-Identifier: GPL-2.0-only
//! The default handlers of all 256 vectors in 64-bit mode.
//!
//! An exception (vector below 32) is recorded; then it returns to where it came from when its bit
//! in RETURN_MASK is set, or to the address in FIXUP (which is cleared), or it is reported to the
//! host. An interrupt is counted, logged with its time stamp and ended as EOI_MODE says.

guest!(
    /// The stubs' code, to be placed at [`super::STUBS`].
    stub_code:
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21",
    ".byte 0x66, 0x90",
    ".else",
    "push 0",
    ".endif",
    ".byte 0x68; .long vector", // push imm32
    ".byte 0xe9; .long 23f - . - 4", // jmp rel32
    ".set vector, vector + 1",
    ".endr",
    ".balign 16",
    "23:",
    "push rax",
    "push rcx",
    "push rdx",
    // Stack: rdx rcx rax vector error rip cs rflags rsp ss.
    "mov rcx, [rsp + 24]",
    "cmp rcx, 32",
    "jae 30f",
    "inc qword ptr [0xc800]",
    "mov [0xc808], rcx",
    "mov rax, [rsp + 32]",
    "mov [0xc810], rax",
    "mov rax, [rsp + 40]",
    "mov [0xc818], rax",
    "mov rax, [rsp + 56]",
    "mov [0xc820], rax",
    "mov rax, [rsp + 64]",
    "mov [0xc828], rax",
    "mov rax, cr2",
    "mov [0xc830], rax",
    "mov rax, [rsp + 48]",
    "mov [0xc838], rax",
    "bt qword ptr [0xc848], rcx",
    "jc 40f",
    "mov rax, [0xc840]",
    "test rax, rax",
    "jz 25f",
    "mov [rsp + 40], rax",
    "mov qword ptr [0xc840], 0",
    "jmp 40f",
    "25: out 0xe1, al",
    "jmp 25b",
    "30:",
    "inc dword ptr [0xc000 + rcx*4]",
    "rdtsc",
    "shl rdx, 32",
    "or rdx, rax",
    "mov rax, [0xc900]",
    "inc qword ptr [0xc900]",
    "and eax, 127",
    "shl eax, 4",
    "mov [0xd000 + rax], rcx",
    "mov [0xd008 + rax], rdx",
    "mov rax, [0xc850]",
    "cmp eax, 1",
    "jne 35f",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "jmp 40f",
    "35: cmp eax, 2",
    "jne 40f",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "40:",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "add rsp, 16",
    "iretq",
);

/// The code to place at [`super::STUBS`].
pub fn code() -> &'static [u8] {
    stub_code()
}
