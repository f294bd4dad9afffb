"""``python -m benchmarks.economy``."""

from benchmarks.economy.run import main

if __name__ == "__main__":
    main()
