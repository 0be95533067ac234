//! Protocol buffers without a schema: a message is a list of fields, in the order of their bytes.
//!
//! A codec pair: [`Message::parse`] and [`Message::encode`]. Fields that nobody touches keep their order and
//! their bytes. The format is described at <https://protobuf.dev/programming-guides/encoding/>.

use std::borrow::Cow;

use thiserror::Error;

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("protobuf message ends inside a field")]
    Truncated,
    /// A number that does not fit into 64 bits.
    #[error("protobuf number is longer than ten bytes")]
    LongNumber,
    /// Field number 0, or a wire type that proto3 does not have.
    #[error("protobuf tag {0} is not one of proto3")]
    BadTag(u64),
    /// A field that must hold bytes holds a number, or the other way round.
    #[error("protobuf field {0} has another wire type than its schema says")]
    WrongType(u32),
    /// A string that is not UTF-8.
    #[error("protobuf field {0} is not UTF-8")]
    NotText(u32),
}

/// The value of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Cow<'a, [u8]>),
}

/// A message: its fields in the order of the bytes. Cheap to make: the bytes of the fields are borrowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    fields: Vec<(u32, Value<'a>)>,
}

impl<'a> Message<'a> {
    /// A message without fields.
    pub fn new() -> Self {
        Message::default()
    }

    /// Reads the fields of a message, one level deep.
    ///
    /// # Errors
    /// Where the bytes are no message.
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = take_varint(&mut bytes)?;
            let number = u32::try_from(tag >> 3).ok().filter(|n| *n != 0).ok_or(WireError::BadTag(tag))?;
            let value = match tag & 7 {
                0 => Value::Varint(take_varint(&mut bytes)?),
                1 => Value::Fixed64(take_array(&mut bytes)?),
                2 => {
                    let length =
                        usize::try_from(take_varint(&mut bytes)?).map_err(|_| WireError::Truncated)?;
                    let (head, tail) = bytes.split_at_checked(length).ok_or(WireError::Truncated)?;
                    bytes = tail;
                    Value::Bytes(Cow::Borrowed(head))
                }
                5 => Value::Fixed32(take_array(&mut bytes)?),
                _ => return Err(WireError::BadTag(tag)),
            };
            fields.push((number, value));
        }
        Ok(Message { fields })
    }

    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in &self.fields {
            let tag = u64::from(*number) << 3;
            match value {
                Value::Varint(n) => {
                    put_varint(&mut out, tag);
                    put_varint(&mut out, *n);
                }
                Value::Fixed64(b) => {
                    put_varint(&mut out, tag | 1);
                    out.extend_from_slice(b);
                }
                Value::Bytes(b) => {
                    put_varint(&mut out, tag | 2);
                    put_varint(&mut out, b.len() as u64);
                    out.extend_from_slice(b);
                }
                Value::Fixed32(b) => {
                    put_varint(&mut out, tag | 5);
                    out.extend_from_slice(b);
                }
            }
        }
        out
    }

    /// Whether the field is there.
    pub fn has(&self, number: u32) -> bool {
        self.fields.iter().any(|(n, _)| *n == number)
    }

    /// A message in a singular field, `None` where it is absent. Two of them are one, joined: so the format
    /// defines it.
    ///
    /// # Errors
    /// Where the field is a number.
    pub fn message(&self, number: u32) -> Result<Option<Cow<'_, [u8]>>, WireError> {
        let mut found: Option<Cow<'_, [u8]>> = None;
        for part in self.all(number) {
            let part = part?;
            found = Some(match found {
                None => Cow::Borrowed(part),
                Some(first) => Cow::Owned([first.as_ref(), part].concat()),
            });
        }
        Ok(found)
    }

    /// Every occurrence of a field of bytes, in order.
    pub fn all(&self, number: u32) -> impl Iterator<Item = Result<&[u8], WireError>> {
        self.fields.iter().filter(move |(n, _)| *n == number).map(move |(_, value)| match value {
            Value::Bytes(bytes) => Ok(bytes.as_ref()),
            _ => Err(WireError::WrongType(number)),
        })
    }

    /// The text of a singular field; empty where it is absent, as in proto3.
    ///
    /// # Errors
    /// Where the field is a number or not UTF-8.
    pub fn text(&self, number: u32) -> Result<&str, WireError> {
        match self.all(number).last().transpose()? {
            None => Ok(""),
            Some(bytes) => std::str::from_utf8(bytes).map_err(|_| WireError::NotText(number)),
        }
    }

    /// The number of a singular field; 0 where it is absent, as in proto3.
    ///
    /// # Errors
    /// Where the field holds bytes.
    pub fn varint(&self, number: u32) -> Result<u64, WireError> {
        match self.fields.iter().rev().find(|(n, _)| *n == number) {
            None => Ok(0),
            Some((_, Value::Varint(value))) => Ok(*value),
            Some(_) => Err(WireError::WrongType(number)),
        }
    }

    /// Sets a singular field of bytes, where it stood or at the end.
    pub fn set_bytes(&mut self, number: u32, bytes: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        self.set(number, Value::Bytes(bytes.into()))
    }

    /// Sets a singular number, where it stood or at the end. 0 is set too, for wrappers such as
    /// `UInt32Value`.
    pub fn set_varint(&mut self, number: u32, value: u64) -> &mut Self {
        self.set(number, Value::Varint(value))
    }

    /// Sets a singular `double`.
    pub fn set_double(&mut self, number: u32, value: f64) -> &mut Self {
        self.set(number, Value::Fixed64(value.to_le_bytes()))
    }

    /// Appends to a repeated field.
    pub fn push(&mut self, number: u32, bytes: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        self.fields.push((number, Value::Bytes(bytes.into())));
        self
    }

    /// Replaces a repeated field, where its first occurrence stood or at the end.
    pub fn set_all(&mut self, number: u32, items: impl IntoIterator<Item = Vec<u8>>) -> &mut Self {
        let place = self.place(number);
        let items = items.into_iter().map(|item| (number, Value::Bytes(Cow::Owned(item))));
        self.fields.splice(place..place, items);
        self
    }

    /// Takes a field out, every occurrence.
    pub fn clear(&mut self, number: u32) -> &mut Self {
        self.fields.retain(|(n, _)| *n != number);
        self
    }

    /// Replaces each occurrence of a field of bytes by what `edit` makes of it.
    ///
    /// # Errors
    /// Those of `edit`, and a field that is a number.
    pub fn edit_each(
        &mut self,
        number: u32,
        mut edit: impl FnMut(&[u8]) -> Result<Vec<u8>, WireError>,
    ) -> Result<(), WireError> {
        for (n, value) in &mut self.fields {
            if *n == number {
                let Value::Bytes(bytes) = value else { return Err(WireError::WrongType(number)) };
                *bytes = Cow::Owned(edit(bytes)?);
            }
        }
        Ok(())
    }

    /// Edits the message in a singular field, which is made where it is absent.
    ///
    /// # Errors
    /// Those of `edit`, and a field that is no message.
    pub fn edit(
        &mut self,
        number: u32,
        edit: impl FnOnce(&mut Message<'_>) -> Result<(), WireError>,
    ) -> Result<&mut Self, WireError> {
        let bytes = self.message(number)?.map(Cow::into_owned).unwrap_or_default();
        let mut inner = Message::parse(&bytes)?;
        edit(&mut inner)?;
        let edited = inner.encode();
        Ok(self.set_bytes(number, edited))
    }

    /// The value of a key in a `map<string, message>`.
    ///
    /// # Errors
    /// Where the field is no map.
    pub fn map_value(&self, number: u32, key: &str) -> Result<Option<Vec<u8>>, WireError> {
        let mut found = None;
        for entry in self.all(number) {
            let entry = Message::parse(entry?)?;
            if entry.text(1)? == key {
                found = Some(entry.message(2)?.map(Cow::into_owned).unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Sets a key of a `map<string, message>`.
    ///
    /// # Errors
    /// Where the field is no map.
    pub fn set_map_value(&mut self, number: u32, key: &str, value: Vec<u8>) -> Result<&mut Self, WireError> {
        let mut entry = Message::new();
        entry.set_bytes(1, key.as_bytes().to_vec()).set_bytes(2, value);
        let entry = entry.encode();
        let mut entries = Vec::new();
        let mut found = false;
        for other in self.all(number) {
            let other = other?;
            if Message::parse(other)?.text(1)? != key {
                entries.push(other.to_vec());
            } else if !found {
                entries.push(entry.clone());
                found = true;
            }
        }
        if !found {
            entries.push(entry);
        }
        Ok(self.set_all(number, entries))
    }

    /// Takes a field out and says where it stood first; the end where it is absent.
    fn place(&mut self, number: u32) -> usize {
        let place = self.fields.iter().position(|(n, _)| *n == number);
        self.clear(number);
        place.unwrap_or(self.fields.len())
    }

    fn set(&mut self, number: u32, value: Value<'a>) -> &mut Self {
        let place = self.place(number);
        self.fields.insert(place, (number, value));
        self
    }
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(WireError::Truncated)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(WireError::LongNumber);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::LongNumber)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (head, tail) = bytes.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
    *bytes = tail;
    Ok(*head)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value<'static>> {
        prop_oneof![
            any::<u64>().prop_map(Value::Varint),
            any::<[u8; 8]>().prop_map(Value::Fixed64),
            any::<[u8; 4]>().prop_map(Value::Fixed32),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|b| Value::Bytes(Cow::Owned(b))),
        ]
    }

    fn message() -> impl Strategy<Value = Message<'static>> {
        prop::collection::vec((1u32..(1 << 29), value()), 0..12).prop_map(|fields| Message { fields })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message()) {
            let bytes = message.encode();
            prop_assert_eq!(Message::parse(&bytes), Ok(message));
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::parse(&bytes) {
                let again = message.encode();
                prop_assert_eq!(Message::parse(&again), Ok(message));
            }
        }

        #[test]
        fn an_edit_of_one_field_leaves_the_others(message in message(), number in 1u32..(1 << 29), bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut edited = message.clone();
            edited.set_bytes(number, bytes.clone());
            let found = edited.message(number).unwrap().unwrap().into_owned();
            prop_assert_eq!(found, bytes);
            let mut left = edited.clone();
            let mut before = message.clone();
            prop_assert_eq!(left.clear(number), before.clear(number));
        }
    }

    #[test]
    fn the_documented_examples_are_read() {
        // Field 1 = 150, and field 2 = "testing": the examples of the format's own documentation.
        let message =
            Message::parse(&[0x08, 0x96, 0x01, 0x12, 0x07, b't', b'e', b's', b't', b'i', b'n', b'g'])
                .unwrap();
        assert_eq!(message.varint(1), Ok(150));
        assert_eq!(message.text(2), Ok("testing"));
        assert_eq!(message.varint(2), Err(WireError::WrongType(2)));
        assert_eq!(message.text(3), Ok(""));
    }

    #[test]
    fn broken_bytes_say_what_is_broken() {
        assert_eq!(Message::parse(&[0x08]), Err(WireError::Truncated));
        assert_eq!(Message::parse(&[0x12, 0x05, 1]), Err(WireError::Truncated));
        assert_eq!(Message::parse(&[0x00, 0x01]), Err(WireError::BadTag(0)));
        assert_eq!(Message::parse(&[0x0b]), Err(WireError::BadTag(0x0b)));
        assert_eq!(
            Message::parse(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Err(WireError::LongNumber)
        );
    }

    #[test]
    fn a_message_in_two_parts_is_one() {
        let mut message = Message::new();
        message.push(1, vec![0x08, 0x01]).push(2, vec![]).push(1, vec![0x10, 0x02]);
        message.edit(1, |inner| inner.set_varint(3, 7).varint(2).map(|n| assert_eq!(n, 2))).unwrap();
        let whole = message.message(1).unwrap().unwrap();
        let inner = Message::parse(&whole).unwrap();
        assert_eq!((inner.varint(1), inner.varint(2), inner.varint(3)), (Ok(1), Ok(2), Ok(7)));
    }

    #[test]
    fn a_key_of_a_map_is_set_once() {
        let mut message = Message::new();
        message.set_map_value(13, "other", vec![1, 1]).unwrap();
        message.set_map_value(13, "ours", vec![8, 1]).unwrap();
        message.set_map_value(13, "ours", vec![8, 2]).unwrap();
        assert_eq!(message.all(13).count(), 2);
        assert_eq!(message.map_value(13, "ours"), Ok(Some(vec![8, 2])));
        assert_eq!(message.map_value(13, "other"), Ok(Some(vec![1, 1])));
        assert_eq!(message.map_value(13, "absent"), Ok(None));
    }
}
