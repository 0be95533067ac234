//! How numbers become bytes in shared data: little endian, no padding, every read checked against the end.

use std::fmt;

/// Bytes that are not what a reader expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// The bytes end before the value does.
    Truncated,
    /// Another kind of value, or one written by another version of Warmpath.
    Version {
        /// The mark that stands at the start.
        found: u32,
    },
    /// A number outside its range.
    Range,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::Truncated => write!(f, "shared bytes end too early"),
            CodecError::Version { found } => write!(f, "shared bytes start with {found:#x}, another version"),
            CodecError::Range => write!(f, "shared bytes hold a number out of range"),
        }
    }
}

impl std::error::Error for CodecError {}

/// Reads numbers one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

macro_rules! number {
    ($name:ident, $type:ty, $doc:literal) => {
        #[doc = $doc]
        ///
        /// # Errors
        /// [`CodecError::Truncated`] at the end of the bytes.
        #[inline]
        pub fn $name(&mut self) -> Result<$type, CodecError> {
            let (first, rest) = self.0.split_first_chunk().ok_or(CodecError::Truncated)?;
            self.0 = rest;
            Ok(<$type>::from_le_bytes(*first))
        }
    };
}

impl<'a> Reader<'a> {
    number!(u8, u8, "One byte.");
    number!(u16, u16, "Two bytes.");
    number!(u32, u32, "Four bytes.");
    number!(u64, u64, "Eight bytes.");
    number!(f32, f32, "A number with a fraction.");

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there are fewer.
    #[inline]
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Checks the mark at the start of a value.
    ///
    /// # Errors
    /// [`CodecError::Version`] when it is another.
    pub fn mark(&mut self, expected: u32) -> Result<(), CodecError> {
        match self.u32()? {
            found if found == expected => Ok(()),
            found => Err(CodecError::Version { found }),
        }
    }

    /// A finite number that is not negative.
    ///
    /// # Errors
    /// [`CodecError::Range`] for any other.
    #[inline]
    pub fn amount(&mut self) -> Result<f32, CodecError> {
        let value = self.f32()?;
        if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(CodecError::Range) }
    }
}
