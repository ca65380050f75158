//! Work on a packet that its sender left to the device: an L4 checksum that is to be finished, a large packet that is to
//! be cut into many (virtio 1.2 §5.1.6.2; the kernel's `CHECKSUM_PARTIAL` and GSO).
//!
//! Such a frame goes untouched to a port whose receiver said that it takes it, so that packets of 64 KiB cross a host
//! whole; for all others the engine does the work.

/// Kinds of work that a frame needs, or that the receiver behind a port does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Offloads(u16);

bitflags::bitflags! {
    impl Offloads: u16 {
        /// The L4 checksum is that of the pseudo header.
        const CHECKSUM = 1;
        /// TCP over IPv4, larger than a packet.
        const TSO4 = 1 << 1;
        /// TCP over IPv6, larger than a packet.
        const TSO6 = 1 << 2;
        /// As a mark on TSO: the first packet carries CWR (RFC 3168 §6.1.2).
        const ECN = 1 << 3;
        /// UDP, to be cut into IP fragments.
        const UFO = 1 << 4;
        /// UDP over IPv4, to be cut into datagrams.
        const USO4 = 1 << 5;
        /// UDP over IPv6, to be cut into datagrams.
        const USO6 = 1 << 6;
    }
}

impl Offloads {
    /// All kinds of packets that are larger than they may be on a wire.
    pub const GSO: Self = Self::TSO4
        .union(Self::TSO6)
        .union(Self::UFO)
        .union(Self::USO4)
        .union(Self::USO6);
}

/// What a frame needs before it can go out on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// What kinds of work: [`Offloads::CHECKSUM`] always, and at most one of [`Offloads::GSO`].
    pub needs: Offloads,
    /// Where checksumming begins, in bytes from the start of the frame: its L4 header.
    pub start: u16,
    /// Where the checksum goes, in bytes from `start`. The pseudo header's sum is there.
    pub field: u16,
    /// GSO: bytes of L4 payload in each packet (the MSS); with UFO of IP payload in each fragment; else 0.
    pub gso_size: u16,
}
