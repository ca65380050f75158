//! Which frames of a port belong to which bridge domain: the one place where trunks are spelled out.

use std::collections::BTreeMap;

use clearway_wire::Vid;

use crate::port::{Service, TagProtocol};
use crate::values::TrunkItem;
use crate::{BridgeDomain, Name, Port, Spec, Vtep};

/// Frames of a port that belong to one bridge domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried<'a> {
    /// The bridge domain.
    pub domain: &'a Name,
    /// How the frames are told apart at this port.
    pub frames: Frames,
}

/// How frames of a bridge domain are told apart from others at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// They have no tag.
    Untagged,
    /// All frames; tags are payload.
    Every,
    /// They have one tag, or two when there is an inner VID.
    Tagged {
        /// The protocol of the outer tag.
        protocol: TagProtocol,
        /// Its VID.
        vlan: Vid,
        /// The VID of the inner 802.1Q tag.
        inner: Option<Vid>,
    },
}

impl Frames {
    /// The VID of the outer tag.
    pub fn vlan(&self) -> Option<Vid> {
        match self {
            Frames::Tagged { vlan, .. } => Some(*vlan),
            Frames::Untagged | Frames::Every => None,
        }
    }
}

impl Spec {
    /// What a port carries: ranges and `all` resolved to the VIDs that bridge domains have, each bridge domain named.
    ///
    /// A VID inside a range or `all` is left out when another item maps it whole, or when it is the native domain's
    /// (whose frames have no tag here). One that is carried whole and split by inner VIDs as well is both: a frame
    /// belongs to the item with its inner VID if there is one. Names that no bridge domain has are left out: validation reports them.
    pub fn carried<'a>(&'a self, port: &'a Port) -> Vec<Carried<'a>> {
        self.carried_by(port, &self.domains_by_vlan())
    }

    /// Bridge domains by their own VID.
    pub fn domains_by_vlan(&self) -> BTreeMap<Vid, &Name> {
        // The first one wins when two have the same VID; validation reports the second.
        self.bridge_domains
            .iter()
            .rev()
            .filter_map(|(name, domain)| Some((domain.vlan?, name)))
            .collect()
    }

    /// [`carried`](Spec::carried) with [`domains_by_vlan`](Spec::domains_by_vlan) at hand, for a caller that asks
    /// for many ports.
    pub fn carried_by<'a>(&'a self, port: &'a Port, by_vlan: &BTreeMap<Vid, &'a Name>) -> Vec<Carried<'a>> {
        let known = |name: &Name| self.bridge_domains.contains_key(name);
        match port.service() {
            Service::None => Vec::new(),
            Service::Access(domain) if known(domain) => vec![Carried {
                domain,
                frames: Frames::Untagged,
            }],
            Service::Tunnel(domain) if known(domain) => vec![Carried {
                domain,
                frames: Frames::Every,
            }],
            Service::Access(_) | Service::Tunnel(_) => Vec::new(),
            Service::Trunk { items, native } => {
                let untagged = native.filter(|name| known(name));
                let mut carried: Vec<_> = untagged
                    .map(|domain| Carried {
                        domain,
                        frames: Frames::Untagged,
                    })
                    .into_iter()
                    .collect();
                for item in items {
                    carry(item, items, native, by_vlan, &known, &mut carried);
                }
                carried
            }
        }
    }

    /// The VTEP of a bridge domain: the one it names, or the only one there is when it has a `vni` and names none.
    pub fn vtep_of<'a>(&'a self, domain: &BridgeDomain) -> Option<(&'a Name, &'a Vtep)> {
        domain.vni?;
        match &domain.vtep {
            Some(name) => self.vteps.get_key_value(name),
            None if self.vteps.len() == 1 => self.vteps.iter().next(),
            None => None,
        }
    }
}

/// Adds what one item of a trunk carries.
fn carry<'a>(
    item: &'a TrunkItem,
    items: &'a [TrunkItem],
    native: Option<&Name>,
    by_vlan: &BTreeMap<Vid, &'a Name>,
    known: &dyn Fn(&Name) -> bool,
    carried: &mut Vec<Carried<'a>>,
) {
    let tagged = |vlan| Frames::Tagged {
        protocol: TagProtocol::Dot1q,
        vlan,
        inner: None,
    };
    let (first, last) = match item {
        TrunkItem::Map(map) => {
            if known(&map.bridge_domain) {
                let frames = Frames::Tagged {
                    protocol: map.protocol(),
                    vlan: map.vlan,
                    inner: map.inner_vlan,
                };
                carried.push(Carried {
                    domain: &map.bridge_domain,
                    frames,
                });
            }
            return;
        }
        TrunkItem::Vid(vid) => {
            carried.extend(by_vlan.get(vid).map(|&domain| Carried {
                domain,
                frames: tagged(*vid),
            }));
            return;
        }
        TrunkItem::Range(first, last) => (*first, *last),
        TrunkItem::All => (Vid::MIN, Vid::MAX),
    };
    for (&vlan, &domain) in by_vlan.range(first..=last) {
        let elsewhere = items.iter().any(|other| match other {
            TrunkItem::Map(map) => {
                (map.vlan, map.inner_vlan, map.protocol()) == (vlan, None, TagProtocol::Dot1q)
            }
            _ => false,
        });
        if !elsewhere && native != Some(domain) {
            carried.push(Carried {
                domain,
                frames: tagged(vlan),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the port `a` carries, as text: `domain/protocol.vlan.inner`.
    fn carried(port: &str) -> Vec<String> {
        let text = format!(
            "ports: {{a: {{kind: memory, {port}}}}}\n\
             bridge-domains: {{red: {{vlan: 100}}, blue: {{vlan: 200}}, green: {{vlan: 300}}, plain: {{}}}}"
        );
        let spec = Spec::from_yaml(&text, "test").unwrap_or_else(|errors| panic!("{errors}"));
        let words = |carried: Carried<'_>| match carried.frames {
            Frames::Untagged => format!("{}/untagged", carried.domain),
            Frames::Every => format!("{}/every", carried.domain),
            Frames::Tagged {
                protocol,
                vlan,
                inner,
            } => {
                let protocol = if protocol == TagProtocol::Dot1q { "q" } else { "ad" };
                let inner = inner.map(|vid| format!(".{vid}")).unwrap_or_default();
                format!("{}/{protocol}.{vlan}{inner}", carried.domain)
            }
        };
        spec.carried(&spec.ports["a"]).into_iter().map(words).collect()
    }

    #[test]
    fn one_domain() {
        assert_eq!(carried("access: red"), ["red/untagged"]);
        assert_eq!(carried("tunnel: red"), ["red/every"]);
        assert_eq!(carried("mtu: 1500"), Vec::<String>::new());
    }

    #[test]
    fn ranges_take_the_domains_that_are_there() {
        assert_eq!(carried("trunk: [100, 150-299]"), ["red/q.100", "blue/q.200"]);
        for all in ["trunk: [all]", "trunk: all"] {
            assert_eq!(carried(all), ["red/q.100", "blue/q.200", "green/q.300"]);
        }
        assert_eq!(carried("trunk: "), Vec::<String>::new());
    }

    #[test]
    fn the_native_domain_has_no_tag() {
        assert_eq!(
            carried("trunk: [all], native: blue"),
            ["blue/untagged", "red/q.100", "green/q.300"]
        );
        assert_eq!(
            carried("trunk: [100], native: plain"),
            ["plain/untagged", "red/q.100"]
        );
    }

    #[test]
    fn objects_take_their_vid_out_of_all() {
        assert_eq!(
            carried("trunk: [all, {vlan: 200, bridge-domain: plain}]"),
            ["red/q.100", "green/q.300", "plain/q.200"]
        );
        // An S-tag is not the C-tag of the same number.
        assert_eq!(
            carried("trunk: [100, {vlan: 100, inner-vlan: 7, bridge-domain: plain}]"),
            ["red/q.100", "plain/ad.100.7"]
        );
    }

    #[test]
    fn a_vid_is_carried_whole_and_split() {
        for whole in ["100", "100-199", "all"] {
            let carried = carried(&format!(
                "trunk: [{whole}, {{vlan: 100, inner-vlan: 7, protocol: 802.1q, bridge-domain: plain}}]"
            ));
            assert!(carried.contains(&"red/q.100".to_owned()), "{whole}: {carried:?}");
            assert!(
                carried.contains(&"plain/q.100.7".to_owned()),
                "{whole}: {carried:?}"
            );
        }
    }

    #[test]
    fn the_only_vtep_is_the_default() {
        let spec = Spec::from_yaml(
            "bridge-domains: {red: {vni: 1}, blue: {}}\nvteps: {v0: {local: 10.0.0.1}}",
            "test",
        );
        let spec = spec.unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(
            spec.vtep_of(&spec.bridge_domains["red"])
                .map(|(name, _)| name.as_str()),
            Some("v0")
        );
        assert_eq!(spec.vtep_of(&spec.bridge_domains["blue"]), None);
    }
}
