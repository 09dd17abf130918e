// SPDX-License-Identifier: Apache-2.0

//! The user's terminal: raw mode, escape keys, and output that survives slow readers.

pub mod escape;
pub mod output;
pub mod raw;
