// SPDX-License-Identifier: Apache-2.0

//! The kernel's command line: the user's, or the default, and what the machine must add.

use linux_loader::cmdline::Cmdline;

use crate::error::{Error, Result};
use crate::layout::CMDLINE_MAX;

/// What a guest gets when the user gives no command line: console on COM1, reset through the
/// keyboard controller, and an immediate reset after a panic.
pub const DEFAULT: &str = "console=ttyS0 reboot=k panic=-1";

/// Checks `text` and adds `extra` parameters that are not in it already.
pub fn build(text: &str, extra: &[String], max: usize) -> Result<String> {
    let mut line = text.trim().to_string();
    for parameter in extra {
        let key = parameter.split('=').next().unwrap_or(parameter);
        let present = line
            .split_ascii_whitespace()
            .any(|word| word.split('=').next() == Some(key));
        if !present {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(parameter);
        }
    }
    check(&line, max)?;
    Ok(line)
}

/// An error unless `line` is printable ASCII of at most `max` bytes and fits its place.
pub fn check(line: &str, max: usize) -> Result<()> {
    let max = max.min(CMDLINE_MAX as usize - 1);
    if line.len() > max {
        return Err(Error::CmdlineTooLong {
            len: line.len(),
            max,
        });
    }
    // linux-loader knows which characters a kernel accepts; its capacity counts the NUL.
    let mut checked = Cmdline::new(max + 1).map_err(|_| Error::CmdlineCharacters)?;
    if !line.is_empty() {
        checked
            .insert_str(line)
            .map_err(|_| Error::CmdlineCharacters)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_appended_once() {
        let extra = ["tsc_early_khz=1000".to_string()];
        assert_eq!(
            build("quiet", &extra, 100).unwrap(),
            "quiet tsc_early_khz=1000"
        );
        assert_eq!(build("", &extra, 100).unwrap(), "tsc_early_khz=1000");
        assert_eq!(
            build("tsc_early_khz=5 a", &extra, 100).unwrap(),
            "tsc_early_khz=5 a"
        );
        assert_eq!(build(" a b ", &[], 100).unwrap(), "a b");
        assert_eq!(build("", &[], 100).unwrap(), "");
    }

    #[test]
    fn length_is_limited() {
        assert!(build(&"x".repeat(100), &[], 100).is_ok());
        let e = build(&"x".repeat(101), &[], 100).unwrap_err();
        assert!(matches!(e, Error::CmdlineTooLong { len: 101, max: 100 }));
        assert!(build(&"x".repeat(70_000), &[], usize::MAX).is_err());
    }

    #[test]
    fn characters_are_limited() {
        assert!(matches!(
            build("a\nb", &[], 100),
            Err(Error::CmdlineCharacters)
        ));
        assert!(matches!(
            build("ä", &[], 100),
            Err(Error::CmdlineCharacters)
        ));
        assert!(build("a=\"b c\" -- init=/x", &[], 100).is_ok());
    }
}
