// SPDX-License-Identifier: GPL-2.0-only

//! `rust/model` as a host crate: unit tests, doc tests and property tests at native speed.

#[path = "../../../rust/model/mod.rs"]
pub mod model;
