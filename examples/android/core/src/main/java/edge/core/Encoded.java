package edge.core;

import java.io.File;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** One picture as InterFormer's encoder saw it, with all that clicks on it need: edge.families.interformer's Encoded. */
public final class Encoded {
    /** ImageNet's channel means and deviations, RGB, of values from 0 to 255. */
    static final float[] MEAN = {123.675f, 116.28f, 103.53f};
    static final float[] DEVIATION = {58.395f, 57.12f, 57.375f};

    /** What the encoder saw, without padding. */
    public final Picture picture;
    /** Height and width of the user's own picture. */
    public final int height, width;
    /** Height and width of what the model takes. */
    final int paddedHeight, paddedWidth;
    final Map<String, Tensor> features;

    Encoded(Picture picture, int height, int width, int paddedHeight, int paddedWidth, Map<String, Tensor> features) {
        this.picture = picture;
        this.height = height;
        this.width = width;
        this.paddedHeight = paddedHeight;
        this.paddedWidth = paddedWidth;
        this.features = features;
    }

    /** {@code picture} through the bundle's own `encode`. */
    public static Encoded encode(Bundle bundle, Model model, Picture picture) throws EdgeException {
        int[] shape = bundle.manifest.entry("encode").inputs.get(0).shape();
        Picture seen = picture.fitted(shape[2], shape[3]);
        Answer answer = model.run(new Call("encode").set("image", seen.normalised(1f, MEAN, DEVIATION, shape[2], shape[3])));
        return new Encoded(seen, picture.height, picture.width, shape[2], shape[3], answer.outputs);
    }

    /** A features file that `edge run ENCODER.edge --encode PICTURE -o FILE` wrote, for the bundle that clicks; another model's is refused. */
    public static Encoded read(File file, Bundle bundle) throws EdgeException {
        Map<String, Tensor> arrays = Npz.read(file, "");
        Tensor header = arrays.remove("header"), picture = arrays.remove("picture");
        if (header == null || picture == null) {
            throw new EdgeException(file.getName() + " is no features file: make one with `edge run ENCODER.edge --encode PICTURE -o FILE`.");
        }
        try {
            JSONObject said = new JSONObject(new String(header.bytes(), Text.UTF8));
            if (!said.getString("format").equals("edge interformer features") || said.getInt("version") != 1) {
                throw new EdgeException(file.getName() + " is of another version of edge: encode the picture again.");
            }
            if (!said.getString("model").equals(CanonicalJson.identity(bundle))) {
                throw new EdgeException(file.getName() + " was encoded by another model, or for another picture size, than this bundle clicks with: "
                        + "encode the picture again with the bundle that belongs to it.");
            }
            JSONArray size = said.getJSONArray("size"), padded = said.getJSONArray("padded");
            check(file, bundle.manifest.entry("click"), arrays, picture, padded);
            Picture seen = new Picture(picture.shape()[1], picture.shape()[0], picture.bytes());
            return new Encoded(seen, size.getInt(0), size.getInt(1), padded.getInt(0), padded.getInt(1), arrays);
        } catch (JSONException error) {
            throw new EdgeException(file.getName() + " is a damaged features file (" + error.getMessage() + "): encode the picture again.", error);
        }
    }

    private static void check(File file, Manifest.Entry click, Map<String, Tensor> arrays, Tensor picture, JSONArray padded) throws EdgeException, JSONException {
        int[] shape = picture.shape();
        boolean sound = picture.dtype.equals("uint8") && shape.length == 3 && shape[2] == 3 && shape[0] > 0 && shape[0] <= padded.getInt(0)
                && shape[1] > 0 && shape[1] <= padded.getInt(1) && arrays.size() == click.inputs.size() - 1;
        for (TensorSpec spec : click.inputs) {
            Tensor found = arrays.get(spec.name);
            if (spec.name.equals("shares")) {
                sound &= Arrays.equals(spec.shape(), new int[] {1, 5, padded.getInt(0) / 4, padded.getInt(1) / 4});
            } else {
                sound &= found != null && found.dtype.equals(spec.dtype) && Arrays.equals(found.shape(), spec.shape());
            }
        }
        if (!sound) {
            throw new EdgeException(file.getName() + " is a damaged features file: encode the picture again.");
        }
    }

    /** The picture of a stored sample of `encode`. */
    public static Picture picture(Tensor image) {
        return Pictures.denormalised(image, 1f, MEAN, DEVIATION);
    }

    /** A stored sample of `click`, for which the bundle has features but no picture. */
    public static Encoded sample(Bundle bundle, Bundle.Sample sample) throws EdgeException {
        Map<String, Tensor> features = new LinkedHashMap<String, Tensor>(sample.inputs);
        int[] shares = features.remove("shares").shape();
        int height = 4 * shares[2], width = 4 * shares[3];
        byte[] grey = new byte[3 * height * width];
        Arrays.fill(grey, (byte) 128);
        return new Encoded(new Picture(width, height, grey), height, width, height, width, features);
    }
}
