package edge.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.json.JSONObject;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The demo PLM's tokenizer.json, against the tokenizers library on the same texts. */
public final class TokenizerTest {
    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void textsGiveTheSameIds() throws Exception {
        Tokenizer tokenizer = Tokenizer.read(Fixtures.file("tokenizer.json"));
        List<JSONObject> cases = Fixtures.cases("texts.json");
        assertTrue(cases.size() > 100);
        for (JSONObject one : cases) {
            String text = one.getString("text");
            assertEquals(text, Fixtures.integers(one.getJSONArray("ids")), tokenizer.encode(text));
            assertEquals(text, Fixtures.integers(one.getJSONArray("turn")), tokenizer.userTurn(text));
        }
    }

    @Test
    public void idsGiveTheSamePiecesOfText() throws Exception {
        Tokenizer tokenizer = Tokenizer.read(Fixtures.file("tokenizer.json"));
        for (JSONObject one : Fixtures.cases("streams.json")) {
            TextStream stream = new TextStream(tokenizer);
            List<String> pieces = new ArrayList<String>(), wanted = new ArrayList<String>();
            for (int id : Fixtures.integers(one.getJSONArray("ids"))) {
                pieces.add(stream.step(id));
            }
            for (int index = 0; index < one.getJSONArray("pieces").length(); index++) {
                wanted.add(one.getJSONArray("pieces").getString(index));
            }
            assertEquals(one.getJSONArray("ids").toString(), wanted, pieces);
        }
    }

    @Test
    public void whatIsNotKnownIsRefused() throws Exception {
        String[][] changes = {{"\"NFC\"", "\"NFKC\""}, {"\"byte_fallback\":false", "\"byte_fallback\":true"}, {"\"Isolated\"", "\"Removed\""}, {"\"BPE\"", "\"WordPiece\""}};
        String text = Text.read(Fixtures.file("tokenizer.json"));
        for (String[] change : changes) {
            assertTrue(change[0], text.contains(change[0]));
            File file = Headless.write(folder.getRoot(), "tokenizer.json", text.replace(change[0], change[1]));
            try {
                Tokenizer.read(file);
                fail(change[1]);
            } catch (EdgeException error) {
                assertTrue(error.getMessage(), error.getMessage().contains("of a kind that this app does not know"));
            }
        }
    }

    @Test
    public void blanksMeanTheSameOnEveryJava() {
        assertEquals("[\\t\\n\\x0B\\f\\r\\x85\\p{Z}]+(?![^\\t\\n\\x0B\\f\\r\\x85\\p{Z}])", Tokenizer.pattern("\\s+(?!\\S)"));
        assertEquals("[^\\t\\n\\x0B\\f\\r\\x85\\p{Z}\\p{L}]", Tokenizer.pattern("[^\\s\\p{L}]"));
    }
}
