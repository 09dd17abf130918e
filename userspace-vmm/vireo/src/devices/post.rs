// SPDX-License-Identifier: Apache-2.0

//! Port 0x80: guests write to it to pass a microsecond; there is no display for the codes.

use super::bus::Device;

/// Swallows writes, remembers the last value as the real latch does.
#[derive(Debug, Default)]
pub struct Post {
    last: u8,
}

impl Device for Post {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.last);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(value) = data.first() {
            self.last = *value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_code() {
        let mut post = Post::default();
        post.write(0, &[0x55]);
        let mut data = [0];
        post.read(0, &mut data);
        assert_eq!(data, [0x55]);
    }
}
