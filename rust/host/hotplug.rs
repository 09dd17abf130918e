// SPDX-License-Identifier: GPL-2.0-only

//! Hardware virtualisation on every CPU, through hotplug, suspend and reboot.
//!
//! The core kernel owns VMXON and EFER.SVME with a reference count for each CPU, so KVM can hold its own
//! reference beside ours.

use kernel::{
    bindings,
    ffi,
    prelude::*,
    sync::SetOnce, //
};

use super::cpu::IrqOff;
use crate::{
    backend::Extension,
    bindings as b, //
};

/// What is switched on.
static EXTENSION: SetOnce<Extension> = SetOnce::new();

/// Virtualisation is on, on every CPU that is online or comes online.
///
/// # Invariants
///
/// `state` is the hotplug state that holds the references; the suspend hooks are registered.
pub(crate) struct VirtualizationOn {
    state: bindings::cpuhp_state,
}

impl VirtualizationOn {
    /// Takes a reference on every CPU.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` when the CPU or its firmware does not allow it, `EBUSY` when something else holds it.
    pub(crate) fn new(extension: Extension) -> Result<Self> {
        EXTENSION.populate(extension);
        // SAFETY: The callbacks live as long as the module, and `drop` removes them.
        let state = unsafe {
            bindings::__cpuhp_setup_state(
                bindings::cpuhp_state_CPUHP_AP_ONLINE_DYN,
                c"vireo:online".as_char_ptr(),
                true,
                Some(online),
                Some(offline),
                false,
            )
        };
        if state < 0 {
            return Err(Error::from_errno(state));
        }
        // SAFETY: As above.
        unsafe { b::vireo_register_syscore(Some(resume), Some(suspend)) };
        // INVARIANT: Both have been registered.
        Ok(Self {
            state: state as bindings::cpuhp_state,
        })
    }
}

impl Drop for VirtualizationOn {
    fn drop(&mut self) {
        // SAFETY: By the invariant the hooks are registered; the teardown callback gives each CPU's
        // reference back.
        unsafe {
            b::vireo_unregister_syscore();
            bindings::__cpuhp_remove_state(self.state, true);
        }
    }
}

fn is_svm() -> bool {
    EXTENSION.as_ref().is_some_and(|extension| extension.svm)
}

unsafe extern "C" fn online(cpu: ffi::c_uint) -> ffi::c_int {
    // SAFETY: Runs on `cpu`, in its hotplug thread.
    let err = unsafe { b::vireo_virt_get_ref(is_svm()) };
    if err != 0 {
        pr_err!("CPU {cpu}: cannot enable virtualisation (error {err})\n");
    }
    err
}

unsafe extern "C" fn offline(_cpu: ffi::c_uint) -> ffi::c_int {
    suspend();
    0
}

extern "C" fn suspend() {
    let irq = IrqOff::new();
    if let Some(extension) = EXTENSION.as_ref() {
        (extension.release)(&irq);
    }
    // SAFETY: Paired with the reference that `online` or `resume` took on this CPU.
    unsafe { b::vireo_virt_put_ref(is_svm()) };
}

extern "C" fn resume() {
    // SAFETY: Runs on the boot CPU with interrupts off; `suspend` gave the reference up.
    let err = unsafe { b::vireo_virt_get_ref(is_svm()) };
    if err != 0 {
        pr_err!("cannot enable virtualisation after resume (error {err})\n");
    }
}
