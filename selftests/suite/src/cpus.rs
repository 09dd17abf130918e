// SPDX-License-Identifier: GPL-2.0-only
//! The processors that tests may use, and threads on them.

use std::sync::OnceLock;

/// The numbers of the processors that this program was started with, ascending; at least one.
///
/// They need not begin with 0: see `spare_cpu` in `selftests/vm/qemu.sh`.
pub fn usable() -> &'static [usize] {
    static USABLE: OnceLock<Vec<usize>> = OnceLock::new();
    USABLE.get_or_init(|| {
        // SAFETY: a set of CPUs is plain data; its size goes with it.
        let allowed = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            assert!(libc::sched_getaffinity(0, size_of_val(&set), &mut set) == 0);
            set
        };
        // SAFETY: the macro's function checks the number.
        (0..libc::CPU_SETSIZE as usize)
            .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &allowed) })
            .collect()
    })
}

/// Moves thread `tid` (0: this one) to the `nth` of the usable processors, counted round and round, where it stays.
pub fn move_to(tid: i32, nth: usize) {
    let cpus = usable();
    // SAFETY: a local set, empty when zero. A thread that has ended meanwhile is no error.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpus[nth % cpus.len()], &mut set);
        libc::sched_setaffinity(tid, size_of_val(&set), &set);
    }
}
