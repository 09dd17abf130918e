// SPDX-License-Identifier: GPL-2.0-only

//! The decoder against a disassembler: whatever it accepts has the length that iced-x86 finds.
//!
//! `EMUL_DECODE_CASES` sets how many byte strings, `EMUL_DECODE_SEED` where they start.

#[path = "common/rng.rs"]
mod rng;

use iced_x86::{Decoder, DecoderOptions, EncodingKind};
use rng::Rng;
use vireo_model::model::emul::{decode, DecodeError, Mode, MAX_LEN};

/// Cases of each test.
const CASES: u64 = 1_000_000;

/// What prefixes a random instruction starts with, often several.
const PREFIXES: [u8; 11] = [
    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
];

fn random_bytes(rng: &mut Rng, mode: Mode) -> [u8; MAX_LEN] {
    let mut bytes = [0; MAX_LEN];
    rng.fill(&mut bytes);
    let mut at = 0;
    while at < 6 && rng.below(3) == 0 {
        bytes[at] = PREFIXES[rng.below(PREFIXES.len() as u64) as usize];
        at += 1;
    }
    if mode == Mode::Long && rng.below(3) == 0 {
        bytes[at] = 0x40 | bytes[at] & 15;
        at += 1;
    }
    match rng.below(8) {
        0..=1 => bytes[at] = 0x0f,
        2 => {
            bytes[at] = 0x0f;
            bytes[at + 1] = 0x38;
        }
        3 => bytes[at] = 0xc4 | bytes[at] & 1,
        _ => {}
    }
    bytes
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

fn bitness(mode: Mode) -> u32 {
    match mode {
        Mode::Long => 64,
        Mode::Protected32 => 32,
        _ => 16,
    }
}

const MODES: [Mode; 4] = [Mode::Long, Mode::Protected32, Mode::Protected16, Mode::Real];

#[test]
fn lengths_agree_with_a_disassembler() {
    let cases = setting("EMUL_DECODE_CASES", CASES);
    let mut rng = Rng::new(setting("EMUL_DECODE_SEED", 1));
    let mut accepted = 0;
    for case in 0..cases {
        let mode = MODES[case as usize % MODES.len()];
        let bytes = random_bytes(&mut rng, mode);
        let mut iced = Decoder::with_ip(bitness(mode), &bytes, 0, DecoderOptions::NONE);
        let theirs = iced.decode();
        match decode(&bytes, mode) {
            Ok(insn) => {
                accepted += 1;
                assert!(
                    !theirs.is_invalid(),
                    "{mode:?} {bytes:02x?}: {insn:?} is invalid"
                );
                assert_eq!(
                    usize::from(insn.len),
                    theirs.len(),
                    "{mode:?} {bytes:02x?}: {insn:?} is {theirs}"
                );
                check_prefixes_of(&bytes[..theirs.len()], mode);
            }
            Err(DecodeError::Truncated) => panic!("{mode:?} {bytes:02x?}: 15 bytes are enough"),
            // Real mode has no VEX; the disassembler's 16-bit mode is protected mode.
            Err(DecodeError::Invalid)
                if mode == Mode::Real && theirs.encoding() == EncodingKind::VEX => {}
            Err(DecodeError::Invalid) => {
                assert!(theirs.is_invalid(), "{mode:?} {bytes:02x?}: is {theirs}");
            }
            Err(DecodeError::TooLong | DecodeError::Unsupported) => {}
        }
    }
    assert!(accepted > cases / 4, "only {accepted} accepted");
    println!("{cases} byte strings, {accepted} accepted, no difference");
}

/// Every proper prefix of an accepted instruction is too short, never something else.
fn check_prefixes_of(bytes: &[u8], mode: Mode) {
    for n in 0..bytes.len() {
        let found = decode(&bytes[..n], mode);
        assert_eq!(
            found,
            Err(DecodeError::Truncated),
            "{mode:?} {:02x?}",
            &bytes[..n]
        );
    }
}

#[test]
fn any_bytes_decode_without_a_panic() {
    let mut rng = Rng::new(0x5eed_0002);
    let mut bytes = [0; MAX_LEN + 1];
    for case in 0..CASES {
        rng.fill(&mut bytes);
        let n = rng.below(bytes.len() as u64 + 1) as usize;
        if let Ok(insn) = decode(&bytes[..n], MODES[case as usize % MODES.len()]) {
            assert!(usize::from(insn.len) <= n.min(MAX_LEN));
        }
    }
}
