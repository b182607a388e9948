"""The command line: ``vocos-onnx COMMAND``, with one file for each command.

Exit codes: 0 if everything was done; 2 if something was not, with one line on stderr for each reason and no traceback;
1 if items of a batch failed or the reader of standard output has closed it; 128 + N if signal N ended it. Without
arguments it prints its help.

Standard streams may be closed, full, or in any encoding: a command whose result is a file still does its work.

Modules:
    program: ``main``, and the list of commands.
    decode, encode, resynth, batch, stream, serve, info, demo, report, convert, export, quantize, export_encodec,
        train: one command each. ``add`` declares its options; ``run`` runs it, and imports whatever is slow to load.
    options, parser: the options that commands share; argparse with this project's messages.
    console, progress: standard streams, messages and warnings; the progress bar.
    jobs, audio: input files and the output of each; audio files in particular.
    models_command: the command ``models`` with its subcommands.
    models, mistaken: opens the models that the options name; explains a name that is not a model's.
    raw: numbers without a header, on standard input.
"""

from .program import main

__all__ = ["main"]
