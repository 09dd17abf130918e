// SPDX-License-Identifier: GPL-2.0-only

//! ASIDs against TLBs that remember everything: no guest ever runs with another's translations, nor with its
//! own stale ones.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use vireo_model::model::svm::asid::Asid;
use vireo_model::model::svm::asid::AsidPool;
use vireo_model::model::svm::asid::Flush;

const CPUS: usize = 3;
const VCPUS: usize = 5;

/// A translation: whose it is, and how many times its owner's tables had changed when it was cached.
type Translation = (usize, u32);

/// A CPU: its ASIDs, and a TLB that never evicts.
struct Cpu {
    pool: AsidPool,
    tlb: BTreeMap<u32, BTreeSet<Translation>>,
}

/// A vCPU: its ASID and the CPU that gave it, the version of its tables, and the version that each CPU has
/// been told of.
#[derive(Clone, Default)]
struct Vcpu {
    asid: Asid,
    cpu: Option<usize>,
    version: u32,
    seen: u32,
}

/// Another hypervisor's translations.
const STRANGER: usize = VCPUS;

struct Machine {
    asids: u32,
    flush_by_asid: bool,
    cpus: Vec<Cpu>,
    vcpus: Vec<Vcpu>,
    flushes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Run(usize, usize),
    Change(usize),
    Stranger(usize),
    Reset(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..VCPUS, 0..CPUS).prop_map(|(vcpu, cpu)| Op::Run(vcpu, cpu)),
        2 => (0..VCPUS).prop_map(Op::Change),
        1 => (0..CPUS).prop_map(Op::Stranger),
        1 => (0..VCPUS).prop_map(Op::Reset),
    ]
}

impl Machine {
    fn new(asids: u32, flush_by_asid: bool) -> Self {
        // What is in the TLBs at first is unknown.
        let dirty = |asid| (asid, BTreeSet::from([(STRANGER, 0)]));
        let cpu = || Cpu {
            pool: AsidPool::new(asids, flush_by_asid),
            tlb: (1..asids.max(2)).map(dirty).collect(),
        };
        Self {
            asids: asids.max(2),
            flush_by_asid,
            cpus: (0..CPUS).map(|_| cpu()).collect(),
            vcpus: vec![Vcpu::default(); VCPUS],
            flushes: 0,
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Run(vcpu, cpu) => self.run(vcpu, cpu),
            Op::Change(vcpu) => self.vcpus[vcpu].version += 1,
            Op::Stranger(cpu) => {
                let cpu = &mut self.cpus[cpu];
                for asid in 1..self.asids {
                    cpu.tlb.entry(asid).or_default().insert((STRANGER, 0));
                }
                cpu.pool.forget();
            }
            Op::Reset(vcpu) => self.vcpus[vcpu].asid.clear(),
        }
    }

    fn run(&mut self, index: usize, on: usize) {
        let (vcpu, cpu) = (&mut self.vcpus[index], &mut self.cpus[on]);
        if vcpu.cpu != Some(on) {
            vcpu.asid.clear();
            vcpu.cpu = Some(on);
        }
        let stale = vcpu.seen != vcpu.version;
        let flush = cpu.pool.assign(&mut vcpu.asid, stale);
        vcpu.seen = vcpu.version;
        let asid = vcpu.asid.number();
        assert!((1..self.asids).contains(&asid), "no such guest ASID");
        match flush {
            Flush::None => {}
            Flush::Asid => {
                assert!(self.flush_by_asid, "no such TLB_CONTROL");
                cpu.tlb.remove(&asid);
            }
            Flush::All => {
                cpu.tlb.clear();
                self.flushes += 1;
            }
        }
        let mine = (index, vcpu.version);
        let cached = cpu.tlb.entry(asid).or_default();
        assert!(
            cached.iter().all(|&other| other == mine),
            "stale translation"
        );
        cached.insert(mine);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nobody_sees_what_is_not_his(
        asids in 0..8u32,
        flush_by_asid: bool,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut machine = Machine::new(asids, flush_by_asid);
        for op in ops {
            machine.step(op);
        }
    }
}

/// The point of having them: vCPUs that take turns do not cost each other their translations.
#[test]
fn turns_need_no_flush() {
    let mut machine = Machine::new(VCPUS as u32 + 1, false);
    for _ in 0..100 {
        for vcpu in 0..VCPUS {
            machine.run(vcpu, 0);
        }
    }
    assert_eq!(machine.flushes, 1, "the first one");
}

/// Without flush-by-ASID the whole TLB goes once in as many changes as there are ASIDs.
#[test]
fn changes_use_up_numbers_one_by_one() {
    let mut machine = Machine::new(17, false);
    for _ in 0..160 {
        machine.step(Op::Change(0));
        machine.run(0, 0);
    }
    assert_eq!(machine.flushes, 10);
}
