package edge.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Anomaly scores of a series by a TSPulse bundle, as edge.families.tspulse.anomaly computes them: in each window of the
 * context's length, patches near its end are hidden one at a time and reconstructed, in time and through the spectrum, and
 * the next point is forecast; the errors are brought to 0..1, smoothed, and the largest of the modes counts.
 */
public final class Anomaly {
    /** Hears how many of the windows are scored; returns false to stop. */
    public interface Progress {
        boolean scored(int done, int all);
    }

    private static final String ENTRY = "reconstruct";
    private static final String[][] MODES = {{"time", "reconstruction_outputs"}, {"fft", "reconstructed_ts_from_fft"}, {"forecast", "forecast_output"}};
    /** Errors below this share of the variance of the series' steps are noise, and a noise's score stays below 0.2. */
    private static final double NOISE_SCALE = 1e-2, NOISE_SCORE = 0.2;
    private static final int BLOCK = 16;

    private final Model model;
    final int context, channels, patch, aggregation;
    final Map<String, String> modes = new LinkedHashMap<String, String>();
    private final boolean mixes;

    public Anomaly(Bundle bundle, Model model, int aggregation) throws EdgeException {
        this.model = model;
        this.aggregation = aggregation;
        Manifest.Entry entry = bundle.manifest.entry(ENTRY);
        int[] shape = entry.inputs.get(0).shape();
        context = shape[1];
        channels = shape[2];
        try {
            JSONObject config = bundle.manifest.config;
            patch = config.getInt("patch_length");
            mixes = channels > 1 && (config.getString("mode").equals("mix_channel") || config.getString("decoder_mode").equals("mix_channel"));
        } catch (JSONException error) {
            throw new EdgeException("the bundle's config is not TSPulse's (" + error.getMessage() + "): export it again.", error);
        }
        if (aggregation % patch != 0 || aggregation < patch || aggregation > context) {
            throw new EdgeException("the aggregation length must be a multiple of " + patch + " up to " + context + ", not " + aggregation + ".");
        }
        for (String[] mode : MODES) {
            for (TensorSpec output : entry.outputs) {
                if (output.name.equals(mode[1])) {
                    modes.put(mode[0], mode[1]);
                }
            }
        }
    }

    /** A score from 0 to 1 of every row; null if {@code progress} stopped it. */
    public double[] score(Csv table, int smoothing, Progress progress) throws EdgeException {
        table.refuseMissing();
        if (table.rows() < context + 1) {
            throw new EdgeException(table.file + " has " + table.rows() + " rows of data but an anomaly score with a context of " + context
                    + " needs at least " + (context + 1) + ": give a longer series.");
        }
        if (mixes && table.columns.length != channels) {
            throw new EdgeException("the model mixes " + channels + " channels but " + table.file + " has " + table.columns.length
                    + " columns of numbers: give a file with as many.");
        }
        double[][] series = new double[table.columns.length][];
        for (int column = 0; column < series.length; column++) {
            series[column] = standardised(table.columns[column]);
        }
        Map<String, double[]> raw = windowScores(series, progress);
        return raw == null ? null : combined(raw, series, smoothing);
    }

    /** To mean 0 and variance 1; what is constant, up to what float64 can tell, keeps its scale. */
    static double[] standardised(double[] values) {
        double mean = Numbers.mean(values), variance = Numbers.variance(values);
        double noise = values.length * Math.ulp(1.0);
        boolean constant = variance <= noise * variance + noise * mean * noise * mean;
        double scale = constant ? 1.0 : Math.sqrt(variance);
        double[] out = new double[values.length];
        for (int row = 0; row < out.length; row++) {
            out[row] = (values[row] - mean) / scale;
        }
        return out;
    }

    /** By mode, the mean squared error of every window; window i starts at row i. */
    private Map<String, double[]> windowScores(double[][] series, Progress progress) throws EdgeException {
        int count = series[0].length - context, columns = series.length, hidden = aggregation / patch;
        boolean hides = modes.containsKey("time") || modes.containsKey("fft");
        int variants = (hides ? hidden : 0) + (modes.containsKey("forecast") ? 1 : 0);
        Map<String, double[]> scores = new LinkedHashMap<String, double[]>();
        for (String mode : modes.keySet()) {
            scores.put(mode, new double[count]);
        }
        for (int first = 0; first < count; first += BLOCK) {
            int windows = Math.min(BLOCK, count - first);
            List<Row> rows = new ArrayList<Row>();
            for (int window = first; window < first + windows; window++) {
                for (int variant = 0; variant < variants; variant++) {
                    for (int column = 0; column < columns; column++) {
                        int start = hides && variant < hidden ? context - aggregation + variant * patch : -1;
                        rows.add(new Row(window, column, start));
                    }
                }
            }
            for (int from = 0; from < rows.size(); from += channels) {
                run(rows.subList(from, Math.min(from + channels, rows.size())), series, scores);
            }
            for (int window = first; window < first + windows; window++) {
                for (Map.Entry<String, double[]> mode : scores.entrySet()) {
                    mode.getValue()[window] /= columns * (mode.getKey().equals("forecast") ? 1 : aggregation);
                }
            }
            if (!progress.scored(first + windows, count)) {
                return null;
            }
        }
        return scores;
    }

    /** One column of a window with the patch from {@code start} on hidden, or (-1) whole, for the forecast. */
    private static final class Row {
        final int window, column, start;

        Row(int window, int column, int start) {
            this.window = window;
            this.column = column;
            this.start = start;
        }
    }

    /** As many rows as the bundle has channels, the last run filled up with copies; squared errors are added to {@code scores}. */
    private void run(List<Row> rows, double[][] series, Map<String, double[]> scores) throws EdgeException {
        float[] values = new float[context * channels], mask = new float[context * channels];
        for (int channel = 0; channel < channels; channel++) {
            Row row = rows.get(Math.min(channel, rows.size() - 1));
            for (int time = 0; time < context; time++) {
                boolean known = row.start < 0 || time < row.start || time >= row.start + patch;
                mask[time * channels + channel] = known ? 1 : 0;
                values[time * channels + channel] = known ? (float) series[row.column][row.window + time] : 0;
            }
        }
        Call call = new Call(ENTRY).set("past_values", Tensor.ofFloats(values, 1, context, channels))
                .set("past_observed_mask", Tensor.ofFloats(mask, 1, context, channels)).want(new ArrayList<String>(modes.values()));
        Answer answer = model.run(call);
        for (Map.Entry<String, String> mode : modes.entrySet()) {
            float[] found = answer.get(mode.getValue()).floats();
            boolean forecast = mode.getKey().equals("forecast");
            for (int channel = 0; channel < rows.size(); channel++) {
                Row row = rows.get(channel);
                if (forecast != row.start < 0) {
                    continue;
                }
                int from = forecast ? context : row.start, length = forecast ? 1 : patch;
                for (int time = from; time < from + length; time++) {
                    double truth = (float) series[row.column][row.window + time];
                    double error = found[(forecast ? 0 : time) * channels + channel] - truth;
                    scores.get(mode.getKey())[row.window] += error * error;
                }
            }
        }
    }

    /** One score a row from the scores of windows. */
    double[] combined(Map<String, double[]> raw, double[][] series, int smoothing) {
        double widest = 0;
        for (double[] column : series) {
            double[] steps = new double[column.length - 1];
            for (int row = 0; row < steps.length; row++) {
                steps[row] = column[row + 1] - column[row];
            }
            widest = Math.max(widest, Numbers.variance(steps));
        }
        double noise = NOISE_SCALE * widest;
        double[] most = new double[series[0].length];
        for (Map.Entry<String, double[]> mode : raw.entrySet()) {
            double[] score = mode.getValue(), placed;
            if (mode.getKey().equals("forecast")) {
                placed = toUnit(padded(score, context, 0), noise * Math.sqrt(2));
            } else {
                int half = aggregation / 2;
                placed = smooth(toUnit(padded(score, context - half, half), noise * (1 + patch)), smoothing);
            }
            for (int row = 0; row < most.length; row++) {
                most[row] = Math.max(most[row], placed[row]);
            }
        }
        return most;
    }

    private static double[] padded(double[] score, int before, int after) {
        double[] out = new double[before + score.length + after];
        Arrays.fill(out, 0, before, score[0]);
        System.arraycopy(score, 0, out, before, score.length);
        Arrays.fill(out, before + score.length, out.length, score[score.length - 1]);
        return out;
    }

    /** Min-max to 0..1, what exceeds the noise set apart by a factor; up to 0.2 only if nothing does. */
    private static double[] toUnit(double[] score, double noise) {
        boolean any = false;
        double least = Double.POSITIVE_INFINITY, most = Double.NEGATIVE_INFINITY;
        double[] lifted = new double[score.length];
        for (int row = 0; row < score.length; row++) {
            boolean significant = score[row] > noise;
            any |= significant;
            lifted[row] = significant ? score[row] / NOISE_SCORE : score[row];
            least = Math.min(least, lifted[row]);
            most = Math.max(most, lifted[row]);
        }
        double spread = most - least > 0 ? most - least : 1.0;
        for (int row = 0; row < lifted.length; row++) {
            lifted[row] = (lifted[row] - least) / spread * (any ? 1.0 : NOISE_SCORE);
        }
        return lifted;
    }

    /** A moving average, as numpy.convolve(score, ones / length, "same") has it: zeros beyond the ends. */
    static double[] smooth(double[] score, int length) {
        if (length < 2) {
            return score;
        }
        double[] out = new double[score.length];
        int ahead = (length - 1) / 2;
        for (int row = 0; row < out.length; row++) {
            double sum = 0;
            for (int at = Math.max(0, row + ahead - length + 1); at <= Math.min(out.length - 1, row + ahead); at++) {
                sum += score[at];
            }
            out[row] = sum / length;
        }
        return out;
    }

    /** The rows of the {@code count} highest scores, the highest first, no two closer than {@code apart} rows. */
    public static List<Integer> peaks(double[] score, int count, int apart) {
        boolean[] taken = new boolean[score.length];
        List<Integer> found = new ArrayList<Integer>();
        while (found.size() < count) {
            int best = -1;
            for (int row = 0; row < score.length; row++) {
                if (!taken[row] && (best < 0 || score[row] > score[best])) {
                    best = row;
                }
            }
            if (best < 0) {
                break;
            }
            found.add(best);
            Arrays.fill(taken, Math.max(0, best - apart + 1), Math.min(score.length, best + apart), true);
        }
        return found;
    }
}
