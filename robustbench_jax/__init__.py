"""robustbench_jax: attacks, defences and certificates of machine learning, benchmarked in JAX."""
