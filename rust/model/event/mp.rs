// SPDX-License-Identifier: GPL-2.0-only

//! The multiprocessing state of a vCPU (`KVM_GET_MP_STATE`).

use crate::model::errno::Errno;

/// Whether a vCPU runs, and what it waits for if it doesn't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum MpState {
    /// Runs.
    #[default]
    Runnable = 0,
    /// An application processor that has not received INIT.
    Uninitialized = 1,
    /// Has received INIT and waits for a start-up IPI.
    InitReceived = 2,
    /// Has executed HLT and waits for an interrupt.
    Halted = 3,
    /// Has received a start-up IPI. Only userspace names this state; it is stored as
    /// [`InitReceived`](Self::InitReceived) with the IPI pending.
    SipiReceived = 4,
    /// Waits for INIT and a start-up IPI on behalf of encrypted guests.
    ApResetHold = 9,
}

impl MpState {
    /// Checks the number that `KVM_SET_MP_STATE` brings. Without a local APIC in the kernel, userspace
    /// keeps all states but one to itself.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] for a number that is not a state of this architecture, or is userspace's own.
    pub const fn from_raw(raw: u32, lapic_in_kernel: bool) -> Result<Self, Errno> {
        let state = match raw {
            0 => return Ok(Self::Runnable),
            1 => Self::Uninitialized,
            2 => Self::InitReceived,
            3 => Self::Halted,
            4 => Self::SipiReceived,
            9 => Self::ApResetHold,
            _ => return Err(Errno::Invalid),
        };
        if lapic_in_kernel {
            Ok(state)
        } else {
            Err(Errno::Invalid)
        }
    }

    /// Returns the number.
    pub const fn raw(self) -> u32 {
        self as u32
    }
}
