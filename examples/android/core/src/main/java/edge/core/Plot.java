package edge.core;

import java.util.ArrayList;
import java.util.List;

/** Where in a rectangle of pixels the values of a series lie, and the round numbers beside its axes. */
public final class Plot {
    public final double low, high;
    private final float left, top, right, bottom;
    private final int count;

    /** {@code count} samples from {@code low} to {@code high} in the rectangle; a series of one value gets room around it. */
    public Plot(double low, double high, int count, float left, float top, float right, float bottom) {
        double room = high > low ? 0 : Math.max(Math.abs(low) * 0.05, 1e-9);
        this.low = low - room;
        this.high = high + room;
        this.count = count;
        this.left = left;
        this.top = top;
        this.right = right;
        this.bottom = bottom;
    }

    /** For all of {@code values}, NaN left out. */
    public static Plot of(double[] values, float left, float top, float right, float bottom) {
        double low = Double.POSITIVE_INFINITY, high = Double.NEGATIVE_INFINITY;
        for (double value : values) {
            if (!Double.isNaN(value)) {
                low = Math.min(low, value);
                high = Math.max(high, value);
            }
        }
        boolean none = low > high;
        return new Plot(none ? 0 : low, none ? 1 : high, values.length, left, top, right, bottom);
    }

    /** The column of sample {@code index}; the only one lies in the middle. */
    public float x(double index) {
        return count < 2 ? (left + right) / 2 : (float) (left + (right - left) * index / (count - 1));
    }

    public float y(double value) {
        return (float) (bottom - (bottom - top) * (value - low) / (high - low));
    }

    /** The sample nearest to a column of the screen. */
    public int index(float x) {
        if (count < 2 || right <= left) {
            return 0;
        }
        return (int) Math.max(0, Math.min(count - 1, Math.rint((x - left) / (right - left) * (count - 1))));
    }

    /**
     * The line through {@code values} as x0, y0, x1, y1 for each stretch. Where several samples share a pixel's column its
     * lowest and highest are kept, so that no peak is lost; at a NaN the line is interrupted.
     */
    public float[] line(double[] values) {
        int columns = Math.max(1, (int) Math.ceil(right - left));
        List<double[]> points = new ArrayList<double[]>(); // index, value
        if (values.length <= 2 * columns) {
            for (int index = 0; index < values.length; index++) {
                points.add(new double[] {index, values[index]});
            }
        } else {
            for (int column = 0; column < columns; column++) {
                int from = (int) ((long) column * values.length / columns), to = (int) ((long) (column + 1) * values.length / columns);
                int lowest = from, highest = from;
                for (int index = from; index < to; index++) {
                    // A comparison with NaN is false: where a column begins with one, the next value takes its place.
                    lowest = values[index] < values[lowest] || Double.isNaN(values[lowest]) ? index : lowest;
                    highest = values[index] > values[highest] || Double.isNaN(values[highest]) ? index : highest;
                }
                points.add(new double[] {Math.min(lowest, highest), values[Math.min(lowest, highest)]});
                if (lowest != highest) {
                    points.add(new double[] {Math.max(lowest, highest), values[Math.max(lowest, highest)]});
                }
            }
        }
        return stretches(points);
    }

    private float[] stretches(List<double[]> points) {
        float[] line = new float[4 * Math.max(0, points.size() - 1)];
        int used = 0;
        for (int at = 1; at < points.size(); at++) {
            double[] from = points.get(at - 1), to = points.get(at);
            if (Double.isNaN(from[1]) || Double.isNaN(to[1])) {
                continue;
            }
            line[used++] = x(from[0]);
            line[used++] = y(from[1]);
            line[used++] = x(to[0]);
            line[used++] = y(to[1]);
        }
        return java.util.Arrays.copyOf(line, used);
    }

    /** Round numbers (1, 2 or 5 times a power of ten apart) from low to high, {@code most} at most. */
    public static double[] ticks(double low, double high, int most) {
        double rough = (high - low) / Math.max(1, most), unit = Math.pow(10, Math.floor(Math.log10(rough)));
        double step = unit;
        for (double factor : new double[] {1, 2, 5, 10}) {
            step = factor * unit;
            if (step >= rough * (1 - 1e-12)) {
                break;
            }
        }
        long first = (long) Math.ceil(low / step - 1e-9), last = (long) Math.floor(high / step + 1e-9);
        double[] ticks = new double[(int) Math.max(0, last - first + 1)];
        for (int index = 0; index < ticks.length; index++) {
            ticks[index] = (first + index) * step;
        }
        return ticks;
    }

    /** A tick as it is written: no more digits than its step needs. */
    public static String label(double tick, double[] ticks) {
        double step = ticks.length > 1 ? ticks[1] - ticks[0] : Math.abs(tick);
        int digits = step > 0 ? (int) Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)) : 0;
        return String.format(java.util.Locale.ROOT, "%." + Math.min(digits, 9) + "f", tick);
    }
}
