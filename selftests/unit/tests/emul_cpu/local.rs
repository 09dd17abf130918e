// SPDX-License-Identifier: GPL-2.0-only

//! Segments of the process's own, for 32-bit and 16-bit code beside the 64-bit test.

use crate::trampoline::{LocalCode, CODE, DATA, DATA_LEN};
use vireo_model::model::x86::{ar, Segment};

/// Linux's `struct user_desc`.
#[repr(C)]
struct UserDesc {
    entry_number: u32,
    base_addr: u32,
    limit: u32,
    /// From bit 0: 32-bit, contents (two bits), read/execute only, limit in pages, not present,
    /// usable.
    flags: u32,
}

const WIDE: u32 = 1 << 0;
const EXPAND_DOWN: u32 = 1 << 1;
const CODE_SEGMENT: u32 = 2 << 1;
const READ_ONLY: u32 = 1 << 3;
const USABLE: u32 = 1 << 6;

const MODIFY_LDT_WRITE: i32 = 1;

/// What instructions of compatibility mode use.
pub struct Local {
    pub code32: LocalCode,
    pub code16: LocalCode,
    pub code_segments: [Segment; 2],
    /// All start at the buffer. The first two may be stacks, and all but the third may be written.
    pub data: [Segment; 5],
}

fn install(number: u32, base: u64, limit: u32, flags: u32) -> Option<Segment> {
    let entry = UserDesc {
        entry_number: number,
        base_addr: base as u32,
        limit,
        flags: flags | USABLE,
    };
    let size = core::mem::size_of::<UserDesc>();
    // SAFETY: the kernel reads the structure, and only unused entries of the table change.
    let result = unsafe {
        libc::syscall(
            libc::SYS_modify_ldt,
            MODIFY_LDT_WRITE,
            &raw const entry,
            size,
        )
    };
    let mut rights = ar::P | ar::S | ar::DPL | ar::ACCESSED;
    if flags & WIDE != 0 {
        rights |= ar::DB;
    }
    rights |= match flags & (EXPAND_DOWN | CODE_SEGMENT) {
        CODE_SEGMENT => ar::CODE | ar::READABLE,
        EXPAND_DOWN => ar::EXPAND_DOWN,
        _ => 0,
    };
    if flags & (CODE_SEGMENT | READ_ONLY) == 0 {
        rights |= ar::WRITABLE;
    }
    // Table indicator and privilege level 3.
    let selector = number as u16 * 8 + 7;
    (result == 0).then_some(Segment {
        selector,
        base,
        limit,
        ar: rights,
    })
}

impl Local {
    /// Installs the segments, or returns `None` where the system has no local descriptor table.
    pub fn new() -> Option<Self> {
        let end = DATA_LEN as u32 - 1;
        let code32 = install(0, CODE, 0xffff, CODE_SEGMENT | WIDE)?;
        let code16 = install(1, CODE, 0xffff, CODE_SEGMENT)?;
        let wide = install(2, DATA, end, WIDE)?;
        let narrow = install(3, DATA, end, 0)?;
        let read_only = install(4, DATA, end, WIDE | READ_ONLY)?;
        let short = install(5, DATA, end / 2, WIDE)?;
        let down = install(6, DATA, end / 4, EXPAND_DOWN)?;
        Some(Self {
            code32: LocalCode {
                selector: code32.selector,
                wide: true,
            },
            code16: LocalCode {
                selector: code16.selector,
                wide: false,
            },
            code_segments: [code32, code16],
            data: [wide, narrow, read_only, short, down],
        })
    }
}
