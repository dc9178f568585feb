package edge.core;

import java.util.Arrays;
import java.util.Comparator;

/** From logits to chances, and which are the likeliest. */
public final class Scores {
    private Scores() {}

    /** Probabilities in float64, as edge.tasks.softmax computes them. */
    public static double[] softmax(float[] logits) {
        double most = Double.NEGATIVE_INFINITY;
        for (float logit : logits) {
            most = Math.max(most, logit);
        }
        double[] chances = new double[logits.length];
        double total = 0;
        for (int index = 0; index < logits.length; index++) {
            chances[index] = Math.exp(logits[index] - most);
            total += chances[index];
        }
        for (int index = 0; index < chances.length; index++) {
            chances[index] /= total;
        }
        return chances;
    }

    /** All indices, the largest value first; equal values stay in order. */
    public static Integer[] order(final double[] values) {
        Integer[] order = new Integer[values.length];
        for (int index = 0; index < order.length; index++) {
            order[index] = index;
        }
        Arrays.sort(order, new Comparator<Integer>() {
            @Override
            public int compare(Integer left, Integer right) {
                return Double.compare(values[right], values[left]);
            }
        });
        return order;
    }

    /** The first of the largest values. */
    public static int largest(float[] values) {
        int best = 0;
        for (int index = 1; index < values.length; index++) {
            if (values[index] > values[best]) {
                best = index;
            }
        }
        return best;
    }
}
