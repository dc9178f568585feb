package edge.core;

import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Programs that are no model's: each is told in one sentence. BundlesTest talks with real ones. */
public final class ChildModelTest {
    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    private void refused(String program, String sentence) throws Exception {
        try {
            new ChildModel(new File(program), null, 1);
            fail(program + " was taken for a model");
        } catch (EdgeException error) {
            assertTrue(error.getMessage(), error.getMessage().contains(sentence));
        }
    }

    @Test
    public void whatIsNoModelIsTold() throws Exception {
        refused(new File(folder.getRoot(), "absent").getPath(), "cannot be started");
        refused("/bin/true", "ended with status 0");
        refused("/bin/cat", "ended with status 1");
        refused(script("echo '{\"protocol\":9,\"entries\":[]}'"), "speaks protocol 9");
        refused(script("echo hello"), "something else than its protocol");
        refused(script("echo '{\"id\":-1,\"ok\":false,\"kind\":\"BundleError\",\"sentence\":\"the weights are cut off.\"}'; exit 2"), "the weights are cut off.");
        refused(script("echo no memory >&2; exit 3"), "ended with status 3 (no memory)");
    }

    private String script(String line) throws Exception {
        File file = Headless.write(folder.getRoot(), "program", "#!/bin/sh\n" + line + "\n");
        assertTrue(file.setExecutable(true));
        return file.getPath();
    }
}
