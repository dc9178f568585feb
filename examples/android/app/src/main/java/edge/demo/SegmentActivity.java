package edge.demo;

import android.content.Intent;
import android.graphics.Bitmap;
import android.net.Uri;
import android.view.View;
import android.widget.CheckBox;
import android.widget.LinearLayout;
import edge.core.Bundle;
import edge.core.EdgeException;
import edge.core.Encoded;
import edge.core.Interaction;
import edge.core.Picture;
import edge.core.Text;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.List;

/** InterFormer: an object is cut out of a picture by touching it. */
public final class SegmentActivity extends FileScreen<SegmentActivity.Cutting> {
    private static final long LARGEST = 512L << 20;

    /** The picture, the clicks and their mask. */
    static final class Cutting extends FileScreen.FileWork {
        private Bitmap picture;
        private Bitmap mask;
        private String words = "";
        private boolean encodes;
        private Encoded encoded;
        private Interaction interaction;
        private int samples;

        Cutting(App app, String name) {
            super(app, name);
        }

        @Override
        void sample() {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    Bundle bundle = bundle();
                    String entry = bundle.manifest.has("encode") ? "encode" : "click";
                    List<Bundle.Sample> stored = bundle.samples(entry);
                    Bundle.Sample next = stored.get(samples++ % stored.size());
                    if (entry.equals("encode")) {
                        Picture found = Encoded.picture(next.inputs.get("image"));
                        begin(found, Encoded.encode(bundle, model(), found));
                    } else {
                        Encoded found = Encoded.sample(bundle, next);
                        begin(found.picture, found);
                    }
                }
            });
        }

        @Override
        void open(final Uri file) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    Bundle bundle = bundle();
                    if (bundle.manifest.has("encode")) {
                        Picture photo = Photos.read(app(), file);
                        begin(photo, Encoded.encode(bundle, model(), photo));
                    } else {
                        Encoded found = features(file, bundle);
                        begin(found.picture, found);
                    }
                }
            });
        }

        /** A bundle that clicks only takes what an encoder wrote elsewhere. */
        private Encoded features(Uri file, Bundle bundle) throws EdgeException {
            File copy = new File(app().getCacheDir(), name(app(), file).replaceAll("[^A-Za-z0-9._-]", "_"));
            try {
                try (InputStream in = stream(app(), file); FileOutputStream out = new FileOutputStream(copy)) {
                    Text.copy(in, out, LARGEST);
                }
                return Encoded.read(copy, bundle);
            } catch (IOException error) {
                throw new EdgeException("the features file cannot be read (" + error.getMessage() + "): choose it again.", error);
            } finally {
                copy.delete();
            }
        }

        private void begin(Picture shown, Encoded found) throws EdgeException {
            encoded = found;
            interaction = new Interaction(bundle(), model(), found);
            // Clicks are in the pixels of the user's picture, which is what is shown.
            show(Photos.bitmap(shown.width == found.width && shown.height == found.height ? shown
                    : shown.resized(found.width, found.height, Picture.Filter.BILINEAR)), app().getString(R.string.touch));
        }

        private void show(final Bitmap fresh, final String said) {
            final boolean can = bundleEncodes();
            final Bitmap drawn = interaction.clicks() == 0 ? null : drawn(interaction.mask());
            tell(new Runnable() {
                @Override
                public void run() {
                    picture = fresh == null ? picture : fresh;
                    mask = drawn;
                    words = said;
                    encodes = can;
                }
            });
        }

        private boolean bundleEncodes() {
            try {
                return bundle().manifest.has("encode");
            } catch (EdgeException error) {
                return false;
            }
        }

        void click(final int x, final int y, final boolean positive) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    if (interaction == null) {
                        interaction = new Interaction(bundle(), model(), encoded);
                    }
                    double milliseconds = interaction.click(x, y, positive);
                    int inside = 0;
                    boolean[] mask = interaction.mask();
                    for (boolean one : mask) {
                        inside += one ? 1 : 0;
                    }
                    show(null, app().getString(R.string.cut, interaction.clicks(), milliseconds, 100.0 * inside / mask.length));
                }
            });
        }

        void undo(final boolean all) {
            start(new Job() {
                @Override
                public void run() {
                    if (interaction == null) {
                        return;
                    }
                    if (all) {
                        interaction.reset();
                    } else {
                        interaction.undo();
                    }
                    show(null, app().getString(R.string.clicks, interaction.clicks()));
                }
            });
        }

        private Bitmap drawn(boolean[] inside) {
            int colour = app().getResources().getColor(R.color.mask);
            int[] pixels = new int[inside.length];
            for (int at = 0; at < pixels.length; at++) {
                pixels[at] = inside[at] ? colour : 0;
            }
            return Bitmap.createBitmap(pixels, encoded.width, encoded.height, Bitmap.Config.ARGB_8888);
        }

        /** The clicks are in the model that ended: they begin anew. */
        @Override
        void release() {
            interaction = null;
            super.release();
        }
    }

    private PictureView view;
    private CheckBox beside;

    @Override
    Cutting begin(Intent intent) {
        return new Cutting(App.of(this), bundleName());
    }

    @Override
    String type() {
        return work().encodes ? "image/*" : "*/*";
    }

    @Override
    View build() {
        view = new PictureView(this);
        view.listen(new PictureView.Touched() {
            @Override
            public void at(int x, int y) {
                if (!work().busy()) {
                    work().click(x, y, !beside.isChecked());
                }
            }
        });
        beside = new CheckBox(this);
        beside.setId(R.id.beside);
        beside.setText(R.string.beside);
        LinearLayout buttons = sources(R.string.file);
        buttons.addView(undo(R.string.undo, false));
        buttons.addView(undo(R.string.reset, true));
        LinearLayout column = ui.column();
        column.setPadding(ui.dp(16), 0, ui.dp(16), ui.dp(8));
        column.addView(view, Ui.fill(1));
        column.addView(status(), Ui.wide());
        column.addView(beside, Ui.wide());
        column.addView(buttons, Ui.wide());
        return column;
    }

    private View undo(int label, final boolean all) {
        return ui.button(label, new View.OnClickListener() {
            @Override
            public void onClick(View pressed) {
                work().undo(all);
            }
        });
    }

    @Override
    void refresh() {
        Cutting work = work();
        view.show(work.picture, work.mask);
        view.setContentDescription(getString(R.string.picture_to_touch, work.words));
        say(work.picture == null, work.words);
    }
}
