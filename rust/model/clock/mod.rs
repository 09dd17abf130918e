// SPDX-License-Identifier: GPL-2.0-only

//! A guest's clocks: the scaling of time-stamp counters, their synchronisation between vCPUs, and the
//! paravirtual clock that is computed from them.

pub mod guest;
pub mod pvclock;
pub mod scale;
pub mod sync;
