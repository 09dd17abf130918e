// SPDX-License-Identifier: GPL-2.0-only

//! Generated bindings: the shim, the kernel functions that `kernel::bindings` lacks, and KVM's user API.

#![allow(
    clippy::all,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    improper_ctypes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unnecessary_transmutes
)]

use kernel::bindings::*;
use kernel::ffi;

include!(concat!(env!("VIREO_OBJ"), "/rust/bindings_generated.rs"));

/// The structs and constants of `<linux/kvm.h>`.
pub(crate) mod uapi {
    use kernel::ffi;

    include!(concat!(env!("VIREO_OBJ"), "/rust/uapi_generated.rs"));
}
