//! Frames that wait, within a turn, for the end of their batch: one list per output port.

use crate::{DropReason, PortId, WorkerId};
use clearway_io::{BATCH, Frame, Leaving, RegionId};

/// Frames that a list takes between two flushes. A batch adds one frame per packet and member behind the
/// port, so only a port that is several members of one domain can fill more than [`BATCH`].
const LIST: usize = 4 * BATCH;

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
    /// Frames that it takes: [`LIST`], or none without a route.
    room: usize,
    /// Largest frame in bytes that the port sends.
    max_frame: u32,
}

impl TxList {
    /// Why it does not take a frame.
    #[cold]
    fn refusal(&self, frame: &Frame) -> DropReason {
        match self.route {
            Route::None => DropReason::TxDown,
            _ if frame.len() > self.max_frame => DropReason::PortMtu,
            _ => DropReason::TxFull,
        }
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

    /// Sets how a port is reached. Makes room, so that the packet path allocates nothing.
    pub(crate) fn set_route(&mut self, port: PortId, route: Route, region: Option<RegionId>) {
        let list = self.list_mut(port);
        (list.route, list.region) = (route, region);
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

    /// Queues a frame for a port.
    #[inline]
    pub(crate) fn push(&mut self, port: PortId, frame: Frame) -> Result<(), (Frame, DropReason)> {
        let Some(list) = self.lists.get_mut(port.index()) else {
            return Err((frame, DropReason::TxDown));
        };
        let waiting = list.frames.len();
        if waiting >= list.room || frame.len() > list.max_frame {
            let reason = list.refusal(&frame);
            return Err((frame, reason));
        }
        list.frames.push(frame);
        if waiting == 0 {
            self.dirty.push(port);
        }
        Ok(())
    }

    /// Queues the next `n` frames for a port, if it takes them all; else none.
    #[inline(always)]
    pub(crate) fn push_run(&mut self, port: PortId, frames: &mut Leaving<'_>, n: usize) -> bool {
        let Some(list) = self.lists.get_mut(port.index()) else {
            return false;
        };
        let longest = frames.frames().iter().take(n).map(Frame::len).max().unwrap_or(0);
        let takes = longest <= list.max_frame && list.frames.len() + n <= list.room;
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
