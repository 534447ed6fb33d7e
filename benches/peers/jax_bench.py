"""JAX's rows: training steps, predictions, the loss and the update, each one compiled function. Options and output are
those of the Rust programs of this package.

    python jax_bench.py --only train_step --threads 1
"""

import os
from functools import partial

import bench

ARGS = bench.arguments(__doc__)
# Read when JAX starts. With one thread XLA still has one for itself: both get one processor.
os.environ["JAX_PLATFORMS"] = "cpu"
several = "true" if ARGS.threads > 1 else "false"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        f"--xla_cpu_multi_thread_eigen={several}",
        f"intra_op_parallelism_threads={ARGS.threads}",
    ]
)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: ARGS.threads])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402


def array(numbers):
    return jnp.asarray(np.asarray(numbers, np.float32))


def network(sizes):
    random = np.random.default_rng(1)

    def uniform(inputs, *shape):
        return array(random.uniform(-1, 1, shape) / inputs**0.5)

    return [(uniform(i, o, i), uniform(i, o)) for i, o in zip(sizes, sizes[1:])]


def logits(net, x):
    for weight, bias in net[:-1]:
        x = jax.nn.relu(x @ weight.T + bias)
    weight, bias = net[-1]
    return x @ weight.T + bias


def cross_entropy(z, labels):
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, labels[:, None], 1)[:, 0])


@partial(jax.jit, donate_argnums=0)
def training_step(state, x, labels):
    net, velocity, _ = state
    loss, grads = jax.value_and_grad(lambda net: cross_entropy(logits(net, x), labels))(net)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
    return jax.tree.map(lambda p, v: p - 0.001 * v, net, velocity), velocity, loss


def train_step(sizes, batch):
    x = array(np.random.default_rng(2).normal(size=(batch, sizes[0])))
    labels, net = jnp.asarray(bench.labels_of(batch, sizes[-1])), network(sizes)
    state = [(net, jax.tree.map(jnp.zeros_like, net), jnp.zeros(()))]

    def step():
        state[0] = training_step(state[0], x, labels)
        return float(state[0][2])

    return bench.training(step)


def predict(sizes, batch):
    x, net, compiled = array(np.random.default_rng(2).normal(size=(batch, sizes[0]))), network(sizes), jax.jit(logits)

    def step():
        return compiled(net, x).block_until_ready()

    def check():
        assert jnp.isfinite(step()).all()

    return step, check


def loss_and_gradient(batch, classes):
    z = array(np.random.default_rng(1).normal(size=(batch, classes)))
    labels, compiled = jnp.asarray(bench.labels_of(batch, classes)), jax.jit(jax.value_and_grad(cross_entropy))

    def step():
        return jax.block_until_ready(compiled(z, labels))

    def check():
        p = np.asarray(jax.nn.softmax(z)) - np.eye(classes, dtype=np.float32)[np.asarray(labels)]
        assert np.allclose(step()[1], p / batch, rtol=1e-3, atol=1e-7)

    return step, check


@partial(jax.jit, donate_argnums=(0, 1))
def update(parameters, velocity, gradient):
    velocity = 0.9 * velocity + gradient
    return parameters - 1e-6 * velocity, velocity


def sgd(length):
    random = np.random.default_rng(1)
    before, gradient = random.normal(size=length).astype(np.float32), array(random.normal(size=length))
    state = [(array(before), jnp.zeros(length))]

    def step():
        state[0] = jax.block_until_ready(update(*state[0], gradient))

    def check():
        assert ((before - np.asarray(state[0][0])) * np.asarray(gradient)).sum() > 0

    return step, check


if __name__ == "__main__":
    bench.report(ARGS, "jax", jax.__version__, bench.rows(train_step, predict, loss_and_gradient, sgd))
