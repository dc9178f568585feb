package edge.demo;

import android.content.Context;
import android.os.PowerManager;
import android.view.View;

/** What Android has learnt since the version that the build without Gradle compiles against: called by name. */
final class Later {
    private Later() {}

    /** Android 9: TalkBack goes from heading to heading. */
    static void heading(View view) {
        try {
            View.class.getMethod("setAccessibilityHeading", boolean.class).invoke(view, true);
        } catch (ReflectiveOperationException absent) {
            // An older Android.
        }
    }

    /** Android 10: how hard the phone holds itself back for its heat, from 0 (not) to 6; null where it does not say. */
    static Integer thermalStatus(Context context) {
        try {
            Object power = context.getSystemService(Context.POWER_SERVICE);
            return (Integer) PowerManager.class.getMethod("getCurrentThermalStatus").invoke(power);
        } catch (ReflectiveOperationException absent) {
            return null;
        }
    }
}
