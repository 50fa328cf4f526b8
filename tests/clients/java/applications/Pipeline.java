import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/**
 * Consume, transform, produce: exactly once, whoever is killed.
 *
 * Two processes copy the input partition by partition, each in transactions that hold its offsets.
 * In the end a read-committed reader must find in each partition of the output exactly what is in
 * that of the input, in the same order. Prints `ok NAME` or `FAIL NAME: why`.
 */
public final class Pipeline {
    private static String in(Options options) { return "pipeline-in-" + options.name; }
    private static String out(Options options) { return "pipeline-out-" + options.name; }
    private static String group(Options options) { return "pipeline-" + options.name; }

    public static void main(String[] arguments) throws Exception {
        Options options = new Options(arguments);
        if (!options.get("copier", "").isEmpty()) {
            copy(options);
            return;
        }
        String claim = "pipeline: " + options.protocol + " protocol: the output is the input, exactly once and in order";
        try {
            System.out.println("ok " + claim + " (" + run(options) + ")");
        } catch (Exception why) {
            System.out.println("FAIL " + claim + ": " + why + " (seed " + options.seed + ")");
            why.printStackTrace();
            System.exit(1);
        }
        System.exit(0);
    }

    private static String run(Options options) throws Exception {
        try (Admin admin = Topics.admin(options); Kills kills = new Kills(options)) {
            Topics.make(admin, Map.of(), in(options), out(options));
            int sent;
            try (Topics.Feeder feeder = new Topics.Feeder(options, number ->
                    new ProducerRecord<>(in(options), number % Topics.PARTITIONS, "key-" + number % 97, "value-" + number))) {
                kills.run("copier-0", options.child("Pipeline", "copier", "0"));
                kills.run("copier-1", options.child("Pipeline", "copier", "1"));
                kills.until(System.currentTimeMillis() + options.seconds * 1000L);
                sent = feeder.finish();
            }
            Topics.await(options, 120, () -> Topics.uncommitted(options, admin, group(options), in(options)));
            compare(options, sent);
            return sent + " records in " + options.seconds + " s; " + kills.summary() + "; seed " + options.seed;
        }
    }

    private static void compare(Options options, int sent) {
        var input = Topics.read(options, in(options));
        var output = Topics.read(options, out(options));
        int total = 0;
        for (int partition = 0; partition < Topics.PARTITIONS; partition++) {
            var from = input.get(partition);
            var to = output.get(partition);
            total += from.size();
            for (int i = 0; i < Math.max(from.size(), to.size()); i++) {
                String expected = i < from.size() ? transformed(from.get(i).value()) : "nothing more";
                String found = i < to.size() ? to.get(i).value() : "nothing more";
                if (!expected.equals(found)) {
                    throw new IllegalStateException("partition " + partition + ": record " + i + " of the output is " + found + ", and should be " + expected
                        + " (" + from.size() + " in, " + to.size() + " out)");
                }
            }
        }
        if (total != sent) throw new IllegalStateException(sent + " records were acknowledged, and " + total + " are in the input");
    }

    private static String transformed(String value) { return value + "-seen"; }

    // The application.

    private static KafkaProducer<String, String> producer(Options options) {
        Properties settings = Topics.settings(options);
        settings.put("transactional.id", group(options) + "-" + options.get("copier", ""));
        settings.put("transaction.timeout.ms", 10000);
        settings.put("delivery.timeout.ms", 20000);
        settings.put("max.block.ms", 20000);
        settings.put("linger.ms", 0);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(Options options) {
        Properties settings = Topics.settings(options);
        settings.put("group.id", group(options));
        settings.put("group.protocol", options.protocol);
        if (options.protocol.equals("classic")) {
            settings.put("session.timeout.ms", 6000);
            settings.put("heartbeat.interval.ms", 1000);
        }
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("max.poll.records", 50);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static void copy(Options options) throws Exception {
        Random random = new Random();
        while (true) {
            try (KafkaProducer<String, String> producer = producer(options); KafkaConsumer<String, String> consumer = consumer(options)) {
                producer.initTransactions();
                consumer.subscribe(List.of(in(options)));
                while (true) {
                    ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                    if (records.isEmpty()) continue;
                    if (!transaction(options, producer, consumer, records, random.nextInt(20) == 0)) rewind(consumer);
                }
            } catch (KafkaException why) {
                // Fenced, or in doubt: a new producer of the same id settles what is open.
                options.say("begins anew: " + why);
                Thread.sleep(100);
            }
        }
    }

    /** False when it is aborted, and the same records have to be read again. */
    private static boolean transaction(Options options, KafkaProducer<String, String> producer, KafkaConsumer<String, String> consumer,
            ConsumerRecords<String, String> records, boolean fails) {
        try {
            producer.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            for (ConsumerRecord<String, String> record : records) {
                producer.send(new ProducerRecord<>(out(options), record.partition(), record.key(), transformed(record.value())));
                offsets.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
            }
            producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
            if (!fails) producer.commitTransaction();
            else producer.abortTransaction();
            return !fails;
        } catch (ProducerFencedException | InvalidProducerEpochException | OutOfOrderSequenceException | TimeoutException why) {
            throw why;
        } catch (KafkaException why) {
            options.say("aborts: " + why);
            producer.abortTransaction();
            return false;
        }
    }

    private static void rewind(KafkaConsumer<String, String> consumer) {
        Set<TopicPartition> assigned = consumer.assignment();
        Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(assigned);
        for (TopicPartition partition : assigned) {
            OffsetAndMetadata at = committed.get(partition);
            if (at == null) consumer.seekToBeginning(List.of(partition));
            else consumer.seek(partition, at.offset());
        }
    }
}
