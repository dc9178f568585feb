package edge.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;

/** Takes a zipped bundle (the folder NAME.edge, or what is in it) into the app's folder, whole and checked, or not at all. */
public final class Importer {
    private static final long LARGEST = 4L << 30;
    private static final int MOST_FILES = 1000;

    private Importer() {}

    /** Unpacks {@code stream} as {@code bundles/NAME}, in place of one of that name. {@code name} is what to call it if the zip does not say. */
    public static Bundle unzip(InputStream stream, File bundles, String name, Programs programs) throws EdgeException {
        bundles.mkdirs();
        File staging = new File(bundles, ".importing-" + System.nanoTime());
        try {
            File root = unpack(stream, staging);
            if (!new File(root, Manifest.FILE).isFile()) {
                throw new EdgeException("this file holds no bundle: zip the folder NAME.edge that `edge export` wrote and choose that file.");
            }
            Bundle checked = Bundle.open(root, programs);
            String own = root.equals(staging) ? name : root.getName();
            File place = new File(bundles, clean(own));
            Text.delete(place);
            if (!root.renameTo(place)) {
                throw new EdgeException(place.getName() + " cannot be written: free some space and import it again.");
            }
            return Bundle.open(place, programs);
        } catch (IOException error) {
            throw new EdgeException("this file cannot be unpacked (" + error.getMessage() + "): choose a bundle's .zip.", error);
        } finally {
            Text.delete(staging);
        }
    }

    /** The folder that has the files: {@code staging}, or the only folder in it. */
    private static File unpack(InputStream stream, File staging) throws IOException, EdgeException {
        ZipInputStream archive = new ZipInputStream(stream);
        long left = LARGEST;
        int count = 0;
        for (ZipEntry entry = archive.getNextEntry(); entry != null; entry = archive.getNextEntry()) {
            if (entry.isDirectory()) {
                continue;
            }
            if (++count > MOST_FILES) {
                throw new EdgeException("this file holds more than " + MOST_FILES + " files, which no bundle has: choose a bundle's .zip.");
            }
            File file = Bundle.safe(staging, entry.getName());
            file.getParentFile().mkdirs();
            try (FileOutputStream out = new FileOutputStream(file)) {
                left -= Text.copy(archive, out, left);
            }
        }
        File[] inside = staging.listFiles();
        return inside != null && inside.length == 1 && inside[0].isDirectory() ? inside[0] : staging;
    }

    /** A name that is a plain folder's, whatever the file was called. */
    static String clean(String name) {
        String plain = name.replaceAll("\\.zip$", "").replaceAll("[^A-Za-z0-9._-]", "_").replaceAll("^\\.+", "");
        return plain.isEmpty() ? "bundle.edge" : plain;
    }
}
