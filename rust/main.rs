// SPDX-License-Identifier: GPL-2.0-only

//! Vireo
#![crate_name = "vireo"]
use kernel::prelude::*;
mod bindings;
#[allow(dead_code, unreachable_pub, unused_imports)]
mod model;

module! { type: Vireo, name: "vireo", authors: ["The Vireo authors"], description: "A type-2 hypervisor that speaks KVM's ioctl ABI", license: "GPL v2", }
struct Vireo;
impl kernel::Module for Vireo {
    fn init(_m: &'static ThisModule) -> Result<Self> { Ok(Vireo) }
}
