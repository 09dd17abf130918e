// SPDX-License-Identifier: GPL-2.0-only

//! The checks on an XSAVE image that userspace hands over (`KVM_SET_XSAVE`).
//!
//! XRSTOR faults on a malformed image, and it would fault in the host: everything it checks is checked
//! here first (SDM vol. 1 section 13.8).

use super::bit;
use crate::model::errno::Errno;

/// Offset of MXCSR in the legacy region, in bytes.
pub const MXCSR_OFFSET: usize = 24;

/// Offset of the XSAVE header, in bytes.
pub const HEADER_OFFSET: usize = 512;

/// Size of the XSAVE header, in bytes.
pub const HEADER_SIZE: usize = 64;

/// MXCSR_MASK of processors that store 0 there (SDM vol. 1 section 11.6.6).
const MXCSR_DEFAULT_MASK: u32 = 0xffbf;

/// The XSAVE header (SDM vol. 1 section 13.4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Components that the image holds; the others get their initial state.
    pub xstate_bv: u64,
    /// Format of the image: 0 for the standard one.
    pub xcomp_bv: u64,
    /// The rest of the header, or-ed together: must be 0.
    pub reserved: u64,
}

impl Header {
    /// Reads the header of `image`, or `None` when the image is too short for one.
    pub fn parse(image: &[u8]) -> Option<Self> {
        let bytes = image.get(HEADER_OFFSET..HEADER_OFFSET.checked_add(HEADER_SIZE)?)?;
        let mut header = Self::default();
        for (number, word) in bytes.chunks_exact(8).enumerate() {
            let value = word
                .iter()
                .rev()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            match number {
                0 => header.xstate_bv = value,
                1 => header.xcomp_bv = value,
                _ => header.reserved |= value,
            }
        }
        Some(header)
    }

    /// Returns true when the image's MXCSR counts. When it doesn't, the caller stores the initial value,
    /// 0x1f80, because XRSTOR loads MXCSR from memory all the same.
    pub const fn uses_mxcsr(&self) -> bool {
        self.xstate_bv & (bit::LEGACY | bit::AVX) != 0
    }
}

/// Checks an image of the standard format before it becomes a guest's state.
///
/// `xcr0` is what the guest may enable (its CPUID's XCR0 mask), `mxcsr_mask` the host's MXCSR_MASK or 0.
///
/// # Errors
///
/// [`Errno::Invalid`] when the image is shorter than its header, is compacted, has reserved header bits
/// set, holds components the guest may not use, or has reserved bits set in an MXCSR that counts.
pub fn check_standard(image: &[u8], xcr0: u64, mxcsr_mask: u32) -> Result<Header, Errno> {
    let header = Header::parse(image).ok_or(Errno::Invalid)?;
    if header.xcomp_bv != 0 || header.reserved != 0 {
        return Err(Errno::Invalid);
    }
    if header.xstate_bv & !(xcr0 | bit::LEGACY) != 0 {
        return Err(Errno::Invalid);
    }
    let allowed = if mxcsr_mask == 0 {
        MXCSR_DEFAULT_MASK
    } else {
        mxcsr_mask
    };
    if header.uses_mxcsr() && mxcsr(image).ok_or(Errno::Invalid)? & !allowed != 0 {
        return Err(Errno::Invalid);
    }
    Ok(header)
}

fn mxcsr(image: &[u8]) -> Option<u32> {
    let bytes = image.get(MXCSR_OFFSET..MXCSR_OFFSET.checked_add(4)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> [u8; 4096] {
        let mut image = [0; 4096];
        image[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        image[512] = 7;
        image
    }

    #[test]
    fn good_images() {
        let header = check_standard(&image(), 7, 0).unwrap();
        assert_eq!(
            header,
            Header {
                xstate_bv: 7,
                xcomp_bv: 0,
                reserved: 0
            }
        );
        assert!(check_standard(&[0; 576], 0, 0).is_ok());
    }

    #[test]
    fn bad_images() {
        assert_eq!(check_standard(&[0; 575], 7, 0), Err(Errno::Invalid));
        assert_eq!(check_standard(&[], 7, 0), Err(Errno::Invalid));
        assert_eq!(
            check_standard(&image(), 3, 0),
            Err(Errno::Invalid),
            "AVX not offered"
        );
        let mut i = image();
        i[527] = 0x80;
        assert_eq!(check_standard(&i, 7, 0), Err(Errno::Invalid), "compacted");
        let mut i = image();
        i[575] = 1;
        assert_eq!(
            check_standard(&i, 7, 0),
            Err(Errno::Invalid),
            "reserved header byte"
        );
        let mut i = image();
        i[27] = 1;
        assert_eq!(
            check_standard(&i, 7, 0),
            Err(Errno::Invalid),
            "reserved MXCSR bit"
        );
        let mut i = image();
        i[24] = 0xc0;
        assert_eq!(
            check_standard(&i, 7, 0),
            Err(Errno::Invalid),
            "DAZ without a mask that has it"
        );
        assert!(check_standard(&i, 7, 0xffff).is_ok());
    }
}
