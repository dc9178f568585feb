package edge.demo;

import android.content.res.AssetManager;
import edge.core.Bundle;
import edge.core.EdgeException;
import edge.core.Importer;
import edge.core.Manifest;
import edge.core.Programs;
import edge.core.Text;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** The bundles in the app's own folder: those that came with it, unpacked on first use, and those that were imported. */
final class Bundles {
    private static final String ASSETS = "bundles";
    private final AssetManager assets;
    private final File folder;
    private final Programs programs;

    Bundles(AssetManager assets, File folder, Programs programs) {
        this.assets = assets;
        this.folder = folder;
        this.programs = programs;
    }

    /** All of them by name, their manifests read and nothing else. To be called off the main thread. */
    synchronized List<Bundle> list() throws EdgeException {
        unpack();
        List<Bundle> found = new ArrayList<Bundle>();
        File[] inside = folder.listFiles();
        Arrays.sort(inside == null ? inside = new File[0] : inside);
        for (File one : inside) {
            if (!one.getName().startsWith(".") && new File(one, Manifest.FILE).isFile()) {
                found.add(Bundle.read(one));
            }
        }
        return found;
    }

    /** The bundle of that name (its ending may be left out), checked: every file's size and SHA-256. */
    synchronized Bundle open(String name) throws EdgeException {
        unpack();
        List<String> known = new ArrayList<String>();
        for (Bundle bundle : list()) {
            String own = bundle.folder.getName();
            if (own.equals(name) || own.equals(name + ".edge")) {
                return Bundle.open(bundle.folder, programs);
            }
            known.add(own);
        }
        throw new EdgeException("the app has no bundle '" + name + "': it has " + (known.isEmpty() ? "none" : Text.join(", ", known)) + ".");
    }

    synchronized Bundle unzip(InputStream stream, String name) throws EdgeException {
        return Importer.unzip(stream, folder, name, programs);
    }

    synchronized void remove(Bundle bundle) {
        Text.delete(bundle.folder);
    }

    /** Whether it came with the app, and so comes back when it is removed. */
    boolean packaged(Bundle bundle) {
        try {
            return Arrays.asList(assets.list(ASSETS)).contains(bundle.folder.getName());
        } catch (IOException error) {
            return false;
        }
    }

    /** Copies what came with the app where files can be mapped, unless the same is there. */
    private void unpack() throws EdgeException {
        try {
            for (String name : assets.list(ASSETS)) {
                String root = ASSETS + "/" + name;
                byte[] manifest = bytes(root + "/" + Manifest.FILE);
                File place = new File(folder, name), known = new File(place, Manifest.FILE);
                if (known.isFile() && Arrays.equals(Text.readAll(known), manifest)) {
                    continue;
                }
                File staging = new File(folder, ".unpacking-" + name);
                Text.delete(staging);
                copy(root, staging);
                Text.delete(place);
                if (!staging.renameTo(place)) {
                    throw new IOException(place + " cannot be made");
                }
            }
        } catch (IOException error) {
            throw new EdgeException("the app's bundles cannot be unpacked (" + error.getMessage() + "): free some space and start it again.", error);
        }
    }

    private void copy(String from, File to) throws IOException {
        String[] inside = assets.list(from);
        if (inside.length == 0) {
            to.getParentFile().mkdirs();
            try (InputStream in = assets.open(from); FileOutputStream out = new FileOutputStream(to)) {
                Text.copy(in, out, Long.MAX_VALUE);
            }
            return;
        }
        to.mkdirs();
        for (String name : inside) {
            copy(from + "/" + name, new File(to, name));
        }
    }

    private byte[] bytes(String asset) throws IOException {
        try (InputStream in = assets.open(asset)) {
            return Text.readAll(in, Integer.MAX_VALUE);
        }
    }
}
