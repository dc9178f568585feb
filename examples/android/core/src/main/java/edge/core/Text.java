package edge.core;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.Charset;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.List;

/** Bytes, text and hashes, in the Java that Android 6 has. */
public final class Text {
    public static final Charset UTF8 = Charset.forName("UTF-8");
    private static final int BLOCK = 1 << 16;

    private Text() {}

    public static String join(String between, List<String> parts) {
        StringBuilder joined = new StringBuilder();
        for (String part : parts) {
            if (joined.length() > 0) {
                joined.append(between);
            }
            joined.append(part);
        }
        return joined.toString();
    }

    /** All that is left in {@code stream}, which is not closed; IOException if it is more than {@code most} bytes. */
    public static byte[] readAll(InputStream stream, long most) throws IOException {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        copy(stream, all, most);
        return all.toByteArray();
    }

    public static byte[] readAll(File file) throws IOException {
        try (InputStream stream = new FileInputStream(file)) {
            return readAll(stream, Integer.MAX_VALUE);
        }
    }

    public static String read(File file) throws IOException {
        return new String(readAll(file), UTF8);
    }

    /** Copies to the end and returns how many bytes it was. */
    public static long copy(InputStream from, OutputStream to, long most) throws IOException {
        byte[] block = new byte[BLOCK];
        long total = 0;
        for (int count = from.read(block); count >= 0; count = from.read(block)) {
            total += count;
            if (total > most) {
                throw new IOException("it is larger than " + most + " bytes");
            }
            to.write(block, 0, count);
        }
        return total;
    }

    /** SHA-256 in hex. */
    public static String sha256(InputStream stream) throws IOException {
        MessageDigest digest = sha256();
        byte[] block = new byte[BLOCK];
        for (int count = stream.read(block); count >= 0; count = stream.read(block)) {
            digest.update(block, 0, count);
        }
        return hex(digest.digest());
    }

    public static String sha256(File file) throws IOException {
        try (InputStream stream = new FileInputStream(file)) {
            return sha256(stream);
        }
    }

    public static String sha256(byte[] bytes) {
        return hex(sha256().digest(bytes));
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error); // every Java has it
        }
    }

    private static String hex(byte[] bytes) {
        StringBuilder hex = new StringBuilder();
        for (byte one : bytes) {
            hex.append(Character.forDigit(one >> 4 & 15, 16)).append(Character.forDigit(one & 15, 16));
        }
        return hex.toString();
    }

    /** Deletes a file, or a folder with all in it. */
    public static void delete(File file) {
        File[] inside = file.listFiles();
        if (inside != null) {
            for (File one : inside) {
                delete(one);
            }
        }
        file.delete();
    }
}
