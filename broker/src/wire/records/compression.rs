//! The five compression types. Snappy is read in both of its dresses: the raw block, and the
//! framing of xerial's library, which the Java client writes and which we write, too.

use std::io::{self, Read, Write};

use super::RecordsError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER: usize = 16;
const XERIAL_BLOCK: usize = 32 << 10;

impl Compression {
    pub fn from_id(id: u8) -> Result<Self, RecordsError> {
        Ok(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            other => return Err(RecordsError::Compression(other)),
        })
    }
    pub fn id(self) -> u8 {
        self as u8
    }
    /// As `compression.type` names it; `None` for `producer` and for what is unknown.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" | "uncompressed" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

pub(super) fn decompress(
    how: Compression,
    bytes: &[u8],
    max: usize,
) -> Result<Vec<u8>, RecordsError> {
    match how {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(bytes), max),
        Compression::Snappy => snappy(bytes, max),
        Compression::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(bytes), max),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(broken)?;
            // A window is memory that the sender asks for: no more than 128 MiB, zstd's own limit
            // for --long=27 and what `max` allows at most.
            decoder.window_log_max(27).map_err(broken)?;
            read_bounded(decoder, max)
        }
    }
}

fn read_bounded(reader: impl Read, max: usize) -> Result<Vec<u8>, RecordsError> {
    let mut out = Vec::new();
    reader.take(max as u64 + 1).read_to_end(&mut out).map_err(broken)?;
    if out.len() > max { Err(RecordsError::TooLarge(max)) } else { Ok(out) }
}

fn broken(error: io::Error) -> RecordsError {
    RecordsError::corrupt(format!("the compressed records cannot be opened: {error}"))
}

fn snappy(bytes: &[u8], max: usize) -> Result<Vec<u8>, RecordsError> {
    let mut out = Vec::new();
    if !bytes.starts_with(&XERIAL_MAGIC) {
        snappy_block(bytes, max, &mut out)?;
        return Ok(out);
    }
    let mut rest = bytes.get(XERIAL_HEADER..).unwrap_or_default();
    while !rest.is_empty() {
        let length =
            rest.get(..4).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
        let block = length.and_then(|length| rest.get(4..4usize.checked_add(length as usize)?));
        let Some(block) = block else {
            return Err(RecordsError::corrupt("a snappy block goes past the end of its batch"));
        };
        snappy_block(block, max, &mut out)?;
        rest = &rest[4 + block.len()..];
    }
    Ok(out)
}

fn snappy_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), RecordsError> {
    let broken = |error: snap::Error| broken(io::Error::other(error));
    let length = snap::raw::decompress_len(block).map_err(broken)?;
    let end = out.len().saturating_add(length);
    if end > max {
        return Err(RecordsError::TooLarge(max));
    }
    // Snappy shrinks by at most 64 bytes to 3: a length that is larger is a lie.
    if length / 22 > block.len() {
        return Err(RecordsError::corrupt("a snappy block that claims too much"));
    }
    let start = out.len();
    out.resize(end, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(broken)?;
    out.truncate(start + written);
    Ok(())
}

/// Compresses into memory, so only the libraries' own failures are errors.
pub(super) fn compress(how: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
    Ok(match how {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes)?;
            encoder.finish()?
        }
        Compression::Snappy => {
            let mut out = Vec::with_capacity(XERIAL_HEADER + bytes.len() / 2);
            out.extend_from_slice(&XERIAL_MAGIC);
            out.extend_from_slice(&1u32.to_be_bytes());
            out.extend_from_slice(&1u32.to_be_bytes());
            for block in bytes.chunks(XERIAL_BLOCK) {
                let block =
                    snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other)?;
                out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                out.extend_from_slice(&block);
            }
            out
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes)?;
            encoder.finish().map_err(io::Error::other)?
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, 3)?,
    })
}
