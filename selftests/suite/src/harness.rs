// SPDX-License-Identifier: GPL-2.0-only
//! Running tests, each in a process of its own, and reporting in KTAP.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::host::is_tcg;
use crate::kvm::IoctlError;

/// Why a test did not pass.
#[derive(Debug)]
pub enum Outcome {
    /// It failed.
    Fail(String),
    /// A documented precondition is missing.
    Skip(String),
}

impl From<IoctlError> for Outcome {
    fn from(error: IoctlError) -> Self {
        Outcome::Fail(format!("{error:?}"))
    }
}

/// What a test returns.
pub type TestResult = Result<(), Outcome>;

/// A test: its name, its code, and how long it may take.
pub struct Test {
    /// `group_subject`.
    pub name: &'static str,
    /// The code.
    pub run: fn() -> TestResult,
    /// The limit in seconds of the machine's clock.
    pub seconds: u64,
}

/// The limit for tests that don't say.
pub const DEFAULT_SECONDS: u64 = 20;

/// A failure with this reason.
pub fn fail<T>(reason: impl Into<String>) -> Result<T, Outcome> {
    Err(Outcome::Fail(reason.into()))
}

/// A skip with this reason.
pub fn skip<T>(reason: impl Into<String>) -> Result<T, Outcome> {
    Err(Outcome::Skip(reason.into()))
}

/// What the command line says.
#[derive(Debug)]
pub struct Env {
    /// The device node under test.
    pub device: String,
    /// Multiplies the number of rounds of the long tests.
    pub scale: f64,
    /// Have the guest touch its memory before a test begins, so that no interrupt's delivery finds a page
    /// that is not mapped: Bochs 2.7 reports a wrong vector when it was to deliver a virtual interrupt.
    pub touch: bool,
}

static ENV: OnceLock<Env> = OnceLock::new();

/// Sets what [`env()`] returns; once.
pub fn set_env(env: Env) {
    ENV.set(env).expect("the environment is set once");
}

/// What the command line said.
pub fn env() -> &'static Env {
    ENV.get().expect("the environment is set before tests run")
}

/// Whether guests touch their memory first; benchmarks have no environment.
pub fn touches_memory() -> bool {
    ENV.get().is_some_and(|env| env.touch)
}

impl Env {
    /// `full` rounds scaled, at least one.
    pub fn rounds(&self, full: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(1)
    }

    /// Whether the device is Vireo and not KVM.
    pub fn is_vireo(&self) -> bool {
        !self.device.ends_with("/kvm")
    }
}

/// Prints one diagnostic line from inside of a test.
pub fn note(text: impl AsRef<str>) {
    for line in text.as_ref().lines() {
        println!("# {line}");
    }
}

const PASS: u8 = 0;
const FAIL: u8 = 1;
const SKIP: u8 = 2;

/// Runs `test` in a child process; its outcome.
pub fn run_test(test: &Test) -> TestResult {
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for two descriptors.
    if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
        return fail("no pipe");
    }
    // SAFETY: this process has one thread, so the child may do anything.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a process group of its own, so that all its children can be ended with it.
        unsafe { libc::setpgid(0, 0) };
        child(test, pipe[1]);
    }
    // SAFETY: closes the parent's copy of the writing end.
    unsafe { libc::close(pipe[1]) };
    let report = read_report(pipe[0], Duration::from_secs(test.seconds));
    let mut status = 0;
    // SAFETY: `pid` is our child and the leader of its group; what is left of the group ends here.
    unsafe {
        libc::setpgid(pid, pid);
        libc::kill(-pid, libc::SIGKILL);
        libc::waitpid(pid, &mut status, 0);
        libc::close(pipe[0]);
    }
    match report {
        None => fail(format!("no result after {} s", test.seconds)),
        Some(report) => match report.split_first() {
            Some((&PASS, _)) => Ok(()),
            Some((&SKIP, text)) => skip(String::from_utf8_lossy(text)),
            Some((_, text)) => fail(String::from_utf8_lossy(text)),
            None => fail(format!("the test's process ended with status {status:#x}")),
        },
    }
}

/// Runs `test` and writes the report to `fd`; never returns.
fn child(test: &Test, fd: i32) -> ! {
    std::panic::set_hook(Box::new(|_| ()));
    let run = test.run;
    let (tag, text) = match std::panic::catch_unwind(run) {
        Ok(Ok(())) => (PASS, String::new()),
        Ok(Err(Outcome::Fail(text))) => (FAIL, text),
        Ok(Err(Outcome::Skip(text))) => (SKIP, text),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or(panic.downcast_ref::<&str>().copied())
                .unwrap_or("?");
            (FAIL, format!("panic: {text}"))
        }
    };
    let mut report = vec![tag];
    report.extend_from_slice(text.as_bytes());
    // SAFETY: writes the report and leaves without running the parent's clean-up.
    unsafe {
        libc::write(fd, report.as_ptr().cast(), report.len());
        libc::_exit(0)
    }
}

/// Everything that comes from `fd` until it closes; `None` when that takes longer than `limit`.
fn read_report(fd: i32, limit: Duration) -> Option<Vec<u8>> {
    let start = Instant::now();
    let mut report = Vec::new();
    loop {
        let left = limit.checked_sub(start.elapsed())?;
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid entry; then a read into a local buffer.
        let got = unsafe {
            if libc::poll(&mut poll, 1, left.as_millis() as i32 + 1) == 0 {
                return None;
            }
            let mut buffer = [0u8; 4096];
            let got = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
            report.extend_from_slice(&buffer[..got.max(0) as usize]);
            got
        };
        // A child of the test may keep the pipe open; a report that is there is enough.
        if got <= 0 || !report.is_empty() {
            return Some(report);
        }
    }
}

/// How often a test that fails is tried again on QEMU's TCG (7.2).
///
/// At VMRUN it forgets that the guest is in STI's shadow, so that an interrupt comes before a HLT that it should have
/// ended, and changes the CPU's pending requests without the lock that timers and other CPUs take for that, so that one
/// is lost now and then.
const MORE_ON_TCG: u32 = 2;

/// Runs `tests` and prints KTAP; whether something ran and nothing failed.
pub fn run_all(tests: &[&Test]) -> bool {
    println!("KTAP version 1");
    println!("1..{}", tests.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (i, test) in tests.iter().enumerate() {
        let start = Instant::now();
        let (number, name) = (i + 1, test.name);
        let mut outcome = run_test(test);
        let mut more = if is_tcg() { MORE_ON_TCG } else { 0 };
        while let (Err(Outcome::Fail(reason)), 1..) = (&outcome, more) {
            note(format!(
                "{name} once more, after: {}",
                reason.replace('\n', " ")
            ));
            more -= 1;
            outcome = run_test(test);
        }
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("ok {number} {name}");
            }
            Err(Outcome::Fail(reason)) => {
                failed += 1;
                println!("not ok {number} {name} # {}", reason.replace('\n', " "));
            }
            Err(Outcome::Skip(reason)) => {
                skipped += 1;
                println!("ok {number} {name} # SKIP {reason}");
            }
        }
        let took = start.elapsed();
        if took > Duration::from_millis(400) {
            note(format!(
                "{name} took {}.{} s",
                took.as_secs(),
                took.subsec_millis() / 100
            ));
        }
    }
    println!("# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0");
    failed == 0 && passed > 0
}
