package edge.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;

import org.json.JSONObject;
import org.junit.Test;

/** Softmax, order and the choice of a token, against edge.tasks.softmax and edge.families.plm.generate.choose. */
public final class ScoresTest {
    @Test
    public void chancesAreThoseOfPython() throws Exception {
        for (JSONObject one : Fixtures.cases("chances.json")) {
            double[] chances = Scores.softmax(Fixtures.floats(one.getJSONArray("logits")));
            assertArrayEquals(Fixtures.doubles(one.getJSONArray("chances")), chances, 1e-12);
            Integer[] order = Scores.order(chances);
            for (int rank = 0; rank < order.length; rank++) {
                assertEquals(one.getJSONArray("order").getInt(rank), (int) order[rank]);
            }
        }
    }

    @Test
    public void theSameDrawChoosesTheSameToken() throws Exception {
        for (JSONObject one : Fixtures.cases("draws.json")) {
            Sampler sampler = new Sampler(one.getDouble("temperature"), one.getDouble("top_p"), 0);
            assertEquals(one.toString(), one.getInt("token"), sampler.choose(Fixtures.floats(one.getJSONArray("logits")), one.getDouble("draw")));
        }
    }
}
