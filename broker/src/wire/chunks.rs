//! A body as chunks: fields in small buffers, records as the log's own bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes that were written, and those that were taken over.
pub(super) struct Chunks {
    flexible: bool,
    chunks: Vec<Bytes>,
    pub open: BytesMut,
}

impl Chunks {
    pub fn new(flexible: bool) -> Self {
        Self { flexible, chunks: Vec::new(), open: BytesMut::new() }
    }

    pub fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.open.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.open.put_u8(value as u8);
    }

    pub fn array(&mut self, len: usize) {
        if self.flexible { self.varint(len as u32 + 1) } else { self.open.put_i32(len as i32) }
    }

    pub fn null_array(&mut self) {
        if self.flexible { self.varint(0) } else { self.open.put_i32(-1) }
    }

    pub fn string(&mut self, text: &str) {
        if self.flexible {
            self.varint(text.len() as u32 + 1);
        } else {
            self.open.put_i16(text.len() as i16);
        }
        self.open.put_slice(text.as_bytes());
    }

    pub fn tagged(&mut self, tag: u32, field: &[u8]) {
        self.varint(tag);
        self.varint(field.len() as u32);
        self.open.put_slice(field);
    }

    pub fn records(&mut self, records: Option<Bytes>) {
        let Some(records) = records else { return self.null_array() };
        if self.flexible {
            self.varint(records.len() as u32 + 1);
        } else {
            self.open.put_i32(records.len() as i32);
        }
        if !records.is_empty() {
            self.chunks.push(self.open.split().freeze());
            self.chunks.push(records);
        }
    }

    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.chunks.push(self.open.freeze());
        }
        self.chunks
    }
}
