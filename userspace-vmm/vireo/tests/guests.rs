// SPDX-License-Identifier: Apache-2.0

//! Tiny guests on a real hypervisor, each a few instructions long, for what needs no Linux:
//! devices, exits, exit statuses, the terminal. `make test` runs them in the nested VM; elsewhere
//! `cargo test -- --ignored` does, on VIREO_TEST_DEVICE.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{device, elf, finish, vireo, TempFile, LOAD_ADDR};

// Instructions that mean the same in 32-bit and 64-bit mode.
const POWER_OFF: &[u8] = &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee];
/// Interrupts are on: Bochs 2.7 takes no external-interrupt exit from a guest that has them off,
/// and a host with one CPU would never get it back. None comes in, as the PIC, where there is
/// one, is masked first and the I/O APIC is after reset.
const LOOP: &[u8] = &[0xb0, 0xff, 0xe6, 0x21, 0xfb, 0xeb, 0xfe];
const UNDEFINED: &[u8] = &[0x0f, 0x0b];
const RESET_8042: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];
const RESET_CF9: &[u8] = &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee];
/// Enables COM1's receive interrupt.
const ENABLE_RECEIVE: &[u8] = &[0x66, 0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee];
/// Sends back what comes, until a 'q', and powers off.
const ECHO: &[u8] = &[
    0x66, 0xba, 0xfd, 0x03, // mov dx, LSR
    0xec, // in al, dx
    0xa8, 0x01, // test al, data ready
    0x74, 0xf7, // jz to the first instruction
    0x66, 0xba, 0xf8, 0x03, // mov dx, data
    0xec, // in al, dx
    0xee, // out dx, al
    0x3c, b'q', // cmp al, 'q'
    0x75, 0xed, // jne to the first instruction
];

fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03];
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]);
    }
    code
}

fn debug_exit(value: u8) -> Vec<u8> {
    vec![0xb0, value, 0xe6, 0xf4]
}

/// A command that boots `code`, with the kernel's file.
fn guest(code: &[&[u8]], pvh: bool) -> (Command, TempFile) {
    let device = device().expect("a hypervisor: set VIREO_TEST_DEVICE");
    let mut code = code.concat();
    code.extend(LOOP);
    let kernel = TempFile::new(&elf(&code, pvh, 4096));
    let mut command = vireo();
    command.args([
        "run",
        "--device",
        &device,
        "--mem",
        "4M",
        "--kernel",
        kernel.path(),
    ]);
    (command, kernel)
}

/// Boots `code` and expects exit status `status`; returns standard output and error.
fn ends(code: &[&[u8]], pvh: bool, status: i32) -> (String, String) {
    let (mut command, _kernel) = guest(code, pvh);
    let (got, stdout, stderr) = finish(command.output().unwrap());
    assert_eq!(got, status, "{stderr}");
    (stdout, stderr)
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn prints_and_powers_off() {
    for pvh in [true, false] {
        let output = ends(&[&print("hello\n"), POWER_OFF], pvh, 0);
        assert_eq!(output, ("hello\n".into(), String::new()));
    }
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn resets() {
    for reset in [RESET_8042, RESET_CF9] {
        let (_, stderr) = ends(&[reset], true, 0);
        assert!(stderr.contains("guest reset"), "{stderr}");
    }
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn debug_exit_has_the_guest_s_status() {
    ends(&[&debug_exit(0)], true, 1);
    ends(&[&debug_exit(0x10)], false, 33);
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn a_triple_fault_is_told() {
    let (_, stderr) = ends(&[UNDEFINED], true, 4);
    assert!(stderr.contains("triple fault"), "{stderr}");
    assert!(stderr.contains(&format!("rip {LOAD_ADDR:#x}")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn nothing_at_a_port_or_address_reads_ones() {
    // in eax, 0xe0; then exit with al
    ends(&[&[0xe5, 0xe0], &[0xe6, 0xf4]], true, 0xff);
    // mov eax, [0xd0000000] in 32-bit mode; then exit with al
    ends(&[&[0xa1, 0, 0, 0, 0xd0], &[0xe6, 0xf4]], true, 0xff);
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn string_output_comes_in_order() {
    let text = b"string\n";
    // mov esi, text; mov ecx, length; mov dx, data; rep outsb
    let mut code = vec![0xbe];
    let at = LOAD_ADDR as u32 + 16 + POWER_OFF.len() as u32;
    code.extend(at.to_le_bytes());
    code.push(0xb9);
    code.extend((text.len() as u32).to_le_bytes());
    code.extend([0x66, 0xba, 0xf8, 0x03, 0xf3, 0x6e]);
    assert_eq!(code.len(), 16);
    let (stdout, _) = ends(&[&code, POWER_OFF, text], true, 0);
    assert_eq!(stdout.as_bytes(), text);
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn a_pipe_reaches_the_guest_whole() {
    let (mut command, _kernel) = guest(&[ENABLE_RECEIVE, ECHO, POWER_OFF], true);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input: String = ('a'..='p').cycle().take(1000).chain(['q']).collect();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let (status, stdout, stderr) = finish(child.wait_with_output().unwrap());
    assert_eq!((status, stdout), (0, input), "{stderr}");
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn a_closed_output_does_not_stop_the_guest() {
    let (mut command, _kernel) = guest(&[&print("lost"), POWER_OFF], true);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(command.stdout(writer).status().unwrap().success());
}

/// Waits for `child` for some seconds; kills it and panics when it goes on.
fn wait(child: &mut Child) -> i32 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("still running");
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn signals_end_it() {
    let busy = [&print("up")[..], LOOP].concat();
    for (first, second, status) in [
        (libc::SIGINT, None, 130),
        (libc::SIGHUP, None, 129),
        (libc::SIGTERM, Some(libc::SIGTERM), 143),
    ] {
        let (mut command, _kernel) = guest(&[&busy], true);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut up = [0; 2];
        child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        let send = |signal| {
            // SAFETY: the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(child.id() as i32, signal) }
        };
        send(first);
        if let Some(second) = second {
            sleep(Duration::from_millis(200));
            send(second);
        }
        assert_eq!(wait(&mut child), status);
    }
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn a_reader_that_takes_nothing_does_not_keep_it() {
    // Prints for ever: mov dx, data; mov al, newline; out dx, al; jmp to the out
    let flood = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'\n', 0xee, 0xeb, 0xfd];
    let (mut command, _kernel) = guest(&[flood], true);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(500));
    // SAFETY: the child has not been waited for, so the number is still its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(wait(&mut child), 130);
}

/// A pseudo-terminal: the user's side, and the program's side.
fn pty() -> (File, OwnedFd) {
    let (mut user, mut program) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: two live integers to fill, and null for everything optional.
    let result = unsafe { libc::openpty(&mut user, &mut program, null, null.cast(), null.cast()) };
    assert_eq!(result, 0);
    // SAFETY: both descriptors are new and owned by nobody else.
    unsafe { (File::from_raw_fd(user), OwnedFd::from_raw_fd(program)) }
}

fn local_flags(fd: &OwnedFd) -> libc::tcflag_t {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to memory of the right type, which the call fills on success.
    let result = unsafe { libc::tcgetattr(fd.as_raw_fd(), settings.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: just filled.
    unsafe { settings.assume_init() }.c_lflag
}

/// Runs `code` at a terminal, types `keys` once it printed "up", expects `status` and the
/// terminal as it was. Returns what the guest printed.
fn at_terminal(code: &[&[u8]], keys: &[u8], status: i32) -> String {
    let up = print("up");
    let code = [&[&up[..]], code].concat();
    let (mut command, _kernel) = guest(&code, true);
    let (mut user, program) = pty();
    let before = local_flags(&program);
    let mut child = command
        .stdin(program.try_clone().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut up = [0; 2];
    stdout.read_exact(&mut up).unwrap();
    assert_eq!(local_flags(&program) & (libc::ICANON | libc::ECHO), 0);
    user.write_all(keys).unwrap();
    assert_eq!(wait(&mut child), status);
    assert_eq!(local_flags(&program), before);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    text
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn the_quit_key_works_on_a_busy_guest() {
    at_terminal(&[LOOP], b"typed ahead \x01x", 0);
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn the_terminal_comes_back_after_a_failure() {
    // Waits for a key first.
    let code = [ECHO, UNDEFINED].concat();
    at_terminal(&[&code], b"q", 4);
}

#[test]
#[ignore = "needs a hypervisor: make test runs it in the nested VM"]
fn keys_reach_the_guest_raw() {
    let text = at_terminal(&[ECHO, POWER_OFF], b"\x03\x04\r\x01\x01\x1aq", 0);
    assert_eq!(text, "\x03\x04\r\x01\x1aq");
}
