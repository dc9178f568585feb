package edge.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileOutputStream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.json.JSONObject;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** A bundle that edge wrote, opened, damaged in every way, and imported. */
public final class BundleTest {
    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();
    private File bundle;

    @Before
    public void copyTheBundle() throws Exception {
        bundle = new File(folder.getRoot(), "tiny.edge");
        copy(Fixtures.file("tiny.edge"), bundle);
    }

    private static void copy(File from, File to) throws Exception {
        if (from.isDirectory()) {
            to.mkdirs();
            for (File one : from.listFiles()) {
                copy(one, new File(to, one.getName()));
            }
        } else {
            write(to, Text.readAll(from));
        }
    }

    private static void write(File file, byte[] bytes) throws Exception {
        try (FileOutputStream out = new FileOutputStream(file)) {
            out.write(bytes);
        }
    }

    private void refused(String sentence) {
        try {
            Bundle.open(bundle, null);
            fail("it was opened; wanted: " + sentence);
        } catch (EdgeException error) {
            assertTrue(error.getMessage(), error.getMessage().contains(sentence));
        }
    }

    @Test
    public void whatEdgeWroteIsRead() throws Exception {
        Bundle opened = Bundle.open(bundle, null);
        JSONObject wanted = Fixtures.object("tiny.json");
        assertEquals(wanted.getString("model"), opened.manifest.model);
        assertEquals(wanted.getString("identity"), CanonicalJson.identity(opened));
        assertEquals(wanted.getString("manifest_sha256"), opened.manifestSha256);
        assertEquals(wanted.getLong("artifact_bytes"), opened.artifactBytes());
        Manifest.Entry entry = opened.manifest.entries.get(0);
        Bundle.Sample sample = opened.samples(entry.name).get(0);
        float sum = 0;
        for (float value : sample.inputs.get(entry.inputs.get(0).name).floats()) {
            sum += value;
        }
        assertEquals(wanted.getDouble("sum"), sum, 1e-4);
    }

    @Test
    public void everyDamageIsFound() throws Exception {
        for (Manifest.FileRecord record : Bundle.read(bundle).manifest.files) {
            File file = new File(bundle, record.path);
            byte[] bytes = Text.readAll(file), other = bytes.clone();
            other[other.length / 2] ^= 1;
            write(file, other);
            refused("is damaged: its file " + record.path);
            write(file, java.util.Arrays.copyOf(bytes, bytes.length - 1));
            refused("is damaged: its file " + record.path);
            file.delete();
            refused("lacks its file " + record.path);
            write(file, bytes);
        }
        Bundle.open(bundle, null);
    }

    private void changed(String from, String to) throws Exception {
        String text = Text.read(new File(bundle, Manifest.FILE));
        assertTrue(from, text.contains(from));
        write(new File(bundle, Manifest.FILE), text.replace(from, to).getBytes(Text.UTF8));
    }

    @Test
    public void pathsOutsideAreRefused() throws Exception {
        changed("\"path\": \"samples.npz\"", "\"path\": \"../samples.npz\"");
        refused("would lie outside");
    }

    @Test
    public void anotherSchemaIsRefused() throws Exception {
        changed("\"schema\": 1", "\"schema\": 2");
        refused("has schema 2 and this app reads 1");
    }

    @Test
    public void anUnknownFieldIsRefused() throws Exception {
        changed("\"schema\": 1", "\"schema\": 1, \"surprise\": true");
        refused("a field 'surprise'");
    }

    @Test
    public void aFolderWithoutManifestIsRefused() {
        assertTrue(new File(bundle, Manifest.FILE).delete());
        refused("is no bundle");
    }

    private byte[] zipped(String prefix, String extra) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ZipOutputStream zip = new ZipOutputStream(bytes)) {
            for (File file : bundle.listFiles()) {
                zip.putNextEntry(new ZipEntry(prefix + file.getName()));
                zip.write(Text.readAll(file));
                zip.closeEntry();
            }
            if (extra != null) {
                zip.putNextEntry(new ZipEntry(extra));
                zip.write(1);
                zip.closeEntry();
            }
        }
        return bytes.toByteArray();
    }

    @Test
    public void aZipIsImportedWholeOrNotAtAll() throws Exception {
        File bundles = new File(folder.getRoot(), "bundles");
        Bundle named = Importer.unzip(new ByteArrayInputStream(zipped("mine.edge/", null)), bundles, "download.zip", null);
        assertEquals("mine.edge", named.folder.getName());
        Bundle again = Importer.unzip(new ByteArrayInputStream(zipped("", null)), bundles, "..my bundle.edge.zip", null);
        assertEquals("my_bundle.edge", again.folder.getName());

        byte[] whole = zipped("mine.edge/", null);
        changed("\"size\": ", "\"size\": 1");
        String[] wrong = {"../evil", "/evil", "a/../../evil"};
        byte[][] refused = new byte[wrong.length + 3][];
        for (int index = 0; index < wrong.length; index++) {
            refused[index] = zipped("mine.edge/", wrong[index]);
        }
        refused[wrong.length] = zipped("mine.edge/", null); // its sizes are wrong now
        refused[wrong.length + 1] = java.util.Arrays.copyOf(whole, whole.length / 2);
        refused[wrong.length + 2] = "no zip".getBytes(Text.UTF8);
        for (byte[] bytes : refused) {
            try {
                Importer.unzip(new ByteArrayInputStream(bytes), bundles, "x", null);
                fail("imported");
            } catch (EdgeException error) {
                assertFalse(new File(folder.getRoot(), "evil").exists());
            }
            assertEquals(2, bundles.listFiles().length);
            Bundle.open(named.folder, null);
        }
    }
}
