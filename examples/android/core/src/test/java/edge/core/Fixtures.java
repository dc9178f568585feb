package edge.core;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** What edge's Python computed for these tests, just now (tests/test_android.py): JSON and .npz files in one folder. */
final class Fixtures {
    private Fixtures() {}

    static File file(String name) {
        File found = new File(System.getProperty("edge.fixtures", ""), name);
        if (!found.exists()) {
            throw new IllegalStateException(found + " is not there: run tests/test_android.py, which makes the numbers to compare with");
        }
        return found;
    }

    static JSONObject object(String name) throws IOException, JSONException {
        return new JSONObject(Text.read(file(name)));
    }

    static List<JSONObject> cases(String name) throws IOException, JSONException {
        return Manifest.objects(new JSONArray(Text.read(file(name))));
    }

    static List<Integer> integers(JSONArray array) throws JSONException {
        List<Integer> found = new ArrayList<Integer>();
        for (int index = 0; index < array.length(); index++) {
            found.add(array.getInt(index));
        }
        return found;
    }

    static double[] doubles(JSONArray array) throws JSONException {
        double[] found = new double[array.length()];
        for (int index = 0; index < found.length; index++) {
            found[index] = array.isNull(index) ? Double.NaN : array.getDouble(index);
        }
        return found;
    }

    static float[] floats(JSONArray array) throws JSONException {
        float[] found = new float[array.length()];
        for (int index = 0; index < found.length; index++) {
            found[index] = (float) array.getDouble(index);
        }
        return found;
    }
}
