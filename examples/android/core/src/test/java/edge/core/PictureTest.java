package edge.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;

import java.util.Map;
import org.junit.Test;

/** Scaling and normalising, against Pillow and edge's own. */
public final class PictureTest {
    @Test
    public void squaresAreThoseOfFmvit() throws Exception {
        Map<String, Tensor> arrays = Npz.read(Fixtures.file("pictures.npz"), "");
        Classifier classifier = new Classifier(Bundle.read(Fixtures.file("fmvit.edge")), null);
        int cases = 0;
        for (String name : arrays.keySet()) {
            if (name.startsWith("picture")) {
                Picture picture = picture(arrays.get(name));
                for (double crop : new double[] {1.0, 0.875}) {
                    Tensor wanted = arrays.get("square" + crop + "/" + name);
                    near(name, wanted.bytes(), picture.square(64, crop).rgb, picture);
                }
                boolean tall = picture.height > 1.5 * picture.width;
                assertArrayEquals(name, arrays.get("fmvit/" + name).floats(), classifier.input(picture).floats(), tall ? 0.04f : 1e-6f);
                cases++;
            }
        }
        assertEquals(4, cases);
    }

    @Test
    public void fittedPicturesAreThoseOfInterformer() throws Exception {
        Map<String, Tensor> arrays = Npz.read(Fixtures.file("pictures.npz"), "");
        for (String name : arrays.keySet()) {
            if (name.startsWith("picture")) {
                Picture fitted = picture(arrays.get(name)).fitted(128, 128);
                Tensor wanted = arrays.get("fitted/" + name);
                assertArrayEquals(name, wanted.shape(), new int[] {fitted.height, fitted.width, 3});
                near(name, wanted.bytes(), fitted.rgb, picture(arrays.get(name)));
                Tensor input = fitted.normalised(1f, Encoded.MEAN, Encoded.DEVIATION, 128, 128);
                if (fitted.height < 1.5 * fitted.width) {
                    assertArrayEquals(name, arrays.get("interformer/" + name).floats(), input.floats(), 0f);
                }
                assertArrayEquals(name, pad(fitted), Encoded.picture(input).rgb);
            }
        }
    }

    /** What is beyond the picture is zero to the model, which is the mean's colour. */
    private static byte[] pad(Picture picture) {
        byte[] out = new byte[3 * 128 * 128];
        for (int at = 0; at < out.length; at++) {
            int row = at / 3 / 128, column = at / 3 % 128;
            boolean inside = row < picture.height && column < picture.width;
            out[at] = inside ? picture.rgb[3 * (row * picture.width + column) + at % 3] : (byte) Math.round(Encoded.MEAN[at % 3]);
        }
        return out;
    }

    /** Equal; where Pillow may begin with the columns, a rounding or two away. */
    private static void near(String name, byte[] wanted, byte[] found, Picture source) {
        assertEquals(name, wanted.length, found.length);
        int most = source.height > 1.5 * source.width ? 2 : 0;
        for (int at = 0; at < found.length; at++) {
            assertEquals(name, wanted[at] & 0xff, found[at] & 0xff, most);
        }
    }

    private static Picture picture(Tensor pixels) {
        return new Picture(pixels.shape()[1], pixels.shape()[0], pixels.bytes());
    }

    @Test
    public void transparentPixelsLieOverWhite() {
        Picture picture = Picture.ofArgb(3, 1, new int[] {0xff102030, 0x00102030, 0x80000000});
        assertArrayEquals(new byte[] {16, 32, 48, -1, -1, -1, 127, 127, 127}, picture.rgb);
        assertEquals(0xff102030, picture.argb()[0]);
    }
}
