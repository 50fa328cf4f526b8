//! ApiVersions: what this listener serves, and the features of the cluster.
//!
//! Versions 0 to 4. A newer version is answered in version 0 with UNSUPPORTED_VERSION and the
//! versions of this very API (KIP-511), so that any client can go on. From 3 the client says what
//! software it is; a name or version in odd characters is refused with INVALID_REQUEST.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Client, Reply, Scope, Software, encode_body, handler, table};
use crate::broker::Broker;
use crate::controller::brokers::supported_features;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::ApiVersions, 0..=4).on_all().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ApiVersionsRequest,
) -> Reply<ApiVersionsResponse> {
    if client.version >= 3 {
        let software = Software {
            name: request.client_software_name,
            version: request.client_software_version,
        };
        if !is_readable(&software.name) || !is_readable(&software.version) {
            return Reply::Now(refusal(ErrorCode::InvalidRequest, &[]));
        }
        *client.connection.software.lock() = Some(software);
    }
    Reply::Now(answer(broker, client.connection.scope, client.version))
}

fn answer(broker: &Broker, scope: Scope, version: i16) -> ApiVersionsResponse {
    let image = broker.image.load();
    // Not in the image: the quorum keeps it in records of its own. 0 is not told, as in Kafka.
    let kraft = Some(("kraft.version", broker.kraft_version())).filter(|(_, level)| *level > 0);
    let finalized = image.features().filter(|(name, _)| *name != "kraft.version").chain(kraft);
    let finalized = finalized.map(|(name, level)| {
        FinalizedFeatureKey::default()
            .with_name(StrBytes::from_string(name.to_owned()))
            .with_min_version_level(level)
            .with_max_version_level(level)
    });
    // A range that starts at 0 could be read from version 4 on only.
    let supported = supported_features().into_iter();
    let supported = supported.filter(|(_, min, _)| version >= 4 || *min > 0);
    let supported = supported.map(|(name, min, max)| {
        SupportedFeatureKey::default()
            .with_name(StrBytes::from_static_str(name))
            .with_min_version(min)
            .with_max_version(max)
    });
    ApiVersionsResponse::default()
        .with_api_keys(table::apis(scope).iter().map(entry).collect())
        .with_supported_features(supported.collect())
        .with_finalized_features(finalized.collect())
        .with_finalized_features_epoch(image.offset)
}

fn entry(api: &Api) -> ApiVersion {
    let versions = api.advertised();
    ApiVersion::default()
        .with_api_key(api.key.number())
        .with_min_version(*versions.start())
        .with_max_version(*versions.end())
}

fn refusal(code: ErrorCode, apis: &[Api]) -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(code.code())
        .with_api_keys(apis.iter().map(entry).collect())
}

/// The answer, in version 0, to an ApiVersions request whose version we do not know.
pub fn unsupported_version() -> Vec<Bytes> {
    let refusal = refusal(ErrorCode::UnsupportedVersion, &[API]);
    // Version 0 has nothing that could fail to be encoded.
    encode_body(ApiKey::ApiVersions.into(), 0, &refusal).unwrap_or_default()
}

/// Letters, digits, dashes and dots, beginning and ending with a letter or digit.
fn is_readable(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|byte| good(*byte))
        && bytes.last().is_some_and(|byte| good(*byte))
        && bytes.iter().all(|byte| good(*byte) || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_software_are_as_kip_511_allows_them() {
        for good in ["a", "apache-kafka-java", "librdkafka", "1.0.0-SNAPSHOT"] {
            assert!(is_readable(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".a", "a b", "a_b", "ä"] {
            assert!(!is_readable(bad), "{bad}");
        }
    }
}
