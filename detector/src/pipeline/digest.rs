//! A hello's bytes, digested block by block: whether the same came again can be told without keeping them.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

/// Bytes of a block.
const BLOCK: usize = 64;

/// Four bytes for each block of a stream from its first byte; the last block may be shorter.
#[derive(Clone, Debug)]
pub(super) struct Digest(Box<[u32]>);

/// Digests under a key of its own, so that nobody can aim at a collision.
#[derive(Debug, Default)]
pub(super) struct Digester(RandomState);

impl Digester {
    pub(super) fn digest(&self, stream: &[u8]) -> Digest {
        Digest(stream.chunks(BLOCK).map(|block| self.block(block)).collect())
    }

    /// Whether `piece` at `offset` of the stream, which was `length` bytes long, has other bytes than were digested. Blocks
    /// of which only a part came are not compared.
    pub(super) fn differs(&self, digest: &Digest, length: usize, offset: usize, piece: &[u8]) -> bool {
        let first = offset.div_ceil(BLOCK);
        let skip = first.saturating_mul(BLOCK).saturating_sub(offset);
        let within = length.saturating_sub(offset).min(piece.len());
        let Some(whole) = piece.get(skip..within) else { return false };
        let ends = offset.saturating_add(within) >= length;
        let blocks = digest.0.iter().skip(first).zip(whole.chunks(BLOCK));
        blocks.filter(|(_, block)| block.len() == BLOCK || ends).any(|(digest, block)| self.block(block) != *digest)
    }

    fn block(&self, block: &[u8]) -> u32 {
        // The low half of a good hash is a good hash.
        u32::try_from(self.0.hash_one(block) & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_same_bytes_never_differ_and_changed_whole_blocks_do(
            stream in prop::collection::vec(any::<u8>(), 1..400),
            offset in 0_usize..400,
            take in 0_usize..400,
            flip in 0_usize..400,
        ) {
            let digester = Digester::default();
            let digest = digester.digest(&stream);
            let offset = offset % stream.len();
            let end = stream.len().min(offset + take);
            let mut piece = stream[offset..end].to_vec();
            prop_assert!(!digester.differs(&digest, stream.len(), offset, &piece));
            if let Some(byte) = piece.get_mut(flip) {
                *byte ^= 1;
                let block = (offset + flip) / BLOCK;
                let whole = block * BLOCK >= offset && stream.len().min((block + 1) * BLOCK) <= end;
                prop_assert_eq!(digester.differs(&digest, stream.len(), offset, &piece), whole);
            }
        }
    }
}
