package edge.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.json.JSONArray;

/** Goes on from a prompt, token by token: edge.families.plm.generate for a screen. */
public final class Chat {
    /** Hears the text as it grows, and the seconds of what was computed; says when to stop. */
    public interface Listener {
        /** Returns false to stop. */
        boolean heard(String piece, Timing timing);
    }

    /** Tokens and seconds so far; the rate is that of the tokens after the first. */
    public static final class Timing {
        public int prompt;
        public int tokens;
        public double prefillSeconds;
        public double decodeSeconds;

        public double tokensPerSecond() {
            return decodeSeconds > 0 ? (tokens - 1) / decodeSeconds : 0;
        }
    }

    private final Decoder decoder;
    private final Tokenizer tokenizer;
    private final List<Integer> ends = new ArrayList<Integer>();

    public Chat(Bundle bundle, Model model) throws EdgeException {
        decoder = new Decoder(bundle.manifest, model);
        tokenizer = Tokenizer.read(bundle.file(Tokenizer.FILE));
        Object configured = bundle.manifest.config.opt("eos_token_id");
        if (configured instanceof Integer) {
            ends.add((Integer) configured);
        } else if (configured instanceof JSONArray) {
            for (int index = 0; index < ((JSONArray) configured).length(); index++) {
                ends.add(((JSONArray) configured).optInt(index, -1));
            }
        }
    }

    public int context() {
        return decoder.context;
    }

    /** Answers {@code text}; {@code turns} writes it as a user's turn, else the model goes on from it. Returns all ids that it chose. */
    public List<Integer> run(String text, boolean turns, int most, Sampler sampler, Listener listener) throws EdgeException {
        List<Integer> prompt = turns ? tokenizer.userTurn(text) : tokenizer.encode(text);
        if (prompt.isEmpty()) {
            throw new EdgeException("there is no prompt to go on from: write some text.");
        }
        if (prompt.size() > decoder.context) {
            throw new EdgeException("the prompt is " + prompt.size() + " tokens long and the context has room for " + decoder.context + ": shorten it.");
        }
        decoder.reset();
        Timing timing = new Timing();
        timing.prompt = prompt.size();
        TextStream stream = new TextStream(tokenizer);
        List<Integer> chosen = new ArrayList<Integer>();
        long began = System.nanoTime();
        float[] logits = decoder.last(prompt);
        timing.prefillSeconds = (System.nanoTime() - began) / 1e9;
        while (true) {
            int token = sampler.choose(logits);
            chosen.add(token);
            timing.tokens = chosen.size();
            boolean end = ends.contains(token) || tokenizer.ends(token);
            if (!listener.heard(end ? "" : stream.step(token), timing) || end || chosen.size() >= most || decoder.position() == decoder.context) {
                return chosen;
            }
            long start = System.nanoTime();
            logits = decoder.last(Collections.singletonList(token));
            timing.decodeSeconds += (System.nanoTime() - start) / 1e9;
        }
    }
}
