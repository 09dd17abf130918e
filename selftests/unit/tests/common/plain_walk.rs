// SPDX-License-Identifier: GPL-2.0-only

//! A second walker of the guest's page tables, as plain as can be, and memory for tables.

use std::collections::BTreeMap;
use vireo_model::model::addr::Gpa;
use vireo_model::model::walk::{AccessKind, Config, GuestMemory, Paging, Request};

/// Pages of table memory; addresses outside are not RAM.
pub const PAGES: u64 = 16;

/// Memory for tables.
#[derive(Clone, Default)]
pub struct Memory {
    /// By address.
    pub words: BTreeMap<u64, u32>,
}

impl Memory {
    /// Writes an entry of 8 bytes.
    pub fn set(&mut self, gpa: u64, value: u64) {
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
pub enum Found {
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
pub fn plain(c: &Config, memory: &mut Memory, gva: u64, r: Request) -> Found {
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
