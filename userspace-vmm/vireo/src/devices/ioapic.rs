// SPDX-License-Identifier: Apache-2.0

//! The I/O APIC of a machine whose interrupt controllers are split: the local APICs are the kernel's, this
//! is ours. Intel's 82093AA data sheet (290566) names its registers.
//!
//! Each unmasked entry becomes a route from its pin to a message, so an interrupt goes from a device to a
//! local APIC without passing through here. All devices of this machine pulse their lines; an entry in
//! level mode therefore sends one message for each pulse, too, and its end needs no attention.

use std::sync::Arc;

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, KvmIrqRouting,
    KVM_IRQ_ROUTING_MSI,
};
use kvm_ioctls::VmFd;

use super::bus::Device;

/// Input pins.
pub const PINS: usize = 24;
/// Bytes of the register window.
pub const LEN: u64 = 0x1000;

/// Offset of the register that selects another.
const SELECT: u64 = 0x00;
/// Offset of the register that shows the selected one.
const WINDOW: u64 = 0x10;
/// The identification register, and where the ID is in it.
const REG_ID: u8 = 0;
const ID_MASK: u32 = 0x0f00_0000;
/// The version register: version 0x11, and the highest entry's number.
const REG_VERSION: u8 = 1;
const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;
/// The arbitration register, which shows the ID.
const REG_ARBITRATION: u8 = 2;
/// The first entry; each takes two registers.
const REG_TABLE: u8 = 0x10;

/// Bits of an entry that software may write: all but the delivery status and the remote IRR.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
/// The entry is masked.
const MASKED: u64 = 1 << 16;
/// The destination is a set of processors.
const LOGICAL: u64 = 1 << 11;
/// The entry is level triggered.
const LEVEL: u64 = 1 << 15;
/// Vector and delivery mode, as in a message's data.
const VECTOR_AND_MODE: u64 = 0x7ff;
/// Where the destination is.
const DEST_SHIFT: u32 = 56;

/// A message's address, and where destination and its mode are in it.
const MSI_ADDRESS: u32 = 0xfee0_0000;
const MSI_DEST_SHIFT: u32 = 12;
const MSI_LOGICAL: u32 = 1 << 2;
/// A message's data: level triggered, and asserted.
const MSI_LEVEL: u32 = 3 << 14;

/// A message to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The address, below 4 GiB.
    pub address: u32,
    /// The data.
    pub data: u32,
}

/// Where pins lead; `None` is nowhere.
pub type Table = [Option<Message>; PINS];

/// Who carries the pins' interrupts.
pub trait Routes: Send {
    /// Puts a table in force.
    fn set(&mut self, table: &Table);
}

/// The kernel's routes of GSIs, whose first ones are the pins.
pub struct KernelRoutes(pub Arc<VmFd>);

impl Routes for KernelRoutes {
    fn set(&mut self, table: &Table) {
        let entries: Vec<_> = (0u32..)
            .zip(table)
            .filter_map(|(gsi, message)| message.map(|message| entry(gsi, message)))
            .collect();
        let set = KvmIrqRouting::from_entries(&entries)
            .map_err(|e| format!("{e:?}"))
            .and_then(|routing| self.0.set_gsi_routing(&routing).map_err(|e| e.to_string()));
        if let Err(e) = set {
            tracing::warn!("KVM_SET_GSI_ROUTING: {e}");
        }
    }
}

fn entry(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: message.address,
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

/// The I/O APIC.
pub struct IoApic<R: Routes> {
    select: u8,
    id: u32,
    entries: [u64; PINS],
    routes: R,
}

impl<R: Routes> IoApic<R> {
    /// In its state after reset: every pin is masked.
    pub fn new(routes: R) -> Self {
        IoApic {
            select: 0,
            id: 0,
            entries: [MASKED; PINS],
            routes,
        }
    }

    /// The entry and the half of it that the selected register is.
    fn selected(&mut self) -> Option<(&mut u64, u32)> {
        let index = self.select.checked_sub(REG_TABLE)?;
        let shift = u32::from(index & 1) * 32;
        let entry = self.entries.get_mut(usize::from(index >> 1))?;
        Some((entry, shift))
    }

    fn read_register(&mut self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => self.id,
            REG_VERSION => VERSION,
            _ => match self.selected() {
                Some((entry, shift)) => (*entry >> shift) as u32,
                None => u32::MAX,
            },
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.select == REG_ID {
            self.id = value & ID_MASK;
            return;
        }
        let Some((entry, shift)) = self.selected() else {
            return;
        };
        let written = WRITABLE & (u64::from(u32::MAX) << shift);
        let new = *entry & !written | (u64::from(value) << shift) & written;
        if new != *entry {
            *entry = new;
            let table = self.entries.map(message);
            self.routes.set(&table);
        }
    }
}

/// What an entry sends.
fn message(entry: u64) -> Option<Message> {
    if entry & MASKED != 0 {
        return None;
    }
    let dest = (entry >> DEST_SHIFT) as u32;
    let logical = if entry & LOGICAL != 0 { MSI_LOGICAL } else { 0 };
    let level = if entry & LEVEL != 0 { MSI_LEVEL } else { 0 };
    Some(Message {
        address: MSI_ADDRESS | dest << MSI_DEST_SHIFT | logical,
        data: (entry & VECTOR_AND_MODE) as u32 | level,
    })
}

impl<R: Routes> Device for IoApic<R> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.read_register(),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let value = u32::from_le_bytes(bytes);
        match offset {
            SELECT => self.select = value as u8,
            // Registers are 32 bits wide and written as a whole.
            WINDOW if data.len() == 4 => self.write_register(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    impl Routes for Arc<Mutex<Vec<Table>>> {
        fn set(&mut self, table: &Table) {
            self.lock().unwrap().push(*table);
        }
    }

    fn write<R: Routes>(chip: &mut IoApic<R>, register: u8, value: u32) {
        chip.write(0, &u32::from(register).to_le_bytes());
        chip.write(0x10, &value.to_le_bytes());
    }

    fn read<R: Routes>(chip: &mut IoApic<R>, register: u8) -> u32 {
        chip.write(0, &[register]);
        let mut data = [0; 4];
        chip.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn registers() {
        let mut chip = IoApic::new(Arc::new(Mutex::new(Vec::new())));
        assert_eq!(read(&mut chip, 1), 0x0017_0011);
        write(&mut chip, 0, u32::MAX);
        assert_eq!(
            (read(&mut chip, 0), read(&mut chip, 2)),
            (0x0f00_0000, 0x0f00_0000)
        );
        assert_eq!(
            (read(&mut chip, 0x3e), read(&mut chip, 0x3f)),
            (0x1_0000, 0)
        );
        assert_eq!(
            (read(&mut chip, 0x40), read(&mut chip, 3)),
            (u32::MAX, u32::MAX)
        );
        write(&mut chip, 0x12, u32::MAX);
        write(&mut chip, 0x13, u32::MAX);
        assert_eq!(
            (read(&mut chip, 0x12), read(&mut chip, 0x13)),
            (0x1_afff, 0xff00_0000)
        );
        let mut select = [0; 2];
        chip.read(0, &mut select);
        assert_eq!(select, [0x13, 0]);
    }

    #[test]
    fn unmasked_pins_are_routes() {
        let tables = Arc::new(Mutex::new(Vec::new()));
        let mut chip = IoApic::new(tables.clone());
        write(&mut chip, 0x19, 3 << 24);
        write(&mut chip, 0x18, 0x31);
        let last = |tables: &Arc<Mutex<Vec<Table>>>| *tables.lock().unwrap().last().unwrap();
        let expected = Message {
            address: 0xfee0_3000,
            data: 0x31,
        };
        assert_eq!(last(&tables)[4], Some(expected));
        assert_eq!(last(&tables).iter().flatten().count(), 1);
        // Level, logical, lowest priority.
        write(&mut chip, 0x18, 0x8931);
        let expected = Message {
            address: 0xfee0_3004,
            data: 0xc131,
        };
        assert_eq!(last(&tables)[4], Some(expected));
        write(&mut chip, 0x18, 0x1_8931);
        assert_eq!(last(&tables)[4], None);
        // Writing the same again changes nothing.
        let count = tables.lock().unwrap().len();
        write(&mut chip, 0x18, 0x1_8931);
        assert_eq!(tables.lock().unwrap().len(), count);
    }

    #[test]
    fn odd_accesses_do_nothing() {
        let mut chip = IoApic::new(Arc::new(Mutex::new(Vec::new())));
        chip.write(0, &[0x18]);
        chip.write(0x10, &[0x31]);
        chip.write(0x40, &[0x31, 0, 0, 0]);
        assert_eq!(read(&mut chip, 0x18), 0x1_0000);
        let mut data = [0xff; 8];
        chip.read(0x20, &mut data);
        assert_eq!(data, [0; 8]);
    }
}
