package edge.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A model's inputs in this process' memory, by {@link Model}'s rules: what is not written stays, and inputs of the same name,
 * dtype and shape of two entry points are the same memory. At the start all are 0.
 */
public final class Inputs {
    private final Manifest manifest;
    private final Map<String, ByteBuffer> memory = new HashMap<String, ByteBuffer>();

    public Inputs(Manifest manifest) {
        this.manifest = manifest;
        for (Manifest.Entry entry : manifest.entries) {
            for (TensorSpec spec : entry.inputs) {
                ByteBuffer shared = twin(entry, spec);
                memory.put(key(entry.name, spec.name), shared == null ? ByteBuffer.allocateDirect(spec.bytes()).order(ByteOrder.LITTLE_ENDIAN) : shared);
            }
        }
    }

    private ByteBuffer twin(Manifest.Entry entry, TensorSpec spec) {
        for (Manifest.Entry other : manifest.entries) {
            if (other == entry) {
                return null;
            }
            for (TensorSpec known : other.inputs) {
                if (known.sameAs(spec)) {
                    return memory.get(key(other.name, known.name));
                }
            }
        }
        return null;
    }

    private static String key(String entry, String input) {
        return entry + "\n" + input;
    }

    /** Writes what the call brings; throws for an input that is not there, and for bytes that do not fit, before any is written. */
    public void write(Call call) throws EdgeException {
        List<TensorSpec> specs = manifest.entry(call.entry).inputs;
        for (Call.Part part : call.parts) {
            check(specs, part);
        }
        for (Call.Part part : call.parts) {
            ByteBuffer place = memory.get(key(call.entry, part.name)).duplicate();
            place.position(part.offset);
            place.put(part.bytes);
        }
    }

    /** An input's memory, from its beginning; it is the same each time. */
    public ByteBuffer bytes(String entry, String input) {
        ByteBuffer place = memory.get(key(entry, input)).duplicate().order(ByteOrder.LITTLE_ENDIAN);
        place.rewind();
        return place;
    }

    static void check(List<TensorSpec> specs, Call.Part part) throws EdgeException {
        for (TensorSpec spec : specs) {
            if (spec.name.equals(part.name)) {
                if (part.offset < 0 || part.offset > spec.bytes() - part.bytes.length) {
                    throw new EdgeException("the input '" + part.name + "' has " + spec.bytes() + " bytes, and " + part.bytes.length
                            + " from " + part.offset + " on do not fit: pass a tensor of its shape.");
                }
                return;
            }
        }
        throw new EdgeException("the model has no input '" + part.name + "': pass what its manifest lists.");
    }
}
