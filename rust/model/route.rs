// SPDX-License-Identifier: GPL-2.0-only

//! Interrupt routing: from the numbers that a VMM uses (GSIs) to controller pins and messages.
//!
//! The table is a slice sorted by [`sort`], so that finding a GSI's routes takes a few steps and no
//! allocation. Messages are decoded when the table is set, not when an interrupt is sent.

use super::errno::Errno;
use super::ioapic;
use super::msi::{self, Message};

/// GSIs, and entries in a table (`KVM_MAX_IRQ_ROUTES`).
pub const MAX_ROUTES: u32 = 4096;

/// Routes of a VM that has set none: every pin of the I/O APIC, and the PICs' on the first GSIs.
pub const DEFAULT_ROUTES: usize = ioapic::PINS + PIC_PAIR_PINS;

/// Pins of one PIC.
const PIC_PINS: u32 = 8;
/// Pins of the pair of PICs.
const PIC_PAIR_PINS: usize = 16;

/// `KVM_IRQ_ROUTING_IRQCHIP`.
const KIND_IRQCHIP: u32 = 1;
/// `KVM_IRQ_ROUTING_MSI`.
const KIND_MSI: u32 = 2;
/// `KVM_MSI_VALID_DEVID`: the device ID is valid; x86 has no use for it.
const FLAG_VALID_DEVID: u32 = 1;
/// `KVM_IRQCHIP_PIC_MASTER`.
const CHIP_PIC_MASTER: u32 = 0;
/// `KVM_IRQCHIP_PIC_SLAVE`.
const CHIP_PIC_SLAVE: u32 = 1;
/// `KVM_IRQCHIP_IOAPIC`.
const CHIP_IOAPIC: u32 = 2;

/// `struct kvm_irq_routing_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawRoute {
    /// The GSI.
    pub gsi: u32,
    /// What `payload` is: 1 for a pin, 2 for an MSI.
    pub kind: u32,
    /// `KVM_MSI_VALID_DEVID` for an MSI, 0 otherwise.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
    /// Chip and pin, or address low, address high, data and device ID.
    pub payload: [u32; 8],
}

/// Where a GSI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Pin 0 to 7 of the master PIC.
    PicMaster(u8),
    /// Pin 0 to 7 of the slave PIC.
    PicSlave(u8),
    /// Pin 0 to 23 of the I/O APIC.
    Ioapic(u8),
    /// A message to the local APICs.
    Msi(Message),
}

impl Target {
    /// Returns a number for each kind of target.
    const fn chip(&self) -> u32 {
        match self {
            Self::PicMaster(_) => CHIP_PIC_MASTER,
            Self::PicSlave(_) => CHIP_PIC_SLAVE,
            Self::Ioapic(_) => CHIP_IOAPIC,
            Self::Msi(_) => CHIP_IOAPIC + 1,
        }
    }
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The GSI, below [`MAX_ROUTES`].
    pub gsi: u32,
    /// Where it leads.
    pub target: Target,
}

/// What of the VM decides whether a route is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The PICs and the I/O APIC are in the kernel, not split off to the VMM.
    pub chips: bool,
    /// Messages carry 32-bit APIC IDs (`KVM_X2APIC_API_USE_32BIT_IDS`).
    pub wide_ids: bool,
}

impl Route {
    /// Decodes one entry of `KVM_SET_GSI_ROUTING`.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] for a GSI, kind, flag, chip or pin that does not exist, and for what
    /// [`msi::decode`] refuses.
    pub fn decode(raw: &RawRoute, platform: Platform) -> Result<Self, Errno> {
        let allowed = if raw.kind == KIND_MSI {
            FLAG_VALID_DEVID
        } else {
            0
        };
        if raw.gsi >= MAX_ROUTES || raw.flags & !allowed != 0 {
            return Err(Errno::Invalid);
        }
        let [first, second, third, ..] = raw.payload;
        let target = match raw.kind {
            KIND_IRQCHIP if platform.chips => Self::pin(first, second)?,
            KIND_MSI => Target::Msi(msi::decode(first, second, third, platform.wide_ids)?),
            _ => return Err(Errno::Invalid),
        };
        Ok(Self {
            gsi: raw.gsi,
            target,
        })
    }

    fn pin(chip: u32, pin: u32) -> Result<Target, Errno> {
        let number = u8::try_from(pin).map_err(|_| Errno::Invalid)?;
        match chip {
            CHIP_PIC_MASTER if pin < PIC_PINS => Ok(Target::PicMaster(number)),
            CHIP_PIC_SLAVE if pin < PIC_PINS => Ok(Target::PicSlave(number)),
            CHIP_IOAPIC if usize::from(number) < ioapic::PINS => Ok(Target::Ioapic(number)),
            _ => Err(Errno::Invalid),
        }
    }

    /// Returns route `index` of [`DEFAULT_ROUTES`], in the order of [`sort`].
    ///
    /// GSI 0 to 15 lead to the pins of that number of the PICs and of the I/O APIC, 16 to 23 to the I/O
    /// APIC alone.
    pub fn default_at(index: usize) -> Option<Self> {
        if index >= DEFAULT_ROUTES {
            return None;
        }
        let paired = index < PIC_PAIR_PINS * 2;
        let gsi = if paired {
            index / 2
        } else {
            index - PIC_PAIR_PINS
        };
        let number = u8::try_from(gsi).ok()?;
        let pic_pin = number & (PIC_PINS as u8 - 1);
        let target = if !paired || index & 1 != 0 {
            Target::Ioapic(number)
        } else if number == pic_pin {
            Target::PicMaster(pic_pin)
        } else {
            Target::PicSlave(pic_pin)
        };
        Some(Self {
            gsi: u32::from(number),
            target,
        })
    }

    /// Orders routes by GSI, then by chip.
    const fn key(&self) -> (u32, u32) {
        (self.gsi, self.target.chip())
    }
}

/// Sorts a table for [`lookup`] and checks what its routes may share.
///
/// # Errors
///
/// [`Errno::Invalid`] when a GSI leads to two pins of one chip, or to a message and anything else.
pub fn sort(routes: &mut [Route]) -> Result<(), Errno> {
    heap_sort(routes);
    for pair in routes.windows(2) {
        if let [a, b] = pair {
            // A message sorts last among the routes of its GSI.
            let clash = a.target.chip() == b.target.chip() || matches!(b.target, Target::Msi(_));
            if a.gsi == b.gsi && clash {
                return Err(Errno::Invalid);
            }
        }
    }
    Ok(())
}

/// Sorts by [`Route::key`] in place. The library's sort has a branch for broken orders that panics, which
/// kernel code must not have.
fn heap_sort(routes: &mut [Route]) {
    for root in (0..routes.len() / 2).rev() {
        sift_down(routes, root);
    }
    for end in (1..routes.len()).rev() {
        routes.swap(0, end);
        if let Some(heap) = routes.get_mut(..end) {
            sift_down(heap, 0);
        }
    }
}

/// Moves the route at `root` down until none below it is greater.
fn sift_down(heap: &mut [Route], mut root: usize) {
    let key = |heap: &[Route], index: usize| heap.get(index).map(Route::key);
    loop {
        let left = root.saturating_mul(2).saturating_add(1);
        let right = left.saturating_add(1);
        // A route that does not exist is the least.
        let child = if key(heap, right) > key(heap, left) {
            right
        } else {
            left
        };
        if key(heap, child) <= key(heap, root) {
            return;
        }
        heap.swap(root, child);
        root = child;
    }
}

/// Returns the routes of `gsi` in a table that [`sort`] has accepted: at most three.
pub fn lookup(routes: &[Route], gsi: u32) -> &[Route] {
    let start = routes.partition_point(|route| route.gsi < gsi);
    let rest = routes.get(start..).unwrap_or(&[]);
    let count = rest.partition_point(|route| route.gsi == gsi);
    rest.get(..count).unwrap_or(&[])
}

/// Returns the GSI that leads to `target`: whom an EOI there concerns.
pub fn gsi_of(routes: &[Route], target: Target) -> Option<u32> {
    let route = routes.iter().find(|route| route.target == target)?;
    Some(route.gsi)
}

/// Returns the target that input `pin` (0 to 15) of the pair of PICs is.
pub const fn pic_target(pin: u8) -> Target {
    if pin < PIC_PINS as u8 {
        Target::PicMaster(pin)
    } else {
        Target::PicSlave(pin - PIC_PINS as u8)
    }
}

/// Returns whether the end of a level-triggered interrupt with `vector` concerns the VMM's I/O APIC: one of
/// the GSIs below `pins`, which stand for its pins, leads to such an interrupt (`KVM_CAP_SPLIT_IRQCHIP`).
pub fn is_split_pin_vector(routes: &[Route], pins: u32, vector: u8) -> bool {
    let count = routes.partition_point(|route| route.gsi < pins);
    routes.iter().take(count).any(|route| {
        matches!(
            route.target,
            Target::Msi(message) if message.vector == vector && message.trigger.is_level()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Platform = Platform {
        chips: true,
        wide_ids: false,
    };

    fn raw(gsi: u32, kind: u32, payload: [u32; 4]) -> RawRoute {
        let mut route = RawRoute {
            gsi,
            kind,
            ..RawRoute::default()
        };
        route.payload[..4].copy_from_slice(&payload);
        route
    }

    fn pin(gsi: u32, chip: u32, pin: u32) -> Result<Route, Errno> {
        Route::decode(&raw(gsi, 1, [chip, pin, 0, 0]), KERNEL)
    }

    fn message(gsi: u32) -> Route {
        Route::decode(&raw(gsi, 2, [0xfee0_1000, 0, 0x41, 0]), KERNEL).unwrap()
    }

    #[test]
    fn layout() {
        assert_eq!(core::mem::size_of::<RawRoute>(), 48);
    }

    #[test]
    fn pins() {
        assert_eq!(
            pin(5, 0, 7),
            Ok(Route {
                gsi: 5,
                target: Target::PicMaster(7)
            })
        );
        assert_eq!(
            pin(5, 1, 7),
            Ok(Route {
                gsi: 5,
                target: Target::PicSlave(7)
            })
        );
        assert_eq!(
            pin(5, 2, 23),
            Ok(Route {
                gsi: 5,
                target: Target::Ioapic(23)
            })
        );
        for (chip, number) in [(0, 8), (1, 8), (2, 24), (2, 256), (2, u32::MAX), (3, 0)] {
            assert_eq!(pin(5, chip, number), Err(Errno::Invalid), "{chip} {number}");
        }
        assert!(pin(4095, 2, 0).is_ok());
        assert_eq!(pin(4096, 2, 0), Err(Errno::Invalid));
        let split = Platform {
            chips: false,
            ..KERNEL
        };
        assert_eq!(
            Route::decode(&raw(5, 1, [2, 0, 0, 0]), split),
            Err(Errno::Invalid)
        );
    }

    #[test]
    fn messages() {
        let decoded = msi::decode(0xfee0_1000, 0, 0x41, false).unwrap();
        assert_eq!(
            message(9),
            Route {
                gsi: 9,
                target: Target::Msi(decoded)
            }
        );
        let mut entry = raw(9, 2, [0xfee0_1000, 1, 0x41, 7]);
        entry.flags = 1;
        assert!(Route::decode(&entry, KERNEL).is_ok());
        let wide = Platform {
            wide_ids: true,
            ..KERNEL
        };
        assert_eq!(Route::decode(&entry, wide), Err(Errno::Invalid));
        entry.flags = 2;
        assert_eq!(Route::decode(&entry, KERNEL), Err(Errno::Invalid));
        let mut entry = raw(9, 1, [2, 0, 0, 0]);
        entry.flags = 1;
        assert_eq!(Route::decode(&entry, KERNEL), Err(Errno::Invalid));
        for kind in [0, 3, 4, 5, u32::MAX] {
            assert_eq!(
                Route::decode(&raw(9, kind, [0; 4]), KERNEL),
                Err(Errno::Invalid)
            );
        }
    }

    #[test]
    fn default_table() {
        let table: Vec<Route> = (0..).map_while(Route::default_at).collect();
        assert_eq!(table.len(), 40);
        let mut sorted = table.clone();
        assert_eq!(sort(&mut sorted), Ok(()));
        assert_eq!(sorted, table);
        for gsi in 0..24u8 {
            let targets: Vec<Target> = lookup(&table, gsi.into())
                .iter()
                .map(|route| route.target)
                .collect();
            let expected = match gsi {
                0..=7 => vec![Target::PicMaster(gsi), Target::Ioapic(gsi)],
                8..=15 => vec![Target::PicSlave(gsi - 8), Target::Ioapic(gsi)],
                _ => vec![Target::Ioapic(gsi)],
            };
            assert_eq!(targets, expected);
            assert_eq!(gsi_of(&table, Target::Ioapic(gsi)), Some(gsi.into()));
            if gsi < 16 {
                assert_eq!(gsi_of(&table, pic_target(gsi)), Some(gsi.into()));
            }
        }
        assert!(lookup(&table, 24).is_empty());
        assert_eq!(gsi_of(&table, Target::Ioapic(24)), None);
        assert!(lookup(&[], 0).is_empty());
    }

    #[test]
    fn what_a_gsi_may_lead_to() {
        let chip = |gsi, chip| pin(gsi, chip, 1).unwrap();
        let check = |routes: &[Route]| sort(&mut routes.to_vec());
        assert_eq!(check(&[chip(1, 2), chip(1, 0), chip(1, 1)]), Ok(()));
        assert_eq!(
            check(&[chip(1, 2), pin(1, 2, 3).unwrap()]),
            Err(Errno::Invalid)
        );
        assert_eq!(check(&[chip(1, 2), message(2)]), Ok(()));
        assert_eq!(check(&[message(1), chip(1, 2)]), Err(Errno::Invalid));
        assert_eq!(check(&[message(1), message(1)]), Err(Errno::Invalid));
        assert_eq!(check(&[]), Ok(()));
    }

    /// Only level-triggered messages of the pins' GSIs.
    #[test]
    fn ends_for_a_split_irqchip() {
        let level = |gsi, vector: u32| {
            Route::decode(&raw(gsi, 2, [0xfee0_0000, 0, 0xc000 | vector, 0]), KERNEL).unwrap()
        };
        let table = [level(3, 0x51), message(4), level(24, 0x61)];
        assert!(is_split_pin_vector(&table, 24, 0x51));
        assert!(!is_split_pin_vector(&table, 24, 0x41), "edge");
        assert!(!is_split_pin_vector(&table, 24, 0x61), "no pin");
        assert!(is_split_pin_vector(&table, 25, 0x61));
        assert!(!is_split_pin_vector(&table, 0, 0x51));
    }

    #[test]
    fn sorted_as_the_library_does() {
        let mut seed = 1u32;
        for length in (0..40).chain([4096]) {
            let mut routes = Vec::new();
            for _ in 0..length {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                routes.push(pin(seed >> 20, seed >> 8 & 1, seed >> 4 & 7).unwrap());
            }
            let mut expected = routes.clone();
            expected.sort_by_key(Route::key);
            heap_sort(&mut routes);
            let keys = |routes: &[Route]| routes.iter().map(Route::key).collect::<Vec<_>>();
            assert_eq!(keys(&routes), keys(&expected));
        }
    }

    #[test]
    fn lookup_in_a_long_table() {
        let mut routes: Vec<Route> = (0..MAX_ROUTES).rev().map(message).collect();
        assert_eq!(sort(&mut routes), Ok(()));
        for gsi in [0, 1, 2047, 4095] {
            assert_eq!(lookup(&routes, gsi), [message(gsi)]);
        }
        assert!(lookup(&routes, 4096).is_empty());
    }
}
