package edge.core;

/** From model tensors back to pictures. */
final class Pictures {
    private Pictures() {}

    /** The picture that {@link Picture#normalised} made [1, 3, h, w] of. */
    static Picture denormalised(Tensor input, float unit, float[] mean, float[] deviation) {
        int[] shape = input.shape();
        int height = shape[2], width = shape[3];
        float[] values = input.floats();
        byte[] rgb = new byte[3 * height * width];
        for (int channel = 0; channel < 3; channel++) {
            for (int at = 0; at < height * width; at++) {
                float value = (values[channel * height * width + at] * deviation[channel] + mean[channel]) * unit;
                rgb[3 * at + channel] = (byte) Math.max(0, Math.min(255, Math.round(value)));
            }
        }
        return new Picture(width, height, rgb);
    }
}
