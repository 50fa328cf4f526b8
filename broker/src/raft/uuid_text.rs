//! Kafka's text form of a UUID: URL-safe base64 without padding, 22 characters.

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub fn uuid_to_text(id: Uuid) -> String {
    let bits = id.as_u128();
    let digit = |index: u32| {
        let six = if index < 21 { bits >> (122 - 6 * index) } else { bits << 4 };
        char::from(ALPHABET[(six & 63) as usize])
    };
    (0..22).map(digit).collect()
}

pub fn uuid_from_text(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits: u128 = 0;
    for (index, byte) in text.bytes().enumerate() {
        let six = ALPHABET.iter().position(|letter| *letter == byte)? as u128;
        bits = if index < 21 { bits << 6 | six } else { bits << 2 | six >> 4 };
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_topic_has_the_id_that_kafka_prints() {
        assert_eq!(uuid_to_text(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(uuid_from_text("AAAAAAAAAAAAAAAAAAAAAQ"), Some(Uuid::from_u128(1)));
        assert_eq!(uuid_from_text("not one"), None);
    }
}
