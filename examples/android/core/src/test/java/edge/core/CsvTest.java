package edge.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.util.List;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** The same files through edge.csvfile: the same columns and values, and the same are refused. */
public final class CsvTest {
    @Test
    public void filesAreReadAsInPython() throws Exception {
        List<JSONObject> cases = Fixtures.cases("csv.json");
        int refused = 0;
        for (JSONObject one : cases) {
            String text = one.getString("text");
            Csv table;
            try {
                table = Csv.parse("it.csv", text.getBytes(Text.UTF8));
            } catch (EdgeException error) {
                assertTrue(text + " -> " + error.getMessage(), one.has("error"));
                refused++;
                // The same place is named, in whatever words.
                String where = one.getString("error").split("(?<=line \\d{1,2})\\D")[0];
                assertTrue(error.getMessage() + " / " + where, !where.contains("line") || error.getMessage().startsWith(where));
                continue;
            }
            if (one.has("error")) {
                fail(text + " was read, and edge says: " + one.getString("error"));
            }
            JSONArray names = one.getJSONArray("names"), values = one.getJSONArray("values");
            assertEquals(text, names.length(), table.names.size());
            for (int column = 0; column < names.length(); column++) {
                assertEquals(text, names.getString(column), table.names.get(column));
                assertArrayEquals(text, Fixtures.doubles(values.getJSONArray(column)), table.columns[column], 0);
            }
            for (int row = 0; row < table.rows(); row++) {
                assertEquals(text, one.getJSONArray("lines").getInt(row), table.line(row));
            }
        }
        assertTrue(refused > 5 && cases.size() - refused > 10);
    }
}
