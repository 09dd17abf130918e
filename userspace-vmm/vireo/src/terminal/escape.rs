// SPDX-License-Identifier: Apache-2.0

//! Escape keys: Ctrl-a starts one, the next key says which.

/// What introduces an escape: Ctrl-a.
const ESCAPE: u8 = 0x01;

/// What the user asked the VMM for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End the run.
    Quit,
    /// Press the guest's power button.
    PowerButton,
    /// Show the keys.
    Help,
}

/// The keys, as shown to the user.
pub const HELP: &str =
    "Ctrl-a x: quit, Ctrl-a p: power button, Ctrl-a Ctrl-a: send Ctrl-a, Ctrl-a h: this help";

/// Separates what the guest gets from what the VMM gets.
#[derive(Debug, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Passes `input` on to `guest` except for escapes, and returns their commands in order.
    pub fn filter(&mut self, input: &[u8], guest: &mut impl Extend<u8>) -> Vec<Command> {
        let mut commands = Vec::new();
        for byte in input {
            if !self.pending {
                match *byte {
                    ESCAPE => self.pending = true,
                    byte => guest.extend([byte]),
                }
                continue;
            }
            self.pending = false;
            match *byte {
                ESCAPE | b'a' => guest.extend([ESCAPE]),
                b'x' | b'X' => commands.push(Command::Quit),
                b'p' | b'P' => commands.push(Command::PowerButton),
                b'h' | b'H' | b'?' => commands.push(Command::Help),
                // Not an escape after all: the guest gets both keys.
                byte => guest.extend([ESCAPE, byte]),
            }
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(inputs: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
        let mut escape = Escape::default();
        let (mut guest, mut commands) = (Vec::new(), Vec::new());
        for input in inputs {
            commands.extend(escape.filter(input, &mut guest));
        }
        (guest, commands)
    }

    #[test]
    fn plain_input_passes() {
        assert_eq!(filter(&[b"ls -l\r\x03"]), (b"ls -l\r\x03".to_vec(), vec![]));
        assert_eq!(filter(&[b""]), (vec![], vec![]));
    }

    #[test]
    fn commands_are_taken_out() {
        assert_eq!(filter(&[b"a\x01xb"]), (b"ab".to_vec(), vec![Command::Quit]));
        let (guest, commands) = filter(&[b"\x01p\x01h"]);
        assert_eq!(
            (guest, commands),
            (vec![], vec![Command::PowerButton, Command::Help])
        );
    }

    #[test]
    fn escapes_may_be_split() {
        assert_eq!(
            filter(&[b"a\x01", b"x"]),
            (b"a".to_vec(), vec![Command::Quit])
        );
    }

    #[test]
    fn the_escape_itself_can_be_sent() {
        assert_eq!(filter(&[b"\x01\x01x"]), (b"\x01x".to_vec(), vec![]));
        assert_eq!(filter(&[b"\x01a"]), (b"\x01".to_vec(), vec![]));
    }

    #[test]
    fn other_keys_are_not_lost() {
        assert_eq!(filter(&[b"\x01\r"]), (b"\x01\r".to_vec(), vec![]));
    }
}
