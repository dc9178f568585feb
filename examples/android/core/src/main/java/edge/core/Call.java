package edge.core;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** One request of a model: what to write into its inputs, how often to run, and which outputs to hand back. */
public final class Call {
    /** Bytes that go to {@code offset} of the input {@code name}. */
    static final class Part {
        final String name;
        final int offset;
        final byte[] bytes;

        Part(String name, int offset, byte[] bytes) {
            this.name = name;
            this.offset = offset;
            this.bytes = bytes;
        }
    }

    public final String entry;
    final List<Part> parts = new ArrayList<Part>();
    /** Null for all. */
    public List<String> outputs;
    public int runs = 1;

    public Call(String entry) {
        this.entry = entry;
    }

    /** All of an input. */
    public Call set(String name, Tensor value) {
        return write(name, 0, value.bytes());
    }

    public Call set(Map<String, Tensor> values) {
        for (Map.Entry<String, Tensor> value : values.entrySet()) {
            set(value.getKey(), value.getValue());
        }
        return this;
    }

    /** Some bytes of an input. */
    public Call write(String name, int offset, byte[] bytes) {
        parts.add(new Part(name, offset, bytes));
        return this;
    }

    /** Only these outputs; all if this is not said. */
    public Call want(List<String> names) {
        outputs = new ArrayList<String>(names);
        return this;
    }

    /** How often it is run on these inputs, each run timed. */
    public Call times(int count) {
        runs = count;
        return this;
    }
}
