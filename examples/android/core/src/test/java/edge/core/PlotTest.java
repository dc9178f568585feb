package edge.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.Random;
import org.junit.Test;

public final class PlotTest {
    @Test
    public void valuesLieWhereTheyShould() {
        Plot plot = Plot.of(new double[] {2, Double.NaN, 6, 4}, 10, 20, 110, 220);
        assertEquals(10, plot.x(0), 0);
        assertEquals(110, plot.x(3), 0);
        assertEquals(220, plot.y(2), 0);
        assertEquals(20, plot.y(6), 0);
        assertEquals(120, plot.y(4), 0);
        assertEquals(2, plot.index(80));
        assertEquals(0, plot.index(-5));
        assertEquals(3, plot.index(1000));
        // At the gap the line is interrupted: one stretch is left.
        assertArrayEquals(new float[] {plot.x(2), 20, 110, 120}, plot.line(new double[] {2, Double.NaN, 6, 4}), 1e-4f);
    }

    @Test
    public void oneValueAndNoneHaveAPlace() {
        Plot flat = Plot.of(new double[] {3, 3}, 0, 0, 10, 10);
        assertEquals(5, flat.y(3), 1e-3);
        assertEquals(5, Plot.of(new double[] {7}, 0, 0, 10, 10).x(0), 0);
        assertEquals(0, Plot.of(new double[] {Double.NaN}, 0, 0, 10, 10).line(new double[] {Double.NaN}).length);
    }

    @Test
    public void noPeakIsLostAmongManySamples() {
        double[] values = new double[100000];
        Random random = new Random(1);
        for (int index = 0; index < values.length; index++) {
            values[index] = random.nextDouble();
        }
        values[54321] = 40;
        values[12345] = -7;
        values[0] = Double.NaN; // begins a pixel's column
        Plot plot = Plot.of(values, 0, 0, 200, 100);
        float[] line = plot.line(values);
        assertTrue(line.length <= 4 * 2 * 200);
        float top = Float.MAX_VALUE, bottom = 0;
        for (int at = 0; at < line.length; at += 4) {
            assertTrue(line[at] <= line[at + 2]);
            top = Math.min(top, Math.min(line[at + 1], line[at + 3]));
            bottom = Math.max(bottom, Math.max(line[at + 1], line[at + 3]));
        }
        assertEquals(0, top, 1e-4);
        assertEquals(100, bottom, 1e-4);
    }

    @Test
    public void ticksAreRound() {
        assertArrayEquals(new double[] {0, 20, 40, 60, 80}, Plot.ticks(-3, 97, 5), 1e-9);
        double[] small = Plot.ticks(0.0012, 0.0031, 5);
        assertArrayEquals(new double[] {0.0015, 0.002, 0.0025, 0.003}, small, 1e-12);
        assertEquals("0.0015", Plot.label(small[0], small));
        assertEquals("20", Plot.label(20, Plot.ticks(-3, 97, 5)));
        assertArrayEquals(new double[] {0, 0.2, 0.4, 0.6, 0.8, 1}, Plot.ticks(0, 1, 5), 1e-12);
    }
}
