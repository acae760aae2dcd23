"""What can go wrong on the way from an official checkpoint to a model file."""


class OfficialCheckpointError(ValueError):
    """The file is damaged, is no checkpoint, or its pickle asks for something that is not data."""


class ConversionError(ValueError):
    """The checkpoint was read, but a model file cannot be made of it as asked."""
