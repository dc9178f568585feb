package edge.core;

import java.io.File;
import java.io.IOException;
import java.text.Normalizer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Text to token ids and back by a tokenizer.json: byte-level BPE with an NFC normalizer and one splitting pattern, which is what
 * the demo PLM and Qwen's family have. Anything else in the file is refused, since ids would come out wrong.
 */
public final class Tokenizer {
    public static final String FILE = "tokenizer.json";
    private static final String TURN_BEGINS = "<|im_start|>";
    private static final String TURN_ENDS = "<|im_end|>";
    private static final String END_OF_TEXT = "<|endoftext|>";

    private final Map<String, Integer> ids = new HashMap<String, Integer>();
    private final Map<Integer, String> tokens = new HashMap<Integer, String>();
    private final Map<String, Integer> added = new HashMap<String, Integer>();
    private final Map<String, Integer> ranks = new HashMap<String, Integer>();
    private final Pattern pieces;
    private final boolean composes;

    public static Tokenizer read(File file) throws EdgeException {
        try {
            return new Tokenizer(new JSONObject(Text.read(file)));
        } catch (IOException error) {
            throw new EdgeException(file.getName() + " cannot be read (" + error.getMessage() + "): export the bundle again.", error);
        } catch (JSONException error) {
            throw new EdgeException(file.getName() + " is not a tokenizer.json (" + error.getMessage() + "): export the bundle again.", error);
        }
    }

    private Tokenizer(JSONObject file) throws JSONException, EdgeException {
        JSONObject model = file.getJSONObject("model");
        need(model.optString("type", "BPE").equals("BPE") && model.isNull("dropout") && model.isNull("unk_token"), "its model");
        need(blank(model, "continuing_subword_prefix") && blank(model, "end_of_word_suffix"), "its model's affixes");
        need(!model.optBoolean("byte_fallback") && !model.optBoolean("ignore_merges"), "its model's fallbacks");
        composes = !file.isNull("normalizer");
        need(!composes || file.getJSONObject("normalizer").getString("type").equals("NFC"), "its normalizer");
        pieces = Pattern.compile(pattern(splitter(file)), Pattern.UNICODE_CASE);
        JSONObject vocabulary = model.getJSONObject("vocab");
        for (Iterator<String> names = vocabulary.keys(); names.hasNext();) {
            String name = names.next();
            ids.put(name, vocabulary.getInt(name));
        }
        JSONArray merges = model.getJSONArray("merges");
        for (int rank = 0; rank < merges.length(); rank++) {
            JSONArray pair = merges.optJSONArray(rank);
            ranks.put(pair == null ? merges.getString(rank) : pair.getString(0) + " " + pair.getString(1), rank);
        }
        for (JSONObject token : Manifest.objects(file.getJSONArray("added_tokens"))) {
            need(!token.optBoolean("single_word") && !token.optBoolean("lstrip") && !token.optBoolean("rstrip") && !token.optBoolean("normalized"), "its added tokens");
            added.put(token.getString("content"), token.getInt("id"));
        }
        ids.putAll(added);
        for (Map.Entry<String, Integer> token : ids.entrySet()) {
            tokens.put(token.getValue(), token.getKey());
        }
    }

    private static boolean blank(JSONObject object, String name) {
        return object.isNull(name) || object.optString(name).isEmpty();
    }

    private static void need(boolean known, String what) throws EdgeException {
        if (!known) {
            throw new EdgeException("the tokenizer is of a kind that this app does not know (" + what + "): run the bundle with edge.");
        }
    }

    /** The pattern of the one Split that stands before ByteLevel. */
    private static String splitter(JSONObject file) throws JSONException, EdgeException {
        JSONObject pre = file.getJSONObject("pre_tokenizer");
        need(pre.getString("type").equals("Sequence"), "its pre-tokenizer");
        JSONArray steps = pre.getJSONArray("pretokenizers");
        need(steps.length() == 2, "its pre-tokenizer's steps");
        JSONObject split = steps.getJSONObject(0), bytes = steps.getJSONObject(1);
        need(split.getString("type").equals("Split") && split.getString("behavior").equals("Isolated") && !split.optBoolean("invert"), "how it splits");
        need(bytes.getString("type").equals("ByteLevel") && !bytes.optBoolean("add_prefix_space") && !bytes.optBoolean("use_regex", true), "its bytes");
        return split.getJSONObject("pattern").getString("Regex");
    }

    /** Java's \s is ASCII's and Android's Unicode's: what it means is written out, so that both split alike. */
    static String pattern(String regex) {
        String space = "\\t\\n\\x0B\\f\\r\\x85\\p{Z}";
        StringBuilder out = new StringBuilder();
        boolean inside = false;
        for (int at = 0; at < regex.length(); at++) {
            char one = regex.charAt(at);
            if (one == '\\' && at + 1 < regex.length()) {
                char next = regex.charAt(++at);
                if (next == 's') {
                    out.append(inside ? space : "[" + space + "]");
                } else if (next == 'S' && !inside) {
                    out.append("[^" + space + "]");
                } else {
                    out.append(one).append(next);
                }
                continue;
            }
            inside = one == '[' || (inside && one != ']');
            out.append(one);
        }
        return out.toString();
    }

    /** Ids of {@code text}; special tokens that it spells out count as such. */
    public List<Integer> encode(String text) {
        List<Integer> out = new ArrayList<Integer>();
        int from = 0;
        while (from < text.length()) {
            int at = -1;
            String special = null;
            for (String token : added.keySet()) {
                int found = text.indexOf(token, from);
                if (found >= 0 && (at < 0 || found < at || (found == at && token.length() > special.length()))) {
                    at = found;
                    special = token;
                }
            }
            plain(text.substring(from, special == null ? text.length() : at), out);
            if (special == null) {
                break;
            }
            out.add(added.get(special));
            from = at + special.length();
        }
        return out;
    }

    /** A user's turn in ChatML and the beginning of the answer. What the text spells out stays plain text. */
    public List<Integer> userTurn(String text) throws EdgeException {
        if (!added.containsKey(TURN_BEGINS) || !added.containsKey(TURN_ENDS)) {
            throw new EdgeException("this model's tokenizer has no ChatML turns, so it cannot chat: let it go on from a text.");
        }
        List<Integer> out = encode(TURN_BEGINS + "user\n");
        plain(text, out);
        out.addAll(encode(TURN_ENDS + "\n" + TURN_BEGINS + "assistant\n"));
        return out;
    }

    /** Whether {@code id} ends a text: the end of one, or of a turn. */
    public boolean ends(int id) {
        String token = tokens.get(id);
        return END_OF_TEXT.equals(token) || TURN_ENDS.equals(token);
    }

    /** The vocabulary's spelling of an id, or null. */
    String token(int id) {
        return tokens.get(id);
    }

    private void plain(String text, List<Integer> out) {
        if (text.isEmpty()) {
            return;
        }
        String composed = composes ? Normalizer.normalize(text, Normalizer.Form.NFC) : text;
        Matcher piece = pieces.matcher(composed);
        int from = 0;
        while (piece.find()) {
            if (piece.start() > from) {
                merged(composed.substring(from, piece.start()), out);
            }
            merged(piece.group(), out);
            from = piece.end();
        }
        merged(composed.substring(from), out);
    }

    /** One piece: its bytes as letters, then pairs are joined, the earliest rule first, from left to right. */
    private void merged(String piece, List<Integer> out) {
        List<String> parts = new ArrayList<String>();
        for (byte one : piece.getBytes(Text.UTF8)) {
            parts.add(ByteLetters.letter(one));
        }
        while (parts.size() > 1) {
            int best = -1, lowest = Integer.MAX_VALUE;
            for (int at = 0; at + 1 < parts.size(); at++) {
                Integer rank = ranks.get(parts.get(at) + " " + parts.get(at + 1));
                if (rank != null && rank < lowest) {
                    lowest = rank;
                    best = at;
                }
            }
            if (best < 0) {
                break;
            }
            parts.set(best, parts.get(best) + parts.remove(best + 1));
        }
        for (String part : parts) {
            Integer id = ids.get(part);
            if (id != null) { // without an unknown token what the vocabulary lacks is left out
                out.add(id);
            }
        }
    }
}
