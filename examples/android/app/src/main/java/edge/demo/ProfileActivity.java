package edge.demo;

import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.net.Uri;
import android.text.InputType;
import android.view.View;
import android.view.WindowManager;
import android.widget.Button;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.TextView;
import edge.core.EdgeException;
import edge.core.Engines;
import edge.core.Numbers;
import edge.core.Profiler;
import edge.core.Text;
import java.io.IOException;
import java.io.OutputStream;
import java.util.ArrayList;

/** How fast a bundle is on this phone: percentiles, memory, temperature, every run in a chart, and all of it as JSON. */
public final class ProfileActivity extends Screen<ProfileActivity.Measuring> {
    private static final int SAVE = 2;
    private static final int WARMUP = 10, COUNT = 100;

    /** The last profile. */
    static final class Measuring extends ModelWork {
        private final Phone phone;
        private Profiler.Profile profile;
        private String words = "";
        private int suggested;

        Measuring(App app, String name) {
            super(app, name);
            phone = new Phone(app);
        }

        /** Looks up how many threads the bundle's target uses. */
        void look() {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    final int threads = threads(bundle());
                    tell(new Runnable() {
                        @Override
                        public void run() {
                            suggested = threads;
                        }
                    });
                }
            });
        }

        void measure(final int threads, final int warmup, final int count) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    Profiler.Settings settings = new Profiler.Settings(threads, warmup, count);
                    Profiler profiler = new Profiler(bundle(), Engines.find(app().engines(), bundle()), phone, Version.NAME);
                    final Profiler.Profile found = profiler.run(settings, "app", HeadlessActivity.now(), new Profiler.Progress() {
                        @Override
                        public boolean at(String entry, int done, int all) {
                            say(app().getString(R.string.measuring, entry, done, all));
                            return !stopped();
                        }
                    });
                    tell(new Runnable() {
                        @Override
                        public void run() {
                            profile = found == null ? profile : found;
                            words = app().getString(found == null ? R.string.stopped : R.string.measured);
                        }
                    });
                }
            });
        }

        void save(final Uri place) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    try (OutputStream out = app().getContentResolver().openOutputStream(place)) {
                        if (out == null) {
                            throw new IOException("it cannot be opened");
                        }
                        out.write((profile.json.toString() + "\n").getBytes(Text.UTF8));
                    } catch (IOException error) {
                        throw new EdgeException("the profile cannot be saved (" + error.getMessage() + "): choose another place.", error);
                    }
                    say(app().getString(R.string.saved, name(app(), place)));
                }
            });
        }

        private void say(final String said) {
            tell(new Runnable() {
                @Override
                public void run() {
                    words = said;
                }
            });
        }
    }

    private EditText threads, warmup, count;
    private Button run, export;
    private TextView status, figures;
    private LinearLayout charts;
    private Profiler.Profile shown;
    private int suggested;

    @Override
    CharSequence title() {
        return getString(R.string.profile_of, bundleName());
    }

    @Override
    Measuring begin(Intent intent) {
        return new Measuring(App.of(this), bundleName());
    }

    @Override
    void begun() {
        work().look();
    }

    @Override
    View build() {
        threads = ui.number(R.id.threads, R.string.threads, 1);
        warmup = ui.number(R.id.warmup, R.string.warmup, WARMUP);
        count = ui.number(R.id.count, R.string.count, COUNT);
        for (EditText field : new EditText[] {threads, warmup, count}) {
            field.setInputType(InputType.TYPE_CLASS_NUMBER);
        }
        run = ui.button(R.string.run, new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                pressed();
            }
        });
        export = ui.button(R.string.export, new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                save();
            }
        });
        status = ui.status();
        figures = ui.figures();
        charts = ui.column();
        LinearLayout column = ui.column();
        column.addView(ui.row(ui.labelled(R.string.threads, threads), ui.labelled(R.string.warmup, warmup), ui.labelled(R.string.count, count)), Ui.wide());
        column.addView(ui.row(run, export), Ui.wide());
        column.addView(status, Ui.wide());
        column.addView(figures, Ui.wide());
        column.addView(charts, Ui.wide());
        return ui.scrolled(column);
    }

    private void pressed() {
        if (work().busy()) {
            work().stop();
        } else {
            work().measure(number(threads), number(warmup), number(count));
        }
    }

    /** What the field says; -1, which is refused with a sentence, for what is no number of a sensible length. */
    private static int number(EditText field) {
        String text = field.getText().toString();
        return text.matches("\\d{1,7}") ? Integer.parseInt(text) : -1;
    }

    private void save() {
        String name = bundleName().replaceAll("\\.edge$", "") + "-profile.json";
        try {
            startActivityForResult(new Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE)
                    .setType("application/json").putExtra(Intent.EXTRA_TITLE, name), SAVE);
        } catch (ActivityNotFoundException error) {
            noPicker();
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        super.onActivityResult(request, result, data);
        if (request == SAVE && result == RESULT_OK && data != null && data.getData() != null) {
            work().save(data.getData());
        }
    }

    @Override
    void refresh() {
        Measuring work = work();
        if (work.suggested != suggested) {
            suggested = work.suggested;
            if (work.profile == null && !work.busy()) {
                threads.setText(String.valueOf(suggested));
            }
        }
        run.setText(work.busy() ? R.string.stop : R.string.run);
        export.setEnabled(work.profile != null && !work.busy());
        // A phone whose screen goes off slows down.
        if (work.busy()) {
            getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        } else {
            getWindow().clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        }
        String words = work.trouble != null ? work.trouble : work.words;
        if (!words.contentEquals(status.getText())) {
            status.setText(words);
        }
        if (work.profile != shown) {
            shown = work.profile;
            show(shown);
        }
    }

    private void show(Profiler.Profile profile) {
        StringBuilder lines = new StringBuilder();
        lines.append(getString(R.string.load, profile.loadUs / 1e3)).append('\n');
        lines.append(getString(R.string.memory, profile.peakBytes / 1e6)).append('\n');
        if (profile.temperatureBefore != null && profile.temperatureAfter != null) {
            lines.append(getString(work().phone.batteryOnly() ? R.string.battery_temperature : R.string.temperature, profile.temperatureBefore, profile.temperatureAfter));
        } else {
            lines.append(getString(R.string.no_temperature));
        }
        charts.removeAllViews();
        for (Profiler.Runs runs : profile.runs) {
            String row = getString(R.string.percentiles, runs.entry, runs.durationsUs.length, runs.firstUs / 1e3, percentile(runs, 50),
                    percentile(runs, 90), percentile(runs, 99), percentile(runs, 0), percentile(runs, 100));
            lines.append("\n\n").append(row);
            double[] milliseconds = new double[runs.durationsUs.length];
            for (int run = 0; run < milliseconds.length; run++) {
                milliseconds[run] = runs.durationsUs[run] / 1e3;
            }
            ChartView chart = new ChartView(this, R.color.series);
            chart.show(milliseconds, new ArrayList<Integer>(), false);
            chart.setContentDescription(getString(R.string.chart_words, row));
            charts.addView(ui.text(getString(R.string.chart, runs.entry), 14));
            charts.addView(chart, ui.high(160));
        }
        figures.setText(lines);
    }

    private static double percentile(Profiler.Runs runs, double percent) {
        return Numbers.percentile(runs.durationsUs, percent) / 1e3;
    }
}
