// SPDX-License-Identifier: GPL-2.0-only

//! Control and debug registers: the manual's rules, and properties over arbitrary states.

use proptest::prelude::*;
use vireo_model::model::cpuid::{Caps, CpuidEntry, Guest, HostCpuid, Provides, Regs};
use vireo_model::model::errno::Errno;
use vireo_model::model::sregs::{
    check_access, check_control, clts, dr6_after, dr6_written, dr7_written, lmsw, pdptes_valid,
    rflags, write_cr0, write_cr3, write_cr4, write_cr8, Control, DebugReg, DebugRegs, Flush,
};
use vireo_model::model::x86::{cr0, cr4, dr6, dr7, efer, Exception};

/// A processor with every feature and 40 address bits.
struct All;

impl HostCpuid for All {
    fn cpuid(&self, function: u32, index: u32) -> Regs {
        let all = Regs {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        };
        match (function, index) {
            (0, _) => Regs {
                eax: 0x1f,
                ..Regs::default()
            },
            (0x8000_0000, _) => Regs {
                eax: 0x8000_0008,
                ..Regs::default()
            },
            (0x8000_0008, _) => Regs {
                eax: 0x3028,
                ..Regs::default()
            },
            (0xd, 2) => Regs {
                eax: 256,
                ebx: 576,
                ecx: 0,
                edx: 0,
            },
            (0xd, 9) => Regs {
                eax: 8,
                ebx: 2688,
                ecx: 0,
                edx: 0,
            },
            (0xd, n) if n > 1 => Regs::default(),
            (4, _) => Regs::default(),
            _ => all,
        }
    }
}

fn full() -> (Caps, Guest) {
    let provides = Provides {
        xcr0: 0x207,
        la57: true,
        invpcid: true,
        rdtscp: true,
        guest_phys_bits: 48,
        ..Provides::default()
    };
    let caps = Caps::new(&All, &provides);
    let mut entries = [CpuidEntry::default(); 256];
    let len = vireo_model::model::cpuid::supported(&All, &caps, &mut entries).unwrap();
    let guest = Guest::new(&entries[..len], &caps).unwrap();
    (caps, guest)
}

fn guest() -> Guest {
    full().1
}

const GP: Exception = Exception::gp(0);

const REAL: Control = Control {
    cr0: 0x6000_0010,
    cr3: 0,
    cr4: 0,
    efer: 0,
    cs_l: false,
};

const LONG: Control = Control {
    cr0: cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE,
    cr3: 0x1000,
    cr4: cr4::PAE | cr4::PGE,
    efer: efer::LME | efer::LMA | efer::NXE | efer::SCE,
    cs_l: true,
};

const PAE: Control = Control {
    efer: 0,
    cs_l: false,
    ..LONG
};

#[test]
fn cr0_values() {
    for (value, good) in [
        (cr0::ET, true),
        (cr0::PE, true),
        (cr0::PG, false),
        (cr0::NW, false),
        (cr0::NW | cr0::CD, true),
        (1 << 32, false),
        (1 << 63, false),
        (1 << 10, true),
    ] {
        assert_eq!(write_cr0(&REAL, value).is_ok(), good, "{value:#x}");
    }
    assert_eq!(
        write_cr0(&REAL, 1 << 10).unwrap().value,
        cr0::ET,
        "reserved bits are ignored"
    );
}

#[test]
fn entering_and_leaving_long_mode() {
    let paged = cr0::PE | cr0::PG | cr0::ET;
    let ready = Control {
        cr0: cr0::PE,
        cr4: cr4::PAE,
        efer: efer::LME,
        ..REAL
    };
    let w = write_cr0(&ready, paged).unwrap();
    assert_eq!(w.efer, Some(efer::LME | efer::LMA));
    assert!(w.paging_changed && !w.load_pdptes);
    assert_eq!(
        write_cr0(&Control { cr4: 0, ..ready }, paged),
        Err(GP),
        "needs PAE"
    );
    assert_eq!(
        write_cr0(
            &Control {
                cs_l: true,
                ..ready
            },
            paged
        ),
        Err(GP),
        "CS.L was set before"
    );

    assert_eq!(write_cr0(&LONG, cr0::PE), Err(GP), "from 64-bit mode");
    let compat = Control {
        cs_l: false,
        ..LONG
    };
    let w = write_cr0(&compat, cr0::PE).unwrap();
    assert_eq!(w.efer, Some(LONG.efer & !efer::LMA));
    assert_eq!(w.flush, Flush::All);
    let pcid = Control {
        cr4: LONG.cr4 | cr4::PCIDE,
        ..compat
    };
    assert_eq!(write_cr0(&pcid, cr0::PE), Err(GP), "PCIDE is set");
}

#[test]
fn pae_paging_loads_its_entries() {
    let off = Control {
        cr0: cr0::PE | cr0::ET,
        ..PAE
    };
    assert!(write_cr0(&off, PAE.cr0).unwrap().load_pdptes);
    assert!(write_cr0(&PAE, PAE.cr0 | cr0::CD).unwrap().load_pdptes);
    assert!(!write_cr0(&PAE, PAE.cr0 | cr0::TS).unwrap().load_pdptes);
    assert!(!write_cr0(&LONG, LONG.cr0 | cr0::CD).unwrap().load_pdptes);
    assert!(write_cr3(&PAE, 0x2000, &guest()).unwrap().load_pdptes);
    assert!(!write_cr3(&LONG, 0x2000, &guest()).unwrap().load_pdptes);
    assert!(
        write_cr4(&PAE, PAE.cr4 ^ cr4::PGE, &guest())
            .unwrap()
            .load_pdptes
    );
    assert!(
        !write_cr4(&PAE, PAE.cr4 | cr4::OSFXSR, &guest())
            .unwrap()
            .load_pdptes
    );
    assert!(pdptes_valid(&[0x1001, 0x2019, 0x1e6, 0], &guest()));
    assert!(!pdptes_valid(&[0x1003, 0, 0, 0], &guest()));
    assert!(!pdptes_valid(&[0, 0, 0, 1 << 40 | 1], &guest()));
}

#[test]
fn toggling_wp_costs_nothing_but_the_walker() {
    let w = write_cr0(&LONG, LONG.cr0 & !cr0::WP).unwrap();
    assert_eq!(
        (w.flush, w.efer, w.load_pdptes, w.paging_changed),
        (Flush::None, None, false, true)
    );
    let w = write_cr0(&LONG, LONG.cr0 | cr0::TS).unwrap();
    assert!(!w.paging_changed);
}

#[test]
fn machine_status_word() {
    let w = lmsw(&REAL, cr0::PE | cr0::TS | 0xfff0).unwrap();
    assert_eq!(w.value, REAL.cr0 | cr0::PE | cr0::TS);
    let protected = Control {
        cr0: cr0::PE | cr0::ET | cr0::MP,
        ..REAL
    };
    assert_eq!(
        lmsw(&protected, 0).unwrap().value,
        cr0::PE | cr0::ET,
        "PE stays"
    );
    assert_eq!(
        clts(&Control {
            cr0: cr0::TS | cr0::PE,
            ..REAL
        }),
        cr0::PE
    );
}

#[test]
fn cr3_values() {
    let g = guest();
    assert_eq!(
        write_cr3(&LONG, 0x5000, &g).unwrap().flush,
        Flush::CurrentPcid
    );
    assert_eq!(write_cr3(&LONG, 1 << 40, &g), Err(GP));
    assert_eq!(write_cr3(&LONG, 1 << 63, &g), Err(GP), "only with PCIDE");
    let pcid = Control {
        cr4: LONG.cr4 | cr4::PCIDE,
        ..LONG
    };
    let w = write_cr3(&pcid, 1 << 63 | 0x5003, &g).unwrap();
    assert_eq!((w.value, w.flush), (0x5003, Flush::None));
    assert_eq!(write_cr3(&pcid, 1 << 62, &g), Err(GP), "no LAM");
}

#[test]
fn cr4_values() {
    let g = guest();
    for bad in [
        1 << 15,
        1 << 31,
        1 << 63,
        cr4::VMXE,
        cr4::SMXE,
        cr4::PKS,
        cr4::UINTR,
        cr4::CET,
    ] {
        assert_eq!(write_cr4(&LONG, LONG.cr4 | bad, &g), Err(GP), "{bad:#x}");
    }
    assert_eq!(
        write_cr4(&LONG, LONG.cr4 & !cr4::PAE, &g),
        Err(GP),
        "in long mode"
    );
    assert_eq!(
        write_cr4(&LONG, LONG.cr4 | cr4::LA57, &g),
        Err(GP),
        "in long mode"
    );
    assert!(write_cr4(&REAL, cr4::LA57 | cr4::PAE, &g).is_ok());
    assert!(write_cr4(&LONG, LONG.cr4 | cr4::PCIDE, &g).is_ok());
    let used = Control {
        cr3: 0x1001,
        ..LONG
    };
    assert_eq!(
        write_cr4(&used, LONG.cr4 | cr4::PCIDE, &g),
        Err(GP),
        "CR3 has a PCID"
    );
    assert_eq!(
        write_cr4(&PAE, PAE.cr4 | cr4::PCIDE, &g),
        Err(GP),
        "not in long mode"
    );
    let bare = Guest::new(&[], &full().0).unwrap();
    for bit in [
        cr4::OSXSAVE,
        cr4::SMEP,
        cr4::SMAP,
        cr4::PCIDE,
        cr4::FSGSBASE,
        cr4::UMIP,
        cr4::PKE,
    ] {
        assert_eq!(
            write_cr4(&LONG, LONG.cr4 | bit, &bare),
            Err(GP),
            "{bit:#x} without its feature"
        );
    }
}

#[test]
fn cr4_flushes() {
    let g = guest();
    let flush = |from: u64, to: u64| {
        let state = Control {
            cr4: LONG.cr4 | from,
            ..LONG
        };
        write_cr4(&state, LONG.cr4 & !cr4::PGE | to, &g)
            .unwrap()
            .flush
    };
    assert_eq!(flush(0, 0), Flush::All, "PGE cleared");
    assert_eq!(flush(0, cr4::PGE), Flush::None);
    assert_eq!(flush(0, cr4::PGE | cr4::PCIDE), Flush::None);
    assert_eq!(flush(cr4::PCIDE, cr4::PGE), Flush::All);
    assert_eq!(flush(0, cr4::PGE | cr4::SMEP), Flush::CurrentPcid);
    assert_eq!(flush(cr4::SMEP, cr4::PGE), Flush::None);
    let w = write_cr4(&PAE, PAE.cr4 & !cr4::PAE, &g).unwrap();
    assert_eq!(w.flush, Flush::CurrentPcid);
    let w = write_cr4(&LONG, LONG.cr4 | cr4::OSXSAVE, &g).unwrap();
    assert!(w.cpuid_changed && !w.paging_changed);
}

#[test]
fn cr8_values() {
    assert_eq!(write_cr8(15), Ok(15));
    assert_eq!(write_cr8(16), Err(GP));
    assert_eq!(write_cr8(1 << 63), Err(GP));
}

#[test]
fn states_from_userspace() {
    let (caps, g) = full();
    let check = |state: Control| check_control(&state, &g, &caps);
    for good in [
        REAL,
        LONG,
        PAE,
        Control {
            cs_l: false,
            ..LONG
        },
    ] {
        assert_eq!(check(good), Ok(()), "{good:x?}");
    }
    for bad in [
        Control { cr4: 0, ..LONG },
        Control {
            efer: efer::LME,
            ..LONG
        },
        Control {
            efer: efer::LMA,
            ..LONG
        },
        Control {
            cr3: 1 << 40,
            ..LONG
        },
        Control { efer: 0, ..LONG },
        Control { cs_l: true, ..REAL },
        Control {
            efer: efer::LMA,
            ..REAL
        },
        Control {
            cr0: cr0::PG,
            ..REAL
        },
        Control {
            cr0: cr0::NW,
            ..REAL
        },
        Control {
            cr0: 1 << 32,
            ..REAL
        },
        Control {
            cr4: cr4::VMXE,
            ..REAL
        },
        Control {
            cr4: 1 << 31,
            ..REAL
        },
        Control {
            efer: efer::SVME,
            ..REAL
        },
        Control {
            efer: 1 << 1,
            ..REAL
        },
    ] {
        assert_eq!(check(bad), Err(Errno::Invalid), "{bad:x?}");
    }
    let bare = Guest::new(&[], &caps).unwrap();
    assert_eq!(
        check_control(&LONG, &bare, &caps),
        Err(Errno::Invalid),
        "no long mode in CPUID"
    );
    assert_eq!(check_control(&REAL, &bare, &caps), Ok(()));
    assert_eq!(rflags(0), 2);
    assert_eq!(rflags(u64::MAX), 0x3f7fd7);
}

#[test]
fn debug_register_access() {
    assert_eq!(check_access(2, 0, 0x400, 0), Ok(DebugReg::Address(2)));
    assert_eq!(check_access(4, 0, 0x400, 0), Ok(DebugReg::Status));
    assert_eq!(check_access(5, 0, 0x400, 0), Ok(DebugReg::Control));
    assert_eq!(check_access(4, cr4::DE, 0x400, 0), Err(Exception::ud()));
    assert_eq!(check_access(5, cr4::DE, dr7::GD, 3), Err(Exception::ud()));
    assert_eq!(check_access(7, cr4::DE, 0x400, 0), Ok(DebugReg::Control));
    assert_eq!(check_access(7, 0, dr7::GD, 3), Err(GP));
    assert_eq!(check_access(0, 0, dr7::GD, 0), Err(Exception::db(dr6::BD)));
}

#[test]
fn debug_register_values() {
    let g = Guest::new(&[], &full().0).unwrap();
    assert_eq!(dr6_written(0, &g), Ok(dr6::INIT));
    assert_eq!(dr6_written(0xffff_ffff, &g), Ok(0xffff_efff));
    assert_eq!(dr6_written(1 << 32, &g), Err(GP));
    assert_eq!(
        dr6_written(0, &guest()).unwrap() & dr6::RTM,
        0,
        "RTM exists there"
    );
    assert_eq!(dr7_written(0), Ok(0x400));
    assert_eq!(dr7_written(0xffff_ffff), Ok(0xffff_2fff));
    assert_eq!(dr7_written(1 << 32), Err(GP));
    assert_eq!(dr6_after(dr6::INIT, dr6::BS), dr6::INIT | dr6::BS);
    assert_eq!(
        dr6_after(dr6::INIT | 3, 4),
        dr6::INIT | 4,
        "B0 to B3 are replaced"
    );
    assert_eq!(
        dr6_after(dr6::INIT | dr6::BS, 1 | 1 << 12),
        dr6::INIT | dr6::BS | 1
    );
    assert_eq!(
        dr6_after(dr6::INIT, dr6::RTM),
        dr6::INIT & !dr6::RTM,
        "shown by a 0"
    );
    let regs = DebugRegs::RESET;
    assert_eq!(regs.check(0), Ok(()));
    assert_eq!(regs.check(1), Err(Errno::Invalid));
    assert_eq!(
        DebugRegs {
            dr6: 1 << 32,
            ..regs
        }
        .check(0),
        Err(Errno::Invalid)
    );
    assert_eq!(
        DebugRegs {
            dr7: 1 << 63,
            ..regs
        }
        .check(0),
        Err(Errno::Invalid)
    );
    assert!(!regs.has_breakpoints());
    assert!(DebugRegs { dr7: 0x402, ..regs }.has_breakpoints());
}

fn state() -> impl Strategy<Value = Control> {
    (any::<[u64; 4]>(), any::<bool>()).prop_map(|(v, cs_l)| Control {
        cr0: v[0] & cr0::ALL | cr0::ET,
        cr3: v[1] & 0xff_ffff_ffff,
        cr4: v[2] & 0x7f_ffff,
        efer: v[3] & 0xd01,
        cs_l,
    })
}

/// A write that is one bit away from the old value, or any.
fn written(old: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u32..64).prop_map(move |bit| old ^ 1 << bit),
        any::<u64>(),
        any::<u32>().prop_map(u64::from)
    ]
}

proptest! {
    /// From a valid state, every write that is accepted leads to a valid state.
    #[test]
    fn accepted_writes_keep_the_state_valid(
        start in state(),
        (a, b, c) in (any::<u64>(), any::<u64>(), any::<u64>()),
        bit in 0u32..64,
    ) {
        let (caps, g) = full();
        // Most random states are invalid; mend this one.
        let mut s = start;
        s.cr4 &= !g.cr4_reserved();
        s.cr0 |= cr0::PE | cr0::CD;
        let long = s.cr0 & cr0::PG != 0 && s.efer & efer::LME != 0;
        s.efer = s.efer & !efer::LMA | if long { efer::LMA } else { 0 };
        if long {
            s.cr4 |= cr4::PAE;
        } else {
            s.cs_l = false;
            s.cr4 &= !cr4::PCIDE;
        }
        prop_assert_eq!(check_control(&s, &g, &caps), Ok(()));
        for value in [a, a & 0xffff_ffff, s.cr0 ^ 1 << bit, s.cr0 ^ cr0::PG] {
            if let Ok(w) = write_cr0(&s, value) {
                let next = Control { cr0: w.value, efer: w.efer.unwrap_or(s.efer), ..s };
                prop_assert_eq!(check_control(&next, &g, &caps), Ok(()));
                prop_assert!(!w.load_pdptes || next.has_pdptes());
            }
        }
        for value in [b, b & 0xff_ffff_ffff, s.cr3 ^ 1 << bit] {
            if let Ok(w) = write_cr3(&s, value, &g) {
                prop_assert_eq!(check_control(&Control { cr3: w.value, ..s }, &g, &caps), Ok(()));
            }
        }
        for value in [c, c & !g.cr4_reserved(), s.cr4 ^ 1 << bit] {
            if let Ok(w) = write_cr4(&s, value, &g) {
                let next = Control { cr4: w.value, ..s };
                prop_assert_eq!(check_control(&next, &g, &caps), Ok(()));
                prop_assert!(!w.load_pdptes || next.has_pdptes());
            }
        }
    }

    #[test]
    fn arbitrary_states_never_panic(v: [u64; 5], cs_l: bool, n: u8, old in written(dr6::INIT)) {
        let (caps, g) = full();
        let s = Control { cr0: v[0], cr3: v[1], cr4: v[2], efer: v[3], cs_l };
        let _ = (write_cr0(&s, v[4]), write_cr3(&s, v[4], &g), write_cr4(&s, v[4], &g));
        let _ = (lmsw(&s, v[4]), clts(&s), write_cr8(v[4]), check_control(&s, &g, &caps));
        let _ = (check_access(n, v[0], v[1], n >> 6), dr6_written(v[0], &g), dr7_written(v[1]));
        let after = dr6_after(old & 0xffff_ffff, v[0]);
        prop_assert_eq!(after & dr6::INIT & !(dr6::RTM | dr6::BLD), dr6::INIT & !(dr6::RTM | dr6::BLD));
        let _ = pdptes_valid(&[v[0], v[1], v[2], v[3]], &g);
    }
}
