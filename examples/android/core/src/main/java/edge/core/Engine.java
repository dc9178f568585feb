package edge.core;

/** What computes a bundle: a program of its own as a child process, or a runtime inside the app. */
public interface Engine {
    /** Whether it runs bundles of this runtime. */
    boolean takes(Manifest manifest);

    /** Loads the bundle, which was checked; throws if it cannot be run here. */
    Model open(Bundle bundle, int threads) throws EdgeException;
}
