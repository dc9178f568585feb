package edge.demo;

import android.os.Handler;
import android.os.Looper;
import edge.core.EdgeException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * What a screen computes, in a thread of its own. It outlives the screen when that is turned: the new one watches it and
 * shows what it has. Fields are changed on the main thread only, by {@link #tell}.
 */
abstract class Work {
    /** Something to compute. */
    interface Job {
        void run() throws EdgeException;
    }

    private final ExecutorService thread = Executors.newSingleThreadExecutor();
    private final Handler main = new Handler(Looper.getMainLooper());
    private Runnable watcher;
    private int running;
    private int issued;
    /** Jobs are numbered from 1: the one that runs, and the last of those that are to end. */
    private volatile int current;
    private volatile int stopped;
    private volatile boolean closed;
    /** The last thing that went wrong, for the screen; null if nothing did. */
    String trouble;

    /** Begins a job; those before it are finished first. To be called on the main thread. */
    final void start(final Job job) {
        final int number = ++issued;
        running++;
        trouble = null;
        thread.execute(new Runnable() {
            @Override
            public void run() {
                String sentence = null;
                current = number;
                try {
                    job.run();
                } catch (EdgeException error) {
                    sentence = error.getMessage();
                    failed();
                } catch (OutOfMemoryError error) {
                    sentence = "there is not enough memory for this: close other apps and try again.";
                }
                final String told = sentence;
                tell(new Runnable() {
                    @Override
                    public void run() {
                        running--;
                        trouble = told == null ? trouble : told;
                    }
                });
            }
        });
        show();
    }

    /** Changes fields on the main thread and has the screen show them. */
    final void tell(final Runnable change) {
        main.post(new Runnable() {
            @Override
            public void run() {
                if (!closed) {
                    change.run();
                    show();
                }
            }
        });
    }

    final boolean busy() {
        return running > 0;
    }

    /** Asks the jobs that were begun to end soon. */
    final void stop() {
        stopped = issued;
    }

    /** Asked in a job, whether it is to end. */
    final boolean stopped() {
        return current <= stopped || closed;
    }

    final boolean closed() {
        return closed;
    }

    /** {@code watcher} is called on the main thread whenever something has changed, and now; null watches no more. */
    final void watch(Runnable watcher) {
        this.watcher = watcher;
        show();
    }

    private void show() {
        if (watcher != null) {
            watcher.run();
        }
    }

    /** The screen is left for good. */
    final void close() {
        closed = true;
        watcher = null;
        release();
        thread.shutdown();
    }

    /** A job ended with an error; called in its thread. */
    void failed() {}

    /** Ends what keeps memory or processes. Called on the main thread, a job may still run. */
    void release() {}
}
