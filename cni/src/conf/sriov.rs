//! sriov-cni's fields: the settings of a virtual function.

use serde_json::Value;

use super::{ConfError, Fields, brief};

/// Checks all settings and gives the VF's PCI address.
pub(super) fn read(fields: &Fields, asked: Option<&str>) -> Result<String, ConfError> {
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
    let service = fields.word("vlanProto", &[("802.1q", false), ("802.1ad", true)])?;
    let tagged = vlan.is_some_and(|vlan| vlan != 0);
    if qos.is_some() && vlan.is_none() || qos.is_some_and(|qos| qos != 0) && !tagged {
        return Err(fields.wrong(
            "vlanQoS",
            "it is the priority of a tag: it needs a `vlan` that is not 0".into(),
        ));
    }
    if service.is_some() && vlan.is_none() || service == Some(true) && !tagged {
        return Err(fields.wrong(
            "vlanProto",
            "it is the protocol of a tag: it needs a `vlan` that is not 0".into(),
        ));
    }
    for key in ["spoofchk", "trust"] {
        fields.word(key, &[("on", ()), ("off", ())])?;
    }
    fields.word("link_state", &[("auto", ()), ("enable", ()), ("disable", ())])?;
    let most = u64::from(u32::MAX);
    let min = fields.number("min_tx_rate", 0..=most, " (Mbit/s)")?;
    let max = fields.number("max_tx_rate", 0..=most, " (Mbit/s; 0 is no limit)")?;
    match (min, max) {
        (Some(min), Some(max)) if max != 0 && min > max => {
            Err(fields.wrong("min_tx_rate", "it is more than `max_tx_rate`".into()))
        }
        _ => Ok(device),
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
