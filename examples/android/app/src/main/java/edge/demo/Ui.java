package edge.demo;

import android.app.Activity;
import android.content.Context;
import android.graphics.Typeface;
import android.text.InputType;
import android.util.TypedValue;
import android.view.Gravity;
import android.view.View;
import android.widget.Button;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.ScrollView;
import android.widget.TextView;

/** Views, made in code: the few kinds that the screens are built of. */
final class Ui {
    private final Context context;

    Ui(Context context) {
        this.context = context;
    }

    int dp(float size) {
        return Math.round(TypedValue.applyDimension(TypedValue.COMPLEX_UNIT_DIP, size, context.getResources().getDisplayMetrics()));
    }

    LinearLayout column() {
        LinearLayout column = new LinearLayout(context);
        column.setOrientation(LinearLayout.VERTICAL);
        return column;
    }

    LinearLayout row(View... views) {
        LinearLayout row = new LinearLayout(context);
        row.setOrientation(LinearLayout.HORIZONTAL);
        row.setGravity(Gravity.CENTER_VERTICAL);
        for (View view : views) {
            row.addView(view);
        }
        return row;
    }

    TextView text(CharSequence words, float size) {
        TextView view = new TextView(context);
        view.setText(words);
        view.setTextSize(TypedValue.COMPLEX_UNIT_SP, size);
        view.setTextColor(context.getResources().getColor(R.color.text));
        return view;
    }

    /** Changes are read aloud. */
    TextView status() {
        TextView view = text("", 14);
        view.setAccessibilityLiveRegion(View.ACCESSIBILITY_LIVE_REGION_POLITE);
        view.setPadding(0, dp(8), 0, dp(8));
        return view;
    }

    TextView figures() {
        TextView view = text("", 14);
        view.setTypeface(Typeface.MONOSPACE);
        view.setTextIsSelectable(true);
        return view;
    }

    Button button(int label, View.OnClickListener pressed) {
        Button button = new Button(context);
        button.setText(label);
        button.setAllCaps(false);
        button.setMinHeight(dp(48));
        button.setOnClickListener(pressed);
        return button;
    }

    /** A whole number; {@code hint} is what it is, which TalkBack reads as well. */
    EditText number(int id, int hint, int value) {
        EditText field = new EditText(context);
        field.setId(id); // so that what is entered stays when the screen is turned
        field.setInputType(InputType.TYPE_CLASS_NUMBER);
        field.setHint(hint);
        field.setContentDescription(context.getString(hint));
        field.setText(String.valueOf(value));
        field.setMinHeight(dp(48));
        return field;
    }

    LinearLayout labelled(int label, EditText field) {
        LinearLayout column = column();
        TextView above = text(context.getString(label), 12);
        above.setLabelFor(field.getId());
        column.addView(above);
        column.addView(field);
        column.setLayoutParams(new LinearLayout.LayoutParams(0, LinearLayout.LayoutParams.WRAP_CONTENT, 1));
        return column;
    }

    static LinearLayout.LayoutParams fill(float weight) {
        return new LinearLayout.LayoutParams(LinearLayout.LayoutParams.MATCH_PARENT, 0, weight);
    }

    static LinearLayout.LayoutParams wide() {
        return new LinearLayout.LayoutParams(LinearLayout.LayoutParams.MATCH_PARENT, LinearLayout.LayoutParams.WRAP_CONTENT);
    }

    LinearLayout.LayoutParams high(float size) {
        return new LinearLayout.LayoutParams(LinearLayout.LayoutParams.MATCH_PARENT, dp(size));
    }

    /** The screen's content: a title, and {@code body} below, kept clear of the system's bars and the keyboard. */
    static void show(Activity activity, Ui ui, CharSequence title, View body) {
        LinearLayout root = ui.column();
        root.setFitsSystemWindows(true);
        TextView heading = ui.text(title, 20);
        heading.setPadding(ui.dp(16), ui.dp(12), ui.dp(16), ui.dp(12));
        heading.setTypeface(Typeface.DEFAULT_BOLD);
        if (android.os.Build.VERSION.SDK_INT >= 28) {
            Later.heading(heading);
        }
        root.addView(heading, wide());
        root.addView(body, fill(1));
        activity.setTitle(title);
        activity.setContentView(root);
    }

    ScrollView scrolled(View inside) {
        ScrollView scroll = new ScrollView(context);
        scroll.setFillViewport(true);
        inside.setPadding(dp(16), 0, dp(16), dp(16));
        scroll.addView(inside);
        return scroll;
    }
}
