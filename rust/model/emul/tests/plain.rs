// SPDX-License-Identifier: GPL-2.0-only

//! Plain moves do what the executor does, for every form, prefix and register.

use super::super::plain::Plain;
use super::*;

/// The answer of the device.
const ANSWER: u64 = 0x8182_8384_8586_8788;

/// What an instruction does: its access, and the general registers and RIP afterwards.
type Effect = (Event, [u64; 16], u64);

/// Registers that differ in every byte, of which RDI and RSI lead to the device and R13 and RBP too.
fn registers() -> Pc {
    let mut pc = Pc::new(Mode::Long);
    for (n, gpr) in (0..).zip(pc.gpr.iter_mut()) {
        *gpr = 0x1122_3344_5566_7788u64.rotate_left(n * 4) ^ u64::from(n);
    }
    for reg in [Gpr::Rdi, Gpr::Rsi, Gpr::R13, Gpr::Rbp, Gpr::Rsp, Gpr::R12] {
        pc.gpr[reg.index()] = DEVICE + 0x100 + reg.index() as u64;
    }
    pc
}

fn executed(bytes: &[u8]) -> Effect {
    let mut pc = registers();
    let mut done = pc.run(bytes);
    if done == Err(Stop::NeedUser) {
        pc.answers.push(ANSWER);
        done = pc.again();
    }
    assert_eq!(done, Ok(Done::Retired), "{bytes:x?}");
    assert_eq!(pc.events.len(), 1);
    (pc.events.remove(0), pc.gpr, pc.rip)
}

fn moved(bytes: &[u8], insn: &Insn) -> Effect {
    let pc = registers();
    let (rip, mut gprs) = (RAM + 0x8000, pc.gpr);
    let plain = Plain::new(insn);
    let gpr = |reg: Gpr| pc.gpr[reg.index()];
    let linear = plain.address(rip, 48, gpr).expect("in one page");
    let size = usize::from(plain.size());
    let event = if plain.is_store() {
        let value = plain.value(gpr);
        assert_eq!(truncated(value, size), value, "{bytes:x?}");
        Event::Write(linear, value.to_le_bytes()[..size].to_vec())
    } else {
        let load = plain.load();
        let reg = load.register();
        gprs[reg.index()] = load.result(gpr(reg), truncated(ANSWER, size));
        assert_eq!(load.length(), plain.length());
        Event::Read(linear, size)
    };
    (event, gprs, rip + u64::from(plain.length()))
}

fn truncated(value: u64, size: usize) -> u64 {
    value & u64::MAX >> (64 - 8 * size)
}

#[test]
fn plain_moves_do_what_the_executor_does() {
    let opcodes: [&[u8]; 11] = [
        &[0x88],
        &[0x89],
        &[0x8a],
        &[0x8b],
        &[0xc6],
        &[0xc7],
        &[0x63],
        &[0x0f, 0xb6],
        &[0x0f, 0xb7],
        &[0x0f, 0xbe],
        &[0x0f, 0xbf],
    ];
    let mut plain = 0;
    for opcode in opcodes {
        for prefix in [&[][..], &[0x66], &[0x64]] {
            for rex in [None].into_iter().chain((0x40..0x50).map(Some)) {
                for modrm in 0..0xc0u8 {
                    let mut bytes = prefix.to_vec();
                    bytes.extend(rex);
                    bytes.extend_from_slice(opcode);
                    bytes.push(modrm);
                    // A SIB byte or displacement of small numbers, and an immediate with the sign set.
                    bytes.extend_from_slice(&[0x20, 0x10, 0, 0, 0, 0x85, 0x84, 0x83, 0x82]);
                    let Ok(insn) = decode(&bytes, Mode::Long) else {
                        continue;
                    };
                    if !insn.is_plain_move() {
                        continue;
                    }
                    let pc = registers();
                    let gpr = |reg: Gpr| pc.gpr[reg.index()];
                    let address = Plain::new(&insn).address(RAM + 0x8000, 48, gpr);
                    if address.is_none_or(|at| !(DEVICE..DEVICE + 0x1000).contains(&at)) {
                        continue;
                    }
                    plain += 1;
                    let bytes = &bytes[..usize::from(insn.len)];
                    assert_eq!(moved(bytes, &insn), executed(bytes), "{bytes:x?}");
                }
            }
        }
    }
    assert!(plain > 5_000, "{plain}");
}

#[test]
fn what_makes_more_than_one_access_is_not_plain() {
    let insns: [&[u8]; 9] = [
        // MOV to and from segments, with FS, between registers.
        &[0x8c, 0x07],
        &[0x8e, 0x07],
        &[0x64, 0x89, 0x07],
        &[0x89, 0xc7],
        // ADD, XCHG, CMP, MOVBE, MOVS.
        &[0x01, 0x07],
        &[0x87, 0x07],
        &[0x39, 0x07],
        &[0x0f, 0x38, 0xf0, 0x07],
        &[0xa5],
    ];
    for bytes in insns {
        let insn = decode(bytes, Mode::Long).unwrap();
        assert!(!insn.is_plain_move(), "{bytes:x?}");
    }
    // Other modes have segments that count.
    let insn = decode(&[0x89, 0x07], Mode::Protected32).unwrap();
    assert!(!insn.is_plain_move());
}

#[test]
fn an_access_in_two_pages_or_nowhere_is_left_to_the_executor() {
    let insn = decode(&[0x89, 0x07], Mode::Long).unwrap();
    let at = |linear: u64| Plain::new(&insn).address(RAM, 48, |_| linear);
    assert_eq!(at(DEVICE + 0xffc), Some(DEVICE + 0xffc));
    assert_eq!(at(DEVICE + 0xffd), None);
    assert_eq!(at(1 << 47), None);
    assert_eq!(at(u64::MAX - 3), Some(u64::MAX - 3));
    assert_eq!(at(u64::MAX - 2), None);
}
