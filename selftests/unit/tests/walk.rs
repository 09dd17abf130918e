// SPDX-License-Identifier: GPL-2.0-only

//! The page-table walk against a second, plain walker on random tables.

#[path = "common/rng.rs"]
mod rng;

use rng::Rng;
use std::collections::BTreeMap;
use vireo_model::model::addr::Gpa;
use vireo_model::model::walk::{
    walk, AccessKind, Config, GuestMemory, PageFault, Paging, Request, WalkError,
};

const CASES: u32 = 300_000;

/// Pages of table memory; addresses outside are not RAM.
const PAGES: u64 = 16;

#[derive(Clone, Default)]
struct Memory {
    words: BTreeMap<u64, u32>,
}

impl Memory {
    fn set(&mut self, gpa: u64, value: u64) {
        self.words.insert(gpa, value as u32);
        self.words.insert(gpa + 4, (value >> 32) as u32);
    }
}

impl GuestMemory for Memory {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        assert_eq!(gpa.raw() % 4, 0);
        if gpa.raw() >= PAGES << 12 {
            return None;
        }
        Some(self.words.get(&gpa.raw()).copied().unwrap_or(0))
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        assert_eq!(gpa.raw() % 8, 0);
        let low = self.read_u32(gpa)?;
        let high = self.read_u32(gpa.checked_add(4)?)?;
        Some(u64::from(high) << 32 | u64::from(low))
    }

    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        if self.read_u32(gpa)? != old {
            return Some(false);
        }
        self.words.insert(gpa.raw(), new);
        Some(true)
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        // An entry that is on the way twice has changed the second time.
        if self.read_u64(gpa)? != old {
            return Some(false);
        }
        self.set(gpa.raw(), new);
        Some(true)
    }
}

/// What the plain walker finds.
#[derive(Debug, PartialEq)]
enum Found {
    Page { gpa: u64, size: u64 },
    Fault(u32),
    NoRam(u64),
}

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}

/// Bits `low` to `high` of `value`.
fn field(value: u64, high: u32, low: u32) -> u64 {
    value >> low & ((1u64 << (high - low + 1)) - 1)
}

/// One paragraph of the manual after the other, with no shared tables.
fn plain(c: &Config, memory: &mut Memory, gva: u64, r: Request) -> Found {
    let describe = |cause: u32| {
        let mut code = cause;
        code |= if r.kind == AccessKind::Write { 2 } else { 0 };
        code |= if r.user { 4 } else { 0 };
        let nx_on = c.nxe && c.paging != Paging::TwoLevel;
        if r.kind == AccessKind::Fetch && (nx_on || c.smep) {
            code |= 16;
        }
        Found::Fault(code)
    };
    // The index fields of the address, from the top.
    let (fields, mut table): (&[(u32, u32)], u64) = match c.paging {
        Paging::Off => {
            let gpa = gva & 0xffff_ffff;
            return Found::Page { gpa, size: 4096 };
        }
        Paging::TwoLevel => (&[(31, 22), (21, 12)], c.cr3 & 0xffff_f000),
        Paging::Pae => (&[(31, 30), (29, 21), (20, 12)], c.cr3 & 0xffff_ffe0),
        Paging::FourLevel => (
            &[(47, 39), (38, 30), (29, 21), (20, 12)],
            field(c.cr3, 51, 12) << 12,
        ),
        Paging::FiveLevel => (
            &[(56, 48), (47, 39), (38, 30), (29, 21), (20, 12)],
            field(c.cr3, 51, 12) << 12,
        ),
    };
    let width = u32::from(c.maxphyaddr);
    let (mut user, mut write, mut execute) = (true, true, true);
    let mut key = 0;
    let mut visited = Vec::new();
    let mut page = None;
    for &(high, low) in fields {
        let wide = c.paging != Paging::TwoLevel;
        let at = table + field(gva, high, low) * if wide { 8 } else { 4 };
        let value = match wide {
            true => memory.read_u64(Gpa::new(at)),
            false => memory.read_u32(Gpa::new(at)).map(u64::from),
        };
        let Some(value) = value else {
            return Found::NoRam(at);
        };
        if !bit(value, 0) {
            return describe(0);
        }
        let top_of_pae = c.paging == Paging::Pae && low == 30;
        let long = matches!(c.paging, Paging::FourLevel | Paging::FiveLevel);
        let leaf = match low {
            12 => true,
            21 => bit(value, 7),
            22 => bit(value, 7) && c.pse,
            30 if long => bit(value, 7) && c.pages_1g,
            _ => false,
        };
        let mut bad = false;
        if wide {
            for n in width..52 {
                bad |= bit(value, n);
            }
            if c.paging == Paging::Pae {
                for n in 52..63 {
                    bad |= bit(value, n);
                }
            }
            if top_of_pae {
                // The low ones are checked when CR3 is loaded.
                bad |= bit(value, 63);
            } else {
                bad |= bit(value, 63) && !c.nxe;
            }
            bad |= low >= 30 && long && !leaf && bit(value, 7);
            if leaf && low > 12 {
                for n in 13..low {
                    bad |= bit(value, n);
                }
            }
        } else if leaf && low == 22 {
            bad |= bit(value, 21);
            for n in 13..21 {
                bad |= bit(value, n) && n + 19 >= width;
            }
        }
        if bad {
            return describe(1 | 8);
        }
        if !top_of_pae {
            write &= bit(value, 1);
            user &= bit(value, 2);
            execute &= !(wide && bit(value, 63));
            visited.push((at, leaf, wide));
        }
        if leaf {
            if c.pkru.is_some() {
                key = field(value, 62, 59) as u32;
            }
            let base = match (wide, low) {
                (false, 22) => field(value, 31, 22) << 22 | field(value, 20, 13) << 32,
                (false, _) => field(value, 31, 12) << 12,
                _ => field(value, 51, low) << low,
            };
            page = Some((base + field(gva, low - 1, 0), 1u64 << low));
            break;
        }
        table = match wide {
            true => field(value, 51, 12) << 12,
            false => field(value, 31, 12) << 12,
        };
    }
    let (gpa, size) = page.expect("the last level is a leaf");
    let mut denied = false;
    let mut by_key = false;
    let data = r.kind != AccessKind::Fetch;
    if r.user {
        denied |= !user;
        denied |= r.kind == AccessKind::Write && !write;
    } else {
        denied |= data && user && c.smap && !r.smap_lifted;
        denied |= !data && user && c.smep;
        denied |= r.kind == AccessKind::Write && !write && c.wp;
    }
    denied |= !data && !execute;
    if let (Some(pkru), true, true) = (c.pkru, data, user) {
        let access_disabled = bit(pkru.into(), key * 2);
        let write_disabled = bit(pkru.into(), key * 2 + 1);
        by_key |= access_disabled;
        by_key |= write_disabled && r.kind == AccessKind::Write && (r.user || c.wp);
    }
    if denied || by_key {
        return describe(1 | if by_key { 32 } else { 0 });
    }
    if r.update {
        for (at, leaf, wide) in visited {
            let dirty = leaf && r.kind == AccessKind::Write;
            let bits = 1u64 << 5 | if dirty { 1 << 6 } else { 0 };
            if wide {
                let value = memory.read_u64(Gpa::new(at)).expect("was read");
                memory.set(at, value | bits);
            } else {
                let value = memory.read_u32(Gpa::new(at)).expect("was read");
                memory.words.insert(at, value | bits as u32);
            }
        }
    }
    Found::Page { gpa, size }
}

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
