"""The command line: what can be asked for (options, parser), what is done about it (commands), and what is shown."""
