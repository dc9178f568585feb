package edge.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.List;

/**
 * A profile that nobody watches: what `am start ... --es bundle NAME --ei iterations 100` asks for. Its result is the file
 * RESULT.json, or RESULT.error with one sentence; either appears whole.
 */
public final class Headless {
    private final File folder;
    private final String result;

    /** @param result the file's name without ending: letters, digits, dots, hyphens and underscores */
    public Headless(File folder, String result) throws EdgeException {
        if (result == null || !result.matches("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")) {
            throw new EdgeException("'" + result + "' cannot be a result's name: give letters, digits, dots, hyphens and underscores.");
        }
        this.folder = folder;
        this.result = result;
    }

    /** Profiles and writes. Returns the sentence that tells how it went. */
    public String run(Bundle bundle, List<Engine> engines, Machine machine, String version, Profiler.Settings settings, String created, Profiler.Progress progress) {
        try {
            Profiler profiler = new Profiler(bundle, Engines.find(engines, bundle), machine, version);
            Profiler.Profile profile = profiler.run(settings, "app", created, progress);
            if (profile == null) {
                return failed("it was stopped before it was done: start it again.");
            }
            return "wrote " + write(folder, result + ".json", profile.json.toString() + "\n");
        } catch (EdgeException error) {
            return failed(error.getMessage());
        }
    }

    /** Writes why there is no result. */
    public String failed(String sentence) {
        try {
            write(folder, result + ".error", sentence + "\n");
        } catch (EdgeException error) {
            return sentence + " " + error.getMessage();
        }
        return sentence;
    }

    /** Writes a text file, whole or not at all. */
    public static File write(File folder, String name, String text) throws EdgeException {
        folder.mkdirs();
        File staging = new File(folder, "." + name), place = new File(folder, name);
        try (FileOutputStream out = new FileOutputStream(staging)) {
            out.write(text.getBytes(Text.UTF8));
            out.getFD().sync();
        } catch (IOException error) {
            throw new EdgeException(place + " cannot be written (" + error.getMessage() + "): free some space.", error);
        }
        if (!staging.renameTo(place)) {
            throw new EdgeException(place + " cannot be written: free some space.");
        }
        return place;
    }
}
