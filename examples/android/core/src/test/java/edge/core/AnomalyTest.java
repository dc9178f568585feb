package edge.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;

import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import org.json.JSONObject;
import org.junit.Test;

/** What becomes of windows' errors, against edge.families.tspulse.anomaly; BundlesTest runs the model itself. */
public final class AnomalyTest {
    @Test
    public void scoresAreCombinedAsInPython() throws Exception {
        Bundle bundle = Bundle.read(Fixtures.file("tspulse.edge"));
        for (JSONObject one : Fixtures.cases("anomaly.json")) {
            Anomaly anomaly = new Anomaly(bundle, null, one.getInt("aggregation"));
            double[][] series = new double[one.getJSONArray("series").length()][];
            for (int column = 0; column < series.length; column++) {
                series[column] = Anomaly.standardised(Fixtures.doubles(one.getJSONArray("series").getJSONArray(column)));
                assertArrayEquals(Fixtures.doubles(one.getJSONArray("standardised").getJSONArray(column)), series[column], 1e-9);
            }
            Map<String, double[]> raw = new LinkedHashMap<String, double[]>();
            JSONObject scores = one.getJSONObject("raw");
            for (Iterator<String> names = scores.keys(); names.hasNext();) {
                String name = names.next();
                raw.put(name, Fixtures.doubles(scores.getJSONArray(name)));
            }
            double[] combined = anomaly.combined(raw, series, one.getInt("smoothing"));
            assertArrayEquals(Fixtures.doubles(one.getJSONArray("combined")), combined, 1e-9);
            assertEquals(Fixtures.integers(one.getJSONArray("peaks")), Anomaly.peaks(combined, one.getInt("top"), one.getInt("aggregation")));
        }
    }
}
