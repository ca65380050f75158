//! Offloads that keep a part of a frame outside of it, where XDP cannot see it.
//!
//! A NIC that strips VLAN tags on reception hands them to the kernel beside the frame; a veth does the same with
//! its peer's tags, and leaves the checksums of its peer's packets unfinished (`CHECKSUM_PARTIAL`), because a
//! socket at the other end would not look at them. An AF_XDP socket gets the bytes alone: the tag would be lost
//! and the checksum wrong. So the VLAN offloads of our interface go off, and those of a veth's **peer** too, along
//! with its transmit checksums (what `ethtool -K PEER tx off txvlan off` does), in whatever namespace it lives.
//!
//! What cannot be turned off is a [`Warning`], not an error: the port works for the traffic it does not concern.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::ethtool::{Ethtool, Feature};
use super::links::{IfIndex, Link};
use super::restore::Changes;
use super::{Host, HostError};

/// `rxvlan`, `txvlan` and their 802.1ad twins.
const VLAN: [&str; 4] = [
    "rx-vlan-hw-parse",
    "rx-vlan-stag-hw-parse",
    "tx-vlan-hw-insert",
    "tx-vlan-stag-hw-insert",
];
/// What of a veth's peer ends up beside the frame: its transmit checksums (`NETIF_F_CSUM_MASK`) and tags.
const PEER: [&str; 7] = [
    "tx-checksum-ipv4",
    "tx-checksum-ip-generic",
    "tx-checksum-ipv6",
    "tx-checksum-fcoe-crc",
    "tx-checksum-sctp",
    "tx-vlan-hw-insert",
    "tx-vlan-stag-hw-insert",
];

/// Something that stays as it is, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
pub(crate) enum Warning {
    /// An offload that the driver does not let go of.
    Fixed {
        /// The interface.
        interface: String,
        /// The kernel's name of the feature.
        feature: String,
    },
    /// The namespace of a veth's peer was not found: no name and no process that we can see holds it.
    PeerNotFound {
        /// Our end.
        interface: String,
    },
    /// The namespace of a veth's peer was found but not entered, or the peer refused.
    PeerRefused {
        /// Our end.
        interface: String,
        /// What happened.
        why: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { interface, feature } => write!(
                f,
                "{interface}: its driver does not let {feature} be turned off; VLAN tags may not reach us with their frames"
            ),
            Self::PeerNotFound { interface } => write!(
                f,
                "{interface}: the namespace of its veth peer was not found; run `ethtool -K PEER tx off txvlan off` there, or packets from it carry wrong checksums"
            ),
            Self::PeerRefused { interface, why } => write!(
                f,
                "{interface}: the offloads of its veth peer stay on ({why}); run `ethtool -K PEER tx off txvlan off` there, or packets from it carry wrong checksums"
            ),
        }
    }
}

/// Turns off what AF_XDP cannot live with, on the interface and on its peer if it is a veth.
pub(crate) fn prepare(
    host: &mut Host,
    changes: &mut Changes,
    link: &Link,
) -> Result<Vec<Warning>, HostError> {
    let features = host.features(link)?;
    let off: Vec<_> = active(&features, &VLAN)
        .filter(|(_, f)| f.changeable)
        .map(|(name, _)| (name, false))
        .collect();
    changes.set_features(host, &off)?;
    let mut warnings: Vec<_> = active(&host.features(link)?, &VLAN)
        .map(|(feature, _)| Warning::Fixed {
            interface: link.name.clone(),
            feature: feature.to_owned(),
        })
        .collect();
    if link.veth_peer().is_some() {
        warnings.extend(prepare_peer(host, changes, link));
    }
    Ok(warnings)
}

fn prepare_peer(host: &mut Host, changes: &mut Changes, link: &Link) -> Option<Warning> {
    let refused = |error: HostError| Warning::PeerRefused {
        interface: link.name.clone(),
        why: error.to_string(),
    };
    let mut peer = match host.veth_peer(link) {
        Ok(Some(peer)) => peer,
        Ok(None) => {
            return Some(Warning::PeerNotFound {
                interface: link.name.clone(),
            });
        }
        Err(error) => return Some(refused(error)),
    };
    let features = match peer.features() {
        Ok(features) => features,
        Err(error) => return Some(refused(error)),
    };
    let off: Vec<_> = active(&features, &PEER)
        .filter(|(_, f)| f.changeable)
        .map(|(name, _)| (name, false))
        .collect();
    changes.set_peer_features(&mut peer, &off).err().map(refused)
}

fn active<'a>(
    features: &'a BTreeMap<String, Feature>,
    names: &'a [&'static str],
) -> impl Iterator<Item = (&'static str, Feature)> + 'a {
    names
        .iter()
        .filter_map(|name| Some((*name, *features.get(*name)?)))
        .filter(|(_, feature)| feature.active)
}

/// The features among these that an AF_XDP port of this interface would lose tags by.
pub(crate) fn in_the_way(features: &BTreeMap<String, Feature>) -> Vec<String> {
    active(features, &VLAN).map(|(name, _)| name.to_owned()).collect()
}

impl Host {
    /// The features of an interface, by the kernel's names.
    pub(crate) fn features(&mut self, link: &Link) -> Result<BTreeMap<String, Feature>, HostError> {
        self.ethtool.features(link.ifindex)
    }

    /// Turns features on or off, by the kernel's names, and makes sure of it.
    /// Through [`Changes`] only.
    pub(super) fn set_features(&mut self, link: &Link, wanted: &[(&str, bool)]) -> Result<(), HostError> {
        self.ethtool.set_features(link.ifindex, wanted)?;
        let now = self.features(link)?;
        verify(&link.name, &now, wanted)
    }

    /// The far end of a veth, wherever it is; `None` if its namespace was not found.
    pub(crate) fn veth_peer(&mut self, link: &Link) -> Result<Option<VethPeer>, HostError> {
        let Some(peer) = link.veth_peer() else {
            return Ok(None);
        };
        let ethtool = match peer.netnsid {
            None => Ethtool::open()?,
            Some(netnsid) => match self.find_netns(netnsid)? {
                Some(netns) => netns.run(Ethtool::open)?,
                None => return Ok(None),
            },
        };
        Ok(Some(VethPeer {
            name: format!("{} (the peer's end)", link.name),
            ifindex: peer.ifindex,
            ethtool,
        }))
    }
}

/// The far end of a veth: a socket that was opened in its namespace, and stays in it on whatever thread it is used.
///
/// To be dropped soon: while it is open, the namespace of a pod that has ended does not go away.
pub(crate) struct VethPeer {
    name: String,
    ifindex: IfIndex,
    ethtool: Ethtool,
}

impl VethPeer {
    /// What to call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its features, by the kernel's names.
    pub(crate) fn features(&mut self) -> Result<BTreeMap<String, Feature>, HostError> {
        self.ethtool.features(self.ifindex)
    }

    /// Turns features on or off and makes sure of it. Through [`Changes`] only.
    pub(super) fn set_features(&mut self, wanted: &[(&str, bool)]) -> Result<(), HostError> {
        self.ethtool.set_features(self.ifindex, wanted)?;
        let now = self.features()?;
        verify(&self.name, &now, wanted)
    }
}

/// The kernel acknowledges features that it then does not change: a feature that is wanted counts as done even if
/// another one that it needs is off, one that stays on although unwanted does not.
fn verify(
    interface: &str,
    now: &BTreeMap<String, Feature>,
    wanted: &[(&str, bool)],
) -> Result<(), HostError> {
    for (name, on) in wanted {
        let refused = |why| HostError::Feature {
            interface: interface.to_owned(),
            feature: (*name).to_owned(),
            on: *on,
            why,
        };
        match now.get(*name) {
            None => return Err(refused("this kernel knows no such feature")),
            Some(feature) if feature.active == *on || feature.wanted == *on && *on => {}
            Some(feature) if !feature.changeable => return Err(refused("the driver fixes it")),
            Some(_) => return Err(refused("another feature holds it")),
        }
    }
    Ok(())
}
