package edge.core;

import java.util.Arrays;

/**
 * What clicks and predictions so far say about every pixel (edge.families.interformer.clicks): definitely and possibly
 * background, unknown, possibly and definitely foreground. A map is never changed: each step gives a new one.
 */
public final class LabelMap {
    static final int BACKGROUND = 0, MAYBE_BACKGROUND = 1, UNKNOWN = 2, MAYBE_FOREGROUND = 3, FOREGROUND = 4;
    private static final int VALUES = 5;
    /** Where the mask is 1: unknown becomes possible, the opposite possibility unknown; likewise where it is 0. */
    private static final int[] AFTER_OBJECT = {BACKGROUND, UNKNOWN, MAYBE_FOREGROUND, MAYBE_FOREGROUND, FOREGROUND};
    private static final int[] AFTER_BACKGROUND = {BACKGROUND, MAYBE_BACKGROUND, MAYBE_BACKGROUND, UNKNOWN, FOREGROUND};

    public final int height;
    public final int width;
    private final byte[] labels;

    private LabelMap(int height, int width, byte[] labels) {
        this.height = height;
        this.width = width;
        this.labels = labels;
    }

    /** The map before the first click. */
    public static LabelMap unknown(int height, int width) {
        byte[] labels = new byte[height * width];
        Arrays.fill(labels, (byte) UNKNOWN);
        return new LabelMap(height, width, labels);
    }

    /** With the click's disk (Euclidean distance at most {@code radius}) written in. */
    public LabelMap withClick(int x, int y, boolean positive, int radius) {
        byte[] after = labels.clone();
        for (int row = Math.max(0, y - radius); row <= Math.min(height - 1, y + radius); row++) {
            for (int column = Math.max(0, x - radius); column <= Math.min(width - 1, x + radius); column++) {
                if ((row - y) * (row - y) + (column - x) * (column - x) <= radius * radius) {
                    after[row * width + column] = (byte) (positive ? FOREGROUND : BACKGROUND);
                }
            }
        }
        return new LabelMap(height, width, after);
    }

    /** After a prediction: only what no click has settled moves, one step towards {@code mask}. */
    public LabelMap withPrediction(boolean[] mask) {
        byte[] after = new byte[labels.length];
        for (int at = 0; at < after.length; at++) {
            after[at] = (byte) (mask[at] ? AFTER_OBJECT : AFTER_BACKGROUND)[labels[at]];
        }
        return new LabelMap(height, width, after);
    }

    /** What the model takes: [1, 5, height / 4, width / 4], the share of each value in the middle 2x2 of each 4x4 block. */
    public Tensor shares() {
        int rows = height / 4, columns = width / 4;
        float[] shares = new float[VALUES * rows * columns];
        for (int row = 0; row < rows; row++) {
            for (int column = 0; column < columns; column++) {
                for (int down = 1; down <= 2; down++) {
                    for (int right = 1; right <= 2; right++) {
                        int label = labels[(4 * row + down) * width + 4 * column + right];
                        shares[(label * rows + row) * columns + column] += 0.25f;
                    }
                }
            }
        }
        return Tensor.ofFloats(shares, 1, VALUES, rows, columns);
    }

    byte[] labels() {
        return labels.clone();
    }
}
