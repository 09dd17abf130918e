// SPDX-License-Identifier: GPL-2.0-only
//! The tests, a file for each group or part of a group.

use crate::harness::Test;

mod entry;
mod exit_io;
mod exit_mmio;

/// All tests, in the order in which they run.
pub fn all() -> Vec<&'static Test> {
    [entry::TESTS, exit_io::TESTS, exit_mmio::TESTS].into_iter().flatten().collect()
}
