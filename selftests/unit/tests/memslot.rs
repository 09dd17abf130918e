// SPDX-License-Identifier: GPL-2.0-only

//! Memory slots: each documented check, and random histories against a model that knows pages only.

use proptest::prelude::*;
use std::collections::BTreeMap;
use vireo_model::model::addr::{Gfn, Hva};
use vireo_model::model::errno::Errno;
use vireo_model::model::memslot::{
    find, find_hinted, find_id, flag, hva_ranges, insert_position, overlapping, plan, Change,
    GfnRange, Limits, Request, Slot, MAX_PAGES, USER_SLOTS,
};

const LIMITS: Limits = Limits {
    address_spaces: 1,
    readonly: true,
    max_gfn: Gfn::new((1 << 36) - 1),
    user_end: 0x7fff_ffff_f000,
};

const ONE_MIB: u64 = 1 << 20;

fn request(slot: u32, gpa: u64, size: u64, hva: u64) -> Request {
    Request {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: size,
        userspace_addr: hva,
    }
}

fn good() -> Request {
    request(0, 0, ONE_MIB, 0x7f00_0000_0000)
}

fn apply(slots: &mut Vec<Slot>, change: Change) {
    let add = |slots: &mut Vec<Slot>, slot: Slot| {
        slots.insert(insert_position(slots, slot.base_gfn), slot);
    };
    match change {
        Change::Create(slot) => add(slots, slot),
        Change::Delete(position) => drop(slots.remove(position)),
        Change::Move(position, slot) => {
            slots.remove(position);
            add(slots, slot);
        }
        Change::Flags(position, flags) => slots[position].flags = flags,
        Change::Nothing => {}
    }
}

fn table(requests: &[Request]) -> Vec<Slot> {
    let mut slots = Vec::new();
    for r in requests {
        let change = plan(&slots, r, &LIMITS).unwrap();
        apply(&mut slots, change);
    }
    slots
}

#[test]
fn malformed_requests() {
    let bad = [
        Request { flags: 4, ..good() },
        Request {
            flags: 1 << 31,
            ..good()
        },
        Request {
            memory_size: ONE_MIB + 1,
            ..good()
        },
        Request {
            guest_phys_addr: 0x800,
            ..good()
        },
        Request {
            userspace_addr: 0x7f00_0000_0010,
            ..good()
        },
        Request {
            userspace_addr: LIMITS.user_end - ONE_MIB + 0x1000,
            ..good()
        },
        Request {
            userspace_addr: !0xfff,
            ..good()
        },
        Request {
            userspace_addr: 0xffff_8000_0000_0000,
            ..good()
        },
        Request {
            slot: USER_SLOTS,
            ..good()
        },
        Request {
            slot: 0xffff,
            ..good()
        },
        Request {
            slot: 1 << 16,
            ..good()
        },
        Request {
            guest_phys_addr: !0xfff,
            ..good()
        },
        Request {
            guest_phys_addr: 1 << 48,
            ..good()
        },
        Request {
            guest_phys_addr: (1 << 48) - ONE_MIB + 0x1000,
            ..good()
        },
        Request {
            memory_size: (MAX_PAGES + 1) << 12,
            userspace_addr: 0,
            ..good()
        },
        Request {
            memory_size: 0,
            ..good()
        },
    ];
    for r in bad {
        assert_eq!(plan(&[], &r, &LIMITS), Err(Errno::Invalid), "{r:x?}");
    }
    let r = Request {
        flags: flag::READONLY,
        ..good()
    };
    assert!(plan(&[], &r, &LIMITS).is_ok());
    assert_eq!(
        plan(
            &[],
            &r,
            &Limits {
                readonly: false,
                ..LIMITS
            }
        ),
        Err(Errno::Invalid)
    );
    assert!(plan(
        &[],
        &Request {
            slot: 1 << 16,
            ..good()
        },
        &Limits {
            address_spaces: 2,
            ..LIMITS
        }
    )
    .is_ok());
}

#[test]
fn edges_that_are_allowed() {
    for r in [
        Request {
            slot: USER_SLOTS - 1,
            ..good()
        },
        Request {
            guest_phys_addr: (1 << 48) - ONE_MIB,
            ..good()
        },
        Request {
            userspace_addr: LIMITS.user_end - ONE_MIB,
            ..good()
        },
        Request {
            memory_size: MAX_PAGES << 12,
            userspace_addr: 0,
            ..good()
        },
        Request {
            memory_size: 0x1000,
            ..good()
        },
    ] {
        assert!(
            matches!(plan(&[], &r, &LIMITS), Ok(Change::Create(_))),
            "{r:x?}"
        );
    }
}

#[test]
fn changes_of_a_slot() {
    let slots = table(&[good()]);
    assert_eq!(plan(&slots, &good(), &LIMITS), Ok(Change::Nothing));
    let r = Request {
        flags: flag::LOG_DIRTY_PAGES,
        ..good()
    };
    assert_eq!(
        plan(&slots, &r, &LIMITS),
        Ok(Change::Flags(0, flag::LOG_DIRTY_PAGES))
    );
    let r = Request {
        guest_phys_addr: 0x1000,
        ..good()
    };
    let moved = Slot {
        base_gfn: Gfn::new(1),
        ..slots[0]
    };
    assert_eq!(
        plan(&slots, &r, &LIMITS),
        Ok(Change::Move(0, moved)),
        "overlaps its own old place"
    );
    assert_eq!(
        plan(
            &slots,
            &Request {
                memory_size: 0,
                ..good()
            },
            &LIMITS
        ),
        Ok(Change::Delete(0))
    );
    for r in [
        Request {
            memory_size: 2 * ONE_MIB,
            ..good()
        },
        Request {
            userspace_addr: 0x7f00_0001_0000,
            ..good()
        },
        Request {
            flags: flag::READONLY,
            ..good()
        },
        Request {
            slot: 1,
            memory_size: 0,
            ..good()
        },
    ] {
        assert_eq!(plan(&slots, &r, &LIMITS), Err(Errno::Invalid), "{r:x?}");
    }
}

#[test]
fn overlaps() {
    let slots = table(&[good(), request(1, 4 * ONE_MIB, ONE_MIB, 0x1000_0000)]);
    for (gpa, size, free) in [
        (0, ONE_MIB, false),
        (ONE_MIB - 0x1000, 0x2000, false),
        (ONE_MIB, 3 * ONE_MIB, true),
        (ONE_MIB, 3 * ONE_MIB + 0x1000, false),
        (5 * ONE_MIB - 0x1000, 0x1000, false),
        (5 * ONE_MIB, 0x1000, true),
        (0, 16 * ONE_MIB, false),
    ] {
        let r = request(2, gpa, size, 0x2000_0000);
        let result = plan(&slots, &r, &LIMITS);
        assert_eq!(matches!(result, Ok(Change::Create(_))), free, "{r:x?}");
        assert!(free || result == Err(Errno::Exist));
    }
    let onto = request(1, 0, ONE_MIB, 0x1000_0000);
    assert_eq!(plan(&slots, &onto, &LIMITS), Err(Errno::Exist));
}

#[test]
fn translation() {
    let slots = table(&[good(), request(1, 4 * ONE_MIB, ONE_MIB, 0x1000_0000)]);
    assert_eq!(find(&slots, Gfn::new(0)), Some(0));
    assert_eq!(find(&slots, Gfn::new(0xff)), Some(0));
    assert_eq!(find(&slots, Gfn::new(0x100)), None);
    assert_eq!(find(&slots, Gfn::new(0x400)), Some(1));
    assert_eq!(find(&slots, Gfn::new(0x500)), None);
    assert_eq!(
        slots[1].hva_of(Gfn::new(0x401)),
        Some(Hva::new(0x1000_1000))
    );
    assert_eq!(slots[1].hva_of(Gfn::new(0x3ff)), None);
    assert_eq!(find_id(&slots, 1), Some(1));
    assert_eq!(find_id(&slots, 7), None);
    let got: Vec<_> = hva_ranges(&slots, Hva::new(0x1000_0fff), Hva::new(0x1000_1001))
        .map(|(slot, range)| (slot.id, range.start.raw(), range.end.raw()))
        .collect();
    assert_eq!(got, [(1, 0x400, 0x402)]);
    assert_eq!(
        hva_ranges(&slots, Hva::new(0), Hva::new(u64::MAX)).count(),
        2
    );
    assert_eq!(
        hva_ranges(&slots, Hva::new(0), Hva::new(0x1000_0000)).count(),
        0
    );
    assert_eq!(slots[0].dirty_bitmap_bytes(), 32);
}

#[test]
fn one_host_page_in_two_slots() {
    let slots = table(&[
        request(0, 0, 0x2000, 0x1000),
        request(1, 0x8000, 0x2000, 0x2000),
    ]);
    let got: Vec<_> = hva_ranges(&slots, Hva::new(0x2000), Hva::new(0x3000))
        .map(|(slot, range)| (slot.id, range.start.raw(), range.len()))
        .collect();
    assert_eq!(got, [(0, 1, 1), (1, 8, 1)]);
}

/// What a table means: every guest page and what backs it.
fn pages(slots: &[Slot]) -> BTreeMap<u64, (u32, u64, u32)> {
    let mut map = BTreeMap::new();
    for slot in slots {
        for page in 0..slot.npages {
            let gfn = slot.base_gfn.raw() + page;
            let old = map.insert(gfn, (slot.id, slot.hva.raw() + (page << 12), slot.flags));
            assert!(old.is_none(), "overlap at {gfn:#x}");
        }
    }
    map
}

/// A request within a small world, so that overlaps, moves and deletions are common.
fn small() -> impl Strategy<Value = Request> {
    (0u32..6, 0u32..4, 0u64..24, 0u64..6, 0u64..3).prop_map(|(slot, flags, gfn, pages, hva)| {
        Request {
            slot,
            flags,
            guest_phys_addr: gfn << 12,
            memory_size: pages << 12,
            userspace_addr: hva << 20,
        }
    })
}

proptest! {
    #[test]
    fn histories_agree_with_a_map_of_pages(requests in prop::collection::vec(small(), 1..60)) {
        let mut slots: Vec<Slot> = Vec::new();
        for r in requests {
            let before = pages(&slots);
            let old: Vec<_> = before.iter().filter(|(_, v)| v.0 == r.slot).map(|(k, v)| (*k, *v)).collect();
            let others = before.iter().any(|(gfn, v)| {
                v.0 != r.slot && (r.guest_phys_addr >> 12..(r.guest_phys_addr + r.memory_size) >> 12).contains(gfn)
            });
            let result = plan(&slots, &r, &LIMITS);
            let same_place = old.first().is_some_and(|(gfn, _)| *gfn == r.guest_phys_addr >> 12);
            if r.memory_size == 0 {
                prop_assert_eq!(result.is_ok(), !old.is_empty());
            } else if let Some((_, v)) = old.first() {
                let frozen = v.1 == r.userspace_addr
                    && old.len() as u64 == r.memory_size >> 12
                    && (v.2 ^ r.flags) & flag::READONLY == 0;
                if !frozen {
                    prop_assert_eq!(result, Err(Errno::Invalid));
                } else if !same_place && others {
                    prop_assert_eq!(result, Err(Errno::Exist));
                } else {
                    prop_assert!(result.is_ok());
                }
            } else {
                prop_assert_eq!(result.is_ok(), !others);
            }
            if let Ok(change) = result {
                apply(&mut slots, change);
                let mut expect: BTreeMap<_, _> = before.into_iter().filter(|(_, v)| v.0 != r.slot).collect();
                for page in 0..r.memory_size >> 12 {
                    expect.insert((r.guest_phys_addr >> 12) + page, (r.slot, r.userspace_addr + (page << 12), r.flags));
                }
                prop_assert_eq!(pages(&slots), expect);
            }
            prop_assert!(slots.windows(2).all(|w| w[0].end_gfn() <= w[1].base_gfn));
            let map = pages(&slots);
            let mut hint = 99;
            for gfn in 0..32 {
                let gfn = Gfn::new(gfn);
                let found = find(&slots, gfn).map(|p| (slots[p].id, slots[p].hva_of(gfn).unwrap().raw(), slots[p].flags));
                prop_assert_eq!(found, map.get(&gfn.raw()).copied());
                prop_assert_eq!(find_hinted(&slots, &mut hint, gfn), find(&slots, gfn));
            }
            let range = GfnRange { start: Gfn::new(5), end: Gfn::new(17) };
            let walked: Vec<u64> = overlapping(&slots, range)
                .flat_map(|(_, part)| part.start.raw()..part.end.raw())
                .collect();
            prop_assert_eq!(walked, map.range(5..17).map(|(k, _)| *k).collect::<Vec<_>>());
        }
    }

    #[test]
    fn arbitrary_requests_never_panic(
        slot: u32, flags: u32, gpa: u64, size: u64, hva: u64, max: u64, end: u64, shift in 0u32..64,
    ) {
        let limits = Limits { max_gfn: Gfn::new(max), user_end: end, ..LIMITS };
        let r = Request {
            slot, flags: flags & 3, guest_phys_addr: gpa << shift, memory_size: size << shift, userspace_addr: hva,
        };
        let odd = Slot { id: 1, base_gfn: Gfn::new(gpa), npages: size, hva: Hva::new(hva), flags };
        let _ = plan(&[odd], &r, &limits);
        let _ = odd.gfns_of(Hva::new(max), Hva::new(end));
        let _ = odd.hva_of(Gfn::new(max));
        let _ = odd.dirty_bitmap_bytes();
    }
}
