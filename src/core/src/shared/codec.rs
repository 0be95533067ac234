//! How numbers become bytes in shared data: little endian, no padding, every read checked against the end.
//!
//! A value whose parts have any length is read by a [`Reader`], from its start to its end. A value that is
//! changed in place has a layout of [`Field`]s.

use std::fmt;
use std::marker::PhantomData;

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
    /// [`CodecError::Version`] when another mark stands there.
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

/// Reads a value that is a mark and then records up to its end, `most` of them.
///
/// # Errors
/// [`CodecError`] when another mark stands there, `read` fails or there are more records.
pub fn records<'a, T>(
    bytes: &'a [u8],
    mark: u32,
    most: usize,
    read: impl Fn(&mut Reader<'a>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    let mut from = Reader(bytes);
    from.mark(mark)?;
    let mut records = Vec::new();
    while !from.0.is_empty() {
        if records.len() >= most {
            return Err(CodecError::Range);
        }
        records.push(read(&mut from)?);
    }
    Ok(records)
}

/// A number at a fixed place of a value.
///
/// A layout is a list of fields, each of which begins where the one before it ends:
///
/// ```
/// # use warmpath::shared::codec::Field;
/// const ID: Field<u32> = Field::FIRST;
/// const COUNT: Field<u16> = ID.then();
/// const SIZE: usize = COUNT.end();
/// let mut bytes = [0; SIZE];
/// COUNT.put(&mut bytes, 3);
/// assert_eq!((SIZE, COUNT.get(&bytes), bytes[4]), (6, 3, 3));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Field<T> {
    at: usize,
    number: PhantomData<T>,
}

impl<T> Field<T> {
    /// The field at the start of a value.
    pub const FIRST: Field<T> = Field { at: 0, number: PhantomData };

    /// The field after this one.
    pub const fn then<U>(&self) -> Field<U> {
        Field { at: self.end(), number: PhantomData }
    }

    /// Where the field ends, in bytes from the start of the value.
    pub const fn end(&self) -> usize {
        self.at + size_of::<T>()
    }
}

impl<T: Number> Field<T> {
    /// The number in the field; 0 where the bytes end before it does.
    #[inline]
    pub fn get(&self, bytes: &[u8]) -> T {
        bytes.get(self.at..).and_then(T::read).unwrap_or_default()
    }

    /// Writes the number; where the bytes end before it does, it is lost.
    #[inline]
    pub fn put(&self, bytes: &mut [u8], value: T) {
        if let Some(place) = bytes.get_mut(self.at..self.end()) {
            value.write(place);
        }
    }
}

impl Field<u32> {
    /// Checks the mark of a value.
    ///
    /// # Errors
    /// [`CodecError`] when another mark stands there, or none.
    pub fn expect(&self, bytes: &[u8], mark: u32) -> Result<(), CodecError> {
        Reader(bytes.get(self.at..).unwrap_or_default()).mark(mark)
    }
}

impl Field<f32> {
    /// The number in the field, if it is finite and not negative.
    #[inline]
    pub fn amount(&self, bytes: &[u8]) -> Option<f32> {
        Some(self.get(bytes)).filter(|value| value.is_finite() && *value >= 0.0)
    }
}

/// A number that can stand in a [`Field`].
pub trait Number: Copy + Default {
    /// The number at the start of the bytes, if there are enough.
    fn read(bytes: &[u8]) -> Option<Self>;

    /// Writes the number into bytes of its size.
    fn write(self, place: &mut [u8]);
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            #[inline]
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|bytes| <$type>::from_le_bytes(*bytes))
            }

            #[inline]
            fn write(self, place: &mut [u8]) {
                place.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

numbers!(u16, u32, u64, f32);

#[cfg(test)]
mod tests {
    use super::*;

    const A: Field<u16> = Field::FIRST;
    const B: Field<u64> = A.then();
    const C: Field<f32> = B.then();

    #[test]
    fn fields_follow_each_other_without_gaps() {
        assert_eq!((A.end(), B.end(), C.end()), (2, 10, 14));
        let mut bytes = [0xff; 14];
        A.put(&mut bytes, 0x0102);
        B.put(&mut bytes, 7);
        C.put(&mut bytes, 1.5);
        assert_eq!((A.get(&bytes), B.get(&bytes), C.get(&bytes)), (0x0102, 7, 1.5));
        assert_eq!(bytes[..10], [2, 1, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_field_past_the_end_is_zero_and_is_not_written() {
        let mut bytes = [9; 5];
        B.put(&mut bytes, u64::MAX);
        assert_eq!((bytes, B.get(&bytes), B.get(&[])), ([9; 5], 0, 0));
    }

    #[test]
    fn an_amount_is_finite_and_not_negative() {
        let mut bytes = [0; 14];
        for (value, amount) in
            [(2.0, Some(2.0)), (0.0, Some(0.0)), (-1.0, None), (f32::NAN, None), (f32::INFINITY, None)]
        {
            C.put(&mut bytes, value);
            assert_eq!(C.amount(&bytes), amount);
        }
    }
}
