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
    /// 17 bits: the kind and the index.
    #[inline(always)]
    pub(crate) fn pack(self) -> u32 {
        match self {
            Self::Member(id) => u32::from(id.0),
            Self::Tunnel(id) => 1 << 16 | u32::from(id.0),
        }
    }

    #[inline(always)]
    pub(crate) fn unpack(bits: u32) -> Self {
        if bits & 1 << 16 == 0 {
            Self::Member(MemberId(bits as u16))
        } else {
            Self::Tunnel(TunnelId(bits as u16))
        }
    }

    /// Whether it is a tunnel.
    #[inline(always)]
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Tunnel(_))
    }
}
