"""Run the command line: ``python -m clora_lab``."""

from clora_lab.cli import app

app(prog_name="python -m clora_lab")
