//! Addresses of PCI functions, as sysfs writes them: `0000:03:10.2`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The address of a PCI function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The domain (segment). More than 16 bits behind Intel's VMD.
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device on the bus, below 32.
    pub device: u8,
    /// The function of the device, below 8.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        // `pad`, so that tables may align it.
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

/// Not the address of a PCI function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address: write one such as 0000:03:10.2, as `lspci -D` lists them")]
pub struct PciAddressError(String);

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        parse(text).ok_or_else(|| PciAddressError(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        // from_str_radix would take a sign.
        let fits = digits.contains(&text.len()) && text.bytes().all(|c| c.is_ascii_hexdigit());
        fits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let byte = |value: u32, end: u32| u8::try_from(value).ok().filter(|_| value < end);
    Some(PciAddress {
        domain: hex(domain, 4..=8)?,
        bus: byte(hex(bus, 2..=2)?, 256)?,
        device: byte(hex(device, 2..=2)?, 32)?,
        function: byte(hex(function, 1..=1)?, 8)?,
    })
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["0000:03:10.2", "ffff:ff:1f.7", "10000:e1:00.0"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        let upper: PciAddress = "0000:AF:00.0".parse().unwrap();
        assert_eq!(upper.to_string(), "0000:af:00.0");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "03:10.2",
            "0000:03:10",
            "0000:03:20.0",
            "0000:03:10.8",
            "0000:3:10.2",
            "+000:03:10.2",
            "0000:03:10.2 ",
            "0000:03:10.2.1",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn they_sort_as_the_bus_does() {
        let mut all: Vec<PciAddress> = ["0000:10:00.0", "0000:03:10.2", "0000:03:02.4"]
            .map(|text| text.parse().unwrap())
            .into();
        all.sort();
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["0000:03:02.4", "0000:03:10.2", "0000:10:00.0"]);
    }
}
