//! What a port will need, as far as its configuration and the host tell before it is opened.

use clearway_config::{Port, PortKind, Queues, Steering, XdpMode};
use clearway_io::ModeRequest;

use super::groups::{Kind, Mode, Need};
use super::open::OpenError;
use crate::host::Host;
use crate::host::links::Link;

/// Drivers that receive into all of a chunk in zero-copy mode, whatever its size: tried on virtio_net; i40e and ice by
/// their source. Others may round it down to KiB, as igb does, whose descriptors hold no other sizes: a chunk of 2048
/// bytes, 256 of them headroom, is 1024 to it, and a longer frame arrives as two.
const ANY_SIZE: [&str; 3] = ["i40e", "ice", "virtio_net"];

/// The interface of a port, which of its queues are ours, and the mode to open them in.
pub(super) struct Found {
    pub(super) link: Link,
    pub(super) queues: Vec<u16>,
    pub(super) mode: ModeRequest,
}

/// What a port will need; and its interface, if it has one.
pub(super) fn need(host: &mut Host, port: &Port) -> Result<(Need, Option<Found>), OpenError> {
    let Some(name) = port.interface.as_deref().filter(|_| port.kind == PortKind::AfXdp) else {
        return Ok((without_interface(port), None));
    };
    let link = host.link(name)?;
    if !link.ethernet {
        return Err(OpenError::Fatal(format!(
            "interface {name} is not an Ethernet interface: frames without MAC addresses can't be bridged; choose another"
        )));
    }
    let hardware = host.hardware(&link)?;
    let have = u16::try_from(hardware.queues.rx.max(1)).unwrap_or(u16::MAX);
    let queues: Vec<u16> = match &port.queues {
        Queues::All => (0..have).collect(),
        Queues::List(list) => list.clone(),
    };
    if let Some(missing) = queues.iter().find(|queue| **queue >= have) {
        return Err(OpenError::Fatal(format!(
            "interface {name} has no queue {missing}: it has {have}, numbered from 0 (`ethtool -l {name}`); name others in `queues`"
        )));
    }
    let veth = link.kind.as_deref() == Some("veth");
    let exact = hardware
        .driver
        .as_deref()
        .is_some_and(|driver| ANY_SIZE.contains(&driver));
    let mut need = Need {
        kind: Kind::Pods,
        queues: queues.len(),
        ring_size: port.ring_size,
        frames: port.frames,
        mtu: link.mtu,
        whole_kib: !exact,
    };
    let mode = mode(host, port, &link, &need)?;
    // Rounding is the NIC's: what the kernel copies may fill the chunk.
    need.whole_kib &= matches!(mode, ModeRequest::Auto | ModeRequest::ZeroCopy);
    if !veth || port.steering == Steering::Shared {
        need.kind = Kind::Wires {
            numa: hardware.numa_node,
            mode: match mode {
                ModeRequest::AnyCopy => Mode::Copy,
                _ => port.mode.into(),
            },
            driver: hardware.driver,
        };
    }
    Ok((need, Some(Found { link, queues, mode })))
}

fn without_interface(port: &Port) -> Need {
    let need = Need {
        kind: Kind::Files,
        queues: usize::from(port.kind == PortKind::Pcapng),
        ring_size: port.ring_size,
        frames: port.frames,
        mtu: 9216,
        whole_kib: false,
    };
    match port.kind {
        // Its frames are on their way only: none waits in a ring of ours.
        PortKind::VhostUser => Need {
            kind: Kind::Guests,
            frames: Some(0),
            mtu: 1500,
            ..need
        },
        PortKind::Tap => Need {
            kind: Kind::Guests,
            queues: usize::from(port.queue_pairs()),
            frames: Some(0),
            mtu: 1500,
            ..need
        },
        _ => need,
    }
}

/// The mode to ask the kernel for: what the port says, less what the driver says it can't.
fn mode(host: &mut Host, port: &Port, link: &Link, need: &Need) -> Result<ModeRequest, OpenError> {
    // None: a kernel before 6.3, or before 6.6 for the segments, where it is found out by trying.
    let xdp = host.xdp_features(link);
    let jumbo = !need.in_one_chunk() && xdp.is_some_and(|xdp| xdp.zero_copy_segments <= 1);
    match port.mode {
        XdpMode::Auto if jumbo || xdp.is_some_and(|xdp| !xdp.zero_copy) => Ok(ModeRequest::AnyCopy),
        XdpMode::ZeroCopy if jumbo && xdp.is_some_and(|xdp| xdp.zero_copy) => Err(OpenError::Fatal(format!(
            "interface {0} can't be opened in zero-copy mode: its MTU of {1} needs frames of several chunks, which its driver does only with a copy; use an MTU up to {2}, or mode `auto`",
            link.name,
            link.mtu,
            need.max_mtu()
        ))),
        XdpMode::Auto => Ok(ModeRequest::Auto),
        XdpMode::ZeroCopy => Ok(ModeRequest::ZeroCopy),
        XdpMode::Copy => Ok(ModeRequest::Native),
        XdpMode::Generic => Ok(ModeRequest::Generic),
    }
}
