// SPDX-License-Identifier: GPL-2.0-only
//! The tests, a file for each group or part of a group.

use crate::harness::Test;

mod entry;

/// All tests, in the order in which they run.
pub fn all() -> Vec<&'static Test> {
    [entry::TESTS].into_iter().flatten().collect()
}
