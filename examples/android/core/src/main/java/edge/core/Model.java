package edge.core;

import java.io.Closeable;

/**
 * A loaded bundle. It is used by one thread at a time, and may be closed by another, which ends what runs.
 *
 * Inputs stay what they were set to: a call writes only what it brings. Inputs of the same name, dtype and shape of two entry
 * points are the same memory, so that a language model's prefill and decode see one cache.
 */
public interface Model extends Closeable {
    Answer run(Call call) throws EdgeException;

    /** Nanoseconds from the start of loading until it could be asked. */
    long loadNanos();

    /** The process that computes, or -1 where it is this one. */
    int pid();

    @Override
    void close();
}
