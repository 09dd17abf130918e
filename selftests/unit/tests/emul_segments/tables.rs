// SPDX-License-Identifier: GPL-2.0-only

//! Descriptors: a local table with segments of all shapes that the kernel lets a process have, and the
//! kernel's global one.

use crate::cpu::{CODE, DATA};

/// Linux's `struct user_desc`.
#[repr(C)]
struct UserDesc {
    entry_number: u32,
    base_addr: u32,
    limit: u32,
    flags: u32,
}

const WIDE: u32 = 1 << 0;
const EXPAND_DOWN: u32 = 1 << 1;
const CODE_SEGMENT: u32 = 2 << 1;
const CONFORMING: u32 = 3 << 1;
/// Data that cannot be written, code that cannot be read.
const RESTRICTED: u32 = 1 << 3;
const PAGES: u32 = 1 << 4;
const ABSENT: u32 = 1 << 5;
const USABLE: u32 = 1 << 6;

const MODIFY_LDT_READ: i32 = 0;
const MODIFY_LDT_WRITE: i32 = 0x11;

/// A limit within the mapped areas.
const SMALL: u32 = 0x7ff;

/// Base, limit and flags of the local segments. The last one is not in the table.
const LOCAL: [(u64, u32, u32); 24] = [
    (CODE, 0xffff, CODE_SEGMENT | WIDE),
    (CODE, 0xffff, CODE_SEGMENT),
    (CODE, SMALL, CODE_SEGMENT | WIDE),
    (CODE, SMALL, CODE_SEGMENT),
    (CODE, 0xffff, CODE_SEGMENT | WIDE | RESTRICTED),
    (CODE, 0xffff, CODE_SEGMENT | RESTRICTED),
    (0, 0xf_ffff, CODE_SEGMENT | WIDE | PAGES),
    (CODE, 0xffff, CODE_SEGMENT | WIDE | ABSENT),
    (CODE, 0xffff, CONFORMING | WIDE | ABSENT),
    (DATA, 0x4fff, WIDE),
    (DATA, 0x4fff, 0),
    (DATA, 0xffff, WIDE),
    (DATA, 0xffff, 0),
    (DATA, SMALL, WIDE),
    (DATA, SMALL, 0),
    (DATA, 1, WIDE | PAGES),
    (0, 0xf_ffff, WIDE | PAGES),
    (DATA, 0x4fff, WIDE | RESTRICTED),
    (DATA, SMALL, WIDE | EXPAND_DOWN),
    (DATA, SMALL, EXPAND_DOWN),
    (DATA, 0, WIDE | EXPAND_DOWN | PAGES),
    (DATA, SMALL, WIDE | EXPAND_DOWN | RESTRICTED),
    (DATA, 0x4fff, WIDE | ABSENT),
    (DATA, 0x4fff, ABSENT | EXPAND_DOWN),
];

/// Local code segments that can be executed: 32-bit ones.
pub const CODE32: [u16; 4] = [0, 2, 4, 6];

/// And 16-bit ones.
pub const CODE16: [u16; 3] = [1, 3, 5];

/// Local segments that can be a stack.
pub const STACKS: [u16; 11] = [9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20];

/// Local segments that data can be in.
pub const SEGMENTS: [u16; 16] = [0, 1, 2, 3, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21];

/// The number after the local table's last: one past its end.
pub const LOCAL_END: u16 = LOCAL.len() as u16;

/// The number after the global table's last.
pub const GLOBAL_END: u16 = 16;

/// Linux's selectors for user mode.
pub const USER_CODE: u16 = 0x33;
pub const USER_CODE32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2b;

/// The global table, as far as user mode can tell: code and data of the kernel and of user mode, the
/// TSS, the local table.
const GLOBAL: [u64; GLOBAL_END as usize] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0x0000_8b00_0000_206f,
    0,
    0x0000_8200_0000_ffff,
    0,
    0,
    0,
    0,
    0x0040_f500_0000_0000,
];

/// The contents of the tables.
#[derive(Clone)]
pub struct Tables {
    pub local: Vec<u8>,
    pub global: Vec<u8>,
}

impl Tables {
    /// Installs the local table, or returns `None` where the system has none.
    pub fn new() -> Option<Self> {
        for (number, (base, limit, flags)) in LOCAL.into_iter().enumerate() {
            let entry = UserDesc {
                entry_number: number as u32,
                base_addr: base as u32,
                limit,
                flags: flags | USABLE,
            };
            let size = core::mem::size_of::<UserDesc>();
            // SAFETY: the kernel reads the structure, and only this test has a local table.
            let result = unsafe {
                let from = &raw const entry;
                libc::syscall(libc::SYS_modify_ldt, MODIFY_LDT_WRITE, from, size)
            };
            if result != 0 {
                return None;
            }
        }
        let mut local = vec![0; LOCAL.len() * 8];
        // SAFETY: the kernel writes at most as many bytes as there are.
        let size = unsafe {
            let to = local.as_mut_ptr();
            libc::syscall(libc::SYS_modify_ldt, MODIFY_LDT_READ, to, local.len())
        };
        assert_eq!(size as usize, local.len());
        let global = GLOBAL.iter().flat_map(|entry| entry.to_le_bytes());
        Some(Self {
            local,
            global: global.collect(),
        })
    }
}

/// The selector of a local segment for user mode.
pub const fn local(number: u16) -> u16 {
    number * 8 + 7
}
