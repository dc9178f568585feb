package edge.core;

/** Something that was asked for cannot be done: one sentence that says what is wrong and what to do next. */
public final class EdgeException extends Exception {
    private static final long serialVersionUID = 1L;

    public EdgeException(String sentence) {
        super(sentence);
    }

    public EdgeException(String sentence, Throwable cause) {
        super(sentence, cause);
    }
}
