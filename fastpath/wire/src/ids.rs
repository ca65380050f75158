//! The small numbers of VLAN, VXLAN and DiffServ as types: checked once, then known to be in range.

use core::fmt;
use core::str::FromStr;

/// Why a number or a text is not one of this module's numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// A number outside the range.
    #[error("{what} {value} is out of range: it must be {min} to {max}")]
    OutOfRange {
        /// What the number was to be.
        what: &'static str,
        /// The number.
        value: u64,
        /// Smallest legal value.
        min: u32,
        /// Largest legal value.
        max: u32,
    },
    /// A text that is not a decimal number.
    #[error("{what} {text:?} is not a number: it must be a decimal number, {min} to {max}")]
    NotANumber {
        /// What the text was to be.
        what: &'static str,
        /// The text.
        text: String,
        /// Smallest legal value.
        min: u32,
        /// Largest legal value.
        max: u32,
    },
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($int:ident), $what:literal, $min:literal..=$max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(try_from = "u64", into = "u64"))]
        pub struct $name($int);

        impl $name {
            /// The smallest value.
            pub const MIN: Self = Self($min);
            /// The largest value.
            pub const MAX: Self = Self($max);

            /// The number, if it is in range.
            #[inline]
            pub const fn new(value: $int) -> Option<Self> {
                if matches!(value, $min..=$max) { Some(Self(value)) } else { None }
            }

            /// The number as a plain integer.
            #[inline]
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = NumberError;
            fn try_from(value: u64) -> Result<Self, NumberError> {
                $int::try_from(value).ok().and_then(Self::new).ok_or(NumberError::OutOfRange {
                    what: $what,
                    value,
                    min: $min,
                    max: $max,
                })
            }
        }

        impl TryFrom<$int> for $name {
            type Error = NumberError;
            fn try_from(value: $int) -> Result<Self, NumberError> {
                Self::try_from(u64::from(value))
            }
        }

        impl From<$name> for $int {
            #[inline]
            fn from(value: $name) -> $int {
                value.0
            }
        }

        impl From<$name> for u64 {
            #[inline]
            fn from(value: $name) -> u64 {
                u64::from(value.0)
            }
        }

        impl FromStr for $name {
            type Err = NumberError;
            fn from_str(text: &str) -> Result<Self, NumberError> {
                match text.parse::<u64>() {
                    Ok(value) => Self::try_from(value),
                    Err(_) => Err(NumberError::NotANumber {
                        what: $what,
                        text: text.to_owned(),
                        min: $min,
                        max: $max,
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

bounded! {
    /// A VLAN identifier that names a VLAN (IEEE 802.1Q §9.6): 1 to 4094. 0 (a priority tag) and 4095 (reserved)
    /// do occur on the wire; [`Tci::vid`](crate::vlan::Tci::vid) gives the bits as they are.
    Vid(u16), "VLAN ID", 1..=4094
}
bounded! {
    /// A VXLAN network identifier (RFC 7348 §5): 24 bits. 0 is legal on the wire.
    Vni(u32), "VNI", 0..=0xff_ffff
}
bounded! {
    /// A priority code point (IEEE 802.1Q §6.9.3): 0 to 7.
    Pcp(u8), "PCP", 0..=7
}
bounded! {
    /// A differentiated services code point (RFC 2474 §3): 0 to 63.
    Dscp(u8), "DSCP", 0..=63
}

impl Vni {
    /// The VNI of three bytes as they stand in a VXLAN header.
    #[inline]
    pub const fn from_be_bytes(bytes: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]))
    }

    /// The three bytes as they stand in a VXLAN header.
    #[inline]
    pub const fn to_be_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }
}

impl Pcp {
    /// The low three bits of `bits`.
    #[inline]
    pub const fn from_low_bits(bits: u8) -> Self {
        Self(bits & 7)
    }
}

impl Dscp {
    /// The low six bits of `bits`.
    #[inline]
    pub const fn from_low_bits(bits: u8) -> Self {
        Self(bits & 0x3f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_inclusive_at_both_ends() {
        assert_eq!(Vid::new(0), None);
        assert_eq!(Vid::new(1), Some(Vid::MIN));
        assert_eq!(Vid::new(4094), Some(Vid::MAX));
        assert_eq!(Vid::new(4095), None);
        assert_eq!(Vni::new(0), Some(Vni::MIN));
        assert_eq!(Vni::new(0xff_ffff), Some(Vni::MAX));
        assert_eq!(Vni::new(0x100_0000), None);
        assert_eq!((Pcp::new(7), Pcp::new(8)), (Some(Pcp::MAX), None));
        assert_eq!((Dscp::new(63), Dscp::new(64)), (Some(Dscp::MAX), None));
    }

    #[test]
    fn errors_name_the_number_and_the_range() {
        assert_eq!(
            Vid::try_from(4095u16).unwrap_err().to_string(),
            "VLAN ID 4095 is out of range: it must be 1 to 4094"
        );
        assert_eq!(
            "ten".parse::<Vni>().unwrap_err().to_string(),
            "VNI \"ten\" is not a number: it must be a decimal number, 0 to 16777215"
        );
        assert_eq!(
            "16777216".parse::<Vni>().unwrap_err().to_string(),
            "VNI 16777216 is out of range: it must be 0 to 16777215"
        );
        assert_eq!("42".parse::<Vni>().unwrap().get(), 42);
    }

    #[test]
    fn vni_bytes_round_trip() {
        let vni = Vni::new(0x12_3456).unwrap();
        assert_eq!(vni.to_be_bytes(), [0x12, 0x34, 0x56]);
        assert_eq!(Vni::from_be_bytes([0x12, 0x34, 0x56]), vni);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_as_numbers() {
        assert_eq!(serde_json::to_string(&Vid::MAX).unwrap(), "4094");
        assert_eq!(serde_json::from_str::<Vni>("77").unwrap().get(), 77);
        let error = serde_json::from_str::<Vid>("0").unwrap_err().to_string();
        assert!(
            error.starts_with("VLAN ID 0 is out of range: it must be 1 to 4094"),
            "{error}"
        );
    }
}
