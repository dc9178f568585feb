package edge.demo;

import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.os.BatteryManager;
import android.os.Build;
import edge.core.Machine;
import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.json.JSONException;
import org.json.JSONObject;

/** This phone: where an app may not read the CPU's sensors, Android's own words for heat. */
final class Phone extends Machine {
    private static final String[] STATUS = {"none", "light", "moderate", "severe", "critical", "emergency", "shutdown"};
    private final Context context;

    Phone(Context context) {
        super(new File("/"));
        this.context = context;
    }

    @Override
    public Double temperature() {
        Double cpu = super.temperature();
        if (cpu != null) {
            return cpu;
        }
        Intent battery = context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
        int tenths = battery == null ? 0 : battery.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, 0);
        return tenths > 0 ? tenths / 10.0 : null;
    }

    /** Whether {@link #temperature} is the battery's. */
    boolean batteryOnly() {
        return super.temperature() == null;
    }

    @Override
    protected String temperatureSource() {
        return batteryOnly() ? "the battery's, from Android: an app may not read the CPU's" : super.temperatureSource();
    }

    @Override
    public List<String> throttled() {
        Integer status = Later.thermalStatus(context);
        if (status == null) {
            return null;
        }
        List<String> held = new ArrayList<String>();
        if (status > 0) {
            held.add("Android's thermal status " + STATUS[Math.min(status, STATUS.length - 1)]);
        }
        return held;
    }

    @Override
    protected String throttlingSource() {
        return Later.thermalStatus(context) == null ? super.throttlingSource() : "PowerManager.getCurrentThermalStatus";
    }

    @Override
    protected String name() {
        return Build.MANUFACTURER + " " + Build.MODEL + " (" + Build.HARDWARE + ")";
    }

    @Override
    protected String system() {
        return "Android " + Build.VERSION.RELEASE + ", Linux " + System.getProperty("os.version");
    }

    @Override
    protected JSONObject versions() throws JSONException {
        return new JSONObject().put("android", Build.VERSION.RELEASE + " (API " + Build.VERSION.SDK_INT + ")");
    }
}
