"""A stand-in for SGLang in the images of the container tests."""
