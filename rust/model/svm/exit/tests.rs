// SPDX-License-Identifier: GPL-2.0-only

use super::*;
use crate::model::emul::{self, Mode};
use crate::model::x86::pf;

#[derive(Clone, Copy, Default)]
struct Info {
    info1: u64,
    info2: u64,
    int: u64,
    nrip: u64,
    dr6: u64,
}

impl ExitInfo for Info {
    fn exitinfo1(&self) -> u64 {
        self.info1
    }

    fn exitinfo2(&self) -> u64 {
        self.info2
    }

    fn exitintinfo(&self) -> u64 {
        self.int
    }

    fn nrip(&self) -> u64 {
        self.nrip
    }

    fn dr6(&self) -> u64 {
        self.dr6
    }
}

const PLAIN: Features = Features {
    asids: 16,
    npt_2m: true,
    npt_1g: false,
    nrips: false,
    decode_assists: false,
    flush_by_asid: false,
    vmcb_clean: false,
    tsc_scaling: false,
    pause_filter: false,
    pause_filter_threshold: false,
    vgif: false,
    virtual_vmload: false,
    virtual_nmi: false,
    virtual_spec_ctrl: false,
    avic: false,
    x2avic: false,
    lbr_virtualization: false,
};

const FULL: Features = Features {
    nrips: true,
    decode_assists: true,
    ..PLAIN
};

fn info1(info1: u64) -> Info {
    Info {
        info1,
        ..Info::default()
    }
}

fn exit(code: u64, info: Info) -> Exit {
    match decode(code, &FULL, &info) {
        Decoded::Exit(exit) => {
            if let Decoded::Exit(same) = decode(code, &PLAIN, &info) {
                assert_eq!(exit, same);
            }
            exit
        }
        other => panic!("{code:#x}: {other:?}"),
    }
}

fn needs(code: u64, info: Info) -> NeedsInstruction {
    match decode(code, &PLAIN, &info) {
        Decoded::NeedsInstruction(needs) => needs,
        other => panic!("{code:#x}: {other:?}"),
    }
}

/// Appendix C.
#[test]
fn codes_without_information() {
    for (code, expected) in [
        (0x60, Exit::ExternalInterrupt),
        (0x61, Exit::Nmi),
        (0x62, Exit::Smi),
        (0x63, Exit::Init),
        (0x64, Exit::InterruptWindow),
        (0x66, Exit::DescriptorTable),
        (0x69, Exit::DescriptorTable),
        (0x6a, Exit::DescriptorTable),
        (0x6d, Exit::DescriptorTable),
        (0x6e, Exit::Rdtsc),
        (0x6f, Exit::Rdpmc),
        (0x72, Exit::Cpuid),
        (0x73, Exit::Virtualization),
        (0x76, Exit::Invd),
        (0x77, Exit::Pause),
        (0x78, Exit::Hlt),
        (0x7a, Exit::Virtualization),
        (0x7f, Exit::TripleFault),
        (0x80, Exit::Virtualization),
        (0x81, Exit::Hypercall),
        (0x82, Exit::Virtualization),
        (0x83, Exit::Virtualization),
        (0x84, Exit::Virtualization),
        (0x85, Exit::Virtualization),
        (0x86, Exit::Virtualization),
        (0x87, Exit::Rdtscp),
        (0x89, Exit::Wbinvd),
        (0x8a, Exit::Monitor),
        (0x8b, Exit::Mwait),
        (0x8c, Exit::Mwait),
        (0x8d, Exit::Xsetbv),
        (0x8e, Exit::Virtualization),
        (0xa2, Exit::Invpcid),
        (0xa5, Exit::BusLock),
        (0xa6, Exit::Hlt),
    ] {
        assert_eq!(exit(code, Info::default()), expected, "{code:#x}");
    }
    assert_eq!(decode(0x74, &FULL, &Info::default()), Decoded::Iret);
}

#[test]
fn other_codes_are_unknown() {
    for code in [
        0x70, 0x71, 0x75, 0x7e, 0x8f, 0x90, 0x9f, 0xa7, 0x3ff, 0x403, 0x1234,
    ] {
        assert_eq!(
            exit(code, Info::default()),
            Exit::Unknown(code as u32),
            "{code:#x}"
        );
    }
    // MOV of registers that do not exist raises #UD first; NMI has a code of its own.
    for code in [0x01, 0x05, 0x0f, 0x11, 0x19, 0x28, 0x2f, 0x38, 0x3f, 0x42] {
        assert_eq!(exit(code, Info::default()), Exit::Unknown(code as u32));
    }
}

#[test]
fn entry_failures() {
    for code in [u64::MAX, 0xffff_ffff, u64::MAX - 1] {
        assert_eq!(
            exit(code, info1(7)),
            Exit::EntryFailure(EntryFailure {
                reason: code as u32,
                qualification: 7,
            })
        );
    }
}

#[test]
fn msr_accesses() {
    assert_eq!(exit(code::MSR, info1(0)), Exit::Rdmsr);
    assert_eq!(exit(code::MSR, info1(1)), Exit::Wrmsr);
}

/// Section 15.12.
#[test]
fn exceptions() {
    let page_fault = Info {
        info1: u64::from(pf::P | pf::W),
        info2: 0xdead_b000,
        ..Info::default()
    };
    assert_eq!(
        exit(0x4e, page_fault),
        Exit::Exception(TrappedException {
            exception: Exception::page_fault(0xdead_b000, pf::P | pf::W),
            software: false,
        })
    );
    assert_eq!(
        exit(0x4d, info1(0x18)),
        Exit::Exception(TrappedException {
            exception: Exception::gp(0x18),
            software: false,
        })
    );
    assert_eq!(
        exit(0x46, info1(0x18)),
        Exit::Exception(TrappedException {
            exception: Exception::ud(),
            software: false,
        })
    );
    for vector in [vector::BP, vector::OF] {
        assert_eq!(
            exit(0x40 + u64::from(vector), Info::default()),
            Exit::Exception(TrappedException {
                exception: Exception::new(vector),
                software: true,
            })
        );
    }
}

/// DR6 shows single steps by a 1, and transactions by a 0 in bit 16.
#[test]
fn debug_exceptions_bring_what_dr6_has_got() {
    let db = |dr6| {
        let Exit::Exception(trapped) = exit(
            0x41,
            Info {
                dr6,
                ..Info::default()
            },
        ) else {
            panic!("no exception");
        };
        assert!(!trapped.software);
        trapped.exception
    };
    assert_eq!(db(dr6::INIT | dr6::BS), Exception::db(dr6::BS));
    assert_eq!(db(dr6::INIT | 5), Exception::db(5));
    assert_eq!(db(dr6::INIT & !dr6::RTM), Exception::db(dr6::RTM));
    assert_eq!(db(dr6::INIT), Exception::db(0));
    assert_eq!(
        exit(code::ICEBP, Info::default()),
        Exit::Exception(TrappedException {
            exception: Exception::db(0),
            software: true,
        })
    );
}

/// Section 15.25.6: a page-fault error code, with bit 32 for the final access and bit 33 for the walk.
#[test]
fn nested_page_faults() {
    let npf = |error| {
        exit(
            code::NPF,
            Info {
                info1: error,
                info2: 0xfee0_0030,
                ..Info::default()
            },
        )
    };
    let fault = NestedFault {
        gpa: Gpa::new(0xfee0_0030),
        read: true,
        write: false,
        fetch: false,
        present: false,
        walk: false,
    };
    assert_eq!(npf(0x1_0000_0004), Exit::NestedFault(fault));
    assert_eq!(
        npf(0x1_0000_0007),
        Exit::NestedFault(NestedFault {
            read: false,
            write: true,
            present: true,
            ..fault
        })
    );
    assert_eq!(
        npf(0x1_0000_0014),
        Exit::NestedFault(NestedFault {
            read: false,
            fetch: true,
            ..fault
        })
    );
    assert_eq!(
        npf(0x2_0000_0006),
        Exit::NestedFault(NestedFault {
            read: false,
            write: true,
            walk: true,
            ..fault
        })
    );
    assert_eq!(
        npf(0x1_0000_000d),
        Exit::NestedMisconfiguration(Gpa::new(0xfee0_0030))
    );
}

/// Section 15.8.1: the general register in bits 3:0, bit 63 for MOV.
#[test]
fn control_registers_with_decode_assists() {
    let mov = |gpr: u64| info1(1 << 63 | gpr);
    for (code, cr) in [
        (0, ControlRegister::Cr0),
        (2, ControlRegister::Cr2),
        (3, ControlRegister::Cr3),
        (4, ControlRegister::Cr4),
        (8, ControlRegister::Cr8),
    ] {
        assert_eq!(
            decode(code, &FULL, &mov(9)),
            Decoded::Exit(Exit::CrAccess(CrAccess::Read {
                cr,
                destination: Gpr::R9,
            }))
        );
        assert_eq!(
            decode(0x10 + code, &FULL, &mov(1)),
            Decoded::Exit(Exit::CrAccess(CrAccess::Write {
                cr,
                source: Gpr::Rcx,
            }))
        );
        for direction in [Direction::In, Direction::Out] {
            let code = match direction {
                Direction::In => code,
                Direction::Out => 0x10 + code,
            };
            let needed = Decoded::NeedsInstruction(NeedsInstruction::Cr { cr, direction });
            assert_eq!(decode(code, &FULL, &info1(3)), needed, "not a MOV");
            assert_eq!(decode(code, &PLAIN, &mov(3)), needed);
        }
    }
    assert_eq!(
        decode(code::CR0_SEL_WRITE, &FULL, &mov(0)),
        Decoded::Exit(Exit::CrAccess(CrAccess::Write {
            cr: ControlRegister::Cr0,
            source: Gpr::Rax,
        }))
    );
}

#[test]
fn debug_registers_with_decode_assists() {
    for number in 0..8 {
        for (base, direction) in [(0x20, Direction::In), (0x30, Direction::Out)] {
            let code = base + u64::from(number);
            assert_eq!(
                decode(code, &FULL, &info1(15)),
                Decoded::Exit(Exit::DrAccess(DrAccess {
                    number,
                    direction,
                    gpr: Gpr::R15,
                }))
            );
            assert_eq!(
                needs(code, Info::default()),
                NeedsInstruction::Dr { number, direction }
            );
        }
    }
}

#[test]
fn invlpg() {
    let address = 0xffff_8000_0000_1000;
    assert_eq!(
        decode(code::INVLPG, &FULL, &info1(address)),
        Decoded::Exit(Exit::Invlpg(Gva::new(address)))
    );
    assert_eq!(needs(code::INVLPG, info1(0)), NeedsInstruction::Invlpg);
}

/// Section 15.10.2, figure 15-2.
#[test]
fn port_accesses() {
    let io = |info| match exit(code::IOIO, info1(info)) {
        Exit::Io(access) => access,
        other => panic!("{other:?}"),
    };
    let access = IoAccess {
        port: 0x3f8,
        size: 1,
        direction: Direction::Out,
        string: None,
        rep: false,
    };
    assert_eq!(io(0x03f8_0110), access);
    assert_eq!(
        io(0x0cf8_0221),
        IoAccess {
            port: 0xcf8,
            size: 2,
            direction: Direction::In,
            ..access
        }
    );
    assert_eq!(
        io(0xffff_0041),
        IoAccess {
            port: 0xffff,
            size: 4,
            direction: Direction::In,
            ..access
        }
    );
}

#[test]
fn string_io() {
    let outs = |segment: u64| 0x01f0_010c | 1 << 5 | segment << 10;
    let access = IoAccess {
        port: 0x1f0,
        size: 2,
        direction: Direction::Out,
        string: Some(StringIo {
            address_size: 4,
            segment: SegReg::Fs,
        }),
        rep: true,
    };
    assert_eq!(
        decode(code::IOIO, &FULL, &info1(outs(4))),
        Decoded::Exit(Exit::Io(access))
    );
    let unknown = IoAccess {
        string: None,
        ..access
    };
    let needed = NeedsInstruction::StringIo(unknown);
    assert_eq!(needs(code::IOIO, info1(outs(4))), needed);
    assert_eq!(
        decode(code::IOIO, &FULL, &info1(outs(7))),
        Decoded::NeedsInstruction(needed),
        "no such segment"
    );

    // INS has only one segment, so the address size is enough.
    for (bit, address_size) in [(7, 2), (8, 4), (9, 8)] {
        let ins = IoAccess {
            direction: Direction::In,
            string: Some(StringIo {
                address_size,
                segment: SegReg::Es,
            }),
            ..access
        };
        let raw = 0x01f0_002d | 1 << bit;
        assert_eq!(exit(code::IOIO, info1(raw)), Exit::Io(ins));
    }
    let ins = IoAccess {
        direction: Direction::In,
        ..unknown
    };
    assert_eq!(
        needs(code::IOIO, info1(0x01f0_002d)),
        NeedsInstruction::StringIo(ins)
    );
}

/// Section 15.29.
#[test]
fn apic_accesses() {
    assert_eq!(
        exit(code::AVIC_NOACCEL, info1(1 << 32 | 0xf0)),
        Exit::ApicWrite(0xf0)
    );
    let ipi = |info2| {
        exit(
            code::AVIC_INCOMPLETE_IPI,
            Info {
                info1: 0x0200_0000_0000_00fd,
                info2,
                ..Info::default()
            },
        )
    };
    assert_eq!(ipi(0), Exit::ApicWrite(0x300));
    assert_eq!(ipi(2 << 32), Exit::ApicWrite(0x300));
    assert_eq!(ipi(1 << 32), Exit::Unknown(0x401), "the backend's own");
}

/// Section 15.14.1.
#[test]
fn task_switches() {
    let switch = |info2, int| {
        exit(
            code::TASK_SWITCH,
            Info {
                info1: 0xffff_0028,
                info2,
                int,
                ..Info::default()
            },
        )
    };
    for (info2, int, source) in [
        (1 << 36, 0, TaskSwitchSource::Iret),
        (1 << 38, 0, TaskSwitchSource::Jmp),
        (1 << 44 | 0x18, 0x8000_0b0d, TaskSwitchSource::Gate),
        (0, 0, TaskSwitchSource::Call),
    ] {
        assert_eq!(
            switch(info2, int),
            Exit::TaskSwitch(TaskSwitch {
                selector: 0x28,
                source,
            })
        );
    }
}

/// Sections 15.7.1 and 15.10.2.
#[test]
fn next_instruction() {
    let info = Info {
        info2: 0x2002,
        nrip: 0x1002,
        ..Info::default()
    };
    assert_eq!(next_rip(code::CPUID, &FULL, &info), Some(0x1002));
    assert_eq!(next_rip(code::CPUID, &PLAIN, &info), None);
    assert_eq!(next_rip(code::IOIO, &FULL, &info), Some(0x2002));
    assert_eq!(next_rip(code::IOIO, &PLAIN, &info), Some(0x2002));
    assert_eq!(next_rip(code::NPF, &FULL, &Info::default()), None);
}

const CR0_WRITE: NeedsInstruction = NeedsInstruction::Cr {
    cr: ControlRegister::Cr0,
    direction: Direction::Out,
};
const CR0_READ: NeedsInstruction = NeedsInstruction::Cr {
    cr: ControlRegister::Cr0,
    direction: Direction::In,
};

/// Completes with general registers that hold 0x100 and their number.
fn complete(needs: NeedsInstruction, bytes: &[u8], mode: Mode) -> Option<Completed> {
    let insn = emul::decode(bytes, mode).unwrap();
    assert_eq!(usize::from(insn.len), bytes.len());
    needs.complete(&insn, |gpr| 0x100 + gpr.index() as u64)
}

fn cr(access: CrAccess) -> Option<Completed> {
    Some(Completed::Exit(Exit::CrAccess(access)))
}

#[test]
fn mov_cr_by_instruction() {
    let cr3 = ControlRegister::Cr3;
    let needs = |cr, direction| NeedsInstruction::Cr { cr, direction };
    for mode in [Mode::Long, Mode::Protected32, Mode::Real] {
        assert_eq!(
            complete(CR0_WRITE, &[0x0f, 0x22, 0xc1], mode),
            cr(CrAccess::Write {
                cr: ControlRegister::Cr0,
                source: Gpr::Rcx,
            })
        );
        assert_eq!(
            complete(needs(cr3, Direction::In), &[0x0f, 0x20, 0xda], mode),
            cr(CrAccess::Read {
                cr: cr3,
                destination: Gpr::Rdx,
            })
        );
    }
    // mov r9, cr8; mov cr4, r10 with an operand-size prefix, which has no effect.
    assert_eq!(
        complete(
            needs(ControlRegister::Cr8, Direction::In),
            &[0x45, 0x0f, 0x20, 0xc1],
            Mode::Long
        ),
        cr(CrAccess::Read {
            cr: ControlRegister::Cr8,
            destination: Gpr::R9,
        })
    );
    assert_eq!(
        complete(
            needs(ControlRegister::Cr4, Direction::Out),
            &[0x66, 0x41, 0x0f, 0x22, 0xe2],
            Mode::Long
        ),
        cr(CrAccess::Write {
            cr: ControlRegister::Cr4,
            source: Gpr::R10,
        })
    );
}

#[test]
fn machine_status_word_by_instruction() {
    // clts; lmsw di; lmsw [rax]
    assert_eq!(
        complete(CR0_WRITE, &[0x0f, 0x06], Mode::Long),
        cr(CrAccess::Clts)
    );
    assert_eq!(
        complete(CR0_WRITE, &[0x0f, 0x01, 0xf7], Mode::Real),
        cr(CrAccess::Lmsw(0x107))
    );
    assert!(matches!(
        complete(CR0_WRITE, &[0x0f, 0x01, 0x30], Mode::Long),
        Some(Completed::Operand(insn)) if insn.op == emul::Op::Lmsw
    ));
    // smsw ebx; smsw rbx; smsw bx; smsw [rbx]
    let read = cr(CrAccess::Read {
        cr: ControlRegister::Cr0,
        destination: Gpr::Rbx,
    });
    assert_eq!(complete(CR0_READ, &[0x0f, 0x01, 0xe3], Mode::Long), read);
    assert_eq!(
        complete(CR0_READ, &[0x48, 0x0f, 0x01, 0xe3], Mode::Long),
        read
    );
    for bytes in [&[0x66, 0x0f, 0x01, 0xe3][..], &[0x0f, 0x01, 0x23]] {
        assert!(matches!(
            complete(CR0_READ, bytes, Mode::Long),
            Some(Completed::Operand(insn)) if insn.op == emul::Op::Smsw
        ));
    }
}

#[test]
fn mov_dr_by_instruction() {
    let access = DrAccess {
        number: 7,
        direction: Direction::Out,
        gpr: Gpr::R8,
    };
    let needs = NeedsInstruction::Dr {
        number: 7,
        direction: Direction::Out,
    };
    let done = Some(Completed::Exit(Exit::DrAccess(access)));
    let write = [0x41, 0x0f, 0x23, 0xf8];
    assert_eq!(complete(needs, &write, Mode::Long), done);
    let needs = NeedsInstruction::Dr {
        number: 6,
        direction: Direction::In,
    };
    let read = DrAccess {
        number: 6,
        direction: Direction::In,
        gpr: Gpr::Rax,
    };
    let done = Some(Completed::Exit(Exit::DrAccess(read)));
    assert_eq!(complete(needs, &[0x0f, 0x21, 0xf0], Mode::Real), done);
    assert_eq!(complete(needs, &write, Mode::Long), None);
}

#[test]
fn string_io_by_instruction() {
    let access = IoAccess {
        port: 0x1f0,
        size: 2,
        direction: Direction::Out,
        string: None,
        rep: true,
    };
    let with = |direction, address_size, segment| {
        Some(Completed::Exit(Exit::Io(IoAccess {
            direction,
            string: Some(StringIo {
                address_size,
                segment,
            }),
            ..access
        })))
    };
    let needs = |direction| {
        NeedsInstruction::StringIo(IoAccess {
            direction,
            ..access
        })
    };
    for (direction, bytes, mode, expected) in [
        // rep outsw
        (
            Direction::Out,
            &[0xf3, 0x6f][..],
            Mode::Real,
            (2, SegReg::Ds),
        ),
        // rep outs dx, word ptr fs:[esi]
        (
            Direction::Out,
            &[0xf3, 0x66, 0x67, 0x64, 0x6f],
            Mode::Long,
            (4, SegReg::Fs),
        ),
        // rep insw with a segment prefix that has no effect
        (
            Direction::In,
            &[0xf3, 0x66, 0x26, 0x6d],
            Mode::Protected32,
            (4, SegReg::Es),
        ),
        (
            Direction::In,
            &[0xf3, 0x66, 0x6d],
            Mode::Long,
            (8, SegReg::Es),
        ),
    ] {
        assert_eq!(
            complete(needs(direction), bytes, mode),
            with(direction, expected.0, expected.1)
        );
    }
    assert_eq!(complete(needs(Direction::In), &[0x6f], Mode::Real), None);
}

#[test]
fn overwritten_instructions_complete_nothing() {
    let cr4 = NeedsInstruction::Cr {
        cr: ControlRegister::Cr4,
        direction: Direction::Out,
    };
    for bytes in [
        &[0x90][..],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x20, 0xe0],
        &[0x0f, 0x06],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x23, 0xe0],
    ] {
        assert_eq!(complete(cr4, bytes, Mode::Long), None, "{bytes:x?}");
    }
    assert_eq!(complete(CR0_READ, &[0x0f, 0x06], Mode::Long), None);
    assert_eq!(complete(CR0_WRITE, &[0x0f, 0x01, 0xe3], Mode::Long), None);
    let invlpg = [0x0f, 0x01, 0x38];
    assert_eq!(complete(CR0_WRITE, &invlpg, Mode::Long), None);
    let needs = NeedsInstruction::Invlpg;
    assert!(matches!(
        complete(needs, &invlpg, Mode::Long),
        Some(Completed::Operand(_))
    ));
    assert_eq!(complete(needs, &[0x90], Mode::Long), None);
}
