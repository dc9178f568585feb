package edge.core;

import java.util.Map;

/** What a call gave: outputs by name, and the nanoseconds of each run. */
public final class Answer {
    public final Map<String, Tensor> outputs;
    public final long[] nanos;

    public Answer(Map<String, Tensor> outputs, long[] nanos) {
        this.outputs = outputs;
        this.nanos = nanos.clone();
    }

    public Tensor get(String name) throws EdgeException {
        Tensor found = outputs.get(name);
        if (found == null) {
            throw new EdgeException("the model gives no output '" + name + "': export the bundle again.");
        }
        return found;
    }
}
