"""python -m quantkit"""

from quantkit.cli.main import run

if __name__ == "__main__":
    run()
