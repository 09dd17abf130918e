// SPDX-License-Identifier: Apache-2.0

//! The machine's devices and the buses that lead to them.

pub mod acpi_pm;
pub mod bus;
pub mod debug_exit;
pub mod ioapic;
pub mod irq;
pub mod post;
pub mod reset;
pub mod rtc;
pub mod serial;
