//! Finds the bridge domain of every frame from its port and tags (IEEE 802.1Q §6.9), and removes the tags
//! that said so.

use crate::packet::{Meta, Origin, Verdict};
use crate::{Dest, DropReason, Place, VidTable};
use clearway_io::Frame;
use clearway_wire::vlan::{TAG_LEN, pop_tag};
use clearway_wire::{EtherType, Tags, parse_tags};

/// A port that only carries VXLAN has nowhere to put other frames.
#[inline(always)]
pub(crate) fn no_service(meta: &mut Meta) {
    meta.verdict = Verdict::Drop(DropReason::NoService);
}

#[inline(always)]
pub(crate) fn enter(meta: &mut Meta, place: Place) {
    meta.origin = Origin::new(place.bd, Dest::Member(place.member).into());
}

#[inline(always)]
pub(crate) fn access(frame: &mut Frame, meta: &mut Meta, place: Place) {
    // parse saw 14 bytes.
    let ethertype = frame
        .bytes()
        .get(12..14)
        .map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    if EtherType(ethertype).is_tag() {
        return tagged_access(frame, meta, place);
    }
    enter(meta, place);
}

/// A priority tag (VID 0) is as good as none; any other is not for an access port.
#[cold]
fn tagged_access(frame: &mut Frame, meta: &mut Meta, place: Place) {
    let tags = parse_tags(frame.bytes());
    match tags.outer {
        None => meta.verdict = Verdict::Drop(DropReason::Truncated),
        // Behind a priority tag as well: what is left would be taken for a VLAN where the frame leaves.
        Some(tag) if tag.tci.is_priority_tag() && tags.inner.is_none() => {
            (meta.outer_tci, meta.inner_tci) = (tag.tci.0, tag.tci.0);
            pop(frame, meta, 1);
            enter(meta, place);
        }
        Some(_) => meta.verdict = Verdict::Drop(DropReason::VlanNotAllowed),
    }
}

#[inline]
pub(crate) fn trunk(frame: &mut Frame, meta: &mut Meta, native: Option<Place>, vids: &VidTable) {
    let Tags {
        outer,
        inner,
        truncated,
        ..
    } = parse_tags(frame.bytes());
    if truncated {
        meta.verdict = Verdict::Drop(DropReason::Truncated);
        return;
    }
    let (place, pops) = match outer {
        None => (native, 0),
        Some(tag) if tag.tci.is_priority_tag() => (native, 1),
        Some(tag) => match vids.classify(tag, inner) {
            Some((place, pops)) => (Some(place), pops),
            None => {
                meta.verdict = Verdict::Drop(DropReason::VlanNotAllowed);
                return;
            }
        },
    };
    let Some(place) = place else {
        meta.verdict = Verdict::Drop(DropReason::UntaggedNotAllowed);
        return;
    };
    meta.outer_tci = outer.map_or(0, |tag| tag.tci.0);
    // A frame that gets a second tag elsewhere has its one priority in both.
    meta.inner_tci = if pops == 2 {
        inner.map_or(0, |tag| tag.tci.0)
    } else {
        meta.outer_tci
    };
    pop(frame, meta, pops);
    enter(meta, place);
}

#[inline]
fn pop(frame: &mut Frame, meta: &mut Meta, tags: u8) {
    for _ in 0..tags {
        if pop_tag(frame.bytes_mut()).is_none() || !frame.advance(TAG_LEN as u32) {
            meta.verdict = Verdict::Drop(DropReason::Truncated);
            return;
        }
    }
}
