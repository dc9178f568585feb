package edge.core;

import java.io.File;

/** Where executables are that may be started: Android starts none from a folder that an app can write to. */
public interface Programs {
    /** The program whose file has that SHA-256 (hex), or null. */
    File find(String sha256);
}
