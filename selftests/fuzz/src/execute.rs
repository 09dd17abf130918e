// SPDX-License-Identifier: GPL-2.0-only

//! The executor: what stops has changed nothing, and what was abandoned at any access and run again
//! ends as if it had not been. An input is a mode, a privilege level, a seed for everything else, and
//! the bytes of the instruction.

use super::machine::Any;
use super::Input;
use vireo_model::model::emul::{decode, execute, Done, Insn, Mode, Stop};

const MODES: [Mode; 5] = [
    Mode::Long,
    Mode::Protected32,
    Mode::Protected16,
    Mode::Real,
    Mode::Virtual8086,
];

/// Calls after which a string instruction has shown enough.
const CALLS: u32 = 6;

/// Accesses of one call that are abandoned in turn.
const ABANDONED: u32 = 40;

/// One call, which may be a part of a string instruction.
fn call(machine: &mut Any, insn: &Insn) -> Result<Done, Stop> {
    let before = machine.clone();
    (machine.retired, machine.probed) = (false, false);
    machine.iterations = 0;
    let result = execute(machine, insn);
    match result {
        Ok(Done::Retired) => {}
        Ok(Done::Repeat) => assert_eq!(machine.rip, before.rip),
        Err(_) if machine.iterations == 0 => {
            assert_eq!(machine.settled(), before.settled(), "{insn:?}");
        }
        Err(_) => assert_eq!(machine.rip, before.rip),
    }
    if machine.retired && insn.mode != Mode::Long && !machine.ia32e {
        assert_eq!(machine.rip >> 32, 0, "{insn:?}");
    }
    result
}

/// Runs the instruction to its end, or for a while; `budget` accesses later userspace is needed once.
fn finish(machine: &mut Any, insn: &Insn, budget: u32) -> (Result<Done, Stop>, bool) {
    let mut interrupted = false;
    machine.budget = budget;
    let mut calls = 0;
    loop {
        let result = call(machine, insn);
        if result == Err(Stop::NeedUser) {
            assert!(!interrupted, "only once");
            interrupted = true;
            machine.budget = u32::MAX;
            continue;
        }
        calls += 1;
        if result != Ok(Done::Repeat) || calls == CALLS {
            return (result, interrupted);
        }
    }
}

/// Tries one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = MODES[usize::from(input.u8()) % MODES.len()];
    let cpl = input.u8() & 3;
    let machine = Any::new(input.u64(), mode, cpl);
    let Ok(insn) = decode(input.rest(), mode) else {
        return;
    };
    let mut smooth = machine.clone();
    let (expected, _) = finish(&mut smooth, &insn, u32::MAX);
    if mode == Mode::Virtual8086 {
        assert_eq!(expected, Err(Stop::Unhandled));
        return;
    }
    // A string instruction is cut into calls differently when it was interrupted.
    if expected == Ok(Done::Repeat) {
        return;
    }
    for budget in 0..ABANDONED {
        let mut rough = machine.clone();
        let (found, interrupted) = finish(&mut rough, &insn, budget);
        if found == Ok(Done::Repeat) {
            continue;
        }
        assert_eq!(found, expected, "{insn:?} with {budget}");
        assert_eq!(rough.settled(), smooth.settled(), "{insn:?} with {budget}");
        if !interrupted {
            break;
        }
    }
}
