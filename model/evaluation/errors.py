"""What can be wrong with a data set or with the state of an interrupted evaluation."""


class EvaluationError(ValueError):
    """An evaluation that cannot be made; the message says what was expected and what was found."""


class LayoutError(EvaluationError):
    """Folders or files of a data set are not where they should be, or not what they should be."""


class ClassMismatchError(EvaluationError):
    """The data set's classes are not those of the model."""


class TruthError(EvaluationError):
    """The annotation of one picture cannot be used."""


class JournalError(EvaluationError):
    """The state of an earlier run cannot be continued."""
