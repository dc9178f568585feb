"""The command line: ``main`` turns every EdgeError into one sentence and exit status 2."""
