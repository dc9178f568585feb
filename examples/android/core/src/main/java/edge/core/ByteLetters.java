package edge.core;

import java.util.HashMap;
import java.util.Map;

/**
 * The letter that byte-level BPE writes for each byte (Radford et al. 2019, GPT-2): printable bytes of Latin-1 stand for
 * themselves, the others for U+0100 and up, in order.
 */
final class ByteLetters {
    private static final String[] LETTERS = new String[256];
    private static final Map<Character, Byte> BYTES = new HashMap<Character, Byte>();

    static {
        int next = 0x100;
        for (int one = 0; one < 256; one++) {
            boolean printable = (one >= '!' && one <= '~') || (one >= 0xa1 && one <= 0xac) || (one >= 0xae && one <= 0xff);
            char letter = (char) (printable ? one : next++);
            LETTERS[one] = String.valueOf(letter);
            BYTES.put(letter, (byte) one);
        }
    }

    private ByteLetters() {}

    static String letter(byte one) {
        return LETTERS[one & 0xff];
    }

    /** The bytes that a token stands for; one that has other letters in it (an added token) stands for its own text. */
    static byte[] bytes(String token) {
        byte[] bytes = new byte[token.length()];
        for (int at = 0; at < bytes.length; at++) {
            Byte one = BYTES.get(token.charAt(at));
            if (one == null) {
                return token.getBytes(Text.UTF8);
            }
            bytes[at] = one;
        }
        return bytes;
    }
}
