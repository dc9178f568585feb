package edge.core;

/** A bilinear resize of one map of floats, half-pixel centres, edges repeated (edge.families.interformer.images.enlarged). */
final class Resize {
    private Resize() {}

    static float[] bilinear(float[] map, int height, int width, int newHeight, int newWidth) {
        int[] lefts = new int[newWidth], ups = new int[newHeight];
        float[] rights = new float[newWidth], downs = new float[newHeight];
        places(width, newWidth, lefts, rights);
        places(height, newHeight, ups, downs);
        float[] out = new float[newHeight * newWidth];
        for (int row = 0; row < newHeight; row++) {
            int up = ups[row] * width, below = Math.min(ups[row] + 1, height - 1) * width;
            for (int column = 0; column < newWidth; column++) {
                int left = lefts[column], right = Math.min(left + 1, width - 1);
                float share = rights[column];
                float above = map[up + left] * (1 - share) + map[up + right] * share;
                float under = map[below + left] * (1 - share) + map[below + right] * share;
                out[row * newWidth + column] = above * (1 - downs[row]) + under * downs[row];
            }
        }
        return out;
    }

    private static void places(int own, int size, int[] firsts, float[] shares) {
        for (int index = 0; index < size; index++) {
            double place = Math.max(0, Math.min(own - 1, (index + 0.5) * own / size - 0.5));
            firsts[index] = (int) place;
            shares[index] = (float) (place - firsts[index]);
        }
    }
}
