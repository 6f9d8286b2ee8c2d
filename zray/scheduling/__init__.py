"""Where a task or actor may run: constraints, the syntax of labels, and the strategies that programs write."""
