//! What the stages know: immutable tables by id, swapped as a whole between two turns.
//!
//! ```text
//!   Snapshot ─► ports[PortId]     ─► service: access │ trunk (VID → place) │ tunnel │ cross-connect
//!            ─► domains[BdId]     ─► members, flood list, remotes, learning rules
//!            ─► vteps[VtepId]     ─► VNI → domain, remote address → tunnel
//!            ─► tunnels[TunnelId] ─► precomputed outer headers
//! ```
//!
//! Everything sits behind an `Arc` of its own: a new snapshot shares what did not change with the old one.
//! Control builds snapshots, workers read them; nobody changes one.

use crate::police::Policer;
use crate::storm::Storm;
use crate::{BdId, LearnRules, MemberId, PortId, TunnelId, VtepId};
use clearway_wire::{Dscp, EtherType, MappedIp, Pcp, Tag, Tci, Vid, Vni};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// The tables of one version of the configuration.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Version: one more than the snapshot before.
    pub epoch: u64,
    /// Ports by id.
    pub ports: Vec<Option<Arc<PortConf>>>,
    /// Bridge domains by id; entry 0 is never used.
    pub domains: Vec<Option<Arc<Domain>>>,
    /// Our VTEPs by id.
    pub vteps: Vec<Option<Arc<Vtep>>>,
    /// Remote VTEPs by id.
    pub tunnels: Vec<Option<Arc<Tunnel>>>,
}

macro_rules! getter {
    ($($(#[$doc:meta])* $name:ident($id:ty) in $table:ident -> $item:ty)*) => {
        impl Snapshot {
            $($(#[$doc])*
            #[inline(always)]
            #[must_use]
            pub fn $name(&self, id: $id) -> Option<&$item> {
                self.$table.get(id.index())?.as_deref()
            })*
        }
    };
}

getter! {
    /// A port's configuration.
    port(PortId) in ports -> PortConf
    /// A bridge domain.
    domain(BdId) in domains -> Domain
    /// One of our VTEPs.
    vtep(VtepId) in vteps -> Vtep
    /// A remote VTEP.
    tunnel(TunnelId) in tunnels -> Tunnel
}

/// A place in a bridge domain: which domain, and which of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The domain.
    pub bd: BdId,
    /// The member.
    pub member: MemberId,
}

/// What a port does with the frames that arrive on it.
#[derive(Clone, Debug, Default)]
pub enum Service {
    /// Nothing: an uplink that only carries VXLAN.
    #[default]
    None,
    /// Untagged frames belong to a domain; tagged ones are dropped.
    Access(Place),
    /// All frames belong to a domain; their tags are payload (dot1q-tunnel).
    Tunnel(Place),
    /// Tags decide.
    Trunk {
        /// Where untagged frames belong.
        native: Option<Place>,
        /// Where tagged frames belong.
        vids: Arc<VidTable>,
    },
    /// All frames go to another port, unseen.
    CrossConnect(PortId),
}

/// Where the VIDs of a trunk belong: 802.1Q and 802.1ad have each a table of their own, made when something is in it.
#[derive(Default)]
pub struct VidTable {
    customer: Option<Box<[VidEntry; 4096]>>,
    service: Option<Box<[VidEntry; 4096]>>,
}

/// Where one VID of one TPID belongs.
#[derive(Clone, Default)]
pub struct VidEntry {
    /// Frames with this tag alone, or whose second tag is not in `inner`: the tag is removed.
    pub single: Option<Place>,
    /// QinQ: frames with a second tag, by its VID; both tags are removed.
    pub inner: Option<Arc<HashMap<u16, Place>>>,
}

impl std::fmt::Debug for VidTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = |entry: &&VidEntry| entry.single.is_some() || entry.inner.is_some();
        let entries = self.customer.iter().chain(&self.service);
        let used = entries.flat_map(|entries| entries.iter()).filter(used);
        write!(f, "VidTable({} VIDs)", used.count())
    }
}

impl VidTable {
    /// The entry of a VID, to fill in. The TPID is that of 802.1ad, or else 802.1Q is meant.
    pub fn entry_mut(&mut self, tpid: EtherType, vid: Vid) -> &mut VidEntry {
        let entries = if tpid == EtherType::QINQ {
            &mut self.service
        } else {
            &mut self.customer
        };
        let empty = || Box::new(std::array::from_fn(|_| VidEntry::default()));
        &mut entries.get_or_insert_with(empty)[usize::from(vid.get() & 0xfff)]
    }

    /// Where a frame with these tags belongs, and how many of them to remove.
    #[inline]
    #[must_use]
    pub fn classify(&self, outer: Tag, inner: Option<Tag>) -> Option<(Place, u8)> {
        let entries = match outer.tpid {
            EtherType::VLAN => self.customer.as_ref()?,
            EtherType::QINQ => self.service.as_ref()?,
            _ => return None,
        };
        let entry = &entries[usize::from(outer.tci.vid_bits() & 0xfff)];
        if let (Some(table), Some(inner)) = (&entry.inner, inner)
            && let Some(place) = table.get(&inner.tci.vid_bits())
        {
            return Some((*place, 2));
        }
        entry.single.map(|place| (place, 1))
    }
}

/// Frames per second that may be flooded from a port, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StormLimits {
    /// To the broadcast address.
    pub broadcast: Option<u32>,
    /// To group addresses.
    pub multicast: Option<u32>,
    /// To addresses that the domain does not know.
    pub unknown: Option<u32>,
}

/// A port as the stages see it.
#[derive(Clone, Debug)]
pub struct PortConf {
    /// What becomes of frames that are not for a VTEP.
    pub service: Service,
    /// VTEPs whose VXLAN arrives here.
    pub vteps: Box<[VtepId]>,
    /// Source addresses that may be used; empty: any.
    pub allowed_macs: Box<[u64]>,
    /// Flood limits.
    pub storm: StormLimits,
    /// What is spent of them; shared by all snapshots and queues of this port.
    pub storm_buckets: Arc<Storm>,
    /// Limits what is received, if anything does; shared by all snapshots and queues of this port, like the next.
    pub police_receive: Option<Arc<Policer>>,
    /// Limits what is sent.
    pub police_transmit: Option<Arc<Policer>>,
    /// Whether source addresses are learned here.
    pub learning: bool,
    /// Most dynamic addresses.
    pub learn_limit: u32,
    /// Dynamic addresses now; shared by all snapshots of this port.
    pub entries: Arc<AtomicU32>,
    /// Largest L3 packet in bytes that the port sends.
    pub mtu: u32,
    /// Whether frames may arrive with unfinished L4 checksums (a veth peer's offload), to be finished here.
    pub finish_checksums: bool,
}

impl Default for PortConf {
    fn default() -> Self {
        Self {
            service: Service::None,
            vteps: Box::default(),
            allowed_macs: Box::default(),
            storm: StormLimits::default(),
            storm_buckets: Arc::default(),
            police_receive: None,
            police_transmit: None,
            learning: true,
            learn_limit: u32::MAX,
            entries: Arc::default(),
            mtu: 1500,
            finish_checksums: false,
        }
    }
}

/// Tags that a member's frames get on its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagRule {
    /// Outer tag: TPID and VID; none: frames leave as they are.
    pub outer: Option<(EtherType, Vid)>,
    /// Second tag of QinQ.
    pub inner: Option<Vid>,
    /// Priority to set; none: the one the frame came with.
    pub pcp: Option<Pcp>,
    /// A trunk's native domain: a frame that still has a tag may not leave, since on the trunk that tag means another
    /// domain.
    pub native: bool,
}

impl TagRule {
    /// The tags to push, outer first, for a frame that came with these TCIs.
    #[inline]
    pub(crate) fn tags(&self, outer_tci: u16, inner_tci: u16) -> (Option<Tag>, Option<Tag>) {
        let tci = |came: u16, vid: Vid| {
            let tci = Tci(came).with_vid(vid);
            self.pcp.map_or(tci, |pcp| tci.with_pcp(pcp))
        };
        let outer = self.outer.map(|(tpid, vid)| Tag {
            tpid,
            tci: tci(outer_tci, vid),
        });
        let inner = self.inner.map(|vid| Tag::customer(tci(inner_tci, vid)));
        (outer, inner)
    }
}

/// A port's service in a domain.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// Grows when the slot is used anew or its addresses are flushed; older FDB entries are void.
    pub generation: u16,
    /// How its frames are tagged on the port.
    pub tags: TagRule,
    /// Isolated members do not reach one another.
    pub isolated: bool,
}

/// A bridge domain.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its members; slots of removed ones stay empty.
    pub members: Vec<Option<Member>>,
    /// Where head-end replication goes.
    pub remotes: Box<[TunnelId]>,
    /// Its VXLAN network identifier.
    pub vni: Option<Vni>,
    /// Whether it learns source addresses.
    pub learning: bool,
    /// Limits and damping; `port_limit` comes from the port.
    pub rules: LearnRules,
    /// Seconds after which an unseen address is forgotten; 0: never.
    pub aging: u16,
    /// Known hosts: ARP requests and neighbour solicitations for them are answered here. None: never.
    pub hosts: Option<Arc<HashMap<IpAddr, u64>>>,
}

impl Default for Domain {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            remotes: Box::default(),
            vni: None,
            learning: true,
            rules: LearnRules {
                domain_limit: u32::MAX,
                port_limit: u32::MAX,
                moves: 5,
                move_window: 10,
                hold: 30,
            },
            aging: 300,
            hosts: None,
        }
    }
}

impl Domain {
    /// A member.
    #[inline(always)]
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(id.index())?.as_ref()
    }
}

/// VNI → bridge domain, in two steps of 12 bits.
#[derive(Clone, Default)]
pub struct VniTable {
    pages: Vec<Option<Arc<[BdId; 4096]>>>,
}

impl VniTable {
    /// Enters a VNI. Pages shared with an older table are copied first.
    pub fn insert(&mut self, vni: Vni, bd: BdId) {
        let (page, entry) = Self::split(vni);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Arc::new([BdId(0); 4096]));
        Arc::make_mut(page)[entry] = bd;
    }

    fn split(vni: Vni) -> (usize, usize) {
        let vni = vni.get() as usize;
        (vni >> 12, vni & 0xfff)
    }

    /// The domain of a VNI.
    #[inline]
    #[must_use]
    pub fn get(&self, vni: Vni) -> Option<BdId> {
        let (page, entry) = Self::split(vni);
        let bd = self.pages.get(page)?.as_ref()?[entry];
        (bd.0 != 0).then_some(bd)
    }
}

/// Remote address → tunnel.
pub type Remotes = HashMap<MappedIp, TunnelId, rapidhash::fast::RandomState>;

/// One of our VTEPs (RFC 7348 §4).
#[derive(Clone)]
pub struct Vtep {
    /// Its address in the underlay.
    pub local: MappedIp,
    /// MAC address of its interface, in the low 48 bits.
    pub mac: u64,
    /// UDP port that it listens on.
    pub udp_port: u16,
    /// VLAN of the underlay on its port.
    pub vid: Option<Vid>,
    /// Its port, if nobody else there has its address: ARP requests and neighbour solicitations for it are answered here.
    pub answers: Option<PortId>,
    /// VNI → domain.
    pub vnis: VniTable,
    /// Source address → tunnel.
    pub remotes: Remotes,
}

/// The DSCP of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterDscp {
    /// The inner packet's (RFC 2983, uniform model).
    Copy,
    /// Always this one.
    Fixed(Dscp),
}

/// A remote VTEP.
#[derive(Clone)]
pub struct Tunnel {
    /// The port that leads there.
    pub port: PortId,
    /// Grows when the slot is used anew or its addresses are flushed; older FDB entries are void.
    pub generation: u16,
    /// Largest inner frame in bytes (from its destination MAC on) that fits the underlay.
    pub max_inner: u32,
    /// Outer headers; none while the next hop is unknown.
    pub rewrite: Option<crate::Rewrite>,
}
