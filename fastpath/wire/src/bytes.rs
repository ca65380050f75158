//! Big-endian fields at fixed offsets, and the shape that every view shares.

/// The `N` bytes at `at`. Panics when they are not there: callers have checked the length.
#[inline(always)]
pub(crate) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The big-endian 16-bit number at `at`.
#[inline(always)]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(get(bytes, at))
}

/// The big-endian 32-bit number at `at`.
#[inline(always)]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(get(bytes, at))
}

/// Writes `N` bytes at `at`.
#[inline(always)]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

/// Writes a 16-bit number at `at`, big-endian.
#[inline(always)]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    put(bytes, at, value.to_be_bytes());
}

/// Writes a 32-bit number at `at`, big-endian.
#[inline(always)]
pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, value.to_be_bytes());
}

/// Declares a view: the type, its constructors and access to the bytes. The protocol's file adds
/// `check_len`, getters, setters and `Display`.
macro_rules! view {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<T: AsRef<[u8]>> {
            buffer: T,
        }

        impl<T: AsRef<[u8]>> $name<T> {
            /// Wraps bytes without looking at them. Accessors panic when the bytes are too short for
            /// them; meant for writing a header into a buffer of known size.
            #[inline]
            pub const fn new_unchecked(buffer: T) -> Self {
                Self { buffer }
            }

            /// Wraps bytes that pass [`check_len`](Self::check_len): no accessor panics from here on.
            #[inline]
            pub fn new_checked(buffer: T) -> Result<Self, $crate::WireError> {
                let view = Self { buffer };
                view.check_len()?;
                Ok(view)
            }

            /// The bytes, and the end of the view.
            #[inline]
            pub fn into_inner(self) -> T {
                self.buffer
            }

            #[inline(always)]
            fn bytes(&self) -> &[u8] {
                self.buffer.as_ref()
            }
        }
    };
}

/// `Err(Truncated)` unless `have` reaches `need`.
#[inline(always)]
pub(crate) fn need(layer: &'static str, need: usize, have: usize) -> Result<(), crate::WireError> {
    if have < need {
        Err(crate::WireError::Truncated { layer, need, have })
    } else {
        Ok(())
    }
}
