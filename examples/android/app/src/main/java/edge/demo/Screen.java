package edge.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Context;
import android.content.Intent;
import android.database.Cursor;
import android.net.Uri;
import android.os.Bundle;
import android.provider.OpenableColumns;
import android.view.View;
import edge.core.EdgeException;
import java.io.FileNotFoundException;
import java.io.InputStream;

/** A screen that shows one {@link Work}, which stays when the screen is turned. */
abstract class Screen<W extends Work> extends Activity {
    static final String BUNDLE = "bundle";
    private static final int PICK = 1;
    private W work;
    Ui ui;

    static void open(Context from, Class<? extends Activity> screen, String bundle) {
        from.startActivity(new Intent(from, screen).putExtra(BUNDLE, bundle));
    }

    @Override
    @SuppressWarnings("unchecked")
    protected final void onCreate(Bundle saved) {
        super.onCreate(saved);
        ui = new Ui(this);
        work = (W) getLastNonConfigurationInstance();
        boolean fresh = work == null;
        if (fresh) {
            work = begin(getIntent());
        }
        Ui.show(this, ui, title(), build());
        if (fresh) {
            begun();
        }
    }

    /** The work of a new screen. */
    abstract W begin(Intent intent);

    /** The views; they show nothing yet. */
    abstract View build();

    /** Shows what the work has now. */
    abstract void refresh();

    /** Called once for each work, when the views are there. */
    void begun() {}

    CharSequence title() {
        return bundleName();
    }

    final W work() {
        return work;
    }

    final String bundleName() {
        String name = getIntent().getStringExtra(BUNDLE);
        return name == null ? "" : name;
    }

    @Override
    protected void onStart() {
        super.onStart();
        work.watch(new Runnable() {
            @Override
            public void run() {
                refresh();
            }
        });
    }

    @Override
    protected void onStop() {
        work.watch(null);
        super.onStop();
    }

    @Override
    public final Object onRetainNonConfigurationInstance() {
        return work;
    }

    @Override
    protected void onDestroy() {
        if (!isChangingConfigurations()) {
            work.close();
        }
        super.onDestroy();
    }

    /** Has the user choose a file with the system's picker; {@link #picked} gets it. */
    final void pick(String type) {
        try {
            startActivityForResult(new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType(type), PICK);
        } catch (ActivityNotFoundException error) {
            noPicker();
        }
    }

    final void noPicker() {
        android.widget.Toast.makeText(this, R.string.no_picker, android.widget.Toast.LENGTH_LONG).show();
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        super.onActivityResult(request, result, data);
        if (request == PICK && result == RESULT_OK && data != null && data.getData() != null) {
            picked(data.getData());
        }
    }

    void picked(Uri file) {}

    /** What the picker called the file. */
    static String name(Context context, Uri file) {
        try (Cursor row = context.getContentResolver().query(file, new String[] {OpenableColumns.DISPLAY_NAME}, null, null, null)) {
            if (row != null && row.moveToFirst() && row.getString(0) != null) {
                return row.getString(0);
            }
        } catch (RuntimeException error) {
            // A provider that fails has no name for it: the address has one.
        }
        return file.getLastPathSegment() == null ? "file" : file.getLastPathSegment();
    }

    static InputStream stream(Context context, Uri file) throws EdgeException {
        try {
            InputStream stream = context.getContentResolver().openInputStream(file);
            if (stream != null) {
                return stream;
            }
        } catch (FileNotFoundException | SecurityException error) {
            throw new EdgeException("the file cannot be read (" + error.getMessage() + "): choose it again.", error);
        }
        throw new EdgeException("the file cannot be read: choose it again.");
    }
}
