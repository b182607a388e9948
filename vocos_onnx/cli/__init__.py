"""The command line: ``vocos-onnx COMMAND``, in one file a command.

Exit codes: 0 where all was done; 2 where something was not, with one line on stderr for each reason and no traceback;
1 where the reader of standard output has gone away; 128 + N where signal N ended it. Without arguments it prints its
help.

Standard streams may be closed, full, or of any encoding: work whose result is a file is done all the same.

Where to find what:
    program: ``main``, and the list of the commands.
    decode, encode, resynth, stream, info, demo, report, export, quantize, export_encodec, train: a command each;
        ``add`` declares its options, ``run`` does it and imports what takes time to load.
    options, parser: the options that commands share; argparse with this project's messages.
    console, progress: standard streams, messages and warnings; the bar.
    jobs, audio: inputs and the outputs that are made of them; audio files among them.
    models, mistaken: the models of the options; what was named in place of one.
    raw: numbers without a header, on standard input.
"""

from .program import main

__all__ = ["main"]
