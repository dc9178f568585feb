package edge.core;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A bundle's folder, checked: nothing in it is loaded before its paths, sizes and SHA-256 are what the manifest says. */
public final class Bundle {
    /** Begins the paths of what only the machine that exported needs; an app does not carry it. */
    public static final String HOST = "host/";
    private static final String SAMPLES = "samples.npz";

    public final File folder;
    public final Manifest manifest;
    public final String manifestSha256;

    private Bundle(File folder, Manifest manifest, String manifestSha256) {
        this.folder = folder;
        this.manifest = manifest;
        this.manifestSha256 = manifestSha256;
    }

    /**
     * Opens and checks the bundle in {@code folder}. The programs of a packaged app lie elsewhere, so {@code elsewhere} files
     * (by path; null: none) need not be there.
     */
    public static Bundle open(File folder, Programs elsewhere) throws EdgeException {
        Bundle bundle = read(folder);
        for (Manifest.FileRecord record : bundle.manifest.files) {
            File file = safe(folder, record.path);
            boolean optional = record.path.startsWith(HOST) || (elsewhere != null && elsewhere.find(record.sha256) != null);
            if (!file.isFile()) {
                if (optional) {
                    continue;
                }
                throw new EdgeException(folder.getName() + " lacks its file " + record.path + ": import it again.");
            }
            check(folder.getName(), record, file);
        }
        return bundle;
    }

    /** The manifest alone, without a look at the other files: for a list of names. */
    public static Bundle read(File folder) throws EdgeException {
        File file = new File(folder, Manifest.FILE);
        try {
            byte[] bytes = Text.readAll(file);
            return new Bundle(folder, Manifest.parse(new String(bytes, Text.UTF8)), Text.sha256(bytes));
        } catch (IOException error) {
            throw new EdgeException(folder.getName() + " is no bundle, since it has no readable " + Manifest.FILE + ": import it again.", error);
        }
    }

    private static void check(String name, Manifest.FileRecord record, File file) throws EdgeException {
        try {
            if (file.length() != record.size || !Text.sha256(file).equals(record.sha256)) {
                throw new EdgeException(name + " is damaged: its file " + record.path + " is not what the manifest says; import it again.");
            }
        } catch (IOException error) {
            throw new EdgeException(name + "'s file " + record.path + " cannot be read (" + error.getMessage() + "): import it again.", error);
        }
    }

    /** Where {@code path} of a manifest lies in {@code folder}; throws for what would lie outside of it. */
    static File safe(File folder, String path) throws EdgeException {
        boolean bad = path.isEmpty() || path.startsWith("/") || path.indexOf('\\') >= 0 || path.indexOf('\0') >= 0;
        for (String part : path.split("/", -1)) {
            bad |= part.isEmpty() || part.equals(".") || part.equals("..");
        }
        if (bad) {
            throw new EdgeException("the bundle lists a file '" + path + "', which would lie outside of its folder: it is refused.");
        }
        return new File(folder, path);
    }

    /** The file at {@code path}, which the manifest must list. */
    public File file(String path) throws EdgeException {
        record(path);
        return safe(folder, path);
    }

    public Manifest.FileRecord record(String path) throws EdgeException {
        for (Manifest.FileRecord record : manifest.files) {
            if (record.path.equals(path)) {
                return record;
            }
        }
        throw new EdgeException(folder.getName() + " lists no file '" + path + "': export it again.");
    }

    public boolean lists(String path) {
        for (Manifest.FileRecord record : manifest.files) {
            if (record.path.equals(path)) {
                return true;
            }
        }
        return false;
    }

    /** What the runtime loads, in bytes: each entry's artifact once, and the weights beside it. */
    public long artifactBytes() {
        long total = 0;
        for (Manifest.FileRecord record : manifest.files) {
            boolean loaded = record.path.startsWith("weights");
            for (Manifest.Entry entry : manifest.entries) {
                loaded |= entry.artifact.equals(record.path);
            }
            total += loaded ? record.size : 0;
        }
        return total;
    }

    public long totalBytes() {
        long total = 0;
        for (Manifest.FileRecord record : manifest.files) {
            total += record.size;
        }
        return total;
    }

    /** One stored sample of an entry point: its inputs and eager PyTorch's outputs, by name. */
    public static final class Sample {
        public final Map<String, Tensor> inputs = new LinkedHashMap<String, Tensor>();
        public final Map<String, Tensor> outputs = new LinkedHashMap<String, Tensor>();
    }

    public List<Sample> samples(String entryName) throws EdgeException {
        Manifest.Entry entry = manifest.entry(entryName);
        Map<String, Tensor> stored = Npz.read(file(SAMPLES), entryName + "/");
        List<Sample> samples = new ArrayList<Sample>();
        for (int index = 0; index < entry.samples; index++) {
            Sample sample = new Sample();
            for (TensorSpec spec : entry.inputs) {
                sample.inputs.put(spec.name, wanted(stored, entryName + "/" + index + "/in/" + spec.name));
            }
            for (TensorSpec spec : entry.outputs) {
                sample.outputs.put(spec.name, wanted(stored, entryName + "/" + index + "/out/" + spec.name));
            }
            samples.add(sample);
        }
        return samples;
    }

    private static Tensor wanted(Map<String, Tensor> stored, String name) throws EdgeException {
        Tensor found = stored.get(name);
        if (found == null) {
            throw new EdgeException("the bundle's samples lack " + name + ": export it again.");
        }
        return found;
    }
}
