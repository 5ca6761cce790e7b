"""The benchmarks, one file each: prompt, columns, verifier."""
