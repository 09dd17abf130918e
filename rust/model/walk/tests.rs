// SPDX-License-Identifier: GPL-2.0-only

//! Tables of cases for each format of page tables.

use super::*;
use crate::model::x86::rflags;
use std::collections::BTreeMap;

const P: u64 = entry::P;
const W: u64 = entry::W;
const U: u64 = entry::U;
const A: u64 = entry::A;
const D: u64 = entry::D;
const PS: u64 = entry::PS;
const NX: u64 = entry::NX;
const PWU: u64 = P | W | U;

/// Guest memory of 32-bit words; what is not there is not RAM.
#[derive(Default)]
struct Memory {
    words: BTreeMap<u64, u32>,
    /// How many compare-and-exchanges will still fail.
    races: u32,
}

impl Memory {
    fn with(entries: &[(u64, u64)]) -> Self {
        let mut memory = Self::default();
        for &(gpa, value) in entries {
            memory.set(gpa, value);
        }
        memory
    }

    fn set(&mut self, gpa: u64, value: u64) {
        self.words.insert(gpa, value as u32);
        self.words.insert(gpa + 4, (value >> 32) as u32);
    }

    fn get(&mut self, gpa: u64) -> u64 {
        self.read_u64(Gpa::new(gpa)).unwrap()
    }

    fn lose_race(&mut self) -> bool {
        let lost = self.races > 0;
        self.races -= u32::from(lost);
        lost
    }
}

impl GuestMemory for Memory {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        self.words.get(&gpa.raw()).copied()
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let low = self.read_u32(gpa)?;
        let high = self.read_u32(gpa.checked_add(4)?)?;
        Some(u64::from(low) | u64::from(high) << 32)
    }

    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        if self.read_u32(gpa)? != old || self.lose_race() {
            return Some(false);
        }
        self.words.insert(gpa.raw(), new);
        Some(true)
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        if self.read_u64(gpa)? != old || self.lose_race() {
            return Some(false);
        }
        self.set(gpa.raw(), new);
        Some(true)
    }
}

const READ: Request = Request::explicit(AccessKind::Read, 3, 0);
const WRITE: Request = Request::explicit(AccessKind::Write, 3, 0);
const FETCH: Request = Request::explicit(AccessKind::Fetch, 3, 0);
const KERNEL_READ: Request = Request::explicit(AccessKind::Read, 0, 0);
const KERNEL_WRITE: Request = Request::explicit(AccessKind::Write, 0, 0);
const KERNEL_FETCH: Request = Request::explicit(AccessKind::Fetch, 0, 0);

fn four_level() -> Config {
    let cr4 = cr4::PAE;
    let efer = efer::LMA | efer::NXE;
    Config::new(cr0::PG | cr0::WP, 0x1000, cr4, efer, 0, 40, true)
}

/// Index 1 at every level, offset 0x123.
const GVA4: u64 = 1 << 39 | 1 << 30 | 1 << 21 | 1 << 12 | 0x123;

fn four_level_tables(leaf: u64) -> Memory {
    Memory::with(&[
        (0x1008, 0x2000 | PWU),
        (0x2008, 0x3000 | PWU),
        (0x3008, 0x4000 | PWU),
        (0x4008, leaf),
    ])
}

fn code(result: Result<Translation, WalkError>) -> Option<u32> {
    match result {
        Err(WalkError::Fault(fault)) => Some(fault.error_code),
        _ => None,
    }
}

#[test]
fn paging_off_is_identity() {
    let config = Config::new(0, 0x1000, 0, 0, 0, 40, true);
    let found = walk(&config, &mut Memory::default(), 0x1_2345_6789, WRITE).unwrap();
    assert_eq!(found.gpa, Gpa::new(0x2345_6789));
}

#[test]
fn four_levels_to_a_small_page() {
    let mut memory = four_level_tables(0xab_cdef_0000 & bits40() | PWU);
    let found = walk(&four_level(), &mut memory, GVA4, READ).unwrap();
    assert_eq!(found.gpa, Gpa::new((0xab_cdef_0000 & bits40()) | 0x123));
    assert_eq!(found.page_size, 0x1000);
    assert_eq!(found.rights, Rights::ALL);
    for gpa in [0x1008, 0x2008, 0x3008, 0x4008] {
        assert_eq!(memory.get(gpa) & (A | D), A);
    }
    walk(&four_level(), &mut memory, GVA4, WRITE).unwrap();
    assert_eq!(memory.get(0x3008) & (A | D), A);
    assert_eq!(memory.get(0x4008) & (A | D), A | D);
}

const fn bits40() -> u64 {
    (1 << 40) - 1
}

#[test]
fn large_pages() {
    let mut memory = Memory::with(&[
        (0x1008, 0x2000 | PWU),
        (0x2008, 0x40_0000_0000 | PWU | PS),
        (0x2010, 0x3000 | PWU),
        (0x3008, 0x60_0000 | PWU | PS),
    ]);
    let giga = walk(&four_level(), &mut memory, GVA4, READ).unwrap();
    assert_eq!(giga.page_size, 1 << 30);
    assert_eq!(giga.gpa, Gpa::new(0x40_0000_0000 | GVA4 & 0x3fff_ffff));
    let mega = walk(&four_level(), &mut memory, GVA4 + (1 << 30), READ).unwrap();
    assert_eq!(mega.page_size, 1 << 21);
    assert_eq!(mega.gpa, Gpa::new(0x60_1123));
    // Reserved bits below the page's address, and the size bit where 1-GiB pages do not exist.
    memory.set(0x3008, 0x60_2000 | PWU | PS);
    let found = walk(&four_level(), &mut memory, GVA4 + (1 << 30), READ);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::RSVD));
    let config = Config {
        pages_1g: false,
        ..four_level()
    };
    let found = walk(&config, &mut memory, GVA4, KERNEL_READ);
    assert_eq!(code(found), Some(pf::P | pf::RSVD));
}

#[test]
fn five_levels() {
    let config = Config::new(
        cr0::PG,
        0x9000,
        cr4::PAE | cr4::LA57,
        efer::LMA,
        0,
        40,
        true,
    );
    let mut memory = four_level_tables(0x7000 | PWU);
    memory.set(0x9010, 0x1000 | PWU);
    let found = walk(&config, &mut memory, 2 << 48 | GVA4, READ).unwrap();
    assert_eq!(found.gpa, Gpa::new(0x7123));
    assert_eq!(memory.get(0x9010) & A, A);
    memory.set(0x9010, 0x1000 | PWU | PS);
    let found = walk(&config, &mut memory, 2 << 48 | GVA4, READ);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::RSVD));
}

#[test]
fn two_levels() {
    let config = Config::new(cr0::PG, 0x1000, cr4::PSE, efer::NXE, 0, 40, true);
    let mut memory = Memory::default();
    memory.words.insert(0x1004, (0x2000 | PWU) as u32);
    memory.words.insert(0x2008, (0xffff_f000 | PWU) as u32);
    // Bits 20 to 13 are address bits 39 to 32.
    memory.words.insert(0x1008, (0xffde_0000 | PWU | PS) as u32);
    let found = walk(&config, &mut memory, 0x40_2abc, WRITE).unwrap();
    assert_eq!(found.gpa, Gpa::new(0xffff_fabc));
    assert_eq!(u64::from(memory.words[&0x2008]) & (A | D), A | D);
    let found = walk(&config, &mut memory, 0x80_2abc, WRITE).unwrap();
    assert_eq!(found.gpa, Gpa::new(0xf0_ffc0_2abc));
    assert_eq!(found.page_size, 4 << 20);
    // With 36 bits, four of them are reserved; bit 21 always is.
    let narrow = Config {
        maxphyaddr: 36,
        ..config
    };
    let found = walk(&narrow, &mut memory, 0x80_2abc, READ);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::RSVD));
    memory.words.insert(0x1008, (0xffe0_0000 | PWU | PS) as u32);
    let found = walk(&config, &mut memory, 0x80_2abc, READ);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::RSVD));
    // NXE means nothing here; without PSE the size bit does not either.
    let found = walk(&config, &mut memory, 0xc0_0000, FETCH);
    assert_eq!(found, Err(WalkError::Unreadable(Gpa::new(0x100c))));
    memory.words.insert(0x100c, 0);
    assert_eq!(
        code(walk(&config, &mut memory, 0xc0_0000, FETCH)),
        Some(pf::U)
    );
    memory.words.insert(0x100c, (0x2000 | PWU | PS) as u32);
    let config = Config {
        pse: false,
        ..config
    };
    let found = walk(&config, &mut memory, 0xc0_2000, READ).unwrap();
    assert_eq!(found.gpa, Gpa::new(0xffff_f000));
}

#[test]
fn pae() {
    let config = Config::new(cr0::PG, 0x1020, cr4::PAE, efer::NXE, 0, 40, true);
    // The top entries have neither rights nor an accessed bit; CR3 has 32-byte alignment.
    let mut memory = Memory::with(&[
        (0x1038, 0x2000 | P),
        (0x2008, 0x3000 | PWU),
        (0x3008, 0x5000 | PWU | NX),
        (0x2010, 0x20_0000 | PWU | PS),
    ]);
    let gva = 0xc020_1456;
    let found = walk(&config, &mut memory, gva, WRITE).unwrap();
    assert_eq!(found.gpa, Gpa::new(0x5456));
    assert!(found.rights.user && found.rights.write && !found.rights.execute);
    assert_eq!(memory.get(0x1038), 0x2000 | P);
    assert_eq!(memory.get(0x2008) & A, A);
    let found = walk(&config, &mut memory, gva, FETCH);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::I));
    let found = walk(&config, &mut memory, 0xc040_1456, READ).unwrap();
    assert_eq!((found.gpa, found.page_size), (Gpa::new(0x20_1456), 2 << 20));
    // Bits above the address width are all reserved, in a leaf up to NX.
    memory.set(0x3008, 0x5000 | PWU | 1 << 52);
    let found = walk(&config, &mut memory, gva, READ);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::RSVD));
    memory.set(0x3008, 0x5000 | PWU);
    memory.set(0x1038, 0x2000 | P | 1 << 52);
    let found = walk(&config, &mut memory, gva, READ);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::RSVD));
    // The low bits of a top entry count only when CR3 is loaded.
    memory.set(0x1038, 0x2000 | P | W);
    assert!(walk(&config, &mut memory, gva, READ).is_ok());
}

#[test]
fn reserved_bits_of_64_bit_entries() {
    let cases = [
        (1 << 40, true),
        (1 << 51, true),
        (1 << 39, false),
        (1 << 52, false),
        (1 << 58, false),
        (1 << 62, false),
    ];
    for (bit, reserved) in cases {
        let mut memory = four_level_tables(0x5000 | PWU | bit);
        let found = walk(&four_level(), &mut memory, GVA4, KERNEL_READ);
        let expected = reserved.then_some(pf::P | pf::RSVD);
        assert_eq!(code(found), expected, "bit {bit:#x}");
    }
    let config = Config {
        nxe: false,
        ..four_level()
    };
    let mut memory = four_level_tables(0x5000 | PWU | NX);
    let found = walk(&config, &mut memory, GVA4, FETCH);
    assert_eq!(code(found), Some(pf::P | pf::U | pf::RSVD));
}

#[test]
fn not_present_comes_before_the_rest() {
    let mut memory = four_level_tables(0);
    assert_eq!(
        code(walk(&four_level(), &mut memory, GVA4, READ)),
        Some(pf::U)
    );
    assert_eq!(
        code(walk(&four_level(), &mut memory, GVA4, KERNEL_WRITE)),
        Some(pf::W)
    );
    assert_eq!(
        walk(&four_level(), &mut memory, GVA4, KERNEL_FETCH),
        Err(WalkError::Fault(PageFault {
            error_code: pf::I,
            gva: GVA4
        }))
    );
    // Nothing was marked as accessed.
    assert_eq!(memory.get(0x1008) & A, 0);
}

#[test]
fn rights_of_users_and_supervisors() {
    let smep = |c: Config| Config { smep: true, ..c };
    let smap = |c: Config| Config { smap: true, ..c };
    let no_wp = |c: Config| Config { wp: false, ..c };
    let same = |c: Config| c;
    let lifted = Request::explicit(AccessKind::Read, 0, rflags::AC);
    let implicit = Request::implicit(AccessKind::Read);
    type Change = fn(Config) -> Config;
    let cases: [(u64, Change, Request, Option<u32>); 22] = [
        (P | W, same, READ, Some(pf::P | pf::U)),
        (P | W, same, KERNEL_WRITE, None),
        (P | U, same, READ, None),
        (P | U, same, WRITE, Some(pf::P | pf::U | pf::W)),
        (P | U, no_wp, WRITE, Some(pf::P | pf::U | pf::W)),
        (P | U, same, KERNEL_WRITE, Some(pf::P | pf::W)),
        (P | U, no_wp, KERNEL_WRITE, None),
        (P, no_wp, KERNEL_WRITE, None),
        (PWU, same, FETCH, None),
        (PWU | NX, same, FETCH, Some(pf::P | pf::U | pf::I)),
        (P | NX, same, KERNEL_FETCH, Some(pf::P | pf::I)),
        (PWU, same, KERNEL_FETCH, None),
        (PWU, smep, KERNEL_FETCH, Some(pf::P | pf::I)),
        (PWU, smep, FETCH, None),
        (P, smep, KERNEL_FETCH, None),
        (PWU, smap, KERNEL_READ, Some(pf::P)),
        (PWU, smap, KERNEL_WRITE, Some(pf::P | pf::W)),
        (PWU, smap, lifted, None),
        (PWU, smap, implicit, Some(pf::P)),
        (P | W, smap, implicit, None),
        (PWU, smap, KERNEL_FETCH, None),
        (PWU, smap, READ, None),
    ];
    for (n, (leaf, change, request, expected)) in cases.into_iter().enumerate() {
        let mut memory = four_level_tables(0x5000 | leaf);
        let found = walk(&change(four_level()), &mut memory, GVA4, request);
        assert_eq!(code(found), expected, "case {n}");
        assert_eq!(found.is_ok(), expected.is_none(), "case {n}");
    }
}

#[test]
fn fetches_without_nx_and_smep_have_no_fetch_bit() {
    let config = Config {
        nxe: false,
        ..four_level()
    };
    let mut memory = four_level_tables(0);
    assert_eq!(code(walk(&config, &mut memory, GVA4, FETCH)), Some(pf::U));
}

#[test]
fn protection_keys() {
    const KEY: u64 = 5 << 59;
    const AD: u32 = 1 << 10;
    const WD: u32 = 1 << 11;
    let keys = |pkru| Config {
        pkru: Some(pkru),
        ..four_level()
    };
    let no_wp = |pkru| Config {
        wp: false,
        ..keys(pkru)
    };
    let pk = pf::P | pf::PK;
    let cases = [
        (keys(0), PWU, READ, None),
        (keys(AD), PWU, READ, Some(pk | pf::U)),
        (keys(AD), PWU, KERNEL_READ, Some(pk)),
        (keys(AD), PWU, FETCH, None),
        (keys(AD), P | W, KERNEL_READ, None),
        (keys(WD), PWU, READ, None),
        (keys(WD), PWU, WRITE, Some(pk | pf::U | pf::W)),
        (keys(WD), PWU, KERNEL_WRITE, Some(pk | pf::W)),
        (no_wp(WD), PWU, KERNEL_WRITE, None),
        (no_wp(WD), PWU, WRITE, Some(pk | pf::U | pf::W)),
        (keys(AD << 2), PWU, READ, None),
        (keys(WD), P | U, WRITE, Some(pk | pf::U | pf::W)),
    ];
    for (n, (config, leaf, request, expected)) in cases.into_iter().enumerate() {
        let mut memory = four_level_tables(0x5000 | leaf | KEY);
        let found = walk(&config, &mut memory, GVA4, request);
        assert_eq!(code(found), expected, "case {n}");
        if let Ok(found) = found {
            assert_eq!(found.rights.key, 5, "case {n}");
        }
    }
}

#[test]
fn races_are_retried_a_few_times() {
    let mut memory = four_level_tables(0x5000 | PWU);
    memory.races = 3;
    assert!(walk(&four_level(), &mut memory, GVA4, WRITE).is_ok());
    assert_eq!(memory.get(0x4008) & (A | D), A | D);
    let mut memory = four_level_tables(0x5000 | PWU);
    memory.races = u32::MAX;
    let found = walk(&four_level(), &mut memory, GVA4, WRITE);
    assert_eq!(found, Err(WalkError::Contended));
}

#[test]
fn a_translation_without_update_changes_nothing() {
    let mut memory = four_level_tables(0x5000 | PWU);
    let request = Request {
        update: false,
        ..WRITE
    };
    assert!(walk(&four_level(), &mut memory, GVA4, request).is_ok());
    assert_eq!(memory.get(0x4008), 0x5000 | PWU);
}

#[test]
fn tables_outside_ram() {
    let mut memory = Memory::with(&[(0x1008, 0x2000 | PWU)]);
    let found = walk(&four_level(), &mut memory, GVA4, READ);
    assert_eq!(found, Err(WalkError::Unreadable(Gpa::new(0x2008))));
}

#[test]
fn the_path_has_what_the_entries_hold_afterwards() {
    let mut memory = four_level_tables(0x5000 | PWU);
    let (_, path) = walk_path(&four_level(), &mut memory, GVA4, WRITE).unwrap();
    assert_eq!(path.entries().len(), 4);
    for &(gpa, value) in path.entries() {
        assert_eq!(memory.get(gpa.raw()), value);
    }
    assert_eq!(path.entries()[3], (Gpa::new(0x4008), 0x5000 | PWU | A | D));
    let off = Config::new(0, 0, 0, 0, 0, 40, true);
    let (_, path) = walk_path(&off, &mut memory, 0x1000, READ).unwrap();
    assert!(path.entries().is_empty());
}
