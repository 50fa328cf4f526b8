//! Kafka's printed forms: ids in URL-safe base64, and error codes in words.

use kafka_protocol::messages::ApiKey;
use uuid::Uuid;

use crate::ErrorCode;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// An id as Kafka prints it: base64, URL-safe, without padding, 22 characters.
pub fn id_text(id: Uuid) -> String {
    let mut out = String::with_capacity(22);
    for chunk in id.as_bytes().chunks(3) {
        let mut group = [0u8; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for digit in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    out
}

/// The id that `text` prints, or `None` when it is not 22 characters of URL-safe base64.
pub fn parse_id(text: &str) -> Option<Uuid> {
    let text = text.trim_end_matches('=');
    if text.len() != 22 {
        return None;
    }
    let mut bits: u128 = 0;
    for (at, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|&letter| letter == byte)? as u128;
        // 22 digits hold 132 bits: the last four of them are padding.
        bits = if at == 21 { bits << 2 | digit >> 4 } else { bits << 6 | digit };
    }
    Some(Uuid::from_u128(bits))
}

/// Kafka's name of an API by its key.
pub fn api_name(key: i16) -> Option<String> {
    ApiKey::try_from(key).ok().map(|key| format!("{key:?}").trim_end_matches("Key").to_owned())
}

/// A code in words, with what to do next where the code alone does not tell.
pub fn describe_error(code: ErrorCode) -> String {
    let hint = match code {
        ErrorCode::UnknownTopicOrPartition => "This server does not host this topic-partition.",
        ErrorCode::GroupIdNotFound => "The group id does not exist.",
        ErrorCode::NonEmptyGroup => "The group is not empty.",
        ErrorCode::GroupSubscribedToTopic => {
            "Deleting offsets of a topic is forbidden while the consumer group is actively subscribed to it."
        }
        ErrorCode::UnknownMemberId => "The coordinator is not aware of this member.",
        ErrorCode::MessageTooLarge => {
            "The request included a message larger than the max message size the server will accept."
        }
        ErrorCode::NotEnoughReplicas => {
            "Messages are rejected since there are fewer in-sync replicas than required."
        }
        _ => return format!("{} (error code {})", code, code.code()),
    };
    hint.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_kafka_prints_them_and_read_back() {
        assert_eq!(id_text(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(id_text(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        for seed in 0..500u128 {
            let id = Uuid::from_u128(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C55_1CE4_E5B9));
            assert_eq!(parse_id(&id_text(id)), Some(id));
        }
        assert_eq!(parse_id("short"), None);
        assert_eq!(parse_id("!AAAAAAAAAAAAAAAAAAAAA"), None);
    }
}
