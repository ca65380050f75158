//! The chunks that a socket has lent to the kernel: a bit per chunk.
//!
//! What comes back is checked against it, so that a descriptor of a racing or faulty kernel can't make two
//! owners of one chunk; and what has not come back when the socket closes is known.

pub(crate) struct LentChunks {
    bits: Box<[u64]>,
    count: u32,
}

impl LentChunks {
    pub(crate) fn new(chunks: u32) -> Self {
        Self {
            bits: vec![0; chunks.div_ceil(64) as usize].into(),
            count: 0,
        }
    }

    /// Chunks that are lent.
    #[inline(always)]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The caller owned the chunk, so its bit is clear.
    #[inline(always)]
    pub(crate) fn lend(&mut self, chunk: u32) {
        let bit = 1 << (chunk % 64);
        if let Some(word) = self.bits.get_mut(chunk as usize / 64) {
            debug_assert_eq!(*word & bit, 0, "chunk {chunk} is lent already");
            *word |= bit;
            self.count += 1;
        }
    }

    /// False if it was not lent (or does not exist): then it is not the caller's.
    #[inline(always)]
    pub(crate) fn take_back(&mut self, chunk: u32) -> bool {
        let bit = 1 << (chunk % 64);
        match self.bits.get_mut(chunk as usize / 64) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                self.count -= 1;
                true
            }
            _ => false,
        }
    }

    /// Takes back all.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = u32> {
        self.count = 0;
        self.bits.iter_mut().enumerate().flat_map(|(index, word)| {
            let mut rest = std::mem::take(word);
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(index as u32 * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_once_and_only_if_it_was_lent() {
        let mut lent = LentChunks::new(100);
        [0, 63, 64, 99].into_iter().for_each(|chunk| lent.lend(chunk));
        assert_eq!(lent.count(), 4);
        assert!(lent.take_back(63) && !lent.take_back(63));
        assert!(!lent.take_back(1) && !lent.take_back(100) && !lent.take_back(u32::MAX));
        assert_eq!(lent.drain().collect::<Vec<_>>(), [0, 64, 99]);
        assert_eq!((lent.count(), lent.take_back(0)), (0, false));
    }
}
