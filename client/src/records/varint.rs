//! Zigzag varints, as records use them, and a reader that never runs past its end.

use bytes::{Buf, BufMut, Bytes};

use crate::{Error, Result};

pub(super) fn put(out: &mut impl BufMut, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
pub(super) fn size(value: i64) -> usize {
    let bits = 64 - ((value << 1 ^ value >> 63) as u64 | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

pub(super) fn cut_off() -> Error {
    Error::Protocol("a record ends before its fields do".into())
}

pub(super) fn get(input: &mut Bytes) -> Result<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if input.is_empty() {
            return Err(cut_off());
        }
        let byte = input.get_u8();
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(Error::Protocol("a record holds a number of more than ten bytes".into()))
}

/// A field with its length before it; a length of -1 is null.
pub(super) fn get_bytes(input: &mut Bytes) -> Result<Option<Bytes>> {
    match get(input)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= input.len() => Ok(Some(input.split_to(length))),
            _ => Err(cut_off()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_their_size_is_known() {
        for value in
            [0, 1, -1, 63, 64, -64, -65, 8191, 8192, i64::from(i32::MAX), i64::MAX, i64::MIN]
        {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out.len(), size(value), "{value}");
            assert_eq!(get(&mut Bytes::from(out)).expect("reads"), value);
        }
        assert!(get(&mut Bytes::from_static(&[0x80])).is_err());
        assert!(get(&mut Bytes::from_static(&[0xFF; 11])).is_err());
    }
}
