// SPDX-License-Identifier: GPL-2.0-only

//! The page-table walk against a second, plain walker on random tables.

#[path = "common/plain_walk.rs"]
mod plain_walk;
#[path = "common/rng.rs"]
mod rng;

use plain_walk::{plain, Found, Memory, PAGES};
use rng::Rng;
use vireo_model::model::walk::{walk, AccessKind, Config, PageFault, Paging, Request, WalkError};

const CASES: u32 = 300_000;

const FORMATS: [Paging; 5] = [
    Paging::Off,
    Paging::TwoLevel,
    Paging::Pae,
    Paging::FourLevel,
    Paging::FiveLevel,
];

fn one_in(rng: &mut Rng, n: u64) -> bool {
    rng.below(n) == 0
}

fn random_config(rng: &mut Rng) -> Config {
    Config {
        paging: FORMATS[rng.below(5) as usize],
        cr3: rng.below(PAGES) << 12 | rng.next() & 0xfff,
        wp: one_in(rng, 2),
        nxe: !one_in(rng, 4),
        pse: one_in(rng, 2),
        smep: one_in(rng, 2),
        smap: one_in(rng, 2),
        pkru: None,
        maxphyaddr: 32 + rng.below(21) as u8,
        pages_1g: !one_in(rng, 4),
    }
}

/// An entry that is mostly good: present, with rights, an address among the tables.
fn random_entry(rng: &mut Rng) -> u64 {
    let mut value = rng.below(PAGES) << 12 | 7;
    value |= rng.next() & 0xe60;
    for _ in 0..rng.below(3) {
        value ^= 1 << rng.below(64);
    }
    if one_in(rng, 6) {
        value |= 1 << 7;
        value &= !0x1f_e000;
        if one_in(rng, 2) {
            value &= !0x3fff_f000;
        }
    }
    if one_in(rng, 3) {
        value |= rng.below(16) << 59;
    }
    value
}

#[test]
fn agrees_with_a_plain_walker() {
    let mut rng = Rng::new(0x5eed_0003);
    let (mut pages, mut faults) = (0, 0);
    let mut memory = Memory::default();
    for number in 0..CASES {
        if number % 64 == 0 {
            // Few indices are used, so that paths meet.
            memory.words.clear();
            for page in 0..PAGES {
                for index in 0..4 {
                    memory.set(page << 12 | index << 3, random_entry(&mut rng));
                }
            }
        }
        let mut config = random_config(&mut rng);
        if matches!(config.paging, Paging::FourLevel | Paging::FiveLevel) && one_in(&mut rng, 2) {
            config.pkru = Some(rng.next() as u32);
        }
        let mut gva = rng.next() & 0xfff;
        for shift in [12, 21, 22, 30, 39, 48] {
            gva |= rng.below(4) << shift;
        }
        if config.paging == Paging::TwoLevel {
            gva = rng.next() & 0xfff | rng.below(8) << 12 | rng.below(8) << 22;
        }
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
        let request = Request {
            kind: kinds[rng.below(3) as usize],
            user: one_in(&mut rng, 2),
            smap_lifted: one_in(&mut rng, 2),
            update: !one_in(&mut rng, 8),
        };
        let mut expected_memory = memory.clone();
        let expected = plain(&config, &mut expected_memory, gva, request);
        let found = match walk(&config, &mut memory, gva, request) {
            Ok(page) => {
                pages += 1;
                Found::Page {
                    gpa: page.gpa.raw(),
                    size: page.page_size,
                }
            }
            Err(WalkError::Fault(PageFault {
                error_code,
                gva: address,
            })) => {
                faults += 1;
                let low = !matches!(config.paging, Paging::FourLevel | Paging::FiveLevel);
                assert_eq!(address, if low { gva & 0xffff_ffff } else { gva });
                Found::Fault(error_code)
            }
            Err(WalkError::Unreadable(gpa)) => Found::NoRam(gpa.raw()),
            Err(WalkError::Contended) => panic!("nobody else changes the tables"),
        };
        assert_eq!(
            found, expected,
            "case {number}: {config:?} {gva:#x} {request:?}"
        );
        assert!(
            memory.words == expected_memory.words,
            "case {number}: tables"
        );
    }
    assert!(
        pages > CASES / 10 && faults > CASES / 10,
        "{pages} {faults}"
    );
}
