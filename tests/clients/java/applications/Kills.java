import java.io.File;
import java.io.IOException;
import java.util.*;
import java.util.concurrent.TimeUnit;

/**
 * Processes of an application that are killed with SIGKILL and started again at random, and brokers
 * that are killed at random all the while. What ends by itself is started again, too.
 */
final class Kills implements AutoCloseable {
    /** One process of the application. */
    private final class Child {
        final String name;
        final List<String> arguments;
        final File log;
        volatile Process process;
        volatile boolean held;

        Child(String name, List<String> arguments) {
            this.name = name;
            this.arguments = arguments;
            log = new File(options.work, name + ".log");
        }

        /** Returns false when there is nothing to start. */
        synchronized boolean start() throws IOException {
            if (held || stopping || (process != null && process.isAlive())) return false;
            List<String> command = new ArrayList<>(List.of(ProcessHandle.current().info().command().orElse("java")));
            command.addAll(options.jvm);
            command.addAll(arguments);
            process = new ProcessBuilder(command).redirectErrorStream(true)
                .redirectOutput(ProcessBuilder.Redirect.appendTo(log)).start();
            return true;
        }

        /** After it was held. One step: else the keeper would take it for one that ended by itself. */
        synchronized void resume() throws IOException {
            held = false;
            start();
        }

        /** Killed without a chance to say goodbye. */
        void kill() throws InterruptedException {
            Process it = process;
            it.destroyForcibly();
            it.waitFor();
        }
    }

    private final Options options;
    private final Random random;
    private final List<Child> children = new ArrayList<>();
    private final Thread keeper = new Thread(this::keep, "keeper");
    private volatile boolean stopping;
    int ofBrokers, ofApplications, endings;

    Kills(Options options) {
        this.options = options;
        this.random = new Random(options.seed);
        keeper.setDaemon(true);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            for (Child child : children) if (child.process != null) child.process.destroyForcibly();
        }));
    }

    /** Starts one process of the application and keeps it running until `close`. */
    void run(String name, String... arguments) throws IOException {
        Child child = new Child(name, List.of(arguments));
        synchronized (children) { children.add(child); }
        child.start();
        if (!keeper.isAlive()) keeper.start();
    }

    private void keep() {
        try {
            while (!stopping) {
                Thread.sleep(200);
                synchronized (children) {
                    for (Child child : children) {
                        if (child.start()) endings++;
                    }
                }
            }
        } catch (InterruptedException | IOException why) {
            if (!stopping) throw new IllegalStateException(why);
        }
    }

    /** Kills brokers and processes until that time has passed. */
    void until(long end) throws Exception {
        while (true) {
            long pause = options.pauseMs / 2 + random.nextInt(options.pauseMs);
            if (System.currentTimeMillis() + pause > end) break;
            Thread.sleep(pause);
            if (random.nextBoolean()) killBroker(random.nextInt(options.brokers));
            else killApplication(random.nextInt(children.size()));
        }
        Thread.sleep(Math.max(0, end - System.currentTimeMillis()));
    }

    void killBroker(int broker) throws Exception {
        List<String> command = new ArrayList<>(options.kill);
        command.add(Integer.toString(broker));
        Process kill = new ProcessBuilder(command).redirectErrorStream(true)
            .redirectOutput(new File(options.work, "kill.log")).start();
        if (!kill.waitFor(30, TimeUnit.SECONDS)) throw new IllegalStateException("kill takes too long: " + command);
        // A broker that was killed a moment ago may not have started again.
        if (kill.exitValue() == 0) ofBrokers++;
        options.say("broker " + broker + " is killed");
    }

    void killApplication(int number) throws Exception {
        Child child = children.get(number);
        child.held = true;
        child.kill();
        ofApplications++;
        options.say(child.name + " is killed");
        Thread.sleep(random.nextInt(1500));
        child.resume();
    }

    String summary() {
        return ofBrokers + " kills of brokers, " + ofApplications + " of the application, which ended by itself " + endings + " times";
    }

    /** Ends all processes. */
    @Override public void close() throws InterruptedException {
        stopping = true;
        for (Child child : children) child.kill();
    }
}
