import java.io.File;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.*;

/**
 * A share group with explicit acknowledgement: every record is processed at least once, whoever is
 * killed, and none is delivered more often than the group's limit.
 *
 * The workers note each delivery in a file before they acknowledge it. A record whose value begins
 * with "release" is never accepted, and one that begins with "crash" ends the worker at once. While
 * brokers are killed only the count that a delivery carries is held against the limit: a leader
 * that is killed takes with it what it had not persisted. Prints `ok NAME` or `FAIL NAME: why`.
 */
public final class Shares {
    private static final int LIMIT = 4;
    private static final long QUIET_MS = 10000;
    private static int failed;

    interface Claim { String check() throws Exception; }

    public static void main(String[] arguments) throws Exception {
        Options options = new Options(arguments);
        if (!options.get("worker", "").isEmpty()) {
            work(options);
            return;
        }
        claim(options, "every record is processed at least once under kills", () -> underKills(options));
        claim(options, "a record that is always released is delivered " + LIMIT + " times, and then archived", () -> alwaysReleased(options));
        claim(options, "a record that ends its worker is delivered at most " + LIMIT + " times, and then archived", () -> crashedOn(options));
        System.exit(failed == 0 ? 0 : 1);
    }

    private static void claim(Options options, String name, Claim claim) {
        try {
            System.out.println("ok shares: " + name + " (" + claim.check() + ")");
        } catch (Exception why) {
            failed++;
            System.out.println("FAIL shares: " + name + ": " + why + " (seed " + options.seed + ")");
            why.printStackTrace();
        }
    }

    private static String underKills(Options options) throws Exception {
        String topic = "shares-" + options.name;
        try (Admin admin = Topics.admin(options); Kills kills = new Kills(options)) {
            Topics.make(admin, Map.of(), topic);
            settle(admin, topic, 10);
            int sent;
            try (Topics.Feeder feeder = new Topics.Feeder(options, number -> {
                    String kind = number % 100 == 7 ? "release-" : "plain-";
                    return new ProducerRecord<>(topic, number % Topics.PARTITIONS, "key", kind + number);
                })) {
                for (int i = 0; i < 2; i++) kills.run(topic + "-" + i, worker(options, topic, i, "batch_optimized", 100));
                kills.until(System.currentTimeMillis() + options.seconds * 1000L);
                sent = feeder.finish();
            }
            Map<String, List<Integer>> seen = finished(options, admin, topic, sent, 180);
            for (int number = 0; number < sent; number++) {
                String value = (number % 100 == 7 ? "release-" : "plain-") + number;
                if (!seen.containsKey(value)) throw new IllegalStateException(value + " was never processed");
            }
            within(seen, 10);
            if (seen.size() != sent) throw new IllegalStateException(sent + " records were written, and " + seen.size() + " different ones delivered");
            long deliveries = seen.values().stream().mapToLong(List::size).sum();
            return sent + " records, " + deliveries + " deliveries in " + options.seconds + " s; " + kills.summary() + "; seed " + options.seed;
        }
    }

    private static String alwaysReleased(Options options) throws Exception {
        String topic = "released-" + options.name;
        return limited(options, topic, "release-", 4, seen -> {
            for (Map.Entry<String, List<Integer>> one : seen.entrySet()) {
                List<Integer> expected = one.getKey().startsWith("release-") ? List.of(1, 2, 3, 4) : List.of(1);
                if (!one.getValue().equals(expected)) throw new IllegalStateException(one + " should be delivered as " + expected);
            }
        });
    }

    private static String crashedOn(Options options) throws Exception {
        String topic = "crashed-on-" + options.name;
        return limited(options, topic, "crash-", 2, seen -> {
            within(seen, LIMIT);
            for (Map.Entry<String, List<Integer>> one : seen.entrySet()) {
                if (one.getValue().size() > LIMIT) throw new IllegalStateException(one + " is delivered too often");
            }
        });
    }

    interface Rule { void check(Map<String, List<Integer>> seen); }

    /** Forty records, some of them bad, and nobody is killed from outside. */
    private static String limited(Options options, String topic, String bad, int count, Rule rule) throws Exception {
        try (Admin admin = Topics.admin(options); Kills kills = new Kills(options)) {
            Topics.make(admin, Map.of(), topic);
            settle(admin, topic, LIMIT);
            try (KafkaProducer<String, String> producer = Topics.producer(options)) {
                for (int number = 0; number < 40; number++) {
                    String kind = number >= 20 && number < 20 + count ? bad : "plain-";
                    producer.send(new ProducerRecord<>(topic, number % Topics.PARTITIONS, "key", kind + number)).get();
                }
            }
            kills.run(topic + "-0", worker(options, topic, 0, "record_limit", 1));
            Map<String, List<Integer>> seen = finished(options, admin, topic, 40, 240);
            if (seen.size() != 40) throw new IllegalStateException(seen.size() + " of 40 records were delivered: " + seen.keySet());
            rule.check(seen);
            Map<Integer, Long> histogram = seen.entrySet().stream().filter(it -> it.getKey().startsWith(bad))
                .collect(Collectors.groupingBy(it -> it.getValue().size(), TreeMap::new, Collectors.counting()));
            return "deliveries of the bad ones: " + histogram;
        }
    }

    private static void settle(Admin admin, String group, int limit) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        List<AlterConfigOp> operations = new ArrayList<>();
        Map.of("share.auto.offset.reset", "earliest", "share.delivery.count.limit", Integer.toString(limit))
            .forEach((key, value) -> operations.add(new AlterConfigOp(new ConfigEntry(key, value), AlterConfigOp.OpType.SET)));
        admin.incrementalAlterConfigs(Map.of(resource, operations)).all().get();
    }

    private static void within(Map<String, List<Integer>> seen, int limit) {
        seen.forEach((value, counts) -> {
            if (counts.stream().anyMatch(it -> it < 1 || it > limit)) throw new IllegalStateException(value + " was delivered with the counts " + counts + ", beyond " + limit);
        });
    }

    /**
     * Waits until all records have been delivered and, for longer than a lock lasts, none of them
     * again; tells the counts that each one came with. A broker that knows how far behind the group
     * is must agree that it is not.
     */
    private static Map<String, List<Integer>> finished(Options options, Admin admin, String topic, int records, int seconds) throws Exception {
        long[] last = {-1, System.currentTimeMillis()};
        Topics.await(options, seconds, () -> {
            Map<String, List<Integer>> seen = seen(options, topic);
            long deliveries = seen.values().stream().mapToLong(List::size).sum();
            if (deliveries != last[0]) {
                last[0] = deliveries;
                last[1] = System.currentTimeMillis();
            }
            if (seen.size() < records) return seen.size() + " of " + records + " records were processed";
            return System.currentTimeMillis() - last[1] < QUIET_MS ? "records are still delivered" : null;
        });
        Topics.await(options, 30, () -> {
            var offsets = admin.listShareGroupOffsets(Map.of(topic, new ListShareGroupOffsetsSpec())).partitionsToOffsetInfo(topic).get();
            return offsets.values().stream().anyMatch(it -> it != null && it.lag().orElse(0L) > 0) ? "the group is said to be behind: " + offsets : null;
        });
        return seen(options, topic);
    }

    private static Map<String, List<Integer>> seen(Options options, String topic) throws Exception {
        Map<String, List<Integer>> seen = new TreeMap<>();
        for (File file : options.work.listFiles((folder, name) -> name.startsWith(topic) && name.endsWith(".seen"))) {
            for (String line : Files.readAllLines(file.toPath())) {
                String[] words = line.split(" ");
                // The last line may not be whole yet.
                if (words.length == 2) seen.computeIfAbsent(words[0], it -> new ArrayList<>()).add(Integer.parseInt(words[1]));
            }
        }
        return seen;
    }

    // The application. Group and topic have one name.

    private static String[] worker(Options options, String topic, int number, String mode, int records) {
        return options.child("Shares", "worker", topic + "-" + number, "topic", topic, "mode", mode, "records", Integer.toString(records));
    }

    private static void work(Options options) throws Exception {
        Properties settings = Topics.settings(options);
        String topic = options.get("topic", "");
        settings.put("group.id", topic);
        settings.put("share.acknowledgement.mode", "explicit");
        settings.put("share.acquire.mode", options.get("mode", ""));
        settings.put("max.poll.records", options.get("records", ""));
        Path file = new File(options.work, options.get("worker", "") + ".seen").toPath();
        Random random = new Random();
        try (FileChannel notes = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
             KafkaShareConsumer<String, String> consumer = new KafkaShareConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            while (true) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(500));
                for (ConsumerRecord<String, String> record : records) {
                    String line = record.value() + " " + record.deliveryCount().map(Object::toString).orElse("0") + "\n";
                    notes.write(ByteBuffer.wrap(line.getBytes(StandardCharsets.UTF_8)));
                    if (record.value().startsWith("crash-")) Runtime.getRuntime().halt(137);
                    boolean releases = record.value().startsWith("release-") || options.get("mode", "").startsWith("batch") && random.nextInt(50) == 0;
                    consumer.acknowledge(record, releases ? AcknowledgeType.RELEASE : AcknowledgeType.ACCEPT);
                }
                if (records.isEmpty()) continue;
                consumer.commitSync().forEach((partition, why) -> why.ifPresent(it -> options.say(partition + ": " + it)));
            }
        } catch (KafkaException why) {
            options.say("ends: " + why);
        }
        System.exit(1);
    }
}
