"""The command line: ``vocos-onnx COMMAND``, with one file for each command.

Exit codes: 0 if everything was done; 2 if something was not, with one line on stderr for each reason and no traceback;
1 if the reader of standard output has gone away; 128 + N if signal N ended it. Without arguments it prints its help.

Standard streams may be closed, full, or of any encoding: a command whose result is a file still does its work.

Where to find what:
    program: ``main``, and the list of the commands.
    decode, encode, resynth, stream, info, demo, report, export, quantize, export_encodec, train: one command each;
        ``add`` declares its options, ``run`` runs it and imports what takes time to load.
    options, parser: the options that commands share; argparse with this project's messages.
    console, progress: standard streams, messages and warnings; the progress bar.
    jobs, audio: input files and the output of each; audio files in particular.
    models_command: the command ``models`` with its subcommands.
    models, mistaken: opening the models that the options name; what a name is that is not a model's.
    raw: numbers without a header, on standard input.
"""

from .program import main

__all__ = ["main"]
