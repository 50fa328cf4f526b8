import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/**
 * What one broker coordinates is continued by another: the partitions of the internal topics move,
 * while groups of both protocols live and transactions are open.
 *
 *   Moves BOOTSTRAP BROKER=KIND…
 *
 * One broker of each kind coordinates in turn. Prints `ok NAME` or `FAIL NAME: why` per move.
 */
public class Moves {
    static final String GROUP = "moved", OFFSETS = "__consumer_offsets", TRANSACTIONS = "__transaction_state";
    static final String RUN = Long.toString(System.nanoTime(), 36), INPUT = RUN + "-in", OUTPUT = RUN + "-out";
    static final long PATIENCE_MS = 90_000;
    static String bootstrap;
    static Admin admin;

    interface Asked<T> { T get() throws Exception; }

    static void equal(String what, Object expected, Object found) {
        if (!Objects.equals(expected, found)) throw new AssertionError(what + ": expected " + expected + ", found " + found);
    }

    /** Asks until the answer is as expected: what has moved is told by one broker after the other. */
    static <T> void awaited(String what, T expected, Asked<T> asked) throws Exception {
        long until = System.currentTimeMillis() + PATIENCE_MS;
        Object last = null;
        while (System.currentTimeMillis() < until) {
            try {
                last = asked.get();
                if (expected.equals(last)) return;
            } catch (ExecutionException | ApiException error) {
                last = error;
            }
            Thread.sleep(50);
        }
        throw new AssertionError(what + ": expected " + expected + ", found " + last);
    }

    static Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("retry.backoff.ms", 50);
        settings.put("request.timeout.ms", 10000);
        settings.put("default.api.timeout.ms", 60000);
        return settings;
    }

    static KafkaProducer<String, String> producer() {
        Properties settings = settings();
        settings.put("transactional.id", RUN);
        settings.put("transaction.timeout.ms", 300000);
        settings.put("max.block.ms", 60000);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(Map<String, String> more) {
        Properties settings = settings();
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("isolation.level", "read_committed");
        settings.putAll(more);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    /** A member that reads and commits all the time. */
    static final class Member extends Thread implements ConsumerRebalanceListener {
        final String protocol, group;
        final Set<String> seen = ConcurrentHashMap.newKeySet();
        final AtomicInteger lost = new AtomicInteger();
        final AtomicReference<Throwable> failure = new AtomicReference<>();
        volatile boolean ends;

        Member(String protocol) {
            this.protocol = protocol;
            group = RUN + "-" + protocol;
        }

        @Override public void onPartitionsAssigned(Collection<TopicPartition> partitions) { }
        @Override public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            if (!ends && !partitions.isEmpty()) lost.incrementAndGet();
        }

        @Override public void run() {
            Map<String, String> more = new HashMap<>(Map.of("group.id", group, "group.protocol", protocol));
            try (KafkaConsumer<String, String> consumer = consumer(more)) {
                consumer.subscribe(List.of(OUTPUT), this);
                while (!ends) {
                    ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(100));
                    records.forEach(record -> seen.add(record.value()));
                    if (!records.isEmpty()) consumer.commitSync();
                }
            } catch (Throwable why) {
                failure.set(why);
            }
        }
    }

    static int home(String key, String topic) throws Exception {
        int partitions = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
        return Math.abs(key.hashCode()) % partitions;
    }

    static int leader(TopicPartition partition) throws Exception {
        TopicDescription topic = admin.describeTopics(List.of(partition.topic())).allTopicNames().get().get(partition.topic());
        return topic.partitions().get(partition.partition()).leader().id();
    }

    /** Puts the broker first among the replicas, and elects it. */
    static void lead(int broker, Collection<Integer> brokers, TopicPartition partition) throws Exception {
        List<Integer> replicas = new ArrayList<>(List.of(broker));
        for (int other : brokers) if (other != broker) replicas.add(other);
        admin.alterPartitionReassignments(Map.of(partition, Optional.of(new NewPartitionReassignment(replicas)))).all().get();
        awaited(partition + " is moved", Map.of(), () -> admin.listPartitionReassignments(Set.of(partition)).reassignments().get());
        awaited(partition + " has a leader", broker, () -> {
            try {
                admin.electLeaders(ElectionType.PREFERRED, Set.of(partition)).partitions().get();
            } catch (ExecutionException error) {
                if (!(error.getCause() instanceof ElectionNotNeededException)) throw error;
            }
            return leader(partition);
        });
    }

    static Map<TopicPartition, OffsetAndMetadata> committed(String group) throws Exception {
        return admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
    }

    static TransactionDescription transaction() throws Exception {
        return admin.describeTransactions(List.of(RUN)).description(RUN).get();
    }

    /** The values of OUTPUT that count. */
    static Set<String> output() {
        try (KafkaConsumer<String, String> reader = consumer(Map.of())) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (PartitionInfo info : reader.partitionsFor(OUTPUT)) partitions.add(new TopicPartition(OUTPUT, info.partition()));
            reader.assign(partitions);
            Map<TopicPartition, Long> ends = reader.endOffsets(partitions);
            Set<String> seen = new TreeSet<>();
            long until = System.currentTimeMillis() + PATIENCE_MS;
            while (partitions.stream().anyMatch(it -> reader.position(it) < ends.get(it))) {
                if (System.currentTimeMillis() > until) throw new AssertionError("not at the end " + ends);
                reader.poll(Duration.ofMillis(100)).forEach(record -> {
                    if (!seen.add(record.value())) throw new AssertionError("twice: " + record.value());
                });
            }
            return seen;
        }
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        Map<Integer, String> brokers = new TreeMap<>();
        for (String arg : List.of(args).subList(1, args.length)) {
            brokers.put(Integer.valueOf(arg.split("=")[0]), arg.split("=")[1]);
        }
        admin = Admin.create(settings());
        List<NewTopic> topics = new ArrayList<>();
        for (String name : List.of(INPUT, OUTPUT)) topics.add(new NewTopic(name, 3, (short) brokers.size()));
        admin.createTopics(topics).all().get();
        KafkaProducer<String, String> producer = producer();
        producer.initTransactions();
        List<Member> members = List.of(new Member("classic"), new Member("consumer"));
        members.forEach(Thread::start);
        TopicPartition input = new TopicPartition(INPUT, 0);
        ConsumerGroupMetadata group = new ConsumerGroupMetadata(RUN + "-" + GROUP);
        // Both topics exist by now.
        List<TopicPartition> internal = new ArrayList<>();
        for (String key : List.of(RUN + "-" + GROUP, members.get(0).group, members.get(1).group)) {
            internal.add(new TopicPartition(OFFSETS, home(key, OFFSETS)));
        }
        TopicPartition transactions = new TopicPartition(TRANSACTIONS, home(RUN, TRANSACTIONS));
        internal.add(transactions);
        Set<String> expected = new TreeSet<>();
        // One broker of each kind, and back to each.
        Map<String, Integer> one = new TreeMap<>();
        brokers.forEach((broker, kind) -> one.putIfAbsent(kind, broker));
        List<String> kinds = new ArrayList<>(one.keySet());
        int failed = 0;
        String before = brokers.get(leader(transactions));
        for (int round = 0; round < 6; round++) {
            String after = before.equals(kinds.get(0)) ? kinds.get(1) : kinds.get(0);
            boolean commits = round % 3 != 1;
            String name = "a transaction and groups go on when their coordinators move from " + before + " to " + after
                + ", and it is " + (commits ? "committed" : "aborted") + " there";
            try {
                Set<String> values = new TreeSet<>();
                producer.beginTransaction();
                for (int i = 0; i < 30; i++) values.add(round + "-" + (100 + i));
                for (String value : values) producer.send(new ProducerRecord<>(OUTPUT, value, value));
                producer.sendOffsetsToTransaction(Map.of(input, new OffsetAndMetadata(1000 + round, "round " + round)), group);
                producer.flush();
                TransactionDescription was = transaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = committed(group.groupId());
                for (TopicPartition partition : new LinkedHashSet<>(internal)) lead(one.get(after), brokers.keySet(), partition);
                awaited("the coordinator", one.get(after), () -> transaction().coordinatorId());
                TransactionDescription now = transaction();
                equal("its state", was.state(), now.state());
                equal("the producer", was.producerId() + "/" + was.producerEpoch(), now.producerId() + "/" + now.producerEpoch());
                equal("its partitions", was.topicPartitions(), now.topicPartitions());
                equal("its start", was.transactionStartTimeMs(), now.transactionStartTimeMs());
                awaited("offsets of an open transaction are not seen", offsets, () -> committed(group.groupId()));
                if (round == 4) {
                    // A new producer ends what the old one began, and fences it.
                    KafkaProducer<String, String> next = producer();
                    next.initTransactions();
                    try {
                        producer.commitTransaction();
                        throw new AssertionError("the old producer is not fenced");
                    } catch (ProducerFencedException | InvalidProducerEpochException expectedHere) {
                        producer.close(Duration.ZERO);
                    }
                    producer = next;
                } else if (commits) {
                    producer.commitTransaction();
                    expected.addAll(values);
                    awaited("its offsets", Map.of(input, new OffsetAndMetadata(1000 + round, Optional.empty(), "round " + round)), () -> committed(group.groupId()));
                } else {
                    producer.abortTransaction();
                    awaited("the offsets before", offsets, () -> committed(group.groupId()));
                }
                awaited("what counts", expected, Moves::output);
                for (Member member : members) {
                    awaited("what the " + member.protocol + " group has read", expected, () -> new TreeSet<>(member.seen));
                    equal("the failure of its member", null, member.failure.get());
                    equal("how often it lost partitions", 0, member.lost.get());
                    long records = expected.size();
                    awaited("what it committed", true, () -> committed(member.group).values().stream().mapToLong(OffsetAndMetadata::offset).sum() >= records);
                }
                System.out.println("ok " + name);
            } catch (Throwable why) {
                failed++;
                System.out.println("FAIL " + name + ": " + why);
                why.printStackTrace();
                break;
            }
            before = after;
        }
        for (Member member : members) member.ends = true;
        for (Member member : members) member.join();
        System.exit(failed == 0 ? 0 : 1);
    }
}
