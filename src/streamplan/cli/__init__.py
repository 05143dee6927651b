"""The command line: `streamplan {plan,receptive-field,verify,plot} pkg.mod:factory --input-size 1,3,8192,8192`.

    parser    what may be written on the line, with the names that the functions of `streamplan` give their options
    values    from one word of the line to a size, an assignment, the name of a dtype
    figures   the files that `plot` writes
    models    from `pkg.mod:factory` to a module, without data where none is needed
    commands  one function per command: model, call of `streamplan`, output
    plotting  the command that draws
    output    text, tables of rich, JSON
    failures  errors of the line itself, and exit codes
    streams   standard output, which is the outcome's alone
    running   `main`

In: the words of the line. Out: text on standard output, `error: what, where, why, what to do` on standard error, and an
exit code. What reads the line imports no torch: `running` imports `commands` when the line is right.
"""

from streamplan.cli.running import main

__all__ = ["main"]
