"""The arguments of SGLang: reading the user's, adding ours."""
