// SPDX-License-Identifier: GPL-2.0-only

//! Properties of nested page tables in each format, on a memory that plays the processor's part.
//!
//! The memory checks each store as the processor would see it: no entry that can be reached from the
//! root ever points to a table that is not complete or has been given up. A TLB remembers every
//! translation that was ever visible since the last flush, and an operation that asks for no flush
//! must leave all of them true.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use vireo_model::model::addr::Gfn;
use vireo_model::model::addr::Hpa;
use vireo_model::model::addr::Pfn;
use vireo_model::model::pt::ept::Ept;
use vireo_model::model::pt::nested::Nested;
use vireo_model::model::pt::npt::Npt;
use vireo_model::model::pt::Caching;
use vireo_model::model::pt::Flush;
use vireo_model::model::pt::Leaf;
use vireo_model::model::pt::Level;
use vireo_model::model::pt::MapError;
use vireo_model::model::pt::Mapped;
use vireo_model::model::pt::Mapping;
use vireo_model::model::pt::PageSize;
use vireo_model::model::pt::PageTable;
use vireo_model::model::pt::Progress;
use vireo_model::model::pt::Range;
use vireo_model::model::pt::Rights;
use vireo_model::model::pt::Tables;
use vireo_model::model::pt::END;
use vireo_model::model::pt::ENTRIES;
use vireo_model::model::pt::MAX_TABLES;

const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const EPT: Nested = Nested::Ept(Ept {
    accessed_dirty: true,
});
const EPT_WITHOUT_FLAGS: Nested = Nested::Ept(Ept {
    accessed_dirty: false,
});
const NPT: Nested = Nested::Npt(Npt);

/// The bits of an entry that the processor looks at.
#[derive(Clone, Copy)]
struct Bits {
    /// Any of these makes the entry valid.
    valid: u64,
    accessed: u64,
    dirty: u64,
}

impl Bits {
    /// SDM vol. 3, table 29-6; APM vol. 2, section 5.4.1.
    fn of(format: Nested) -> Self {
        match format {
            Nested::Ept(_) => Self {
                valid: 7,
                accessed: 1 << 8,
                dirty: 1 << 9,
            },
            Nested::Npt(_) => Self {
                valid: 1,
                accessed: 1 << 5,
                dirty: 1 << 6,
            },
        }
    }

    /// The table that an entry points to, as the processor reads it.
    fn child_of(self, entry: u64, depth: usize) -> Option<u64> {
        (entry & self.valid != 0 && depth < 3 && entry & LARGE == 0).then_some(entry & ADDRESS)
    }
}

/// Tables, and what has become of each.
struct Memory {
    bits: Bits,
    tables: BTreeMap<u64, Box<[u64; ENTRIES]>>,
    /// Tables that the processor can reach, with their distance from the root.
    linked: BTreeMap<u64, usize>,
    /// Tables that wait for a flush.
    deferred: BTreeSet<u64>,
    /// Tables that can still be allocated.
    at_hand: usize,
    next: u64,
    /// The processor sets accessed and dirty flags in leaves that are about to be changed.
    races: bool,
    accesses: std::cell::Cell<usize>,
}

impl Memory {
    fn new(format: Nested, races: bool) -> Self {
        Self {
            bits: Bits::of(format),
            tables: BTreeMap::new(),
            linked: BTreeMap::new(),
            deferred: BTreeSet::new(),
            at_hand: 1,
            next: 0x1000,
            races,
            accesses: std::cell::Cell::new(0),
        }
    }

    fn page_table(&mut self, format: Nested) -> PageTable<Nested> {
        let table = PageTable::new(format, self).expect("one table is at hand");
        self.linked.insert(table.root().raw(), 0);
        table
    }

    fn link(&mut self, table: u64, depth: usize) {
        assert!(self.tables.contains_key(&table), "link to freed table");
        assert!(!self.deferred.contains(&table), "link to unlinked table");
        assert!(self.linked.insert(table, depth).is_none(), "linked twice");
        for entry in *self.tables[&table].clone() {
            if let Some(child) = self.bits.child_of(entry, depth) {
                self.link(child, depth + 1);
            }
        }
    }

    fn unlink(&mut self, table: u64) {
        let depth = self.linked.remove(&table).expect("table is linked");
        for entry in *self.tables[&table].clone() {
            if let Some(child) = self.bits.child_of(entry, depth) {
                self.unlink(child);
            }
        }
    }

    fn store(&mut self, table: u64, index: usize, entry: u64) -> u64 {
        assert!(!self.deferred.contains(&table), "store to unlinked table");
        let slot = &mut self.tables.get_mut(&table).expect("store to freed table")[index];
        let old = *slot;
        *slot = entry;
        if let Some(&depth) = self.linked.get(&table) {
            let (gone, come) = (
                self.bits.child_of(old, depth),
                self.bits.child_of(entry, depth),
            );
            if gone != come {
                if let Some(child) = gone {
                    self.unlink(child);
                }
                if let Some(child) = come {
                    self.link(child, depth + 1);
                }
            }
        }
        old
    }

    fn race(&mut self, table: u64, index: usize) {
        let leaf_depth = self.linked.get(&table).copied();
        let entry = &mut self.tables.get_mut(&table).expect("live table")[index];
        if let (true, Some(depth)) = (self.races, leaf_depth) {
            if *entry & self.bits.valid != 0 && self.bits.child_of(*entry, depth).is_none() {
                *entry |= self.bits.accessed | self.bits.dirty;
            }
        }
    }

    /// Flushes the TLBs: what has been unlinked can be freed.
    fn flushed(&mut self) {
        for table in std::mem::take(&mut self.deferred) {
            self.tables.remove(&table);
        }
    }
}

impl Tables for Memory {
    fn read(&self, table: Hpa, index: usize) -> u64 {
        self.accesses.set(self.accesses.get() + 1);
        self.tables[&table.raw()][index]
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        if self.linked.contains_key(&table.raw()) {
            assert_eq!(
                self.tables[&table.raw()][index] & self.bits.valid,
                0,
                "live entry overwritten"
            );
        }
        self.store(table.raw(), index, entry);
    }

    fn exchange(&mut self, table: Hpa, index: usize, entry: u64) -> u64 {
        self.race(table.raw(), index);
        self.store(table.raw(), index, entry)
    }

    fn clear(&mut self, table: Hpa, index: usize, bits: u64) -> u64 {
        self.race(table.raw(), index);
        let entry = self.tables[&table.raw()][index] & !bits;
        self.store(table.raw(), index, entry)
    }

    fn alloc(&mut self) -> Option<Hpa> {
        self.at_hand = self.at_hand.checked_sub(1)?;
        let table = self.next;
        self.next += 0x1000;
        self.tables.insert(table, Box::new([0; ENTRIES]));
        Some(Hpa::new(table))
    }

    fn defer_free(&mut self, table: Hpa) {
        assert!(
            !self.linked.contains_key(&table.raw()),
            "freed while linked"
        );
        assert!(self.deferred.insert(table.raw()), "freed twice");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Map(Mapping),
    Unmap(u64, u64, usize),
    WriteProtect(u64, u64, usize),
    Age(u64, u64),
    Starve(usize),
}

fn frames() -> impl Strategy<Value = u64> {
    let bases = prop::sample::select(vec![
        0,
        0x200,
        0x3_fe00,
        0x4_0000,
        0x800_0000 - 0x200,
        0x800_0000,
        END.raw() - 0x400,
    ]);
    let offsets = prop::sample::select(vec![0, 1, 2, 0x1fe, 0x1ff, 0x200, 0x3ff]);
    (bases, offsets).prop_map(|(base, offset)| base + offset)
}

fn samples() -> Vec<u64> {
    let mut samples = Vec::new();
    for base in [
        0,
        0x200,
        0x3_fe00,
        0x4_0000,
        0x800_0000 - 0x200,
        0x800_0000,
        END.raw() - 0x400,
    ] {
        for offset in [0, 1, 2, 0x1fe, 0x1ff, 0x200, 0x3ff] {
            samples.push(base + offset);
        }
    }
    samples.sort_unstable();
    samples.dedup();
    samples
}

fn mapping() -> impl Strategy<Value = Mapping> {
    (
        frames(),
        0..3u64,
        prop::bool::weighted(0.1),
        prop::sample::select(vec![PageSize::K4, PageSize::M2, PageSize::G1]),
        prop::bool::ANY,
        prop::bool::weighted(0.1),
    )
        .prop_map(|(gfn, place, crooked, size, write, device)| Mapping {
            gfn: Gfn::new(gfn),
            pfn: Pfn::new((gfn % (1 << 20)) + place * 0x4_0000 + u64::from(crooked)),
            size,
            rights: if write {
                Rights::ALL
            } else {
                Rights::READ_ONLY
            },
            caching: if device {
                Caching::DEVICE
            } else {
                Caching::RAM
            },
        })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => mapping().prop_map(Op::Map),
        3 => (frames(), frames(), 1..3000usize).prop_map(|(a, b, n)| Op::Unmap(a.min(b), a.max(b) + 1, n)),
        1 => (frames(), 1..2u64, 1..20usize).prop_map(|(a, n, b)| Op::Unmap(a, a + n, b)),
        1 => (frames(), frames(), 1..3000usize)
            .prop_map(|(a, b, n)| Op::WriteProtect(a.min(b), a.max(b) + 1, n)),
        1 => (frames(), frames()).prop_map(|(a, b)| Op::Age(a.min(b), a.max(b) + 1)),
        1 => (0..MAX_TABLES).prop_map(Op::Starve),
    ]
}

type View = BTreeMap<u64, (Leaf, Level)>;

/// A tree, and what may be cached of it.
struct Machine {
    memory: Memory,
    table: PageTable<Nested>,
    samples: Vec<u64>,
    tlb: BTreeMap<u64, Vec<Leaf>>,
}

impl Machine {
    fn new(format: Nested, races: bool) -> Self {
        let mut memory = Memory::new(format, races);
        let table = memory.page_table(format);
        Self {
            memory,
            table,
            samples: samples(),
            tlb: BTreeMap::new(),
        }
    }

    /// What the tree translates now, with the frame behind each sample.
    fn view(&self) -> View {
        let translate = |&gfn: &u64| {
            let (leaf, level) = self.table.lookup(&self.memory, Gfn::new(gfn))?;
            let pfn = Pfn::new(leaf.pfn.raw() + gfn % level.frames());
            Some((gfn, (Leaf { pfn, ..leaf }, level)))
        };
        self.samples.iter().filter_map(translate).collect()
    }

    /// Checks an operation's flush, and caches what can be seen after it.
    fn settle(&mut self, flush: Flush) {
        if flush.is_needed() {
            self.memory.flushed();
            self.tlb.clear();
        }
        assert!(
            self.memory.deferred.is_empty(),
            "table unlinked without flush"
        );
        let view = self.view();
        for (gfn, cached) in &self.tlb {
            let now = view.get(gfn).map(|(leaf, _)| leaf);
            for old in cached {
                let now = now.expect("page unmapped without flush");
                assert_eq!((now.pfn, now.caching), (old.pfn, old.caching), "stale page");
                assert!(now.rights.contains(old.rights), "stale rights");
            }
        }
        for (gfn, (leaf, _)) in view {
            let cached = self.tlb.entry(gfn).or_default();
            if !cached.contains(&leaf) {
                cached.push(leaf);
            }
        }
    }

    fn map(&mut self, mapping: &Mapping) {
        let before = self.view();
        let offset = mapping.gfn.raw() ^ mapping.pfn.raw();
        let fits = offset.is_multiple_of(mapping.size.frames());
        let frames = if fits { mapping.size.frames() } else { 1 };
        let first = mapping.gfn.align_down(frames).raw();
        loop {
            match self.table.map(&mut self.memory, mapping) {
                Err(MapError::NeedTable) => {
                    assert_eq!(self.memory.at_hand, 0);
                    assert_eq!(translations(&self.view()), translations(&before));
                    self.settle(Flush::NotNeeded);
                    self.memory.at_hand = MAX_TABLES;
                }
                Err(MapError::OutOfRange) => panic!("all samples are in range"),
                Ok((outcome, flush)) => {
                    self.settle(flush);
                    self.check_map(mapping, outcome, first..first + frames, &before);
                    return;
                }
            }
        }
    }

    fn check_map(
        &self,
        mapping: &Mapping,
        outcome: Mapped,
        page: std::ops::Range<u64>,
        before: &View,
    ) {
        let after = self.view();
        let (leaf, level) = self
            .table
            .lookup(&self.memory, mapping.gfn)
            .expect("page is mapped");
        let pfn = leaf.pfn.raw() + mapping.gfn.raw() % level.frames();
        assert_eq!((pfn, leaf.caching), (mapping.pfn.raw(), mapping.caching));
        assert!(leaf.rights.contains(mapping.rights));
        for &gfn in &self.samples {
            let (old, new) = (before.get(&gfn), after.get(&gfn));
            if outcome == Mapped::Spurious || !page.contains(&gfn) {
                assert_eq!(old.map(|(leaf, _)| leaf), new.map(|(leaf, _)| leaf));
            } else {
                let (leaf, level) = new.expect("page is mapped");
                let offset = gfn.wrapping_sub(mapping.gfn.raw());
                assert_eq!(leaf.pfn.raw(), mapping.pfn.raw().wrapping_add(offset));
                assert_eq!(leaf.rights, mapping.rights);
                assert_eq!(level.frames(), page.end - page.start);
            }
        }
    }

    /// Runs `step` until it is done, and checks the samples: those in the range by `inside`, those out
    /// of it must be as before unless they share a page with the range.
    fn range(
        &mut self,
        start: u64,
        end: u64,
        mut step: impl FnMut(&PageTable<Nested>, &mut Memory, &mut Range) -> (Progress, Flush),
        inside: impl Fn(Option<&Leaf>),
    ) {
        let before = self.view();
        let mut range = Range::new(Gfn::new(start), Gfn::new(end));
        loop {
            let (progress, flush) = step(&self.table, &mut self.memory, &mut range);
            self.settle(flush);
            if progress == Progress::Done {
                break;
            }
        }
        let after = self.view();
        for gfn in &self.samples {
            let now = after.get(gfn).map(|(leaf, _)| leaf);
            let Some((old, level)) = before.get(gfn) else {
                assert_eq!(now, None);
                continue;
            };
            let first = Gfn::new(*gfn).align_down(level.frames()).raw();
            if (start..end).contains(gfn) {
                inside(now);
            } else if first < end && first + level.frames() > start {
                assert!(now.is_none_or(|leaf| leaf.pfn == old.pfn));
            } else {
                assert_eq!(now, Some(old));
            }
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Map(ref mapping) => self.map(mapping),
            Op::Unmap(start, end, budget) => self.range(
                start,
                end,
                |table, memory, range| table.unmap(memory, range, budget),
                |leaf| assert_eq!(leaf, None),
            ),
            Op::WriteProtect(start, end, budget) => self.range(
                start,
                end,
                |table, memory, range| table.write_protect(memory, range, budget),
                |leaf| assert!(leaf.is_none_or(|leaf| !leaf.rights.contains(Rights::WRITE))),
            ),
            Op::Age(start, end) => {
                self.range(
                    start,
                    end,
                    |table, memory, range| {
                        let (progress, age) = table.age(memory, range, 1000);
                        (progress, age.flush)
                    },
                    |_| {},
                );
                if !self.memory.races {
                    let mut range = Range::new(Gfn::new(start), Gfn::new(end));
                    let (progress, young) =
                        self.table
                            .is_young(&mut self.memory, &mut range, usize::MAX);
                    assert_eq!((progress, young), (Progress::Done, false));
                }
            }
            Op::Starve(at_hand) => self.memory.at_hand = at_hand,
        }
    }

    /// Takes the tree down and checks that no table is left.
    fn finish(mut self) {
        let mut range = Range::all();
        loop {
            let (progress, flush) = self.table.unmap(&mut self.memory, &mut range, 512);
            self.settle(flush);
            if progress == Progress::Done {
                break;
            }
        }
        assert_eq!(self.memory.tables.len(), 1, "tables left behind");
        self.memory.linked.clear();
        self.table.destroy(&mut self.memory);
        self.memory.flushed();
        assert!(self.memory.tables.is_empty());
    }
}

fn translations(view: &View) -> BTreeMap<u64, Leaf> {
    view.iter().map(|(&gfn, &(leaf, _))| (gfn, leaf)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn tree_is_valid_after_every_store(
        format in prop::sample::select(vec![EPT, EPT_WITHOUT_FLAGS, NPT]),
        races: bool,
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let mut machine = Machine::new(format, races);
        for op in &ops {
            machine.run(op);
        }
        machine.finish();
    }
}

fn page(gfn: u64, size: PageSize) -> Mapping {
    Mapping {
        gfn: Gfn::new(gfn),
        pfn: Pfn::new(gfn),
        size,
        rights: Rights::ALL,
        caching: Caching::RAM,
    }
}

#[test]
fn steps_are_bounded_by_the_budget() {
    for format in [EPT, NPT] {
        let mut machine = Machine::new(format, false);
        for block in 0..64 {
            for frame in 0..8 {
                machine.map(&page(block * 0x200 + frame, PageSize::K4));
            }
        }
        let mut range = Range::new(Gfn::new(1), Gfn::new(0x4_0000));
        let mut steps = 0;
        loop {
            machine.memory.accesses.set(0);
            let (progress, flush) = machine.table.unmap(&mut machine.memory, &mut range, 16);
            assert!(
                machine.memory.accesses.get() <= 16,
                "too much work in one step"
            );
            machine.settle(flush);
            steps += 1;
            if progress == Progress::Done {
                break;
            }
        }
        assert!(steps > 10);
        machine.finish();
    }
}

#[test]
fn aging_sees_use_once() {
    for format in [EPT, NPT] {
        let mut machine = Machine::new(format, false);
        machine.map(&page(0x1ff, PageSize::K4));
        let age = |machine: &mut Machine| {
            let mut range = Range::new(Gfn::new(0), Gfn::new(0x200));
            machine
                .table
                .age(&mut machine.memory, &mut range, usize::MAX)
                .1
        };
        let first = age(&mut machine);
        assert!(first.young && !first.flush.is_needed());
        assert!(!age(&mut machine).young);
        machine.finish();
    }
}

#[test]
fn frames_beyond_the_tree_are_refused() {
    for format in [EPT, NPT] {
        let mut machine = Machine::new(format, false);
        let far = page(END.raw(), PageSize::K4);
        assert_eq!(
            machine.table.map(&mut machine.memory, &far),
            Err(MapError::OutOfRange)
        );
        assert!(machine.table.lookup(&machine.memory, END).is_none());
        let mut range = Range::new(END, Gfn::new(u64::MAX));
        let (progress, flush) = machine.table.unmap(&mut machine.memory, &mut range, 100);
        assert_eq!((progress, flush), (Progress::Done, Flush::NotNeeded));
        machine.finish();
    }
}

#[test]
fn trace_shows_the_way() {
    for (format, leaf) in [(EPT, 0x20_03f7), (NPT, 0x20_00e7)] {
        let mut machine = Machine::new(format, false);
        machine.map(&page(0x200, PageSize::M2));
        let trace = machine.table.trace(&machine.memory, Gfn::new(0x3ff));
        assert_eq!(trace[0], 0);
        assert_eq!(trace[1], leaf);
        assert!(trace[2] & ADDRESS != 0 && trace[3] & ADDRESS != 0);
        machine.finish();
    }
}

#[test]
fn tables_filled_again_behind_a_step_stay() {
    for format in [EPT, NPT] {
        let mut machine = Machine::new(format, false);
        for block in 0..4 {
            machine.map(&page(block * 0x200, PageSize::K4));
        }
        let mut range = Range::new(Gfn::new(0), Gfn::new(0x4_0000));
        let step = |machine: &mut Machine, range: &mut Range| {
            let (progress, flush) = machine.table.unmap(&mut machine.memory, range, 8);
            machine.settle(flush);
            progress
        };
        assert_eq!(step(&mut machine, &mut range), Progress::More);
        machine.map(&page(1, PageSize::K4));
        while step(&mut machine, &mut range) == Progress::More {}
        assert!(machine.table.lookup(&machine.memory, Gfn::new(1)).is_some());
        assert!(machine
            .table
            .lookup(&machine.memory, Gfn::new(0x200))
            .is_none());
        machine.finish();
    }
}
