# What differs between any two clusters, in records as DumpLogSegments prints them.
# Ids of topics and of members that a coordinator named: 22 letters, or a UUID after a client id.
s/"(topicId|TopicId)":"[A-Za-z0-9_-]{22}"/"\1":"_"/g
s/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/_/g
# Ids of producers, in keys, too; -1 says that there is none.
s/"((previous|next)?[pP]roducerId)":[0-9]+/"\1":"_"/g
# Times.
s/"([A-Za-z]*(Timestamp|timestamp|TimestampMs))":[1-9][0-9]{12}/"\1":"_"/g
# A hash over topics with their ids; 0 is that of no topic.
s/"metadataHash":-?[1-9][0-9]*/"metadataHash":"_"/g
# The version of the metadata that a pattern was resolved with.
s/"version":[0-9]+,"timestamp"/"version":"_","timestamp"/g
