package edge.core;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.regex.Pattern;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * The machine and its sensors, as edge.measurement's DeviceFacts and Reading want them: the kernel's files, under {@code root}.
 * What is not readable is null, and {@link #sources} says why; a phone adds what only Android says.
 */
public class Machine {
    static final String NOT_READABLE = "not readable";
    /** Types of thermal zones that are the CPU's, as in edge.devices.sensors. */
    private static final Pattern CPU_ZONE = Pattern.compile("cpu|soc|x86_pkg_temp|tsens|mtktscpu|^(big|little|mid)$", Pattern.CASE_INSENSITIVE);

    private final File root;
    private final List<File> frequencies = new ArrayList<File>();
    private final List<File> zones = new ArrayList<File>();

    public Machine(File root) {
        this.root = root;
        for (File policy : listed("sys/devices/system/cpu/cpufreq", "policy")) {
            if (number(new File(policy, "scaling_cur_freq")) != null) {
                frequencies.add(new File(policy, "scaling_cur_freq"));
            }
        }
        for (File zone : listed("sys/class/thermal", "thermal_zone")) {
            String type = text(new File(zone, "type"));
            if (type != null && CPU_ZONE.matcher(type).find() && number(new File(zone, "temp")) != null) {
                zones.add(new File(zone, "temp"));
            }
        }
    }

    /** Hottest of the CPU's zones in degrees Celsius, or null. */
    public Double temperature() {
        Double hottest = null;
        for (File zone : zones) {
            Double value = number(zone);
            if (value != null && value / 1e3 >= 1 && value / 1e3 <= 130) { // what is switched off says 0 or far below
                hottest = hottest == null ? value / 1e3 : Math.max(hottest, value / 1e3);
            }
        }
        return hottest;
    }

    protected String temperatureSource() {
        return zones.isEmpty() ? NOT_READABLE + ": no thermal zone of the CPU's can be read" : "/sys/class/thermal, zones of the CPU";
    }

    /** What holds the clock back now: empty is nothing, null is not known. */
    public List<String> throttled() {
        return null;
    }

    protected String throttlingSource() {
        return NOT_READABLE + ": nothing here says it";
    }

    protected String name() {
        String cpuinfo = text(new File(root, "proc/cpuinfo"));
        for (String line : (cpuinfo == null ? "" : cpuinfo).split("\n")) {
            if (line.startsWith("model name") || line.startsWith("Hardware")) {
                return line.substring(line.indexOf(':') + 1).trim();
            }
        }
        return "unknown";
    }

    protected String system() {
        return System.getProperty("os.name") + " " + System.getProperty("os.version");
    }

    protected JSONObject versions() throws JSONException {
        return new JSONObject();
    }

    /** edge.conditions.Reading at a moment of the measurement's time line. */
    JSONObject reading(double atUs, long resident) throws JSONException {
        JSONArray clocks = new JSONArray();
        for (Double clock : frequencies()) {
            clocks.put(clock);
        }
        List<String> held = throttled();
        return new JSONObject().put("at_us", atUs).put("frequencies_mhz", clocks).put("temperature_c", orNull(temperature()))
                .put("throttled", held == null ? JSONObject.NULL : new JSONArray(held)).put("rss_bytes", resident < 0 ? JSONObject.NULL : resident);
    }

    JSONObject sources() throws JSONException {
        return new JSONObject()
                .put("frequency", frequencies.isEmpty() ? NOT_READABLE + ": no cpufreq policy can be read" : "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
                .put("temperature", temperatureSource()).put("throttling", throttlingSource())
                .put("energy", NOT_READABLE + ": an app has no meter");
    }

    /** edge.measurement.DeviceFacts; {@code device} is its name. Others' use of the cores is 0 where the system hides it from apps. */
    JSONObject facts(String device) throws JSONException {
        Double clock = null;
        for (Double one : frequencies()) {
            clock = clock == null ? one : Math.max(clock, one);
        }
        String governor = text(new File(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
        Double most = number(new File(root, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"));
        String memory = text(new File(root, "proc/meminfo"));
        return new JSONObject().put("device", device).put("system", system()).put("arch", System.getProperty("os.arch").replace("amd64", "x86_64"))
                .put("cpu", name()).put("cores", Runtime.getRuntime().availableProcessors())
                .put("governor", governor == null ? JSONObject.NULL : governor).put("frequency_mhz", orNull(clock))
                .put("max_frequency_mhz", most == null ? JSONObject.NULL : most / 1e3).put("temperature_c", orNull(temperature()))
                .put("caches", new JSONObject()).put("ram_bytes", Math.max(0, memory == null ? 0 : Memory.kilobytes(memory, "MemTotal:")))
                .put("load_average", load()).put("busy", 0.0).put("python", "").put("versions", versions());
    }

    private JSONArray load() throws JSONException {
        String text = text(new File(root, "proc/loadavg"));
        String[] words = (text == null ? "0 0 0" : text).split(" ");
        return new JSONArray().put(Double.parseDouble(words[0])).put(Double.parseDouble(words[1])).put(Double.parseDouble(words[2]));
    }

    /** MHz of each group of cores that shares a clock. */
    public List<Double> frequencies() {
        List<Double> found = new ArrayList<Double>();
        for (File file : frequencies) {
            Double value = number(file);
            if (value != null) {
                found.add(value / 1e3);
            }
        }
        return found;
    }

    private static Object orNull(Double value) {
        return value == null ? JSONObject.NULL : value;
    }

    /** Folders whose names are {@code prefix} and a number, in the order of the numbers. */
    private List<File> listed(String folder, final String prefix) {
        File[] all = new File(root, folder).listFiles();
        List<File> found = new ArrayList<File>();
        for (File one : all == null ? new File[0] : all) {
            if (one.getName().matches(prefix + "\\d+")) {
                found.add(one);
            }
        }
        File[] sorted = found.toArray(new File[0]);
        Arrays.sort(sorted, new Comparator<File>() {
            @Override
            public int compare(File left, File right) {
                return Integer.valueOf(left.getName().substring(prefix.length())).compareTo(Integer.valueOf(right.getName().substring(prefix.length())));
            }
        });
        return Arrays.asList(sorted);
    }

    private static String text(File file) {
        try {
            return Text.read(file).trim();
        } catch (IOException error) {
            return null;
        }
    }

    private static Double number(File file) {
        String text = text(file);
        return text != null && text.matches("-?\\d+") ? Double.valueOf(text) : null;
    }
}
