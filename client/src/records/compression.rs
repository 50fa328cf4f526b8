//! The codecs, framed so that Java reads them: xerial's snappy, independent lz4 blocks.

use std::io::{Read, Write};

use bytes::{BufMut, Bytes};

use crate::{Error, Result};

/// What a compressed batch may unpack to: a bomb is an error, not an exhausted memory.
const MAX_UNPACKED: u64 = 512 << 20;
const XERIAL: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_BLOCK: usize = 32 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// By Kafka's name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
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

    pub(super) fn of_attributes(attributes: i16) -> Result<Self> {
        let number = attributes & 7;
        let codec = Self::ALL.get(number as usize).copied();
        codec.ok_or_else(|| {
            Error::Protocol(format!("a batch is compressed with an unknown codec ({number})"))
        })
    }

    pub(super) fn number(self) -> i16 {
        self as i16
    }

    pub(super) fn pack(self, plain: &[u8]) -> Result<Vec<u8>> {
        let packed = match self {
            Self::None => Ok(plain.to_vec()),
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
            Self::Snappy => pack_xerial(plain),
            Self::Lz4 => {
                // Java refuses blocks that depend on each other.
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
                encoder
                    .write_all(plain)
                    .and_then(|()| encoder.finish().map_err(std::io::Error::from))
            }
            Self::Zstd => zstd::encode_all(plain, zstd::DEFAULT_COMPRESSION_LEVEL),
        };
        packed.map_err(|error| {
            Error::Protocol(format!("cannot compress with {}: {error}", self.name()))
        })
    }

    pub(super) fn unpack(self, packed: Bytes) -> Result<Bytes> {
        let mut plain = Vec::new();
        let read = match self {
            Self::None => return Ok(packed),
            Self::Gzip => limited(flate2::read::GzDecoder::new(&packed[..]), &mut plain),
            Self::Snappy => unpack_snappy(&packed, &mut plain),
            Self::Lz4 => limited(lz4_flex::frame::FrameDecoder::new(&packed[..]), &mut plain),
            Self::Zstd => {
                zstd::Decoder::new(&packed[..]).and_then(|decoder| limited(decoder, &mut plain))
            }
        };
        match read {
            Ok(()) => Ok(plain.into()),
            Err(error) => {
                Err(Error::Protocol(format!("a batch is not valid {}: {error}", self.name())))
            }
        }
    }
}

fn limited(decoder: impl Read, plain: &mut Vec<u8>) -> std::io::Result<()> {
    let read = decoder.take(MAX_UNPACKED + 1).read_to_end(plain)?;
    if read as u64 > MAX_UNPACKED {
        return Err(std::io::Error::other("it unpacks to more than 512 MiB"));
    }
    Ok(())
}

fn pack_xerial(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = XERIAL.to_vec();
    out.put_i32(1); // version
    out.put_i32(1); // lowest version that can read it
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK) {
        let packed = encoder.compress_vec(block)?;
        out.put_i32(packed.len() as i32);
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

/// Xerial's stream of blocks, or one bare block as some clients write it.
fn unpack_snappy(packed: &[u8], plain: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(stream) = packed.strip_prefix(XERIAL) else { return unpack_block(packed, plain) };
    let broken = || std::io::Error::other("a block is cut off");
    let mut rest = stream.get(8..).ok_or_else(broken)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        let length = u32::from_be_bytes(*length) as usize;
        unpack_block(after.get(..length).ok_or_else(broken)?, plain)?;
        rest = &after[length..];
    }
    Ok(())
}

fn unpack_block(block: &[u8], plain: &mut Vec<u8>) -> std::io::Result<()> {
    let length = snap::raw::decompress_len(block)?;
    if (length + plain.len()) as u64 > MAX_UNPACKED {
        return Err(std::io::Error::other("it unpacks to more than 512 MiB"));
    }
    plain.extend_from_slice(&snap::raw::Decoder::new().decompress_vec(block)?);
    Ok(())
}
