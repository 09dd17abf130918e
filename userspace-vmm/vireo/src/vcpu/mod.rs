// SPDX-License-Identifier: Apache-2.0

//! One virtual CPU: its initial state, its thread, and what its exits mean.

pub mod cpuid;
pub mod exit;
pub mod kick;
pub mod regs;
pub mod run;
