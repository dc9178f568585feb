package edge.core;

import java.util.List;

/** Chooses what runs a bundle. */
public final class Engines {
    private Engines() {}

    /** The first engine that takes the bundle's runtime; throws if there is none. */
    public static Engine find(List<Engine> engines, Bundle bundle) throws EdgeException {
        for (Engine engine : engines) {
            if (engine.takes(bundle.manifest)) {
                return engine;
            }
        }
        throw new EdgeException(bundle.folder.getName() + " is for the runtime '" + bundle.manifest.runtime + "', which this build of the app does not have: "
                + "export it with --target android --runtime tvm --static.");
    }
}
