"""What zray knows of the machine it runs on: processes, signals, streams, the interpreter."""
