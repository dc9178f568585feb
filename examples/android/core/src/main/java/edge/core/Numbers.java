package edge.core;

import java.util.Arrays;

/** Means, variances and percentiles as numpy has them by default. */
public final class Numbers {
    private Numbers() {}

    public static double mean(double[] values) {
        double sum = 0;
        for (double value : values) {
            sum += value;
        }
        return sum / values.length;
    }

    /** Of the population, about the mean. */
    static double variance(double[] values) {
        double mean = mean(values), sum = 0;
        for (double value : values) {
            sum += (value - mean) * (value - mean);
        }
        return sum / values.length;
    }

    /** Linear between the two nearest samples; {@code percent} from 0 to 100. */
    public static double percentile(double[] values, double percent) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        double place = percent / 100 * (sorted.length - 1);
        int below = (int) Math.floor(place), above = Math.min(below + 1, sorted.length - 1);
        return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
    }
}
