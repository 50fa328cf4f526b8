//! Bytes that no client sends: each gets an error or a closed connection, and the broker goes on.

use bytes::{BufMut as _, BytesMut};
use kafka_protocol::messages::ApiVersionsRequest;

use crate::Case;
use crate::conversation::Talk;

pub const CASES: &[Case] = &[
    Case { name: "hostile: impossible frames", hold: frames },
    Case { name: "hostile: unknown APIs and versions", hold: unknown },
    Case { name: "hostile: lengths that lie", hold: lengths },
    Case { name: "hostile: noise", hold: noise },
];

fn frame(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut body = BytesMut::new();
    build(&mut body);
    let mut whole = BytesMut::new();
    whole.put_i32(body.len() as i32);
    whole.put(body);
    whole
}

fn header(to: &mut BytesMut, key: i16, version: i16) {
    to.put_i16(key);
    to.put_i16(version);
    to.put_i32(1);
    to.put_i16(4);
    to.put_slice(b"wire");
}

/// The broker still answers a well-behaved client.
fn alive(talk: &mut Talk) {
    let said = talk
        .call(0, &ApiVersionsRequest::default())
        .map_or_else(|problem| problem.to_string(), |_| "alive".to_owned());
    talk.note("and then", said);
}

fn frames(talk: &mut Talk) {
    for length in [-1, i32::MIN, i32::MAX, 0x4754_5420, 104_857_601] {
        let mut bytes = BytesMut::new();
        bytes.put_i32(length);
        bytes.put_slice(b"12345678");
        talk.send_raw(&format!("a frame of {length} bytes"), &bytes);
    }
    for length in [0, 1, 3, 7, 9] {
        let body = frame(|to| to.put_bytes(0, length));
        talk.send_raw(&format!("{length} zero bytes"), &body);
    }
    alive(talk);
}

fn unknown(talk: &mut Talk) {
    for (key, version) in
        [(-1, 0), (999, 0), (i16::MAX, 0), (3, 99), (3, -1), (0, 99), (1, i16::MAX), (18, -1)]
    {
        talk.send_raw(
            &format!("API {key} version {version}"),
            &frame(|to| header(to, key, version)),
        );
    }
    // ApiVersions beyond what is known is answered, in version 0, with what would do.
    talk.send_raw(
        "API 18 version 99",
        &frame(|to| {
            header(to, 18, 99);
            to.put_u8(0); // no tagged fields
        }),
    );
    alive(talk);
}

fn lengths(talk: &mut Talk) {
    for count in [1, 1000, i32::MAX] {
        for (key, version) in [(3, 1), (2, 1), (11, 2), (19, 2), (0, 3), (1, 4)] {
            let body = frame(|to| {
                header(to, key, version);
                to.put_i32(count);
            });
            talk.send_raw(&format!("API {key} with an array of {count}"), &body);
        }
    }
    // A flexible Metadata request whose compact array claims four billion topics.
    let body = frame(|to| {
        header(to, 3, 12);
        to.put_u8(0);
        to.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    });
    talk.send_raw("Metadata with a compact array of four billion", &body);
    let body = frame(|to| {
        header(to, 3, 12);
        to.put_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    });
    talk.send_raw("a tagged field section without end", &body);
    alive(talk);
}

fn noise(talk: &mut Talk) {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..300 {
        let size = 4 + (round * 7) % 400;
        let body = frame(|to| {
            // Every third one has an honest header, so that noise reaches the decoders.
            if round % 3 == 0 {
                header(to, (round % 60) as i16, (round % 5) as i16);
            }
            for _ in 0..size {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                to.put_u8(state as u8);
            }
        });
        talk.fling(&body);
    }
    alive(talk);
}
