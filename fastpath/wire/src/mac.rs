//! MAC addresses.

use core::fmt;
use core::str::FromStr;

/// An IEEE 802 MAC address, in the order of its bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, never a legal source.
    pub const ZERO: Self = Self([0; 6]);

    /// The first byte on the wire in bits 47..40, the last in bits 7..0; the upper 16 bits are zero.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address in the low 48 bits of `value`; the upper 16 are ignored.
    #[inline]
    pub const fn from_u64(value: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// Whether all stations are meant.
    #[inline]
    pub const fn is_broadcast(self) -> bool {
        self.to_u64() == 0xffff_ffff_ffff
    }

    /// Whether the group bit is set: multicast, including broadcast (IEEE 802 §8.2).
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether one station is meant: the group bit is clear and the address is not zero.
    #[inline]
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// Whether all bits are zero.
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.to_u64() == 0
    }
}

impl From<[u8; 6]> for MacAddr {
    #[inline]
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MAC address {0:?} is not valid: write six two-digit hexadecimal bytes, as in 02:00:5e:10:00:01")]
pub struct MacAddrError(String);

impl FromStr for MacAddr {
    type Err = MacAddrError;

    /// Reads `02:00:5e:10:00:01` or `02-00-5E-10-00-01`; the two separators don't mix.
    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        parse(text).ok_or_else(|| MacAddrError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<MacAddr> {
    let text: &[u8; 17] = text.as_bytes().try_into().ok()?;
    let separator = text[2];
    if separator != b':' && separator != b'-' {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut mac = [0; 6];
    for (i, byte) in mac.iter_mut().enumerate() {
        if i > 0 && text[3 * i - 1] != separator {
            return None;
        }
        *byte = digit(text[3 * i])? << 4 | digit(text[3 * i + 1])?;
    }
    Some(MacAddr(mac))
}

#[cfg(feature = "serde")]
impl serde::Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = MacAddr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a MAC address such as \"02:00:5e:10:00:01\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MacAddr, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_both_notations() {
        let mac = MacAddr([0x02, 0x00, 0x5e, 0x10, 0xab, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:ab:ff");
        assert_eq!("02:00:5E:10:aB:ff".parse(), Ok(mac));
        assert_eq!("02-00-5e-10-ab-ff".parse(), Ok(mac));
    }

    #[test]
    fn wrong_text_is_refused_with_an_example() {
        for text in [
            "",
            "02:00:5e:10:ab",
            "02:00:5e:10:ab:f",
            "02:00:5e-10:ab:ff",
            "02:00:5e:10:ab:fg",
            "02:00:5e:10:ab:ff:00",
            "02005e10abff",
            "+2:00:5e:10:ab:ff",
            "02.00.5e.10.ab.ff",
            "é2:00:5e:10:ab:f",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError(text.to_owned())));
        }
        assert_eq!(
            "x".parse::<MacAddr>().unwrap_err().to_string(),
            "MAC address \"x\" is not valid: write six two-digit hexadecimal bytes, as in 02:00:5e:10:00:01"
        );
    }

    #[test]
    fn numbers_keep_wire_order() {
        let mac = MacAddr([1, 2, 3, 4, 5, 6]);
        assert_eq!(mac.to_u64(), 0x0102_0304_0506);
        assert_eq!(MacAddr::from_u64(0xffff_0102_0304_0506), mac);
    }

    #[test]
    fn kinds() {
        let multicast = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
        let unicast = MacAddr([2, 0, 0, 0, 0, 1]);
        assert!(MacAddr::BROADCAST.is_broadcast() && MacAddr::BROADCAST.is_multicast());
        assert!(multicast.is_multicast() && !multicast.is_broadcast() && !multicast.is_unicast());
        assert!(unicast.is_unicast() && !unicast.is_multicast());
        assert!(MacAddr::ZERO.is_zero() && !MacAddr::ZERO.is_unicast() && !MacAddr::ZERO.is_multicast());
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_as_text() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(serde_json::to_string(&mac).unwrap(), "\"02:00:00:00:00:01\"");
        assert_eq!(
            serde_json::from_str::<MacAddr>("\"02-00-00-00-00-01\"").unwrap(),
            mac
        );
        assert!(serde_json::from_str::<MacAddr>("\"02\"").is_err());
    }
}
