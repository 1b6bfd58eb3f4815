"""`python -m t3flow`."""

from t3flow.cli import main

if __name__ == "__main__":
    main()
