package edge.core;

import java.io.File;

/** Bundles whose artifact is a program that holds its model (docs/runner.md): it is started with `--serve` and kept as a child. */
public final class StaticEngine implements Engine {
    private static final String WEIGHTS = "weights.bin";
    private final Programs programs;

    public StaticEngine(Programs programs) {
        this.programs = programs;
    }

    @Override
    public boolean takes(Manifest manifest) {
        return manifest.runtime.equals("static");
    }

    @Override
    public Model open(Bundle bundle, int threads) throws EdgeException {
        String artifact = bundle.manifest.entries.get(0).artifact;
        File program = programs.find(bundle.record(artifact).sha256);
        if (program == null) {
            throw new EdgeException("this app has no program for " + bundle.folder.getName()
                    + ", and Android starts none that is imported: build the app with this bundle among its BUNDLES.");
        }
        File weights = bundle.lists(WEIGHTS) ? bundle.file(WEIGHTS) : null;
        return new ChildModel(program, weights, threads);
    }
}
