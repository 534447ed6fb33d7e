#!/usr/bin/env python3
"""Plants a slowdown in one kernel of each crate, in a copy of the repository, and asks both instruments.

    .ci/planted.py               5 % and the gate, 30 % and the comparison of times
    .ci/planted.py gate          only the gate
    .ci/planted.py times         only the comparison
    .ci/planted.py same [N]      no slowdown, N times (default: 10): neither may raise an alarm
    .ci/planted.py same N times  only the comparison, which needs an otherwise idle machine; `gate` doesn't

A slowdown is a part of the kernel's elements that is computed twice. What is printed for each crate is the line of
the report by which it was found. The exit code is 1 if one wasn't, or if identical code raised an alarm. docs/
benchmarking.md says what was found, and on which machine.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# For each crate: a file, pieces of its code before and after, and the ids that have to be found. PART stands for the
# share of the kernel that is computed twice, in per cent.
PLANTS = {
    "tensor": (
        "crates/tensor/src/kernels/softmax.rs",
        [
            (
                "    match rule {\n        Rule::Softmax => simd::run(Softmax { columns, x, p: y }),",
                "    let part = x.len() / columns.max(1) * PART / 100 * columns;\n"
                "    simd::run(Softmax { columns, x: &x[..part], p: &mut y[..part] });\n"
                "    match rule {\n        Rule::Softmax => simd::run(Softmax { columns, x, p: y }),",
            )
        ],
        ("tensor/softmax/32x1000", "tensor/softmax/1024x128"),
    ),
    # Forward and backward, each for the first rows or planes, then for all.
    "nn": (
        "crates/nn/src/layers/pool/max_pool2d.rs",
        [
            (
                "        let rows = y.as_mut_slice().chunks_exact_mut(columns)",
                "        for part in [PART, 100] {\n"
                "        let rows = y.as_mut_slice().chunks_exact_mut(columns)",
            ),
            (
                "        for (at, (y, places)) in rows.enumerate() {\n",
                "        let some = rows.len() * part / 100;\n"
                "        for (at, (y, places)) in rows.take(some).enumerate() {\n",
            ),
            (
                "        Ok(())\n    }\n\n    fn backward(",
                "        }\n        Ok(())\n    }\n\n    fn backward(",
            ),
            (
                "        dx.fill(T::ZERO);\n        let windows = y[2] * y[3];\n",
                "        let windows = y[2] * y[3];\n"
                "        for part in [PART, 100] {\n"
                "        let some = y[0] * y[1] * part / 100;\n"
                "        dx.as_mut_slice()[..some * height * width].fill(T::ZERO);\n",
            ),
            (
                "        for (dx, (dy, places)) in planes.zip(of_planes) {\n",
                "        for (dx, (dy, places)) in planes.zip(of_planes).take(some) {\n",
            ),
            (
                "        Ok(())\n    }\n\n    fn options(",
                "        }\n        Ok(())\n    }\n\n    fn options(",
            ),
        ],
        ("nn/layer/MaxPool2d/16x16x16x16", "nn/layer/MaxPool2d/16x16x16x16"),
    ),
    "loss": (
        "crates/loss/src/pointwise.rs",
        [
            (
                "        let dy = Some((dy.as_mut_slice(), T::from_f64(1.0 / divisor)));",
                "        let (dy, part) = ((dy.as_mut_slice(), T::from_f64(1.0 / divisor)), p.len() * PART / 100);\n"
                "        let again = Some((&mut dy.0[..part], dy.1));\n"
                "        std::hint::black_box(\n"
                "            simd::run(Terms { loss: self, p: &p[..part], t: &t[..part], dy: again }));\n"
                "        let dy = Some(dy);",
            )
        ],
        ("loss/mse/value_and_grad/1024x10", "loss/mse/value_and_grad/1024x10"),
    ),
    "optim": (
        "crates/optim/src/rules/sgd.rs",
        [
            (
                "        simd::run_within(bytes, Update { sgd: *self, first: step == 1, x, dx, slots });",
                "        if slots.is_empty() {\n"
                "            let part = x.len() * PART / 100;\n"
                "            let (x, dx, slots) = (&mut x[..part], &dx[..part], &mut []);\n"
                "            simd::run_within(bytes, Update { sgd: *self, first: step == 1, x, dx, slots });\n"
                "        }\n"
                "        simd::run_within(bytes, Update { sgd: *self, first: step == 1, x, dx, slots });",
            )
        ],
        ("optim/sgd/plain/100000", "optim/sgd/plain/100000"),
    ),
    "io": (
        "crates/io/src/format/reader.rs",
        [
            (
                "        hasher.update(piece);\n        keep(piece);",
                "        hasher.update(piece);\n"
                "        let mut again = Hasher::new();\n"
                "        again.update(&piece[..piece.len() * PART / 100]);\n"
                "        std::hint::black_box(again);\n"
                "        keep(piece);",
            )
        ],
        ("io/checksum/1mib", "io/checksum/1mib"),
    ),
}

# The share for 30 % more time: larger where the kernel is a part of the id, or finds its data nearer in the cache when
# it computes them again.
LONGER = {"optim": 45, "io": 68}


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
    file, pieces, _ = PLANTS[crate]
    path = pathlib.Path(copy, file)
    code = path.read_text()
    for before, after in pieces:
        if code.count(before) != 1:
            sys.exit(f"{file} has changed: .ci/planted.py no longer fits it")
        code = code.replace(before, after.replace("PART", str(per_cent)))
    path.write_text(code)


def found(copy, target, crate, instrument):
    """Whether the instrument fails, and names the kernel."""
    counted, timed = PLANTS[crate][2]
    if instrument == "gate":
        plant(copy, crate, 5)
        code, output = run(copy, target, "gate", "HEAD", "--crates", crate)
        name = counted
    else:
        plant(copy, crate, LONGER.get(crate, 30))
        code, output = run(copy, target, "compare", "HEAD", "--crates", crate, "--only", timed)
        name = timed
    lines = [line for line in failures(output) if f"`{name}`" in line]
    print(f"{crate}: {instrument}: exit code {code}")
    print("\n".join(f"    {line}" for line in lines) or output, flush=True)
    return code == 1 and bool(lines)


def failures(output):
    """The list of what failed, from a report: elsewhere an id may stand in a table of all."""
    _, _, after = output.partition("**Failed:**\n\n")
    return after.split("\n\n")[0].splitlines()


def processor_time():
    """Of all that was started and has ended, in seconds: on a busy machine it says how long a quiet one takes."""
    times = os.times()
    return times.children_user + times.children_system


SAME = {"gate": ["gate", "HEAD"], "times": ["compare", "HEAD", "--seconds", "0.01", "--samples", "10"]}


def same(copy, target, times, instruments):
    """Alarms of identical code. Runs are short, so that ten of them take an hour."""
    alarms = 0
    for number in range(1, times + 1):
        for arguments in [SAME[one] for one in instruments]:
            began, used = time.monotonic(), processor_time()
            code, output = run(copy, target, *arguments)
            summary = next((line for line in output.splitlines() if " against " in line), "")
            took, used = time.monotonic() - began, processor_time() - used
            print(f"{number}: {arguments[0]}: exit code {code}, {took:.0f} s ({used:.0f} s of processor time)")
            print(f"    {summary}", flush=True)
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
            return same(copy, target, int((arguments[1:] or ["10"])[0]), arguments[2:] or SAME)
        instruments = arguments or ["gate", "times"]
        return all([found(copy, target, crate, one) for one in instruments for crate in PLANTS])


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1:]) else 1)
