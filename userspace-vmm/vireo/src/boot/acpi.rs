// SPDX-License-Identifier: Apache-2.0

//! The machine's ACPI tables: RSDP, XSDT, FADT, MADT and DSDT.
//!
//! The machine is hardware-reduced (ACPI 6.5, section 4.1): no PIC, no PIT, no SCI. Sleep goes
//! through the sleep control register, and the power button through a generic event device.

use acpi_tables::aml::{
    Device, EISAName, Interrupt, Method, Name, Notify, Package, Path, ResourceTemplate, Scope, IO,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, ProcessorLocalApic, MADT,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::Aml;
use vm_memory::{Bytes, GuestAddress};

use crate::devices::acpi_pm::SLP_TYP_S5;
use crate::devices::reset::ResetControl;
use crate::devices::rtc::{Rtc, CENTURY};
use crate::error::{Error, Result};
use crate::layout::{
    ACPI_SLEEP_PORT, ACPI_TABLES_ADDR, COM1_GSI, COM1_LEN, COM1_PORT, GED_GSI, HIGH_RAM_START,
    IOAPIC_ADDR, LAPIC_ADDR, RESET_PORT, RSDP_ADDR, RTC_PORT,
};
use crate::memory::GuestMemory;

const OEM_ID: [u8; 6] = *b"VIREO ";
const OEM_TABLE_ID: [u8; 8] = *b"VIREOVMM";
const OEM_REVISION: u32 = 1;
/// Revision of a DSDT whose integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// Bytes of a table's header.
const HEADER_LEN: u32 = 36;
/// Tables start at multiples of this.
const ALIGNMENT: usize = 16;
/// Notification value: the button was pressed.
const BUTTON_PRESSED: u8 = 0x80;

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

/// A one-byte register in port space.
fn port(address: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(address),
    )
}

/// The namespace: COM1, clock, power button, soft-off.
fn dsdt() -> Vec<u8> {
    let name = |n: &str| Path::new(n);
    let com1 = Device::new(
        name("COM1"),
        vec![
            &Name::new(name("_HID"), &EISAName::new("PNP0501")).clone_bytes(),
            &Name::new(name("_UID"), &0u8).clone_bytes(),
            &Name::new(
                name("_CRS"),
                &ResourceTemplate::new(vec![
                    &IO::new(COM1_PORT, COM1_PORT, 1, COM1_LEN as u8),
                    &Interrupt::new(true, true, false, false, COM1_GSI),
                ]),
            )
            .clone_bytes(),
        ],
    )
    .clone_bytes();
    let rtc = Device::new(
        name("RTC_"),
        vec![
            &Name::new(name("_HID"), &EISAName::new("PNP0B00")).clone_bytes(),
            &Name::new(
                name("_CRS"),
                &ResourceTemplate::new(vec![&IO::new(RTC_PORT, RTC_PORT, 1, Rtc::LEN as u8)]),
            )
            .clone_bytes(),
        ],
    )
    .clone_bytes();
    let button = Device::new(
        name("PWRB"),
        vec![&Name::new(name("_HID"), &EISAName::new("PNP0C0C")).clone_bytes()],
    )
    .clone_bytes();
    let events = Device::new(
        name("GED_"),
        vec![
            &Name::new(name("_HID"), &"ACPI0013").clone_bytes(),
            &Name::new(
                name("_CRS"),
                &ResourceTemplate::new(vec![&Interrupt::new(true, true, false, false, GED_GSI)]),
            )
            .clone_bytes(),
            &Method::new(
                name("_EVT"),
                1,
                true,
                vec![&Notify::new(&name("\\_SB_.PWRB"), &BUTTON_PRESSED)],
            )
            .clone_bytes(),
        ],
    )
    .clone_bytes();
    let mut aml = bytes(&Scope::new(
        name("\\_SB_"),
        vec![&com1, &rtc, &button, &events],
    ));
    aml.extend(bytes(&Name::new(
        name("\\_S5_"),
        &Package::new(vec![&SLP_TYP_S5, &0u8, &0u8, &0u8]),
    )));
    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_LEN,
        DSDT_REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

/// Already encoded AML, as a child of another object.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// Encodes an object at once, so that its children may be temporaries.
trait CloneBytes: Aml {
    fn clone_bytes(&self) -> Encoded
    where
        Self: Sized,
    {
        Encoded(bytes(self))
    }
}

impl<T: Aml> CloneBytes for T {}

fn fadt(dsdt_addr: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt_addr)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // No fixed power and sleep buttons: these bits say "as control-method devices".
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.century = CENTURY;
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = ResetControl::HARD_RESET;
    fadt.sleep_control_reg = port(ACPI_SLEEP_PORT);
    fadt.sleep_status_reg = port(ACPI_SLEEP_PORT + 1);
    bytes(&fadt.finalize())
}

fn madt(cpus: u8) -> Vec<u8> {
    let controller = LocalInterruptController::Address(LAPIC_ADDR);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, controller);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    // Its ID is the first that no CPU has.
    madt.add_structure(IoApic::new(cpus, IOAPIC_ADDR, 0));
    bytes(&madt)
}

/// All tables with their addresses, the RSDP last.
pub fn tables(cpus: u8) -> Vec<(u64, Vec<u8>)> {
    let mut next = ACPI_TABLES_ADDR;
    let mut placed = Vec::new();
    let mut place = |table: Vec<u8>| {
        let at = next;
        next += table.len().next_multiple_of(ALIGNMENT) as u64;
        placed.push((at, table));
        at
    };
    let dsdt_addr = place(dsdt());
    let fadt_addr = place(fadt(dsdt_addr));
    let madt_addr = place(madt(cpus));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt_addr);
    xsdt.add_entry(madt_addr);
    let xsdt_addr = place(bytes(&xsdt));
    placed.push((RSDP_ADDR, bytes(&Rsdp::new(OEM_ID, xsdt_addr))));
    placed
}

/// Writes the tables for `cpus` processors.
pub fn write(memory: &GuestMemory, cpus: u8) -> Result<()> {
    for (address, table) in tables(cpus) {
        let end = address + table.len() as u64;
        if end > HIGH_RAM_START {
            return Err(Error::Setup("the ACPI tables are too large".into()));
        }
        memory
            .write_slice(&table, GuestAddress(address))
            .map_err(|e| Error::Setup(e.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIB;
    use crate::memory::{allocate, Size};

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |a, b| a.wrapping_add(*b))
    }

    fn read(memory: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        memory.read_slice(&mut out, GuestAddress(at)).unwrap();
        out
    }

    fn u64_at(table: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(table[at..at + 8].try_into().unwrap())
    }

    /// Reads a table by its own length, checks its sum, and returns it.
    fn table(memory: &GuestMemory, at: u64) -> Vec<u8> {
        let head = read(memory, at, 8);
        let len = u32::from_le_bytes(head[4..8].try_into().unwrap());
        let table = read(memory, at, len as usize);
        assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
        table
    }

    #[test]
    fn tables_are_found_from_the_rsdp() {
        let memory = allocate(Size(2 * MIB)).unwrap();
        write(&memory, 3).unwrap();
        let rsdp = read(&memory, RSDP_ADDR, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
        let xsdt = table(&memory, u64_at(&rsdp, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        assert_eq!(xsdt.len(), 36 + 16);
        let fadt = table(&memory, u64_at(&xsdt, 36));
        assert_eq!(&fadt[..4], b"FACP");
        let dsdt = table(&memory, u64_at(&fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
        let madt = table(&memory, u64_at(&xsdt, 44));
        assert_eq!(&madt[..4], b"APIC");
        assert_eq!(madt.len(), 44 + 3 * 8 + 12);
    }

    #[test]
    fn fadt_says_how_to_sleep_and_reset() {
        let fadt = fadt(0x1234);
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
        assert_ne!(flags & 1 << 10, 0, "reset register");
        assert_eq!((fadt[116], u64_at(&fadt, 120)), (1, 0xcf9));
        assert_eq!(
            (fadt[244], u64_at(&fadt, 248)),
            (1, u64::from(ACPI_SLEEP_PORT))
        );
        assert_eq!(u64_at(&fadt, 260), u64::from(ACPI_SLEEP_PORT + 1));
    }

    #[test]
    fn namespace_has_the_devices() {
        let dsdt = dsdt();
        for object in ["COM1", "RTC_", "PWRB", "GED_", "_EVT", "_S5_", "ACPI0013"] {
            assert!(
                dsdt.windows(object.len()).any(|w| w == object.as_bytes()),
                "{object}"
            );
        }
    }

    #[test]
    fn tables_do_not_overlap_and_fit() {
        let mut all = tables(254);
        all.sort();
        for pair in all.windows(2) {
            assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0);
        }
        let (at, last) = all.last().unwrap();
        assert!(at + last.len() as u64 <= HIGH_RAM_START);
    }
}
