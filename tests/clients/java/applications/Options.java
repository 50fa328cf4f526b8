import java.io.File;
import java.util.*;

/** What a run is told: `--name value` pairs. */
final class Options {
    final String bootstrap, protocol, name;
    final List<String> kill, jvm;
    final int seconds, pauseMs, brokers, rate;
    final long seed, begun = System.currentTimeMillis();
    final File work;
    private final Map<String, String> all = new HashMap<>();

    Options(String[] arguments) {
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            if (!arguments[i].startsWith("--")) throw new IllegalArgumentException(arguments[i]);
            all.put(arguments[i].substring(2), arguments[i + 1]);
        }
        bootstrap = get("bootstrap", "127.0.0.1:9092");
        protocol = get("protocol", "classic");
        // Names topics and groups, and is handed to the processes of the application.
        name = get("name", Long.toString(System.nanoTime(), 36));
        kill = List.of(get("kill", "true").split(" "));
        seconds = Integer.parseInt(get("seconds", "60"));
        pauseMs = Integer.parseInt(get("pause-ms", "5000"));
        brokers = Integer.parseInt(get("brokers", "3"));
        rate = Integer.parseInt(get("rate", "300"));
        seed = Long.parseLong(get("seed", Long.toString(System.nanoTime() % 1000000)));
        work = new File(get("work", System.getProperty("java.io.tmpdir")));
        jvm = new ArrayList<>(List.of("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto"));
        String log = System.getProperty("log4j2.configurationFile");
        if (log != null) jvm.add("-Dlog4j2.configurationFile=" + log);
        jvm.addAll(List.of("-Doracle.level=warn", "-cp", System.getProperty("java.class.path")));
    }

    String get(String name, String otherwise) { return all.getOrDefault(name, otherwise); }

    /** The same settings for a process of the application. */
    String[] child(String main, String... more) {
        List<String> words = new ArrayList<>(List.of(main));
        Map<String, String> settings = new TreeMap<>(all);
        settings.put("name", name);
        for (int i = 0; i < more.length; i += 2) settings.put(more[i], more[i + 1]);
        settings.forEach((key, value) -> words.addAll(List.of("--" + key, value)));
        return words.toArray(new String[0]);
    }

    void say(String what) {
        System.err.printf(Locale.ROOT, "%7.1f s: %s%n", (System.currentTimeMillis() - begun) / 1000.0, what);
    }
}
