// SPDX-License-Identifier: GPL-2.0-only
//! Tests and benchmarks for a device node that speaks KVM's ioctl ABI.
//!
//! Guest code is assembled into this program beside the host code that checks it (`guest!`),
//! copied into a virtual machine's memory ([`machine`]) and run through raw ioctls ([`kvm`]).
//! [`harness`] runs every test in a process of its own and prints KTAP.

#[macro_use]
mod macros;

pub mod bench;
pub mod cpus;
pub mod guest;
pub mod harness;
pub mod host;
pub mod kvm;
pub mod load;
pub mod machine;
pub mod tests;
