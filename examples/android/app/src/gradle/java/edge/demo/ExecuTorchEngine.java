package edge.demo;

import edge.core.Answer;
import edge.core.Bundle;
import edge.core.Call;
import edge.core.EdgeException;
import edge.core.Engine;
import edge.core.Inputs;
import edge.core.Manifest;
import edge.core.Model;
import edge.core.TensorSpec;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/** Bundles of `edge export --target android --runtime executorch`, by ExecuTorch's official AAR, inside the app's process. */
public final class ExecuTorchEngine implements Engine {
    @Override
    public boolean takes(Manifest manifest) {
        // edge's own kernels are a library that the AAR does not have.
        return manifest.runtime.equals("executorch") && manifest.raw.isNull("kernels");
    }

    @Override
    public Model open(Bundle bundle, int threads) throws EdgeException {
        return new Loaded(bundle, threads);
    }

    private static final class Loaded implements Model {
        private final Manifest manifest;
        private final Inputs inputs;
        private final Map<String, Module> modules = new HashMap<String, Module>();
        private final long loadNanos;

        Loaded(Bundle bundle, int threads) throws EdgeException {
            manifest = bundle.manifest;
            inputs = new Inputs(manifest);
            long began = System.nanoTime();
            try {
                for (Manifest.Entry entry : manifest.entries) {
                    Module module = modules.get(entry.artifact);
                    if (module == null) {
                        module = Module.load(bundle.file(entry.artifact).getPath(), Module.LOAD_MODE_MMAP, threads);
                        modules.put(entry.artifact, module);
                    }
                    module.loadMethod(entry.method);
                }
            } catch (RuntimeException error) {
                close();
                throw new EdgeException("ExecuTorch cannot load " + bundle.folder.getName() + " (" + error.getMessage() + "): export it again.", error);
            }
            loadNanos = System.nanoTime() - began;
        }

        @Override
        public Answer run(Call call) throws EdgeException {
            Manifest.Entry entry = manifest.entry(call.entry);
            inputs.write(call);
            EValue[] given = new EValue[entry.inputs.size()];
            for (int index = 0; index < given.length; index++) {
                TensorSpec spec = entry.inputs.get(index);
                given[index] = EValue.from(tensor(spec, inputs.bytes(entry.name, spec.name)));
            }
            try {
                EValue[] found = null;
                long[] nanos = new long[call.runs];
                for (int run = 0; run < nanos.length; run++) {
                    long start = System.nanoTime();
                    found = modules.get(entry.artifact).execute(entry.method, given);
                    nanos[run] = System.nanoTime() - start;
                }
                return new Answer(outputs(entry, call, found), nanos);
            } catch (RuntimeException error) {
                throw new EdgeException("ExecuTorch did not run '" + entry.name + "' (" + error.getMessage() + "): open the bundle again.", error);
            }
        }

        private static Map<String, edge.core.Tensor> outputs(Manifest.Entry entry, Call call, EValue[] found) throws EdgeException {
            Map<String, edge.core.Tensor> outputs = new LinkedHashMap<String, edge.core.Tensor>();
            for (int index = 0; index < entry.outputs.size(); index++) {
                TensorSpec spec = entry.outputs.get(index);
                if (call.outputs == null || call.outputs.contains(spec.name)) {
                    outputs.put(spec.name, new edge.core.Tensor(spec.dtype, spec.shape(), bytes(spec, found[index].toTensor())));
                }
            }
            return outputs;
        }

        private static Tensor tensor(TensorSpec spec, ByteBuffer bytes) throws EdgeException {
            int[] own = spec.shape();
            long[] shape = new long[own.length];
            for (int axis = 0; axis < shape.length; axis++) {
                shape[axis] = own[axis];
            }
            switch (spec.dtype) {
                case "float32":
                    return Tensor.fromBlob(bytes.asFloatBuffer(), shape);
                case "float16":
                    return Tensor.fromBlob(bytes.asShortBuffer(), shape);
                case "int64":
                    return Tensor.fromBlob(bytes.asLongBuffer(), shape);
                case "int32":
                    return Tensor.fromBlob(bytes.asIntBuffer(), shape);
                case "int8":
                    return Tensor.fromBlob(bytes, shape);
                case "uint8":
                    return Tensor.fromBlobUnsigned(bytes, shape);
                default:
                    throw new EdgeException("ExecuTorch's Java takes no " + spec.dtype + ": run the bundle as a static program.");
            }
        }

        private static byte[] bytes(TensorSpec spec, Tensor found) throws EdgeException {
            ByteBuffer bytes = ByteBuffer.allocate(spec.bytes()).order(ByteOrder.LITTLE_ENDIAN);
            switch (spec.dtype) {
                case "float32":
                    bytes.asFloatBuffer().put(found.getDataAsFloatArray());
                    break;
                case "int64":
                    bytes.asLongBuffer().put(found.getDataAsLongArray());
                    break;
                case "int32":
                    bytes.asIntBuffer().put(found.getDataAsIntArray());
                    break;
                case "int8":
                    bytes.put(found.getDataAsByteArray());
                    break;
                case "uint8":
                    bytes.put(found.getDataAsUnsignedByteArray());
                    break;
                default:
                    throw new EdgeException("ExecuTorch's Java gives no " + spec.dtype + ": run the bundle as a static program.");
            }
            return bytes.array();
        }

        @Override
        public long loadNanos() {
            return loadNanos;
        }

        @Override
        public int pid() {
            return -1;
        }

        @Override
        public void close() {
            for (Module module : modules.values()) {
                try {
                    module.destroy();
                } catch (IllegalStateException running) {
                    // It is freed when what runs has ended and nothing refers to it.
                }
            }
        }
    }
}
