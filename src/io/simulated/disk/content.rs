//! What a file holds. Zeros take no memory.

use super::{BLOCK, SECTOR_BYTES};
use crate::io::buffer::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Blocks that are not zeros.
#[derive(Clone, Default)]
pub(super) struct Content(pub(super) BTreeMap<u64, Rc<[u8; BLOCK_BYTES]>>);

impl Content {
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        let (mut position, mut bytes) = (position, bytes);
        while !bytes.is_empty() {
            let (number, skip) = (position / BLOCK, (position % BLOCK) as usize);
            let length = bytes.len().min(BLOCK_BYTES - skip);
            let (piece, rest) = bytes.split_at(length);
            let is_zeros = piece.iter().all(|byte| *byte == 0);
            if is_zeros && length == BLOCK_BYTES {
                self.0.remove(&number);
            } else if !is_zeros || self.0.contains_key(&number) {
                let block = self.0.entry(number);
                let block = block.or_insert_with(|| Rc::new([0; BLOCK_BYTES]));
                Rc::make_mut(block)[skip..skip + length].copy_from_slice(piece);
            }
            (position, bytes) = (position + length as u64, rest);
        }
    }

    pub fn read(&self, position: u64, out: &mut [u8]) {
        let mut at = 0;
        while at < out.len() {
            let place = position + at as u64;
            let (number, skip) = (place / BLOCK, (place % BLOCK) as usize);
            let length = (out.len() - at).min(BLOCK_BYTES - skip);
            match self.0.get(&number) {
                Some(block) => out[at..at + length].copy_from_slice(&block[skip..skip + length]),
                None => out[at..at + length].fill(0),
            }
            at += length;
        }
    }

    /// Takes whole blocks or sectors over from another.
    pub fn copy_sector(&mut self, other: &Content, sector: u64) {
        let mut bytes = [0; SECTOR_BYTES as usize];
        other.read(sector * SECTOR_BYTES, &mut bytes);
        self.write(sector * SECTOR_BYTES, &bytes);
    }
}
