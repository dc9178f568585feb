package edge.demo;

import android.app.Activity;
import android.content.Intent;
import android.net.Uri;
import android.view.View;
import android.widget.LinearLayout;
import android.widget.TextView;
import edge.core.Bundle;
import edge.core.EdgeException;
import edge.core.Manifest;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;

/** The list of bundles, and the way in for another one. */
public final class MainActivity extends Screen<MainActivity.Listing> {
    /** Reads the manifests, and imports. */
    static final class Listing extends Work {
        private final App app;
        private List<Bundle> bundles = new ArrayList<Bundle>();
        private String news = "";

        Listing(App app) {
            this.app = app;
        }

        void list(final String said) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    show(app.bundles().list(), said);
                }
            });
        }

        private void show(final List<Bundle> found, final String said) {
            tell(new Runnable() {
                @Override
                public void run() {
                    bundles = found;
                    news = said;
                }
            });
        }

        void take(final Uri file) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    String name;
                    try (InputStream stream = stream(app, file)) {
                        name = app.bundles().unzip(stream, name(app, file)).folder.getName();
                    } catch (IOException error) {
                        throw new EdgeException("the file cannot be read (" + error.getMessage() + "): choose it again.", error);
                    }
                    show(app.bundles().list(), app.getString(R.string.imported, name));
                }
            });
        }

        void remove(final Bundle bundle) {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    app.bundles().remove(bundle);
                    show(app.bundles().list(), app.getString(R.string.removed, bundle.folder.getName()));
                }
            });
        }
    }

    private LinearLayout list;
    private TextView status;
    private List<Bundle> shown;

    @Override
    CharSequence title() {
        return getString(R.string.app_name);
    }

    @Override
    Listing begin(Intent intent) {
        return new Listing(App.of(this));
    }

    @Override
    void begun() {
        work().list("");
    }

    @Override
    View build() {
        LinearLayout column = ui.column();
        status = ui.status();
        list = ui.column();
        column.addView(ui.button(R.string.import_bundle, new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                pick("*/*");
            }
        }), Ui.wide());
        column.addView(ui.text(getString(R.string.import_hint), 12));
        column.addView(status, Ui.wide());
        column.addView(list, Ui.wide());
        return ui.scrolled(column);
    }

    @Override
    void picked(Uri file) {
        work().take(file);
    }

    @Override
    void refresh() {
        Listing work = work();
        String words = work.trouble != null ? work.trouble : work.busy() ? getString(R.string.reading) : work.news;
        if (words.isEmpty() && work.bundles.isEmpty()) {
            words = getString(R.string.no_bundles);
        }
        if (!words.contentEquals(status.getText())) {
            status.setText(words);
        }
        if (shown != work.bundles) {
            shown = work.bundles;
            list.removeAllViews();
            for (Bundle bundle : shown) {
                list.addView(card(bundle), Ui.wide());
            }
        }
    }

    private View card(final Bundle bundle) {
        final String name = bundle.folder.getName();
        Manifest manifest = bundle.manifest;
        LinearLayout card = ui.column();
        card.setPadding(0, ui.dp(12), 0, ui.dp(4));
        card.addView(ui.text(name, 18));
        card.addView(ui.text(getString(R.string.facts, manifest.model, manifest.scheme, manifest.runtime, bundle.artifactBytes() / 1e6), 14));
        LinearLayout buttons = ui.row();
        final Class<? extends Activity> screen = screen(manifest);
        if (screen != null) {
            buttons.addView(action(R.string.open, name, new View.OnClickListener() {
                @Override
                public void onClick(View view) {
                    open(MainActivity.this, screen, name);
                }
            }));
        }
        buttons.addView(action(R.string.profile, name, new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                open(MainActivity.this, ProfileActivity.class, name);
            }
        }));
        if (!App.of(this).bundles().packaged(bundle)) {
            buttons.addView(action(R.string.remove, name, new View.OnClickListener() {
                @Override
                public void onClick(View view) {
                    work().remove(bundle);
                }
            }));
        }
        card.addView(buttons);
        return card;
    }

    /** A button whose name says which bundle it is for, to those who hear it alone. */
    private View action(int label, String bundle, View.OnClickListener pressed) {
        View button = ui.button(label, pressed);
        button.setContentDescription(getString(label) + " " + bundle);
        return button;
    }

    /** The screen of the model's own task; null if the app has none for it. */
    static Class<? extends Activity> screen(Manifest manifest) {
        switch (manifest.family) {
            case "plm":
                return ChatActivity.class;
            case "interformer":
                return manifest.has("click") ? SegmentActivity.class : null;
            case "fmvit":
                return ClassifyActivity.class;
            case "tspulse":
                return manifest.has("reconstruct") ? SeriesActivity.class : null;
            default:
                return null;
        }
    }
}
