package edge.core;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** A program that holds its model, kept as a child process and asked over its standard streams (docs/runner.md, protocol 1). */
public final class ChildModel implements Model {
    private static final int PROTOCOL = 1;
    private static final int LONGEST_LINE = 1 << 20;
    private static final Pattern PID = Pattern.compile("pid=(\\d+)");

    private final Process process;
    private final OutputStream requests;
    private final DataInputStream answers;
    private final Complaints complaints;
    private final Map<String, List<TensorSpec>> inputs = new LinkedHashMap<String, List<TensorSpec>>();
    private final Map<String, List<TensorSpec>> outputs = new LinkedHashMap<String, List<TensorSpec>>();
    private final long loadNanos;
    private long id;

    /** Starts {@code program}; {@code weights} is null where they are beside it. */
    public ChildModel(File program, File weights, int threads) throws EdgeException {
        List<String> command = new ArrayList<String>();
        command.add(program.getPath());
        command.add("--serve");
        if (weights != null) {
            command.add("--weights");
            command.add(weights.getPath());
        }
        command.add("--threads");
        command.add(Integer.toString(threads));
        long began = System.nanoTime();
        try {
            process = new ProcessBuilder(command).start();
        } catch (IOException error) {
            throw new EdgeException("the model's program cannot be started (" + error.getMessage() + "): install the app again.", error);
        }
        requests = new BufferedOutputStream(process.getOutputStream(), 1 << 16);
        answers = new DataInputStream(new BufferedInputStream(process.getInputStream(), 1 << 16));
        complaints = new Complaints(process.getErrorStream());
        complaints.start();
        boolean ready = false;
        try {
            read(line());
            ready = true;
        } catch (IOException error) {
            throw ended(error);
        } catch (JSONException error) {
            throw wrong(error);
        } finally {
            if (!ready) {
                process.destroy();
            }
        }
        loadNanos = System.nanoTime() - began;
    }

    private void read(JSONObject hello) throws JSONException, EdgeException {
        if (hello.getInt("protocol") != PROTOCOL) {
            throw new EdgeException("the model's program speaks protocol " + hello.getInt("protocol") + " and this app " + PROTOCOL + ": export the bundle again.");
        }
        for (JSONObject entry : Manifest.objects(hello.getJSONArray("entries"))) {
            inputs.put(entry.getString("name"), Manifest.specs(entry.getJSONArray("inputs")));
            outputs.put(entry.getString("name"), Manifest.specs(entry.getJSONArray("outputs")));
        }
    }

    @Override
    public Answer run(Call call) throws EdgeException {
        List<TensorSpec> specs = inputs.get(call.entry);
        if (specs == null) {
            throw new EdgeException("the model has no entry point '" + call.entry + "': it has " + Text.join(", ", new ArrayList<String>(inputs.keySet())) + ".");
        }
        try {
            JSONObject request = new JSONObject().put("id", ++id).put("entry", call.entry);
            JSONArray parts = new JSONArray();
            for (Call.Part part : call.parts) {
                Inputs.check(specs, part); // the program would take the rest of the stream for something else
                parts.put(new JSONObject().put("name", part.name).put("offset", part.offset).put("bytes", part.bytes.length));
            }
            request.put("inputs", parts);
            if (call.outputs != null) {
                request.put("outputs", new JSONArray(call.outputs));
            }
            request.put("runs", call.runs);
            requests.write((request.toString() + "\n").getBytes(Text.UTF8));
            for (Call.Part part : call.parts) {
                requests.write(part.bytes);
            }
            requests.flush();
            return answer(line());
        } catch (IOException error) {
            throw ended(error);
        } catch (JSONException error) {
            throw wrong(error);
        }
    }

    private Answer answer(JSONObject said) throws IOException, JSONException, EdgeException {
        if (said.getLong("id") != id) {
            throw new JSONException("an answer to request " + said.getLong("id") + " came for " + id);
        }
        Map<String, Tensor> found = new LinkedHashMap<String, Tensor>();
        for (TensorSpec spec : Manifest.specs(said.getJSONArray("outputs"))) {
            byte[] bytes = new byte[spec.bytes()];
            answers.readFully(bytes);
            found.put(spec.name, new Tensor(spec.dtype, spec.shape(), bytes));
        }
        JSONArray times = said.getJSONArray("times_ns");
        long[] nanos = new long[times.length()];
        for (int index = 0; index < nanos.length; index++) {
            nanos[index] = times.getLong(index);
        }
        return new Answer(found, nanos);
    }

    /** The next line of the program; an EdgeException with its own sentence if it is a refusal. */
    private JSONObject line() throws IOException, JSONException, EdgeException {
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        for (int one = answers.read(); one != '\n'; one = answers.read()) {
            if (one < 0) {
                throw new IOException("its output ended");
            }
            text.write(one);
            if (text.size() > LONGEST_LINE) {
                throw new JSONException("a line has no end");
            }
        }
        JSONObject said = new JSONObject(new String(text.toByteArray(), Text.UTF8));
        if (!said.optBoolean("ok", true)) {
            throw new EdgeException(said.getString("sentence"));
        }
        return said;
    }

    private EdgeException ended(IOException error) {
        String status = "";
        try {
            complaints.join(1000); // it ends when the program has
            process.destroy();
            status = " with status " + process.waitFor();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        String last = complaints.last();
        return new EdgeException("the model's program ended" + status + (last.isEmpty() ? "" : " (" + last + ")") + ": open the bundle again.", error);
    }

    private EdgeException wrong(JSONException error) {
        process.destroy();
        return new EdgeException("the model's program said something else than its protocol (" + error.getMessage() + "): export the bundle again.", error);
    }

    @Override
    public long loadNanos() {
        return loadNanos;
    }

    /** Android and Java print it among a process' facts; neither had a method for it before Java 9. */
    @Override
    public int pid() {
        Matcher found = PID.matcher(process.toString());
        return found.find() ? Integer.parseInt(found.group(1)) : -1;
    }

    @Override
    public void close() {
        try {
            process.getOutputStream().close(); // the end of its input is how it is told to end
        } catch (IOException error) {
            // It has ended by itself.
        }
        process.destroy();
    }

    /** Standard error, read as it comes so that the program never waits for us; the last line says why it ended. */
    private static final class Complaints extends Thread {
        private final InputStream stream;
        private final ByteArrayOutputStream text = new ByteArrayOutputStream();

        Complaints(InputStream stream) {
            super("edge model's messages");
            this.stream = stream;
            setDaemon(true);
        }

        @Override
        public void run() {
            byte[] block = new byte[4096];
            try {
                for (int count = stream.read(block); count >= 0; count = stream.read(block)) {
                    synchronized (text) {
                        if (text.size() > LONGEST_LINE) {
                            text.reset();
                        }
                        text.write(block, 0, count);
                    }
                }
            } catch (IOException error) {
                // The process is gone, and with it what it had to say.
            }
        }

        String last() {
            synchronized (text) {
                String[] lines = new String(text.toByteArray(), Text.UTF8).trim().split("\n");
                return lines[lines.length - 1].trim();
            }
        }
    }
}
