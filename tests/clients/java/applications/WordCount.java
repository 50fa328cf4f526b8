import java.io.File;
import java.util.*;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.Stores;

/**
 * A word count by Kafka Streams with exactly_once_v2, whoever is killed.
 *
 * Two processes count the words of the input, over a repartition topic and a changelog. Every update
 * is passed on, so for each word the output must hold the numbers 1, 2, 3, … up to how often the word
 * is in the input, each once and in order. Prints `ok NAME` or `FAIL NAME: why`.
 */
public final class WordCount {
    private static final int WORDS = 60;

    private static String in(Options options) { return "words-in-" + options.name; }
    private static String out(Options options) { return "words-out-" + options.name; }

    public static void main(String[] arguments) throws Exception {
        Options options = new Options(arguments);
        if (!options.get("counter", "").isEmpty()) {
            count(options);
            return;
        }
        String claim = "word count: exactly_once_v2, " + options.protocol + " protocol: every word is counted exactly";
        try {
            System.out.println("ok " + claim + " (" + run(options) + ")");
        } catch (Exception why) {
            System.out.println("FAIL " + claim + ": " + why + " (seed " + options.seed + ")");
            why.printStackTrace();
            System.exit(1);
        }
        System.exit(0);
    }

    private static String words(int number) {
        return "word-" + number % WORDS + " word-" + number * 7 % WORDS + " word-" + number / 3 % WORDS;
    }

    private static String run(Options options) throws Exception {
        try (Admin admin = Topics.admin(options); Kills kills = new Kills(options)) {
            Topics.make(admin, Map.of(), in(options), out(options));
            int sent;
            try (Topics.Feeder feeder = new Topics.Feeder(options, number ->
                    new ProducerRecord<>(in(options), number % Topics.PARTITIONS, "line", words(number)))) {
                kills.run("counter-0", options.child("WordCount", "counter", "0"));
                kills.run("counter-1", options.child("WordCount", "counter", "1"));
                kills.until(System.currentTimeMillis() + options.seconds * 1000L);
                sent = feeder.finish();
            }
            Map<String, Integer> expected = new TreeMap<>();
            int lines = 0;
            for (var partition : Topics.read(options, in(options))) {
                lines += partition.size();
                for (ConsumerRecord<String, String> record : partition) {
                    for (String word : record.value().split(" ")) expected.merge(word, 1, Integer::sum);
                }
            }
            if (lines != sent) throw new IllegalStateException(sent + " lines were acknowledged, and " + lines + " are in the input");
            int total = expected.values().stream().mapToInt(it -> it).sum();
            Topics.await(options, 240, () -> {
                int found = Topics.read(options, out(options)).stream().mapToInt(List::size).sum();
                Thread.sleep(1000);
                return found < total ? found + " of " + total + " counts are there" : null;
            });
            compare(options, expected);
            return lines + " lines, " + total + " words in " + options.seconds + " s; " + kills.summary() + "; seed " + options.seed;
        }
    }

    private static void compare(Options options, Map<String, Integer> expected) {
        Map<String, Integer> found = new TreeMap<>();
        for (var partition : Topics.read(options, out(options))) {
            for (ConsumerRecord<String, String> record : partition) {
                int before = found.getOrDefault(record.key(), 0), now = Integer.parseInt(record.value());
                if (now != before + 1) throw new IllegalStateException(record.key() + " is " + now + " after " + before);
                found.put(record.key(), now);
            }
        }
        if (!found.equals(expected)) throw new IllegalStateException("counted " + found + ", and should be " + expected);
    }

    // The application.

    private static Properties settings(Options options) {
        Properties settings = Topics.settings(options);
        settings.put("application.id", "words-" + options.name);
        settings.put("processing.guarantee", "exactly_once_v2");
        settings.put("group.protocol", options.protocol);
        settings.put("state.dir", new File(options.work, "state-" + options.get("counter", "")).getPath());
        settings.put("replication.factor", 3);
        settings.put("num.stream.threads", 1);
        settings.put("commit.interval.ms", 200);
        settings.put("statestore.cache.max.bytes", 0);
        settings.put("default.key.serde", Serdes.StringSerde.class);
        settings.put("default.value.serde", Serdes.StringSerde.class);
        settings.put("main.consumer.auto.offset.reset", "earliest");
        if (options.protocol.equals("classic")) {
            settings.put("consumer.session.timeout.ms", 6000);
            settings.put("consumer.heartbeat.interval.ms", 1000);
        }
        settings.put("producer.transaction.timeout.ms", 10000);
        settings.put("producer.delivery.timeout.ms", 20000);
        settings.put("producer.max.block.ms", 20000);
        settings.put("producer.linger.ms", 5);
        return settings;
    }

    private static void count(Options options) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream(in(options))
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word)
            .count(Materialized.as(Stores.inMemoryKeyValueStore("counts")))
            .toStream()
            .mapValues(count -> Long.toString(count))
            .to(out(options));
        CountDownLatch ended = new CountDownLatch(1);
        KafkaStreams streams = new KafkaStreams(builder.build(), settings(options));
        streams.setUncaughtExceptionHandler(why -> {
            options.say("a thread ends: " + why);
            why.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> {
            options.say(before + " -> " + now);
            if (now == KafkaStreams.State.ERROR || now == KafkaStreams.State.NOT_RUNNING) ended.countDown();
        });
        streams.start();
        ended.await();
        System.exit(1);
    }
}
