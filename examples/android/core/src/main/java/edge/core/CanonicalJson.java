package edge.core;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * JSON without blanks and with sorted keys, numbers and strings as they are written: what a hash of a model's identity is
 * made of (edge.families.interformer.features.identity). A parser that reads numbers as values would not write 1e-6 again.
 */
final class CanonicalJson {
    private final String text;
    private int at;

    private CanonicalJson(String text) {
        this.text = text;
    }

    /** The same for all bundles of one model at one size, whatever their runtime, scheme and target. */
    static String identity(Bundle bundle) throws EdgeException {
        try {
            Map<String, String> fields = new CanonicalJson(Text.read(new File(bundle.folder, Manifest.FILE))).fields();
            List<String> facts = new ArrayList<String>();
            for (String name : new String[] {"family", "config", "checkpoint_sha256", "random_seed"}) {
                facts.add(fields.get('"' + name + '"'));
            }
            return Text.sha256(("[" + Text.join(",", facts) + "]").getBytes(Text.UTF8));
        } catch (IOException error) {
            throw new EdgeException("the bundle's manifest cannot be read (" + error.getMessage() + "): import it again.", error);
        }
    }

    static String of(String json) {
        return new CanonicalJson(json).value();
    }

    private String value() {
        blanks();
        char first = text.charAt(at);
        if (first == '{') {
            List<String> members = new ArrayList<String>();
            for (Map.Entry<String, String> field : fields().entrySet()) {
                members.add(field.getKey() + ":" + field.getValue());
            }
            return "{" + Text.join(",", members) + "}";
        }
        if (first == '[') {
            List<String> items = new ArrayList<String>();
            at++;
            for (blanks(); text.charAt(at) != ']'; separator()) {
                items.add(value());
            }
            at++;
            return "[" + Text.join(",", items) + "]";
        }
        return first == '"' ? string() : word();
    }

    /** An object's members by their quoted names, in order. */
    private Map<String, String> fields() {
        blanks();
        Map<String, String> fields = new TreeMap<String, String>();
        at++;
        for (blanks(); text.charAt(at) != '}'; separator()) {
            String name = string();
            blanks();
            at++; // the colon
            fields.put(name, value());
        }
        at++;
        return Collections.unmodifiableMap(fields);
    }

    private void separator() {
        blanks();
        if (text.charAt(at) == ',') {
            at++;
            blanks();
        }
    }

    private void blanks() {
        while (at < text.length() && text.charAt(at) <= ' ') {
            at++;
        }
    }

    private String string() {
        int start = at++;
        while (text.charAt(at) != '"') {
            at += text.charAt(at) == '\\' ? 2 : 1;
        }
        return text.substring(start, ++at);
    }

    private String word() {
        int start = at;
        while (at < text.length() && ",]}".indexOf(text.charAt(at)) < 0 && text.charAt(at) > ' ') {
            at++;
        }
        return text.substring(start, at);
    }
}
