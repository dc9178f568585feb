package edge.core;

import static org.junit.Assert.assertArrayEquals;

import java.util.Map;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** The label map through clicks and predictions, and masks at other sizes, against edge.families.interformer. */
public final class LabelMapTest {
    @Test
    public void mapsMoveAsInPython() throws Exception {
        Map<String, Tensor> arrays = Npz.read(Fixtures.file("labels.npz"), "");
        JSONArray clicks = Fixtures.object("clicks.json").getJSONArray("clicks");
        LabelMap labels = LabelMap.unknown(96, 128);
        for (int step = 0; step < clicks.length(); step++) {
            JSONObject click = clicks.getJSONObject(step);
            labels = labels.withClick(click.getInt("x"), click.getInt("y"), click.getBoolean("positive"), click.getInt("radius"));
            assertArrayEquals("click " + step, arrays.get("clicked" + step).bytes(), labels.labels());
            assertArrayEquals("shares " + step, arrays.get("shares" + step).floats(), labels.shares().floats(), 0f);
            Tensor mask = arrays.get("mask" + step);
            boolean[] inside = new boolean[mask.size()];
            for (int at = 0; at < inside.length; at++) {
                inside[at] = mask.integer(at) != 0;
            }
            labels = labels.withPrediction(inside);
            assertArrayEquals("prediction " + step, arrays.get("predicted" + step).bytes(), labels.labels());
        }
    }

    @Test
    public void logitsAreEnlargedAsInPython() throws Exception {
        Map<String, Tensor> arrays = Npz.read(Fixtures.file("labels.npz"), "");
        Tensor small = arrays.get("small");
        float[] found = Resize.bilinear(small.floats(), small.shape()[0], small.shape()[1], 96, 128);
        assertArrayEquals(arrays.get("large").floats(), found, 1e-5f);
        float[] odd = Resize.bilinear(small.floats(), small.shape()[0], small.shape()[1], 37, 61);
        assertArrayEquals(arrays.get("odd").floats(), odd, 1e-5f);
    }
}
