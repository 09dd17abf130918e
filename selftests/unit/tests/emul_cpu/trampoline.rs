// SPDX-License-Identifier: GPL-2.0-only

//! Runs one instruction on the real CPU, with all registers given and taken back.
//!
//! Everything here is process-wide (two mapped areas, statics, signal handlers), so there is one
//! [`Cpu`] at a time.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::ptr::{addr_of, addr_of_mut};

/// Where the data buffer is mapped: below 2 GiB, so that every way of addressing reaches it.
pub const DATA: u64 = 0x2000_0000;

/// Bytes of the data buffer.
pub const DATA_LEN: usize = 0x2000;

/// Where code is mapped.
pub const CODE: u64 = 0x2100_0000;

/// Bytes of the code area. Instructions are written one after the other, as reusing an address at once
/// costs the CPU its pipeline.
const CODE_LEN: u64 = 0x1_0000;

/// Bytes that one instruction takes there, with the jump behind it.
const CODE_SLOT: u64 = 0x40;

/// Linux's selectors for 64-bit code and for data.
const USER_CODE: u16 = 0x33;
const USER_DATA: u16 = 0x2b;

/// In a slot: where 64-bit code jumps to the instruction in compatibility mode, the far pointer for
/// it, and where the instruction jumps back to.
const FAR_ENTRY: usize = 0x18;
const FAR_POINTER: usize = 0x20;
const FAR_RETURN: usize = 0x28;

/// In a slot: where branches may go. There is an INT3.
pub const LANDING: u64 = 0x1e;

/// In a slot: the address of the common exit.
const EXIT_POINTER: usize = 0x38;

/// The signals that end an instruction.
const SIGNALS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
];

/// What the instruction starts with and ends with.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    pub gpr: [u64; 16],
    pub rflags: u64,
    host_rsp: u64,
    /// Whether to load and store `vector`.
    pub use_vector: u64,
    entry: u64,
    /// Whether to load `segments`.
    pub use_segments: u64,
    /// Selectors for DS, ES, SS and GS.
    pub segments: [u64; 4],
    pub vector: [[u8; 32]; 16],
}

/// The state that is in use while an instruction runs.
static mut CURRENT: u64 = 0;
static mut SAVED_RAX: u64 = 0;
static mut TARGET: u64 = 0;
/// The signal that ended the instruction, 0 if none did, and RIP at that time.
static mut SIGNAL: i32 = 0;
static mut SIGNAL_RIP: u64 = 0;

extern "C" {
    fn emul_cpu_enter(state: *mut State);
    static emul_cpu_exit: u8;
}

// The vector registers are loaded before, and stored after, the flags, which no MOV changes. The stack
// pointer is the instruction's own while it runs: signals come in on the alternate stack.
global_asm!(
    ".globl emul_cpu_enter, emul_cpu_exit",
    "emul_cpu_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi + {host_rsp}], rsp",
    "mov [rip + {current}], rdi",
    "mov rax, [rdi + {entry}]",
    "mov [rip + {target}], rax",
    "cmp qword ptr [rdi + {use_vector}], 0",
    "je 2f",
    "lea rax, [rdi + {vector}]",
    ".irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovups ymm\\r, [rax + 32 * \\r]",
    ".endr",
    "2:",
    "cmp qword ptr [rdi + {use_segments}], 0",
    "je 4f",
    "mov rax, [rdi + {segments}]",
    "mov ds, eax",
    "mov rax, [rdi + {segments} + 8]",
    "mov es, eax",
    "mov rax, [rdi + {segments} + 24]",
    "mov gs, eax",
    "mov rax, [rdi + {segments} + 16]",
    "mov ss, eax",
    "4:",
    "mov rax, rdi",
    "push qword ptr [rax + {rflags}]",
    "popfq",
    "mov rcx, [rax + 8]",
    "mov rdx, [rax + 16]",
    "mov rbx, [rax + 24]",
    "mov rsp, [rax + 32]",
    "mov rbp, [rax + 40]",
    "mov rsi, [rax + 48]",
    "mov rdi, [rax + 56]",
    "mov r8, [rax + 64]",
    "mov r9, [rax + 72]",
    "mov r10, [rax + 80]",
    "mov r11, [rax + 88]",
    "mov r12, [rax + 96]",
    "mov r13, [rax + 104]",
    "mov r14, [rax + 112]",
    "mov r15, [rax + 120]",
    "mov rax, [rax]",
    "jmp qword ptr [rip + {target}]",
    "emul_cpu_exit:",
    "mov [rip + {saved_rax}], rax",
    "mov rax, [rip + {current}]",
    "mov [rax + 8], rcx",
    "mov [rax + 16], rdx",
    "mov [rax + 24], rbx",
    "mov [rax + 32], rsp",
    "mov [rax + 40], rbp",
    "mov [rax + 48], rsi",
    "mov [rax + 56], rdi",
    "mov [rax + 64], r8",
    "mov [rax + 72], r9",
    "mov [rax + 80], r10",
    "mov [rax + 88], r11",
    "mov [rax + 96], r12",
    "mov [rax + 104], r13",
    "mov [rax + 112], r14",
    "mov [rax + 120], r15",
    "mov rsp, [rax + {host_rsp}]",
    "mov rcx, [rip + {saved_rax}]",
    "mov [rax], rcx",
    "pushfq",
    "pop qword ptr [rax + {rflags}]",
    "push 2",
    "popfq",
    "cmp qword ptr [rax + {use_segments}], 0",
    "je 5f",
    "xor ecx, ecx",
    "mov ds, ecx",
    "mov es, ecx",
    "mov gs, ecx",
    "mov ecx, {user_data}",
    "mov ss, ecx",
    "5:",
    "cmp qword ptr [rax + {use_vector}], 0",
    "je 3f",
    "add rax, {vector}",
    ".irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "vmovups [rax + 32 * \\r], ymm\\r",
    ".endr",
    "vzeroupper",
    "3:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    host_rsp = const offset_of!(State, host_rsp),
    rflags = const offset_of!(State, rflags),
    use_vector = const offset_of!(State, use_vector),
    vector = const offset_of!(State, vector),
    use_segments = const offset_of!(State, use_segments),
    segments = const offset_of!(State, segments),
    user_data = const USER_DATA,
    entry = const offset_of!(State, entry),
    current = sym CURRENT,
    saved_rax = sym SAVED_RAX,
    target = sym TARGET,
);

/// A code segment of the local descriptor table; it starts at [`CODE`].
#[derive(Clone, Copy, Debug)]
pub struct LocalCode {
    pub selector: u16,
    /// 32-bit code, else 16-bit.
    pub wide: bool,
}

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Retired,
    /// By this signal, with RIP at the instruction plus this many bytes.
    Signal(i32, u64),
}

/// The real CPU.
pub struct Cpu {
    slot: u64,
}

extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context; the statics are only used by this thread.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let registers = &mut context.uc_mcontext.gregs;
        let mut rip = registers[libc::REG_RIP as usize] as u64;
        let segments = registers[libc::REG_CSGSFS as usize];
        if segments as u16 != USER_CODE {
            // The local code segments start there.
            rip = rip.wrapping_add(CODE);
        }
        if rip.wrapping_sub(CODE) >= CODE_LEN {
            // A fault of the test itself.
            libc::abort();
        }
        SIGNAL = signal;
        SIGNAL_RIP = rip;
        registers[libc::REG_RIP as usize] = addr_of!(emul_cpu_exit) as i64;
        registers[libc::REG_CSGSFS as usize] = segments & !0xffff | i64::from(USER_CODE);
    }
}

fn map(address: u64, len: usize, protection: i32) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: the mapping replaces none.
    let at = unsafe { libc::mmap(address as *mut _, len, protection, flags, -1, 0) };
    assert_eq!(at as u64, address, "cannot map {address:#x}");
}

impl Cpu {
    /// Maps the areas and installs the signal handlers.
    pub fn new() -> Self {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        map(DATA, DATA_LEN, rw);
        map(CODE, CODE_LEN as usize, rw | libc::PROT_EXEC);
        let stack = Box::leak(vec![0u8; 0x10000].into_boxed_slice());
        let stack = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        // SAFETY: the stack is never freed, the handler has the right signature.
        unsafe {
            assert_eq!(libc::sigaltstack(&stack, core::ptr::null_mut()), 0);
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in SIGNALS {
                assert_eq!(libc::sigaction(signal, &action, core::ptr::null_mut()), 0);
            }
        }
        Self { slot: 0 }
    }

    /// The data buffer.
    pub fn data(&mut self) -> &mut [u8] {
        // SAFETY: mapped by `new`, and only one reference lives at a time.
        unsafe { core::slice::from_raw_parts_mut(DATA as *mut u8, DATA_LEN) }
    }

    /// Chooses the address of the next instruction.
    pub fn next_rip(&mut self) -> u64 {
        self.slot = (self.slot + CODE_SLOT) % CODE_LEN;
        CODE + self.slot
    }

    /// Runs the instruction `bytes`, at the address that [`Cpu::next_rip`] returned last: in 64-bit
    /// mode, or in the code segment `local` in compatibility mode.
    ///
    /// # Safety
    ///
    /// The instruction must not change control flow, and with `state` write nothing but the buffer.
    pub unsafe fn run(
        &mut self,
        bytes: &[u8],
        local: Option<LocalCode>,
        state: &mut State,
    ) -> Outcome {
        let rip = CODE + self.slot;
        let mut slot = [0xcc; CODE_SLOT as usize];
        let (n, end) = (bytes.len(), addr_of!(emul_cpu_exit) as u64);
        slot[..n].copy_from_slice(bytes);
        state.entry = rip;
        let mut put = |at: usize, bytes: &[u8]| slot[at..at + bytes.len()].copy_from_slice(bytes);
        let back = match local {
            None => n,
            Some(local) => {
                // JMP FAR through the pointer; then the instruction; then JMP FAR back.
                let offset = self.slot as u32;
                put(FAR_ENTRY, &[0xff, 0x2d, 2, 0, 0, 0]);
                put(FAR_POINTER, &offset.to_le_bytes());
                put(FAR_POINTER + 4, &local.selector.to_le_bytes());
                state.entry = rip + FAR_ENTRY as u64;
                let jump = if local.wide { n } else { n + 1 };
                put(n, &[0x66]);
                put(jump, &[0xea]);
                put(jump + 1, &(rip as u32 + FAR_RETURN as u32).to_le_bytes());
                put(jump + 5, &USER_CODE.to_le_bytes());
                FAR_RETURN
            }
        };
        // JMP through a pointer, which is aligned in case that matters to the instruction.
        put(
            back,
            &[0xff, 0x25, (EXIT_POINTER - back - 6) as u8, 0, 0, 0],
        );
        put(EXIT_POINTER, &end.to_le_bytes());
        // SAFETY: the slot is mapped and no code runs in it; the caller vouches for the instruction.
        unsafe {
            core::ptr::copy_nonoverlapping(slot.as_ptr(), rip as *mut u8, slot.len());
            *addr_of_mut!(SIGNAL) = 0;
            emul_cpu_enter(state);
            match *addr_of!(SIGNAL) {
                0 => Outcome::Retired,
                signal => Outcome::Signal(signal, (*addr_of!(SIGNAL_RIP)).wrapping_sub(rip)),
            }
        }
    }
}

/// The selectors in the segment registers, in their order.
pub fn selectors() -> [u16; 6] {
    let (es, cs, ss, ds, fs, gs): (u16, u16, u16, u16, u16, u16);
    // SAFETY: reads registers only.
    unsafe {
        asm!(
            "mov {0:x}, es", "mov {1:x}, cs", "mov {2:x}, ss",
            "mov {3:x}, ds", "mov {4:x}, fs", "mov {5:x}, gs",
            out(reg) es, out(reg) cs, out(reg) ss, out(reg) ds, out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags)
        );
    }
    [es, cs, ss, ds, fs, gs]
}
