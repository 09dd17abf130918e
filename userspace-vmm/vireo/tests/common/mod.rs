// SPDX-License-Identifier: Apache-2.0

//! What the tests of the whole command share: running it, and making kernels for it.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The program under test: VIREO_BIN, for test programs that were copied elsewhere, or cargo's.
pub fn program() -> String {
    std::env::var("VIREO_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_vireo").into())
}

pub fn vireo() -> Command {
    let mut command = Command::new(program());
    command.stdin(Stdio::null());
    command
}

/// Runs with `args`, returns exit status, standard output and standard error.
pub fn run(args: &[&str]) -> (i32, String, String) {
    finish(vireo().args(args).output().unwrap())
}

pub fn finish(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A file that goes away with its owner.
pub struct TempFile(PathBuf);

impl TempFile {
    pub fn new(contents: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vireo-test-{}-{n}", std::process::id()));
        std::fs::write(&path, contents).unwrap();
        TempFile(path)
    }

    /// A file of `len` zero bytes that takes no space.
    pub fn sparse(len: u64) -> Self {
        let file = TempFile::new(b"");
        std::fs::File::options()
            .write(true)
            .open(&file.0)
            .unwrap()
            .set_len(len)
            .unwrap();
        file
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where test kernels are loaded and entered.
pub const LOAD_ADDR: u64 = 0x10_0000;

/// An ELF kernel of these instructions at 1 MiB; with a PVH note it is entered in 32-bit mode,
/// without one in 64-bit mode. `memsz` is its size in memory.
pub fn elf(code: &[u8], pvh: bool, memsz: u64) -> Vec<u8> {
    const CODE: usize = 0x200;
    let mut file = vec![0u8; CODE];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(24, &LOAD_ADDR.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &(1 + u16::from(pvh)).to_le_bytes());
    let mut header = |at: usize, kind: u32, offset: u64, filesz: u64, memsz: u64| {
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &LOAD_ADDR.to_le_bytes());
        put(at + 32, &filesz.to_le_bytes());
        put(at + 40, &memsz.to_le_bytes());
    };
    header(
        64,
        1,
        CODE as u64,
        code.len() as u64,
        memsz.max(code.len() as u64),
    );
    header(120, 4, 0x180, 20, 20);
    put(0x180, &4u32.to_le_bytes());
    put(0x184, &4u32.to_le_bytes());
    put(0x188, &18u32.to_le_bytes());
    put(0x18c, b"Xen\0");
    put(0x190, &(LOAD_ADDR as u32).to_le_bytes());
    file.extend_from_slice(code);
    file
}

/// The hypervisor that guests of these tests run on: VIREO_TEST_DEVICE, or /dev/vireo, or
/// /dev/kvm, whichever can be opened first.
pub fn device() -> Option<String> {
    if let Ok(device) = std::env::var("VIREO_TEST_DEVICE") {
        return Some(device);
    }
    let usable = |d: &&str| {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open(Path::new(d))
            .is_ok()
    };
    ["/dev/vireo", "/dev/kvm"]
        .iter()
        .find(|d| usable(d))
        .map(|d| d.to_string())
}
