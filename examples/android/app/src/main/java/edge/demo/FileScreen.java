package edge.demo;

import android.net.Uri;
import android.view.View;
import android.widget.LinearLayout;
import android.widget.TextView;

/** A screen whose model works on a sample of its own, at first and when asked, or on a file that the user chooses. */
abstract class FileScreen<W extends FileScreen.FileWork> extends Screen<W> {
    private TextView status;

    /** What such a screen shows. */
    abstract static class FileWork extends ModelWork {
        FileWork(App app, String name) {
            super(app, name);
        }

        /** Work on the next sample. */
        abstract void sample();

        /** Work on the user's file. */
        abstract void open(Uri file);
    }

    /** The kind of file that the picker offers. */
    abstract String type();

    @Override
    void begun() {
        work().sample();
    }

    @Override
    void picked(Uri file) {
        work().open(file);
    }

    /** The line for {@link #say}. */
    final TextView status() {
        status = ui.status();
        return status;
    }

    /** The buttons for a sample and, with {@code label}, for a file. */
    final LinearLayout sources(int label) {
        return ui.row(
                ui.button(R.string.sample, new View.OnClickListener() {
                    @Override
                    public void onClick(View pressed) {
                        work().sample();
                    }
                }),
                ui.button(label, new View.OnClickListener() {
                    @Override
                    public void onClick(View pressed) {
                        pick(type());
                    }
                }));
    }

    /** What went wrong, or that the model loads as long as it works with nothing to show ({@code empty}), or {@code words}. */
    final void say(boolean empty, String words) {
        String trouble = work().trouble;
        String said = trouble != null ? trouble : empty && work().busy() ? getString(R.string.loading) : words;
        if (!said.contentEquals(status.getText())) {
            status.setText(said); // TalkBack reads what is set, the same or not
        }
    }
}
