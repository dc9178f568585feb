package edge.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.graphics.RectF;
import android.view.MotionEvent;
import android.view.View;

/** A picture as large as it fits, a mask over it, and where it was touched. */
final class PictureView extends View {
    /** Hears of a touch, in the picture's own pixels. */
    interface Touched {
        void at(int x, int y);
    }

    private final Paint smooth = new Paint(Paint.FILTER_BITMAP_FLAG);
    private final RectF place = new RectF();
    private Bitmap picture;
    private Bitmap mask;
    private Touched touched;
    private float lastX, lastY;

    PictureView(Context context) {
        super(context);
        setFocusable(true);
    }

    void show(Bitmap newPicture, Bitmap newMask) {
        picture = newPicture;
        mask = newMask;
        invalidate();
    }

    void listen(Touched listener) {
        touched = listener;
        setClickable(true);
    }

    @Override
    protected void onDraw(Canvas canvas) {
        super.onDraw(canvas);
        if (picture == null) {
            return;
        }
        float scale = Math.min((float) getWidth() / picture.getWidth(), (float) getHeight() / picture.getHeight());
        float width = picture.getWidth() * scale, height = picture.getHeight() * scale;
        float left = (getWidth() - width) / 2, top = (getHeight() - height) / 2;
        place.set(left, top, left + width, top + height);
        canvas.drawBitmap(picture, null, place, smooth);
        if (mask != null) {
            canvas.drawBitmap(mask, null, place, smooth);
        }
    }

    @Override
    public boolean onTouchEvent(MotionEvent event) {
        lastX = event.getX();
        lastY = event.getY();
        return super.onTouchEvent(event);
    }

    /** Comes of a tap, of a key, or of TalkBack, which have no place: then it is the middle. */
    @Override
    public boolean performClick() {
        boolean heard = super.performClick();
        if (touched != null && picture != null) {
            boolean inside = place.contains(lastX, lastY);
            float x = inside ? lastX : place.centerX(), y = inside ? lastY : place.centerY();
            int column = (int) ((x - place.left) / place.width() * picture.getWidth());
            int row = (int) ((y - place.top) / place.height() * picture.getHeight());
            lastX = lastY = -1;
            touched.at(Math.min(column, picture.getWidth() - 1), Math.min(row, picture.getHeight() - 1));
            return true;
        }
        return heard;
    }
}
