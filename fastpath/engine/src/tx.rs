//! Frames that wait, within a turn, for the end of their batch: one list per output port.

use crate::{DropReason, PortId, WorkerId};
use clearway_io::{BATCH, Frame, Leaving, Offloads, RegionId};

/// Frames that a list takes between two flushes. A batch adds one frame per packet and member behind the
/// port, and up to some dozens for a large packet that is cut up: this is about twice what a long ring takes.
const LIST: usize = 32 * BATCH;

/// How this worker reaches a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Route {
    /// It can't: the port is down or unknown.
    #[default]
    None,
    /// Through its own queue with this index.
    Local(usize),
    /// Through another worker, which has a queue of the port.
    Remote(WorkerId),
}

#[derive(Default)]
struct TxList {
    frames: Vec<Frame>,
    route: Route,
    region: Option<RegionId>,
    /// What the receiver behind the port does itself. With a remote route everything: its worker knows.
    offloads: Offloads,
    /// Frames that it takes: [`LIST`], or none without a route.
    room: usize,
    /// Largest frame in bytes that the port sends.
    max_frame: u32,
}

impl TxList {
    /// Why it does not take a frame of that length.
    #[cold]
    fn refusal(&self, len: u32) -> DropReason {
        match self.route {
            Route::None => DropReason::TxDown,
            _ if len > self.max_frame => DropReason::PortMtu,
            _ => DropReason::TxFull,
        }
    }

    #[inline(always)]
    fn refuses(&self, len: u32) -> bool {
        self.frames.len() >= self.room || len > self.max_frame
    }
}

/// The lists of a worker, by port.
#[derive(Default)]
pub(crate) struct TxQueues {
    lists: Vec<TxList>,
    /// Ports whose list is not empty.
    dirty: Vec<PortId>,
}

impl TxQueues {
    fn list_mut(&mut self, port: PortId) -> &mut TxList {
        if self.lists.len() <= port.index() {
            self.lists.resize_with(port.index() + 1, TxList::default);
        }
        &mut self.lists[port.index()]
    }

    /// Sets how a port is reached, and what it takes. Makes room, so that the packet path allocates nothing.
    pub(crate) fn set_route(
        &mut self,
        port: PortId,
        route: Route,
        region: Option<RegionId>,
        offloads: Offloads,
    ) {
        let list = self.list_mut(port);
        (list.route, list.region, list.offloads) = (route, region, offloads);
        list.room = if route == Route::None { 0 } else { LIST };
        if route != Route::None {
            list.frames.reserve_exact(LIST - list.frames.len());
        }
        let lists = self.lists.len();
        self.dirty.reserve(lists);
    }

    /// Sets the largest L3 packet of a port. Its frames may be an Ethernet header and one tag longer: what the
    /// kernel lets a device of that MTU send (`__is_skb_forwardable`).
    pub(crate) fn set_mtu(&mut self, port: PortId, mtu: u32) {
        self.list_mut(port).max_frame = mtu.saturating_add(18);
    }

    pub(crate) fn route(&self, port: PortId) -> Route {
        self.lists
            .get(port.index())
            .map_or(Route::None, |list| list.route)
    }

    /// The region whose frames the port sends without a copy, if its queue is ours.
    #[inline]
    pub(crate) fn region(&self, port: PortId) -> Option<RegionId> {
        self.lists.get(port.index())?.region
    }

    /// Whether a port takes frames that need this.
    #[inline]
    pub(crate) fn takes(&self, port: PortId, needs: Offloads) -> bool {
        let list = self.lists.get(port.index());
        list.is_some_and(|list| list.offloads.contains(needs))
    }

    /// Why a port would not take a frame of that length now, if so.
    pub(crate) fn refusal(&self, port: PortId, len: u32) -> Option<DropReason> {
        match self.lists.get(port.index()) {
            None => Some(DropReason::TxDown),
            Some(list) => list.refuses(len).then(|| list.refusal(len)),
        }
    }

    /// Queues a frame with nothing left undone for a port.
    #[inline]
    pub(crate) fn push(&mut self, port: PortId, frame: Frame) -> Result<(), (Frame, DropReason)> {
        let len = frame.len();
        self.push_as(port, frame, len)
    }

    /// Queues a frame that counts as one of `len` bytes against the port's MTU.
    #[inline]
    pub(crate) fn push_as(
        &mut self,
        port: PortId,
        frame: Frame,
        len: u32,
    ) -> Result<(), (Frame, DropReason)> {
        let Some(list) = self.lists.get_mut(port.index()) else {
            return Err((frame, DropReason::TxDown));
        };
        if list.refuses(len) {
            let reason = list.refusal(len);
            return Err((frame, reason));
        }
        if list.frames.is_empty() {
            self.dirty.push(port);
        }
        list.frames.push(frame);
        Ok(())
    }

    /// Queues the next `n` frames for a port, if it takes them all as they are; else none. Large packets that are to be
    /// cut up are never taken: somebody should look at them.
    #[inline(always)]
    pub(crate) fn push_run(&mut self, port: PortId, frames: &mut Leaving<'_>, n: usize) -> bool {
        let Some(list) = self.lists.get_mut(port.index()) else {
            return false;
        };
        let (mut longest, mut needs) = (0, Offloads::empty());
        for frame in frames.frames().iter().take(n) {
            longest = longest.max(frame.len());
            needs |= frame.needs();
        }
        let takes = longest <= list.max_frame
            && list.frames.len() + n <= list.room
            && list.offloads.difference(Offloads::GSO).contains(needs);
        if takes {
            if list.frames.is_empty() {
                self.dirty.push(port);
            }
            frames.move_to(n, &mut list.frames);
        }
        takes
    }

    /// The next port that has frames waiting, with its list; the caller empties it.
    #[inline]
    pub(crate) fn next_dirty(&mut self) -> Option<(PortId, Route, &mut Vec<Frame>)> {
        let port = self.dirty.pop()?;
        let list = self.lists.get_mut(port.index())?;
        Some((port, list.route, &mut list.frames))
    }
}
