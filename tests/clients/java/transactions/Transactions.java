import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/** Transactions of Kafka's own clients. Prints `ok NAME` or `FAIL NAME: why` per claim. */
public class Transactions {
    interface Claim { void check() throws Exception; }

    static String bootstrap, run = Long.toString(System.nanoTime(), 36);
    static int failed;

    static void claim(String name, Claim claim) {
        long begun = System.currentTimeMillis();
        try {
            claim.check();
            System.out.println("ok java: " + name + " (" + (System.currentTimeMillis() - begun) + " ms)");
        } catch (Throwable why) {
            failed++;
            System.out.println("FAIL java: " + name + ": " + why);
            why.printStackTrace();
        }
    }

    static void equal(Object expected, Object found) {
        if (!Objects.equals(expected, found)) throw new AssertionError("expected " + expected + ", found " + found);
    }

    static KafkaProducer<String, String> producer(String id, int timeoutMs) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", run + id);
        settings.put("transaction.timeout.ms", timeoutMs);
        settings.put("max.block.ms", 30000);
        settings.put("delivery.timeout.ms", 40000);
        settings.put("request.timeout.ms", 10000);
        settings.put("linger.ms", 0);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String group, String isolation) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        if (group != null) settings.put("group.id", run + group);
        settings.put("isolation.level", isolation);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("max.poll.records", 50);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    /** All that a reader of the topic sees up to its end. */
    static List<String> read(String topic, String isolation) {
        try (KafkaConsumer<String, String> consumer = consumer(null, isolation)) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (PartitionInfo info : consumer.partitionsFor(topic)) partitions.add(new TopicPartition(topic, info.partition()));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            List<String> seen = new ArrayList<>();
            long until = System.currentTimeMillis() + 20000;
            while (partitions.stream().anyMatch(it -> consumer.position(it) < ends.get(it))) {
                if (System.currentTimeMillis() > until) throw new AssertionError("not at the end " + ends + " after 20 s, but saw " + seen.size());
                consumer.poll(Duration.ofMillis(200)).forEach(record -> seen.add(record.value()));
            }
            Collections.sort(seen);
            return seen;
        }
    }

    static String topic(String name, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(run + name, Optional.of(partitions), Optional.empty()))).all().get();
        }
        return run + name;
    }

    static List<String> numbers(String prefix, int count) {
        List<String> all = new ArrayList<>();
        for (int i = 0; i < count; i++) all.add(prefix + (1000 + i));
        return all;
    }

    static void send(KafkaProducer<String, String> producer, String topic, List<String> values) {
        for (String value : values) producer.send(new ProducerRecord<>(topic, value, value));
    }

    static void visibility() throws Exception {
        String topic = topic("visible", 3);
        try (KafkaProducer<String, String> producer = producer("visible", 60000)) {
            producer.initTransactions();
            producer.beginTransaction();
            send(producer, topic, numbers("a", 100));
            producer.flush();
            equal(List.of(), read(topic, "read_committed"));
            equal(100, read(topic, "read_uncommitted").size());
            producer.commitTransaction();
            equal(numbers("a", 100), awaited(topic, 100));
            producer.beginTransaction();
            send(producer, topic, numbers("b", 100));
            producer.flush();
            producer.abortTransaction();
            producer.beginTransaction();
            send(producer, topic, numbers("c", 10));
            producer.commitTransaction();
            List<String> expected = new ArrayList<>(numbers("a", 100));
            expected.addAll(numbers("c", 10));
            equal(expected, awaited(topic, 110));
        }
    }

    /** Markers are written after the producer was answered. */
    static List<String> awaited(String topic, int count) {
        long until = System.currentTimeMillis() + 10000;
        while (true) {
            List<String> seen = read(topic, "read_committed");
            if (seen.size() >= count || System.currentTimeMillis() > until) return seen;
        }
    }

    static void many() throws Exception {
        String topic = topic("many", 3);
        try (KafkaProducer<String, String> producer = producer("many", 60000)) {
            producer.initTransactions();
            int expected = 0;
            for (int i = 0; i < 200; i++) {
                producer.beginTransaction();
                send(producer, topic, numbers("m" + i + "-", 5));
                if (i % 3 == 0) producer.abortTransaction();
                else { producer.commitTransaction(); expected += 5; }
            }
            equal(expected, awaited(topic, expected).size());
        }
    }

    static void pipeline() throws Exception {
        String in = topic("in", 3), out = topic("out", 3);
        try (KafkaProducer<String, String> source = producer("source", 60000)) {
            source.initTransactions();
            source.beginTransaction();
            send(source, in, numbers("p", 1000));
            source.commitTransaction();
        }
        AtomicInteger turn = new AtomicInteger();
        int copied = 0;
        while (copied < 1000) {
            try (KafkaProducer<String, String> producer = producer("pipeline", 60000);
                 KafkaConsumer<String, String> consumer = consumer("pipeline", "read_committed")) {
                producer.initTransactions();
                consumer.subscribe(List.of(in));
                boolean restart = false;
                while (!restart && copied < 1000) {
                    ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(500));
                    if (records.isEmpty()) continue;
                    producer.beginTransaction();
                    Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                    for (ConsumerRecord<String, String> record : records) {
                        producer.send(new ProducerRecord<>(out, record.key(), record.value()));
                        offsets.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
                    }
                    producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                    // Now and then it fails, and begins anew from what is committed.
                    if (turn.incrementAndGet() % 5 == 0) {
                        producer.abortTransaction();
                        restart = true;
                    } else {
                        producer.commitTransaction();
                        copied += records.count();
                    }
                }
            }
        }
        equal(numbers("p", 1000), awaited(out, 1000));
    }

    static void fencing() throws Exception {
        String topic = topic("fence", 1);
        try (KafkaProducer<String, String> old = producer("fence", 60000)) {
            old.initTransactions();
            old.beginTransaction();
            send(old, topic, numbers("old", 5));
            old.flush();
            try (KafkaProducer<String, String> fresh = producer("fence", 60000)) {
                fresh.initTransactions();
                fresh.beginTransaction();
                send(fresh, topic, numbers("new", 5));
                fresh.commitTransaction();
            }
            try {
                send(old, topic, numbers("late", 1));
                old.commitTransaction();
                throw new AssertionError("a fenced producer committed");
            } catch (ProducerFencedException | InvalidProducerEpochException expected) {
            } catch (KafkaException expected) {
                if (!(expected.getCause() instanceof ProducerFencedException || expected.getCause() instanceof InvalidProducerEpochException)) throw expected;
            }
        }
        equal(numbers("new", 5), awaited(topic, 5));
    }

    static void timeout() throws Exception {
        String topic = topic("timeout", 1);
        try (KafkaProducer<String, String> slow = producer("timeout", 1000); Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            slow.initTransactions();
            slow.beginTransaction();
            send(slow, topic, numbers("slow", 5));
            slow.flush();
            String id = run + "timeout";
            long until = System.currentTimeMillis() + 30000;
            while (true) {
                TransactionDescription it = admin.describeTransactions(List.of(id)).description(id).get();
                if (it.state() == TransactionState.COMPLETE_ABORT) break;
                if (System.currentTimeMillis() > until) throw new AssertionError(it.toString());
                Thread.sleep(200);
            }
            equal(List.of(), read(topic, "read_committed"));
        }
    }

    static void admin() throws Exception {
        String topic = topic("admin", 2), id = run + "admin";
        try (KafkaProducer<String, String> producer = producer("admin", 60000); Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            producer.initTransactions();
            producer.beginTransaction();
            send(producer, topic, numbers("x", 20));
            producer.flush();
            TransactionDescription described = admin.describeTransactions(List.of(id)).description(id).get();
            equal(TransactionState.ONGOING, described.state());
            equal(2, described.topicPartitions().size());
            boolean listed = admin.listTransactions(new ListTransactionsOptions().filterStates(Set.of(TransactionState.ONGOING))).all().get()
                .stream().anyMatch(it -> it.transactionalId().equals(id) && it.producerId() == described.producerId());
            equal(true, listed);
            equal(1, admin.listTransactions(new ListTransactionsOptions().filterOnTransactionalIdPattern(run + "adm.*")).all().get().size());
            var producers = admin.describeProducers(List.of(new TopicPartition(topic, 0))).partitionResult(new TopicPartition(topic, 0)).get().activeProducers();
            equal(1, producers.size());
            equal(described.producerId(), producers.get(0).producerId());
            for (var replica : admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().get(0).replicas())
                equal(producers.get(0).currentTransactionStartOffset(), open(admin, new TopicPartition(topic, 0), replica.id()).currentTransactionStartOffset());
            admin.fenceProducers(List.of(id)).all().get();
            try {
                producer.commitTransaction();
                throw new AssertionError("a fenced producer committed");
            } catch (KafkaException expected) { }
        }
    }

    /** The one producer that the replica on a broker knows; it has all that was acknowledged. */
    static ProducerState open(Admin admin, TopicPartition at, int broker) throws Exception {
        var result = admin.describeProducers(List.of(at), new DescribeProducersOptions().brokerId(broker));
        var producers = result.partitionResult(at).get().activeProducers();
        equal(1, producers.size());
        return producers.get(0);
    }

    static void abortOne() throws Exception {
        String topic = topic("abort-one", 1);
        var at = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> producer = producer("abort-one", 60000); Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            producer.initTransactions();
            producer.beginTransaction();
            send(producer, topic, numbers("x", 20));
            producer.flush();
            var leader = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().get(0).leader();
            var state = open(admin, at, leader.id());
            equal(0L, state.currentTransactionStartOffset().getAsLong());
            admin.abortTransaction(new AbortTransactionSpec(at, state.producerId(), (short) state.producerEpoch(), state.coordinatorEpoch().orElse(0))).all().get();
            equal(true, open(admin, at, leader.id()).currentTransactionStartOffset().isEmpty());
            // Nothing holds the reader back any more.
            long stable = admin.listOffsets(Map.of(at, OffsetSpec.latest()), new ListOffsetsOptions(org.apache.kafka.common.IsolationLevel.READ_COMMITTED)).partitionResult(at).get().offset();
            equal(21L, stable);
            equal(List.of(), read(topic, "read_committed"));
        }
    }

    public static void main(String[] arguments) {
        bootstrap = arguments[0];
        claim("a transaction is seen when it is committed, and never when it is aborted", Transactions::visibility);
        claim("200 transactions in a row", Transactions::many);
        claim("consume, transform, produce: each input exactly once, with failures", Transactions::pipeline);
        claim("a new producer fences the one before", Transactions::fencing);
        claim("transactions are described, by each replica, listed and fenced by the admin client", Transactions::admin);
        claim("a transaction is aborted in one partition", Transactions::abortOne);
        claim("a transaction that takes too long is aborted", Transactions::timeout);
        System.exit(failed == 0 ? 0 : 1);
    }
}
