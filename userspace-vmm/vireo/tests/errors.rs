// SPDX-License-Identifier: Apache-2.0

//! Each wrong argument gives one clear line and a non-zero exit status.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::thread::sleep;
use std::time::Duration;

use common::{elf, finish, program, run, TempFile};

/// Runs with `args` and expects exit status 1 and one line that contains all of `parts`.
fn fails(args: &[&str], parts: &[&str]) {
    let (status, stdout, stderr) = run(args);
    assert_eq!(status, 1, "{args:?}: {stderr}");
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.starts_with("vireo: ") && stderr.ends_with('\n'),
        "{stderr}"
    );
    for part in parts {
        assert!(stderr.contains(part), "{args:?}: {stderr}");
    }
}

fn kernel() -> TempFile {
    TempFile::new(&elf(&[0xf4], true, 4))
}

#[test]
fn no_such_kernel() {
    fails(
        &["run", "--kernel", "/no/such"],
        &["kernel /no/such", "no such file or directory"],
    );
}

#[test]
fn not_a_kernel() {
    fails(
        &["run", "--kernel", "/etc/passwd"],
        &["/etc/passwd: not a kernel"],
    );
    fails(
        &["run", "--kernel", "/"],
        &["kernel /", "not a regular file"],
    );
    let empty = TempFile::new(b"");
    fails(&["run", "--kernel", empty.path()], &["not a kernel"]);
    let program = TempFile::new(&elf(&[0xf4], true, 4)[..100]);
    fails(&["run", "--kernel", program.path()], &["truncated"]);
}

#[test]
fn this_program_is_not_a_kernel() {
    fails(&["run", "--kernel", &program()], &["kernel", "ELF"]);
}

#[test]
fn no_such_initrd() {
    fails(
        &["run", "--kernel", kernel().path(), "--initrd", "/no/such"],
        &["initrd /no/such"],
    );
}

#[test]
fn too_little_memory() {
    let large = TempFile::new(&elf(&[0xf4], true, 64 << 20));
    fails(
        &["run", "--kernel", large.path(), "--mem", "32M"],
        &[
            "32 MiB of guest memory is too little",
            "needs 65 MiB",
            "--mem",
        ],
    );
    fails(
        &["run", "--kernel", kernel().path(), "--mem", "512K"],
        &["too little"],
    );
}

#[test]
fn too_much_memory() {
    fails(
        &["run", "--kernel", kernel().path(), "--mem", "8000000G"],
        &["cannot allocate", "of guest memory"],
    );
}

#[test]
fn initrd_too_large() {
    let initrd = TempFile::sparse(64 << 20);
    fails(
        &[
            "run",
            "--kernel",
            kernel().path(),
            "--initrd",
            initrd.path(),
            "--mem",
            "32M",
        ],
        &[initrd.path(), "64 MiB", "does not fit", "--mem"],
    );
}

#[test]
fn command_line_too_long() {
    let long = "x".repeat(5000);
    fails(
        &["run", "--kernel", kernel().path(), "--cmdline", &long],
        &["5000 bytes", "at most 2047"],
    );
    fails(
        &[
            "run",
            "--kernel",
            kernel().path(),
            "--cmdline",
            "a\tb\u{7f}",
        ],
        &["printable ASCII"],
    );
}

#[test]
fn no_device() {
    fails(
        &["run", "--kernel", kernel().path(), "--device", "/no/such"],
        &["/no/such: no such device"],
    );
    fails(
        &["run", "--kernel", kernel().path(), "--device", "/dev/null"],
        &["/dev/null: not a device with KVM's interface"],
    );
    fails(
        &["exec", "--device", "/no/such", "--", "true"],
        &["/no/such: no such device"],
    );
    fails(
        &["exec", "--device", "/dev", "--", "true"],
        &["not a device"],
    );
}

#[test]
fn no_permission() {
    // SAFETY: plain system calls that only look at and set this process's identity.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: takes root to become somebody without permission");
        return;
    }
    let kernel = kernel();
    let node = TempFile::new(b"");
    std::fs::remove_file(node.path()).unwrap();
    let name = std::ffi::CString::new(node.path()).unwrap();
    // The numbers of /dev/null, with nobody's permission.
    // SAFETY: the name is NUL-terminated and outlives the call.
    if unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR, libc::makedev(1, 3)) } != 0 {
        eprintln!("skipped: cannot make a device node here");
        return;
    }
    let copy = TempFile::new(&std::fs::read(program()).unwrap());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(copy.path(), mode).unwrap();
    let mut command = std::process::Command::new(copy.path());
    command.args(["run", "--kernel", kernel.path(), "--device", node.path()]);
    command.uid(65534).gid(65534);
    // Another test's child may still hold the copy open for writing, just before its exec.
    let output = loop {
        match command.output() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => {
                sleep(Duration::from_millis(10));
            }
            result => break result.unwrap(),
        }
    };
    let (status, _, stderr) = finish(output);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("permission denied"), "{stderr}");
}

#[test]
fn usage_errors_have_status_2() {
    for args in [
        &["run"][..],
        &["run", "--kernel", "x", "--mem", "lots"],
        &["run", "--kernel", "x", "--bogus"],
        &["exec"],
        &["nothing"],
        &[],
    ] {
        let (status, _, stderr) = run(args);
        assert_eq!(status, 2, "{args:?}: {stderr}");
    }
}

#[test]
fn info_always_says_why() {
    let (status, stdout, _) = run(&["info", "--device", "/no/such"]);
    assert_eq!(status, 1);
    for part in [
        "CPU",
        "kernel",
        "device /no/such",
        "no: /no/such: no such device",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
}
