"""The errors a user can cause. Every message names the file or argument at fault and the fix."""


class UserError(ValueError):
    """Base of everything below: the caller's input is at fault, not the program."""


class ArchitectureError(UserError):
    """A network that cannot be built: an argument is out of range or contradicts another."""


class ModelFileError(UserError):
    """A model file that is not one, is damaged, or does not fit the network it claims to be."""


class ImageError(UserError):
    """An image that cannot be decoded."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; the message says which extra brings it."""


class DownloadError(UserError):
    """Published weights could not be fetched, or what came is not what was published."""
