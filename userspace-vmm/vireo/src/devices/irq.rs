// SPDX-License-Identifier: Apache-2.0

//! Interrupt lines into the in-kernel interrupt controllers.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_superio::Trigger;

/// An edge-triggered line: each trigger raises and lowers it.
#[derive(Clone, Debug)]
pub struct EdgeLine {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl EdgeLine {
    /// The line of global system interrupt `gsi`.
    pub fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        EdgeLine { vm, gsi }
    }
}

impl Trigger for EdgeLine {
    type E = kvm_ioctls::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.vm.set_irq_line(self.gsi, true)?;
        self.vm.set_irq_line(self.gsi, false)
    }
}
