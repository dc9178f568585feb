package edge.demo;

import android.content.Intent;
import android.net.Uri;
import android.view.View;
import android.widget.LinearLayout;
import android.widget.TextView;
import edge.core.Anomaly;
import edge.core.Csv;
import edge.core.EdgeException;
import edge.core.Text;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;

/** TSPulse: a series from a CSV, its anomaly scores, and where they are highest. */
public final class SeriesActivity extends FileScreen<SeriesActivity.Scoring> {
    private static final String SAMPLE = "sample.csv";
    private static final long LARGEST = 64L << 20;
    /** As in `edge run --task anomaly` by default. */
    private static final int AGGREGATION = 32, SMOOTHING = 8, TOP = 5;

    /** The series, its scores when they are there, and how far they are. */
    static final class Scoring extends FileScreen.FileWork {
        private Csv table;
        private double[] score;
        private List<Integer> top = new ArrayList<Integer>();
        private String words = "";

        Scoring(App app, String name) {
            super(app, name);
        }

        /** The series that came with the app. */
        @Override
        void sample() {
            open(null);
        }

        @Override
        void open(final Uri file) {
            stop();
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    final Csv read = read(file);
                    show(read, null, new ArrayList<Integer>(), "");
                    Anomaly anomaly = new Anomaly(bundle(), model(), AGGREGATION);
                    long began = System.nanoTime();
                    double[] found = anomaly.score(read, SMOOTHING, new Anomaly.Progress() {
                        @Override
                        public boolean scored(int done, int all) {
                            show(read, null, new ArrayList<Integer>(), app().getString(R.string.scored, done, all));
                            return !stopped();
                        }
                    });
                    if (found != null) {
                        List<Integer> highest = Anomaly.peaks(found, TOP, AGGREGATION);
                        show(read, found, highest, app().getString(R.string.scored_in, found.length, (System.nanoTime() - began) / 1e9));
                    }
                }
            });
        }

        private Csv read(Uri file) throws EdgeException {
            try (InputStream in = file == null ? app().getAssets().open(SAMPLE) : stream(app(), file)) {
                return Csv.parse(file == null ? SAMPLE : name(app(), file), Text.readAll(in, LARGEST));
            } catch (IOException error) {
                throw new EdgeException("the series cannot be read (" + error.getMessage() + "): choose a CSV file.", error);
            }
        }

        private void show(final Csv read, final double[] found, final List<Integer> highest, final String said) {
            tell(new Runnable() {
                @Override
                public void run() {
                    table = read;
                    score = found;
                    top = highest;
                    words = said;
                }
            });
        }
    }

    private ChartView series;
    private ChartView scores;
    private TextView name;
    private TextView status;
    private TextView found;

    @Override
    Scoring begin(Intent intent) {
        return new Scoring(App.of(this), bundleName());
    }

    @Override
    String type() {
        return "*/*";
    }

    @Override
    View build() {
        name = ui.text("", 14);
        series = new ChartView(this, R.color.series);
        scores = new ChartView(this, R.color.mark);
        status = status();
        found = ui.figures();
        ChartView.Touched tell = new ChartView.Touched() {
            @Override
            public void at(int row) {
                Scoring work = work();
                if (work.table != null && row < work.table.rows()) {
                    String said = getString(R.string.value_at, row, work.table.line(row), work.table.columns[0][row]);
                    status.setText(work.score == null ? said : getString(R.string.score_at, said, work.score[row]));
                }
            }
        };
        series.listen(tell);
        scores.listen(tell);
        LinearLayout column = ui.column();
        column.addView(sources(R.string.csv), Ui.wide());
        column.addView(status, Ui.wide());
        column.addView(name);
        column.addView(series, ui.high(180));
        column.addView(ui.text(getString(R.string.scores), 14));
        column.addView(scores, ui.high(140));
        column.addView(found, Ui.wide());
        return ui.scrolled(column);
    }

    @Override
    void refresh() {
        Scoring work = work();
        say(work.words.isEmpty(), work.words);
        if (work.table == null) {
            return;
        }
        name.setText(getString(R.string.series, work.table.file, work.table.names.get(0), work.table.rows()));
        series.show(work.table.columns[0], work.top, false);
        scores.show(work.score == null ? new double[0] : work.score, work.top, true);
        StringBuilder lines = new StringBuilder();
        for (int row : work.top) {
            lines.append(getString(R.string.peak, row, work.table.line(row), work.score[row])).append('\n');
        }
        found.setText(lines);
        series.setContentDescription(getString(R.string.series_words, work.table.rows(), work.top.size()));
        scores.setContentDescription(lines.length() == 0 ? getString(R.string.scores) : lines);
    }
}
