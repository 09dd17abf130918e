// SPDX-License-Identifier: GPL-2.0-only

//! The executor against the real CPU: random instructions, all registers, flags and memory compared.
//!
//! `EMUL_CPU_CASES` sets how many, `EMUL_CPU_SEED` where they start.

#![cfg(target_arch = "x86_64")]

#[path = "../common/rng.rs"]
mod rng;

mod local;
mod machine;
mod random;
mod trampoline;

use local::Local;
use machine::Soft;
use random::{is_vector, Case, Place};
use rng::Rng;
use trampoline::{Cpu, LocalCode, Outcome, State, CODE, DATA, LANDING};
use vireo_model::model::emul::{execute, prefix, Done, Insn, Mode, Op, Operand, Stop};
use vireo_model::model::x86::rflags::{self, AF, CF, OF, PF, SF, STATUS, ZF};
use vireo_model::model::x86::{vector, Gpr, SegReg};

/// What 64-bit mode does not have.
const NOT_IN_64_BIT: [Op; 10] = [
    Op::Pusha,
    Op::Popa,
    Op::Bound,
    Op::Daa,
    Op::Das,
    Op::Aaa,
    Op::Aas,
    Op::Aam,
    Op::Aad,
    Op::Salc,
];

/// Cases of the test that abandons instructions.
const ABANDONED_CASES: u32 = 100_000;

/// With this many cases every operation has turned up.
const ENOUGH: u64 = 100_000;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

/// The shift count that `insn` uses, after masking.
fn count(insn: &Insn, before: &State) -> u32 {
    let operand = match insn.op {
        Op::Shld | Op::Shrd => insn.third,
        _ => insn.src,
    };
    let raw = match operand {
        Operand::Imm => insn.imm,
        _ => before.gpr[Gpr::Rcx.index()],
    };
    raw as u32 & if insn.op_size == 8 { 63 } else { 31 }
}

/// The flags that the architecture leaves undefined.
fn undefined_flags(insn: &Insn, before: &State) -> u64 {
    match insn.op {
        Op::And | Op::Or | Op::Xor | Op::Test => AF,
        Op::Rol | Op::Ror | Op::Rcl | Op::Rcr => match count(insn, before) {
            0 | 1 => 0,
            _ => OF,
        },
        Op::Shl | Op::Shr | Op::Sar | Op::Shld | Op::Shrd => {
            let width = u32::from(insn.op_size) * 8;
            match count(insn, before) {
                0 => 0,
                1 => AF,
                n if n >= width => AF | OF | CF,
                _ => AF | OF,
            }
        }
        Op::Bt | Op::Bts | Op::Btr | Op::Btc => OF | SF | AF | PF,
        Op::Bsf | Op::Bsr => OF | SF | AF | PF | CF,
        Op::Mul | Op::Imul | Op::Imul1 => SF | ZF | AF | PF,
        Op::Div | Op::Idiv => STATUS,
        Op::Daa | Op::Das => OF,
        Op::Aaa | Op::Aas => OF | SF | ZF | PF,
        Op::Aam | Op::Aad => OF | AF | CF,
        _ => 0,
    }
}

/// Whether the architecture leaves the result itself undefined.
fn undefined_result(insn: &Insn, before: &State) -> bool {
    matches!(insn.op, Op::Shld | Op::Shrd) && count(insn, before) > u32::from(insn.op_size) * 8
}

/// Whether the register's upper half may be lost or not: with 32-bit addresses and no complete
/// iteration, processors differ on what REP does to the registers it would have changed.
fn undefined_half(insn: &Insn, before: &State, fault: bool, n: usize) -> bool {
    insn.addr_size == 4
        && insn.has(prefix::REPE | prefix::REPNE)
        && matches!(
            insn.op,
            Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas
        )
        && (fault || before.gpr[Gpr::Rcx.index()] as u32 == 0)
        && [Gpr::Rcx, Gpr::Rsi, Gpr::Rdi]
            .iter()
            .any(|reg| reg.index() == n)
}

fn signal_of(stop: Stop) -> i32 {
    let Stop::Fault(exception) = stop else {
        return 0;
    };
    match exception.vector {
        vector::DE => libc::SIGFPE,
        vector::UD => libc::SIGILL,
        vector::GP | vector::PF | vector::BR => libc::SIGSEGV,
        vector::SS | vector::AC => libc::SIGBUS,
        _ => 0,
    }
}

/// Runs the executor to the end of the instruction.
fn run_soft(soft: &mut Soft, insn: &Insn, rng: &mut Rng) -> Result<(), Stop> {
    loop {
        soft.stop_after = rng.below(8) as u32;
        if execute(soft, insn)? == Done::Retired {
            return Ok(());
        }
    }
}

/// One comparison after the other, in one mode.
struct Comparison<'a> {
    cpu: &'a mut Cpu,
    rng: Rng,
    soft: Soft,
    faults: u64,
    seen: [u64; Op::Ud2 as usize],
}

impl<'a> Comparison<'a> {
    fn new(cpu: &'a mut Cpu, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        rng.fill(cpu.data());
        let mut soft = Soft::new();
        soft.data.copy_from_slice(cpu.data());
        Self {
            cpu,
            rng,
            soft,
            faults: 0,
            seen: [0; Op::Ud2 as usize],
        }
    }

    /// Runs one random instruction on both and compares.
    fn step(&mut self, number: u64, code: Option<LocalCode>, mut state: State) {
        let Self { cpu, rng, soft, .. } = self;
        let linear = cpu.next_rip();
        let place = Place {
            mode: soft.mode,
            rip: linear - soft.segments[SegReg::Cs.index()].base,
            segments: soft.segments,
        };
        let Case {
            bytes,
            insn,
            target,
            poke,
        } = random::case(rng, &place, &mut state);
        self.seen[insn.op as usize] += 1;
        prepare(rng, &insn, target, &mut state, soft);
        if let Some((linear, value, len)) = poke {
            let at = (linear - DATA) as usize;
            for data in [cpu.data(), &mut soft.data[..]] {
                data[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            }
        }
        let before = state;
        soft.gpr = state.gpr;
        soft.rip = place.rip;
        soft.rflags = state.rflags;
        soft.vector = state.vector;
        let result = run_soft(soft, &insn, rng);

        let bytes = &bytes[..usize::from(insn.len)];
        // SAFETY: the cases have no branches, and their addresses are in the buffer or not mapped.
        let outcome = unsafe { cpu.run(bytes, code, &mut state) };
        let context = || {
            let (gpr, rflags) = (before.gpr, before.rflags);
            format!("case {number}: {bytes:02x?} {insn:?}\nbefore {gpr:x?} {rflags:x}")
        };

        match (result, outcome) {
            // INT3 was executed where the branch led.
            (Ok(()), Outcome::Signal(libc::SIGTRAP, offset)) => {
                let landed = (soft.rip - place.rip, LANDING + 1);
                assert_eq!(landed, (LANDING, offset), "{}", context());
            }
            (Ok(()), Outcome::Retired) => {
                assert_eq!(soft.rip, place.rip + u64::from(insn.len), "{}", context());
            }
            (Err(stop), Outcome::Signal(signal, offset)) => {
                self.faults += 1;
                let expected = (signal_of(stop), 0);
                assert_eq!(expected, (signal, offset), "{stop:?} {}", context());
                assert_eq!(soft.rip, place.rip, "{}", context());
            }
            _ => panic!("soft {result:?}, cpu {outcome:?}, {}", context()),
        }
        if undefined_result(&insn, &before) {
            soft.data.copy_from_slice(cpu.data());
            return;
        }
        for n in 0..16 {
            let mask = match undefined_half(&insn, &before, result.is_err(), n) {
                true => 0xffff_ffff,
                false => u64::MAX,
            };
            assert_eq!(
                soft.gpr[n] & mask,
                state.gpr[n] & mask,
                "register {n}: soft {:x}, cpu {:x}, {}",
                soft.gpr[n],
                state.gpr[n],
                context()
            );
        }
        let shown = STATUS | rflags::DF | rflags::NT | rflags::AC | rflags::ID;
        let mask = shown & !undefined_flags(&insn, &before);
        assert_eq!(
            soft.rflags & mask,
            state.rflags & mask,
            "flags: soft {:x}, cpu {:x}, {}",
            soft.rflags,
            state.rflags,
            context()
        );
        if is_vector(&insn) {
            assert_eq!(soft.vector, state.vector, "{}", context());
        }
        // Processors push before they find that the frame has no room, or the target is out of bounds.
        if matches!(insn.op, Op::Enter | Op::Call) && result.is_err() {
            soft.data.copy_from_slice(cpu.data());
        }
        assert!(soft.data == cpu.data(), "memory, {}", context());
    }

    /// Every operation must have turned up.
    fn check_coverage(&self) {
        let long = self.soft.mode == Mode::Long;
        for op in Op::Add as usize..Op::JmpFar as usize {
            let vectors = Op::VecLoad as usize..=Op::VecStoreHigh as usize;
            let absent = match op {
                _ if op == Op::Movbe as usize => !is_x86_feature_detected!("movbe"),
                _ if vectors.contains(&op) => !random::has_avx(),
                _ if NOT_IN_64_BIT.iter().any(|&other| other as usize == op) => long,
                _ => (Op::Ins as usize..=Op::Out as usize).contains(&op),
            };
            let times = self.seen[op];
            assert!(absent || times >= 10, "operation {op} is rare: {times}");
        }
    }
}

#[test]
fn executes_as_the_cpu_does() {
    let cases = setting("EMUL_CPU_CASES", 1_000_000);
    let seed = setting("EMUL_CPU_SEED", 1);
    let mut cpu = Cpu::new();

    let mut long = Comparison::new(&mut cpu, seed);
    for number in 0..cases {
        long.step(number, None, State::default());
    }
    println!(
        "64-bit: {cases} cases, {} faults, no difference",
        long.faults
    );
    if cases >= ENOUGH {
        long.check_coverage();
    }

    let Some(local) = Local::new() else {
        println!("16-bit and 32-bit: skipped, no local descriptor table here");
        return;
    };
    let modes = [
        (Mode::Protected32, local.code32, local.code_segments[0]),
        (Mode::Protected16, local.code16, local.code_segments[1]),
    ];
    for (mode, code, cs) in modes {
        let mut narrow = Comparison::new(&mut cpu, seed);
        narrow.soft.mode = mode;
        narrow.soft.segments[SegReg::Cs.index()] = cs;
        for number in 0..cases / 2 {
            let state = choose_segments(&mut narrow, &local);
            narrow.step(number, Some(code), state);
        }
        println!(
            "{mode:?}: {} cases, {} faults, no difference",
            cases / 2,
            narrow.faults
        );
        if cases / 2 >= ENOUGH {
            narrow.check_coverage();
        }
    }
}

/// Chooses the data segments of the next instruction, mostly those that allow everything.
fn choose_segments(comparison: &mut Comparison<'_>, local: &Local) -> State {
    let mut state = State::default();
    state.use_segments = 1;
    let registers = [SegReg::Ds, SegReg::Es, SegReg::Ss, SegReg::Gs];
    for (slot, reg) in state.segments.iter_mut().zip(registers) {
        let choices = if reg == SegReg::Ss {
            2
        } else {
            local.data.len() as u64
        };
        let n = match comparison.rng.below(4) {
            0 => comparison.rng.below(choices),
            _ => comparison.rng.below(2),
        };
        let segment = local.data[n as usize];
        *slot = u64::from(segment.selector);
        comparison.soft.segments[reg.index()] = segment;
    }
    state
}

/// Makes likely what rarely happens by chance.
fn prepare(rng: &mut Rng, insn: &Insn, target: Option<u64>, state: &mut State, soft: &Soft) {
    if is_vector(insn) {
        state.use_vector = 1;
        for register in &mut state.vector {
            rng.fill(register);
        }
    }
    // Alignment checks, which wide accesses may or may not have.
    if rng.below(16) == 0 && insn.op_size <= 8 {
        state.rflags |= rflags::AC;
    }
    // A quotient that fits.
    let rdx = Gpr::Rdx as u8;
    let free = insn.mem.base != rdx && insn.mem.index != rdx;
    if matches!(insn.op, Op::Div | Op::Idiv) && free && rng.below(2) == 0 {
        state.gpr[Gpr::Rdx.index()] = rng.below(2);
    }
    // A comparison that succeeds.
    let compares = matches!(insn.op, Op::Cmpxchg | Op::CmpxchgPair);
    if let (true, Some(target), 0) = (compares, target, rng.below(2)) {
        let half = match (insn.op, insn.op_size) {
            (Op::CmpxchgPair, 1..=4) => 4,
            _ => 8,
        };
        for (n, reg) in [Gpr::Rax, Gpr::Rdx].into_iter().enumerate() {
            if insn.mem.base == reg as u8 || insn.mem.index == reg as u8 {
                continue;
            }
            let at = (target - DATA) as usize + n * half;
            let mut bytes = [0; 8];
            bytes[..half].copy_from_slice(&soft.data[at..at + half]);
            state.gpr[reg.index()] = u64::from_le_bytes(bytes);
        }
    }
}

/// An instruction that needs userspace at any of its accesses has changed nothing by then.
#[test]
fn abandoned_instructions_leave_no_trace() {
    let mut rng = Rng::new(2);
    let mut soft = Soft::new();
    rng.fill(&mut soft.data);
    let mut abandoned = 0;
    for number in 0..ABANDONED_CASES {
        let mut state = State::default();
        let place = Place {
            mode: Mode::Long,
            rip: CODE,
            segments: soft.segments,
        };
        let Case {
            insn, target, poke, ..
        } = random::case(&mut rng, &place, &mut state);
        prepare(&mut rng, &insn, target, &mut state, &soft);
        soft.gpr = state.gpr;
        soft.rip = CODE;
        soft.rflags = state.rflags;
        soft.vector = state.vector;
        if let Some((linear, value, len)) = poke {
            let at = (linear - DATA) as usize;
            soft.data[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
        // One iteration at a time: those before are committed.
        soft.stop_after = 1;
        let before = soft.clone();
        for budget in 0.. {
            (soft.budget, soft.probed) = (budget, false);
            if execute(&mut soft, &insn) != Err(Stop::NeedUser) {
                break;
            }
            abandoned += 1;
            (soft.budget, soft.probed) = (before.budget, before.probed);
            assert!(soft == before, "case {number}, access {budget}: {insn:?}");
        }
        (soft.budget, soft.probed) = (before.budget, before.probed);
    }
    assert!(abandoned > ABANDONED_CASES / 2, "only {abandoned} accesses");
}
