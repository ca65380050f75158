//! sriov-cni's fields: the settings of a virtual function.

use clearway_config::attach::VfSettings;
use clearway_config::{TagProtocol, VfLinkState};
use serde_json::Value;

use super::{ConfError, Fields, brief};

/// Which VF, and all its settings.
pub(super) fn read(fields: &Fields, asked: Option<&str>) -> Result<VfSettings, ConfError> {
    let own: Option<String> = fields.get("deviceID", "a PCI address such as \"0000:03:02.0\"")?;
    fields.get::<String>("pciBusID", "a PCI address such as \"0000:03:02.0\"")?;
    let device = asked.map(str::to_owned).or(own).ok_or(ConfError::Missing {
        field: "deviceID",
        advice: "name the VF by its PCI address; Multus does it where the network has a resource of a device plugin",
    })?;
    if !is_pci_address(&device) {
        // Multus hands over an empty one where the pod has more networks than devices.
        let reason = "it is no PCI address such as \"0000:03:02.0\"; an empty one means that the pod has no device left";
        return Err(match asked {
            Some(_) => ConfError::Value {
                field: "runtimeConfig.deviceID".into(),
                value: brief(&Value::from(device)),
                reason: reason.into(),
            },
            None => fields.wrong("deviceID", reason.into()),
        });
    }
    let vlan = fields.number("vlan", 0..=4094, " (0 is untagged)")?;
    let qos = fields.number("vlanQoS", 0..=7, "")?;
    let protocols = [("802.1q", TagProtocol::Dot1q), ("802.1ad", TagProtocol::Dot1ad)];
    let protocol = fields.word("vlanProto", &protocols)?;
    let tagged = vlan.is_some_and(|vlan| vlan != 0);
    if qos.is_some() && vlan.is_none() || qos.is_some_and(|qos| qos != 0) && !tagged {
        return Err(fields.wrong(
            "vlanQoS",
            "it is the priority of a tag: it needs a `vlan` that is not 0".into(),
        ));
    }
    if protocol.is_some() && vlan.is_none() || protocol == Some(TagProtocol::Dot1ad) && !tagged {
        return Err(fields.wrong(
            "vlanProto",
            "it is the protocol of a tag: it needs a `vlan` that is not 0".into(),
        ));
    }
    let on = |key: &str| fields.word(key, &[("on", true), ("off", false)]);
    let links = [
        ("auto", VfLinkState::Auto),
        ("enable", VfLinkState::Enable),
        ("disable", VfLinkState::Disable),
    ];
    let rate = |key: &str, unit: &str| {
        let rate = fields.number(key, 0..=u64::from(u32::MAX), unit)?;
        Ok(rate.and_then(|rate| u32::try_from(rate).ok()))
    };
    let settings = VfSettings {
        device: device.to_ascii_lowercase(),
        vlan: vlan.and_then(|vlan| vlan.try_into().ok()),
        qos: qos.and_then(|qos| qos.try_into().ok()),
        vlan_proto: protocol,
        spoofchk: on("spoofchk")?,
        trust: on("trust")?,
        link_state: fields.word("link_state", &links)?,
        min_tx_rate: rate("min_tx_rate", " (Mbit/s)")?,
        max_tx_rate: rate("max_tx_rate", " (Mbit/s; 0 is no limit)")?,
    };
    match (settings.min_tx_rate, settings.max_tx_rate) {
        (Some(min), Some(max)) if max != 0 && min > max => {
            Err(fields.wrong("min_tx_rate", "it is more than `max_tx_rate`".into()))
        }
        _ => Ok(settings),
    }
}

/// `dddd:bb:dd.f`, as the kernel writes it.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = text.split([':', '.']);
    let lengths = [4, 2, 2].into_iter();
    let plain = lengths.zip(&mut parts).all(|(length, part)| hex(part, length));
    plain
        && parts
            .next()
            .is_some_and(|function| hex(function, 1) && function < "8")
        && parts.next().is_none()
        && text.as_bytes().get(4) == Some(&b':')
        && text.as_bytes().get(7) == Some(&b':')
        && text.as_bytes().get(10) == Some(&b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_whole() {
        for (text, good) in [
            ("0000:03:02.0", true),
            ("abcd:EF:1f.7", true),
            ("", false),
            ("03:02.0", false),
            ("0000:03:02.8", false),
            ("0000.03:02:0", false),
            ("0000:03:02.0.1", false),
            ("0000:03:02", false),
            ("é000:03:02.0", false),
        ] {
            assert_eq!(is_pci_address(text), good, "{text}");
        }
    }
}
