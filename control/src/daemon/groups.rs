//! Which ports share frame memory.
//!
//! A frame moves between ports of one group without a copy. A UMEM can't grow, and every socket costs kernel memory
//! for each of its chunks, so pod-facing ports come in groups of at most [`POD_GROUP`] queues, while the wires of
//! a NUMA node and mode share one group as long as it has room (see docs/architecture: UMEM groups).

use std::collections::BTreeMap;
use std::fmt;

use clearway_config::{Hugepages, XdpMode};
use clearway_engine::{Engine, EngineError};
use clearway_io::{Backing, HEADROOM, HugePages, RingSizes, Umem, UmemError, UmemGeometry, UmemGroup};

/// Queues of pod-facing ports that share one UMEM at most. Each socket costs the kernel 128 bytes and 0.34 µs for
/// every chunk of its UMEM, so a bigger group costs all of its members more; in a smaller one fewer frames stay
/// where they are.
pub(super) const POD_GROUP: usize = 8;

/// Chunks for the frames of all guests. Those of a turn are at most a batch of each worker, but frames wait in other
/// ports' rings, and each worker keeps some.
const GUEST_CHUNKS: u32 = 8192;

/// Sizes of chunks, bytes: the kernel takes no larger ones than a page.
const SMALL: u32 = 2048;
const LARGE: u32 = 4096;

/// Bytes of Ethernet header and two tags.
const L2: u32 = 14 + 8;

/// What the ports of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Veths that belong to us alone.
    Pods,
    /// Uplinks and other wires of one NUMA node and driver, in one mode.
    Wires {
        /// The node, where the kernel knows it.
        numa: Option<u32>,
        /// Sockets of one UMEM share the mode, so ports that want different ones can't.
        mode: Mode,
        /// Drivers differ in what `auto` comes to.
        driver: Option<String>,
    },
    /// Ports without an interface: captures.
    Files,
    /// Guests, all together: frames leave their memory by being copied into chunks of ours, and only while they are on
    /// their way.
    Guests,
}

/// `XdpMode` with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Auto,
    ZeroCopy,
    Copy,
    Generic,
}

impl From<XdpMode> for Mode {
    fn from(mode: XdpMode) -> Self {
        match mode {
            XdpMode::Auto => Self::Auto,
            XdpMode::ZeroCopy => Self::ZeroCopy,
            XdpMode::Copy => Self::Copy,
            XdpMode::Generic => Self::Generic,
        }
    }
}

/// The number of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupId(u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "umem{}", self.0)
    }
}

/// What a port needs.
#[derive(Debug, Clone)]
pub(super) struct Need {
    /// With whom it may share.
    pub(super) kind: Kind,
    /// Its queues.
    pub(super) queues: usize,
    /// Ring entries, if the configuration says so.
    pub(super) ring_size: Option<u32>,
    /// Chunks, if the configuration says so.
    pub(super) frames: Option<u32>,
    /// Bytes of its largest L3 packet.
    pub(super) mtu: u32,
    /// Of what a chunk holds, the NIC may use whole KiB only.
    pub(super) whole_kib: bool,
}

impl Need {
    fn chunk_size(&self) -> u32 {
        // A frame that does not fit one chunk comes in several: possible, but slower.
        if self.mtu <= self.mtu_of(SMALL) {
            SMALL
        } else {
            LARGE
        }
    }

    /// The largest MTU whose frames fit one chunk.
    pub(super) fn max_mtu(&self) -> u32 {
        self.mtu_of(LARGE)
    }

    /// Whether its frames fit one chunk.
    pub(super) fn in_one_chunk(&self) -> bool {
        self.mtu <= self.max_mtu()
    }

    fn mtu_of(&self, chunk: u32) -> u32 {
        let room = chunk - HEADROOM;
        let room = if self.whole_kib { room & !1023 } else { room };
        room - L2
    }
}

/// What a port got: its place until [`Groups::leave`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) group: GroupId,
    pub(super) rings: RingSizes,
    chunks: u32,
}

struct Group {
    sockets: UmemGroup,
    kind: Kind,
    rings: RingSizes,
    /// Chunks that no port has been promised.
    free: u32,
    ports: usize,
    /// New ports go elsewhere: it turned out to be in another mode.
    closed: bool,
}

/// All groups.
pub(super) struct Groups {
    groups: BTreeMap<GroupId, Group>,
    next: u32,
    huge_pages: HugePages,
    workers: usize,
    /// Queues that are open or about to be.
    queues: usize,
    /// Queues about to be opened, by kind: a group that is made now is made big enough for them.
    coming: BTreeMap<Kind, usize>,
}

/// Why there is no memory for a port.
#[derive(Debug, thiserror::Error)]
pub(super) enum GroupError {
    #[error(transparent)]
    Umem(#[from] UmemError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Groups {
    pub(super) fn new(huge_pages: Hugepages, workers: usize) -> Self {
        Self {
            groups: BTreeMap::new(),
            next: 0,
            huge_pages: match huge_pages {
                Hugepages::Auto => HugePages::Auto,
                Hugepages::Off => HugePages::Off,
                Hugepages::Require => HugePages::Require,
            },
            workers,
            queues: 0,
            coming: BTreeMap::new(),
        }
    }

    /// Says what is about to be opened, so that groups are made for all of it and not for the first.
    pub(super) fn expect(&mut self, needs: impl Iterator<Item = Need>) {
        self.coming.clear();
        for need in needs {
            *self.coming.entry(need.kind).or_default() += need.queues;
        }
    }

    /// A place for a port, in a group that has room or in a new one, which all workers are told of.
    pub(super) fn enter(&mut self, engine: &mut Engine, need: &Need) -> Result<Place, GroupError> {
        let coming = self.coming.get(&need.kind).copied().unwrap_or(0);
        let with_room = self.groups.iter().find_map(|(id, group)| {
            let rings = rings(need, group.rings);
            let chunks = chunks(need, rings);
            let fits = group.kind == need.kind
                && !group.closed
                && group.sockets.umem().chunk_size() == need.chunk_size()
                && group.free >= chunks;
            fits.then_some(Place {
                group: *id,
                rings,
                chunks,
            })
        });
        let place = match with_room {
            Some(place) => place,
            None => self.make(engine, need, coming)?,
        };
        if let Some(group) = self.groups.get_mut(&place.group) {
            group.free -= place.chunks;
            group.ports += 1;
        }
        self.queues += need.queues;
        if let Some(coming) = self.coming.get_mut(&need.kind) {
            *coming = coming.saturating_sub(need.queues);
        }
        Ok(place)
    }

    fn make(&mut self, engine: &mut Engine, need: &Need, coming: usize) -> Result<Place, GroupError> {
        let known = coming.max(need.queues);
        let capacity = match need.kind {
            // One that comes alone is followed by others; those of a start are known.
            Kind::Pods if coming <= 1 => POD_GROUP.max(need.queues),
            Kind::Pods => known.min(POD_GROUP).max(need.queues),
            Kind::Wires { .. } | Kind::Files => known,
            Kind::Guests => need.queues,
        };
        let total = (self.queues + known).max(if coming <= 1 { capacity } else { 0 });
        let default = RingSizes::for_queues(total);
        let own = rings(need, default);
        // The port's own wishes, and the default for the others.
        let others = vec![default; capacity - need.queues];
        let room = match need.kind {
            Kind::Guests => GUEST_CHUNKS,
            _ => chunks(need, own) + RingSizes::chunks(&others, self.workers),
        };
        let umem = Umem::new(UmemGeometry {
            chunk_size: need.chunk_size(),
            chunks: room.next_multiple_of(64),
            huge_pages: self.huge_pages,
        })?;
        engine.add_region(&umem)?;
        let id = GroupId(self.next);
        self.next += 1;
        let free = chunks(need, own) + others.iter().map(|rings| rings.rx + rings.tx).sum::<u32>();
        tracing::debug!(
            group = %id, chunks = umem.chunks(), chunk_size = umem.chunk_size(), rings = default.rx,
            backing = backing(umem.backing()), "frame memory made"
        );
        self.groups.insert(
            id,
            Group {
                sockets: UmemGroup::new(umem),
                kind: need.kind.clone(),
                rings: default,
                free,
                ports: 0,
                closed: false,
            },
        );
        Ok(Place {
            group: id,
            rings: own,
            chunks: chunks(need, own),
        })
    }

    /// The sockets of a group.
    pub(super) fn sockets(&mut self, place: &Place) -> Option<&mut UmemGroup> {
        self.groups.get_mut(&place.group).map(|group| &mut group.sockets)
    }

    /// No further port may enter a group.
    pub(super) fn close(&mut self, place: &Place) {
        if let Some(group) = self.groups.get_mut(&place.group) {
            group.closed = true;
        }
    }

    /// A port has left; the last one takes the group with it. Of pods' groups an empty one stays for the pods that come
    /// next: making one takes 5 ms.
    pub(super) fn leave(
        &mut self,
        engine: &mut Engine,
        place: &Place,
        queues: usize,
    ) -> Result<(), EngineError> {
        self.queues = self.queues.saturating_sub(queues);
        let Some(group) = self.groups.get_mut(&place.group) else {
            return Ok(());
        };
        group.free += place.chunks;
        group.ports -= 1;
        if group.ports > 0 {
            return Ok(());
        }
        let region = group.sockets.umem().id();
        if group.kind == Kind::Pods && !group.closed && !self.has_spare(place.group) {
            return Ok(());
        }
        self.groups.remove(&place.group);
        tracing::debug!(group = %place.group, "frame memory freed");
        engine.remove_region(region)
    }

    /// Whether there is an empty group of pods beside this one, with chunks of its size.
    fn has_spare(&self, beside: GroupId) -> bool {
        let size = self
            .groups
            .get(&beside)
            .map(|group| group.sockets.umem().chunk_size());
        self.groups.iter().any(|(id, group)| {
            let alike = group.kind == Kind::Pods && Some(group.sockets.umem().chunk_size()) == size;
            *id != beside && alike && group.ports == 0
        })
    }

    /// What a group's memory lies in.
    pub(super) fn backing(&self, place: &Place) -> Option<&'static str> {
        let group = self.groups.get(&place.group)?;
        Some(backing(group.sockets.umem().backing()))
    }
}

fn backing(backing: Backing) -> &'static str {
    match backing {
        Backing::HugePages => "hugepages",
        Backing::Pages => "pages",
    }
}

fn rings(need: &Need, default: RingSizes) -> RingSizes {
    need.ring_size
        .map_or(default, |size| RingSizes { rx: size, tx: size })
}

fn chunks(need: &Need, rings: RingSizes) -> u32 {
    let queues = u32::try_from(need.queues).unwrap_or(u32::MAX);
    need.frames
        .unwrap_or_else(|| (rings.rx + rings.tx).saturating_mul(queues))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clearway_engine::{EngineConfig, Idle};

    fn engine() -> (Engine, Vec<clearway_engine::Worker>) {
        Engine::manual(&EngineConfig {
            cores: vec![None],
            idle: Idle::Adaptive,
            fdb_capacity: 1024,
            fdb_seed: 1,
        })
        .expect("descriptors")
    }

    fn pod(mtu: u32) -> Need {
        Need {
            kind: Kind::Pods,
            queues: 1,
            ring_size: None,
            frames: None,
            mtu,
            whole_kib: false,
        }
    }

    #[test]
    fn pods_come_in_eights_and_one_empty_group_stays() {
        let (mut engine, _workers) = engine();
        let mut groups = Groups::new(Hugepages::Off, 1);
        let places: Vec<_> = (0..9)
            .map(|_| groups.enter(&mut engine, &pod(1500)).expect("memory"))
            .collect();
        let first = places[0].group;
        assert_eq!(
            places.iter().filter(|place| place.group == first).count(),
            POD_GROUP
        );
        assert_eq!(groups.groups.len(), 2);
        // Room that was given back is given out again.
        groups.leave(&mut engine, &places[3], 1).expect("alive");
        let again = groups.enter(&mut engine, &pod(1500)).expect("memory");
        assert_eq!(again.group, first);
        groups.leave(&mut engine, &places[8], 1).expect("alive");
        assert_eq!(groups.groups.len(), 2, "it stays for the next pod");
        for place in places[..3].iter().chain(&places[4..8]).chain([&again]) {
            groups.leave(&mut engine, place, 1).expect("alive");
        }
        assert_eq!(groups.groups.len(), 1, "one is enough");
        let next = groups.enter(&mut engine, &pod(1500)).expect("memory");
        assert_eq!((next.group, groups.groups.len()), (places[8].group, 1));
    }

    #[test]
    fn a_start_with_two_ports_makes_room_for_two() {
        let (mut engine, _workers) = engine();
        let mut groups = Groups::new(Hugepages::Off, 1);
        groups.expect([pod(1500), pod(1500)].into_iter());
        let places: Vec<_> = (0..2)
            .map(|_| groups.enter(&mut engine, &pod(1500)).expect("memory"))
            .collect();
        assert_eq!(places[0].group, places[1].group);
        assert_eq!(places[0].rings, RingSizes { rx: 2048, tx: 2048 });
        let umem = groups.sockets(&places[0]).expect("there").umem().clone();
        assert_eq!(umem.chunks(), RingSizes::chunks(&[places[0].rings; 2], 1));
    }

    #[test]
    fn big_frames_have_big_chunks() {
        let (mut engine, _workers) = engine();
        let mut groups = Groups::new(Hugepages::Off, 1);
        let small = groups.enter(&mut engine, &pod(1500)).expect("memory");
        let big = groups.enter(&mut engine, &pod(9000)).expect("memory");
        assert_ne!(small.group, big.group);
        assert_eq!(groups.sockets(&big).expect("there").umem().chunk_size(), 4096);
    }

    #[test]
    fn a_nic_that_uses_whole_kib_has_chunks_for_that() {
        let need = |mtu, whole_kib| Need {
            whole_kib,
            ..pod(mtu)
        };
        // 2048 less 256 of headroom is 1792 bytes, of which such a NIC takes 1024: 1002 and the L2 header.
        assert_eq!(need(1500, false).chunk_size(), 2048);
        assert_eq!(need(1500, true).chunk_size(), 4096);
        assert_eq!(
            (need(1002, true).chunk_size(), need(1003, true).chunk_size()),
            (2048, 4096)
        );
        assert_eq!(need(9000, true).max_mtu(), 3072 - 22);
        assert!(need(3050, true).in_one_chunk() && !need(3051, true).in_one_chunk());
        assert!(need(3818, false).in_one_chunk() && !need(3819, false).in_one_chunk());
    }
}
