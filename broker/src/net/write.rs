//! Writing chunks without joining them first.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// How many chunks go into one system call at most.
const SLICES: usize = 64;

/// Writes all of `chunks`, one after the other, with as few writes as the kernel allows.
pub async fn write_all<W>(io: &mut W, mut chunks: Vec<Bytes>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut at = 0;
    while at < chunks.len() {
        if chunks[at].is_empty() {
            at += 1;
            continue;
        }
        let slices: Vec<IoSlice<'_>> =
            chunks[at..].iter().take(SLICES).map(|chunk| IoSlice::new(chunk)).collect();
        let mut written = io.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while written > 0 {
            let step = written.min(chunks[at].len());
            chunks[at].advance(step);
            written -= step;
            if chunks[at].is_empty() {
                at += 1;
            }
        }
    }
    io.flush().await
}

/// Puts the length of all of `chunks` in front of them.
pub fn prefix(chunks: &mut Vec<Bytes>) -> io::Result<()> {
    let len: usize = chunks.iter().map(Bytes::len).sum();
    let len = i32::try_from(len)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a frame of more than 2 GiB"))?;
    chunks.insert(0, Bytes::copy_from_slice(&len.to_be_bytes()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn chunks_arrive_whole_and_in_order_through_a_narrow_pipe() {
        let mut chunks: Vec<Bytes> =
            (0..200_usize).map(|n| vec![n as u8; n * 7 % 97].into()).collect();
        let expected: Vec<u8> = chunks.iter().flatten().copied().collect();
        prefix(&mut chunks).unwrap();
        let (mut writer, mut reader) = tokio::io::duplex(50);
        let sent = tokio::spawn(async move { write_all(&mut writer, chunks).await });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        sent.await.unwrap().unwrap();
        assert_eq!(got[..4], (expected.len() as i32).to_be_bytes());
        assert_eq!(got[4..], expected);
    }
}
