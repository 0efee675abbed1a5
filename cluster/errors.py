"""Every error a caller can see, its HTTP status and the exit code of the command line.

ClusterError                      500
├── BadRequest                    400  what was asked cannot be done as written
│   ├── BadOption                 400  an option that is not there, or a value it does not take
│   ├── UnknownModel              400  no catalogue entry of that name
│   ├── UnknownUid                400  control calls on a model that is not launched
│   ├── InputTooLong              400  one input is longer than the model reads
│   │   └── ContextLengthExceeded 400  a prompt leaves no room for its answer
│   ├── InvalidBody               422  the body does not fit its schema
│   └── PoisonRequest             422  workers end when they compute it; refused for a while
├── NotAuthenticated              401
├── NotPermitted                  403
├── ModelNotFound                 404  inference on a model that is not launched
├── Conflict                      409  the uid is taken by another spec
├── RequestCancelled              409
├── TooLarge                      413
├── Overloaded                    429  the queue is full; says when to come back
├── LaunchCancelled               499
├── InferenceFailed               500  the model raised
├── LoadFailed                    500  the model could not be loaded; says why and how its log ended
├── DownloadFailed                503  the weights could not be had
├── DoesNotFit                    503  no node has room; one reason per node
├── ModelLoading                  503  launched, not READY yet
├── WorkerLost                    503  the process went away
├── WorkerDraining                503  the worker takes no more work
├── WorkerReserved                503  the worker tries a suspected request alone, and takes others in a moment
├── Unavailable                   503  the control plane does not answer
├── StaleEpoch                    503  a command of a supervisor that has been replaced
├── DeadlineExceeded              504
├── OutOfMemory                   507  this one request needs more than there is; the model goes on
└── OutOfSpace                    507  what is wanted cannot be written down; nothing was changed

Errors cross process borders by pickle, which makes them anew from the positional arguments that `super().__init__` was
given: all of them are handed on, and none is keyword-only.
"""

from __future__ import annotations

import re


class ClusterError(Exception):
    """Anything this project raises on purpose; `message` is one sentence for the person who must act."""

    status = 500
    exit_code = 1
    #: Nothing was computed, and another worker may take the same request: the ingress sends it there once.
    retryable = False
    #: How the log of what failed ended, where there is one; told to the caller, not pickled.
    log_tail: tuple[str, ...] = ()

    def __init__(self, message: str, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, param, retry_after_s)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message

    @classmethod
    def code(cls) -> str:
        """The name on the wire: `DoesNotFit` is `does_not_fit`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class BadRequest(ClusterError):
    status = 400
    exit_code = 2


class BadOption(BadRequest):
    exit_code = 2


class UnknownModel(BadRequest):
    exit_code = 3


class UnknownUid(BadRequest):
    exit_code = 3


class InputTooLong(BadRequest):
    pass


class ContextLengthExceeded(InputTooLong):
    pass


class InvalidBody(BadRequest):
    status = 422


class PoisonRequest(BadRequest):
    status = 422


class NotAuthenticated(ClusterError):
    status = 401
    exit_code = 10


class NotPermitted(ClusterError):
    status = 403
    exit_code = 10


class ModelNotFound(ClusterError):
    status = 404
    exit_code = 3


class Conflict(ClusterError):
    status = 409
    exit_code = 11


class RequestCancelled(ClusterError):
    status = 409


class TooLarge(ClusterError):
    status = 413


class Overloaded(ClusterError):
    status = 429
    retryable = True


class LaunchCancelled(ClusterError):
    status = 499
    exit_code = 7


class InferenceFailed(ClusterError):
    pass


class LoadFailed(ClusterError):
    exit_code = 6


class DownloadFailed(ClusterError):
    status = 503
    exit_code = 5


class DoesNotFit(ClusterError):
    status = 503
    exit_code = 4


class ModelLoading(ClusterError):
    status = 503
    retryable = True


class WorkerLost(ClusterError):
    status = 503
    retryable = True


class WorkerDraining(ClusterError):
    status = 503
    retryable = True


class WorkerReserved(ClusterError):
    status = 503
    retryable = True


class Unavailable(ClusterError):
    status = 503
    exit_code = 9
    retryable = True


class StaleEpoch(ClusterError):
    status = 503


class DeadlineExceeded(ClusterError):
    status = 504
    exit_code = 8


class OutOfMemory(ClusterError):
    status = 507


class OutOfSpace(ClusterError):
    status = 507


def as_ours(error: Exception) -> ClusterError:
    """Whatever a model library raised, as an error that callers see."""
    return error if isinstance(error, ClusterError) else InferenceFailed(f"{type(error).__name__}: {error}")


def every_error() -> dict[str, type[ClusterError]]:
    """Each class by its wire code, so that a client raises what the server raised."""
    classes: dict[str, type[ClusterError]] = {}
    waiting: list[type[ClusterError]] = [ClusterError]
    while waiting:
        error = waiting.pop()
        classes[error.code()] = error
        waiting += error.__subclasses__()
    return classes
