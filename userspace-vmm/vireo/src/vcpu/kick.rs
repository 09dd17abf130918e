// SPDX-License-Identifier: Apache-2.0

//! Gets a CPU's thread out of KVM_RUN from another thread.
//!
//! The kick is a signal. Its handler runs on the CPU's thread and sets `immediate_exit` in the
//! page shared with the kernel: a kick that comes just before KVM_RUN makes that call return
//! at once, so none is lost.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::thread::{sleep, JoinHandle};
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

/// Pause between two kicks.
const PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    /// `immediate_exit` of the CPU that this thread runs. `const` and without a destructor, so
    /// that a signal handler may use it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn signal() -> c_int {
    SIGRTMIN()
}

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer was set by `Registration` on this very thread and is cleared
        // before the mapping that it points into can go away.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the signal handler; once per process is enough.
pub fn install() -> io::Result<()> {
    register_signal_handler(signal(), on_signal).map_err(io::Error::from)
}

/// While it lives, kicks of this thread reach one CPU.
pub struct Registration {
    flag: *mut u8,
}

impl Registration {
    /// Directs kicks of the calling thread at `vcpu`, which must stay on this thread and
    /// outlive the registration.
    pub fn new(vcpu: &mut VcpuFd) -> Self {
        let flag = ptr::addr_of_mut!(vcpu.get_kvm_run().immediate_exit);
        IMMEDIATE_EXIT.set(flag);
        Registration { flag }
    }

    /// Forgets a kick that has been seen.
    pub fn clear(&self) {
        // SAFETY: the mapping is alive as `new` requires; only this thread and its own signal
        // handler write the byte.
        unsafe { self.flag.write_volatile(0) };
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// Kicks the CPU of `thread` until the thread has ended. One kick gets it out of KVM_RUN, but
/// it may also be just about to wait for a slow reader of the guest's output.
pub fn until_finished<T>(thread: &JoinHandle<T>) {
    while !thread.is_finished() {
        if let Err(e) = thread.kill(signal()) {
            tracing::debug!("kick: {e}");
        }
        sleep(PAUSE);
    }
}
