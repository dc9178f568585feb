package edge.core;

import java.io.ByteArrayOutputStream;

/** Takes one id after the other and gives the text that is whole so far: no half of a UTF-8 sequence. */
public final class TextStream {
    private static final char REPLACEMENT = '\ufffd';
    private final Tokenizer tokenizer;
    private final ByteArrayOutputStream pending = new ByteArrayOutputStream();

    public TextStream(Tokenizer tokenizer) {
        this.tokenizer = tokenizer;
    }

    /** An id that the tokenizer lacks (models pad their vocabularies) is shown as {@code <id>}. */
    public String step(int id) {
        String token = tokenizer.token(id);
        if (token == null) {
            return "<" + id + ">";
        }
        byte[] bytes = ByteLetters.bytes(token);
        pending.write(bytes, 0, bytes.length);
        String text = new String(pending.toByteArray(), Text.UTF8);
        if (text.isEmpty() || text.charAt(text.length() - 1) == REPLACEMENT) {
            return "";
        }
        pending.reset();
        return text;
    }
}
