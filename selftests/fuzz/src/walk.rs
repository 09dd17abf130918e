// SPDX-License-Identifier: GPL-2.0-only

//! The page-table walk against a plain walker: result, error code and tables afterwards. An input is
//! the configuration, the address, and entries with their places.

use super::plain_walk::{plain, Found, Memory, PAGES};
use super::Input;
use vireo_model::model::walk::{walk, AccessKind, Config, Paging, Request, WalkError};

const FORMATS: [Paging; 5] = [
    Paging::Off,
    Paging::TwoLevel,
    Paging::Pae,
    Paging::FourLevel,
    Paging::FiveLevel,
];

const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];

/// Bytes of table memory.
const SIZE: u64 = PAGES << 12;

/// Tries one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (format, flags, access, width) = (input.u8(), input.u8(), input.u8(), input.u8());
    let long = |config: Config| Config {
        pkru: None,
        ..config
    };
    let mut config = Config {
        paging: FORMATS[usize::from(format) % FORMATS.len()],
        cr3: input.u64() % SIZE,
        wp: flags & 1 != 0,
        nxe: flags & 2 != 0,
        pse: flags & 4 != 0,
        smep: flags & 8 != 0,
        smap: flags & 16 != 0,
        pkru: (flags & 32 != 0).then(|| input.u64() as u32),
        maxphyaddr: 32 + width % 21,
        pages_1g: flags & 64 != 0,
    };
    // Protection keys exist with 64-bit tables only.
    if !matches!(config.paging, Paging::FourLevel | Paging::FiveLevel) {
        config = long(config);
    }
    let request = Request {
        kind: KINDS[usize::from(access) % KINDS.len()],
        user: access & 4 != 0,
        smap_lifted: access & 8 != 0,
        update: access & 16 != 0,
    };
    let gva = input.u64();
    let mut memory = Memory::default();
    let mut rest = input.rest();
    while let Some((entry, more)) = rest.split_first_chunk::<10>() {
        let place = u16::from_le_bytes([entry[0], entry[1]]);
        let value = u64::from_le_bytes(core::array::from_fn(|n| entry[n + 2]));
        memory.set(u64::from(place) * 8 % SIZE, value);
        rest = more;
    }
    let mut after = memory.clone();
    let expected = plain(&config, &mut after, gva, request);
    let found = match walk(&config, &mut memory, gva, request) {
        Ok(page) => Found::Page {
            gpa: page.gpa.raw(),
            size: page.page_size,
        },
        Err(WalkError::Fault(fault)) => Found::Fault(fault.error_code),
        Err(WalkError::Unreadable(gpa)) => Found::NoRam(gpa.raw()),
        Err(WalkError::Contended) => panic!("nobody else changes the tables"),
    };
    assert_eq!(found, expected, "{config:?} {gva:#x} {request:?}");
    assert!(memory.words == after.words, "tables of {config:?}");
}
