package edge.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.view.MotionEvent;
import android.view.View;
import edge.core.Plot;
import java.util.ArrayList;
import java.util.List;

/** A line with its axes, and rows that are marked. What it shows is said in words by its content description. */
final class ChartView extends View {
    /** Hears which sample was touched. */
    interface Touched {
        void at(int index);
    }

    private static final int TICKS = 5;
    private final Paint line = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint grid = new Paint();
    private final Paint mark = new Paint();
    private final Paint words = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Ui ui;
    private double[] values = new double[0];
    private List<Integer> marks = new ArrayList<Integer>();
    private Plot fixed;
    private Plot plot;
    private Touched touched;

    ChartView(Context context, int colour) {
        super(context);
        ui = new Ui(context);
        line.setColor(context.getResources().getColor(colour));
        line.setStrokeWidth(ui.dp(1.2f));
        grid.setColor(context.getResources().getColor(R.color.grid));
        mark.setColor(context.getResources().getColor(R.color.mark));
        mark.setAlpha(110);
        mark.setStrokeWidth(ui.dp(1.5f));
        words.setColor(context.getResources().getColor(R.color.text));
        words.setTextSize(ui.dp(11));
        setFocusable(true);
    }

    /** {@code unit}: values lie between 0 and 1, whatever they are. */
    void show(double[] newValues, List<Integer> newMarks, boolean unit) {
        values = newValues;
        marks = newMarks;
        fixed = unit ? new Plot(0, 1, Math.max(values.length, 1), 0, 0, 1, 1) : null;
        invalidate();
    }

    void listen(Touched listener) {
        touched = listener;
    }

    @Override
    protected void onDraw(Canvas canvas) {
        super.onDraw(canvas);
        if (values.length == 0) {
            return;
        }
        float left = ui.dp(52), top = ui.dp(6), right = getWidth() - ui.dp(6), bottom = getHeight() - ui.dp(20);
        Plot own = Plot.of(values, left, top, right, bottom);
        plot = fixed == null ? own : new Plot(fixed.low, fixed.high, values.length, left, top, right, bottom);
        double[] ticks = Plot.ticks(plot.low, plot.high, TICKS);
        for (double tick : ticks) {
            canvas.drawLine(left, plot.y(tick), right, plot.y(tick), grid);
            words.setTextAlign(Paint.Align.RIGHT);
            canvas.drawText(Plot.label(tick, ticks), left - ui.dp(4), plot.y(tick) + ui.dp(4), words);
        }
        double[] columns = Plot.ticks(0, Math.max(1, values.length - 1), TICKS);
        for (double column : columns) {
            words.setTextAlign(Paint.Align.CENTER);
            canvas.drawText(Plot.label(column, columns), plot.x(column), getHeight() - ui.dp(5), words);
        }
        for (int row : marks) {
            canvas.drawLine(plot.x(row), top, plot.x(row), bottom, mark);
        }
        canvas.drawLines(plot.line(values), line);
    }

    @Override
    public boolean onTouchEvent(MotionEvent event) {
        if (touched != null && plot != null && event.getAction() == MotionEvent.ACTION_DOWN) {
            touched.at(plot.index(event.getX()));
        }
        return super.onTouchEvent(event);
    }
}
