package edge.demo;

import android.content.Intent;
import android.graphics.Bitmap;
import android.net.Uri;
import android.view.View;
import android.widget.LinearLayout;
import android.widget.ProgressBar;
import edge.core.Bundle;
import edge.core.Classifier;
import edge.core.EdgeException;
import edge.core.Picture;
import edge.core.Tensor;
import java.util.ArrayList;
import java.util.List;

/** FMViT: what a picture shows, the five likeliest classes. */
public final class ClassifyActivity extends FileScreen<ClassifyActivity.Looking> {
    private static final int TOP = 5;

    /** The picture and the guesses. */
    static final class Looking extends FileScreen.FileWork {
        private Bitmap picture;
        private List<Classifier.Guess> guesses = new ArrayList<Classifier.Guess>();
        private int samples;

        Looking(App app, String name) {
            super(app, name);
        }

        @Override
        void sample() {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    List<Bundle.Sample> stored = bundle().samples("classify");
                    Tensor input = stored.get(samples++ % stored.size()).inputs.get("image");
                    Classifier classifier = new Classifier(bundle(), model());
                    show(classifier.picture(input), classifier.classify(input, TOP));
                }
            });
        }

        @Override
        void open(final Uri file) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    Picture photo = Photos.read(app(), file);
                    show(photo, new Classifier(bundle(), model()).classify(photo, TOP));
                }
            });
        }

        private void show(Picture shown, final List<Classifier.Guess> found) {
            final Bitmap drawn = Photos.bitmap(shown);
            tell(new Runnable() {
                @Override
                public void run() {
                    picture = drawn;
                    guesses = found;
                }
            });
        }
    }

    private PictureView view;
    private LinearLayout classes;

    @Override
    Looking begin(Intent intent) {
        return new Looking(App.of(this), bundleName());
    }

    @Override
    String type() {
        return "image/*";
    }

    @Override
    View build() {
        view = new PictureView(this);
        classes = ui.column();
        LinearLayout column = ui.column();
        column.addView(view, ui.high(240));
        column.addView(sources(R.string.photo), Ui.wide());
        column.addView(status(), Ui.wide());
        column.addView(classes, Ui.wide());
        return ui.scrolled(column);
    }

    @Override
    void refresh() {
        Looking work = work();
        view.show(work.picture, null);
        String best = work.guesses.isEmpty() ? "" : getString(R.string.looks_like, work.guesses.get(0).label, 100 * work.guesses.get(0).probability);
        view.setContentDescription(getString(R.string.picture, best));
        say(true, best);
        classes.removeAllViews();
        for (Classifier.Guess guess : work.guesses) {
            classes.addView(ui.text(getString(R.string.guess, guess.label, 100 * guess.probability), 16));
            ProgressBar bar = new ProgressBar(this, null, android.R.attr.progressBarStyleHorizontal);
            bar.setMax(1000);
            bar.setProgress((int) Math.round(1000 * guess.probability));
            bar.setImportantForAccessibility(View.IMPORTANT_FOR_ACCESSIBILITY_NO); // the line above says it
            classes.addView(bar, Ui.wide());
        }
    }
}
