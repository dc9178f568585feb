package edge.demo;

import android.app.Application;
import android.content.Context;
import edge.core.Engine;
import edge.core.Programs;
import edge.core.StaticEngine;
import java.io.File;
import java.util.ArrayList;
import java.util.List;

/** What all screens share: where the programs are, what runs a bundle, and the bundles themselves. */
public final class App extends Application {
    private Bundles bundles;
    private final List<Engine> engines = new ArrayList<Engine>();

    static App of(Context context) {
        return (App) context.getApplicationContext();
    }

    @Override
    public void onCreate() {
        super.onCreate();
        final File libraries = new File(getApplicationInfo().nativeLibraryDir);
        Programs programs = new Programs() {
            @Override
            public File find(String sha256) {
                File program = new File(libraries, "libedge-" + sha256 + ".so");
                return program.isFile() ? program : null;
            }
        };
        bundles = new Bundles(getAssets(), new File(getFilesDir(), "bundles"), programs);
        engines.add(new StaticEngine(programs));
        try {
            // Only the Gradle build has it, with ExecuTorch's library.
            engines.add((Engine) Class.forName("edge.demo.ExecuTorchEngine").getConstructor().newInstance());
        } catch (ReflectiveOperationException absent) {
            // The build from Debian's packages has the one engine.
        }
    }

    Bundles bundles() {
        return bundles;
    }

    List<Engine> engines() {
        return engines;
    }
}
