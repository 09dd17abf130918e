// SPDX-License-Identifier: GPL-2.0-only
//! Macros of the tests: guest code, lists of tests, checks.

/// Defines a function that returns the machine code of the given assembly lines (Intel syntax).
///
/// The names of `guest::layout` are known as assembler symbols; label 99 is the first byte. Names
/// must be unique in the program.
macro_rules! guest {
    ($(#[$meta:meta])* $name:ident: $($line:expr),+ $(,)?) => {
        core::arch::global_asm!(
            ".pushsection .rodata",
            ".set DONE, 0xe0; .set SYNC, 0xe2; .set DATA, 0x20000; .set EXC, 0xc800",
            ".set EXC_VECTOR, 0xc808; .set EXC_ERROR, 0xc810; .set EXC_RIP, 0xc818",
            ".set EXC_CR2, 0xc830; .set FIXUP, 0xc840; .set RETURN_MASK, 0xc848",
            ".set IRQ_COUNTS, 0xc000; .set IRQ_LOG, 0xd000; .set IRQ_LOGGED, 0xc900",
            ".set APIC, 0xfee00000; .set IOAPIC, 0xfec00000; .set MMIO, 0xd0000000",
            ".set STACK, 0x3fff0; .set CODE, 0x10000; .set FREE, 0x40000",
            ".code64",
            ".balign 64",
            concat!("guest_", stringify!($name), "_start:"),
            "99:",
            $($line,)+
            ".code64",
            concat!("guest_", stringify!($name), "_end:"),
            concat!(".globl guest_", stringify!($name), "_start"),
            concat!(".globl guest_", stringify!($name), "_end"),
            ".popsection",
        );
        $(#[$meta])*
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: takes the addresses of two symbols, no more.
            unsafe {
                core::arch::asm!(
                    concat!("lea {0}, [rip + guest_", stringify!($name), "_start]"),
                    concat!("lea {1}, [rip + guest_", stringify!($name), "_end]"),
                    out(reg) start,
                    out(reg) end,
                    options(nomem, nostack, preserves_flags),
                );
                std::slice::from_raw_parts(start, end as usize - start as usize)
            }
        }
    };
}

/// Builds a list of tests from function names; `name = seconds` gives a limit.
macro_rules! tests {
    ($($name:ident $(= $seconds:literal)?),+ $(,)?) => {
        /// The tests of this file.
        pub const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: stringify!($name),
            run: $name,
            seconds: tests!(@seconds $($seconds)?),
        }),+];
    };
    (@seconds) => { $crate::harness::DEFAULT_SECONDS };
    (@seconds $seconds:literal) => { $seconds };
}

/// Fails the test, with a formatted reason, unless the condition holds.
macro_rules! check {
    ($cond:expr $(,)?) => { check!($cond, "{}", stringify!($cond)) };
    ($cond:expr, $($arg:tt)+) => {
        if !$cond {
            return Err($crate::harness::Outcome::Fail(
                format!("line {}: {}", line!(), format!($($arg)+))));
        }
    };
}

/// Fails the test unless both values are equal; a third argument names the subject.
macro_rules! check_eq {
    ($left:expr, $right:expr $(,)?) => { check_eq!($left, $right, "{}", stringify!($left)) };
    ($left:expr, $right:expr, $($arg:tt)+) => {
        match (&$left, &$right) {
            (left, right) => if *left != *right {
                return Err($crate::harness::Outcome::Fail(format!(
                    "line {}: {}: got {:#x?}, expected {:#x?}",
                    line!(), format!($($arg)+), left, right)));
            }
        }
    };
}

/// Fails the test unless the call failed with the given errno.
macro_rules! check_errno {
    ($call:expr, $errno:expr $(, $($arg:tt)+)?) => {
        match $call {
            Err(error) if error.errno.0 == $errno => {}
            other => return Err($crate::harness::Outcome::Fail(format!(
                "line {}: {}: got {:?}, expected {:?}",
                line!(),
                check_errno!(@name $call $(, $($arg)+)?),
                other.map(drop), $crate::kvm::Errno($errno)))),
        }
    };
    (@name $call:expr, $($arg:tt)+) => { format!($($arg)+) };
    (@name $call:expr) => { stringify!($call) };
}
