package edge.core;

import java.util.ArrayList;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** FMViT: a picture's likeliest classes, as edge.families.fmvit.classify finds them. */
public final class Classifier {
    /** One class: its name, and how sure the model is of it, from 0 to 1. */
    public static final class Guess {
        public final String label;
        public final double probability;

        Guess(String label, double probability) {
            this.label = label;
            this.probability = probability;
        }
    }

    private final Model model;
    private final int size;
    private final double crop;
    private final float[] mean;
    private final float[] deviation;
    private final JSONArray labels;

    public Classifier(Bundle bundle, Model model) throws EdgeException {
        this.model = model;
        try {
            JSONObject config = bundle.manifest.config;
            size = config.getInt("image_size");
            crop = config.getDouble("crop");
            mean = floats(config.getJSONArray("mean"));
            deviation = floats(config.getJSONArray("std"));
            labels = config.optJSONArray("labels");
        } catch (JSONException error) {
            throw new EdgeException("the bundle's config is not that of a picture classifier (" + error.getMessage() + "): export it again.", error);
        }
    }

    private static float[] floats(JSONArray values) throws JSONException {
        float[] floats = new float[values.length()];
        for (int index = 0; index < floats.length; index++) {
            floats[index] = (float) values.getDouble(index);
        }
        return floats;
    }

    /** What the model takes of a picture, [1, 3, size, size]. */
    Tensor input(Picture picture) {
        return picture.square(size, crop).normalised(255f, mean, deviation, size, size);
    }

    public List<Guess> classify(Picture picture, int top) throws EdgeException {
        return guesses(model.run(new Call("classify").set("image", input(picture))).get("logits").floats(), top);
    }

    private List<Guess> guesses(float[] logits, int top) {
        double[] chances = Scores.softmax(logits);
        Integer[] order = Scores.order(chances);
        List<Guess> guesses = new ArrayList<Guess>();
        for (int rank = 0; rank < Math.min(top, order.length); rank++) {
            String label = labels == null || labels.length() == 0 ? "class " + order[rank] : labels.optString(order[rank]);
            guesses.add(new Guess(label, chances[order[rank]]));
        }
        return guesses;
    }

    /** The guesses for a stored sample of the bundle. */
    public List<Guess> classify(Tensor input, int top) throws EdgeException {
        return guesses(model.run(new Call("classify").set("image", input)).get("logits").floats(), top);
    }

    /** A sample's picture, for the screen. */
    public Picture picture(Tensor input) {
        return Pictures.denormalised(input, 255f, mean, deviation);
    }
}
