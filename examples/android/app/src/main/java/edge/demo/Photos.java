package edge.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.Matrix;
import android.media.ExifInterface;
import android.net.Uri;
import edge.core.EdgeException;
import edge.core.Picture;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;

/** From the user's photos to pictures, turned as the camera was held. */
final class Photos {
    /** Pixels of the longer side, at least and up to twice as many: more than the models look at, few enough for any phone's memory. */
    private static final int LONGEST = 1024;
    private static final long LARGEST = 200L << 20;

    private Photos() {}

    static Picture read(Context context, Uri file) throws EdgeException {
        File copy = new File(context.getCacheDir(), "photo-" + System.nanoTime());
        try {
            try (InputStream in = Screen.stream(context, file); FileOutputStream out = new FileOutputStream(copy)) {
                edge.core.Text.copy(in, out, LARGEST);
            }
            return picture(decoded(copy.getPath()));
        } catch (IOException error) {
            throw new EdgeException("the picture cannot be read (" + error.getMessage() + "): choose it again.", error);
        } finally {
            copy.delete();
        }
    }

    private static Bitmap decoded(String path) throws EdgeException, IOException {
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        BitmapFactory.decodeFile(path, options);
        int longest = Math.max(options.outWidth, options.outHeight);
        options.inJustDecodeBounds = false;
        options.inSampleSize = 1;
        while (longest / (2 * options.inSampleSize) >= LONGEST) {
            options.inSampleSize *= 2;
        }
        Bitmap bitmap = longest > 0 ? BitmapFactory.decodeFile(path, options) : null;
        if (bitmap == null) {
            throw new EdgeException("this is not a picture that Android knows: choose a PNG or a JPEG.");
        }
        Matrix turn = new Matrix();
        switch (new ExifInterface(path).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)) {
            case ExifInterface.ORIENTATION_ROTATE_90:
                turn.postRotate(90);
                break;
            case ExifInterface.ORIENTATION_ROTATE_180:
                turn.postRotate(180);
                break;
            case ExifInterface.ORIENTATION_ROTATE_270:
                turn.postRotate(270);
                break;
            default:
                return bitmap;
        }
        return Bitmap.createBitmap(bitmap, 0, 0, bitmap.getWidth(), bitmap.getHeight(), turn, true);
    }

    private static Picture picture(Bitmap bitmap) {
        int width = bitmap.getWidth(), height = bitmap.getHeight();
        int[] pixels = new int[width * height];
        bitmap.getPixels(pixels, 0, width, 0, 0, width, height);
        return Picture.ofArgb(width, height, pixels);
    }

    static Bitmap bitmap(Picture picture) {
        return Bitmap.createBitmap(picture.argb(), picture.width, picture.height, Bitmap.Config.ARGB_8888);
    }
}
