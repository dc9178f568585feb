package edge.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Measures a bundle on this machine and writes what `edge profile --json` writes (edge.measurement, schema 1), so that `edge
 * compare` and `edge report` read it.
 *
 * Runs are timed where the model runs. A row's start is the request's, moved by the runs before it. The process holds nothing
 * but the model, so its memory is counted from 0.
 */
public final class Profiler {
    private static final int SCHEMA = 1;
    /** Runs of one request take about so long: between two the sensors are read, and it can be stopped. */
    private static final double BLOCK_SECONDS = 0.25;
    private static final int MOST_RUNS = 100000;

    /** What is asked for: every number is at least 1, {@code warmup} at least 0. */
    public static final class Settings {
        final int threads, warmup, iterations;

        public Settings(int threads, int warmup, int iterations) throws EdgeException {
            if (threads < 1 || warmup < 0 || iterations < 1 || warmup > MOST_RUNS || iterations > MOST_RUNS) {
                throw new EdgeException("a profile takes 1 thread or more, 1 to " + MOST_RUNS + " runs and as many to warm up, not "
                        + threads + " threads, " + iterations + " runs and " + warmup + ".");
            }
            this.threads = threads;
            this.warmup = warmup;
            this.iterations = iterations;
        }
    }

    /** Hears what is done; returns false to stop. */
    public interface Progress {
        boolean at(String entry, int done, int all);
    }

    /** The timed runs of one entry point in microseconds, for the screen. */
    public static final class Runs {
        public final String entry;
        public final double[] durationsUs;
        public final double firstUs;

        Runs(String entry, double[] durationsUs, double firstUs) {
            this.entry = entry;
            this.durationsUs = durationsUs;
            this.firstUs = firstUs;
        }
    }

    /** Everything: {@code json} is the file, the rest is what a screen shows. */
    public static final class Profile {
        public final List<Runs> runs;
        public final JSONObject json;
        public final double loadUs;
        public final long peakBytes;
        public final Double temperatureBefore, temperatureAfter;

        Profile(List<Runs> runs, JSONObject json, double loadUs, long peakBytes, Double before, Double after) {
            this.runs = runs;
            this.json = json;
            this.loadUs = loadUs;
            this.peakBytes = peakBytes;
            temperatureBefore = before;
            temperatureAfter = after;
        }
    }

    private final Bundle bundle;
    private final Engine engine;
    private final Machine machine;
    private final String version;
    private final long origin = System.nanoTime();
    private final JSONArray phases = new JSONArray();
    private final JSONArray readings = new JSONArray();
    private Memory memory;
    private long mostProportional = -1;

    /** @param version of the app, which goes into the file */
    public Profiler(Bundle bundle, Engine engine, Machine machine, String version) {
        this.bundle = bundle;
        this.engine = engine;
        this.machine = machine;
        this.version = version;
    }

    /** Measures every entry point on its first stored sample; null if {@code progress} stopped it. Called once. */
    public Profile run(Settings settings, String device, String created, Progress progress) throws EdgeException {
        try {
            return measured(settings, device, created, progress);
        } catch (JSONException error) {
            throw new EdgeException("the measurement cannot be written (" + error.getMessage() + "): measure again.", error);
        }
    }

    private Profile measured(Settings settings, String device, String created, Progress progress) throws JSONException, EdgeException {
        Double before = machine.temperature();
        JSONObject facts = machine.facts(device);
        double start = now();
        Model model = engine.open(bundle, settings.threads);
        try {
            memory = new Memory(model.pid());
            phase("load", null, start, 0);
            long loaded = memory.resident(), loadPeak = memory.peak(), loadedProportional = memory.proportional();
            List<Runs> runs = new ArrayList<Runs>();
            JSONArray entries = new JSONArray();
            for (Manifest.Entry entry : bundle.manifest.entries) {
                Runs found = entry(entry, model, settings, entries, progress);
                if (found == null) {
                    return null;
                }
                runs.add(found);
            }
            long peak = memory.peak();
            look();
            JSONObject used = new JSONObject().put("baseline", 0).put("imported", 0).put("loaded", zero(loaded)).put("load_peak", zero(loadPeak))
                    .put("run_peak", zero(peak)).put("peak", zero(peak)).put("resets", false)
                    .put("loaded_pss", known(loadedProportional)).put("peak_pss", known(mostProportional));
            JSONObject json = new JSONObject().put("schema", SCHEMA).put("edge_version", version).put("created", created).put("bundle", facts())
                    .put("device", facts)
                    .put("settings", new JSONObject().put("threads", settings.threads).put("runs", settings.iterations).put("seconds", 0))
                    .put("phases", phases).put("memory", used).put("entries", entries).put("warnings", new JSONArray())
                    .put("conditions", new JSONObject().put("readings", readings).put("sources", machine.sources()));
            return new Profile(runs, json, phases.getJSONObject(0).getDouble("duration_us"), peak, before, machine.temperature());
        } finally {
            model.close();
        }
    }

    private Runs entry(Manifest.Entry entry, Model model, Settings settings, JSONArray entries, Progress progress) throws JSONException, EdgeException {
        List<Bundle.Sample> samples = bundle.samples(entry.name);
        if (samples.isEmpty()) {
            throw new EdgeException("the bundle has no stored sample of '" + entry.name + "' to run: export it again.");
        }
        // One small output comes back: what is timed is the run, and what is sent is not.
        List<String> small = Arrays.asList(smallest(entry).name);
        double start = now();
        Answer first = model.run(new Call(entry.name).set(samples.get(0).inputs).want(small));
        double firstUs = first.nanos[0] / 1e3, bindUs = Math.max(0, now() - start - firstUs);
        phase("bind", entry.name, start, bindUs, 0);
        phase("first run", entry.name, start + bindUs, firstUs, 1);
        double warmStart = now();
        double typicalUs = firstUs;
        if (settings.warmup > 0) {
            Answer warm = model.run(new Call(entry.name).want(small).times(settings.warmup));
            typicalUs = Numbers.percentile(microseconds(warm.nanos), 50);
        }
        phase("warm-up", entry.name, warmStart, settings.warmup);
        double[] durations = new double[settings.iterations];
        JSONArray rows = new JSONArray(), blocks = new JSONArray();
        double runsStart = now();
        int done = 0;
        look();
        while (done < settings.iterations) {
            int count = (int) Math.max(1, Math.min(settings.iterations - done, BLOCK_SECONDS * 1e6 / Math.max(typicalUs, 0.1)));
            double at = now(), blockStart = at;
            double[] took = microseconds(model.run(new Call(entry.name).want(small).times(count)).nanos);
            for (double duration : took) {
                rows.put(new JSONArray().put(rounded(at)).put(rounded(duration)));
                at += duration;
                durations[done++] = duration;
            }
            blocks.put(new JSONObject().put("start_us", rounded(blockStart)).put("duration_us", rounded(at - blockStart)).put("runs", count));
            typicalUs = Numbers.percentile(took, 50);
            look();
            if (!progress.at(entry.name, done, settings.iterations)) {
                return null;
            }
        }
        phase("runs", entry.name, runsStart, done);
        entries.put(new JSONObject().put("entry", entry.name).put("inputs", shapes(entry)).put("bind_us", rounded(bindUs)).put("first_us", rounded(firstUs))
                .put("warmup_runs", settings.warmup).put("latency", latency(durations)).put("runs", rows).put("operators", new JSONArray())
                .put("cost", entry.raw.getJSONObject("cost")).put("errors", lowered(entry)).put("blocks", blocks));
        return new Runs(entry.name, durations, firstUs);
    }

    private static TensorSpec smallest(Manifest.Entry entry) {
        TensorSpec best = entry.outputs.get(0);
        for (TensorSpec output : entry.outputs) {
            best = output.bytes() < best.bytes() ? output : best;
        }
        return best;
    }

    private static double[] microseconds(long[] nanos) {
        double[] found = new double[nanos.length];
        for (int index = 0; index < found.length; index++) {
            found[index] = nanos[index] / 1e3;
        }
        return found;
    }

    /** edge.measurement.Latency of runs in microseconds. */
    static JSONObject latency(double[] us) throws JSONException {
        return new JSONObject().put("runs", us.length).put("min_us", Numbers.percentile(us, 0)).put("mean_us", Numbers.mean(us))
                .put("p50_us", Numbers.percentile(us, 50)).put("p90_us", Numbers.percentile(us, 90)).put("p99_us", Numbers.percentile(us, 99))
                .put("max_us", Numbers.percentile(us, 100));
    }

    private static JSONObject shapes(Manifest.Entry entry) throws JSONException {
        JSONObject shapes = new JSONObject();
        for (TensorSpec spec : entry.inputs) {
            JSONArray shape = new JSONArray();
            for (int axis : spec.shape()) {
                shape.put(axis);
            }
            shapes.put(spec.name, shape);
        }
        return shapes;
    }

    /** What export found for the artifact itself. */
    private static JSONArray lowered(Manifest.Entry entry) throws JSONException {
        for (JSONObject stage : Manifest.objects(entry.raw.getJSONArray("stages"))) {
            if (stage.getString("stage").equals("lowered")) {
                return stage.getJSONArray("outputs");
            }
        }
        return new JSONArray();
    }

    private JSONObject facts() throws JSONException {
        Manifest manifest = bundle.manifest;
        JSONArray metrics = manifest.raw.optJSONArray("metrics");
        return new JSONObject().put("name", bundle.folder.getName()).put("model", manifest.model).put("runtime", manifest.runtime)
                .put("runtime_version", manifest.runtimeVersion).put("scheme", manifest.scheme).put("target", manifest.target)
                .put("manifest_sha256", bundle.manifestSha256).put("artifact_bytes", bundle.artifactBytes()).put("total_bytes", bundle.totalBytes())
                .put("metrics", metrics == null ? new JSONArray() : metrics);
    }

    private void phase(String name, String entry, double start, int calls) throws JSONException {
        phase(name, entry, start, now() - start, calls);
    }

    private void phase(String name, String entry, double start, double duration, int calls) throws JSONException {
        long proportional = memory.proportional();
        mostProportional = Math.max(mostProportional, proportional);
        phases.put(new JSONObject().put("name", name).put("entry", entry == null ? JSONObject.NULL : entry).put("start_us", rounded(start))
                .put("duration_us", rounded(duration)).put("rss_bytes", zero(memory.resident())).put("calls", calls).put("pss_bytes", known(proportional)));
    }

    private void look() throws JSONException {
        readings.put(machine.reading(rounded(now()), memory.resident()));
    }

    private double now() {
        return (System.nanoTime() - origin) / 1e3;
    }

    private static double rounded(double us) {
        return Math.rint(us * 1e3) / 1e3;
    }

    private static long zero(long bytes) {
        return Math.max(0, bytes);
    }

    private static Object known(long bytes) {
        return bytes < 0 ? JSONObject.NULL : (Object) bytes;
    }
}
