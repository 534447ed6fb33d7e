"""onnxruntime's rows: predictions. Options and output are those of the Rust programs of this package.

    python ort_bench.py --threads 1

Inputs and outputs are bound once. What a call from Python costs by itself, that of a model which hands one number on,
is subtracted.
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import bench


def model(nodes, inputs, outputs, constants=()):
    def value(name, columns):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", columns])

    graph = helper.make_graph(nodes, "graph", [value("x", inputs)], [value("y", outputs)], constants)
    # A version that every onnxruntime of the last years reads.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    return made.SerializeToString()


def network(sizes):
    random, nodes, constants, last = np.random.default_rng(1), [], [], "x"
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        if i > 0:
            nodes.append(helper.make_node("Relu", [last], [f"relu{i}"]))
            last = f"relu{i}"
        weight = random.uniform(-1, 1, (outputs, inputs)) / inputs**0.5
        for name, tensor in ((f"w{i}", weight), (f"b{i}", random.uniform(-1, 1, outputs) / inputs**0.5)):
            constants.append(numpy_helper.from_array(tensor.astype(np.float32), name))
        y = "y" if i == len(sizes) - 2 else f"fc{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [y], transB=1))
        last = y
    return model(nodes, sizes[0], sizes[-1], constants)


def prediction(made, x, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    bound.bind_cpu_input("x", x)
    bound.bind_output("y")

    def step():
        session.run_with_iobinding(bound)
        return bound

    def check():
        assert np.isfinite(step().copy_outputs_to_cpu()[0]).all()

    return step, check


def predict(sizes, batch, threads):
    x = np.random.default_rng(2).normal(size=(batch, sizes[0])).astype(np.float32)
    return prediction(network(sizes), x, threads)


def main():
    args = bench.arguments(__doc__)
    nothing = model([helper.make_node("Identity", ["x"], ["y"])], 1, 1)
    call, _ = prediction(nothing, np.zeros((1, 1), np.float32), args.threads)
    overhead = bench.timing(args.seconds, call)
    cases = (
        (bench.name("predict", sizes, batch), lambda size=(sizes, batch): predict(*size, args.threads))
        for sizes, batch in bench.PREDICT
    )
    bench.report(args, "onnxruntime", onnxruntime.__version__, cases, overhead)


if __name__ == "__main__":
    main()
