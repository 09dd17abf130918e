// SPDX-License-Identifier: GPL-2.0-only
//! The host merges the guest's pages with others and swaps them out, behind the guest's back.

use std::time::Duration;

use super::mem_host::{checker, fill, AT, P, PAGES};
use crate::harness::{env, skip, TestResult};
use crate::host::Mapping;
use crate::kvm::PAGE;

tests!(mem_ksm, mem_swap,);

fn write_file(path: &str, text: &str) -> bool {
    std::fs::write(path, text).is_ok()
}

/// Pages merged by KSM are separated again when the guest writes.
fn mem_ksm() -> TestResult {
    const KSM: &str = "/sys/kernel/mm/ksm/";
    if !write_file(&format!("{KSM}pages_to_scan"), "10000") {
        return skip("no KSM in this kernel, or no permission");
    }
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let other = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 1, true)?;
    fill(&other, PAGES, 0);
    check!(mem.advise(0, mem.size(), libc::MADV_MERGEABLE));
    check!(other.advise(0, other.size(), libc::MADV_MERGEABLE));
    write_file(&format!("{KSM}sleep_millisecs"), "1");
    write_file(&format!("{KSM}run"), "1");
    for round in 0..4 {
        // Let it merge, then let the guest write.
        std::thread::sleep(Duration::from_millis(50));
        for page in 0..PAGES {
            check_eq!(mem.get(page * P), AT + page * P + round, "page {page} before round {round}");
        }
        m.run_sync()?;
        fill(&other, PAGES, round + 1);
    }
    write_file(&format!("{KSM}run"), "2");
    for page in 0..PAGES {
        check_eq!(other.get(page * P), AT + page * P + 4, "the host's page {page}");
    }
    m.run_sync()?;
    Ok(())
}

/// The header that makes `/dev/ram0` swap space; `false` when there is no such device.
fn make_swap(path: &str, bytes: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) else {
        return false;
    };
    let mut header = vec![0u8; PAGE];
    header[1024..1028].copy_from_slice(&1u32.to_le_bytes());
    header[1028..1032].copy_from_slice(&((bytes / P - 1) as u32).to_le_bytes());
    header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    file.write_all_at(&header, 0).is_ok() && file.sync_all().is_ok()
}

/// Pages that were swapped out come back when the guest touches them, with their contents.
fn mem_swap() -> TestResult {
    const DEVICE: &str = "/dev/ram0";
    if !make_swap(DEVICE, 4 << 20) {
        return skip("no /dev/ram0 for swap space");
    }
    let path = std::ffi::CString::new(DEVICE).unwrap_or_default();
    // SAFETY: a C string; swapoff below undoes it.
    if unsafe { libc::swapon(path.as_ptr(), 0) } != 0 {
        return skip("swapon failed: no swap in this kernel, or no permission");
    }
    let result = swap_rounds();
    // SAFETY: as above.
    let off = unsafe { libc::swapoff(path.as_ptr()) };
    result?;
    check_eq!(off, 0, "swapoff while a guest uses the pages");
    Ok(())
}

fn swap_rounds() -> TestResult {
    let mem = Mapping::anonymous((PAGES * P) as usize);
    let mut m = checker(&mem, 1, true)?;
    let mut swapped = 0;
    for _ in 0..env().rounds(10) {
        m.run_sync()?;
        check!(mem.advise(0, mem.size(), libc::MADV_PAGEOUT));
        let mut resident = vec![0u8; PAGES as usize];
        // SAFETY: one byte for each page of the mapping.
        unsafe { libc::mincore(mem.addr() as *mut _, mem.size(), resident.as_mut_ptr()) };
        swapped += resident.iter().filter(|&&page| page & 1 == 0).count();
    }
    m.run_sync()?;
    if swapped == 0 {
        return skip("the kernel swapped nothing out");
    }
    Ok(())
}
