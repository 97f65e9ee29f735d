"""Real SGLang releases as the judge of the arguments that are built and read, and of two nodes."""
