package edge.core;

import java.io.File;
import java.io.IOException;

/** What a process takes, from the kernel's files: bytes, or -1 where they cannot be read. */
public final class Memory {
    private final File process;

    /** @param pid the process, or -1 for this one. */
    public Memory(int pid) {
        process = new File("/proc/" + (pid < 0 ? "self" : Integer.toString(pid)));
    }

    /** Resident now. */
    public long resident() {
        return field("status", "VmRSS:");
    }

    /** The most that was ever resident. */
    public long peak() {
        return field("status", "VmHWM:");
    }

    /** Its proportional part of what it shares. */
    public long proportional() {
        return field("smaps_rollup", "Pss:");
    }

    private long field(String file, String name) {
        try {
            return kilobytes(Text.read(new File(process, file)), name);
        } catch (IOException error) {
            return -1;
        }
    }

    /** The value of a line "Name:   123 kB". */
    static long kilobytes(String text, String name) {
        for (String line : text.split("\n")) {
            if (line.startsWith(name)) {
                return 1024 * Long.parseLong(line.substring(name.length()).replace("kB", "").trim());
            }
        }
        return -1;
    }
}
