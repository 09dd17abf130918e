// SPDX-License-Identifier: GPL-2.0-only
//! Guest code and the guest's memory map.
//!
//! `guest!` assembles a piece of position-independent guest code into this program. Guest code
//! reports to the host by writing to a port: [`PORT_DONE`] ends a test, [`PORT_SYNC`] is a
//! checkpoint, [`PORT_EXC`] says that an exception came that no one expected.

pub mod layout;
pub mod stubs;

pub use layout::*;
