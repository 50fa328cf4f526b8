//! The id of a Kafka cluster: given once, never changed, found again on the volumes.
//!
//! Brokers refuse a volume of another cluster. So a resource that is created anew over volumes that
//! were kept must take their id, whatever became of the status of the resource before it.

use uuid::Uuid;

/// What is known about the id before a reconcile builds anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// From the status of the resource.
    pub status: Option<String>,
    /// Claim name and id, of each volume claim of the cluster that has one.
    pub claims: Vec<(String, String)>,
}

/// What the id is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// This one, which is already written in the status.
    Settled(String),
    /// This one, which must be written in the status before anything is built.
    Found(String),
    /// None yet: one has to be generated, and written in the status before anything is built.
    Unknown,
    /// The volumes and the status disagree, in words for a person.
    Contradiction(String),
}

/// Decides the id of a cluster.
pub fn identity(known: &Known) -> Identity {
    let on_volumes = known.claims.first();
    let odd = on_volumes
        .and_then(|(name, id)| Some((name, id, known.claims.iter().find(|(_, it)| it != id)?)));
    if let Some((name, id, (other_name, other_id))) = odd {
        return Identity::Contradiction(format!(
            "the volumes are of different Kafka clusters: {name} of {id}, {other_name} of \
             {other_id}. Delete or rename the claims that do not belong here"
        ));
    }
    match (&known.status, on_volumes) {
        (Some(id), Some((name, found))) if id != found => Identity::Contradiction(format!(
            "this resource is Kafka cluster {id}, but volume claim {name} holds records of cluster \
             {found}. Delete the claim, or create the resource anew to take the cluster on it"
        )),
        (Some(id), _) => Identity::Settled(id.clone()),
        (None, Some((_, id))) => Identity::Found(id.clone()),
        (None, None) => Identity::Unknown,
    }
}

/// A new id, in the form of Kafka's: a random UUID in URL-safe base64, 22 characters, the first no
/// dash (a command line would take it for an option).
pub fn generate() -> String {
    loop {
        let id = base64(Uuid::new_v4().as_bytes());
        if !id.starts_with('-') {
            return id;
        }
    }
}

fn base64(bytes: &[u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits are 21 whole digits of 6 bits and one of 2, which is filled up with zeros.
    let number = u128::from_be_bytes(*bytes);
    let digit = |index: u32| if index < 21 { number >> (122 - 6 * index) } else { number << 4 };
    (0..22).map(|index| char::from(ALPHABET[(digit(index) & 63) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(status: Option<&str>, claims: &[(&str, &str)]) -> Known {
        Known {
            status: status.map(str::to_owned),
            claims: claims.iter().map(|(n, id)| ((*n).to_owned(), (*id).to_owned())).collect(),
        }
    }

    #[test]
    fn a_recreated_cluster_takes_the_id_of_its_old_volumes() {
        let found =
            identity(&known(None, &[("data-demo-broker-0", "A"), ("data-demo-broker-1", "A")]));
        assert_eq!(found, Identity::Found("A".to_owned()));
    }

    #[test]
    fn an_id_once_given_stays() {
        assert_eq!(identity(&known(Some("A"), &[])), Identity::Settled("A".to_owned()));
        assert_eq!(identity(&known(Some("A"), &[("c", "A")])), Identity::Settled("A".to_owned()));
        assert_eq!(identity(&known(None, &[])), Identity::Unknown);
    }

    #[test]
    fn volumes_of_another_cluster_are_refused_by_name() {
        for known in [known(Some("A"), &[("c-0", "B")]), known(None, &[("c-1", "A"), ("c-0", "B")])]
        {
            let Identity::Contradiction(message) = identity(&known) else { panic!("{known:?}") };
            assert!(message.contains("c-0") && message.contains('B'), "{message}");
        }
    }

    #[test]
    fn an_id_is_a_uuid_as_kafka_writes_it() {
        let uuid = Uuid::parse_str("4d4d6b3f-6e5b-4c1a-9f0e-2a7c8d1b0fff").unwrap();
        assert_eq!(base64(uuid.as_bytes()), "TU1rP25bTBqfDip8jRsP_w");
        assert_eq!(base64(&[0xff; 16]), "_____________________w");
        assert_eq!(generate().len(), 22);
    }
}
