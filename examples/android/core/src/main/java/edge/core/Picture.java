package edge.core;

/** A picture in memory: RGB, a byte each, row by row. */
public final class Picture {
    /** Pillow's filters: triangle and Keys' cubic with a = -1/2. */
    public enum Filter {
        BILINEAR(1), BICUBIC(2);

        final double support;

        Filter(double support) {
            this.support = support;
        }

        double weight(double x) {
            double at = Math.abs(x);
            if (this == BILINEAR) {
                return at < 1 ? 1 - at : 0;
            }
            if (at < 1) {
                return (1.5 * at - 2.5) * at * at + 1;
            }
            return at < 2 ? -0.5 * (((at - 5) * at + 8) * at - 4) : 0;
        }
    }

    public final int width;
    public final int height;
    final byte[] rgb;

    public Picture(int width, int height, byte[] rgb) {
        if (rgb.length != 3L * width * height) {
            throw new IllegalArgumentException(width + "x" + height + " pixels are not " + rgb.length + " bytes");
        }
        this.width = width;
        this.height = height;
        this.rgb = rgb;
    }

    /** From 0xAARRGGBB pixels, what is transparent laid over white. */
    public static Picture ofArgb(int width, int height, int[] pixels) {
        byte[] rgb = new byte[3 * width * height];
        for (int at = 0; at < width * height; at++) {
            int pixel = pixels[at], alpha = pixel >>> 24;
            for (int channel = 0; channel < 3; channel++) {
                int value = pixel >> 16 - 8 * channel & 0xff;
                rgb[3 * at + channel] = (byte) ((value * alpha + 255 * (255 - alpha) + 127) / 255);
            }
        }
        return new Picture(width, height, rgb);
    }

    /** Opaque 0xAARRGGBB pixels. */
    public int[] argb() {
        int[] pixels = new int[width * height];
        for (int at = 0; at < pixels.length; at++) {
            pixels[at] = 0xff000000 | (rgb[3 * at] & 0xff) << 16 | (rgb[3 * at + 1] & 0xff) << 8 | (rgb[3 * at + 2] & 0xff);
        }
        return pixels;
    }

    /**
     * The part of it from (left, up) to (right, below), in pixels and their fractions, at another size: what Pillow's
     * resize gives, to the bit where it goes along the rows first too (it begins with the columns of some tall pictures).
     */
    public Picture resized(int newWidth, int newHeight, Filter filter, double left, double up, double right, double below) {
        Picture found = this;
        // Pillow's box is of C floats.
        float x0 = (float) left, x1 = (float) right, y0 = (float) up, y1 = (float) below;
        if (newWidth != width || x0 != 0 || x1 != newWidth) {
            found = new Picture(newWidth, height, along(rgb, width, 3, height, 3 * width, newWidth, 3 * newWidth, x0, x1, filter));
        }
        if (newHeight != height || y0 != 0 || y1 != newHeight) {
            int row = 3 * newWidth;
            found = new Picture(newWidth, newHeight, along(found.rgb, height, row, newWidth, 3, newHeight, 3, y0, y1, filter));
        }
        return found;
    }

    public Picture resized(int newWidth, int newHeight, Filter filter) {
        return resized(newWidth, newHeight, filter, 0, 0, width, height);
    }

    /** Bits after the point of Pillow's integer weights. */
    private static final int PRECISION = 32 - 8 - 2;

    /**
     * Resizes {@code lines} lines along one axis. A line's values lie {@code step} bytes apart and lines {@code between}; in the
     * result lines lie {@code newBetween} apart, and along the vertical axis rows as far as before.
     */
    private static byte[] along(byte[] from, int size, int step, int lines, int between, int newSize, int newBetween, float start, float end, Filter filter) {
        double scale = (double) (end - start) / newSize, wide = Math.max(scale, 1.0), support = filter.support * wide;
        byte[] out = new byte[3 * lines * newSize];
        for (int place = 0; place < newSize; place++) {
            double center = start + (place + 0.5) * scale;
            int first = Math.max((int) (center - support + 0.5), 0);
            int count = Math.min((int) (center + support + 0.5), size) - first;
            int[] weights = weights(filter, first, count, center, 1.0 / wide);
            for (int line = 0; line < lines; line++) {
                for (int channel = 0; channel < 3; channel++) {
                    int sum = 1 << PRECISION - 1;
                    int at = line * between + first * step + channel;
                    for (int tap = 0; tap < count; tap++, at += step) {
                        sum += (from[at] & 0xff) * weights[tap];
                    }
                    out[line * newBetween + place * step + channel] = (byte) Math.max(0, Math.min(255, sum >> PRECISION));
                }
            }
        }
        return out;
    }

    private static int[] weights(Filter filter, int first, int count, double center, double shrink) {
        double[] exact = new double[count];
        double total = 0;
        for (int tap = 0; tap < count; tap++) {
            exact[tap] = filter.weight((tap + first - center + 0.5) * shrink);
            total += exact[tap];
        }
        int[] weights = new int[count];
        for (int tap = 0; tap < count; tap++) {
            double weight = total == 0 ? exact[tap] : exact[tap] / total;
            weights[tap] = (int) (weight * (1 << PRECISION) + (weight < 0 ? -0.5 : 0.5));
        }
        return weights;
    }

    /** Scaled down, its proportions kept, if it is larger than that; never scaled up (edge.families.interformer.images.fitted). */
    public Picture fitted(int most, int wide) {
        double scale = Math.min((double) most / height, (double) wide / width);
        if (scale >= 1) {
            return this;
        }
        int newWidth = Math.max(1, Math.min(wide, (int) Math.rint(width * scale)));
        int newHeight = Math.max(1, Math.min(most, (int) Math.rint(height * scale)));
        return resized(newWidth, newHeight, Filter.BILINEAR);
    }

    /** The middle square, of the part {@code crop} of the shorter side, at that size (edge.families.fmvit.pictures.fit). */
    public Picture square(int size, double crop) {
        double side = crop * Math.min(height, width);
        double left = (width - side) / 2, up = (height - side) / 2;
        return resized(size, size, Filter.BICUBIC, left, up, left + side, up + side);
    }

    /** [1, 3, rows, columns] float32: (value / unit - mean) / deviation, zeros below and to the right of the picture. */
    public Tensor normalised(float unit, float[] mean, float[] deviation, int rows, int columns) {
        float[] values = new float[3 * rows * columns];
        for (int channel = 0; channel < 3; channel++) {
            for (int row = 0; row < height; row++) {
                for (int column = 0; column < width; column++) {
                    float value = (rgb[3 * (row * width + column) + channel] & 0xff) / unit;
                    values[(channel * rows + row) * columns + column] = (value - mean[channel]) / deviation[channel];
                }
            }
        }
        return Tensor.ofFloats(values, 1, 3, rows, columns);
    }
}
