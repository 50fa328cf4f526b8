//! What becomes of the share coordinator's refusals.

use crate::error::{ErrorCode, Refusal};

/// What a client is told when the coordinator refuses.
pub(super) fn told(refusal: Refusal) -> Refusal {
    use ErrorCode::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, FencedLeaderEpoch, FencedStateEpoch,
        GroupIdNotFound, NotCoordinator, NotLeaderOrFollower, UnknownServerError,
        UnknownTopicOrPartition,
    };
    let code = match refusal.code {
        NotCoordinator | CoordinatorNotAvailable | CoordinatorLoadInProgress => {
            CoordinatorNotAvailable
        }
        GroupIdNotFound => GroupIdNotFound,
        UnknownTopicOrPartition => UnknownTopicOrPartition,
        FencedLeaderEpoch | FencedStateEpoch => NotLeaderOrFollower,
        _ => UnknownServerError,
    };
    Refusal { code, ..refusal }
}

/// Whether the share partition is to be loaded anew before it can be served.
pub(super) fn is_final(code: ErrorCode) -> bool {
    use ErrorCode::{GroupIdNotFound, NotLeaderOrFollower, UnknownTopicOrPartition};
    matches!(code, NotLeaderOrFollower | GroupIdNotFound | UnknownTopicOrPartition)
}
