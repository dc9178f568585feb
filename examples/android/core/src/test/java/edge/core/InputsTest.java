package edge.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** The memory of an engine inside the app: as of a program that is asked over its streams. */
public final class InputsTest {
    private static JSONObject entry(String name, String... tensors) throws Exception {
        JSONArray inputs = new JSONArray();
        for (String tensor : tensors) {
            inputs.put(new JSONObject().put("name", tensor.split(":")[0]).put("dtype", "int64").put("shape", new JSONArray().put(Integer.parseInt(tensor.split(":")[1]))));
        }
        return new JSONObject().put("name", name).put("artifact", "a").put("method", "m").put("samples", 1).put("inputs", inputs).put("outputs", new JSONArray());
    }

    @Test
    public void whatIsTheSameIsSharedAndStays() throws Exception {
        JSONObject text = new JSONObject(Text.read(Fixtures.file("tiny.edge/manifest.json")));
        text.put("entries", new JSONArray().put(entry("prefill", "tokens:4", "cache:8")).put(entry("decode", "tokens:1", "cache:8")));
        Inputs inputs = new Inputs(Manifest.parse(text.toString()));
        inputs.write(new Call("prefill").set("tokens", Tensor.ofLongs(new long[] {1, 2, 3, 4}, 4)).write("cache", 16, Tensor.ofLongs(new long[] {7}, 1).bytes()));
        assertEquals(7, inputs.bytes("decode", "cache").getLong(16));
        assertEquals(0, inputs.bytes("decode", "tokens").getLong(0));
        inputs.write(new Call("decode").write("cache", 56, Tensor.ofLongs(new long[] {9}, 1).bytes()));
        assertEquals(9, inputs.bytes("prefill", "cache").getLong(56));
        assertEquals(7, inputs.bytes("prefill", "cache").getLong(16));
        try {
            inputs.write(new Call("decode").set("tokens", Tensor.ofLongs(new long[] {5}, 1)).write("cache", 60, new byte[8]));
            fail("written");
        } catch (EdgeException error) {
            assertTrue(error.getMessage(), error.getMessage().contains("8 from 60 on do not fit"));
        }
        assertEquals(0, inputs.bytes("decode", "tokens").getLong(0));
    }
}
