//! One operator acts at a time: the holder of a Lease.
//!
//! The holder renews every few seconds and stops acting when it could not for too long, well before
//! another may take over. Expiry is judged by how long a Lease has not changed on the own clock,
//! never by comparing clocks of two machines. Every write names the version that it replaces, so
//! that of two that try at once one wins.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::time::{Instant, sleep};

use crate::context::in_words;

/// How long a Lease that is not renewed stays its holder's.
const LEASE: Duration = Duration::from_secs(15);
/// How long the holder may fail to renew before it stops acting.
const RENEW_LIMIT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// A candidate for, or the holder of, a Lease.
pub struct Election {
    pub leases: Api<Lease>,
    pub name: String,
    /// Who we are: the name of the pod.
    pub identity: String,
}

/// What a candidate may do about the Lease that it sees.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Take,
    Wait,
}

impl Election {
    /// Waits until this process holds the Lease.
    pub async fn win(&self) {
        let mut seen: Option<(Option<String>, Instant)> = None;
        let mut shown = None;
        loop {
            match self.leases.get_opt(&self.name).await {
                Ok(lease) => {
                    let version =
                        lease.as_ref().and_then(|it| it.metadata.resource_version.clone());
                    let since = match &seen {
                        Some((known, since)) if *known == version => *since,
                        _ => Instant::now(),
                    };
                    seen = Some((version, since));
                    if verdict(&self.identity, lease.as_ref(), since.elapsed()) == Verdict::Take {
                        if self.write(lease, true).await {
                            return;
                        }
                    } else if let Some(holder) = lease.and_then(|lease| holder(&lease))
                        && shown.as_ref() != Some(&holder)
                    {
                        tracing::info!("{holder} leads; waiting to take over");
                        shown = Some(holder);
                    }
                }
                Err(error) => tracing::warn!("cannot read the lease: {}", in_words(&error)),
            }
            sleep(RETRY).await;
        }
    }

    /// Renews until that fails for too long or another holds the Lease; then this process must act
    /// no more.
    pub async fn hold(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_LIMIT {
            sleep(RETRY).await;
            let attempt = tokio::time::timeout(RETRY * 2, async {
                let lease = match self.leases.get_opt(&self.name).await {
                    Ok(lease) => lease,
                    Err(error) => {
                        tracing::warn!("cannot read the lease: {}", in_words(&error));
                        return Some(false);
                    }
                };
                let other = lease.as_ref().and_then(holder).filter(|it| *it != self.identity);
                if let Some(other) = other {
                    tracing::warn!("{other} holds the lease");
                    return None;
                }
                Some(self.write(lease, true).await)
            });
            match attempt.await {
                Ok(None) => return,
                Ok(Some(true)) => renewed = Instant::now(),
                Ok(Some(false)) | Err(_) => {}
            }
        }
        tracing::warn!("the lease could not be renewed for {} s", RENEW_LIMIT.as_secs());
    }

    /// Gives the Lease back, so that the next one need not wait for it to expire.
    pub async fn release(&self) {
        if let Ok(Some(lease)) = self.leases.get_opt(&self.name).await
            && holder(&lease).as_ref() == Some(&self.identity)
        {
            self.write(Some(lease), false).await;
        }
    }

    /// Writes the Lease over the version that was read. False when another was faster, or the API
    /// server did not take it.
    async fn write(&self, before: Option<Lease>, hold: bool) -> bool {
        let fresh = before.is_none();
        let lease = next(&self.identity, before, &self.name, hold, Timestamp::now());
        let written = if fresh {
            self.leases.create(&PostParams::default(), &lease).await
        } else {
            self.leases.replace(&self.name, &PostParams::default(), &lease).await
        };
        match written {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.code == 409 => false,
            Err(error) => {
                tracing::warn!("cannot write the lease: {}", in_words(&error));
                false
            }
        }
    }
}

/// `unchanged` is how long, on our clock, the Lease has been as it is.
fn verdict(identity: &str, lease: Option<&Lease>, unchanged: Duration) -> Verdict {
    match lease.and_then(holder) {
        Some(other) if other != identity && unchanged < LEASE => Verdict::Wait,
        _ => Verdict::Take,
    }
}

/// The Lease that `identity` writes over the one before.
fn next(identity: &str, before: Option<Lease>, name: &str, hold: bool, now: Timestamp) -> Lease {
    let before = before.unwrap_or_else(|| {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        Lease { metadata, spec: None }
    });
    let (metadata, before) = (before.metadata, before.spec.unwrap_or_default());
    let is_renewal = before.holder_identity.as_deref() == Some(identity);
    let turns = before.lease_transitions.unwrap_or_default() + i32::from(!is_renewal);
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(if hold { identity.to_owned() } else { String::new() }),
            lease_duration_seconds: Some(LEASE.as_secs() as i32),
            acquire_time: before.acquire_time.filter(|_| is_renewal).or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(turns),
            ..Default::default()
        }),
    }
}

/// Who holds the Lease; nobody when it was given back.
fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(identity: &str, at: i64) -> Lease {
        next(identity, None, "ottla-operator", true, Timestamp::from_second(at).unwrap())
    }

    #[test]
    fn a_lease_is_taken_when_it_is_new_given_back_expired_or_our_own() {
        let soon = Duration::from_secs(1);
        assert_eq!(verdict("a", None, soon), Verdict::Take);
        assert_eq!(verdict("a", Some(&held_by("a", 1)), soon), Verdict::Take);
        assert_eq!(verdict("a", Some(&held_by("b", 1)), soon), Verdict::Wait);
        assert_eq!(verdict("a", Some(&held_by("b", 1)), LEASE), Verdict::Take);
        let given_back =
            next("b", Some(held_by("b", 1)), "x", false, Timestamp::from_second(2).unwrap());
        assert_eq!(verdict("a", Some(&given_back), soon), Verdict::Take);
    }

    #[test]
    fn the_holder_stops_before_another_may_take_over() {
        assert!(RENEW_LIMIT + RETRY * 2 < LEASE);
    }

    #[test]
    fn a_renewal_keeps_the_time_of_winning_and_a_change_of_holder_counts() {
        let later = Timestamp::from_second(9).unwrap();
        let first = held_by("a", 1).spec.unwrap();
        let renewed = next("a", Some(held_by("a", 1)), "x", true, later).spec.unwrap();
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.lease_transitions, first.lease_transitions);
        let taken = next("b", Some(held_by("a", 1)), "x", true, later).spec.unwrap();
        assert_eq!(taken.lease_transitions, Some(2));
        assert_eq!(taken.acquire_time, Some(MicroTime(later)));
    }
}
