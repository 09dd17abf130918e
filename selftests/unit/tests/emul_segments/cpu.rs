// SPDX-License-Identifier: GPL-2.0-only

//! Runs code of any user-mode code segment on the real CPU until an exception ends it, and takes back
//! what the signal frame shows.
//!
//! IRETQ leads to the code, as it loads RIP, CS, RFLAGS, RSP and SS at once; a signal is the only way
//! back. Everything here is process-wide, so there is one [`Cpu`] at a time.

use core::arch::global_asm;
use core::ptr::{addr_of, addr_of_mut};
use vireo_model::model::x86::SegReg;

/// Where data is mapped: pages that can be written, then one that can only be read, then nothing.
pub const DATA: u64 = 0x2000_0000;

/// Bytes that can be written there.
pub const WRITABLE: usize = 0x4000;

/// Bytes that can be read there.
pub const READABLE: usize = 0x5000;

/// Where code is mapped; nothing follows.
pub const CODE: u64 = 0x2100_0000;

/// Bytes of it.
pub const CODE_LEN: usize = 0x1_0000;

/// Where IRETQ finds what it loads. With a 16-bit stack segment the upper half of the address stays in
/// ESP.
pub const FRAME: u64 = 0x2200_8000;

/// INT3, which all code is unless something else was put there.
const INT3: u8 = 0xcc;

/// Linux's selector for data.
const USER_DATA: u16 = 0x2b;

/// `arch_prctl` for the base of FS.
const SET_FS: i32 = 0x1002;
const GET_FS: i32 = 0x1003;

/// The signals that exceptions become.
const SIGNALS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
];

/// The registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    pub gpr: [u64; 16],
    /// Selectors, in the order of the segment registers.
    pub selectors: [u16; 6],
    pub rip: u64,
    pub rflags: u64,
}

impl State {
    /// What a return from the kernel leaves: of null selectors, the level is lost.
    pub fn returned(mut self) -> Self {
        for reg in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            let selector = &mut self.selectors[reg.index()];
            if *selector <= 3 {
                *selector = 0;
            }
        }
        self
    }
}

/// What ended the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub vector: u8,
    pub error_code: u64,
    /// CR2, if it was a page fault.
    pub cr2: Option<u64>,
}

static mut HOST_RSP: u64 = 0;
static mut HOST_FS: u64 = 0;
/// Segment registers as the handler found them: ES, DS, FS, GS.
static mut FOUND: [u16; 4] = [0; 4];
static mut CONTEXT: *const libc::ucontext_t = core::ptr::null();

extern "C" {
    fn emul_segments_enter(state: *const State);
    fn emul_segments_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void);
}

// The handler does not return to the kernel: its frame stays where it is until the next signal.
global_asm!(
    ".globl emul_segments_enter, emul_segments_signal",
    "emul_segments_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + {host_rsp}], rsp",
    "mov rsp, {frame}",
    "mov es, word ptr [rdi + {selectors}]",
    "mov ds, word ptr [rdi + {selectors} + 6]",
    "mov fs, word ptr [rdi + {selectors} + 8]",
    "mov gs, word ptr [rdi + {selectors} + 10]",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "iretq",
    "emul_segments_signal:",
    "mov [rip + {context}], rdx",
    "mov [rip + {found}], es",
    "mov [rip + {found} + 2], ds",
    "mov [rip + {found} + 4], fs",
    "mov [rip + {found} + 6], gs",
    "xor eax, eax",
    "mov es, eax",
    "mov ds, eax",
    "mov gs, eax",
    "mov eax, {user_data}",
    "mov ss, eax",
    "mov rsp, [rip + {host_rsp}]",
    "push 2",
    "popfq",
    "mov eax, {arch_prctl}",
    "mov edi, {set_fs}",
    "mov rsi, [rip + {host_fs}]",
    "syscall",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    host_rsp = sym HOST_RSP,
    host_fs = sym HOST_FS,
    found = sym FOUND,
    context = sym CONTEXT,
    frame = const FRAME,
    selectors = const core::mem::offset_of!(State, selectors),
    user_data = const USER_DATA,
    arch_prctl = const libc::SYS_arch_prctl,
    set_fs = const SET_FS,
);

/// Maps `len` bytes of `file` at `address`, or anywhere if that is 0.
fn map(address: u64, len: usize, protection: i32, file: i32) -> *mut u8 {
    let place = match address {
        0 => 0,
        _ => libc::MAP_FIXED_NOREPLACE,
    };
    let kind = match file {
        -1 => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        _ => libc::MAP_SHARED,
    };
    let flags = place | kind | libc::MAP_POPULATE;
    // SAFETY: the mapping replaces none.
    let at = unsafe { libc::mmap(address as *mut _, len, protection, flags, file, 0) };
    assert_ne!(at, libc::MAP_FAILED, "cannot map {address:#x}");
    at.cast()
}

/// The real CPU.
pub struct Cpu {
    /// Where the code can be written.
    code: *mut u8,
}

impl Cpu {
    /// Maps the areas and installs the signal handlers.
    pub fn new() -> Self {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        map(DATA, READABLE, rw, -1);
        map(FRAME & !0xfff, 0x1000, rw, -1);
        // SAFETY: the name is a string, the file has no other user, and the page is the test's own.
        let file = unsafe {
            let last = (DATA + WRITABLE as u64) as *mut libc::c_void;
            assert_eq!(
                libc::mprotect(last, READABLE - WRITABLE, libc::PROT_READ),
                0
            );
            libc::memfd_create(c"code".as_ptr(), 0)
        };
        // SAFETY: the descriptor is the file's.
        unsafe { assert_eq!(libc::ftruncate(file, CODE_LEN as i64), 0) };
        let code = map(0, CODE_LEN, rw, file);
        map(CODE, CODE_LEN, libc::PROT_READ | libc::PROT_EXEC, file);
        let stack = Box::leak(vec![0u8; 0x1_0000].into_boxed_slice());
        let stack = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        // SAFETY: the stack is never freed, the handler has the right signature, and the code area is
        // as long as that.
        unsafe {
            code.write_bytes(INT3, CODE_LEN);
            assert_eq!(libc::sigaltstack(&stack, core::ptr::null_mut()), 0);
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = emul_segments_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            for signal in SIGNALS {
                assert_eq!(libc::sigaction(signal, &action, core::ptr::null_mut()), 0);
            }
            let base = addr_of_mut!(HOST_FS);
            assert_eq!(libc::syscall(libc::SYS_arch_prctl, GET_FS, base), 0);
        }
        Self { code }
    }

    /// The data that can be written.
    pub fn data(&mut self) -> &mut [u8] {
        // SAFETY: mapped by `new`, and only one reference lives at a time.
        unsafe { core::slice::from_raw_parts_mut(DATA as *mut u8, WRITABLE) }
    }

    /// The code.
    pub fn code(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(self.code, CODE_LEN) }
    }

    /// Takes away the code that was put at `offset`.
    pub fn clear(&mut self, offset: usize, len: usize) {
        self.code()[offset..offset + len].fill(INT3);
    }

    /// Runs from `state` on, to the first exception.
    ///
    /// # Safety
    ///
    /// The code must write nothing but the data, and make no system call.
    pub unsafe fn run(&mut self, state: &mut State) -> Ending {
        let selector = |reg: SegReg| u64::from(state.selectors[reg.index()]);
        let frame = [
            state.rip,
            selector(SegReg::Cs),
            state.rflags,
            state.gpr[4],
            selector(SegReg::Ss),
        ];
        // SAFETY: the frame is mapped, and nobody else uses it; the caller vouches for the code. The
        // kernel's context stays in place until the next signal.
        let (found, context) = unsafe {
            (FRAME as *mut [u64; 5]).write(frame);
            emul_segments_enter(state);
            (*addr_of!(FOUND), &**addr_of!(CONTEXT))
        };
        let registers = &context.uc_mcontext.gregs;
        let register = |n: i32| registers[n as usize] as u64;
        let order = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        // CS in the low word, SS in the high one.
        let segments = register(libc::REG_CSGSFS);
        let [es, ds, fs, gs] = found;
        *state = State {
            gpr: order.map(register),
            selectors: [es, segments as u16, (segments >> 48) as u16, ds, fs, gs],
            rip: register(libc::REG_RIP),
            rflags: register(libc::REG_EFL),
        };
        let vector = register(libc::REG_TRAPNO) as u8;
        Ending {
            vector,
            error_code: register(libc::REG_ERR),
            cr2: (vector == 14).then(|| register(libc::REG_CR2)),
        }
    }
}
