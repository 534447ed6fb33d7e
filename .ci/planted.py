#!/usr/bin/env python3
"""Plants a slowdown in one kernel of each crate, in a copy of the repository, and asks both instruments.

    .ci/planted.py               5 % and the gate, 30 % and the comparison of times
    .ci/planted.py gate          only the gate
    .ci/planted.py times         only the comparison
    .ci/planted.py same [N]      no slowdown, N times (default: 10): neither may raise an alarm

A slowdown is a part of the kernel's elements that is computed twice. What is printed for each crate is the line of
the report by which it was found. The exit code is 1 if one wasn't, or if identical code raised an alarm. docs/
benchmarking.md says what was found, and on which machine.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

# For each crate: a file, the code in it before and after, and the ids that have to be found. PART stands for the
# per cent that are computed twice.
PLANTS = {
    "tensor": (
        "crates/tensor/src/kernels/softmax.rs",
        "    match rule {\n        Rule::Softmax => simd::run(Softmax { columns, x, p: y }),",
        "    let part = x.len() / columns.max(1) * PART / 100 * columns;\n"
        "    simd::run(Softmax { columns, x: &x[..part], p: &mut y[..part] });\n"
        "    match rule {\n        Rule::Softmax => simd::run(Softmax { columns, x, p: y }),",
        ("tensor/softmax/32x1000", "softmax/1024x128"),
    ),
    "nn": (
        "crates/nn/src/layers/pool/max_pool2d.rs",
        "            for (column, (y, place)) in y.iter_mut().zip(places).enumerate() {\n"
        "                let taps = across.taps(column, width);\n",
        "            for (column, (y, place)) in y.iter_mut().zip(places).enumerate() {\n"
        "                let taps = across.taps(column, width);\n"
        "                for _ in 0..usize::from((at * 16 + column) * 37 % 100 < PART) {\n"
        "                    for i in taps_down.clone() {\n"
        "                        let start = down.element(row, i) * width;\n"
        "                        for j in taps.clone() {\n"
        "                            let at = start + across.element(column, j);\n"
        "                            if x[at] > *y || x[at].is_nan() || *place == NOWHERE {\n"
        "                                (*y, *place) = std::hint::black_box((x[at], at as u32));\n"
        "                            }\n"
        "                        }\n"
        "                    }\n"
        "                }\n",
        ("nn/layer/MaxPool2d/16x16x16x16", "layer/MaxPool2d/16x16x16x16"),
    ),
    "loss": (
        "crates/loss/src/pointwise.rs",
        "        let dy = Some((dy.as_mut_slice(), T::from_f64(1.0 / divisor)));",
        "        let (dy, part) = ((dy.as_mut_slice(), T::from_f64(1.0 / divisor)), p.len() * PART / 100);\n"
        "        let again = Some((&mut dy.0[..part], dy.1));\n"
        "        std::hint::black_box(simd::run(Terms { loss: self, p: &p[..part], t: &t[..part], dy: again }));\n"
        "        let dy = Some(dy);",
        ("loss/mse/value_and_grad/1024x10", "mse/value_and_grad/1024x1000"),
    ),
    "optim": (
        "crates/optim/src/rules/sgd.rs",
        "        simd::run_within(bytes, Update { sgd: *self, first: step == 1, x, dx, slots });",
        "        if slots.is_empty() {\n"
        "            let part = x.len() * PART / 100;\n"
        "            let (x, dx, slots) = (&mut x[..part], &dx[..part], &mut []);\n"
        "            simd::run_within(bytes, Update { sgd: *self, first: step == 1, x, dx, slots });\n"
        "        }\n"
        "        simd::run_within(bytes, Update { sgd: *self, first: step == 1, x, dx, slots });",
        ("optim/sgd/plain/100000", "sgd/plain/100000"),
    ),
    "io": (
        "crates/io/src/format/reader.rs",
        "        hasher.update(piece);\n        keep(piece);",
        "        hasher.update(piece);\n"
        "        let mut again = Hasher::new();\n"
        "        again.update(&piece[..piece.len() * PART / 100]);\n"
        "        std::hint::black_box(again);\n"
        "        keep(piece);",
        ("io/checksum/1mib", "checksum/1mib"),
    ),
}


def run(copy, target, *arguments):
    """The exit code of the tool, and what it printed."""
    command = ["cargo", "run", "--quiet", "--release", "-p", "backrule-bench", "--", *arguments]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    done = subprocess.run(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)}\n{done.stdout}")
    return done.returncode, done.stdout


def plant(copy, crate, per_cent):
    """Puts the slowdown into the copy, and nothing else."""
    subprocess.run(["git", "-C", copy, "checkout", "--quiet", "."], check=True)
    file, before, after, _ = PLANTS[crate]
    path = pathlib.Path(copy, file)
    code = path.read_text()
    if code.count(before) != 1:
        sys.exit(f"{file} has changed: .ci/planted.py no longer fits it")
    path.write_text(code.replace(before, after.replace("PART", str(per_cent))))


def found(copy, target, crate, instrument):
    """Whether the instrument fails, and names the kernel."""
    counted, timed = PLANTS[crate][3]
    if instrument == "gate":
        plant(copy, crate, 5)
        code, output = run(copy, target, "gate", "HEAD", "--crates", crate)
        name = counted.removeprefix(crate + "/")
    else:
        plant(copy, crate, 30)
        name = timed
        code, output = run(copy, target, "compare", "HEAD", "--crates", crate, "--only", name)
    lines = [line.strip() for line in output.splitlines() if name in line]
    print(f"{crate}: {instrument}: exit code {code}")
    print("\n".join(f"    {line}" for line in dict.fromkeys(lines)) or output, flush=True)
    return code == 1 and bool(lines)


def same(copy, target, times):
    """Alarms of identical code."""
    alarms = 0
    for number in range(1, times + 1):
        for arguments in (["gate", "HEAD"], ["compare", "HEAD", "--seconds", "0.02", "--samples", "10"]):
            code, output = run(copy, target, *arguments)
            verdict = re.sub(r"\s+", " ", output.strip().splitlines()[-1]) if output.strip() else ""
            print(f"{number}: {arguments[0]}: exit code {code}: {verdict}", flush=True)
            if code:
                print(output, flush=True)
            alarms += code
    return alarms == 0


def main(arguments):
    target = ROOT / "target" / "planted"
    with tempfile.TemporaryDirectory() as folder:
        copy = str(pathlib.Path(folder, "copy"))
        subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), copy], check=True)
        if arguments[:1] == ["same"]:
            return same(copy, target, int(arguments[1]) if len(arguments) > 1 else 10)
        instruments = arguments or ["gate", "times"]
        return all([found(copy, target, crate, one) for one in instruments for crate in PLANTS])


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1:]) else 1)
