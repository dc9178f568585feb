package edge.core;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * The numeric columns of a CSV, by the rules of edge.csvfile: with or without a header; commas, semicolons or tabs; UTF-8.
 * Columns without a number, and a first one that counts time, stay out. What is no number is refused with its line and column.
 */
public final class Csv {
    private static final Set<String> MISSING = new HashSet<String>(Arrays.asList("", "nan", "na", "n/a", "null", "none"));
    private static final Set<String> CLOCKS = new HashSet<String>(Arrays.asList(
            "", "time", "timestamp", "date", "datetime", "ds", "index", "unnamed: 0", "epoch"));
    private static final Pattern NUMBER = Pattern.compile("[+-]?(?:(?:\\d+\\.?\\d*|\\.\\d+)(?:e[+-]?\\d+)?|inf(?:inity)?)");

    public final String file;
    public final List<String> names;
    /** [columns][rows], NaN where a cell is missing. */
    public final double[][] columns;
    private final List<Integer> lines;

    private Csv(String file, List<String> names, double[][] columns, List<Integer> lines) {
        this.file = file;
        this.names = names;
        this.columns = columns;
        this.lines = lines;
    }

    public int rows() {
        return lines.size();
    }

    /** Where in the file a row ends, from 1. */
    public int line(int row) {
        return lines.get(row);
    }

    public static Csv parse(String file, byte[] bytes) throws EdgeException {
        String text = decoded(file, bytes);
        List<Integer> lines = new ArrayList<Integer>();
        List<List<String>> rows = cells(file, text, lines);
        if (rows.isEmpty()) {
            throw new EdgeException(file + " is empty: give a CSV with rows of numbers.");
        }
        boolean named = isHeader(rows);
        List<String> header = new ArrayList<String>();
        for (int place = 0; place < rows.get(0).size(); place++) {
            header.add(named ? rows.get(0).get(place).trim() : Integer.toString(place + 1));
        }
        if (named) {
            rows.remove(0);
            lines.remove(0);
        }
        if (rows.isEmpty()) {
            throw new EdgeException(file + " has a header and no data: give a file with rows.");
        }
        List<String> names = new ArrayList<String>();
        List<double[]> columns = new ArrayList<double[]>();
        for (int place = 0; place < header.size(); place++) {
            boolean clock = named && place == 0 && header.size() > 1 && CLOCKS.contains(header.get(0).toLowerCase(Locale.ROOT));
            if (!clock && anyNumber(rows, place)) {
                double[] column = new double[rows.size()];
                for (int row = 0; row < column.length; row++) {
                    column[row] = number(file, lines.get(row), header.get(place), rows.get(row).get(place));
                }
                names.add(header.get(place));
                columns.add(column);
            }
        }
        if (columns.isEmpty()) {
            throw new EdgeException(file + " has no column of numbers: give a CSV with at least one.");
        }
        return new Csv(file, names, columns.toArray(new double[0][]), lines);
    }

    private static String decoded(String file, byte[] bytes) throws EdgeException {
        try {
            String text = Text.UTF8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
            return text.startsWith("\ufeff") ? text.substring(1) : text;
        } catch (CharacterCodingException error) {
            throw new EdgeException(file + " is not UTF-8 text: save it as a UTF-8 CSV.", error);
        }
    }

    private static List<List<String>> cells(String file, String text, List<Integer> lines) throws EdgeException {
        char delimiter = delimiter(text);
        List<List<String>> rows = new ArrayList<List<String>>();
        Scanner scanner = new Scanner(file, text, delimiter);
        for (List<String> row = scanner.row(); row != null; row = scanner.row()) {
            if (row.size() < 2 && (row.isEmpty() || row.get(0).trim().isEmpty())) {
                continue;
            }
            if (!rows.isEmpty() && row.size() != rows.get(0).size()) {
                throw new EdgeException(file + ", line " + scanner.line + " has " + row.size() + " cells but line " + lines.get(0) + " has "
                        + rows.get(0).size() + ": every row needs the same number.");
            }
            rows.add(row);
            lines.add(scanner.line);
        }
        return rows;
    }

    /** The one that the first line with something in it has most of. */
    private static char delimiter(String text) {
        String first = "";
        for (String line : text.split("\r\n|\r|\n")) {
            if (!line.trim().isEmpty()) {
                first = line;
                break;
            }
        }
        char best = ',';
        int most = -1;
        for (char one : new char[] {',', ';', '\t'}) {
            int count = first.length() - first.replace(String.valueOf(one), "").length();
            if (count > most) {
                most = count;
                best = one;
            }
        }
        return best;
    }

    /** Rows of RFC 4180: quoted cells may hold delimiters, line ends and doubled quotes. */
    private static final class Scanner {
        private final String file;
        private final String text;
        private final char delimiter;
        private int at;
        int line;

        Scanner(String file, String text, char delimiter) {
            this.file = file;
            this.text = text;
            this.delimiter = delimiter;
        }

        List<String> row() throws EdgeException {
            if (at >= text.length()) {
                return null;
            }
            List<String> row = new ArrayList<String>();
            line++;
            while (true) {
                row.add(at < text.length() && text.charAt(at) == '"' ? quoted() : plain());
                if (at >= text.length()) {
                    return row;
                }
                char end = text.charAt(at++);
                if (end == delimiter) {
                    continue;
                }
                if (end == '\r' && at < text.length() && text.charAt(at) == '\n') {
                    at++;
                }
                return row;
            }
        }

        private String plain() {
            int start = at;
            while (at < text.length() && text.charAt(at) != delimiter && text.charAt(at) != '\n' && text.charAt(at) != '\r') {
                at++;
            }
            return text.substring(start, at);
        }

        private String quoted() throws EdgeException {
            StringBuilder cell = new StringBuilder();
            for (at++; at < text.length(); at++) {
                char one = text.charAt(at);
                if (one == '"' && at + 1 < text.length() && text.charAt(at + 1) == '"') {
                    at++;
                } else if (one == '"') {
                    at++;
                    if (at < text.length() && text.charAt(at) != delimiter && text.charAt(at) != '\n' && text.charAt(at) != '\r') {
                        break;
                    }
                    return cell.toString();
                }
                line += one == '\n' && at + 1 < text.length() ? 1 : 0;
                cell.append(one);
            }
            throw new EdgeException(file + ", line " + line + " is not CSV (a quoted cell does not end well): save the file again.");
        }
    }

    /** Whether the first row names the columns: text above numbers, or the names 0, 1, 2, ... of a data frame. */
    private static boolean isHeader(List<List<String>> rows) {
        List<String> first = rows.get(0);
        boolean counts = first.size() > 2, numbers = false;
        for (int place = 0; place < first.size(); place++) {
            counts &= first.get(place).trim().equals(Integer.toString(place));
            numbers |= parses(first.get(place));
        }
        if (counts || numbers) {
            return counts;
        }
        if (rows.size() == 1) {
            return true;
        }
        for (int place = 0; place < first.size(); place++) {
            if (!MISSING.contains(first.get(place).trim().toLowerCase(Locale.ROOT)) && anyNumber(rows.subList(1, rows.size()), place)) {
                return true;
            }
        }
        return false;
    }

    private static boolean anyNumber(List<List<String>> rows, int place) {
        for (List<String> row : rows) {
            if (parses(row.get(place))) {
                return true;
            }
        }
        return false;
    }

    private static boolean parses(String cell) {
        String plain = plain(cell);
        return !MISSING.contains(plain) && NUMBER.matcher(plain).matches();
    }

    private static String plain(String cell) {
        return cell.trim().toLowerCase(Locale.ROOT).replaceAll("(?<=\\d)_(?=\\d)", "");
    }

    private static double number(String file, int line, String column, String cell) throws EdgeException {
        String plain = plain(cell);
        if (MISSING.contains(plain)) {
            return Double.NaN;
        }
        String shown = cell.trim().length() > 40 ? cell.trim().substring(0, 40) : cell.trim();
        if (!NUMBER.matcher(plain).matches()) {
            throw new EdgeException(file + ", line " + line + ", column '" + column + "' holds '" + shown
                    + "', which is not a number: correct it or leave the cell empty.");
        }
        double value = plain.contains("inf") ? Double.POSITIVE_INFINITY : Double.parseDouble(plain);
        if (Math.abs(value) > Float.MAX_VALUE) {
            throw new EdgeException(file + ", line " + line + ", column '" + column + "' holds " + shown
                    + ", which no float32 can: correct it or leave the cell empty.");
        }
        return value;
    }

    /** Throws at the first missing value. */
    public void refuseMissing() throws EdgeException {
        for (int row = 0; row < rows(); row++) {
            for (int column = 0; column < columns.length; column++) {
                if (Double.isNaN(columns[column][row])) {
                    throw new EdgeException(file + ", line " + line(row) + ", column '" + names.get(column)
                            + "' is missing: anomaly scores need every value, so fill the gaps first.");
                }
            }
        }
    }
}
