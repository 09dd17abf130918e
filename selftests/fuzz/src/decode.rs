// SPDX-License-Identifier: GPL-2.0-only

//! The decoder: whatever it accepts has the length that a disassembler finds, and no part of it is
//! anything but too short. An input is a mode and the bytes.

use super::Input;
use iced_x86::{Decoder, DecoderOptions, EncodingKind};
use vireo_model::model::emul::{decode, DecodeError, Mode, MAX_LEN};

/// The modes, with the disassembler's name for each.
const MODES: [(Mode, u32); 5] = [
    (Mode::Long, 64),
    (Mode::Protected32, 32),
    (Mode::Protected16, 16),
    (Mode::Real, 16),
    (Mode::Virtual8086, 16),
];

/// Tries one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, bits) = MODES[usize::from(input.u8()) % MODES.len()];
    let bytes = input.rest();
    let found = decode(bytes, mode);
    let mut iced = Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE);
    let theirs = iced.decode();
    match found {
        Ok(insn) => {
            let len = usize::from(insn.len);
            assert!(len <= bytes.len() && len <= MAX_LEN);
            assert!(!theirs.is_invalid(), "{mode:?} {bytes:02x?}: {insn:?}");
            assert_eq!(len, theirs.len(), "{mode:?} {bytes:02x?}: {insn:?}");
            for part in 0..len {
                assert_eq!(decode(&bytes[..part], mode), Err(DecodeError::Truncated));
            }
        }
        Err(DecodeError::Truncated) => assert!(bytes.len() < MAX_LEN),
        Err(DecodeError::Invalid) => {
            let no_vex = matches!(mode, Mode::Real | Mode::Virtual8086);
            let vex = no_vex && theirs.encoding() == EncodingKind::VEX;
            // The disassembler may still want bytes of what is no instruction already.
            assert!(
                vex || theirs.is_invalid(),
                "{mode:?} {bytes:02x?}: {theirs}"
            );
        }
        Err(DecodeError::TooLong | DecodeError::Unsupported) => {}
    }
}
