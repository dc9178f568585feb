package edge.core;

import java.util.Random;

/** Chooses the next token: the likeliest, or with a temperature one drawn from the likeliest that reach {@code topP} together. */
public final class Sampler {
    private final double temperature;
    private final double topP;
    private final Random random;

    public Sampler(double temperature, double topP, long seed) {
        this.temperature = temperature;
        this.topP = topP;
        this.random = new Random(seed);
    }

    public int choose(float[] logits) {
        return choose(logits, random.nextDouble());
    }

    /** {@code draw} in [0, 1) says where in the kept chances, laid end to end, the token lies. */
    int choose(float[] logits, double draw) {
        if (temperature <= 0) {
            return Scores.largest(logits);
        }
        float[] scaled = new float[logits.length];
        for (int index = 0; index < scaled.length; index++) {
            scaled[index] = logits[index] / (float) temperature;
        }
        double[] chances = Scores.softmax(scaled);
        Integer[] order = Scores.order(chances);
        // As few as reach top_p, and at least one.
        int kept = 0;
        double total = 0;
        while (kept < order.length) {
            total += chances[order[kept++]];
            if (total >= topP) {
                break;
            }
        }
        double reached = 0;
        for (int place = 0; place < kept; place++) {
            reached += chances[order[place]] / total;
            if (reached > draw) {
                return order[place];
            }
        }
        return order[kept - 1];
    }
}
