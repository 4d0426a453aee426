"""What the commands do, once their arguments are read.

The modules that `python -m` runs read the arguments and import these after that: `--help`, and the
answer to a mistyped option, need none of what takes seconds to import.
"""

INTERRUPTED = 130  # exit status of a command that Ctrl-C ended
