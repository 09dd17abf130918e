// SPDX-License-Identifier: Apache-2.0

//! A small virtual machine monitor for hypervisors with KVM's interface, /dev/vireo first.
//!
//! [`machine::run`] is the main path: it loads a kernel ([`boot`]) into guest memory
//! ([`memory`]), builds the devices ([`devices`]), runs each virtual CPU on a thread ([`vcpu`])
//! and serves the terminal and signals on the main thread ([`events`]).

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("this program is for Linux on x86-64");

pub mod boot;
pub mod cli;
pub mod devices;
pub mod error;
pub mod events;
pub mod exec;
pub mod hypervisor;
pub mod info;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod terminal;
pub mod vcpu;
