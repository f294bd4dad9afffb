"""``python -m benchmarks.cluster``."""

from benchmarks.cluster.run import main

if __name__ == "__main__":
    main()
