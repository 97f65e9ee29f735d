"""The shipped Dockerfile, built and run by a real container engine."""
