package edge.demo;

import edge.core.Bundle;
import edge.core.EdgeException;
import edge.core.Engines;
import edge.core.Model;

/** Work with one bundle, checked and loaded before the first job that needs it. */
abstract class ModelWork extends Work {
    private final App app;
    private final String name;
    private Bundle bundle;
    private volatile Model model;

    ModelWork(App app, String name) {
        this.app = app;
        this.name = name;
    }

    final App app() {
        return app;
    }

    /** In a job: the bundle, checked once. */
    final Bundle bundle() throws EdgeException {
        if (bundle == null) {
            bundle = app.bundles().open(name);
        }
        return bundle;
    }

    /** In a job: the model, loaded anew if the last one ended. */
    final Model model() throws EdgeException {
        if (model == null) {
            Model loaded = Engines.find(app.engines(), bundle()).open(bundle(), threads(bundle()));
            model = loaded;
            if (closed()) {
                // The screen was left meanwhile: release() saw no model.
                release();
            }
        }
        return model;
    }

    /** Its program may have ended: the next job starts another. */
    @Override
    void failed() {
        release();
    }

    static int threads(Bundle bundle) {
        return Math.max(1, Math.min(bundle.manifest.threads, Runtime.getRuntime().availableProcessors()));
    }

    @Override
    void release() {
        Model loaded = model;
        model = null;
        if (loaded != null) {
            loaded.close();
        }
    }
}
