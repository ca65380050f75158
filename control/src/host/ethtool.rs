//! The kernel's ethtool family (Documentation/networking/ethtool-netlink.rst): features and channels.
//!
//! Features are named as the kernel names them (`ethtool -k` shows older names for some of them:
//! `rx-vlan-offload` is the kernel's `rx-vlan-hw-parse`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::HostError;
use super::genl::Genl;
use super::links::IfIndex;
use super::netlink::{Attrs, Message};

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const CHANNELS_GET: u8 = 17;
/// `ETHTOOL_A_*_HEADER`, the first attribute of each command, and in it `ETHTOOL_A_HEADER_DEV_INDEX`.
const HEADER: u16 = 1;
const DEV_INDEX: u16 = 1;
/// `ETHTOOL_A_FEATURES_*`.
const CHANGEABLE: u16 = 2;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
const NEVER_CHANGED: u16 = 5;
/// `ETHTOOL_A_BITSET_*`, `ETHTOOL_A_BITSET_BITS_BIT`, `ETHTOOL_A_BITSET_BIT_*`.
const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// `ETHTOOL_A_CHANNELS_*_COUNT`.
const RX_COUNT: u16 = 6;
const TX_COUNT: u16 = 7;
const COMBINED_COUNT: u16 = 9;

/// One feature (offload) of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Feature {
    /// In force now.
    pub(crate) active: bool,
    /// Asked for; differs from `active` while another feature that it needs is off.
    pub(crate) wanted: bool,
    /// The driver lets it be changed (`ethtool -k` says `[fixed]` otherwise).
    pub(crate) changeable: bool,
}

/// How many queues an interface uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Queues {
    /// Receive queues.
    pub(crate) rx: u32,
    /// Transmit queues.
    pub(crate) tx: u32,
}

/// A socket to the ethtool family of one network namespace.
pub(crate) struct Ethtool {
    genl: Genl,
}

impl Ethtool {
    /// Opens it in the thread's network namespace.
    pub(crate) fn open() -> Result<Self, HostError> {
        Ok(Self {
            genl: Genl::open("ethtool", 1)?,
        })
    }

    fn message(&self, command: u8, ifindex: IfIndex) -> Message {
        self.genl
            .message(command, 0)
            .nested(HEADER, |m| m.attr(DEV_INDEX, &ifindex.0.to_ne_bytes()))
    }

    /// All features of an interface, by the kernel's names.
    pub(crate) fn features(&mut self, ifindex: IfIndex) -> Result<BTreeMap<String, Feature>, HostError> {
        let attempt = format!("reading the features of interface {ifindex}");
        let request = self.message(FEATURES_GET, ifindex);
        let replies = self.genl.transact(request).map_err(|r| r.during(&attempt))?;
        let reply = replies.first().ok_or(HostError::NoAnswer { attempt })?;
        let attrs = Genl::attrs(reply);
        let mut features = BTreeMap::<String, Feature>::new();
        let blank = Feature {
            active: false,
            wanted: false,
            changeable: false,
        };
        for (set, mark) in [
            (CHANGEABLE, (|f, on| f.changeable = on) as fn(&mut Feature, bool)),
            (WANTED, |f, on| f.wanted = on),
            (ACTIVE, |f, on| f.active = on),
            (NEVER_CHANGED, |f, on| f.changeable &= !on),
        ] {
            for (name, on) in bits(attrs.nested(set)) {
                mark(features.entry(name).or_insert(blank), on);
            }
        }
        Ok(features)
    }

    /// Asks for features to be on or off; what the kernel made of it shows in [`Ethtool::features`].
    pub(crate) fn set_features(
        &mut self,
        ifindex: IfIndex,
        wanted: &[(&str, bool)],
    ) -> Result<(), HostError> {
        let request = self.message(FEATURES_SET, ifindex).nested(WANTED, |m| {
            m.nested(BITSET_BITS, |m| {
                wanted.iter().fold(m, |m, (name, on)| {
                    m.nested(BIT, |m| {
                        let m = m.text(BIT_NAME, name);
                        if *on { m.attr(BIT_VALUE, &[]) } else { m }
                    })
                })
            })
        });
        let attempt = || {
            let list: Vec<_> = wanted
                .iter()
                .map(|(name, on)| format!("{name} {}", if *on { "on" } else { "off" }))
                .collect();
            format!("setting {} on interface {ifindex}", list.join(", "))
        };
        self.genl
            .transact(request)
            .map(drop)
            .map_err(|r| r.during(attempt()))
    }

    /// The queues in use, or `None` where the driver does not say (veth and others have no channels).
    pub(crate) fn queues(&mut self, ifindex: IfIndex) -> Result<Option<Queues>, HostError> {
        let request = self.message(CHANNELS_GET, ifindex);
        let replies = match self.genl.transact(request) {
            Ok(replies) => replies,
            Err(refusal) if refusal.is(nix::errno::Errno::EOPNOTSUPP) => return Ok(None),
            Err(refusal) => {
                return Err(refusal.during(format!("reading the channels of interface {ifindex}")));
            }
        };
        Ok(replies.first().map(|reply| {
            let attrs = Genl::attrs(reply);
            let count = |kind| attrs.u32(kind).unwrap_or(0);
            let combined = count(COMBINED_COUNT);
            Queues {
                rx: combined + count(RX_COUNT),
                tx: combined + count(TX_COUNT),
            }
        }))
    }
}

/// The bits of a verbose bitset: all listed ones are set if there is no mask, else those that carry a value.
fn bits(bitset: Attrs<'_>) -> Vec<(String, bool)> {
    let all_set = bitset.has(BITSET_NOMASK);
    bitset
        .nested(BITSET_BITS)
        .iter()
        .filter(|(kind, _)| *kind == BIT)
        .filter_map(|(_, bit)| {
            let bit = Attrs(bit);
            Some((bit.text(BIT_NAME)?, all_set || bit.has(BIT_VALUE)))
        })
        .collect()
}
