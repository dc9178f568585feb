package edge.demo;

import android.content.Intent;
import android.view.View;
import android.view.inputmethod.EditorInfo;
import android.widget.Button;
import android.widget.CheckBox;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.ScrollView;
import android.widget.TextView;
import edge.core.Chat;
import edge.core.EdgeException;
import edge.core.Sampler;

/** PLM: text that grows as the model writes it, and how fast. */
public final class ChatActivity extends Screen<ChatActivity.Talk> {
    private static final int MOST_TOKENS = 200;
    private static final double TEMPERATURE = 0.8, TOP_P = 0.95;

    /** What was said so far. */
    static final class Talk extends ModelWork {
        private final StringBuilder said = new StringBuilder();
        private String rate = "";
        private Chat chat;

        Talk(App app, String name) {
            super(app, name);
        }

        void ask(final String text, final boolean turns, final boolean vary) {
            said.append(said.length() > 0 ? "\n\n" : "").append(turns ? "> " + text + "\n" : text);
            start(new Job() {
                @Override
                public void run() throws EdgeException {
                    if (chat == null) {
                        chat = new Chat(bundle(), model());
                    }
                    Sampler sampler = new Sampler(vary ? TEMPERATURE : 0, TOP_P, System.nanoTime());
                    chat.run(text, turns, MOST_TOKENS, sampler, new Chat.Listener() {
                        @Override
                        public boolean heard(String piece, Chat.Timing timing) {
                            add(piece, app().getString(R.string.rate, timing.tokens, timing.tokensPerSecond(), timing.prompt, 1e3 * timing.prefillSeconds));
                            return !stopped();
                        }
                    });
                }
            });
        }

        private void add(final String piece, final String words) {
            tell(new Runnable() {
                @Override
                public void run() {
                    said.append(piece);
                    rate = words;
                }
            });
        }

        @Override
        void release() {
            chat = null;
            super.release();
        }
    }

    private TextView transcript;
    private TextView status;
    private ScrollView scroll;
    private EditText input;
    private CheckBox turns;
    private CheckBox vary;
    private Button send;

    @Override
    Talk begin(Intent intent) {
        return new Talk(App.of(this), bundleName());
    }

    @Override
    View build() {
        transcript = ui.text("", 16);
        transcript.setTextIsSelectable(true);
        scroll = ui.scrolled(transcript);
        // Not read piece by piece: what is new of the figures is said when the text is done.
        status = ui.text("", 14);
        input = new EditText(this);
        input.setId(R.id.prompt); // so that what is typed stays when the screen is turned
        input.setHint(R.string.prompt);
        input.setMaxLines(4);
        input.setImeOptions(EditorInfo.IME_FLAG_NO_EXTRACT_UI);
        turns = new CheckBox(this);
        turns.setId(R.id.turns);
        turns.setText(R.string.turns);
        vary = new CheckBox(this);
        vary.setId(R.id.vary);
        vary.setText(R.string.vary);
        send = ui.button(R.string.send, new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                pressed();
            }
        });
        LinearLayout line = ui.row(input, send);
        input.setLayoutParams(new LinearLayout.LayoutParams(0, LinearLayout.LayoutParams.WRAP_CONTENT, 1));
        LinearLayout below = ui.column();
        below.setPadding(ui.dp(16), 0, ui.dp(16), ui.dp(8));
        below.addView(status, Ui.wide());
        below.addView(ui.row(turns, vary), Ui.wide());
        below.addView(line, Ui.wide());
        LinearLayout column = ui.column();
        column.addView(scroll, Ui.fill(1));
        column.addView(below, Ui.wide());
        return column;
    }

    private void pressed() {
        if (work().busy()) {
            work().stop();
        } else if (input.getText().length() > 0) {
            work().ask(input.getText().toString(), turns.isChecked(), vary.isChecked());
            input.setText("");
        }
    }

    @Override
    void refresh() {
        Talk work = work();
        boolean atEnd = scroll.getScrollY() + scroll.getHeight() >= transcript.getHeight() - ui.dp(48);
        transcript.setText(work.said.length() == 0 ? getString(R.string.nothing_said) : work.said);
        send.setText(work.busy() ? R.string.stop : R.string.send);
        status.setAccessibilityLiveRegion(work.busy() ? View.ACCESSIBILITY_LIVE_REGION_NONE : View.ACCESSIBILITY_LIVE_REGION_POLITE);
        status.setText(work.trouble == null ? work.rate : work.trouble);
        if (atEnd && work.busy()) {
            scroll.post(new Runnable() {
                @Override
                public void run() {
                    scroll.fullScroll(View.FOCUS_DOWN);
                    input.requestFocus(); // fullScroll moves it
                }
            });
        }
    }
}
