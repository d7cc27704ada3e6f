"""Laws of budgets whose points are no images."""

import jax
import jax.numpy as jnp
import numpy as np


def image(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape).astype(np.float32))


def check_the_laws(budget, shape, limit=1.0):
    """The origin changes nothing; samples, steps and projections are feasible; what is feasible is left alone; what is
    rendered is an image; a small step along a gradient raises what it is the gradient of. limit: the largest size.
    """
    x = image(shape)
    origin, same, points, again, sizes, shown, rise = jax.tree.map(np.asarray, _facts(budget, x, image(shape, 1) - 0.5))
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(again, points)
    assert sizes[0] == 0 and np.all(sizes <= limit * (1 + 1e-6))
    np.testing.assert_array_equal(points[0], origin)
    assert shown.shape[1:] == shape and shown.min() >= 0 and shown.max() <= 1
    assert np.any(shown[1:] != np.asarray(x), axis=(1, 2, 3)).all()
    assert rise > 0


@jax.jit
def _facts(budget, x, w):
    origin, keys = budget.identity(x), jax.random.split(jax.random.key(0), 3)
    far = 10 * jax.random.normal(keys[1], origin.shape)
    sample = budget.sample(keys[0], x)
    points = jnp.stack([origin, sample, budget.along(x, sample, far, 0.5), budget.project(x, far)])
    sizes = jax.vmap(lambda z: budget.size(z - origin))(points)
    again, shown = jax.vmap(lambda z: (budget.project(x, z), budget.render(x, z)))(points)

    def value(z):
        return jnp.sum(w * budget.render(x, z))

    z = budget.along(x, origin, far, 0.1)
    rise = value(budget.along(x, z, jax.grad(value)(z), 1e-3)) - value(z)
    return origin, budget.render(x, origin), points, again, sizes, shown, rise
