"""What the command `llava-next-video` starts: from here on, Ctrl-C is one line and status 130.

It lies outside the package, because importing the package takes four times as long as Python's own start, and Ctrl-C
meanwhile would be a traceback. `package/__main__.py` is the command line.
"""

import os


def program():
    """Run the command line of this process."""
    try:
        from llava_next_video.__main__ import program

        program()
    except KeyboardInterrupt:
        os.write(2, b"llava-next-video: stopped\n")
        os._exit(130)
