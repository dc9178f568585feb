package edge.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Set;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * What a bundle's {@code manifest.json} says (schema 1, docs/bundle.md): the part that the app uses, typed, and the whole as JSON.
 *
 * A field that this version does not know is refused, since it may change what the bundle means.
 */
public final class Manifest {
    public static final String FILE = "manifest.json";
    private static final int SCHEMA = 1;
    private static final Set<String> KNOWN = new HashSet<String>(Arrays.asList(
            "schema", "edge_version", "model", "family", "config", "checkpoint_sha256", "random_seed", "target", "runtime", "kernels",
            "recipe", "entries", "metrics", "fp32_bytes", "report", "notes", "verified_on", "mismatch_allowed", "files"));

    /** One file: path relative to the bundle's folder with forward slashes, SHA-256 in hex, bytes. */
    public static final class FileRecord {
        public final String path;
        public final String sha256;
        public final long size;

        FileRecord(JSONObject found) throws JSONException {
            path = found.getString("path");
            sha256 = found.getString("sha256");
            size = found.getLong("size");
        }
    }

    /** One entry point; {@code raw} is all that the manifest says of it. */
    public static final class Entry {
        public final String name;
        public final String artifact;
        public final String method;
        public final int samples;
        public final List<TensorSpec> inputs;
        public final List<TensorSpec> outputs;
        public final JSONObject raw;

        Entry(JSONObject found) throws JSONException, EdgeException {
            name = found.getString("name");
            artifact = found.getString("artifact");
            method = found.getString("method");
            samples = found.getInt("samples");
            inputs = specs(found.getJSONArray("inputs"));
            outputs = specs(found.getJSONArray("outputs"));
            raw = found;
        }
    }

    public final JSONObject raw;
    public final String model;
    public final String family;
    public final String runtime;
    public final String runtimeVersion;
    public final String scheme;
    public final String target;
    public final int threads;
    public final JSONObject config;
    public final List<Entry> entries;
    public final List<FileRecord> files;

    private Manifest(JSONObject found) throws JSONException, EdgeException {
        raw = found;
        model = found.getString("model");
        family = found.getString("family");
        runtime = found.getJSONObject("runtime").getString("name");
        runtimeVersion = found.getJSONObject("runtime").getString("version");
        scheme = found.getJSONObject("recipe").getString("scheme");
        target = found.getJSONObject("target").getString("name");
        threads = found.getJSONObject("target").getInt("threads");
        config = found.getJSONObject("config");
        List<Entry> read = new ArrayList<Entry>();
        for (JSONObject entry : objects(found.getJSONArray("entries"))) {
            read.add(new Entry(entry));
        }
        List<FileRecord> listed = new ArrayList<FileRecord>();
        for (JSONObject file : objects(found.getJSONArray("files"))) {
            listed.add(new FileRecord(file));
        }
        entries = Collections.unmodifiableList(read);
        files = Collections.unmodifiableList(listed);
    }

    /** Reads the text of a manifest.json; throws for another schema, an unknown field, and what is no manifest. */
    public static Manifest parse(String text) throws EdgeException {
        try {
            JSONObject found = new JSONObject(text);
            int schema = found.getInt("schema");
            if (schema != SCHEMA) {
                throw new EdgeException("the bundle has schema " + schema + " and this app reads " + SCHEMA + ": export it again.");
            }
            for (Iterator<String> names = found.keys(); names.hasNext();) {
                String name = names.next();
                if (!KNOWN.contains(name)) {
                    throw new EdgeException("the manifest has a field '" + name + "' that this app does not know: export with the app's own version of edge.");
                }
            }
            return new Manifest(found);
        } catch (JSONException error) {
            throw new EdgeException("manifest.json is not a manifest (" + error.getMessage() + "): export the bundle again.", error);
        }
    }

    public Entry entry(String name) throws EdgeException {
        List<String> known = new ArrayList<String>();
        for (Entry entry : entries) {
            if (entry.name.equals(name)) {
                return entry;
            }
            known.add(entry.name);
        }
        throw new EdgeException("the bundle has no entry point '" + name + "': it has " + Text.join(", ", known) + ".");
    }

    public boolean has(String name) {
        for (Entry entry : entries) {
            if (entry.name.equals(name)) {
                return true;
            }
        }
        return false;
    }

    static List<TensorSpec> specs(JSONArray found) throws JSONException, EdgeException {
        List<TensorSpec> specs = new ArrayList<TensorSpec>();
        for (JSONObject one : objects(found)) {
            specs.add(TensorSpec.of(one));
        }
        return Collections.unmodifiableList(specs);
    }

    static List<JSONObject> objects(JSONArray array) throws JSONException {
        List<JSONObject> objects = new ArrayList<JSONObject>();
        for (int index = 0; index < array.length(); index++) {
            objects.add(array.getJSONObject(index));
        }
        return objects;
    }
}
