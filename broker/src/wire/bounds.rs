//! Proof, before a request is decoded, that all of its lengths and counts lie within its bytes.
//!
//! The decoder trusts counts: five bytes can make it ask for 154 GB and end the process. So each
//! body is walked by its shape first. Nothing is allocated; a count is held against the bytes that
//! remain; bytes after the end are refused; a known tagged field must fill exactly the size it
//! claims. Elements are bounded in number as well, because an empty one takes far more memory than
//! bytes. What the text of a string says is the decoder's to check.

use super::schema::{self, Field, Request, Type};

/// Array elements and unknown tagged fields of one request, all levels together.
pub const MAX_ELEMENTS: usize = 1 << 20;

/// Why a request cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

const TOO_SHORT: Malformed = Malformed("a length or count reaches beyond the end");

/// Walks the body of the request with API key `key` in `version`.
pub fn check(key: i16, version: i16, body: &[u8]) -> Result<(), Malformed> {
    extent(key, version, body).map(|_| ())
}

/// As [`check`]; returns how many bytes of `body` the request takes.
pub fn extent(key: i16, version: i16, body: &[u8]) -> Result<usize, Malformed> {
    let shape = schema::request(key).ok_or(Malformed("unknown API key"))?;
    let mut walker = Walker::new(body);
    let context = Context { version, flexible: shape.flexible.contains(version) };
    if !shape.versions.contains(version) {
        return Err(Malformed("unknown version"));
    }
    // What follows the last field is ignored, as Kafka does: librdkafka leaves three bytes there
    // when it asks for the metadata of all topics.
    walker.fields(&shape.fields, context)?;
    Ok(walker.position())
}

/// Whether requests with this key and version have a header with tagged fields.
pub fn has_flexible_header(key: i16, version: i16) -> bool {
    schema::request(key).is_some_and(|shape: &Request| shape.flexible.contains(version))
}

#[derive(Clone, Copy)]
struct Context {
    version: i16,
    flexible: bool,
}

/// Reads along bytes without keeping any.
pub struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    elements: usize,
}

impl<'a> Walker<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, elements: 0 }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn skip(&mut self, len: usize) -> Result<(), Malformed> {
        if len > self.remaining() {
            return Err(TOO_SHORT);
        }
        self.at += len;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.bytes[self.at..].first_chunk().copied().ok_or(TOO_SHORT)?;
        self.at += N;
        Ok(taken)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.take().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_be_bytes)
    }

    /// An unsigned varint of at most 32 bits.
    pub fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take::<1>()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a varint of more than 32 bits"))
    }

    /// Skips tagged fields of which none is known.
    pub fn tagged_fields(&mut self) -> Result<(), Malformed> {
        self.tagged(&[], Context { version: 0, flexible: true })
    }

    fn fields(&mut self, fields: &[Field], context: Context) -> Result<(), Malformed> {
        for field in fields.iter().filter(|field| field.is_plain_in(context.version)) {
            self.value(&field.kind, field.nullable.contains(context.version), context)?;
        }
        if context.flexible { self.tagged(fields, context) } else { Ok(()) }
    }

    fn tagged(&mut self, fields: &[Field], context: Context) -> Result<(), Malformed> {
        let count = self.varint()? as usize;
        self.count(count, 2)?;
        for _ in 0..count {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            if size > self.remaining() {
                return Err(TOO_SHORT);
            }
            let end = self.at + size;
            match fields.iter().find(|field| field.has_tag_in(tag, context.version)) {
                Some(field) => {
                    let nullable = field.nullable.contains(context.version);
                    self.value(&field.kind, nullable, context)?;
                    if self.at != end {
                        return Err(Malformed("a tagged field of another size than it claims"));
                    }
                }
                None => self.at = end,
            }
        }
        Ok(())
    }

    fn value(&mut self, kind: &Type, nullable: bool, context: Context) -> Result<(), Malformed> {
        match kind {
            Type::Fixed(len) => self.skip(*len),
            Type::String => {
                let len = if context.flexible { self.compact()? } else { self.i16()?.into() };
                self.body(len, nullable)
            }
            Type::Bytes => {
                let len = if context.flexible { self.compact()? } else { self.i32()?.into() };
                self.body(len, nullable)
            }
            Type::Array(element) => self.array(element, nullable, context),
            Type::Struct(fields) if nullable => match self.take::<1>()?.map(|byte| byte as i8) {
                [-1] => Ok(()),
                [1] => self.fields(fields, context),
                _ => Err(Malformed("a structure that is neither there nor null")),
            },
            Type::Struct(fields) => self.fields(fields, context),
        }
    }

    fn array(&mut self, element: &Type, nullable: bool, context: Context) -> Result<(), Malformed> {
        let count = if context.flexible { self.compact()? } else { self.i32()?.into() };
        let Some(count) = length(count, nullable)? else { return Ok(()) };
        self.count(count, smallest(element, context))?;
        if let Type::Fixed(len) = element {
            return self.skip(len.checked_mul(count).ok_or(TOO_SHORT)?);
        }
        for _ in 0..count {
            self.value(element, false, context)?;
        }
        Ok(())
    }

    /// Holds `count` elements of at least `smallest` bytes against what remains.
    fn count(&mut self, count: usize, smallest: usize) -> Result<(), Malformed> {
        if count > self.remaining() / smallest.max(1) {
            return Err(TOO_SHORT);
        }
        self.elements = self.elements.saturating_add(count);
        if self.elements > MAX_ELEMENTS {
            return Err(Malformed("too many elements"));
        }
        Ok(())
    }

    /// A length plus one, of which 0 is null.
    fn compact(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from(self.varint()?) - 1)
    }

    fn body(&mut self, len: i64, nullable: bool) -> Result<(), Malformed> {
        match length(len, nullable)? {
            Some(len) => self.skip(len),
            None => Ok(()),
        }
    }
}

fn length(len: i64, nullable: bool) -> Result<Option<usize>, Malformed> {
    match usize::try_from(len) {
        Ok(len) => Ok(Some(len)),
        Err(_) if len == -1 && nullable => Ok(None),
        Err(_) if len == -1 => Err(Malformed("null where there must be a value")),
        Err(_) => Err(Malformed("a negative length")),
    }
}

/// The fewest bytes that a value can have.
fn smallest(kind: &Type, context: Context) -> usize {
    match kind {
        Type::Fixed(len) => *len,
        Type::String if !context.flexible => 2,
        Type::Bytes | Type::Array(_) if !context.flexible => 4,
        Type::String | Type::Bytes | Type::Array(_) => 1,
        Type::Struct(fields) => {
            let plain = fields.iter().filter(|field| field.is_plain_in(context.version));
            let sum: usize = plain
                .map(|field| match &field.kind {
                    // It may be null, which is one byte.
                    Type::Struct(_) if field.nullable.contains(context.version) => 1,
                    kind => smallest(kind, context),
                })
                .sum();
            sum + usize::from(context.flexible)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: i16 = 3;

    #[test]
    fn five_bytes_cannot_claim_two_billion_topics() {
        assert_eq!(check(METADATA, 1, &[0x7f, 0xff, 0xff, 0xff]), Err(TOO_SHORT));
        let flexible = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(check(METADATA, 9, &flexible), Err(TOO_SHORT));
    }

    #[test]
    fn null_is_only_where_it_may_be() {
        assert_eq!(check(METADATA, 1, &(-1_i32).to_be_bytes()), Ok(()));
        assert!(check(METADATA, 0, &(-1_i32).to_be_bytes()).is_err());
        assert!(check(METADATA, 1, &(-2_i32).to_be_bytes()).is_err());
    }

    #[test]
    fn bytes_after_the_end_are_ignored() {
        assert_eq!(check(METADATA, 1, &[0, 0, 0, 0]), Ok(()));
        assert_eq!(check(METADATA, 1, &[0, 0, 0, 0, 0]), Ok(()));
    }

    #[test]
    fn a_flood_of_empty_elements_is_refused_before_it_takes_memory() {
        let count = MAX_ELEMENTS + 1;
        let mut body = (count as i32).to_be_bytes().to_vec();
        body.resize(4 + 2 * count, 0);
        assert_eq!(check(METADATA, 1, &body), Err(Malformed("too many elements")));
    }

    #[test]
    fn a_varint_has_at_most_32_bits() {
        let varint = |bytes: &[u8]| Walker::new(bytes).varint();
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert!(varint(&[0xff, 0xff, 0xff, 0xff, 0x10]).is_err());
        assert!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80]).is_err());
        assert!(varint(&[0x80]).is_err());
    }

    #[test]
    fn a_known_tagged_field_fills_what_it_claims() {
        // Fetch 12: nothing asked, then tag 0 (cluster id, a string) of a false size.
        let mut body = vec![0; 4 + 4 + 4 + 4 + 1 + 4 + 4];
        body.extend([1, 1, 1]); // no topics, none forgotten, an empty rack
        let with_tag = |size: u8, text: &[u8]| {
            let mut body = body.clone();
            body.extend([1, 0, size]);
            body.extend(text);
            check(1, 12, &body)
        };
        assert_eq!(with_tag(3, &[3, b'a', b'b']), Ok(()));
        assert!(with_tag(3, &[2, b'a', b'b']).is_err());
        assert!(with_tag(2, &[3, b'a', b'b']).is_err());
    }
}
