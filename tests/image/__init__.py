"""The image, built with buildah and run without an engine (`./dev image --try`)."""
