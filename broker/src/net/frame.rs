//! Frames: four bytes of length, then that many bytes.
//!
//! Invariants: a claimed length costs nothing until the bytes arrive (the buffer grows with what
//! came, to at most twice that, and never past the claim); a frame returned owns memory of its own
//! size only, so that keeping a part of it does not keep the connection's buffer alive; `next` may
//! be dropped at any await and called again.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is read at once while no large frame is on its way, and so what an idle connection holds.
const SCRATCH: usize = 4 * 1024;
/// What the buffer of a large frame starts with.
const FIRST_GROWTH: usize = 64 * 1024;
/// The bytes of the length.
const PREFIX: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a frame of {len} bytes, {max} are allowed")]
    TooLarge { len: i64, max: usize },
    #[error("the connection ended in the middle of a frame")]
    Truncated,
}

pub struct FrameReader<R> {
    io: R,
    scratch: BytesMut,
    large: Option<Large>,
    max: usize,
    /// Bytes read so far, frames and prefixes.
    received: u64,
    /// How many of these were told.
    told: u64,
}

/// A frame that does not fit the scratch buffer.
struct Large {
    bytes: Vec<u8>,
    len: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames of more than `max` bytes are refused by their prefix.
    pub fn new(io: R, max: usize) -> Self {
        Self { io, scratch: BytesMut::new(), large: None, max, received: 0, told: 0 }
    }

    /// Bytes read so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes read since the last call.
    pub fn take_received(&mut self) -> u64 {
        let new = self.received - self.told;
        self.told = self.received;
        new
    }

    /// The next frame without its prefix; `None` when the other side has ended the connection.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if self.large.is_some() {
                return self.rest_of_large().await.map(Some);
            }
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if self.large.is_some() {
                continue;
            }
            if self.scratch.capacity() < SCRATCH {
                self.scratch.reserve(SCRATCH - self.scratch.len());
            }
            let read = self.io.read_buf(&mut self.scratch).await?;
            self.received += read as u64;
            if read == 0 {
                return if self.scratch.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }

    /// Takes a frame that has fully arrived, or starts a large one.
    fn buffered(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(prefix) = self.scratch.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let claimed = i32::from_be_bytes(*prefix);
        let len = match usize::try_from(claimed) {
            Ok(len) if len <= self.max => len,
            _ => return Err(FrameError::TooLarge { len: claimed.into(), max: self.max }),
        };
        if self.scratch.len() >= PREFIX + len {
            self.scratch.advance(PREFIX);
            let frame = Bytes::copy_from_slice(&self.scratch[..len]);
            self.scratch.advance(len);
            return Ok(Some(frame));
        }
        if PREFIX + len > SCRATCH {
            self.scratch.advance(PREFIX);
            let mut bytes = Vec::with_capacity(len.min(FIRST_GROWTH));
            bytes.extend_from_slice(&self.scratch);
            self.scratch.clear();
            self.large = Some(Large { bytes, len });
        }
        Ok(None)
    }

    async fn rest_of_large(&mut self) -> Result<Bytes, FrameError> {
        while let Some(large) = &mut self.large {
            let left = large.len - large.bytes.len();
            if left == 0 {
                break;
            }
            if large.bytes.len() == large.bytes.capacity() {
                large.bytes.reserve_exact(left.min(large.bytes.len().max(FIRST_GROWTH)));
            }
            let room = left.min(large.bytes.capacity() - large.bytes.len());
            let read = self.io.read_buf(&mut (&mut large.bytes).limit(room)).await?;
            self.received += read as u64;
            if read == 0 {
                return Err(FrameError::Truncated);
            }
        }
        Ok(self.large.take().map_or_else(Bytes::new, |large| Bytes::from(large.bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut frame = (body.len() as i32).to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in_however_the_bytes_are_cut() {
        let sizes = [0, 1, 100, 4091, 4092, 4093, 5000, 70_000, 200_000, 3];
        let bodies: Vec<Vec<u8>> = sizes.iter().map(|n| vec![*n as u8; *n]).collect();
        for cut in [1, 7, 4096, 100_000] {
            let (mut writer, reader) = tokio::io::duplex(64 * 1024);
            let wire: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
            let sender = tokio::spawn(async move {
                for piece in wire.chunks(cut) {
                    writer.write_all(piece).await.unwrap();
                }
            });
            let mut frames = FrameReader::new(reader, 1 << 20);
            for body in &bodies {
                assert_eq!(frames.next().await.unwrap().unwrap(), body[..], "cut {cut}");
            }
            assert!(frames.next().await.unwrap().is_none());
            sender.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_claim_of_a_hundred_megabytes_reserves_only_what_a_first_read_needs() {
        let (mut writer, reader) = tokio::io::duplex(64 * 1024);
        writer.write_all(&100_000_000_i32.to_be_bytes()).await.unwrap();
        writer.write_all(&[0; 10]).await.unwrap();
        let mut frames = FrameReader::new(reader, 104_857_600);
        tokio::select! {
            biased;
            _ = frames.next() => panic!("the frame is not complete"),
            () = std::future::ready(()) => {}
        }
        assert!(frames.large.as_ref().unwrap().bytes.capacity() <= FIRST_GROWTH);
        drop(writer);
        assert!(matches!(frames.next().await, Err(FrameError::Truncated)));
    }

    #[tokio::test]
    async fn a_length_beyond_the_bound_or_below_zero_is_refused_by_its_prefix() {
        for claimed in [1001, i32::MAX, -1, i32::MIN] {
            let bytes = claimed.to_be_bytes();
            let mut frames = FrameReader::new(&bytes[..], 1000);
            assert!(matches!(frames.next().await, Err(FrameError::TooLarge { .. })));
        }
    }
}
