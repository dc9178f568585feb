package edge.core;

import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Enumeration;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;

/** numpy's .npz: a zip of .npy files (numpy.org, "numpy.lib.format", versions 1 to 3), plain arrays in C order only. */
public final class Npz {
    /** Bytes of one array, decompressed: what claims more is meant to exhaust memory. */
    private static final long LARGEST = 256L << 20;
    private static final Pattern HEADER = Pattern.compile(
            "\\s*\\{\\s*'descr':\\s*'([^']+)',\\s*'fortran_order':\\s*(True|False),\\s*'shape':\\s*\\(([0-9, ]*)\\),?\\s*\\}\\s*");
    private static final Map<String, String> DTYPES = new HashMap<String, String>();

    static {
        String[][] pairs = {{"<f4", "float32"}, {"<f2", "float16"}, {"<i8", "int64"}, {"<i4", "int32"}, {"|i1", "int8"}, {"|u1", "uint8"}, {"|b1", "bool"}};
        for (String[] pair : pairs) {
            DTYPES.put(pair[0], pair[1]);
        }
    }

    private Npz() {}

    /** The arrays whose names begin with {@code prefix} ("": all), in the file's order. */
    public static Map<String, Tensor> read(File file, String prefix) throws EdgeException {
        Map<String, Tensor> arrays = new LinkedHashMap<String, Tensor>();
        try (ZipFile archive = new ZipFile(file)) {
            for (Enumeration<? extends ZipEntry> entries = archive.entries(); entries.hasMoreElements();) {
                ZipEntry entry = entries.nextElement();
                String name = entry.getName();
                if (name.endsWith(".npy") && name.startsWith(prefix)) {
                    try (InputStream stream = archive.getInputStream(entry)) {
                        arrays.put(name.substring(0, name.length() - 4), array(Text.readAll(stream, LARGEST)));
                    }
                }
            }
        } catch (IOException error) {
            throw new EdgeException(file.getName() + " is no .npz file (" + error.getMessage() + "): make it again.", error);
        } catch (NumberFormatException error) {
            throw new EdgeException(file.getName() + " is a damaged .npz file (" + error.getMessage() + "): make it again.", error);
        }
        return arrays;
    }

    /** One .npy file. */
    static Tensor array(byte[] bytes) throws EdgeException {
        ByteBuffer data = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        boolean sound = bytes.length > 12 && (bytes[0] & 0xff) == 0x93 && new String(bytes, 1, 5, Text.UTF8).equals("NUMPY");
        int version = sound ? bytes[6] : 0;
        if (version < 1 || version > 3) {
            throw new EdgeException("an array in the file is no .npy: make the file again.");
        }
        int start = version == 1 ? 10 : 12;
        long length = version == 1 ? data.getShort(8) & 0xffff : data.getInt(8) & 0xffffffffL;
        if (start + length > bytes.length) {
            throw new EdgeException("an array in the file is cut off: make the file again.");
        }
        Matcher header = HEADER.matcher(new String(bytes, start, (int) length, Text.UTF8));
        if (!header.matches() || !DTYPES.containsKey(header.group(1)) || header.group(2).equals("True")) {
            throw new EdgeException("an array in the file is of a kind that edge does not write: make the file again.");
        }
        int from = start + (int) length;
        byte[] values = new byte[bytes.length - from];
        System.arraycopy(bytes, from, values, 0, values.length);
        return new Tensor(DTYPES.get(header.group(1)), shape(header.group(3)), values);
    }

    private static int[] shape(String text) {
        String[] parts = text.replace(" ", "").split(",");
        int count = 0;
        int[] shape = new int[parts.length];
        for (String part : parts) {
            if (!part.isEmpty()) {
                shape[count++] = Integer.parseInt(part);
            }
        }
        return java.util.Arrays.copyOf(shape, count);
    }
}
