// SPDX-License-Identifier: GPL-2.0-only

//! Intel VT-x as data: VMCS fields, control computation and exit decoding (SDM vol. 3, VMX chapters).

pub mod caps;
pub mod cr;
pub mod ctls;
pub mod event;
pub mod exit;
pub mod field;
