package edge.core;

import java.util.ArrayDeque;
import java.util.Deque;

/** Clicks one after the other on one picture, and their mask (edge.families.interformer.interact). Clicks are in the user's own pixels. */
public final class Interaction {
    /** Before a click: the label map of the exported size, and the mask of the user's own size. */
    private static final class State {
        final LabelMap labels;
        final boolean[] mask;

        State(LabelMap labels, boolean[] mask) {
            this.labels = labels;
            this.mask = mask;
        }
    }

    private final Model model;
    private final Encoded encoded;
    private final int radius;
    private final Deque<State> before = new ArrayDeque<State>();
    private State now;

    public Interaction(Bundle bundle, Model model, Encoded encoded) {
        this.model = model;
        this.encoded = encoded;
        radius = bundle.manifest.config.optInt("click_radius", 3);
        now = new State(LabelMap.unknown(encoded.paddedHeight, encoded.paddedWidth), new boolean[encoded.height * encoded.width]);
    }

    /** [height, width] of the user's own picture. */
    public boolean[] mask() {
        return now.mask.clone();
    }

    public int clicks() {
        return before.size();
    }

    /** The mask after a click on a pixel, on the object or beside it. Returns the milliseconds that the model took. */
    public double click(int x, int y, boolean positive) throws EdgeException {
        if (x < 0 || y < 0 || x >= encoded.width || y >= encoded.height) {
            throw new EdgeException("the click " + x + "," + y + " lies outside the image of " + encoded.width + "x" + encoded.height + " pixels: touch the picture.");
        }
        int seenWidth = encoded.picture.width, seenHeight = encoded.picture.height;
        // The pixel of the scaled picture that the middle of the clicked one falls into.
        int column = (int) ((x + 0.5) * seenWidth / encoded.width), row = (int) ((y + 0.5) * seenHeight / encoded.height);
        LabelMap labels = now.labels.withClick(column, row, positive, radius);
        Call call = new Call("click").set("shares", labels.shares());
        // The picture's features stay in the model from one click to the next; the first brings them.
        if (before.isEmpty()) {
            call.set(encoded.features);
        }
        Answer answer = model.run(call);
        Tensor logits = answer.get("logits");
        int height = logits.shape()[2], width = logits.shape()[3];
        float[] both = logits.floats();
        float[] margin = new float[height * width];
        for (int at = 0; at < margin.length; at++) {
            margin[at] = both[margin.length + at] - both[at];
        }
        // What decides is the margin; resizing it is resizing both logits.
        float[] whole = Resize.bilinear(margin, height, width, encoded.paddedHeight, encoded.paddedWidth);
        float[] own = cut(whole, encoded.paddedWidth, seenHeight, seenWidth);
        if (seenHeight != encoded.height || seenWidth != encoded.width) {
            own = Resize.bilinear(own, seenHeight, seenWidth, encoded.height, encoded.width);
        }
        before.push(now);
        now = new State(labels.withPrediction(positive(whole)), positive(own));
        return answer.nanos[answer.nanos.length - 1] / 1e6;
    }

    public void undo() {
        if (!before.isEmpty()) {
            now = before.pop();
        }
    }

    public void reset() {
        while (!before.isEmpty()) {
            undo();
        }
    }

    private static float[] cut(float[] map, int stride, int height, int width) {
        float[] part = new float[height * width];
        for (int row = 0; row < height; row++) {
            System.arraycopy(map, row * stride, part, row * width, width);
        }
        return part;
    }

    private static boolean[] positive(float[] values) {
        boolean[] mask = new boolean[values.length];
        for (int at = 0; at < mask.length; at++) {
            mask[at] = values[at] > 0;
        }
        return mask;
    }
}
