//! The value of a slot: what the table says of an address, in one word.
//!
//! ```text
//!   live 1 │ static 1 │ dest 17 │ generation 9 │ moves 4 │ move window 16 │ seen 16
//! ```

use super::HELD;
use crate::Dest;
use crate::ids::PackedDest;

/// What the table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Where it is.
    pub dest: Dest,
    /// Generation of that member or tunnel when it was learned: an entry of an older one is void.
    pub generation: u16,
    /// Configured, not learned: never ages, never moves.
    pub is_static: bool,
    /// Engine second (16 bits, wrapping) when it was last seen as a source.
    pub seen: u16,
}

const LIVE: u64 = 1 << 63;
const STATIC: u64 = 1 << 62;
const DEST_SHIFT: u32 = 45;
const GENERATION_SHIFT: u32 = 36;
/// Generations are compared in these bits.
pub(crate) const GENERATION_MASK: u16 = 0x1ff;
const MOVES_SHIFT: u32 = 32;
const WINDOW_SHIFT: u32 = 16;
/// What a slot says of its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value(pub(super) u64);

impl Value {
    pub(super) fn new(entry: FdbEntry) -> Self {
        Self(
            LIVE | if entry.is_static { STATIC } else { 0 }
                | u64::from(PackedDest::from(entry.dest).0) << DEST_SHIFT
                | u64::from(entry.generation & GENERATION_MASK) << GENERATION_SHIFT
                | u64::from(entry.seen),
        )
    }

    #[inline(always)]
    pub(super) fn live(self) -> bool {
        self.0 & LIVE != 0
    }

    #[inline(always)]
    pub(super) fn is_static(self) -> bool {
        self.0 & STATIC != 0
    }

    #[inline(always)]
    pub(super) fn seen(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub(crate) fn dest(self) -> PackedDest {
        PackedDest((self.0 >> DEST_SHIFT) as u32 & 0x1_ffff)
    }

    #[inline(always)]
    pub(crate) fn generation(self) -> u16 {
        (self.0 >> GENERATION_SHIFT) as u16 & GENERATION_MASK
    }

    pub(super) fn entry(self) -> FdbEntry {
        FdbEntry {
            dest: self.dest().unpack(),
            generation: self.generation(),
            is_static: self.is_static(),
            seen: self.seen(),
        }
    }

    /// Whether both are live, of the same place and seen in the same second: nothing to write.
    #[inline(always)]
    pub(super) fn is_as(self, other: Self) -> bool {
        const OTHERS: u64 = STATIC | 0xf << MOVES_SHIFT | 0xffff << WINDOW_SHIFT;
        (self.0 ^ other.0) & !OTHERS == 0
    }

    /// Destination and generation: what a move changes.
    #[inline(always)]
    pub(super) fn place(self) -> u64 {
        (self.0 >> GENERATION_SHIFT) & 0x3ff_ffff
    }

    #[inline(always)]
    pub(super) fn with_seen(self, now: u16) -> Self {
        Self(self.0 & !0xffff | u64::from(now))
    }

    pub(super) fn moves(self) -> u8 {
        (self.0 >> MOVES_SHIFT) as u8 & 0xf
    }

    pub(super) fn window(self) -> u16 {
        (self.0 >> WINDOW_SHIFT) as u16
    }

    pub(super) fn with_moves(self, moves: u8, window: u16) -> Self {
        let cleared = self.0 & !(0xf << MOVES_SHIFT | 0xffff << WINDOW_SHIFT);
        Self(cleared | u64::from(moves.min(HELD)) << MOVES_SHIFT | u64::from(window) << WINDOW_SHIFT)
    }
}
