"""One function per command: the same arguments, a value returned, the files read and written here."""
