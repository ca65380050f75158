//! Which layer 2 segment a network is.

use clearway_config::attach::Segment;
use clearway_config::{Name, TrunkItem};
use clearway_wire::{Vid, Vni};
use serde_json::Value;

use super::network::VhostConf;
use super::{ConfError, Fields};

/// What `host`, `container` and `sharedDir` say.
#[derive(Clone, Debug)]
pub(super) struct Userspace {
    pub(super) vhost: VhostConf,
    pub(super) bridge: UserspaceBridge,
}

/// `host.bridge`
#[derive(Clone, Debug, Default)]
pub(super) struct UserspaceBridge {
    pub(super) name: Option<Name>,
    pub(super) vlan: Option<Vid>,
}

/// The fields that name a segment; exactly one of them may be there.
const NAMING: [&str; 4] = ["bridgeDomain", "vlan", "vni", "trunk"];

/// Reads the segment, if there is one.
///
/// `bridge` is ovs-cni's, and names a whole switch there: beside `vlan` or `trunk`, which say the segment by themselves, it
/// says nothing more; alone it is a bridge domain. The same holds for userspace-cni's `host.bridge`.
pub(super) fn read(
    fields: &Fields,
    userspace: Option<&UserspaceBridge>,
) -> Result<Option<Segment>, ConfError> {
    let advice = "each names the segment; remove one";
    // 0 is "untagged" to sriov-cni and ovs-cni.
    let there = |key: &&&str| {
        fields
            .raw(key)
            .is_some_and(|value| !(**key == "vlan" && is_zero(value)))
    };
    let mut named = NAMING.iter().filter(there);
    let first = named.next();
    if let (Some(one), Some(other)) = (first, named.next()) {
        return Err(fields.together(one, other, advice));
    }
    if let (Some(first @ (&"bridgeDomain" | &"vni")), true) = (first, fields.raw("bridge").is_some()) {
        return Err(fields.together(first, "bridge", advice));
    }
    if first != Some(&"trunk") && fields.raw("native").is_some() {
        return Err(fields.wrong(
            "native",
            "it is the bridge domain of a trunk's untagged frames; add `trunk`".into(),
        ));
    }
    let name = "the name of a bridge domain";
    let segment = match first {
        Some(&"bridgeDomain") => fields.get("bridgeDomain", name)?.map(Segment::Domain),
        Some(&"vni") => vni(fields)?.map(Segment::Vni),
        Some(&"trunk") => Some(Segment::Trunk {
            items: trunk(fields)?,
            native: fields.get("native", name)?,
        }),
        Some(_) => vlan(fields, "vlan")?.map(Segment::Vlan),
        None => fields.get("bridge", name)?.map(Segment::Domain),
    };
    // Checked also where it says nothing more.
    fields.get::<String>("bridge", name)?;
    match (segment, userspace) {
        (None, Some(bridge)) => Ok(match bridge {
            UserspaceBridge { vlan: Some(vlan), .. } => Some(Segment::Vlan(*vlan)),
            UserspaceBridge { name, .. } => name.clone().map(Segment::Domain),
        }),
        (Some(_), Some(bridge)) if bridge.name.is_some() || bridge.vlan.is_some() => {
            Err(fields.together(first.copied().unwrap_or("bridge"), "host.bridge", advice))
        }
        (segment, _) => Ok(segment),
    }
}

fn is_zero(value: &Value) -> bool {
    value.as_u64() == Some(0)
}

/// A VLAN; 0 is none.
pub(super) fn vlan(fields: &Fields, key: &str) -> Result<Option<Vid>, ConfError> {
    let number = fields.number(key, 0..=4094, " (0 is untagged)")?;
    Ok(number.and_then(|number| Vid::try_from(number).ok()))
}

fn vni(fields: &Fields) -> Result<Option<Vni>, ConfError> {
    let number = fields.number("vni", 0..=u64::from(Vni::MAX.get()), "")?;
    Ok(number.and_then(|number| Vni::try_from(number).ok()))
}

/// ovs-cni's list of `{id}` and `{minID, maxID}`.
fn trunk(fields: &Fields) -> Result<Vec<TrunkItem>, ConfError> {
    let items = fields.objects("trunk")?.unwrap_or_default();
    if items.is_empty() {
        return Err(fields.wrong(
            "trunk",
            "it carries nothing; write [{\"id\": 42}, {\"minID\": 100, \"maxID\": 199}]".into(),
        ));
    }
    items.iter().map(item).collect()
}

fn item(fields: &Fields) -> Result<TrunkItem, ConfError> {
    let vid = |key: &str| {
        let number = fields.number(key, 1..=4094, "")?;
        Ok(number.and_then(|number| Vid::try_from(number).ok()))
    };
    match (vid("id")?, vid("minID")?, vid("maxID")?) {
        (Some(id), None, None) => Ok(TrunkItem::Vid(id)),
        (None, Some(first), Some(last)) if first <= last => Ok(TrunkItem::Range(first, last)),
        (None, Some(_), Some(_)) => Err(fields.wrong("maxID", "it is smaller than `minID`".into())),
        (Some(_), ..) => {
            Err(fields.together("id", "minID", "an item is one VLAN or a range; write two items"))
        }
        (None, Some(_), None) => Err(fields.wrong("minID", "it needs `maxID` beside it".into())),
        (None, None, Some(_)) => Err(fields.wrong("maxID", "it needs `minID` beside it".into())),
        (None, None, None) => Err(fields.wrong("id", "an item needs `id`, or `minID` and `maxID`".into())),
    }
}
