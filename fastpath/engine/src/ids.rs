//! Dense numbers of the things that a snapshot holds: indexes into its tables.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// The id as an index.
            #[inline(always)]
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// A port: an interface or other endpoint with all its queues.
    PortId(u16)
);
id!(
    /// A bridge domain. 0 is never used: an FDB key of 0 means "empty".
    BdId(u16)
);
id!(
    /// A member of a bridge domain: one port's service in it. Index into the domain's members.
    MemberId(u16)
);
id!(
    /// A remote VTEP as seen from one of ours.
    TunnelId(u16)
);
id!(
    /// One of our VTEPs.
    VtepId(u16)
);
id!(
    /// A worker thread.
    WorkerId(u8)
);

/// Where a frame came from or goes to inside a bridge domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dest {
    /// A member of the domain.
    Member(MemberId),
    /// A remote VTEP; the VNI is the domain's.
    Tunnel(TunnelId),
}

impl Dest {
    /// Whether it is a tunnel.
    #[inline(always)]
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Tunnel(_))
    }
}

impl PortId {
    /// The number of no port.
    pub(crate) const NONE: Self = Self(u16::MAX);
}

/// A [`Dest`] in 17 bits, the kind and the index: as FDB entries carry it, and quick to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedDest(pub(crate) u32);

const TUNNEL: u32 = 1 << 16;

impl PackedDest {
    #[inline(always)]
    pub(crate) fn is_tunnel(self) -> bool {
        self.0 & TUNNEL != 0
    }

    #[inline(always)]
    pub(crate) fn unpack(self) -> Dest {
        let index = self.0 as u16;
        if self.is_tunnel() {
            Dest::Tunnel(TunnelId(index))
        } else {
            Dest::Member(MemberId(index))
        }
    }
}

impl From<Dest> for PackedDest {
    #[inline(always)]
    fn from(dest: Dest) -> Self {
        match dest {
            Dest::Member(id) => Self(u32::from(id.0)),
            Dest::Tunnel(id) => Self(TUNNEL | u32::from(id.0)),
        }
    }
}
