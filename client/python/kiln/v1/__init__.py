"""Generated messages of package kiln.v1; built from proto/kiln/v1 at installation."""
