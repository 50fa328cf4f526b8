import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.serialization.*;

/** Topics of a run: made, fed at a steady rate, and read to their ends. */
final class Topics {
    static final int PARTITIONS = 4;

    private Topics() { }

    static Properties settings(Options options) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", options.bootstrap);
        settings.put("retry.backoff.ms", 50);
        settings.put("retry.backoff.max.ms", 500);
        settings.put("reconnect.backoff.ms", 20);
        settings.put("reconnect.backoff.max.ms", 300);
        settings.put("request.timeout.ms", 8000);
        return settings;
    }

    static Admin admin(Options options) {
        Properties settings = settings(options);
        settings.put("default.api.timeout.ms", 60000);
        return Admin.create(settings);
    }

    static void make(Admin admin, Map<String, String> configs, String... names) throws Exception {
        List<NewTopic> topics = new ArrayList<>();
        for (String name : names) {
            Map<String, String> all = new HashMap<>(configs);
            all.put("min.insync.replicas", "2");
            topics.add(new NewTopic(name, PARTITIONS, (short) 3).configs(all));
        }
        admin.createTopics(topics).all().get();
    }

    static List<TopicPartition> partitions(String topic) {
        List<TopicPartition> all = new ArrayList<>();
        for (int partition = 0; partition < PARTITIONS; partition++) all.add(new TopicPartition(topic, partition));
        return all;
    }

    /** A producer that never gives up on a record. */
    static KafkaProducer<String, String> producer(Options options) {
        Properties settings = settings(options);
        settings.put("acks", "all");
        settings.put("delivery.timeout.ms", 600000);
        settings.put("max.block.ms", 120000);
        settings.put("linger.ms", 2);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    interface Source { ProducerRecord<String, String> record(int number); }

    /** Writes records at the run's rate until it is stopped; all of them are acknowledged then. */
    static final class Feeder implements AutoCloseable {
        private final Thread thread;
        private final AtomicReference<Exception> refused = new AtomicReference<>();
        private volatile boolean stopping;
        private volatile int sent;

        Feeder(Options options, Source source) {
            thread = new Thread(() -> feed(options, source), "feeder");
            thread.start();
        }

        private void feed(Options options, Source source) {
            try (KafkaProducer<String, String> producer = producer(options)) {
                long begun = System.nanoTime();
                while (!stopping) {
                    long due = (System.nanoTime() - begun) * options.rate / 1_000_000_000L;
                    for (; sent < due; sent++) {
                        producer.send(source.record(sent), (metadata, why) -> { if (why != null) refused.set(why); });
                    }
                    Thread.sleep(20);
                }
                producer.flush();
            } catch (Exception why) {
                refused.set(why);
            }
        }

        /** How many records were written. */
        int finish() throws Exception {
            stopping = true;
            thread.join();
            if (refused.get() != null) throw new IllegalStateException("an input record was refused", refused.get());
            return sent;
        }

        @Override public void close() { stopping = true; }
    }

    /** The values of each partition up to its end, as a read-committed reader gets them. */
    static List<List<ConsumerRecord<String, String>>> read(Options options, String topic) {
        return read(options, topic, new StringDeserializer(), 120);
    }

    static <V> List<List<ConsumerRecord<String, V>>> read(Options options, String topic, Deserializer<V> values, int seconds) {
        Properties settings = settings(options);
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        try (KafkaConsumer<String, V> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), values)) {
            List<TopicPartition> partitions = partitions(topic);
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            List<List<ConsumerRecord<String, V>>> all = new ArrayList<>();
            for (TopicPartition ignored : partitions) all.add(new ArrayList<>());
            long until = System.currentTimeMillis() + seconds * 1000L;
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (true) {
                if (partitions.stream().allMatch(it -> consumer.position(it) >= ends.get(it))) return all;
                if (System.currentTimeMillis() > until) throw new IllegalStateException("the ends " + ends + " are not reached after " + seconds + " s");
                for (ConsumerRecord<String, V> record : consumer.poll(Duration.ofMillis(200))) all.get(record.partition()).add(record);
            }
        }
    }

    interface Condition { String missing() throws Exception; }

    /** Waits until nothing is missing any more. */
    static void await(Options options, int seconds, Condition condition) throws Exception {
        long until = System.currentTimeMillis() + seconds * 1000L;
        while (true) {
            String missing;
            try {
                missing = condition.missing();
            } catch (ExecutionException why) {
                if (!(why.getCause() instanceof RetriableException)) throw why;
                missing = why.getCause().toString();
            }
            if (missing == null) return;
            if (System.currentTimeMillis() > until) throw new IllegalStateException(missing + ", " + seconds + " s after the last kill");
            Thread.sleep(500);
        }
    }

    /** What is missing until the group has committed the ends of all partitions (markers aside). */
    static String uncommitted(Options options, Admin admin, String group, String topic) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> committed = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        Map<TopicPartition, OffsetSpec> latest = new HashMap<>();
        for (TopicPartition partition : partitions(topic)) latest.put(partition, OffsetSpec.latest());
        StringBuilder missing = new StringBuilder();
        admin.listOffsets(latest).all().get().forEach((partition, end) -> {
            OffsetAndMetadata at = committed.get(partition);
            long offset = at == null ? 0 : at.offset();
            if (offset < end.offset()) missing.append(partition).append(" is committed up to ").append(offset).append(" of ").append(end.offset()).append("; ");
        });
        return missing.length() == 0 ? null : missing.toString();
    }
}
