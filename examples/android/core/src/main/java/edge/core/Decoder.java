package edge.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * A language model's two entry points over one latent cache, as edge.families.plm.decoder does it: the prompt by chunks
 * through prefill (token by token where the bundle has none), each later token through decode. The caches stay in the model;
 * what comes back of a token is a row for each layer, which goes with the next call.
 */
public final class Decoder {
    private static final String PREFILL = "prefill";
    private static final String DECODE = "decode";

    private final Model model;
    private final List<TensorSpec> caches = new ArrayList<TensorSpec>();
    private final boolean prefills;
    private final int chunk;
    public final int context;
    private int position;
    private Call pending;

    public Decoder(Manifest manifest, Model model) throws EdgeException {
        this.model = model;
        for (TensorSpec spec : manifest.entry(DECODE).inputs) {
            if (spec.name.startsWith("cache")) {
                caches.add(spec);
            }
        }
        if (caches.isEmpty()) {
            throw new EdgeException("the bundle's decode has no cache, so it is no language model that this app knows: export plm.");
        }
        context = caches.get(0).shape()[1];
        prefills = manifest.has(PREFILL);
        chunk = prefills ? manifest.entry(PREFILL).inputs.get(0).size() : 1;
    }

    public int position() {
        return position;
    }

    /** Begins a new sequence; the rows of the last one are overwritten as it grows. */
    public void reset() {
        position = 0;
    }

    /** Appends {@code tokens}, at least one, and gives the logits of what follows. */
    public float[] last(List<Integer> tokens) throws EdgeException {
        if (position + tokens.size() > context) {
            throw new EdgeException(tokens.size() + " tokens after " + position + " are more than the context of " + context
                    + ": start anew with a shorter text.");
        }
        float[] logits = new float[0];
        for (int from = 0; from < tokens.size(); from += chunk) {
            logits = advance(tokens.subList(from, Math.min(from + chunk, tokens.size())));
        }
        return logits;
    }

    private float[] advance(List<Integer> tokens) throws EdgeException {
        int count = tokens.size();
        boolean one = count == 1;
        long[] ids = new long[one ? 1 : chunk];
        for (int at = 0; at < count; at++) {
            ids[at] = tokens.get(at); // what pads a chunk is seen by no token before it
        }
        Call call = new Call(one ? DECODE : PREFILL);
        call.set("tokens", Tensor.ofLongs(ids, ids.length)).set("position", Tensor.ofLongs(new long[] {position}, 1));
        if (pending != null) {
            call.parts.addAll(pending.parts);
        }
        Answer answer = model.run(call.want(Arrays.asList("logits", "rows")));
        pending = rows(answer.get("rows"), count);
        position += count;
        float[] logits = answer.get("logits").floats();
        int width = logits.length / ids.length;
        return Arrays.copyOfRange(logits, (count - 1) * width, count * width);
    }

    /** The first {@code count} new rows of each layer, to be written behind the others. */
    private Call rows(Tensor found, int count) {
        Call parts = new Call("");
        int[] shape = found.shape(); // [layers, tokens, values]
        int row = found.bytes().length / (shape[0] * shape[1]);
        for (int layer = 0; layer < shape[0]; layer++) {
            int from = layer * shape[1] * row;
            parts.write(caches.get(layer).name, position * row, Arrays.copyOfRange(found.bytes(), from, from + count * row));
        }
        return parts;
    }
}
