//! Own message schemas: what Kafka stores (metadata records, internal topics, control records) but
//! no request carries.
//!
//! [`message!`](crate::message) turns a table of fields, each with the versions it exists in, into
//! a struct with `encode` and `decode`. Rules, as in Kafka's schema files:
//! - a field outside its versions is skipped, and reads as its default;
//! - from the message's first flexible version on, lengths are compact and tagged fields follow;
//! - a tagged field is written only when it differs from its default;
//! - an `Option` is a nullable field.
//!
//! Decoding never trusts a length: no allocation is larger than the bytes that remain, and every
//! error is a [`Malformed`], never a panic. Deliberately absent: keeping tagged fields that we do
//! not know (they are skipped), and checks that a default is a legal value.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Bytes that are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("ends before its last field")]
    Short,
    #[error("a length of {0} is negative or beyond the end")]
    Length(i64),
    #[error("null where null is not allowed")]
    Null,
    #[error("a string is not UTF-8")]
    Utf8,
    #[error("a variable-length number is too long")]
    Varint,
    #[error("version {version} is not in {min} to {max}")]
    Version { version: i16, min: i16, max: i16 },
    #[error("{0}")]
    Other(&'static str),
}

/// A message of its own, as opposed to a struct inside of one.
pub trait Message: Field + Default {
    const MIN: i16;
    const MAX: i16;
    /// The first flexible version; `i16::MAX` when there is none.
    const FLEXIBLE: i16;

    fn encode(&self, version: i16, out: &mut BytesMut) {
        debug_assert!((Self::MIN..=Self::MAX).contains(&version));
        self.put(out, version, version >= Self::FLEXIBLE);
    }

    fn to_bytes(&self, version: i16) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(version, &mut out);
        out.freeze()
    }

    /// Takes the message off the front of `input`.
    fn decode(input: &mut &[u8], version: i16) -> Result<Self, Malformed> {
        if !(Self::MIN..=Self::MAX).contains(&version) {
            return Err(Malformed::Version { version, min: Self::MIN, max: Self::MAX });
        }
        Self::take(input, version, version >= Self::FLEXIBLE)
    }
}

/// Anything that can be a field.
pub trait Field: Sized {
    fn put(&self, out: &mut BytesMut, version: i16, flexible: bool);
    fn take(input: &mut &[u8], version: i16, flexible: bool) -> Result<Self, Malformed>;
}

/// A field type that has a form for null.
pub trait Nullable: Field {
    fn put_null(out: &mut BytesMut, flexible: bool);
    fn take_nullable(
        input: &mut &[u8],
        version: i16,
        flexible: bool,
    ) -> Result<Option<Self>, Malformed>;
}

pub fn put_unsigned_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub fn take_unsigned_varint(input: &mut &[u8]) -> Result<u32, Malformed> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let byte = take_array::<1>(input)?[0];
        if shift == 28 && byte > 0x0f {
            break;
        }
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Varint)
}

/// Takes `len` bytes off the front.
pub fn take_slice<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (head, rest) = input.split_at_checked(len).ok_or(Malformed::Length(len as i64))?;
    *input = rest;
    Ok(head)
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(Malformed::Short)?;
    *input = rest;
    Ok(*head)
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn put(&self, out: &mut BytesMut, _version: i16, _flexible: bool) {
                out.put_slice(&self.to_be_bytes());
            }
            fn take(input: &mut &[u8], _version: i16, _flexible: bool) -> Result<Self, Malformed> {
                take_array(input).map(Self::from_be_bytes)
            }
        }
    )*};
}
number!(i8, i16, u16, i32, u32, i64, f64);

impl Field for bool {
    fn put(&self, out: &mut BytesMut, _version: i16, _flexible: bool) {
        out.put_u8(u8::from(*self));
    }

    fn take(input: &mut &[u8], _version: i16, _flexible: bool) -> Result<Self, Malformed> {
        Ok(take_array::<1>(input)?[0] != 0)
    }
}

impl Field for Uuid {
    fn put(&self, out: &mut BytesMut, _version: i16, _flexible: bool) {
        out.put_slice(self.as_bytes());
    }

    fn take(input: &mut &[u8], _version: i16, _flexible: bool) -> Result<Self, Malformed> {
        take_array(input).map(Self::from_bytes)
    }
}

/// How wide a length is before the flexible versions.
#[derive(Clone, Copy)]
enum Width {
    Short,
    Int,
}

fn put_len(out: &mut BytesMut, len: Option<usize>, width: Width, flexible: bool) {
    match (flexible, width) {
        (true, _) => put_unsigned_varint(out, len.map_or(0, |len| len as u32 + 1)),
        (false, Width::Short) => out.put_i16(len.map_or(-1, |len| len as i16)),
        (false, Width::Int) => out.put_i32(len.map_or(-1, |len| len as i32)),
    }
}

/// A length that does not reach beyond `input`; `None` is null.
fn take_len(input: &mut &[u8], width: Width, flexible: bool) -> Result<Option<usize>, Malformed> {
    let len = match (flexible, width) {
        (true, _) => i64::from(take_unsigned_varint(input)?) - 1,
        (false, Width::Short) => i64::from(i16::take(input, 0, false)?),
        (false, Width::Int) => i64::from(i32::take(input, 0, false)?),
    };
    match usize::try_from(len) {
        Ok(len) if len <= input.len() => Ok(Some(len)),
        Err(_) if len == -1 => Ok(None),
        _ => Err(Malformed::Length(len)),
    }
}

macro_rules! not_null {
    () => {
        fn take(input: &mut &[u8], version: i16, flexible: bool) -> Result<Self, Malformed> {
            Self::take_nullable(input, version, flexible)?.ok_or(Malformed::Null)
        }
    };
}

impl Field for String {
    fn put(&self, out: &mut BytesMut, _version: i16, flexible: bool) {
        put_len(out, Some(self.len()), Width::Short, flexible);
        out.put_slice(self.as_bytes());
    }
    not_null!();
}

impl Nullable for String {
    fn put_null(out: &mut BytesMut, flexible: bool) {
        put_len(out, None, Width::Short, flexible);
    }

    fn take_nullable(
        input: &mut &[u8],
        _version: i16,
        flexible: bool,
    ) -> Result<Option<Self>, Malformed> {
        let Some(len) = take_len(input, Width::Short, flexible)? else { return Ok(None) };
        let bytes = take_slice(input, len)?;
        std::str::from_utf8(bytes).map(|text| Some(text.to_owned())).map_err(|_| Malformed::Utf8)
    }
}

impl Field for Bytes {
    fn put(&self, out: &mut BytesMut, _version: i16, flexible: bool) {
        put_len(out, Some(self.len()), Width::Int, flexible);
        out.put_slice(self);
    }
    not_null!();
}

impl Nullable for Bytes {
    fn put_null(out: &mut BytesMut, flexible: bool) {
        put_len(out, None, Width::Int, flexible);
    }

    fn take_nullable(
        input: &mut &[u8],
        _version: i16,
        flexible: bool,
    ) -> Result<Option<Self>, Malformed> {
        let Some(len) = take_len(input, Width::Int, flexible)? else { return Ok(None) };
        Ok(Some(Self::copy_from_slice(take_slice(input, len)?)))
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut BytesMut, version: i16, flexible: bool) {
        put_len(out, Some(self.len()), Width::Int, flexible);
        for element in self {
            element.put(out, version, flexible);
        }
    }
    not_null!();
}

impl<T: Field> Nullable for Vec<T> {
    fn put_null(out: &mut BytesMut, flexible: bool) {
        put_len(out, None, Width::Int, flexible);
    }

    fn take_nullable(
        input: &mut &[u8],
        version: i16,
        flexible: bool,
    ) -> Result<Option<Self>, Malformed> {
        let Some(len) = take_len(input, Width::Int, flexible)? else { return Ok(None) };
        // An element in memory can be much larger than on the wire: grow with what really arrives.
        let mut elements = Self::with_capacity(len.min(64));
        for _ in 0..len {
            elements.push(T::take(input, version, flexible)?);
        }
        Ok(Some(elements))
    }
}

impl<T: Nullable> Field for Option<T> {
    fn put(&self, out: &mut BytesMut, version: i16, flexible: bool) {
        match self {
            Some(value) => value.put(out, version, flexible),
            None => T::put_null(out, flexible),
        }
    }

    fn take(input: &mut &[u8], version: i16, flexible: bool) -> Result<Self, Malformed> {
        T::take_nullable(input, version, flexible)
    }
}

/// The tagged fields of one struct, collected in order of their tags.
#[derive(Default)]
pub struct Tagged(Vec<(u32, Bytes)>);

impl Tagged {
    pub fn add<T: Field>(&mut self, tag: u32, value: &T, version: i16) {
        let mut out = BytesMut::new();
        value.put(&mut out, version, true);
        self.0.push((tag, out.freeze()));
    }

    pub fn put(mut self, out: &mut BytesMut) {
        self.0.sort_by_key(|(tag, _)| *tag);
        put_unsigned_varint(out, self.0.len() as u32);
        for (tag, value) in self.0 {
            put_unsigned_varint(out, tag);
            put_unsigned_varint(out, value.len() as u32);
            out.put_slice(&value);
        }
    }
}

/// Calls `each` with the tag and bytes of every tagged field.
pub fn take_tagged(
    input: &mut &[u8],
    mut each: impl FnMut(u32, &mut &[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for _ in 0..take_unsigned_varint(input)? {
        let tag = take_unsigned_varint(input)?;
        let len = take_unsigned_varint(input)? as usize;
        let mut value = take_slice(input, len)?;
        each(tag, &mut value)?;
    }
    Ok(())
}

/// Defines message structs. Per field: name, type, `[versions]`, where versions are `from FIRST`,
/// then optionally `until LAST`, `tag N`, `default EXPRESSION`.
///
/// ```
/// ottla_broker::message! {
///     /// A point.
///     pub struct Point (0, 1, flexible 1) {
///         x: i32 [from 0, default -1],
///         name: Option<String> [from 1, tag 0],
///         near: Vec<Neighbour> [from 0],
///     }
///     /// A struct inside of a message.
///     pub struct Neighbour { y: i16 [from 0] }
/// }
/// ```
#[macro_export]
macro_rules! message {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident $(($min:literal, $max:literal, flexible $flexible:expr))? {
            $(
                $(#[$field_meta:meta])*
                $field:ident : $type:ty [
                    from $from:literal $(, until $until:literal)? $(, tag $tag:literal)?
                    $(, default $default:expr)?
                ]
            ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::message!(@default $type $(, $default)?),)* }
            }
        }

        impl $crate::wire::message::Field for $name {
            #[allow(unused_variables, unused_mut, unused_comparisons, clippy::all)]
            fn put(&self, out: &mut ::bytes::BytesMut, version: i16, flexible: bool) {
                $(
                    if $crate::message!(@in version, $from $(, $until)?) {
                        $crate::message!(@put self.$field, out, version, flexible $(, $tag)?);
                    }
                )*
                if flexible {
                    let mut tagged = $crate::wire::message::Tagged::default();
                    $(
                        if $crate::message!(@in version, $from $(, $until)?) {
                            $crate::message!(
                                @tagged self.$field, tagged, version,
                                ($crate::message!(@default $type $(, $default)?)) $(, $tag)?
                            );
                        }
                    )*
                    tagged.put(out);
                }
            }

            #[allow(unused_variables, unused_mut, unused_comparisons, clippy::all)]
            fn take(input: &mut &[u8], version: i16, flexible: bool)
                -> Result<Self, $crate::wire::message::Malformed>
            {
                let mut it = Self::default();
                $(
                    if $crate::message!(@in version, $from $(, $until)?) {
                        $crate::message!(@take it.$field, input, version, flexible $(, $tag)?);
                    }
                )*
                if flexible {
                    $crate::wire::message::take_tagged(input, |tag, value| {
                        $(
                            $crate::message!(@take_tagged it.$field, tag, value, version $(, $tag)?);
                        )*
                        Ok(())
                    })?;
                }
                Ok(it)
            }
        }

        $(
            impl $crate::wire::message::Message for $name {
                const MIN: i16 = $min;
                const MAX: i16 = $max;
                const FLEXIBLE: i16 = $flexible;
            }
        )?
    )*};

    (@default $type:ty) => { <$type as Default>::default() };
    (@default $type:ty, $default:expr) => { $default };

    (@in $version:expr, $from:literal) => { $version >= $from };
    (@in $version:expr, $from:literal, $until:literal) => {
        $version >= $from && $version <= $until
    };

    (@put $value:expr, $out:expr, $version:expr, $flexible:expr) => {
        $crate::wire::message::Field::put(&$value, $out, $version, $flexible)
    };
    (@put $value:expr, $out:expr, $version:expr, $flexible:expr, $tag:literal) => {};

    (@tagged $value:expr, $tagged:expr, $version:expr, ($default:expr)) => {};
    (@tagged $value:expr, $tagged:expr, $version:expr, ($default:expr), $tag:literal) => {
        if $value != $default {
            $tagged.add($tag, &$value, $version);
        }
    };

    (@take $place:expr, $input:expr, $version:expr, $flexible:expr) => {
        $place = $crate::wire::message::Field::take($input, $version, $flexible)?
    };
    (@take $place:expr, $input:expr, $version:expr, $flexible:expr, $tag:literal) => {};

    (@take_tagged $place:expr, $got:expr, $value:expr, $version:expr) => {};
    (@take_tagged $place:expr, $got:expr, $value:expr, $version:expr, $tag:literal) => {
        if $got == $tag {
            $place = $crate::wire::message::Field::take($value, $version, true)?;
        }
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    crate::message! {
        pub struct Outer (0, 2, flexible 1) {
            id: i32 [from 0, default -1],
            old: Option<String> [from 0, until 0],
            children: Vec<Inner> [from 0],
            late: Option<Vec<i32>> [from 2, tag 1],
            early: i8 [from 1, tag 0, default 5],
        }
        pub struct Inner {
            name: String [from 0],
            data: Bytes [from 1],
        }
    }

    fn outer() -> Outer {
        Outer {
            id: 7,
            old: None,
            children: vec![Inner { name: "a".into(), data: Bytes::from_static(b"xy") }],
            late: Some(vec![1, 2]),
            early: 5,
        }
    }

    #[test]
    fn an_inflexible_version_has_wide_lengths_and_no_tags() {
        let bytes = outer().to_bytes(0);
        assert_eq!(&bytes[..], b"\0\0\0\x07\xff\xff\0\0\0\x01\0\x01a");
    }

    #[test]
    fn a_flexible_version_has_compact_lengths_and_tags_that_differ_from_their_default() {
        let bytes = outer().to_bytes(2);
        assert_eq!(
            &bytes[..],
            b"\0\0\0\x07\x02\x02a\x03xy\0\x01\x01\x09\x03\0\0\0\x01\0\0\0\x02".as_slice()
        );
        assert_eq!(Outer::decode(&mut &bytes[..], 2), Ok(outer()));
    }

    #[test]
    fn a_field_outside_its_versions_reads_as_its_default() {
        let bytes = outer().to_bytes(1);
        let read = Outer::decode(&mut &bytes[..], 1).unwrap();
        assert_eq!(read, Outer { late: None, ..outer() });
    }

    #[test]
    fn an_unknown_tag_is_skipped() {
        let mut bytes = Inner { name: "n".into(), ..Inner::default() };
        bytes.data = Bytes::new();
        let mut out = BytesMut::new();
        bytes.put(&mut out, 1, true);
        out.truncate(out.len() - 1);
        out.put_slice(b"\x01\x09\x02zz");
        assert_eq!(Inner::take(&mut &out[..], 1, true), Ok(bytes));
    }

    #[test]
    fn a_huge_length_is_an_error_and_no_allocation() {
        let bytes = b"\0\0\0\x07\xff\xff\xff\xff\x0f";
        assert_eq!(Outer::decode(&mut &bytes[..], 1), Err(Malformed::Length(4294967294)));
        assert_eq!(
            Outer::decode(&mut b"".as_slice(), 3),
            Err(Malformed::Version { version: 3, min: 0, max: 2 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64), version in 0i16..3,
        ) {
            let _ = Outer::decode(&mut &bytes[..], version);
        }
    }
}
