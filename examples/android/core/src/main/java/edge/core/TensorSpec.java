package edge.core;

import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** Name, dtype and fixed shape of one input or output, as a manifest or a program says it. */
public final class TensorSpec {
    public final String name;
    public final String dtype;
    private final int[] shape;

    public TensorSpec(String name, String dtype, int[] shape) {
        this.name = name;
        this.dtype = dtype;
        this.shape = shape.clone();
    }

    /** Throws for a dtype that no runtime takes, and for a shape that is not of whole numbers. */
    public static TensorSpec of(JSONObject found) throws JSONException, EdgeException {
        JSONArray axes = found.getJSONArray("shape");
        int[] shape = new int[axes.length()];
        for (int axis = 0; axis < shape.length; axis++) {
            if (!(axes.get(axis) instanceof Integer)) {
                throw new EdgeException("the tensor '" + found.getString("name") + "' has a size that changes: export with fixed shapes.");
            }
            shape[axis] = axes.getInt(axis);
        }
        TensorSpec spec = new TensorSpec(found.getString("name"), found.getString("dtype"), shape);
        Tensor.itemSize(spec.dtype);
        if (!Tensor.fits(shape)) {
            throw new EdgeException("the tensor '" + spec.name + "' has no sensible size: export the bundle again.");
        }
        return spec;
    }

    public int[] shape() {
        return shape.clone();
    }

    /** Values in it. */
    public int size() {
        return Tensor.count(shape);
    }

    public int bytes() {
        return size() * itemSize();
    }

    private int itemSize() {
        try {
            return Tensor.itemSize(dtype);
        } catch (EdgeException error) {
            throw new IllegalStateException(error);
        }
    }

    /** Whether two tensors can be the same memory. */
    public boolean sameAs(TensorSpec other) {
        return name.equals(other.name) && dtype.equals(other.dtype) && java.util.Arrays.equals(shape, other.shape);
    }
}
