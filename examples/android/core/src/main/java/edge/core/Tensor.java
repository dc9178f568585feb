package edge.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;

/** Values in memory: dtype by the manifest's names, shape, and the bytes, little-endian and in C order. */
public final class Tensor {
    public final String dtype;
    private final int[] shape;
    private final ByteBuffer data;

    /** Takes {@code data} as it is, from its beginning; it must hold exactly what the shape asks for. */
    public Tensor(String dtype, int[] shape, byte[] data) throws EdgeException {
        if (!fits(shape) || data.length != count(shape) * itemSize(dtype)) {
            throw new EdgeException("a tensor of " + Arrays.toString(shape) + " " + dtype + " has " + data.length + " bytes: it is damaged.");
        }
        this.dtype = dtype;
        this.shape = shape.clone();
        this.data = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN);
    }

    public static Tensor ofFloats(float[] values, int... shape) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        return known("float32", shape, bytes.array());
    }

    public static Tensor ofLongs(long[] values, int... shape) {
        ByteBuffer bytes = ByteBuffer.allocate(8 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asLongBuffer().put(values);
        return known("int64", shape, bytes.array());
    }

    private static Tensor known(String dtype, int[] shape, byte[] data) {
        try {
            return new Tensor(dtype, shape, data);
        } catch (EdgeException error) {
            throw new IllegalArgumentException(error);
        }
    }

    public int[] shape() {
        return shape.clone();
    }

    public int size() {
        return count(shape);
    }

    /** All of its bytes; the array is the tensor's own. */
    public byte[] bytes() {
        return data.array();
    }

    /** The values as floats, whatever the dtype. */
    public float[] floats() {
        int size = size();
        float[] values = new float[size];
        if (dtype.equals("float32")) {
            data.asFloatBuffer().get(values);
        } else if (dtype.equals("float16")) {
            for (int index = 0; index < size; index++) {
                values[index] = fromHalf(data.getShort(2 * index));
            }
        } else {
            for (int index = 0; index < size; index++) {
                values[index] = integer(index);
            }
        }
        return values;
    }

    /** The value at {@code index} of a tensor of whole numbers (a bool is 0 or 1). */
    public long integer(int index) {
        switch (dtype) {
            case "int64":
                return data.getLong(8 * index);
            case "int32":
                return data.getInt(4 * index);
            case "int8":
                return data.get(index);
            default:
                return data.get(index) & 0xff;
        }
    }

    /** Values of a tensor of that shape, which fits. */
    static int count(int[] shape) {
        int size = 1;
        for (int axis : shape) {
            size *= axis;
        }
        return size;
    }

    /** Whether a tensor of that shape can be: no negative axis, and bytes that an int can count. */
    static boolean fits(int[] shape) {
        long size = 1;
        for (int axis : shape) {
            if (axis < 0 || axis > Integer.MAX_VALUE / 8) {
                return false;
            }
            size *= axis;
            if (size > Integer.MAX_VALUE / 8) {
                return false;
            }
        }
        return true;
    }

    static int itemSize(String dtype) throws EdgeException {
        switch (dtype) {
            case "int64":
                return 8;
            case "float32":
            case "int32":
                return 4;
            case "float16":
                return 2;
            case "int8":
            case "uint8":
            case "bool":
                return 1;
            default:
                throw new EdgeException("there is no dtype '" + dtype + "': export the bundle again.");
        }
    }

    /** IEEE 754 binary16 to binary32. */
    static float fromHalf(short half) {
        int sign = half & 0x8000, exponent = half >> 10 & 0x1f, mantissa = half & 0x3ff;
        float size;
        if (exponent == 0) {
            size = mantissa * 0x1p-24f;
        } else if (exponent == 31) {
            size = mantissa == 0 ? Float.POSITIVE_INFINITY : Float.NaN;
        } else {
            size = Float.intBitsToFloat(exponent + 112 << 23 | mantissa << 13);
        }
        return sign == 0 ? size : -size;
    }
}
