package edge.core;

import static org.junit.Assert.assertEquals;

import java.util.Iterator;
import org.json.JSONObject;
import org.junit.Test;

/** Percentiles as edge.measurement.Latency has them. */
public final class NumbersTest {
    @Test
    public void latenciesAreThoseOfPython() throws Exception {
        for (JSONObject one : Fixtures.cases("latencies.json")) {
            JSONObject wanted = one.getJSONObject("latency"), found = Profiler.latency(Fixtures.doubles(one.getJSONArray("durations")));
            assertEquals(wanted.length(), found.length());
            for (Iterator<String> names = wanted.keys(); names.hasNext();) {
                String name = names.next();
                assertEquals(name, wanted.getDouble(name), found.getDouble(name), 1e-9 * wanted.getDouble(name));
            }
        }
    }
}
