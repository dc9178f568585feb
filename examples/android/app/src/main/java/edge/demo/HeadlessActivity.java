package edge.demo;

import android.content.Intent;
import android.view.View;
import android.view.WindowManager;
import android.widget.TextView;
import edge.core.Bundle;
import edge.core.EdgeException;
import edge.core.Headless;
import edge.core.Profiler;
import java.io.File;
import java.text.SimpleDateFormat;
import java.util.Date;
import java.util.Locale;
import java.util.TimeZone;

/**
 * A profile that a computer asks for:
 *
 *     adb shell am start -S -n edge.demo/.HeadlessActivity --es bundle NAME --ei iterations 100 [--ei threads N] [--ei warmup N] [--es result NAME]
 *
 * (-S ends the app first, so that nothing else of it runs.) The result is profiles/RESULT.json (by default profile.json) in the app's folder on the shared storage, or RESULT.error
 * with one sentence. It is a screen, since what is not on the screen is given slow cores.
 */
public final class HeadlessActivity extends Screen<HeadlessActivity.Asked> {
    private static final int WARMUP = 10, ITERATIONS = 100;

    /** The profile of one `am start`. */
    static final class Asked extends ModelWork {
        private final Intent intent;
        private String words = "";

        Asked(App app, Intent intent) {
            super(app, intent.getStringExtra(BUNDLE) == null ? "" : intent.getStringExtra(BUNDLE));
            this.intent = intent;
        }

        void answer() {
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    File shared = app().getExternalFilesDir(null);
                    if (shared == null) {
                        throw new EdgeException("the phone's shared storage is not there: try again.");
                    }
                    String result = intent.hasExtra("result") ? intent.getStringExtra("result") : "profile";
                    Headless headless = new Headless(new File(shared, "profiles"), result);
                    String said;
                    try {
                        Bundle bundle = bundle();
                        Profiler.Settings settings = new Profiler.Settings(intent.getIntExtra("threads", threads(bundle)),
                                intent.getIntExtra("warmup", WARMUP), intent.getIntExtra("iterations", ITERATIONS));
                        said = headless.run(bundle, app().engines(), new Phone(app()), Version.NAME, settings, now(), new Profiler.Progress() {
                            @Override
                            public boolean at(String entry, int done, int all) {
                                say(app().getString(R.string.measuring, entry, done, all));
                                return !stopped();
                            }
                        });
                    } catch (EdgeException error) {
                        said = headless.failed(error.getMessage());
                    }
                    say(said);
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

    private TextView status;

    /** ISO 8601 in UTC, as edge writes it. */
    static String now() {
        SimpleDateFormat format = new SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'+00:00'", Locale.ROOT);
        format.setTimeZone(TimeZone.getTimeZone("UTC"));
        return format.format(new Date());
    }

    @Override
    Asked begin(Intent intent) {
        return new Asked(App.of(this), intent);
    }

    @Override
    void begun() {
        work().answer();
    }

    @Override
    View build() {
        getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        status = ui.status();
        return ui.scrolled(status);
    }

    @Override
    void refresh() {
        status.setText(work().trouble == null ? work().words : work().trouble);
    }
}
