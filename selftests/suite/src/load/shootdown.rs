// SPDX-License-Identifier: GPL-2.0-only
//! A page that is replaced by another while threads on every CPU read it: when the call returns, no CPU
//! may see the old one.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::{join_all, last_error, pin, Result};
use crate::host::Mapping;
use crate::kvm::PAGE;

/// How many pages follow each other.
const PAGES: u64 = 100;

/// A file of [`PAGES`] pages, each of which begins with its number.
fn file() -> Result<File> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"pages".as_ptr(), 0) };
    if fd < 0 {
        return Err(last_error("memfd_create"));
    }
    // SAFETY: a new descriptor that nothing else owns.
    let mut file = unsafe { File::from_raw_fd(fd) };
    for number in 0..PAGES {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(&number.to_ne_bytes());
        file.write_all(&page)
            .map_err(|e| format!("writing pages: {e}"))?;
    }
    Ok(file)
}

/// Replaces the page at `addr` by page `number` of `file`.
fn replace(addr: u64, file: &File, number: u64) -> Result {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let offset = (number as usize * PAGE) as libc::off_t;
    // SAFETY: the address is that of a mapping of ours, of one page.
    let new = unsafe {
        libc::mmap(
            addr as *mut _,
            PAGE,
            libc::PROT_READ,
            flags,
            file.as_raw_fd(),
            offset,
        )
    };
    if new == libc::MAP_FAILED {
        return Err(last_error("replacing a page"));
    }
    Ok(())
}

/// Replaces the page again and again; readers on all of `cpus` see each.
pub fn run(cpus: &[usize]) -> Result {
    let file = file()?;
    let page = Mapping::of_file(file.as_raw_fd(), PAGE);
    let (page, file) = (&page, &file);
    // What has been put in place, what each reader has seen, and whether one has failed.
    let placed = &AtomicU64::new(0);
    let seen: &Vec<_> = &cpus.iter().map(|_| AtomicU64::new(0)).collect();
    let failed = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (&cpu, seen) in cpus.iter().zip(seen) {
            threads.push(scope.spawn(move || {
                let result = pin(cpu).and_then(|()| loop {
                    let least = placed.load(SeqCst);
                    let found = page.get(0);
                    if found < least {
                        break Err(format!(
                            "CPU {cpu} still sees page {found} where {least} is"
                        ));
                    }
                    if seen.swap(found, SeqCst) == found {
                        std::thread::yield_now();
                    }
                    if found == PAGES - 1 || failed.load(SeqCst) {
                        break Ok(());
                    }
                });
                if result.is_err() {
                    failed.store(true, SeqCst);
                }
                result
            }));
        }
        for number in 1..PAGES {
            if let Err(reason) = replace(page.addr(), file, number) {
                failed.store(true, SeqCst);
                return Err(reason);
            }
            placed.store(number, SeqCst);
            // Each has it in its TLB before the next comes.
            while seen.iter().any(|seen| seen.load(SeqCst) < number) && !failed.load(SeqCst) {
                std::thread::yield_now();
            }
        }
        join_all(threads)
    })
}
