//! Request and response headers, read without allocation.
//!
//! A client id and tagged fields are bounded by the bytes that are there; tagged fields of a header
//! have no meaning yet and are skipped.

use bytes::{Buf, Bytes};
use kafka_protocol::protocol::StrBytes;

use super::bounds::{Malformed, Walker};

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub api_key: i16,
    pub version: i16,
    pub correlation: i32,
    pub client_id: Option<StrBytes>,
}

impl Header {
    /// The first eight bytes, which are the same in every version of the header.
    pub fn start(frame: &[u8]) -> Result<Self, Malformed> {
        let mut walker = Walker::new(frame);
        Ok(Self {
            api_key: walker.i16()?,
            version: walker.i16()?,
            correlation: walker.i32()?,
            client_id: None,
        })
    }

    /// Takes the header off `frame`; `flexible` when it has tagged fields (header version 2).
    pub fn take(frame: &mut Bytes, flexible: bool) -> Result<Self, Malformed> {
        let mut header = Self::start(frame)?;
        let mut walker = Walker::new(&frame[8..]);
        let len = walker.i16()?;
        if len >= 0 {
            let at = 8 + walker.position();
            walker.skip(len as usize)?;
            let text = frame.slice(at..at + len as usize);
            header.client_id =
                Some(StrBytes::from_utf8(text).map_err(|_| Malformed("client id is not UTF-8"))?);
        } else if len != -1 {
            return Err(Malformed("client id of negative length"));
        }
        if flexible {
            walker.tagged_fields()?;
        }
        let end = 8 + walker.position();
        frame.advance(end);
        Ok(header)
    }
}

/// Takes the header off a response: the correlation id, and tagged fields in version 1.
pub fn skip_response(frame: &mut Bytes, version: i16) -> Result<i32, Malformed> {
    let mut walker = Walker::new(frame);
    let correlation = walker.i32()?;
    if version >= 1 {
        walker.tagged_fields()?;
    }
    let end = walker.position();
    frame.advance(end);
    Ok(correlation)
}
