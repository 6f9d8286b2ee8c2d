"""The machine that zray runs on: processes, signals, streams, the interpreter."""
