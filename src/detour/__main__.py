"""``python -m detour``: the command line; launchers of several processes start it so."""

from detour.cli.main import run

if __name__ == "__main__":
    run()
