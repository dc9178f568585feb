package edge.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Before;
import org.junit.Test;

/** Real bundles: this JVM starts the programs that edge exported for this machine, and gets what edge's Python API got. */
public final class BundlesTest {
    private JSONObject told;

    @Before
    public void readWhatPythonFound() throws Exception {
        told = Fixtures.object("models.json");
    }

    private Bundle bundle(String name) throws Exception {
        return Bundle.open(new File(told.getJSONObject("bundles").getString(name)), null);
    }

    /** Here programs may be started from where they lie: the one for this machine's CPU, which a phone's bundle has beside its own. */
    private static final Engine HERE = new Engine() {
        @Override
        public boolean takes(Manifest manifest) {
            return manifest.runtime.equals("static");
        }

        @Override
        public Model open(Bundle bundle, int threads) throws EdgeException {
            String place = bundle.lists(Bundle.HOST + "model") ? Bundle.HOST : "";
            String weights = bundle.lists(place + "weights.bin") ? place + "weights.bin" : "weights.bin";
            File program = bundle.file(place + "model");
            assertTrue(program.canExecute() || program.setExecutable(true));
            return new ChildModel(program, bundle.file(weights), threads);
        }
    };

    private static Model open(Bundle bundle) throws Exception {
        return HERE.open(bundle, 1);
    }

    @Test
    public void everySampleGivesWhatPythonGot() throws Exception {
        Map<String, Tensor> outputs = Npz.read(Fixtures.file("outputs.npz"), "");
        JSONObject bundles = told.getJSONObject("bundles");
        int compared = 0;
        for (Iterator<String> names = bundles.keys(); names.hasNext();) {
            String name = names.next();
            Bundle bundle = bundle(name);
            try (Model model = open(bundle)) {
                assertTrue(model.pid() > 0 && new Memory(model.pid()).resident() > 0);
                for (Manifest.Entry entry : bundle.manifest.entries) {
                    List<Bundle.Sample> samples = bundle.samples(entry.name);
                    for (int index = 0; index < samples.size(); index++) {
                        Answer answer = model.run(new Call(entry.name).set(samples.get(index).inputs));
                        for (TensorSpec output : entry.outputs) {
                            String key = name + "/" + entry.name + "/" + index + "/" + output.name;
                            assertArrayEquals(key, outputs.get(key).floats(), answer.get(output.name).floats(), 1e-5f);
                            compared++;
                        }
                    }
                }
            }
        }
        assertEquals(outputs.size(), compared);
    }

    @Test
    public void plmWritesTheSameText() throws Exception {
        Bundle bundle = bundle("plm");
        try (Model model = open(bundle)) {
            Chat chat = new Chat(bundle, model);
            for (JSONObject one : Manifest.objects(told.getJSONArray("plm"))) {
                final StringBuilder text = new StringBuilder();
                List<Integer> tokens = chat.run(one.getString("prompt"), one.getBoolean("chat"), 24, new Sampler(0, 1, 0), new Chat.Listener() {
                    @Override
                    public boolean heard(String piece, Chat.Timing timing) {
                        text.append(piece);
                        return true;
                    }
                });
                assertEquals(Fixtures.integers(one.getJSONArray("tokens")), tokens);
                assertEquals(one.getString("text"), text.toString());
            }
        }
    }

    @Test
    public void tspulseScoresTheSame() throws Exception {
        Bundle bundle = bundle("tspulse");
        try (Model model = open(bundle)) {
            Csv table = Csv.parse("series.csv", Text.readAll(Fixtures.file("series.csv")));
            double[] score = new Anomaly(bundle, model, 32).score(table, 8, new Anomaly.Progress() {
                @Override
                public boolean scored(int done, int all) {
                    return true;
                }
            });
            // Python wrote six digits.
            assertArrayEquals(Fixtures.doubles(told.getJSONObject("tspulse").getJSONArray("scores")), score, 2e-5);
        }
    }

    @Test
    public void interformerCutsOutTheSame() throws Exception {
        Bundle bundle = bundle("interformer");
        JSONArray names = told.getJSONObject("interformer").getJSONArray("pictures");
        List<JSONObject> clicks = Manifest.objects(told.getJSONObject("interformer").getJSONArray("clicks"));
        Map<String, Tensor> masks = Npz.read(Fixtures.file("masks.npz"), "");
        try (Model model = open(bundle)) {
            for (int index = 0; index < names.length(); index++) {
                String name = names.getString(index);
                Encoded encoded = Encoded.read(Fixtures.file(name + "-features.npz"), bundle);
                Interaction going = new Interaction(bundle, model, encoded);
                for (int step = 0; step < clicks.size(); step++) {
                    JSONObject click = clicks.get(step);
                    going.click(click.getInt("x"), click.getInt("y"), click.getBoolean("positive"));
                    same(name + " " + step, masks.get(name + "/mask" + step), going.mask());
                }
                going.undo();
                same(name + " undone", masks.get(name + "/mask" + (clicks.size() - 2)), going.mask());
            }
        }
    }

    /** Pixels where the margin is 0 up to rounding may fall on either side. */
    private static void same(String what, Tensor wanted, boolean[] mask) {
        assertEquals(what, wanted.size(), mask.length);
        int differ = 0;
        for (int at = 0; at < mask.length; at++) {
            differ += mask[at] == (wanted.integer(at) != 0) ? 0 : 1;
        }
        assertTrue(what + ": " + differ + " pixels differ", differ <= 2);
    }

    @Test
    public void featuresOfAnotherModelAreRefused() throws Exception {
        try {
            Encoded.read(Fixtures.file("small-features.npz"), bundle("fmvit"));
            fail("read");
        } catch (EdgeException error) {
            assertTrue(error.getMessage(), error.getMessage().contains("by another model"));
        }
    }

    @Test
    public void fmvitSeesTheSame() throws Exception {
        Bundle bundle = bundle("fmvit");
        Tensor pixels = Npz.read(Fixtures.file("digit.npz"), "").get("picture");
        try (Model model = open(bundle)) {
            List<Classifier.Guess> guesses = new Classifier(bundle, model).classify(new Picture(pixels.shape()[1], pixels.shape()[0], pixels.bytes()), 5);
            List<JSONObject> wanted = Manifest.objects(told.getJSONArray("fmvit"));
            assertEquals(5, guesses.size());
            for (int rank = 0; rank < 5; rank++) {
                assertEquals(wanted.get(rank).getString("label"), guesses.get(rank).label);
                assertEquals(wanted.get(rank).getDouble("probability"), guesses.get(rank).probability, 1e-5);
            }
        }
    }

    @Test
    public void inputsStayAndWhatDoesNotFitIsRefused() throws Exception {
        Bundle bundle = bundle("fmvit");
        try (Model model = open(bundle)) {
            Map<String, Tensor> inputs = bundle.samples("classify").get(0).inputs;
            float[] first = model.run(new Call("classify").set(inputs)).get("logits").floats();
            Answer again = model.run(new Call("classify").times(3));
            assertEquals(3, again.nanos.length);
            assertArrayEquals(first, again.get("logits").floats(), 0f);
            Call[] wrong = {new Call("nothing"), new Call("classify").write("nothing", 0, new byte[4]), new Call("classify").write("image", 4, inputs.get("image").bytes())};
            for (Call call : wrong) {
                try {
                    model.run(call);
                    fail("it ran");
                } catch (EdgeException error) {
                    // Told without a word to the program, which goes on.
                }
            }
            assertArrayEquals(first, model.run(new Call("classify")).get("logits").floats(), 0f);
            try {
                model.run(new Call("classify").want(Arrays.asList("nothing")));
                fail("it ran");
            } catch (EdgeException error) {
                assertTrue(error.getMessage(), error.getMessage().contains("nothing"));
            }
        }
    }

    @Test
    public void aModelThatIsClosedMeanwhileIsTold() throws Exception {
        Bundle bundle = bundle("fmvit");
        Model model = open(bundle);
        model.close();
        try {
            model.run(new Call("classify").set(bundle.samples("classify").get(0).inputs));
            fail("it ran");
        } catch (EdgeException error) {
            assertTrue(error.getMessage(), error.getMessage().contains("ended"));
        }
    }

    @Test
    public void theAppStartsOnlyItsOwnPrograms() throws Exception {
        Bundle bundle = bundle("fmvit");
        final String sha256 = bundle.record(bundle.manifest.entries.get(0).artifact).sha256;
        StaticEngine without = new StaticEngine(new Programs() {
            @Override
            public File find(String wanted) {
                assertEquals(sha256, wanted);
                return null;
            }
        });
        assertTrue(without.takes(bundle.manifest));
        try {
            without.open(bundle, 1);
            fail("it was started");
        } catch (EdgeException error) {
            assertTrue(error.getMessage(), error.getMessage().contains("this app has no program for"));
        }
    }

    /** tests/test_android.py reads what this wrote. */
    @Test
    public void aProfileIsWritten() throws Exception {
        File folder = Fixtures.file("models.json").getParentFile();
        for (String name : new String[] {"fmvit", "plm"}) {
            Bundle bundle = bundle(name);
            Headless headless = new Headless(folder, name + "-profile");
            Profiler.Settings settings = new Profiler.Settings(1, 2, 40);
            List<Engine> engines = Collections.singletonList(HERE);
            String said = headless.run(bundle, engines, new Machine(new File("/")), "0.1.0", settings, "2026-01-02T03:04:05+00:00", new Profiler.Progress() {
                @Override
                public boolean at(String entry, int done, int all) {
                    return true;
                }
            });
            assertTrue(said, said.startsWith("wrote "));
        }
    }
}
